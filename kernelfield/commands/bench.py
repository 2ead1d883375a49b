"""The commands that measure the package itself."""

import importlib
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.table import Table

from kernelfield.commands.console import as_json, boundary, err, out, print_files, say
from kernelfield.commands.options import (
    Jobs,
    ProblemNames,
    ProtocolName,
    RunFolder,
    RunTrials,
    SamplerNames,
    Seeds,
    Suite,
    TableOnly,
)
from kernelfield.core.files import write_whole

SUMMARY = "standings.json"

app = typer.Typer(no_args_is_help=True, help="Measure surrogates against each other and against other libraries.")


@app.callback()
def _group() -> None:
    """A command of its own, as there may be more of them."""


@app.command()
def bo(
    output: RunFolder,
    suite: Suite = None,
    problems: ProblemNames = None,
    surrogates: SamplerNames = "gp,nngp,optuna-gp,random",
    seeds: Seeds = 20,
    trials: RunTrials = None,
    protocol: ProtocolName = "fixed",
    jobs: Jobs = 1,
    table: TableOnly = False,
) -> None:
    """Optimise problems with known optima by several samplers, and rank what they found; go on with earlier runs."""
    with boundary():
        # Optional packages, which take time to import.
        bench, contestants, standings = (
            importlib.import_module(f"kernelfield.bo.{name}") for name in ("bench", "contestants", "standings")
        )
        if table:
            runs = bench.load(output)
        else:
            if (suite is None) == (problems is None):
                raise ValueError("give a --suite, or --problems with commas; one of the two")
            chosen = contestants.suite(suite) if suite is not None else _names(problems)
            todo = bench.cases(chosen, _names(surrogates), seeds=range(seeds), protocol=protocol, trials=trials)
            runs = _runs(bench, todo, output, jobs)
        result = standings.standings(runs)
        write_whole(output / SUMMARY, as_json(result.to_dict()))
        for one in result.tables:
            _print(one)
        if len(result.tables) > 1:
            _print_overall(result)
        print_files(JSON=output / SUMMARY)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _runs(bench: Any, todo: list[Any], folder: Path, jobs: int) -> list[Any]:
    """The runs of cases, with a line for each that ends."""
    kept = sum((folder / case.place).exists() for case in todo)
    if kept:
        say(f"{kept} of {len(todo)} runs are in {folder} and are kept")
    ended = kept

    def watch(case: Any, outcome: Any) -> None:
        nonlocal ended
        ended += 1
        words = f"failed: {outcome}" if isinstance(outcome, str) else f"{sum(outcome.seconds):.3g} s of suggesting"
        err.print(f"{ended} of {len(todo)}: {case}: {words}", soft_wrap=True, markup=False)

    runs, failed = bench.bench(todo, folder, jobs=jobs, watch=watch)
    if failed:
        say(f"{len(failed)} of {len(todo)} runs failed; the same command tries them again")
    if not runs:
        raise ValueError(f"no run came to an end; the first failed with {next(iter(failed.values()))}")
    return list(runs)


def _print(one: Any) -> None:
    """The standings on one problem, and who beats the first."""
    counts = f"{one.protocol.trials} trials, {one.protocol.design} of a design"
    out.print(
        f"{one.problem}: {counts}; median regret of {len(one.seeds)} seeds",
        style="bold",
        markup=False,
    )
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    drawn.add_column("sampler", no_wrap=True)
    for heading in ("regret", "95% interval", "rank", "ahead", "half way", "s a trial"):
        drawn.add_column(heading, justify="right")
    ahead = {pair.other: f"{pair.losses} of {len(one.seeds)}" for pair in one.pairs[: len(one.samplers) - 1]}
    for row in one.standings:
        drawn.add_row(
            f"{row.sampler}{' *' if row.leads else ''}",
            f"{row.regret.value:.3g}",
            f"{row.regret.low:.3g} to {row.regret.high:.3g}",
            f"{row.rank.value:.2f}",
            ahead.get(row.sampler, ""),
            f"{row.by_share[0.5]:.3g}",
            f"{row.seconds:.2g}",
        )
    out.print(drawn)
    out.print("* the least median, or within its interval; ahead: seeds on which it beats the first", style="dim")
    say(*one.notes)
    out.print()


def _print_overall(result: Any) -> None:
    out.print(f"Mean rank over {len(result.tables)} problems, and the problems on which a sampler leads", style="bold")
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("sampler", "rank", "95% interval", "leads"):
        drawn.add_column(heading, justify="left" if heading == "sampler" else "right")
    for name, rank in result.overall.items():
        drawn.add_row(name, f"{rank.value:.2f}", f"{rank.low:.2f} to {rank.high:.2f}", str(len(result.led(name))))
    out.print(drawn)
