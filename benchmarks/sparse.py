"""Sparse processes against GPyTorch's: time of an epoch, and time to a bound of the evidence, from one start.

    [KERNELFIELD_DATA=folder] python benchmarks/sparse.py [--quick] [--rows 40000] [--inducing 512] [--epochs 10]

Data: all rows of kin40k, where the folder holds kin40k.npz with X (n, d) and y (n,), else a draw of a process with
noise. Everybody has a Matern-5/2 kernel with one lengthscale an input and no prior, the same inducing inputs to start
from (k-means centres), a constant mean and a noise that is learned; batches of 1024 rows, one thread, CPU seconds.

SVGP: GPyTorch's VariationalStrategy with natural gradients (NGD 0.1, Adam 0.01) and with Adam for all (0.01), for so
many epochs; then ours, whose bound is that of its last pass, over all rows. GPyTorch's final bound is summed over all
rows. SGPR: L-BFGS on GPyTorch's collapsed bound (InducingPointKernel) and SparseProcess, with held inducing inputs.
"Reached" is the time at which ours had GPyTorch's final bound less 0.5% of its size, for runs of doubling lengths.
"""

import argparse
import json
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import gpytorch
import numpy as np
import torch
from gpytorch.distributions import MultivariateNormal
from gpytorch.variational import CholeskyVariationalDistribution, NaturalVariationalDistribution, VariationalStrategy
from scipy.optimize import minimize
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.kernels.stationary import Matern
from kernelfield.models import expansion
from kernelfield.models.inducing import by_clusters
from kernelfield.models.sparse import SparseProcess
from kernelfield.models.svgp import VariationalProcess, shuffled

BATCH = 1024
CLOSE = 0.005  # share of a bound that counts as reaching it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4000 rows, 128 inducing inputs, 4 epochs")
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--inducing", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--only", choices=["svgp", "sgpr"], nargs="+", default=["svgp", "sgpr"])
    options = parser.parse_args()
    if options.quick:
        options.rows, options.inducing, options.epochs = 4000, 128, 4
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    data = loaded(options.rows)
    Z = by_clusters(data.X, options.inducing, generator=torch.Generator().manual_seed(0))
    print(
        f"{len(data.X)} rows, {data.X.shape[1]} inputs, {len(Z)} inducing inputs; "
        f"load {os.getloadavg()[0]:.1f} at the start"
    )
    results: dict[str, dict] = {}
    with (
        mock.patch("kernelfield.models.sparse.by_clusters", return_value=Z),
        mock.patch("kernelfield.models.svgp.by_clusters", return_value=Z),
    ):
        if "svgp" in options.only:
            results |= svgp(data, Z, options.epochs)
        if "sgpr" in options.only:
            results |= sgpr(data, Z, steps=20 if options.quick else 60)
    print(json.dumps({"rows": len(data.X), "inducing": len(Z), **results}))


def loaded(rows: int) -> Data:
    """Standardised rows of kin40k, or of a process drawn through random features."""
    folder = os.environ.get("KERNELFIELD_DATA")
    if folder is None:
        generator = np.random.default_rng(0)
        X = generator.uniform(-1.7, 1.7, (rows, 8))
        waves = generator.normal(size=(8, 2000)) / np.sqrt(generator.gamma(2.5, 1 / 2.5, 2000)) / 2
        y = np.cos(X @ waves + generator.uniform(0, 2 * np.pi, 2000)) @ generator.normal(size=2000) / np.sqrt(1000)
        y += 0.1 * generator.normal(size=rows)
    else:
        file = np.load(Path(folder) / "kin40k.npz")
        X, y = file["X"][:rows], file["y"].ravel()[:rows]
    scaled = [torch.tensor((part - part.mean(0)) / part.std(0)) for part in (X, y[:, None])]
    return Data(*scaled)


def clock() -> float:
    return time.process_time()


