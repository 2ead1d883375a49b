"""Kernel-matrix products side by side: tiles, rows of a dense matrix, and KeOps where it is installed.

    python benchmarks/products.py [--quick] [--threads N] [--columns K] [--float64]

CPU nanoseconds for each pair of points of one product K V, for RBF, Matern-5/2 and the NTK of three hidden ReLU
layers without biases. The peers are what one writes in torch, 2048 rows at a time (`cdist`, or the textbook
recursion through arccosines), and KeOps with the formulas of `linalg.keops` (for the network a polynomial, several
times faster than the recursion written out). Medians of the repeats, taken in turn; peers, whose time for a pair
does not depend on the number of rows, do 4096 rows of the n. KeOps is compiled beforehand. Errors are of float32
against float64, relative to the largest entry of the answer. Prints a table, then one line of JSON.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.kernels.network import NetworkKernel
from kernelfield.kernels.products import kernel_matmul, kernel_product
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu

CHUNK, SAMPLE, REPEATS = 2048, 4096, 3
NETWORK_ROWS = 20_000  # more would take minutes
WEIGHT, LAYERS = math.sqrt(2), 3


def network() -> NetworkKernel:
    arch = Dense(WEIGHT)
    for _ in range(LAYERS):
        arch = arch >> Relu() >> Dense(WEIGHT)
    return NetworkKernel(arch, "ntk")


KERNELS: dict[str, Callable[[], Kernel]] = {"RBF": RBF, "Matern-5/2": Matern, "NTK-3": network}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="n = 5000 and d = 3 alone")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--columns", type=int, default=1, help="of V")
    parser.add_argument("--float64", action="store_true", help="instead of float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = torch.float64 if options.float64 else torch.float32
    sizes = [(5000, 3)] if options.quick else [(20_000, 3), (20_000, 8), (50_000, 3), (50_000, 8)]
    results = [
        measured(name, n, d, dtype=dtype, columns=options.columns, repeats=1 if options.quick else options.repeats)
        for n, d in sizes
        for name in KERNELS
        if n <= NETWORK_ROWS or name != "NTK-3"
    ]
    print(json.dumps(results))


def measured(name: str, n: int, d: int, *, dtype: torch.dtype, columns: int, repeats: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    X, V = (torch.randn(n, k, generator=generator, dtype=dtype) for k in (d, columns))
    kernel = KERNELS[name]().to(dtype)
    K = kernel_product(kernel, X, method="tiled")
    rows = X[:SAMPLE]
    work: dict[str, tuple[int, Callable[[], Tensor]]] = {
        "tiles": (n, lambda: K(V)),
        "rows of torch": (len(rows), lambda: in_rows(name, rows, X, V)),
    }
    if find_spec("pykeops") is not None:
        work["KeOps"] = (len(rows), lambda: kernel_matmul(kernel, rows, X, V, method="keops"))
        work["KeOps"][1]()
    times: dict[str, list[float]] = {peer: [] for peer in work}
    with torch.no_grad():
        for _ in range(repeats):
            for peer, (count, run) in work.items():
                start = time.process_time()
                run()
                times[peer].append((time.process_time() - start) / (count * n) * 1e9)
    medians = {peer: statistics.median(values) for peer, values in times.items()}
    exact = kernel_matmul(KERNELS[name]().double(), rows[:500].double(), X.double(), V.double()).detach()
    error = ((K(V)[:500] - exact).abs().max() / exact.abs().max()).item()
    ratios = {peer: value / medians["tiles"] for peer, value in medians.items() if peer != "tiles"}
    shown = ", ".join(f"{peer} {medians[peer]:.2f} ({ratio:.1f} x)" for peer, ratio in ratios.items())
    print(
        f"{name:10s} n = {n:6d} d = {d}: tiles {medians['tiles']:.3f} ns a pair; {shown}; error {error:.0e}", flush=True
    )
    return {"kernel": name, "n": n, "d": d, "dtype": str(dtype), "columns": columns, "ns": medians, "ratios": ratios}


def in_rows(name: str, rows: Tensor, X: Tensor, V: Tensor) -> Tensor:
    """The product that one would write in torch."""
    entries = network_entries if name == "NTK-3" else stationary_entries
    return torch.cat([entries(name, x, X) @ V for x in rows.split(CHUNK)])


def stationary_entries(name: str, x: Tensor, X: Tensor) -> Tensor:
    r = torch.cdist(x, X)
    if name == "RBF":
        return torch.exp(-(r**2) / 2)
    u = math.sqrt(5) * r
    return (1 + u + u**2 / 3) * torch.exp(-u)


def network_entries(name: str, x: Tensor, X: Tensor) -> Tensor:
    K = WEIGHT**2 * (x @ X.mT) / x.shape[1]
    norms = (WEIGHT**2 * x.square().mean(1)).sqrt()[:, None] * (WEIGHT**2 * X.square().mean(1)).sqrt()
    T = K
    for _ in range(LAYERS):  # w^2 = 2 keeps the variances
        cosine = (K / norms).clamp(-1, 1)
        theta = torch.acos(cosine)
        slope = 1 - theta / math.pi
        K = norms * (torch.sqrt(1 - cosine**2) / math.pi + slope * cosine)
        T = K + T * slope
    return T


if __name__ == "__main__":
    main()
