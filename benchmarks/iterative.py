"""Systems of kernel matrices by preconditioned conjugate gradients, beside a dense Cholesky factorisation.

    python benchmarks/iterative.py [--n 4000] [--ranks 15 100 300 1000] [--steps 400] [--threads 1]

Rows are uniform in eight dimensions, targets a smooth function of all of them with noise; the lengthscale of the
Matern-5/2 kernel is learned on a thousand of them, the noise is 0.003 of the kernel's variance, and the Gram
matrix is stored in double precision. Each row of the table builds a preconditioner and solves one system to a
true relative residual of 1e-4: randomly pivoted Cholesky and greedy pivots at equal ranks, the rank that `grow`
chooses, the same with products in single precision and refinement, and dual descent to 1e-2 where n is small.
Rank 15 is GPyTorch's default. The Cholesky factorisation is timed at no more than 10,000 rows and grows with their
cube. Then the log-determinant, with and without the known trace, where a Cholesky factor says what it is.
CPU seconds. Ratios are the Cholesky's time over the row's. Prints tables, then one line of JSON.

n = 20,000 takes about 9 GiB and, on one core, some ten minutes.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import NotConverged
from kernelfield.kernels.stationary import Matern
from kernelfield.linalg.dual_descent import dual_descent
from kernelfield.linalg.iterative import Solution, conjugate_gradients, log_determinant, refined
from kernelfield.linalg.preconditioner import LowRankPlusDiagonal, grow, low_rank
from kernelfield.models.process import Process

INPUTS, NOISE, TOLERANCE = 8, 3e-3, 1e-4
DENSE = 10_000  # rows up to which the Cholesky factorisation is run
CHECKED = 6000  # and a log-determinant is compared with it
DESCENT = 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[15, 100, 300, 1000])
    parser.add_argument("--hows", nargs="+", default=["random", "pivoted"])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_default_dtype(torch.double)
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", NotConverged)  # the table says so
    X, y, lengthscale = problem(options.n)
    A = gram(X, lengthscale)
    A.diagonal().add_(NOISE)
    print(f"n = {options.n}, d = {INPUTS}, learned lengthscale {lengthscale:.2f} standard deviations", flush=True)
    dense = factor(A)
    rows = table(A, y, dense, options)
    print(json.dumps({"n": options.n, "cholesky": dense, "rows": rows, "determinants": determinants(A)}))


def problem(n: int) -> tuple[Tensor, Tensor, float]:
    generator = torch.Generator().manual_seed(0)
    X = (torch.rand(n, INPUTS, generator=generator) - 0.5) * math.sqrt(12)
    directions = 1.5 * torch.randn(INPUTS, 2 * INPUTS, generator=generator) / math.sqrt(INPUTS)
    y = (X @ directions).sin().sum(1, keepdim=True)
    y = (y - y.mean()) / y.std() + 0.05 * torch.randn(n, 1, generator=generator)
    kernel = Matern(2.5)
    kernel.lengthscale = math.sqrt(INPUTS)
    sample = Data(X[:1000], y[:1000])
    fitted = Process(kernel, mean="zero", restarts=1).fit(sample, generator=generator)
    return X, y, fitted.kernel.lengthscale.item()


def gram(X: Tensor, lengthscale: float) -> Tensor:
    Z, A = X * (math.sqrt(5) / lengthscale), X.new_empty(len(X), len(X))
    for rows, out in zip(Z.split(256), A.split(256), strict=True):
        r = torch.cdist(rows, Z)
        torch.mul((1 + r + r.square() / 3), r.neg().exp_(), out=out)
    return A


def factor(A: Tensor) -> float:
    """CPU seconds of a Cholesky factorisation, from fewer rows where there are many."""
    n = min(len(A), DENSE)
    block = A[:n, :n].clone()
    start = time.process_time()
    torch.linalg.cholesky_ex(block, out=(block, torch.empty((), dtype=torch.int32)))
    return (time.process_time() - start) * (len(A) / n) ** 3


def table(A: Tensor, y: Tensor, dense: float, options: argparse.Namespace) -> dict:
    print(f"dense Cholesky {dense:.1f} s{'' if len(A) <= DENSE else f', from {DENSE} rows'}; ratios are that over ours")
    print(f"{'solver':<26}{'rank':>6}{'build s':>9}{'solve s':>9}{'products':>10}{'true residual':>15}{'ratio':>8}")
    found: dict[str, dict] = {}

    def row(
        name: str, build: Callable[[], Tensor | None], solve: Callable[[LowRankPlusDiagonal | None], Solution]
    ) -> None:
        start = time.process_time()
        F = build()
        P = None if F is None else LowRankPlusDiagonal(F, NOISE)
        if P is not None:
            P.solve(y)  # the factorisation is of the building
        built = time.process_time()
        solution = solve(P)
        solved = time.process_time() - built
        rank, residual = 0 if F is None else F.shape[1], solution.residual.max().item()
        seconds = built - start + solved
        ratio = dense / seconds if solution.converged else None
        found[name] = {"rank": rank, "build": built - start, "solve": solved, "products": solution.iterations}
        found[name] |= {"residual": residual, "ratio": ratio}
        print(
            f"{name:<26}{rank:>6}{built - start:>9.2f}{solved:>9.2f}{solution.iterations:>10}{residual:>15.1e}"
            f"{ratio or math.nan:>8.1f}",
            flush=True,
        )

    def rows(index: Tensor) -> Tensor:
        taken = A[index]
        taken[torch.arange(len(index)), index] -= NOISE
        return taken

    def pcg(P: LowRankPlusDiagonal | None) -> Solution:
        solve = None if P is None else P.solve
        return conjugate_gradients(lambda V: A @ V, y, precondition=solve, tolerance=TOLERANCE, steps=options.steps)

    diagonal = A.diagonal() - NOISE
    for rank in options.ranks:
        for how in options.hows:
            row(f"{how} {rank}", partial(low_rank, rows, diagonal, rank, how=how, generator=seeded()), pcg)

    def chosen() -> Tensor:
        made = grow(rows, diagonal, NOISE, tolerance=TOLERANCE, generator=seeded())
        print(f"  {made.reason}")
        return made.F

    row("chosen", chosen, pcg)

    def mixed(P: LowRankPlusDiagonal | None, single: Tensor) -> Solution:
        solve = None if P is None else P.solve
        return refined(
            lambda V: A @ V,
            lambda V: (single @ V.float()).double(),
            y,
            precondition=solve,
            tolerance=TOLERANCE,
            steps=options.steps,
        )

    row("chosen, single precision", chosen, partial(mixed, single=A.float()))
    if len(A) <= DESCENT:
        row(
            "dual descent, to 1e-2",
            lambda: None,
            lambda _: dual_descent(rows, y, NOISE, tolerance=1e-2, epochs=options.steps, generator=seeded()),
        )
    return found


def determinants(A: Tensor) -> dict:
    n = min(len(A), CHECKED)
    block = A[:n, :n].clone()
    exact = 2 * torch.linalg.cholesky(block).diagonal().log().sum().item()
    diagonal = block.diagonal() - NOISE
    print(f"\nlog-determinant of {n} rows, 16 probes, {exact:.1f} nats")
    print(f"{'rank':>6}{'trace':>8}{'off by':>10}{'standard error':>16}{'CPU s':>8}")
    found = {}
    for rank in (0, 100, 300, 1000):
        P, trace = None, block.diagonal().sum().item()
        if rank:
            kernel = block - NOISE * torch.eye(n)
            P = LowRankPlusDiagonal(low_rank(lambda i, K=kernel: K[i], diagonal, rank, generator=seeded()), NOISE)
            P.solve(diagonal[:, None])
        for known in (False, True):
            start = time.process_time()
            if P is not None and known:
                trace = P.trace(lambda V: block @ V, block.diagonal())
            estimate = log_determinant(
                lambda V: block @ V, diagonal, generator=seeded(), preconditioner=P, trace=trace if known else None
            )
            seconds, off = time.process_time() - start, estimate.value - exact
            found[f"{rank}{', trace' if known else ''}"] = {"off": off, "error": estimate.error, "seconds": seconds}
            print(
                f"{rank:>6}{'known' if known else '-':>8}{off:>10.2f}{estimate.error:>16.2f}{seconds:>8.2f}", flush=True
            )
    return found


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(1)


if __name__ == "__main__":
    main()