def svgp(data: Data, Z: Tensor, epochs: int) -> dict[str, dict]:
    print(f"\n{'SVGP':<28}{'epochs':>7}{'s an epoch':>12}{'s in all':>10}{'bound a row':>13}")
    theirs = {
        "GPyTorch, natural": peer_svgp(data, Z, epochs, natural=True),
        "GPyTorch, Adam": peer_svgp(data, Z, epochs, natural=False),
    }
    for name, row in theirs.items():
        show(name, row)
    best = max(row["bound"] for row in theirs.values())
    ours, reached = {}, None
    for count in doubling(epochs):
        name = f"kernelfield, {count} epochs"
        ours[name] = own_svgp(data, Z, count)
        show(name, ours[name])
        if reached is None and ours[name]["bound"] >= best - CLOSE * abs(best):
            reached = ours[name]["seconds"]
    return {**theirs, **ours, "svgp_reached": ratios(reached, theirs, best)}


def doubling(last: int) -> list[int]:
    return [*(2**i for i in range(20) if 2**i < last), last]


def ratios(reached: float | None, theirs: dict[str, dict], best: float) -> dict:
    """How long ours took to the best bound of theirs, as a share of the time that this one took."""
    seconds = max(theirs.values(), key=lambda row: row["bound"])["seconds"]
    share = None if reached is None else reached / seconds
    told = "not reached" if share is None else f"{share:.2f} of its time"
    print(f"within {CLOSE:.1%} of GPyTorch's best bound, {best:.4f} a row, in {told}")
    return {"seconds": reached, "share": share}


def show(name: str, row: dict) -> None:
    print(f"{name:<28}{row['epochs']:>7}{row['each']:>12.2f}{row['seconds']:>10.1f}{row['bound']:>13.4f}", flush=True)


class PeerSVGP(gpytorch.models.ApproximateGP):
    """GPyTorch's sparse variational process as its examples have it."""

    def __init__(self, Z: Tensor, *, natural: bool) -> None:
        kind = NaturalVariationalDistribution if natural else CholeskyVariationalDistribution
        strategy = VariationalStrategy(self, Z.clone(), kind(len(Z)), learn_inducing_locations=True)
        super().__init__(strategy)
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = kernel_of(Z.shape[1])

    def forward(self, X: Tensor) -> MultivariateNormal:
        return MultivariateNormal(self.mean_module(X), self.covar_module(X))


def kernel_of(d: int) -> gpytorch.kernels.Kernel:
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(2.5, ard_num_dims=d))
    kernel.base_kernel.lengthscale = d**0.5  # where ours start, too
    kernel.outputscale = 1.0
    return kernel


def noisy() -> gpytorch.likelihoods.GaussianLikelihood:
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    likelihood.noise = 0.1
    return likelihood


def peer_svgp(data: Data, Z: Tensor, epochs: int, *, natural: bool) -> dict:
    n = len(data.X)
    torch.manual_seed(0)
    model, likelihood = PeerSVGP(Z, natural=natural).train(), noisy().train()
    mll = gpytorch.mlls.VariationalELBO(likelihood, model, num_data=n)
    rest = [*model.hyperparameters(), *likelihood.parameters()]
    if natural:
        optimisers = [
            gpytorch.optim.NGD(model.variational_parameters(), num_data=n, lr=0.1),
            torch.optim.Adam(rest, 0.01),
        ]
    else:
        optimisers = [torch.optim.Adam([*model.variational_parameters(), *rest], 0.01)]
    generator, start = torch.Generator().manual_seed(0), clock()
    for _ in range(epochs):
        for batch in shuffled(data, BATCH, generator):
            for optimiser in optimisers:
                optimiser.zero_grad()
            (-mll(model(batch.X), batch.Y[:, 0])).backward()
            for optimiser in optimisers:
                optimiser.step()
    seconds = clock() - start
    with torch.no_grad():
        model.train()
        parts = [likelihood.expected_log_prob(b.Y[:, 0], model(b.X)).sum() for b in shuffled(data, BATCH, generator)]
        bound = (sum(parts) - model.variational_strategy.kl_divergence()).item() / n
    return {"epochs": epochs, "each": seconds / epochs, "seconds": seconds, "bound": bound}


def own_kernel(d: int) -> Matern:
    kernel = Matern(2.5, ard_num_dims=d)
    kernel.lengthscale, kernel.outputscale = d**0.5, 1.0
    return kernel


