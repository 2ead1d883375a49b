"""How an exact process is solved: by a Cholesky factor, or by iterations on products with the kernel matrix.

A rule by counting, so that the same data get the same answer on every machine with room for it. A search for
hyperparameters takes about EVALUATIONS evidences, each of n^3 operations by Cholesky (a third of them for the factor,
the others for the inverse that the gradient needs), and holds several n x n matrices. `auto` takes Cholesky while
these matrices fit into memory and all of it stays below BUDGET operations: 10,000 rows on a CPU with a search and
53,000 without one, which needs one factor. Above, it takes iterations: some dozens of products of 2 n^2 operations
for each evidence, and memory for the preconditioner's factor and the vectors alone where the matrix has no room.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.numerics import MEMORY_SHARE, free_memory, require_memory
from kernelfield.kernels.partitioned import partitioned
from kernelfield.kernels.products import kernel_product
from kernelfield.linalg.product import KernelProduct

Solver = Literal["auto", "cholesky", "iterative", "keops", "distributed"]
SOLVERS = ("auto", "cholesky", "iterative", "keops", "distributed")

EVALUATIONS = 50  # of the evidence of all rows in a search from a good start
BUDGET = {"cpu": 5e13, "cuda": 5e15}  # operations: half an hour at 3e10 a second, the rate of one core
RANK = 1000  # of a preconditioner: 22 iterations at 20,000 rows where rank 100 takes 163, and 5% of the time to make
LEAST_SHARE = 4  # rows for each column of its factor, below which the factor is nearly the matrix
TRIFLE = 2**20  # bytes for which nobody looks up the free memory: that takes a hundredth of a fit of fifty rows
COLUMNS = 256  # right-hand sides solved at once
SINGLE_SHARE = 0.4  # of the free memory, for a factor in single precision
STORED_SHARE = 0.5  # of the free memory, for the matrix in double precision and that factor
EASY, ROWS_AN_ITERATION = 20, 500  # n^3 / 6 operations in double precision, over 80 n^2 of a product of some columns
VECTORS = 8  # arrays of that size alive at once in conjugate gradients


@dataclass(frozen=True)
class Chosen:
    """The solver of a fit and why, in a sentence."""

    solver: Solver
    reason: str


def choose(asked: Solver, n: int, *, searching: bool, bytes_each: int, device: torch.device) -> Chosen:
    """The solver for n rows; bytes_each, of the n x n matrices of a fit by Cholesky, for each of their entries.

    Errors: ValueError for an unknown solver; MemoryError where what was asked for, or everything, has no room.

    >>> choose("auto", 2_000, searching=True, bytes_each=32, device=torch.device("cpu")).solver
    'cholesky'
    >>> choose("auto", 20_000, searching=True, bytes_each=32, device=torch.device("cpu")).solver
    'iterative'
    """
    if asked not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(map(repr, SOLVERS))}, got {asked!r}")
    if asked == "cholesky":
        require_cholesky(n, bytes_each, device)
        return Chosen(asked, "asked for")
    work = n**3 * (EVALUATIONS if searching else 1 / 3)
    budget = BUDGET.get(device.type, BUDGET["cuda"])
    need = bytes_each * n * n
    roomy = need <= TRIFLE or need <= MEMORY_SHARE * free_memory(device)
    if asked == "auto" and roomy and work <= budget:
        return Chosen("cholesky", f"{work:.1g} operations are within {budget:.1g}")
    require_iterative(n, device)
    if asked != "auto":
        return Chosen(asked, "asked for")
    if not roomy:
        return Chosen("iterative", f"a Cholesky fit needs {bytes_each * n * n / 2**30:.1f} GiB of memory")
    return Chosen("iterative", f"a Cholesky fit needs {work:.1g} operations, more than {budget:.1g}")


def require_cholesky(n: int, bytes_each: int, device: torch.device) -> None:
    """Refuse a fit by Cholesky without room for its matrices; see `choose`."""
    rows = int((MEMORY_SHARE * free_memory(device) / bytes_each) ** 0.5)
    remedy = (
        "use Process(solver='iterative'), which needs no n x n matrix, or SparseProcess, "
        f"or fit a random sample of at most {rows} rows instead"
    )
    require_memory(bytes_each * n * n, device, what=f"an exact fit of {n} rows", remedy=remedy)


def require_iterative(n: int, device: torch.device) -> None:
    """Refuse an iterative fit without room for its factor and vectors; see `choose`."""
    needed = 8 * n * (2 * rank_for(n) + VECTORS * COLUMNS)
    remedy = "use SparseProcess or RandomFeatureProcess, which keep sums over the rows, or fit a random sample"
    require_memory(needed, device, what=f"an iterative fit of {n} rows", remedy=remedy)


def rank_for(n: int) -> int:
    """The rank of the preconditioner of n rows."""
    return max(1, min(RANK, n // LEAST_SHARE))


def single_fits(solver: Solver, n: int, device: torch.device) -> bool:
    """Whether there is room for a Cholesky factor of n rows in single precision; ranks that share rows have none."""
    return solver != "distributed" and 4 * n * n <= SINGLE_SHARE * free_memory(device)


def worth_of_a_factor(n: int) -> int:
    """The iterations that take as long as a Cholesky factor of n rows in single precision, and some more."""
    return EASY + n // ROWS_AN_ITERATION


def product_for(solver: Solver, kernel: Kernel, X: Tensor, products: int) -> KernelProduct:
    """The products of a solver by iterations; how many are expected is `products`."""
    if solver == "keops":
        return kernel_product(kernel, X, method="keops", products=products)
    if solver == "distributed":
        return partitioned(kernel, X, products=products)
    n = len(X)
    stored = 12 * n * n <= STORED_SHARE * free_memory(X.device)  # the matrix, and a factor of it in single precision
    return kernel_product(kernel, X, method="auto" if stored else "tiled", products=products)
