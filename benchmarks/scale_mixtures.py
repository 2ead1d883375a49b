"""Heavy-tailed priors over functions beside a Gaussian process that learns its output scale.

    KERNELFIELD_DATA=folder python benchmarks/scale_mixtures.py [--sets boston yacht] [--splits 10]
        [--priors "NNGP" "Student-t"] [--dirty boston]

All priors have the NNGP kernel of four hidden ReLU layers with weights of variance 2 / fan-in and mean
zero; the biases of the first layer, those of the others and the noise are learned. "Scale 1": the last
layer has weights of variance 1 / fan-in, and only the law of s can make functions larger, as in the
paper; elsewhere its scale is learned. Shapes of the laws of s are learned too, all by the evidence.
Mixtures are searched from where the NNGP with a learned scale ended, as for given shapes their evidence
is its own, averaged over output scales. "Student-t noise" has a Gaussian prior, and heavy tails in the
noise alone; its evidence is a bound from below.

The first table has the splits of NAME.npz (X, y, test_mask), a tenth for the test, and the paper's two
synthetic sets, with x uniform on (-2, 2) and the lengthscale 1, which are our choice, drawn anew for
each split. In the second one, some of the training rows are spoilt: to the target is added a normal of
five standard deviations, or to each input one of three; test rows are clean. The third one has n noisy
points of synthetic A and a hundred more to predict, and a Student-t process whose shape is held.

NLL of observations, in nats a point, of targets standardised by the clean training rows (as they are in
the third table), and coverage of 95% intervals: means over splits, with the standard error. The evidence
is in nats, of all training rows.

Source: Lee, Yun, Yang & Lee (2022), "Scale Mixtures of Neural Network Gaussian Processes".
"""

import argparse
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from gpytorch.constraints import Interval

from kernelfield.core.mixing import InverseGamma, Mixing, Unit
from kernelfield.core.mixing_laws import BurrXII
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.kernels.network import NetworkKernel
from kernelfield.models.process import Process
from kernelfield.nets.algebra import Repeat
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu

FILES = {
    "boston": "bostonHousing",
    "concrete": "concrete",
    "energy": "energy",
    "yacht": "yacht",
    "wine-red": "wine-quality-red",
}
SYNTHETIC = ("synthetic A", "synthetic B")
DIRT = [(kind, share) for kind in ("targets", "inputs") for share in (0.05, 0.1)]
SHAPES = ("alpha", "c", "d", "nu")  # of the laws of s, and of the noise
LEVEL = 0.95  # of the intervals whose coverage is counted
SIZES = (5, 10, 20, 40, 80)
SMALL = ("NNGP", "Student-t", "Student-t, df 4")  # the priors compared on few points
START = 0.01  # the noise that searches start from


@dataclass(frozen=True)
class Prior:
    """mixing: the law of s; scaled: whether the output scale is learned; shaped: whether shapes of the law are."""

    mixing: Mixing
    scaled: bool = True
    shaped: bool = False
    noise: float | Literal["student_t"] = START


STUDENT, BURR = InverseGamma.student(4.0), BurrXII(2.0, 2.0)
GAUSSIAN = "NNGP"  # from whose kernel the mixtures start
PRIORS = {
    "NNGP, scale 1": Prior(Unit(), scaled=False),
    "Student-t, scale 1": Prior(STUDENT, scaled=False, shaped=True),
    "Burr XII, scale 1": Prior(BURR, scaled=False, shaped=True),
    GAUSSIAN: Prior(Unit()),
    "Student-t": Prior(STUDENT, shaped=True),
    "Burr XII": Prior(BURR, shaped=True),
    "Student-t noise": Prior(Unit(), noise="student_t"),
    "Student-t, df 4": Prior(STUDENT),
}
USUAL = list(PRIORS)[:-1]


