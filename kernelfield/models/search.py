"""What a fit of a kernel to data starts from, and the race of several starts to its end."""

import copy
import math
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import Mixing
from kernelfield.core.numerics import threads_for
from kernelfield.kernels.grid import GridKernel
from kernelfield.kernels.named import named
from kernelfield.models.fit import Search, minimise

SUBSET = 512  # rows on which the starts race when there are more; the winner goes on with all
SHIFTS = (0.0, -1.0, 1.0)  # of log lengthscales of the starts, in turn
SHARES = (1e-2, 1e-4, 1e-1)  # of the noise in the targets' size at the starts, in turn


class Settings(Protocol):
    """What the fits of processes have in common."""

    @property
    def noise(self) -> float | str: ...

    mean: Literal["constant", "zero", "linear"]
    mixing: Mixing
    restarts: int
    steps: int


def check_settings(settings: Settings) -> None:
    """Refuse values that no fit can start from.

    Errors: ValueError, with the value and the remedy.
    """
    noise = settings.noise
    if isinstance(noise, str) or not (noise > 0 and math.isfinite(noise)):
        found = repr(noise) if isinstance(noise, str) else f"{noise:g}"
        raise ValueError(f"noise must be a positive variance, got {found}; give a value such as 0.1")
    if settings.mean not in ("constant", "zero", "linear"):
        raise ValueError(f"mean must be 'constant', 'zero' or 'linear', got {settings.mean!r}")
    if not isinstance(settings.mixing, Mixing):
        raise ValueError(f"mixing must be a law such as InverseGamma.student(5.0) or Unit(), got {settings.mixing!r}")
    for name, least in (("restarts", 1), ("steps", 0)):
        if getattr(settings, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(settings, name)}")


class Evidence(Protocol):
    """An objective for `minimise` that knows where to start and to stop."""

    def bounds(self) -> list[tuple[float, float]]: ...

    def given(self) -> np.ndarray:
        """The parameters as the user gave them."""

    def scattered(self, shift: float, noise: float, generator: torch.Generator) -> np.ndarray:
        """A random start: lengthscales times exp(shift), noise as a share of the targets' size."""

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]: ...


def race(
    evidence: Callable[[Data], Evidence],
    data: Data,
    *,
    restarts: int,
    steps: int,
    generator: torch.Generator,
    carry: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, list[Search]]:
    """The best parameters found, for the evidence of all the data, and the records of the searches.

    carry : from the end of the searches on a sample of the rows to a start on all of them, where
        parameters belong to rows; None goes on from where they ended.
    """
    few = sample(data, SUBSET, generator)
    whole = evidence(data)
    first = whole if few is data else evidence(few)
    starts = [first.given()]
    for i in range(restarts - 1):
        starts.append(first.scattered(SHIFTS[i % 3] * (1 + i // 3), SHARES[i % 3], generator))
    with threads_for(len(few.X)):
        theta, searches = minimise(first, starts, first.bounds(), steps, label=f"fit to {len(few.X)} rows")
    if few is not data:
        start = theta if carry is None else carry(theta)
        with threads_for(len(data.X)):
            theta, last = minimise(whole, [start], whole.bounds(), steps, label=f"fit to all {len(data.X)} rows")
        searches += last
    return theta, searches


def sample(data: Data, size: int, generator: torch.Generator) -> Data:
    """A random sample of rows, or the data themselves where they are few enough to race on."""
    if len(data.X) <= 1.5 * size:
        return data
    rows = torch.randperm(len(data.X), generator=generator)[:size].to(data.X.device)
    return Data(data.X[rows], data.Y[rows], None if data.weight is None else data.weight[rows])


def kernel_for(kernel: Kernel | str | None, X: Tensor, size: Tensor) -> Kernel:
    """A copy of the user's kernel, or the one of a name scaled to X and to functions of mean square `size`.

    Errors: ValueError for an unknown name or a kernel for another number of inputs.
    """
    if isinstance(kernel, Kernel):
        own = copy.deepcopy(kernel).to(X)
        _check_inputs(own, X.shape[1])
        return own
    spread = X.std(0, correction=0)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    return named("matern52" if kernel is None else kernel, spread, size)


def _check_inputs(kernel: Kernel, d: int) -> None:
    """Refuse a kernel whose lengthscales or active_dims do not fit d inputs."""
    if isinstance(kernel, GridKernel):  # what is inside sees the columns of its axis
        kernel.slices(torch.empty(1, d))
        return
    for module in kernel.modules():
        if not isinstance(module, Kernel):
            continue
        name, dims = type(module).__name__, module.active_dims
        if dims is not None and dims.max() >= d:
            raise ValueError(
                f"active_dims of {name} names input {int(dims.max())}, and the data have {d} inputs, from 0"
            )
        expected, found = (d if dims is None else len(dims)), module.ard_num_dims
        if found is not None and found != expected:
            remedy = f"make it with ard_num_dims={expected}, or choose {found} inputs by active_dims"
            raise ValueError(f"{name} has {found} lengthscales and the data {expected} inputs; {remedy}")
