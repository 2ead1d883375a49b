"""The command that compares models on a table."""

from rich import box
from rich.table import Table

from kernelfield.commands.console import as_json, boundary, check_outputs, err, out, print_files, require_pages, say
from kernelfield.commands.options import (
    Classify,
    ComparisonFile,
    ComparisonPage,
    DataFile,
    Drop,
    Folds,
    Jobs,
    ModelNames,
    Seed,
    Targets,
)
from kernelfield.commands.tables import separated
from kernelfield.comparing import Failed, Trial, default_models, folds, require_models
from kernelfield.comparing import compare as compared
from kernelfield.core.files import write_whole
from kernelfield.data.tables import listed
from kernelfield.progress import race
from kernelfield.uq.comparison import Comparison, Standing
from kernelfield.uq.record import provenance

HEADINGS = {
    "nll": "NLL",
    "log_loss": "log loss",
    "crps": "CRPS",
    "rmse": "RMSE",
    "coverage90": "90% cov.",
    "sharpness90": "width",
    "brier": "Brier",
    "accuracy": "accuracy",
    "ece": "ECE",
}
SHARES = ("coverage90", "accuracy", "ece")


def compare(
    data: DataFile,
    target: Targets,
    output: ComparisonPage = None,
    models: ModelNames = None,
    folds_: Folds = 5,
    seed: Seed = 0,
    classify: Classify = False,
    drop: Drop = None,
    jobs: Jobs = 1,
    json_file: ComparisonFile = None,
) -> None:
    """Fit several models to the same parts of a table, and rank them by what they say of the rest."""
    with boundary():
        names = None if models is None else [name.strip() for name in models.split(",") if name.strip()]
        if names is not None:
            require_models(names, classes=classify)  # an unknown name fails here, before the data are read
        if classify and len(target) > 1:
            raise ValueError(f"a classifier has one target, got {listed(target)}; compare on one at a time")
        check_outputs([data], [output, json_file])
        if output:
            require_pages()
        problem, notes = separated(data, target, drop or [], classes=classify)
        folds(problem, folds_, seed, classes=classify)
        names = names or default_models(problem, classes=classify)
        made = provenance(seed=seed, data=data) | {"folds": folds_}
        with race(err, names, folds_) as tell:
            result = compared(
                problem,
                names,
                classes=classify,
                count=folds_,
                seed=seed,
                provenance=made,
                notes=notes,
                jobs=jobs,
                watch=lambda name, trial: tell(name, None if trial is None else _word(trial)),
            )
        say(*result.notes[len(notes) :], *(f"{name} was left out: {why}" for name, why in result.failures.items()))
        page = result.to_html() if output else ""
        if output:
            write_whole(output, page)
        if json_file:
            write_whole(json_file, as_json(result.to_dict()))
        _print_ranking(result)
        print_files(Report=output, JSON=json_file)


def _word(trial: Trial) -> str:
    if isinstance(trial, Failed):
        return f"failed: {trial.sentence}"
    scores, loss = trial.report.scores(), trial.report.evaluation.losses.mean()
    return f"{'NLL' if 'nll' in scores else 'log loss'} {loss:.4g}, {trial.report.seconds['fit']:.2g} s"


def _print_ranking(result: Comparison) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)  # within 80 columns
    table.add_column("", justify="right")
    table.add_column("model", no_wrap=True)
    for name in result.measures:
        table.add_column(HEADINGS[name], justify="right")
    table.add_column("fit s", justify="right")
    for one in result.standings:
        table.add_row(f"{one.rank}{'=' if one.open and one.rank > 1 else ''}", *_cells(result, one))
    table.add_row("", *_cells(result, result.rule), style="dim")
    out.print(
        f"{listed(result.outputs)}: {result.rows} rows, each tested on once in {result.splits} folds", style="bold"
    )
    out.print(table)
    for verdict in result.verdicts():
        out.print(f"{verdict.title}. {verdict.sentence}", soft_wrap=True, markup=False)


def _cells(result: Comparison, one: Standing) -> list[str]:
    scores, seconds = one.contender.scores(), one.contender.seconds.get("fit", [])
    numbers = [f"{scores[name]:.1%}" if name in SHARES else f"{scores[name]:.4g}" for name in result.measures]
    return [one.contender.name, *numbers, f"{sum(seconds) / len(seconds):.2g}" if seconds else ""]