def own_svgp(data: Data, Z: Tensor, epochs: int) -> dict:
    kernel = own_kernel(Z.shape[1])
    model = VariationalProcess(kernel, inducing=len(Z), choice="kmeans", epochs=epochs, least_steps=1, batch=BATCH)
    generator, start = torch.Generator().manual_seed(0), clock()
    learner = model.learner(data, len(data.X), generator=generator)
    begun = clock()
    for _ in range(epochs):
        for batch in shuffled(data, BATCH, generator):
            learner.step(batch)
    each = (clock() - begun) / epochs
    for batch in shuffled(data, BATCH, generator):
        learner.step(batch)
    fitted = learner.surrogate()
    bound = fitted.log_bound / len(data.X)
    return {"epochs": epochs, "each": each, "seconds": clock() - start, "start": begun - start, "bound": bound}


def sgpr(data: Data, Z: Tensor, *, steps: int) -> dict[str, dict]:
    print(f"\n{'SGPR':<28}{'evals':>7}{'s an eval':>12}{'s in all':>10}{'bound a row':>13}")
    theirs, ours = peer_sgpr(data, Z, steps), own_sgpr(data, Z, steps)
    for name, row in (("GPyTorch", theirs), ("kernelfield", ours)):
        show(name, {**row, "epochs": row["evaluations"]})
    print(
        f"time of an evaluation, ours over theirs: {ours['each'] / theirs['each']:.2f}; of the whole fit: "
        f"{ours['seconds'] / theirs['seconds']:.2f}, bounds {ours['bound'] - theirs['bound']:+.4f} a row apart"
    )
    return {"SGPR, GPyTorch": theirs, "SGPR, kernelfield": ours}


class PeerSGPR(gpytorch.models.ExactGP):
    """GPyTorch's collapsed bound; its inducing inputs are held, as ours are."""

    def __init__(self, data: Data, Z: Tensor, likelihood: gpytorch.likelihoods.GaussianLikelihood) -> None:
        super().__init__(data.X, data.Y[:, 0], likelihood)
        self.mean_module = gpytorch.means.ConstantMean()
        base = kernel_of(Z.shape[1])
        self.covar_module = gpytorch.kernels.InducingPointKernel(base, inducing_points=Z.clone(), likelihood=likelihood)
        self.covar_module.inducing_points.requires_grad_(False)

    def forward(self, X: Tensor) -> MultivariateNormal:
        return MultivariateNormal(self.mean_module(X), self.covar_module(X))


def peer_sgpr(data: Data, Z: Tensor, steps: int) -> dict:
    likelihood = noisy()
    model = PeerSGPR(data, Z, likelihood).train()
    mll = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    free = [p for p in model.parameters() if p.requires_grad]
    sizes = [p.numel() for p in free]
    spent: list[float] = []
    best = math.inf

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best
        start = clock()
        with torch.no_grad():
            for p, piece in zip(free, torch.from_numpy(theta).split(sizes), strict=True):
                p.copy_(piece.reshape(p.shape))
        model.zero_grad()
        value = -mll(model(data.X), data.Y[:, 0])
        value.backward()
        spent.append(clock() - start)
        best = min(best, value.item())
        return value.item(), torch.cat([p.grad.flatten() for p in free]).numpy()

    theta = torch.cat([p.detach().flatten() for p in free]).numpy()
    begun = clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its Cholesky factors of K(Z, Z) warn of jitter
        minimize(loss, theta, jac=True, method="L-BFGS-B", options={"maxiter": steps})
    return {"evaluations": len(spent), "each": statistics.median(spent), "seconds": clock() - begun, "bound": -best}


def own_sgpr(data: Data, Z: Tensor, steps: int) -> dict:
    begun = clock()
    model = SparseProcess(own_kernel(Z.shape[1]), inducing=len(Z), choice="kmeans", steps=steps)
    with timed_slopes() as spent:
        fitted = model.fit(data, generator=torch.Generator().manual_seed(0))
    bound = fitted.log_bound / len(data.X)
    return {"evaluations": len(spent), "each": statistics.median(spent), "seconds": clock() - begun, "bound": bound}


@contextmanager
def timed_slopes() -> Iterator[list[float]]:
    """The seconds of each evaluation of the bound and its slope."""
    original: Callable = expansion.slopes
    spent: list[float] = []

    def timed(*parts: object) -> object:
        start = clock()
        found = original(*parts)
        spent.append(clock() - start)
        return found

    expansion.slopes = timed
    try:
        yield spent
    finally:
        expansion.slopes = original


if __name__ == "__main__":
    main()
