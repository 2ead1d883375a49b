"""How to form products with a kernel matrix: decided in one place, by counting.

Work is counted in passes, elementary operations on all entries of the matrix while they are in the processor's
caches. With p passes for an entry, of which symmetry leaves half,

    tiled     each product     (p + 1) / 2
    stored    at first         (p + 1) / 2 + WRITE,    each product    READ,

as a matrix that is kept is written to, and each time read from, the main memory. It is kept where that costs less
over the products to come, and where there is room. KeOps counts on CUDA alone: on a CPU tiles are faster.

The two constants are measured in CPU time on one core, at 8000 points in three dimensions and single precision: a
stored product takes 0.36 ns an entry, a product of tiles 0.39 ns for each of its (p + 1) / 2 passes, and making a
matrix that is kept, for which the system has to find memory, 6 ns more than that. They say no more than the order of
magnitude: on a core whose neighbours are idle a pass may take half as long.
"""

from dataclasses import dataclass
from importlib.util import find_spec

import torch

from kernelfield.core.numerics import free_memory

METHODS = ("auto", "stored", "tiled", "keops")
READ = 1.0  # passes that reading an entry from main memory is worth
WRITE = 15.0
SHARE = 0.5  # of the free memory for a matrix that need not be kept; the rest is left to solvers and factors


@dataclass(frozen=True)
class Choice:
    """A method, "stored", "tiled" or "keops", and the reason for it in a sentence."""

    method: str
    reason: str


def choose(
    n: int,
    *,
    passes: float,
    products: int = 100,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    obstacle: str | None = None,
    memory: int | None = None,
    method: str = "auto",
) -> Choice:
    """How to form `products` products with the matrix of n points.

    passes : the price of an entry; see the module docstring. obstacle : why KeOps has no formula, if it has none.
    memory : bytes that are free, if others than the device reports. method : "auto", or one that is to be had.

    Errors: ValueError for an unknown method, or "keops" where there is no formula; MemoryError for "stored" beyond
    memory; ImportError for "keops" that is not installed.

    >>> choose(10_000, passes=9, products=100, memory=8 * 10**9).method
    'stored'
    >>> choose(100_000, passes=9, products=100, memory=8 * 10**9).reason
    'the matrix would take 74.5 GiB of 7.5 GiB that are free'
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if products < 1:
        raise ValueError(f"at least one product must be expected, got products={products}")
    place = torch.device(device)
    free = free_memory(place) if memory is None else memory
    need = n * n * dtype.itemsize
    said = f"the matrix would take {need / 2**30:.1f} GiB of {free / 2**30:.1f} GiB that are free"
    if method != "auto":
        _require(method, need, free, said, obstacle)
        return Choice(method, "it was asked for")
    fresh, stored = (passes + 1) / 2, (passes + 1) / 2 + WRITE + READ * products
    if need <= SHARE * free and stored < fresh * products:
        return Choice("stored", f"the matrix fits into memory, and over {products} products reading it is cheaper")
    if place.type == "cuda" and obstacle is None and _installed():
        return Choice("keops", "it is the quickest on CUDA for a matrix that is not kept")
    if need > SHARE * free:
        return Choice("tiled", said)
    return Choice("tiled", f"{products} products are cheaper to compute afresh than to read from memory")


def _require(method: str, need: int, free: int, said: str, obstacle: str | None) -> None:
    if method == "stored" and need > free:
        raise MemoryError(f"{said} ({need} bytes); use method='tiled', whose memory does not grow with the matrix")
    if method == "keops" and obstacle is not None:
        raise ValueError(f"{obstacle}; use method='tiled'")
    if method == "keops" and not _installed():
        raise ImportError("products by KeOps need pykeops and a C++ compiler; pip install 'kernelfield[keops]'")


def _installed() -> bool:
    return find_spec("pykeops") is not None
