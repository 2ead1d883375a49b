"""One table for a machine with a GPU: exact processes, kernels of networks, grids and ensembles beside its limits.

    python benchmarks/gpu.py [--quick] [--device cuda] [--repeats 3]

The card's limits are measured first: matrix products in single and double precision, a Cholesky factor, and
copies. Then, in turns with the peer where there is one, medians of the repeats after one warm-up, seconds by the clock:

    product N   a product of a Matern-5/2 kernel (d = 8) with 16 columns, no matrix stored; peer: GPyTorch's kernel in
                row blocks. At N = 20,000 and 100,000.
    fit N       Process with held hyperparameters, the solver that `auto` chooses, and 1000 means and deviations; peer:
                GPyTorch's ExactGP with conjugate gradients to 1e-4 and a preconditioner of rank 100.
    ntk N       the NTK matrix of three layers of rectifiers, d = 64; peer: the textbook formula in torch.
    grid N^3    one log evidence of a product of RBF kernels and its gradient; peer: linear_operator's Kronecker.
    ensemble    a hundred steps of ten networks trained together; peer: one after the other.

"of the limit" is the share of the limit that binds: flops of the products that the method makes over the measured
rate, or bytes over the measured copy rate. --quick takes sizes for a CPU. Prints the table, then one line of JSON.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import gpytorch
import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.kernels.network import NetworkKernel
from kernelfield.kernels.products import kernel_product
from kernelfield.kernels.stationary import Matern
from kernelfield.linalg.kronecker import Kronecker
from kernelfield.models.neural.likelihoods import Gaussian
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.train import Training, train
from kernelfield.models.process import Process
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu

INPUTS, COLUMNS, POINTS, NOISE = 8, 16, 1000, 1e-2
ARCH = (
    Dense(2**0.5, 0.1) >> Relu() >> Dense(2**0.5, 0.1) >> Relu() >> Dense(2**0.5, 0.1) >> Relu() >> Dense(2**0.5, 0.1)
)
SIZES = {"product": (20_000, 100_000), "fit": (20_000, 100_000), "ntk": (10_000, 20_000), "grid": (256,)}
QUICK = {"product": (4000,), "fit": (2000,), "ntk": (1000,), "grid": (32,)}


class Case(NamedTuple):
    """Two sides of a comparison, and the least seconds that the limits of the machine allow."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    floor: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here; give --device cpu --quick to try the script")
    torch.set_default_dtype(torch.float64)
    limits = measured_limits(device, 2000 if options.quick else 16_000)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}: " + ", ".join(f"{key} {value:.3g}" for key, value in limits.items()))
    print(f"{'':<16}{'ours, s':>12}{'theirs, s':>12}{'ratio':>8}{'of the limit':>14}")
    record: dict = {"device": name, "limits": limits}
    cases = {"product": product_case, "fit": fit_case, "ntk": network_case, "grid": grid_case}
    for kind, sizes in (QUICK if options.quick else SIZES).items():
        for n in sizes:
            report(cases[kind](n, device, limits), record, options.repeats, device)
    report(ensemble_case(device), record, options.repeats, device)
    print(json.dumps(record))


def report(case: Case, record: dict, repeats: int, device: torch.device) -> None:
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for turn in range(repeats + 1):
        for side in times:
            try:
                seconds = clocked(getattr(case, side), device)
            except torch.cuda.OutOfMemoryError:
                seconds = math.nan
            times[side] += [seconds] if turn else []
    ours, theirs = (statistics.median(times[side]) for side in ("ours", "theirs"))
    record[case.name] = {"ours": ours, "theirs": theirs, "ratio": theirs / ours, "limit": case.floor / ours}
    share = f"{case.floor / ours:.0%}" if case.floor else "-"
    print(f"{case.name:<16}{ours:>12.4g}{theirs:>12.4g}{theirs / ours:>8.2g}{share:>14}", flush=True)


def clocked(work: Callable[[], object], device: torch.device) -> float:
    def settled() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    start = settled()
    work()
    return settled() - start


def measured_limits(device: torch.device, n: int) -> dict[str, float]:
    """Operations and bytes a second, the best of five."""
    found = {}
    for dtype, key in ((torch.float32, "gemm float32, flop/s"), (torch.float64, "gemm float64, flop/s")):
        A = torch.randn(n, n, dtype=dtype, device=device)
        found[key] = 2 * n**3 / min(clocked(lambda A=A: A @ A, device) for _ in range(5))  # type: ignore[misc]
    A = torch.randn(n, n, device=device)
    found["copy, byte/s"] = 2 * A.nbytes / min(clocked(A.clone, device) for _ in range(5))
    S = A @ A.mT + n * torch.eye(n, device=device)
    found["cholesky, flop/s"] = n**3 / 3 / min(clocked(lambda: torch.linalg.cholesky(S), device) for _ in range(5))
    return found


