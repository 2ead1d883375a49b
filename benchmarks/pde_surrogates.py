"""Surrogates of Burgers and Navier-Stokes: how sure they are where they were trained, and where not.

    OMP_NUM_THREADS=1 python benchmarks/pde_surrogates.py [--problems burgers navier-stokes] [--rows 50 200]
        [--seeds 2] [--methods gp nngp] [--test 200] [--record build/pde_surrogates.jsonl] [--table]

Inputs are the coefficients of a random field, outputs what the flow makes of it at 16 places, measured with noise
of a twentieth of their standard deviation. Test fields come from the law of the training fields ("as trained"),
from one of half its length ("rougher") and from one of 1.5 times its size ("larger"). The exact Gaussian process
is the reference, Monte-Carlo dropout the negative control; networks have two hidden layers of 50 tanh units with
the same scales and, where they are trained, as many steps.

Each fit is a line of JSON in the record, written as it finishes: a run that was stopped goes on where it was, and
`--table` prints what the record holds without fitting. Scores are means over seeds, in standard deviations of the
outputs as trained, and nats. RMSE is that of the mean against the solution itself, NLL, CRPS and the
coverage of 90% intervals are those of measurements; "of f" is how often the 90% interval of the function alone, which
knows no noise, holds the solution. Width and AUROC compare the standard deviations of the function (means over
places) with those as trained: their ratio, and the probability that a shifted field has the larger one. Seconds are
of the processor, for fit and predictions. Ranks, 1 the best, are means over problems and rows. The last line is JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from kernelfield.core.contracts import Model
from kernelfield.data.flows import Burgers, Flow, NavierStokes, PeriodicField, flow_sample
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.neural.dropout import MCDropout
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.laplace import LaplaceNetwork
from kernelfield.models.neural.network import multilayer
from kernelfield.models.neural.sampled import HMC
from kernelfield.models.neural.train import Training
from kernelfield.models.process import Process
from kernelfield.nets.dense import Dense, Dropout
from kernelfield.nets.quadrature import Tanh
from kernelfield.uq.scores import evaluate, interval

NOISE = 0.05  # of measurements, in standard deviations of the outputs
Sample = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Task:
    """A flow, the law of its fields, and how many sensors there are along each axis."""

    flow: Flow
    law: PeriodicField
    sensors: int

    def sample(self, n: int, rng: np.random.Generator, **shift: float) -> Sample:
        scaled = {name: factor * getattr(self.law, name) for name, factor in shift.items()}
        return flow_sample(self.flow, replace(self.law, **scaled), n, rng, sensors=self.sensors)


TASKS = {
    "burgers": Task(Burgers(viscosity=0.02, time=0.3, points=128, steps=250), PeriodicField(), 16),
    "navier-stokes": Task(
        NavierStokes(viscosity=0.01, time=1.0, points=32, steps=90, forcing=0.4), PeriodicField(modes=2, size=4.0), 4
    ),
}
TRAINED = "as trained"
SETS: dict[str, dict[str, float]] = {TRAINED: {}, "rougher": {"length": 0.5}, "larger": {"size": 1.5}}
FORMATS = {  # of the scores in the table
    "rmse": ".2f",
    "nll": ".2f",
    "crps": ".2f",
    "coverage90": ".0%",
    "latent90": ".0%",
    "width": ".2f",
    "auroc": ".2f",
}
TITLES = ("RMSE", "NLL", "CRPS", "coverage", "of f", "width", "AUROC")
NETWORK = multilayer((50, 50), Tanh(), w=2.0, b=1.0)
THINNED = (
    Dense(2.0, 1.0, 50) >> Tanh() >> Dropout(0.9) >> Dense(2.0, 1.0, 50) >> Tanh() >> Dropout(0.9) >> Dense(1.0, 1.0)
)


def training() -> Training:
    return Training(steps=1000, learning_rate=5e-3)


METHODS: dict[str, Callable[[], Model]] = {
    "gp": lambda: Process(restarts=1),
    "nngp": lambda: Process("erf-nngp", restarts=1),
    "hmc": lambda: HMC(NETWORK, warmup=60, draws=40, chains=2, path=0.5),
    "laplace": lambda: LaplaceNetwork(NETWORK, rounds=3, training=training()),
    "ensemble": lambda: Ensemble(NETWORK, training=training()),
    "dropout": lambda: MCDropout(THINNED, training=training()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--rows", nargs="+", type=int, default=[50, 200], help="of the training sets")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--test", type=int, default=200, help="rows of each of the three test sets")
    parser.add_argument("--record", type=Path, default=Path("build/pde_surrogates.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what the record holds, without fitting")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.record.parent.mkdir(exist_ok=True)
    mend(options.record)
    if not options.table:
        measure(options)
    lines = pd.DataFrame([line for line in recorded(options.record) if asked(line, options)])
    if lines.empty:
        raise SystemExit(f"{options.record} holds none of what was asked for; run without --table")
    report(lines)


def recorded(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def mend(path: Path) -> None:
    """Take away a last line that a stopped run left half written."""
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def asked(line: dict, options: argparse.Namespace) -> bool:
    within = line["problem"] in options.problems and line["method"] in options.methods
    return within and line["rows"] in options.rows and line["seed"] < options.seeds and line["test"] == options.test


def measure(options: argparse.Namespace) -> None:
    """Fit what the record lacks, and add a line for each test set."""
    done = {
        (line["problem"], line["seed"], line["rows"], line["method"], line["test"]) for line in recorded(options.record)
    }
    with options.record.open("a") as file:
        for seed in range(options.seeds):
            for problem in options.problems:
                left = [
                    (rows, method)
                    for rows in options.rows
                    for method in options.methods
                    if (problem, seed, rows, method, options.test) not in done
                ]
                if not left:
                    continue
                train, tests = samples(TASKS[problem], seed, max(options.rows), options.test)
                for rows, method in left:
                    X, Y = (part[:rows] for part in train)
                    scored = trial(METHODS[method](), X, Y, tests, seed)
                    where = {"problem": problem, "seed": seed, "rows": rows, "method": method, "test": options.test}
                    file.write("".join(json.dumps(where | line) + "\n" for line in scored))
                    file.flush()
                    print(json.dumps(where | scored[0]), flush=True)


def samples(task: Task, seed: int, rows: int, test: int) -> tuple[Sample, dict[str, Sample]]:
    """Training rows, of which a smaller set takes the first, and test sets, with exact outputs in their unit."""
    X, Y = task.sample(rows, np.random.default_rng([seed, 0]))
    tests = {
        name: task.sample(test, np.random.default_rng([seed, 1 + number]), **shift)
        for number, (name, shift) in enumerate(SETS.items())
    }
    unit = tests[TRAINED][1].std()
    return (X, Y / unit), {name: (inputs, truth / unit) for name, (inputs, truth) in tests.items()}


def measured(truth: np.ndarray, seed: int) -> np.ndarray:
    return truth + NOISE * np.random.default_rng([seed, 10]).standard_normal(truth.shape)


def trial(model: Model, X: np.ndarray, Y: np.ndarray, tests: dict[str, Sample], seed: int) -> list[dict]:
    """What came of one model, a line for each test set."""
    start = time.process_time()
    regressor = FieldRegressor(model, random_state=seed).fit(X, measured(Y, seed))
    lines, widths = [], {}
    for name, (inputs, truth) in tests.items():
        function = regressor.posterior(inputs, noise=False)
        low, high = (end.numpy() for end in interval(function, 0.9))
        scores = evaluate(regressor.posterior(inputs, noise=True), measured(truth, seed + 1000)).scores()
        widths[name] = function.variance.sqrt().numpy().mean(axis=1)
        lines.append(
            {
                "set": name,
                "rmse": float(np.sqrt(np.mean((function.mean.numpy() - truth) ** 2))),
                **{key: scores[key] for key in ("nll", "crps", "coverage90")},
                "latent90": float(np.mean((low <= truth) & (truth <= high))),
                "width": float(widths[name].mean() / widths[TRAINED].mean()),
                "auroc": apart(widths[TRAINED], widths[name]),
            }
        )
    seconds = time.process_time() - start
    return [line | {"seconds": seconds, "notes": regressor.notes_} for line in lines]


def apart(usual: np.ndarray, shifted: np.ndarray) -> float:
    """The probability that a shifted field has the larger width."""
    labels = np.repeat([0, 1], [len(usual), len(shifted)])
    return float(roc_auc_score(labels, np.concatenate([usual, shifted])))


def report(lines: pd.DataFrame) -> None:
    """A table of means over seeds, the mean ranks, and a line of JSON."""
    keys = ["problem", "rows", "method"]
    groups = lines.groupby([*keys, "set"], sort=False)
    means, seeds = groups[[*FORMATS, "seconds"]].mean(), groups.size()
    print(f"\nmeans over {seeds.min()} to {seeds.max()} seeds; cells: {' / '.join(SETS)}")
    heads = ("problem", "rows", "method", *TITLES, "seconds")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for (problem, rows, method), part in means.groupby(keys, sort=False):
        sets = part.droplevel(keys).loc[list(SETS)]
        cells = [" / ".join(format(value, form) for value in sets[score]) for score, form in FORMATS.items()]
        print(f"| {problem} | {rows} | `{method}` | {' | '.join(cells)} | {sets['seconds'].iloc[0]:.0f} |")
    ranks = means[["rmse", "nll", "crps"]].groupby(["problem", "rows", "set"], sort=False).rank()
    mean_ranks = ranks.groupby(["method", "set"], sort=False).mean()
    print("\n| mean rank by | RMSE | NLL | CRPS |\n|---|---|---|---|")
    for method in means.index.unique("method"):
        cells = [" / ".join(f"{mean_ranks.loc[(method, name), score]:.1f}" for name in SETS) for score in ranks]
        print(f"| `{method}` | {' | '.join(cells)} |")
    print(json.dumps(means.reset_index().round(4).to_dict("records")))


if __name__ == "__main__":
    main()
