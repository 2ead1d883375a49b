"""Nearest-neighbour processes beside inducing inputs and, where it is installed, GPBoost's Vecchia approximation.

    KERNELFIELD_DATA=folder python benchmarks/vecchia.py [--set kin40k] [--quick] [--peers sparse gpboost]

The folder holds NAME.npz files with X (n, d), y (n,) and test_mask (n, splits); the first split is used, standardised
by its training rows. All have an ARD Matern-5/2 kernel, a constant mean and learned noise: `NearestNeighbourProcess`
with 15, 30 and 60 neighbours (30 alone with --quick), `SparseProcess` with 512 inducing inputs chosen by variance,
GPBoost with 30 neighbours in random order and 90 for predictions. Every contestant runs in
a process of its own with one thread; times are its CPU seconds, and wall seconds beside them. Scores are those of y at
the test rows: RMSE, mean NLPD in nats and the share inside 90% intervals, in standardised units. Prints a table, then
one line of JSON.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from kernelfield.core.contracts import Data
from kernelfield.models.sparse import SparseProcess
from kernelfield.models.vecchia import NearestNeighbourProcess

INSIDE90 = 1.6448536269514722
COLUMNS = ("rmse", "nlpd", "coverage90", "fit", "fit wall", "predict", "GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="kin40k")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peers", nargs="*", default=["sparse"], choices=["sparse", "gpboost"])
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if "KERNELFIELD_DATA" not in os.environ:
        raise SystemExit("set KERNELFIELD_DATA to the folder that holds the data sets")
    if options.contestant:
        print(json.dumps(measured(options)))
        return
    counts = [30] if options.quick else [15, 30, 60]
    contestants = [f"neighbours {k}" for k in counts] + options.peers
    print(f"{options.set:<16}" + "".join(f"{name:>12}" for name in COLUMNS))
    results = {}
    for name in contestants:
        command = [sys.executable, __file__, "--set", options.set, "--contestant", name]
        command += ["--quick"] * options.quick
        alone = {**os.environ, "OMP_NUM_THREADS": "1"}
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=alone).stdout
        results[name] = json.loads(answer.splitlines()[-1])
        print(f"{name:<16}" + "".join(f"{results[name][key]:>12.4g}" for key in COLUMNS), flush=True)
    print(json.dumps(results))


def measured(options: argparse.Namespace) -> dict[str, float]:
    """One contestant's scores, seconds and peak memory."""
    data = np.load(Path(os.environ["KERNELFIELD_DATA"]) / f"{options.set}.npz")
    test = data["test_mask"][:, 0].astype(bool)
    X, y = (data[key].reshape(len(test), -1).astype(float) for key in ("X", "y"))
    (X, X_new), (y, y_new) = (standardised(rows, test) for rows in (X, y))
    run = boosted if options.contestant == "gpboost" else ours
    mean, std, seconds = run(X, y, X_new, options)
    z = (y_new - mean) / std
    return {
        "rmse": float(np.sqrt(np.mean((y_new - mean) ** 2))),
        "nlpd": float(np.mean(0.5 * z**2 + np.log(std) + 0.5 * np.log(2 * np.pi))),
        "coverage90": float(np.mean(np.abs(z) <= INSIDE90)),
        "GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        **seconds,
    }


def standardised(rows: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centre, spread = rows[~test].mean(0), rows[~test].std(0)
    return (rows[~test] - centre) / spread, (rows[test] - centre) / spread


class Clock:
    """CPU and wall seconds of stages."""

    def __init__(self) -> None:
        self.marks = [(time.process_time(), time.perf_counter())]

    def mark(self) -> None:
        self.marks.append((time.process_time(), time.perf_counter()))

    def seconds(self) -> dict[str, float]:
        (cpu, wall), (cpu1, wall1), (cpu2, _) = self.marks
        return {"fit": cpu1 - cpu, "fit wall": wall1 - wall, "predict": cpu2 - cpu1}


def ours(X: np.ndarray, y: np.ndarray, X_new: np.ndarray, options: argparse.Namespace) -> tuple:
    kind, _, count = options.contestant.partition(" ")
    model = SparseProcess(inducing=512) if kind == "sparse" else NearestNeighbourProcess(neighbours=int(count))
    clock = Clock()
    fitted = model.fit(Data(torch.from_numpy(X), torch.from_numpy(y)), generator=torch.Generator().manual_seed(0))
    clock.mark()
    with torch.no_grad():
        laws = [fitted.posterior(part, noise=True) for part in torch.from_numpy(X_new).split(1000)]
        mean = torch.cat([law.mean for law in laws]).numpy()
        std = torch.cat([law.variance for law in laws]).sqrt().numpy()
    clock.mark()
    return mean, std, clock.seconds()


def boosted(X: np.ndarray, y: np.ndarray, X_new: np.ndarray, options: argparse.Namespace) -> tuple:
    import gpboost

    clock = Clock()
    model = gpboost.GPModel(
        gp_coords=X,
        cov_function="matern_ard",
        cov_fct_shape=2.5,
        gp_approx="vecchia",
        num_neighbors=30,
        num_parallel_threads=1,
        seed=0,
    )
    model.fit(y=y[:, 0], X=np.ones((len(y), 1)))
    clock.mark()
    model.set_prediction_data(num_neighbors_pred=90)
    found = model.predict(gp_coords_pred=X_new, X_pred=np.ones((len(X_new), 1)), predict_var=True)
    clock.mark()
    return found["mu"][:, None], np.sqrt(found["var"])[:, None], clock.seconds()


if __name__ == "__main__":
    main()