@dataclass(frozen=True)
class Trial:
    """Rows to learn from and rows to predict, and the unit of y in which they are scored."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    unit: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", choices=[*FILES, *SYNTHETIC], default=[*FILES, *SYNTHETIC])
    parser.add_argument("--dirty", nargs="*", choices=[*FILES, *SYNTHETIC], default=["boston", "yacht", "synthetic A"])
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--priors", nargs="+", choices=PRIORS, default=USUAL)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--restarts", type=int, default=1, help="starts of each search but those of mixtures")
    options = parser.parse_args()
    if "KERNELFIELD_DATA" not in os.environ:
        raise SystemExit("set KERNELFIELD_DATA to the folder that holds the data sets")
    torch.set_default_dtype(torch.double)
    print(f"{'data':<13}{'prior':<20}{'NLL':>16}{'coverage':>10}{'evidence':>10}{'fit s':>7}  shapes (median)")
    results = {}
    for name in options.sets:
        results[name] = compared(name, lambda split, name=name: parts(name, split), options.priors, options)
    for name, (kind, share) in itertools.product(options.dirty, DIRT):
        print(f"{name}, {share:.0%} of the {kind} spoilt")
        results[f"{name}, {share:.0%} of {kind}"] = compared(
            name, lambda split, key=(name, kind, share): spoilt(*key, split), options.priors, options
        )
    for n in options.sizes:
        results[f"n = {n}"] = compared(f"n = {n}", lambda split, n=n: few(n, split), SMALL, options)
    print(json.dumps(results))


def compared(name: str, draw: Callable[[int], Trial], labels: Sequence[str], options: argparse.Namespace) -> dict:
    """The rows of some data, printed once all their splits are done."""
    scores: dict[str, list[dict]] = {label: [] for label in labels}
    for split in range(options.splits):
        trial = draw(split)
        gaussian = cache(partial(measured, searched(PRIORS[GAUSSIAN], options.restarts), trial))
        for label in labels:
            scores[label].append(gaussian() if label == GAUSSIAN else rival(PRIORS[label], gaussian, trial, options))
    return {label: row(name, label, table) for label, table in scores.items()}


def parts(name: str, split: int) -> Trial:
    if name in SYNTHETIC:
        n = 100 if name == "synthetic A" else 300
        X, y = synthetic(name, n, np.random.default_rng(split))
        test = np.arange(n) < n // 10
    else:
        data = np.load(Path(os.environ["KERNELFIELD_DATA"]) / f"{FILES[name]}.npz")
        X, y, test = data["X"], data["y"].ravel(), data["test_mask"][:, split].astype(bool)
    return Trial(X[~test], y[~test], X[test], y[test], unit=float(y[~test].std()))


def few(n: int, split: int) -> Trial:
    X, y = synthetic("synthetic A", n + 100, np.random.default_rng(split))
    return Trial(X[:n], y[:n], X[n:], y[n:], unit=1.0)


def synthetic(name: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A draw with an RBF kernel at n points, with the noise 0.2 N(0, 1) or 0.8 of a Cauchy variable."""
    X = rng.uniform(-2, 2, (n, 1))
    values, vectors = np.linalg.eigh(np.exp(-0.5 * (X - X.T) ** 2))
    f = vectors @ (np.sqrt(values.clip(0)) * rng.standard_normal(n))
    return X, f + (0.2 * rng.standard_normal(n) if name == "synthetic A" else 0.8 * rng.standard_cauchy(n))


def spoilt(name: str, kind: str, share: float, split: int) -> Trial:
    """A trial with outliers in that share of the training rows, of the inputs or the targets."""
    trial, rng = parts(name, split), np.random.default_rng(split)
    X, y = trial.X.copy(), trial.y.copy()
    rows = rng.choice(len(y), round(share * len(y)), replace=False)
    if kind == "targets":
        y[rows] += 5 * y.std() * rng.standard_normal(len(rows))
    else:
        X[rows] += 3 * X.std(0) * rng.standard_normal((len(rows), X.shape[1]))
    return replace(trial, X=X, y=y)


def network(scaled: bool, first: float = 0.3, others: float = 0.3, scale: float = 1.0) -> NetworkKernel:
    """The kernel, with biases and the last scale; it learns floats and holds tensors."""
    he = torch.tensor(2**0.5)
    inputs, hidden = Dense(he, first), Relu() >> Dense(he, others)
    arch = inputs >> Repeat(hidden, 3) >> Relu() >> Dense(scale if scaled else torch.tensor(1.0))
    return NetworkKernel(arch, scales_constraint=Interval(1e-3, 1e3))


def searched(prior: Prior, restarts: int) -> Process:
    return Process(network(prior.scaled), mean="zero", noise=prior.noise, restarts=restarts)


def rival(prior: Prior, gaussian: Callable[[], dict], trial: Trial, options: argparse.Namespace) -> dict:
    """The scores of another prior; a mixture starts where the Gaussian process ended."""
    if isinstance(prior.mixing, Unit):
        return measured(searched(prior, options.restarts), trial)
    fitted = gaussian()["regressor"].surrogate_.inner
    first, others, scale = fitted.kernel.scales.tolist()
    noise = fitted.noise if prior.scaled else fitted.noise / scale**2
    kernel, law = network(prior.scaled, first, others, scale), prior.mixing
    model = Process(kernel, mean="zero", noise=noise, mixing=law, learn_mixing=prior.shaped, restarts=1)
    return measured(model, trial)


def measured(model: Process, trial: Trial) -> dict:
    start = time.perf_counter()
    regressor = FieldRegressor(model, random_state=0).fit(trial.X, trial.y)
    seconds = time.perf_counter() - start
    law, fitted = regressor.posterior(trial.X_test), regressor.surrogate_.inner
    shapes = {key.removeprefix("mixing."): value for key, value in fitted.hyperparameters().items()}
    inside = (2 * law.cdf(torch.tensor(trial.y_test)[:, None]) - 1).abs() <= LEVEL
    return {
        "nll": -float(regressor.log_density(trial.X_test, trial.y_test).mean()) - math.log(trial.unit),
        "coverage": float(inside.double().mean()),
        "evidence": fitted.log_evidence,
        "seconds": seconds,
        **{key: value for key, value in shapes.items() if key in SHAPES},
        "regressor": regressor,
    }


def row(name: str, label: str, scores: list[dict]) -> dict:
    table = pd.DataFrame(scores).drop(columns="regressor")
    mean, error = table.mean(), table.sem()
    cells = f"{mean['nll']:>9.3f} ±{error['nll']:6.3f}{mean['coverage']:>9.3f}{mean['evidence']:>11.1f}"
    shapes = " ".join(f"{key} {table[key].median():.3g}" for key in SHAPES if key in table)
    print(f"{name:<13}{label:<20}{cells}{mean['seconds']:>7.1f}  {shapes}", flush=True)
    return {"mean": mean.to_dict(), "error": error.to_dict(), "splits": table.to_dict("records")}


if __name__ == "__main__":
    main()
