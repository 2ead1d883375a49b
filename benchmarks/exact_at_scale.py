"""Exact processes of many rows by iterations: equality with Cholesky, and elevators and kin40k beside sparse peers.

    KERNELFIELD_DATA=folder python benchmarks/exact_at_scale.py [--quick] [--only equality elevators kin40k]

Equality: kin40k's first 5000 rows after a fixed shuffle, Matern-5/2 and RBF with hyperparameters from 1000 of them,
noise as learned (1e-4 at least) and a hundredth of it; the same by one Cholesky factor. The evidence is estimated with
20 seeds, and the table counts how often the truth is in its 95 % interval.

Data sets: the first split of each file of the folder (X, y, test_mask), inputs and targets standardised by the
training rows. kernelfield's Process(solver="iterative") and GPyTorch's SVGP, 512 inducing points that start at
k-means centres, Adam, each in a process of its own, one after the other; RMSE and mean negative log density of the
standardised targets, coverage of the 95 % interval, wall seconds of the fit and of predictions with standard
deviations, peak memory of the process. --quick takes 2000 rows for equality and for each set, 300 test rows, 3 seeds.

Prints tables, then one line of JSON.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import gpytorch
import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans

from kernelfield.core.contracts import Data
from kernelfield.models.process import Process

SETS = ("elevators", "kin40k")
PEERS = ("kernelfield", "gpytorch-svgp")
EPOCHS, BATCH, INDUCING, RATE = 30, 1024, 512, 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=("equality", *SETS), default=["equality", *SETS])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the peer")
    parser.add_argument("--kernel", default="matern32", help="of both, a name of kernelfield's")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    if options.worker:
        print(json.dumps(measure(*options.worker, options)))
        return
    found: dict = {}
    if "equality" in options.only:
        found["equality"] = equality(2000 if options.quick else 5000, 3 if options.quick else options.seeds)
    for name in SETS:
        if name in options.only:
            found[name] = compare(name, options)
    print(json.dumps(found))


def folder() -> Path:
    if "KERNELFIELD_DATA" not in os.environ:
        raise SystemExit("set KERNELFIELD_DATA to the folder that holds elevators.npz and kin40k.npz")
    return Path(os.environ["KERNELFIELD_DATA"])


def read(name: str, limit: int | None = None) -> tuple[Data, Data]:
    """Training and test rows of the first split, standardised by the first."""
    file = np.load(folder() / f"{name}.npz")
    X, y = (torch.tensor(file[key], dtype=torch.float64) for key in ("X", "y"))
    y, mask = y.reshape(-1, 1), np.asarray(file["test_mask"])
    test = torch.tensor(mask if mask.ndim == 1 else mask[:, 0]).bool()
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
    X, y, test = X[order], y[order], test[order]
    parts = [(X[rows][:limit], y[rows][:size]) for rows, size in ((~test, limit), (test, limit and 300))]
    parts[1] = (parts[1][0][: len(parts[1][1])], parts[1][1])
    (inside, target), (outside, truth) = parts
    centre, spread = inside.mean(0), inside.std(0)
    spread = torch.where(spread > 0, spread, 1.0)
    shift, scale = target.mean(0), target.std(0)
    return Data((inside - centre) / spread, (target - shift) / scale), Data(
        (outside - centre) / spread, (truth - shift) / scale
    )


def equality(n: int, seeds: int) -> list[dict]:
    train, test = read("kin40k", n)
    X, few = test.X[:300], Data(train.X[:1000], train.Y[:1000])
    rows = []
    print(f"\nEquality with Cholesky, kin40k, {n} rows")
    heads = f"{'kernel':<9} {'noise':>8} {'mean':>8} {'variance':>9} {'inside':>7} {'interval':>9} {'products':>9}"
    print(f"{heads}  preconditioner")
    for name in ("matern52", "rbf"):
        start = Process(name, restarts=2).fit(few, generator=torch.Generator().manual_seed(0))
        for noise in (max(start.noise, 1e-4), max(start.noise, 1e-4) / 100):
            held = {"kernel": start.kernel, "noise": noise, "steps": 0}
            truth = Process(**held, solver="cholesky").fit(train, generator=torch.Generator())
            law = truth.posterior(X)
            errors, inside = [], 0
            for seed in range(seeds):
                generator = torch.Generator().manual_seed(seed)
                ours = Process(**held, solver="iterative").fit(train, generator=generator)
                inside += abs(ours.log_evidence - truth.log_evidence) <= ours.log_evidence_error
                if not seed:
                    found = ours.posterior(X)
                    errors = [
                        (found.mean - law.mean).abs().max().item(),
                        (found.variance / law.variance - 1).abs().max().item(),
                    ]
            row = {
                "kernel": name,
                "noise": noise,
                "mean": errors[0],
                "variance": errors[1],
                "inside": inside,
                "seeds": seeds,
                "interval": ours.log_evidence_error,
                "iterations": ours.outcome.iterations,
                "factored": ours.plan.factored,
            }
            rows.append(row)
            print(
                f"{name:<9} {noise:8.1e} {errors[0]:8.1e} {errors[1]:9.1e} {inside:3d}/{seeds:<3d} "
                f"{row['interval']:9.2g} {row['iterations']:9d}  {'factor' if row['factored'] else 'low rank'}",
                flush=True,
            )
    return rows


def compare(name: str, options: argparse.Namespace) -> dict:
    print(f"\n{name}")
    print(f"{'':<14} {'RMSE':>7} {'NLL':>7} {'cover':>6} {'fit s':>7} {'predict s':>9} {'GiB':>5}")
    found = {}
    for peer in PEERS:
        command = [sys.executable, __file__, "--worker", peer, name, "--kernel", options.kernel]
        command += ["--epochs", str(options.epochs), *["--quick"] * options.quick]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        row = found[peer] = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{peer:<14} {row['rmse']:7.4f} {row['nll']:7.3f} {row['coverage']:6.3f} {row['fit']:7.1f} "
            f"{row['predict']:9.1f} {row['memory']:5.1f}",
            flush=True,
        )
        for note in row["notes"]:
            print("   ", note)
    return found


def measure(peer: str, name: str, options: argparse.Namespace) -> dict:
    """One peer on one set, in a process of its own."""
    train, test = read(name, 2000 if options.quick else None)
    run = {"kernelfield": ours, "gpytorch-svgp": svgp}[peer]
    mean, variance, fit, predict, notes = run(train, test, options)
    gap = test.Y[:, 0] - mean
    return {
        "rmse": gap.square().mean().sqrt().item(),
        "nll": (0.5 * (gap.square() / variance + (2 * math.pi * variance).log())).mean().item(),
        "coverage": (gap.abs() <= 1.959964 * variance.sqrt()).double().mean().item(),
        "fit": fit,
        "predict": predict,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "notes": notes,
    }


Answer = tuple[torch.Tensor, torch.Tensor, float, float, list[str]]


def ours(train: Data, test: Data, options: argparse.Namespace) -> Answer:
    model, start = Process(options.kernel, solver="iterative"), time.perf_counter()
    fitted = model.fit(train, generator=torch.Generator().manual_seed(0))
    middle = time.perf_counter()
    with torch.no_grad():
        laws = [fitted.posterior(X, noise=True) for X in test.X.split(256)]
        mean = torch.cat([law.mean[:, 0] for law in laws])
        variance = torch.cat([law.variance[:, 0] for law in laws])
    return mean, variance, middle - start, time.perf_counter() - middle, fitted.notes()


class Sparse(gpytorch.models.ApproximateGP):
    """GPyTorch's stochastic variational process, as its documentation writes it."""

    def __init__(self, Z: torch.Tensor, kernel: str) -> None:
        law = gpytorch.variational.CholeskyVariationalDistribution(len(Z))
        super().__init__(gpytorch.variational.VariationalStrategy(self, Z, law, learn_inducing_locations=True))
        self.mean_module = gpytorch.means.ConstantMean()
        kinds = {"matern12": 0.5, "matern32": 1.5, "matern52": 2.5}
        d = Z.shape[1]
        base = (
            gpytorch.kernels.RBFKernel(ard_num_dims=d)
            if kernel == "rbf"
            else gpytorch.kernels.MaternKernel(kinds[kernel], ard_num_dims=d)
        )
        self.covar_module = gpytorch.kernels.ScaleKernel(base)
        self.covar_module.base_kernel.lengthscale = d**0.5

    def forward(self, x: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def svgp(train: Data, test: Data, options: argparse.Namespace) -> Answer:
    torch.manual_seed(0)
    start = time.perf_counter()
    centres = MiniBatchKMeans(min(INDUCING, len(train.X) // 2), random_state=0, n_init=1).fit(train.X.numpy())
    model = Sparse(torch.tensor(centres.cluster_centers_), options.kernel)
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    bound = gpytorch.mlls.VariationalELBO(likelihood, model, num_data=len(train.X))
    optimiser = torch.optim.Adam([*model.parameters(), *likelihood.parameters()], lr=RATE)
    for _ in range(options.epochs):
        for rows in torch.randperm(len(train.X)).split(BATCH):
            optimiser.zero_grad()
            loss = -bound(model(train.X[rows]), train.Y[rows, 0])
            loss.backward()
            optimiser.step()
    middle = time.perf_counter()
    model.eval()
    likelihood.eval()
    with torch.no_grad():
        laws = [likelihood(model(X)) for X in test.X.split(1024)]
        mean, variance = (torch.cat([getattr(law, part) for law in laws]) for part in ("mean", "variance"))
    return mean, variance, middle - start, time.perf_counter() - middle, []


if __name__ == "__main__":
    main()
