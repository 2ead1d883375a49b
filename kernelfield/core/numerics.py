"""Numerical policy, stated once: how singular a matrix may be, and how large."""

import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

JITTER = (0.0, 1e-10, 1e-8, 1e-6)  # relative to the mean of the diagonal
SMALL = 1500  # rows below which a second thread costs a fit more than it computes, and far more on a busy machine
MEMORY_SHARE = 0.9  # of the free memory; the rest is left to whatever else the process holds

# Exponentials are powers of two, e^x = 2^(x log2 e): two to four times as fast as `exp`, which math libraries slow
# down on some makers' processors. What it costs, |x| eps relative to e^x, is for x <= 0 nowhere more than eps.
BINARY = 1 / math.log(2)


class NotPositiveDefinite(ValueError):
    """A matrix that should be positive definite is not, even with the largest jitter."""


class NotConverged(UserWarning):
    """An iterative answer is further from its solution than it was asked to be."""


def cholesky(A: Tensor) -> Tensor:
    """Lower factor of A (*b, n, n), with the least jitter of the ladder that succeeds.

    Only the lower triangle of A is read. Each matrix of a batch climbs the ladder alone,
    so its factor does not depend on its neighbours.

    Errors: NotPositiveDefinite, naming the smallest eigenvalue and the remedy.
    """
    factor, info = torch.linalg.cholesky_ex(A)
    if not (info.any() if info.ndim else info.item()):
        return factor
    size = A.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
    failed = (info > 0).unsqueeze(-1)
    added = torch.zeros_like(size)
    for jitter in JITTER[1:]:
        added = torch.where(failed, jitter * size, added)
        factor, info = torch.linalg.cholesky_ex(A + torch.diag_embed(added.expand(A.shape[:-1])))
        failed = (info > 0).unsqueeze(-1)
        if not failed.any():
            return factor
    raise NotPositiveDefinite(_complaint(A))


def _complaint(A: Tensor) -> str:
    if not A.isfinite().all():
        return "the matrix holds NaN or infinite values; check the inputs and the kernel's hyperparameters"
    least = torch.linalg.eigvalsh(A.detach()).min().item()
    return (
        f"the matrix is not positive definite: its smallest eigenvalue is {least:.3g}; "
        "raise the noise, remove near-duplicate inputs or check the kernel"
    )


def schur(K: Tensor, half: Tensor) -> Tensor:
    """K - half^T half for half (*b, k, n), with its rounding error added to the diagonal."""
    return K - half.mT @ half + torch.diag_embed(rounding(K.diagonal(dim1=-2, dim2=-1), half))


def rounding(diagonal: Tensor, half: Tensor) -> Tensor:
    """The rounding error of diagonal - column sums of half^2, for half (*b, k, n).

    The difference may be far smaller than its terms, so the error is measured against the
    terms; jitter relative to the difference would be too little.
    """
    return half.shape[-2] * torch.finfo(diagonal.dtype).eps * diagonal


@cache
def slow_functions() -> bool:
    """Whether arc cosines and square roots of arrays come from MKL on a processor that it serves slowly.

    They then take about twice as long as atan2 and 1 / sqrt, which torch vectorises by itself; on Intel's own
    processors MKL's are the quicker ones.
    """
    known = Path("/proc/cpuinfo")
    maker = known.read_text() if known.exists() else platform.processor()
    return torch.backends.mkl.is_available() and "GenuineIntel" not in maker


def placed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a file in memory of their own.

    A reader may leave them anywhere in its buffer, and some processors' products round by the alignment of what they
    multiply: a model that was read would answer with other last digits than the one that was written.
    """
    return {name: tensor.clone() for name, tensor in tensors.items()}


def broadcast(*shapes: torch.Size) -> torch.Size:
    """The shape of arrays of these shapes together; torch's own function imports sympy, 0.3 s, at its first call.

    >>> broadcast(torch.Size([3, 1]), torch.Size([2]))
    torch.Size([3, 2])
    """
    return torch.Size(np.broadcast_shapes(*shapes))


def require_room(n: int, bytes_each: int, device: torch.device, *, what: str) -> None:
    """Refuse arrays of n x n entries of `bytes_each` bytes in all, and say how many rows there is room for.

    Errors: MemoryError.
    """
    room = math.isqrt(int(MEMORY_SHARE * free_memory(device)) // bytes_each)
    remedy = f"fit a random sample of at most {room} rows instead"
    require_memory(bytes_each * n * n, device, what=what, remedy=remedy)


def require_memory(needed: int, device: torch.device, *, what: str, remedy: str) -> None:
    """Refuse an allocation of `needed` bytes that `device` has no room for, before it is made.

    Errors: MemoryError, with the need, what is free and the remedy.
    """
    free = free_memory(device)
    if needed > MEMORY_SHARE * free:
        raise MemoryError(
            f"{what} needs about {needed / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB are free; {remedy}"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":") for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: count all physical memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def threads_for(n: int) -> Iterator[None]:
    """One thread for a loop over n x n matrices that are small, and torch's own number again after it.

    The threads of a pool wait for each other by spinning: on matrices of microseconds, and with
    other work on the machine, that has been seen to slow a fit twentyfold.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if n < SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