def points(n: int, d: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    X = torch.rand(n, d, generator=generator, dtype=torch.float64)
    noise = NOISE**0.5 * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    return X.to(device), (torch.sin(5 * X).mean(-1, keepdim=True) + noise).to(device)


def product_case(n: int, device: torch.device, limits: dict[str, float]) -> Case:
    X, _ = points(n, INPUTS, device)
    V = torch.randn(n, COLUMNS, device=device)
    kernel = Matern(2.5).to(X)
    product = kernel_product(kernel, X, method="tiled")
    peer = gpytorch.kernels.MaternKernel(2.5).to(X)

    def theirs() -> Tensor:
        with torch.no_grad():
            return torch.cat([peer(block, X).to_dense() @ V for block in X.split(2048)])

    flops = 2 * n**2 * (INPUTS + 2 + COLUMNS)
    return Case(f"product {n}", lambda: product(V), theirs, flops / limits["gemm float64, flop/s"])


class Peer(gpytorch.models.ExactGP):
    """GPyTorch's exact process with the same kernel."""

    def __init__(self, X: Tensor, y: Tensor) -> None:
        likelihood = gpytorch.likelihoods.GaussianLikelihood().to(X)
        super().__init__(X, y, likelihood)
        self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), gpytorch.kernels.MaternKernel(2.5)
        self.to(X)
        likelihood.noise = NOISE

    def forward(self, X: Tensor) -> gpytorch.distributions.MultivariateNormal:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(X), self.covar_module(X))


def fit_case(n: int, device: torch.device, limits: dict[str, float]) -> Case:
    X, Y = points(n + POINTS, INPUTS, device)
    data, new = Data(X[:n], Y[:n]), X[n:]
    model = Process(Matern(2.5).to(X), mean="zero", noise=NOISE, steps=0)

    def ours() -> Tensor:
        with torch.no_grad():
            law = model.fit(data, generator=torch.Generator().manual_seed(0)).posterior(new)
            return torch.stack([law.mean, law.variance])

    def theirs() -> Tensor:
        peer = Peer(data.X, data.Y[:, 0]).eval()
        own = gpytorch.settings
        held = (own.max_cholesky_size(0), own.max_preconditioner_size(100), own.eval_cg_tolerance(1e-4))
        with torch.no_grad(), held[0], held[1], held[2]:
            law = peer(new)
            return torch.stack([law.mean, law.variance])

    return Case(f"fit {n}", ours, theirs, n**3 / 3 / limits["cholesky, flop/s"] if n <= 53_000 else 0.0)


def network_case(n: int, device: torch.device, limits: dict[str, float]) -> Case:
    X, _ = points(n, 64, device)
    kernel = NetworkKernel(ARCH, kind="ntk").to(X)

    def ours() -> Tensor:
        with torch.no_grad():
            return kernel(X).to_dense()

    def theirs() -> Tensor:
        w, b = 2.0, 0.01
        K = w * (X @ X.mT) / X.shape[1] + b
        T = K.clone()
        for _ in range(3):
            root = K.diagonal().sqrt()
            size = root[:, None] * root
            cosine = (K / size).clamp(-1, 1)
            angle = cosine.acos()
            slope = (math.pi - angle) / (2 * math.pi) * w
            K = w * size * (angle.sin() + (math.pi - angle) * cosine) / (2 * math.pi) + b
            T = K + T * slope
        return T

    return Case(f"ntk {n}", ours, theirs, n**2 * 8 / limits["copy, byte/s"])


def grid_case(n: int, device: torch.device, limits: dict[str, float]) -> Case:
    x = torch.linspace(0, 1, n, device=device)
    K = (-((x[:, None] - x) / 0.1).square() / 2).exp()
    Y = torch.randn(n**3, 1, device=device)

    def ours() -> object:
        solver = Kronecker.of([K, K, K], 0.1, 1.3)
        return solver.pull_whitened(solver.whiten(Y))

    def theirs() -> object:
        from linear_operator import operators

        leaves = [K.clone().requires_grad_() for _ in range(3)]
        product = operators.KroneckerProductLinearOperator(*(operators.to_linear_operator(leaf) for leaf in leaves))
        noise = operators.ConstantDiagLinearOperator(torch.tensor([0.1], device=device), n**3)
        A = operators.KroneckerProductAddedDiagLinearOperator(product, noise)
        quadratic, logdet = A.inv_quad_logdet(Y, logdet=True)
        return torch.autograd.grad(quadratic.sum() + logdet, leaves)

    return Case(f"grid {n}^3", ours, theirs, 2 * 6 * n**4 / limits["gemm float64, flop/s"])


def ensemble_case(device: torch.device) -> Case:
    X, Y = points(1000, INPUTS, device)
    training = Training(steps=100, batch=64, held_out=0.0)

    def ours(members: int = 10) -> object:
        generator = torch.Generator().manual_seed(0)
        network = Network(multilayer((128, 128, 128)), INPUTS, 1)
        return train(network, Data(X, Y), Gaussian(NOISE), training, members=members, generator=generator)

    return Case("ensemble", ours, lambda: [ours(1) for _ in range(10)], 0.0)


if __name__ == "__main__":
    main()
