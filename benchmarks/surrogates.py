"""Every model of the zoo that takes tables, with its defaults, on splits of UCI data beside the training mean.

    KERNELFIELD_DATA=folder python benchmarks/surrogates.py [--sets concrete yacht] [--splits 5]
        [--models gp nngp] [--most 2000] [--record build/surrogates.jsonl] [--table]

The folder holds NAME.npz files with X (n, d), y (n,) and test_mask (n, splits). Each fit is a line
of JSON in the record, written as it finishes: a run that was stopped goes on where it was, and
`--table` prints what the record holds, in Markdown, without fitting. A model fits as `kernelfield compare` does.
Where a set has more rows than the zoo gives a model, it learns from a random sample of `--most`
rows, which the table marks with a star. Scores are means over splits, NLL in nats a point, RMSE and CRPS
in units of y; seconds are those of the processor, of all threads, for a fit and its test (the record
has the wall's for the fit too); ranks are means over the sets.

Ends with an error unless every model beats the training mean in RMSE and NLL on each set, and holds
80% to 97% of values in its 90% intervals on average.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from kernelfield.comparing import Failed, Measured, attempt
from kernelfield.data.tables import Problem
from kernelfield.models.zoo import MODELS, entry
from kernelfield.tabular import TableModel, part
from kernelfield.uq.scores import baseline

SETS = ("concrete", "energy", "yacht", "bostonHousing", "wine-quality-red", "power-plant")
SCORES = ("rmse", "nll", "crps", "coverage90")
BASELINE = "training mean"
HONEST = (0.80, 0.97)  # mean coverage of 90% intervals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--splits", type=int, default=5)
    tables = [name for name, one in MODELS.items() if one.table and one.takes(8)]
    parser.add_argument("--models", nargs="+", default=tables, help="names of `kernelfield models`")
    parser.add_argument("--most", type=int, default=2000, help="rows of a sample, where a model is not meant for all")
    parser.add_argument("--record", type=Path, default=Path("build/surrogates.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what the record holds, without fitting")
    options = parser.parse_args()
    for name in options.models:
        entry(name, MODELS)  # an unknown name ends here
    options.record.parent.mkdir(exist_ok=True)
    mend(options.record)
    if not options.table:
        measure(options)
    asked = pd.DataFrame([line for line in recorded(options.record) if line["split"] < options.splits])
    table = means(asked[asked["set"].isin(options.sets) & asked["model"].isin([BASELINE, *options.models])])
    report(table, options.sets)
    check(table, options.sets)


def recorded(path: Path) -> list[dict]:
    """The lines of a record."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def mend(path: Path) -> None:
    """Take away a last line that a stopped run left half written."""
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def measure(options: argparse.Namespace) -> None:
    """Fit what the record lacks, and add a line for each."""
    done = {(line["set"], line["split"], line["model"]) for line in recorded(options.record)}
    with options.record.open("a") as file:
        for name in options.sets:
            for split in range(options.splits):
                left = [model for model in (BASELINE, *options.models) if (name, split, model) not in done]
                for line in lines(name, split, left, options.most) if left else ():
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                    print(json.dumps(line), flush=True)


def lines(name: str, split: int, models: list[str], most: int) -> Iterator[dict]:
    """What came of each model on one split, with the wall and processor seconds of its fit."""
    train, test = load(name, split)
    for model in models:
        line = {"set": name, "split": split, "model": model}
        if model == BASELINE:
            yield line | {"processor": 0.0} | scored(baseline(values(train), values(test)).scores())
            continue
        rows = len(train.target)
        few = rows > entry(model, MODELS).rows[1]
        sample = np.random.default_rng(split).choice(rows, most, replace=False) if few else np.arange(rows)
        line |= {"rows": len(sample), "sampled": few}
        start = time.process_time()
        trial = attempt(TableModel, part(train, sample), test, model, seed=split, split=split)
        line["processor"] = time.process_time() - start
        match trial:
            case Failed():
                yield line | {"failure": trial.sentence}
            case Measured():
                yield line | scored(trial.report.scores()) | {"seconds": trial.report.seconds["fit"]}


