"""Frequencies and extrapolation of spectral mixtures: ours against GPyTorch's, in one run and budget.

    pip install statsmodels
    python benchmarks/spectral.py [--seeds 20] [--task sines|co2] [--within-budget]

sines: sin at 3, 7.5 and 40 cycles with random phases and noise of standard deviation 0.3, at 400
random points of [0, 1]; extrapolated to (1, 1.5]. co2: the monthly record of Mauna Loa (statsmodels),
of which each seed draws 80% of the months before 1985 to train on; extrapolated to 1985-2001, true
frequencies one and two a year.

    ours             Spectral(components), all starts and the race included
    gpytorch, adam   SpectralMixtureKernel, initialize_from_data, ExactMarginalLogLikelihood by Adam at
                     0.1, as in its tutorial, for as much CPU time as ours took
    gpytorch, l-bfgs the same kernel and start under our own `Process`, four starts, in whatever time it
                     takes; --within-budget leaves it out

All have as many components, the same mean and the same data. Prints, for each, in how many seeds a
component that holds 0.1% of the variance lies within a tenth (co2: within 0.01 a year) of a frequency
resolution 1 / T of every true one, and the median and worst negative log density (nats) of held-out points.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import gpytorch
import numpy as np
import torch
from gpytorch.kernels import SpectralMixtureKernel
from statsmodels.datasets import co2
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import NotConverged
from kernelfield.models.process import FittedProcess, Process
from kernelfield.models.spectral import Spectral

Law = tuple[Tensor, Tensor]  # mean and variance of new observations

Method = Callable[..., tuple[list[float], Law, float]]  # frequencies that survived, the law, seconds


@dataclass(frozen=True)
class Task:
    name: str
    components: int
    mean: str
    truth: tuple[float, ...]  # frequencies, in cycles per unit of X
    tolerance: float
    sample: Callable[[int], tuple[Tensor, Tensor, Tensor, Tensor]]  # X, Y, held-out X, held-out Y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--task", choices=("sines", "co2"))
    parser.add_argument("--within-budget", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    years, level = record()
    tasks = [
        Task("sines", 5, "constant", (3.0, 7.5, 40.0), 0.1, sines),
        Task("co2", 8, "linear", (1.0, 2.0), 0.01, lambda seed: months(years, level, seed)),
    ]
    methods = {"ours": ours, "gpytorch, adam": adam} | ({} if options.within_budget else {"gpytorch, l-bfgs": searched})
    chosen = [task for task in tasks if options.task in (None, task.name)]
    rows = [row for task in chosen for row in compare(task, options.seeds, methods)]
    print(json.dumps(rows))


def compare(task: Task, seeds: int, methods: dict[str, Method]) -> list[dict]:
    scores: dict[str, list[tuple[bool, float, float]]] = {}
    for seed in range(seeds):
        X, Y, new_X, new_Y = task.sample(seed)
        shift, spread = Y.mean(), Y.std()
        data, unit = Data((X - X.mean()) / X.std(), (Y - shift) / spread), X.std().item()
        at = (new_X - X.mean()) / X.std()
        budget = math.inf
        for name, method in methods.items():
            found, (mean, variance), seconds = method(data, at, task, seed, budget)
            budget = min(budget, seconds)
            right = all(any(abs(f / unit - true) < task.tolerance for f in found) for true in task.truth)
            gap = (new_Y - shift) / spread - mean
            nll = 0.5 * (gap.square() / variance + (2 * math.pi * variance).log()).mean() + spread.log()
            scores.setdefault(name, []).append((right, nll.item(), seconds))
            print(f"{task.name} seed {seed} {name}: right={right} nll={nll:.3f} {seconds:.1f} s", flush=True)
    return [summary(task, name, rows) for name, rows in scores.items()]


def summary(task: Task, name: str, rows: list[tuple[bool, float, float]]) -> dict:
    right, nll, seconds = zip(*rows, strict=True)
    row = {
        "task": task.name,
        "method": name,
        "right": f"{sum(right)} of {len(right)}",
        "nll_median": round(float(np.median(nll)), 3),
        "nll_worst": round(max(nll), 3),
        "seconds": round(float(np.mean(seconds)), 1),
    }
    print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return row


def sines(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    x, new = np.sort(rng.uniform(0, 1, (400, 1)), 0), np.sort(rng.uniform(1, 1.5, (200, 1)), 0)
    phases = rng.uniform(0, 2 * np.pi, 3)

    def observed(x: np.ndarray) -> np.ndarray:
        waves = [np.sin(2 * np.pi * f * x + phase) for f, phase in zip((3, 7.5, 40), phases, strict=True)]
        return sum(waves) + rng.normal(0, 0.3, x.shape)

    return tuple(map(torch.as_tensor, (x, observed(x), new, observed(new))))


def record() -> tuple[np.ndarray, np.ndarray]:
    """Monthly means of carbon dioxide in parts per million, without months that have none, and their years."""
    monthly = co2.load_pandas().data["co2"].resample("MS").mean().dropna()
    return (monthly.index.year + (monthly.index.month - 0.5) / 12).to_numpy(), monthly.to_numpy()


def months(years: np.ndarray, level: np.ndarray, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    before, after = np.flatnonzero(years < 1985), np.flatnonzero(years >= 1985)
    kept = np.sort(rng.choice(before, int(0.8 * len(before)), replace=False))
    rows = (years[kept], level[kept], years[after], level[after])
    return tuple(torch.tensor(values)[:, None] for values in rows)


def ours(data: Data, at: Tensor, task: Task, seed: int, budget: float) -> tuple[list[float], Law, float]:
    start = time.process_time()
    fitted = Spectral(task.components, mean=task.mean).fit(data, generator=torch.Generator().manual_seed(seed))
    return [peak.frequency[0] for peak in fitted.kernel.peaks()], law(fitted, at), time.process_time() - start


def law(fitted: FittedProcess, at: Tensor) -> Law:
    posterior = fitted.posterior(at, noise=True)
    return posterior.mean, posterior.variance


def theirs(data: Data, components: int) -> SpectralMixtureKernel:
    kernel = SpectralMixtureKernel(num_mixtures=components)
    kernel.initialize_from_data(data.X, data.Y[:, 0])
    return kernel


def surviving(kernel: SpectralMixtureKernel) -> list[float]:
    weights, means = kernel.mixture_weights.detach(), kernel.mixture_means.detach().flatten()
    return means[weights >= 1e-3 * weights.sum()].tolist()


def searched(data: Data, at: Tensor, task: Task, seed: int, budget: float) -> tuple[list[float], Law, float]:
    torch.manual_seed(seed)  # initialize_from_data draws from the global generator
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)
        model = Process(theirs(data, task.components), task.mean)
        fitted = model.fit(data, generator=torch.Generator().manual_seed(seed))
    return surviving(fitted.kernel), law(fitted, at), time.process_time() - start


class Exact(gpytorch.models.ExactGP):
    def __init__(self, data: Data, task: Task, likelihood: gpytorch.likelihoods.GaussianLikelihood) -> None:
        super().__init__(data.X, data.Y[:, 0], likelihood)
        linear = task.mean == "linear"
        self.mean_module = gpytorch.means.LinearMean(1) if linear else gpytorch.means.ConstantMean()
        self.covar_module = theirs(data, task.components)

    def forward(self, X: Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(X), self.covar_module(X))


def adam(data: Data, at: Tensor, task: Task, seed: int, budget: float) -> tuple[list[float], Law, float]:
    torch.manual_seed(seed)
    start = time.process_time()
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    model = Exact(data, task, likelihood)
    evidence = gpytorch.ExactMarginalLogLikelihood(likelihood, model)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    with gpytorch.settings.max_cholesky_size(10_000):
        while time.process_time() - start < budget:
            optimiser.zero_grad()
            loss = -evidence(model(data.X), data.Y[:, 0])
            loss.backward()
            optimiser.step()
        seconds = time.process_time() - start
        model.eval()
        likelihood.eval()
        with torch.no_grad():
            marginal = likelihood(model(at))
            return surviving(model.covar_module), (marginal.mean[:, None], marginal.variance[:, None]), seconds


if __name__ == "__main__":
    main()
