"""Processes on grids side by side: kernelfield's linear algebra and linear_operator's Kronecker classes.

    python benchmarks/grids.py [--repeats 5] [--threads 1] [--part algebra partial models curves] [--only 100^2]

Evidence and gradient: one log evidence of a product of squared-exponential kernels with even noise,
and its gradient in the factors, the scale and the noise. linear_operator's
KroneckerProductAddedDiagLinearOperator is called directly, as its authors would, with its exact
eigen-decomposition; its gradient is that of automatic differentiation. The values agree; the
gradients do so far as theirs survives eigenvalues that nearly coincide, as those of smooth kernels
do: on 30x40, dense algebra sides with ours to 1e-13. Each grid runs in a process of its own; times
are CPU seconds, medians of the repeats after one warm-up, ours and theirs in turns. Memory is the
peak of a process that does nothing else above what it held before, in vectors of as many numbers as
the grid has cells. Ratios are theirs over ours: above one, kernelfield is better.

Missing cells and uneven noise have no peer that is exact: their rows hold the method chosen, what
was reached (relative residual, products, standard error) and how long it took.

Models: evidence and gradient of `GridProcess` and of GPyTorch's GridKernel with the
RBF kernel (ExactMarginalLogLikelihood, its exact path), and what 200 points off the grid take.

Curves: BoTorch's LatentKroneckerGP on learning curves, with the hyperparameters of both held: mean and variance, then
64 joint samples.

Prints tables, then one line of JSON. `--part` and `--only` choose tables and rows by name; a row takes seconds, but for
1000^2 and 100^3.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

GRIDS = {"30x40": (30, 40), "100^2": (100, 100), "1000^2": (1000, 1000), "64^3": (64, 64, 64), "100^3": (100, 100, 100)}
LENGTH, NOISE, SCALE = 0.1, 0.1, 1.3
POINTS = 200  # off the grid
KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {  # of distances in lengths
    "rbf": lambda r: (-r.square() / 2).exp(),
    "matern12": lambda r: (-r).exp(),
    "matern32": lambda r: (1 + math.sqrt(3) * r) * (-math.sqrt(3) * r).exp(),
}
# name: shape, share of missing cells, noise, length and kind of kernel, whether noise differs from cell to cell
PARTIAL = {
    "64^2, 20% missing": ((64, 64), 0.2, 1e-2, "rbf", False),
    "64^2, 80% missing": ((64, 64), 0.8, 1e-2, "rbf", False),
    "200^2, 5% missing": ((200, 200), 0.05, 1e-2, "rbf", False),
    "200^2, 20% missing": ((200, 200), 0.2, 1e-2, "rbf", False),
    "200^2, 20% missing, Matern-1/2": ((200, 200), 0.2, 1e-2, "matern12", False),
    "200^2, 20% missing, Matern-1/2, noise 1e-6": ((200, 200), 0.2, 1e-6, "matern12", False),
    "200^2, 5% observed": ((200, 200), 0.95, 1e-2, "rbf", False),
    "64^3, 80% missing": ((64, 64, 64), 0.8, 1e-2, "rbf", False),
    "100^3, 20% missing": ((100, 100, 100), 0.2, 1e-2, "rbf", False),
    "64^2, uneven noise": ((64, 64), 0.0, 1e-2, "rbf", True),
    "200^2, uneven noise": ((200, 200), 0.0, 1e-2, "rbf", True),
    "200^2, uneven noise, 20% missing": ((200, 200), 0.2, 1e-2, "rbf", True),
    "100^2, uneven noise, Matern-3/2": ((100, 100), 0.0, 1e-2, "matern32", True),
}

# name: places, times, new places, share of missing cells, samples (0: mean and variance)
CURVES = {
    "50x30, 10% missing": (50, 30, 5, 0.1, 0),
    "50x30, 50% missing": (50, 30, 5, 0.5, 0),
    "64 samples, 50x30, 10%": (50, 30, 20, 0.1, 64),
    "64 samples, 50x30, 50%": (50, 30, 20, 0.5, 64),
    "64 samples, 100x50, 30%": (100, 50, 20, 0.3, 64),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parts = {"algebra": print_algebra, "partial": print_partial, "models": print_models, "curves": print_curves}
    parser.add_argument("--part", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--only", nargs="+", choices=[*GRIDS, *PARTIAL, *CURVES], metavar="ROW")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        what, name, repeats = options.worker
        work = {"evidence": evidence, "memory": memory, "peer-memory": peer_memory, "partial": partial}
        work |= {"model": model, "curves": curves}
        print(json.dumps(work[what](name, int(repeats))))
        return
    print(json.dumps({part: parts[part](options) for part in options.part}))


def rows_of(options: argparse.Namespace, table: dict) -> list[str]:
    return [name for name in table if options.only is None or name in options.only]


def spawn(options: argparse.Namespace, what: str, name: str) -> dict:
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(pools, str(options.threads))}
    command = [sys.executable, __file__, "--worker", what, name, str(options.repeats)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def print_algebra(options: argparse.Namespace) -> dict:
    print(f"\nEvidence and gradient, {options.threads} thread(s), CPU milliseconds; in brackets theirs / ours")
    print(f"{'grid':<10}{'ours':>9}{'linear_operator':>18}{'value':>10}{'gradient':>10}{'vectors':>14}{'off grid':>10}")
    rows = {}
    for name in rows_of(options, GRIDS):
        row = spawn(options, "evidence", name)
        row["vectors"] = spawn(options, "memory", name)["vectors"]
        row["their vectors"] = spawn(options, "peer-memory", name)["vectors"]
        rows[name] = row
        theirs = f"{row['theirs']:.1f} ({row['theirs'] / row['ours']:.1f})"
        vectors = f"{row['vectors']:.1f} ({row['their vectors']:.1f})"
        print(
            f"{name:<10}{row['ours']:>9.1f}{theirs:>18}{row['value']:>10.1e}{row['gradient']:>10.1e}{vectors:>14}{row['points']:>10.1f}"
        )
    return rows


def print_partial(options: argparse.Namespace) -> dict:
    print(f"\nMissing cells and uneven noise, {options.threads} thread(s), CPU seconds")
    print(
        f"{'problem':<34}{'method':<12}{'solve':>8}{'products':>10}{'residual':>10}{'logdet':>8}"
        f"{'its error, nats a cell':>24}"
    )
    rows = {}
    for name in rows_of(options, PARTIAL):
        row = rows[name] = spawn(options, "partial", name)
        print(
            f"{name:<34}{row['method']:<12}{row['solve']:>8.3f}{row['products']:>10}{row['residual']:>10.1e}"
            f"{row['logdet']:>8.2f}{row['error']:>24.1e}"
        )
    return rows


def print_models(options: argparse.Namespace) -> dict:
    print(f"\nModels, {options.threads} thread(s), CPU milliseconds; in brackets theirs / ours")
    print(f"{'grid':<24}{'GridProcess':>14}{'GPyTorch':>20}{'difference':>12}{'200 off grid':>14}")
    rows = {}
    for name in rows_of(options, GRIDS):
        row = rows[name] = spawn(options, "model", name)
        theirs = f"{row['theirs']:.1f} ({row['theirs'] / row['ours']:.1f})"
        print(f"{name:<24}{row['ours']:>14.1f}{theirs:>20}{row['difference']:>12.1e}{row['points']:>14.1f}")
    return rows


def print_curves(options: argparse.Namespace) -> dict:
    rows = {}
    print(f"\nLearning curves, {options.threads} thread(s), CPU milliseconds; in brackets theirs / ours")
    print(f"{'places x times':<24}{'ours':>14}{'LatentKroneckerGP':>20}{'mean':>12}{'variance':>14}")
    for name in rows_of(options, CURVES):
        row = rows[name] = spawn(options, "curves", name)
        theirs = f"{row['theirs']:.1f} ({row['theirs'] / row['ours']:.1f})"
        print(f"{name:<24}{row['ours']:>14.1f}{theirs:>20}{row['mean']:>12.1e}{row['variance']:>14.1e}")
    return rows


def factors_of(shape: tuple[int, ...], kind: str = "rbf") -> list[torch.Tensor]:
    factors = []
    for m in shape:
        x = torch.linspace(0, 1, m)
        r = (x[:, None] - x).abs() / LENGTH
        factors.append(KINDS[kind](r))
    return factors


def ours(factors: list[torch.Tensor], Y: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
    from kernelfield.linalg.kronecker import Kronecker

    solver = Kronecker.of(factors, NOISE, SCALE)
    whitened = solver.whiten(Y)
    value = -0.5 * (whitened.square().sum() + solver.logdet() + len(Y) * math.log(2 * math.pi))
    pull = solver.pull_whitened(whitened)
    return value.item(), [*pull.factors, pull.scale, pull.noise]


def theirs(factors: list[torch.Tensor], Y: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
    from linear_operator.operators import (
        ConstantDiagLinearOperator,
        KroneckerProductAddedDiagLinearOperator,
        KroneckerProductLinearOperator,
        to_linear_operator,
    )

    leaves = [K.clone().requires_grad_() for K in factors]
    scale, noise = torch.tensor(SCALE).requires_grad_(), torch.tensor([NOISE]).requires_grad_()
    # The scale goes into one factor: outside, a ConstantMul would fall back to stochastic estimates.
    product = KroneckerProductLinearOperator(*(to_linear_operator(K) for K in [scale * leaves[0], *leaves[1:]]))
    A = KroneckerProductAddedDiagLinearOperator(product, ConstantDiagLinearOperator(noise, len(Y)))
    quadratic, logdet = A.inv_quad_logdet(Y, logdet=True)
    value = -0.5 * (quadratic + logdet + len(Y) * math.log(2 * math.pi))
    return value.item(), list(torch.autograd.grad(value, [*leaves, scale, noise]))


def problem(name: str) -> tuple[list[torch.Tensor], torch.Tensor]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    return factors_of(GRIDS[name]), torch.randn(math.prod(GRIDS[name]), 1)


def evidence(name: str, repeats: int) -> dict:
    from kernelfield.linalg.kronecker import Kronecker, at_points

    factors, Y = problem(name)
    (value, gradient), (peer, its_gradient) = ours(factors, Y), theirs(factors, Y)
    difference = 0.0
    for a, b in zip(gradient, its_gradient, strict=True):
        a, b = (x + x.mT if x.ndim == 2 else x.flatten() for x in (a, b))
        difference = max(difference, ((a - b).abs().max() / b.abs().max()).item())
    solver = Kronecker.of(factors, NOISE, SCALE)
    crosses, alpha = [torch.rand(m, POINTS) for m in GRIDS[name]], solver.solve(Y).reshape(solver.shape)

    def points() -> None:
        at_points(crosses, alpha)
        solver.variance_reduction(crosses)

    times = medians({"ours": lambda: ours(factors, Y), "theirs": lambda: theirs(factors, Y), "points": points}, repeats)
    return {
        **{key: 1e3 * value for key, value in times.items()},
        "value": abs(value - peer) / abs(peer),
        "gradient": difference,
    }


def medians(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """CPU seconds of each, taken in turns; many calls are timed together where one is short."""
    seconds: dict[str, list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for key, call in calls.items():
            count, start = 0, time.process_time()
            while not count or time.process_time() - start < 0.05:
                call()
                count += 1
            seconds[key].append((time.process_time() - start) / count)
    return {key: statistics.median(values) for key, values in seconds.items()}


def memory(name: str, repeats: int) -> dict:
    return peak(ours, name)


def peer_memory(name: str, repeats: int) -> dict:
    return peak(theirs, name)


def peak(run: Callable, name: str) -> dict:
    """The peak of a process above what it held with the factors and the targets, in vectors of n numbers."""
    run([torch.eye(3, dtype=torch.double)] * 2, torch.ones(9, 1, dtype=torch.double))
    factors, Y = problem(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(factors, Y)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"vectors": 1024 * (after - before) / (8 * len(Y))}


def partial(name: str, repeats: int) -> dict:
    from kernelfield.linalg.kronecker import Kronecker
    from kernelfield.linalg.latent import Latent
    from kernelfield.linalg.uneven import Uneven

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    shape, share, noise, kind, uneven = PARTIAL[name]
    factors, observed = factors_of(shape, kind), torch.rand(shape) >= share
    start = time.process_time()
    if uneven:
        solver = Uneven.of(factors, noise * torch.randn(shape).exp(), 1.0, observed, tolerance=1e-8)
    else:
        solver = Latent.of(Kronecker.of(factors, noise), observed, tolerance=1e-8)
    found = solver.solution(torch.randn(int(observed.sum()), 1))
    solved = time.process_time()
    determinant = solver.determinant
    return {
        "method": solver.method,
        "solve": solved - start,
        "products": found.iterations,
        "residual": found.residual.max().item(),
        "logdet": time.process_time() - solved,
        "error": determinant.error / observed.sum().item(),
    }


def model(name: str, repeats: int) -> dict:
    import gpytorch

    from kernelfield.kernels.stationary import RBF
    from kernelfield.models.grid import GridProcess
    from kernelfield.models.grid_evidence import GridEvidence

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    axes, values = [torch.linspace(0, 1, m) for m in GRIDS[name]], torch.randn(GRIDS[name])
    kernels = [RBF() for _ in axes]
    for kernel in kernels:
        kernel.lengthscale = LENGTH
    generator = torch.Generator()
    fitted = GridProcess(kernels, noise=NOISE, steps=0).fit_values(axes, values, generator=generator)
    zero = GridProcess(kernels, mean="zero", noise=NOISE, steps=0).fit_values(axes, values, generator=generator)
    objective = GridEvidence(zero.kernel, zero.layout, zero.mixing, NOISE, None, learn=True)
    theta, new = objective.given(), torch.rand(POINTS, len(axes))

    class Peer(gpytorch.models.ExactGP):
        def __init__(self, X: torch.Tensor, y: torch.Tensor, likelihood: gpytorch.likelihoods.Likelihood) -> None:
            super().__init__(X, y, likelihood)
            self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), grid

        def forward(self, X: torch.Tensor) -> gpytorch.distributions.MultivariateNormal:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(X), self.covar_module(X))

    base = gpytorch.kernels.RBFKernel()
    base.lengthscale = LENGTH
    grid = gpytorch.kernels.GridKernel(base, axes)
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    likelihood.noise = NOISE
    # GPyTorch's grid has its first axis run fastest.
    order = tuple(reversed(range(len(axes))))
    y = values.permute(order).reshape(-1)
    peer = Peer(grid.full_grid, y, likelihood)
    density = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, peer)

    def theirs() -> float:
        peer.zero_grad()
        value = density(peer(grid.full_grid), y)
        value.backward()
        return value.item() * len(y)

    def points() -> None:
        law = fitted.posterior(new)
        assert law.mean.shape == law.variance.shape

    difference = abs(theirs() - zero.log_evidence) / abs(zero.log_evidence)
    times = medians({"ours": lambda: objective(theta), "theirs": theirs, "points": points}, repeats)
    return {**{key: 1e3 * value for key, value in times.items()}, "difference": difference}


def curves(name: str, repeats: int) -> dict:
    import gpytorch
    from botorch.models.latent_kronecker_gp import LatentKroneckerGP

    from kernelfield.kernels.grid import GridKernel
    from kernelfield.kernels.stationary import Matern
    from kernelfield.models.grid import GridProcess

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    places, times, new, share, samples = CURVES[name]
    X, T, other = torch.rand(places, 3), torch.linspace(0, 1, times)[:, None], torch.rand(new, 3)
    Y = (1 - torch.exp(-5 * T.mT * (0.5 + X[:, :1]))) * X[:, 1:2] + 0.1 * torch.randn(places, times)
    Y[torch.rand(places, times) < share] = torch.nan
    peer = LatentKroneckerGP(X, T, Y, outcome_transform=None)
    peer.covar_module_X.lengthscale, peer.covar_module_T.base_kernel.lengthscale = 0.8, 0.5
    peer.covar_module_T.outputscale, peer.likelihood.noise = 0.6, 0.01
    peer.eval()
    kernel = GridKernel([Matern(ard_num_dims=3), Matern()], columns=[(0, 1, 2), (3,)])
    kernel.axes[0].lengthscale, kernel.axes[1].lengthscale, kernel.outputscale = 0.8, 0.5, 0.6
    points = torch.cat([other.repeat_interleave(times, 0), T.repeat(new, 1)], 1)

    def theirs(count: int = samples) -> tuple[torch.Tensor, ...]:
        with torch.no_grad(), gpytorch.settings.cg_tolerance(1e-8):
            law = peer.posterior(other, T)
            return (law.rsample(torch.Size([count])),) if count else (law.mean.flatten(), law.variance.flatten())

    def ours(count: int = samples) -> tuple[torch.Tensor, ...]:
        model = GridProcess(kernel, mean="zero", noise=0.01, steps=0)
        law = model.fit_values([X, T], Y, generator=torch.Generator()).posterior(points)
        return (law.rsample((count,)),) if count else (law.mean.flatten(), law.variance.flatten())

    gaps = [(a - b).abs().max().item() for a, b in zip(ours(0), theirs(0), strict=True)]
    taken = medians({"ours": ours, "theirs": theirs}, repeats)
    return {**{key: 1e3 * value for key, value in taken.items()}, "mean": gaps[0], "variance": gaps[1]}


if __name__ == "__main__":
    main()