def load(name: str, split: int) -> tuple[Problem, Problem]:
    if "KERNELFIELD_DATA" not in os.environ:
        raise SystemExit("set KERNELFIELD_DATA to the folder that holds the data sets")
    data = np.load(Path(os.environ["KERNELFIELD_DATA"]) / f"{name}.npz")
    columns = pd.DataFrame({f"x{i}": column for i, column in enumerate(data["X"].T)})
    whole = Problem(columns.astype(float), pd.DataFrame({"y": data["y"].ravel().astype(float)}), 0)
    test = data["test_mask"][:, split].astype(bool)
    return part(whole, np.flatnonzero(~test)), part(whole, np.flatnonzero(test))


def values(problem: Problem) -> np.ndarray:
    return problem.target.to_numpy(copy=True)


def scored(scores: dict[str, float]) -> dict[str, float]:
    return {name: scores[name] for name in SCORES}


def means(asked: pd.DataFrame) -> pd.DataFrame:
    """Means over splits, a row for each set and model; those with a failure are left out."""
    failed = asked[asked["failure"].notna()] if "failure" in asked else asked[:0]
    for line in failed.to_dict("records"):
        print(f"{line['model']} failed on {line['set']}, split {line['split']}: {line['failure']}")
    whole = asked.merge(failed[["set", "model"]].drop_duplicates(), how="left", indicator=True)
    whole = whole[whole["_merge"] == "left_only"]
    columns = [*SCORES, "processor"]
    table = whole.groupby(["set", "model"], sort=False)[columns].mean()
    return table.assign(star=whole.groupby(["set", "model"], sort=False)["sampled"].any())


def report(table: pd.DataFrame, sets: list[str]) -> None:
    """Ranks over all sets, then what was measured on each, the best by NLL first."""
    ranks = table.groupby("set", sort=False)[["nll", "rmse", "crps"]].rank().groupby("model", sort=False).mean()
    whole = table.groupby("model", sort=False)[["coverage90", "processor"]].mean().join(ranks).sort_values("nll")
    print("| model | mean rank by NLL | by RMSE | by CRPS | 90% coverage | seconds a fit |")
    print("|---|---|---|---|---|---|")
    for model, row in whole.iterrows():
        print(f"| `{model}` | {row['nll']:.1f} | {row['rmse']:.1f} | {row['crps']:.1f} ", end="")
        print(f"| {row['coverage90']:.0%} | {row['processor']:.2g} |")
    present = [name for name in sets if name in table.index]
    print("\n| model | " + " | ".join(present) + " |\n|---|" + "---|" * len(present))
    for model in whole.index:
        cells = [cell(table.loc[(name, model)]) if (name, model) in table.index else "" for name in present]
        print(f"| `{model}` | " + " | ".join(cells) + " |")
    print("* learned from a random sample of the rows")


def cell(row: pd.Series) -> str:
    """RMSE, NLL, CRPS and coverage."""
    values = f"{row['rmse']:.3g}, {row['nll']:.2f}, {row['crps']:.3g}, {row['coverage90']:.0%}"
    return values + "*" * bool(row["star"])


def check(table: pd.DataFrame, sets: list[str]) -> None:
    """End with an error, and each sentence of what is wrong."""
    wrong = []
    for name in sets:
        rule = table.loc[(name, BASELINE)]
        for model, row in table.loc[name].drop(BASELINE).iterrows():
            worse = [score for score in ("rmse", "nll") if row[score] > rule[score]]
            wrong += [f"{model} on {name}: {score} {row[score]:.4g}, {rule[score]:.4g} of the mean" for score in worse]
    for model, share in table["coverage90"].groupby("model", sort=False).mean().drop(BASELINE).items():
        if not HONEST[0] <= share <= HONEST[1]:
            wrong.append(f"{model}: its 90% intervals hold {share:.1%} on average")
    if wrong:
        raise SystemExit("\n".join(["", "not as it should be:", *wrong]))
    print("every model beats the training mean on every set and is honest on average")


if __name__ == "__main__":
    main()
