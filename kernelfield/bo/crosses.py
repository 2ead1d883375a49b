"""Covariances between the rows of a fit and points that move, with the slopes of their sums; no graph.

    RadialCross   a stationary kernel
    CurveCross    a `LearningCurve` of two of them, points moving in x at one step s:
                  k(x) = level(x, x_i) + change(x, x_i) kappa(s, r_i) + common kappa(s, 0) kappa(r_i, 0)

Source: `kernelfield.linalg.radial` for the tiles, `kernelfield.kernels.learning_curve` for kappa.
"""

from abc import ABC, abstractmethod

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.kernels.learning_curve import LearningCurve, decay
from kernelfield.kernels.stationary import Stationary
from kernelfield.linalg.radial import Cross


class Crossing(ABC):
    """The matrix between fixed rows and moving points; prior () is the variance at such a point."""

    prior: Tensor

    @abstractmethod
    def fill(self, X: Tensor) -> Tensor:
        """K (r, n) of points X (r, d)."""

    @abstractmethod
    def pull(self, G: Tensor) -> Tensor:
        """The derivatives (r, d) of sum(G o K) in the points of the last `fill`, for G (r, n)."""


class RadialCross(Crossing):
    """See the module docstring."""

    def __init__(self, kernel: Stationary, rows: Tensor) -> None:
        with torch.no_grad():
            self.lengthscale = kernel.lengthscale.reshape(-1).clone()
            self.prior, shape = kernel.outputscale.clone(), kernel._shape()
            self.cross = Cross(rows / self.lengthscale, self.prior, kernel.profile, shape)

    def fill(self, X: Tensor) -> Tensor:
        return self.cross.fill(X / self.lengthscale)

    def pull(self, G: Tensor) -> Tensor:
        return self.cross.pull(G) / self.lengthscale


class CurveCross(Crossing):
    """See the module docstring; rows (n, d + 1), step ()."""

    def __init__(self, kernel: LearningCurve, rows: Tensor, step: Tensor) -> None:
        assert isinstance(kernel.level, Stationary)
        assert isinstance(kernel.change, Stationary)
        self.level, self.change = (RadialCross(part, rows[:, :-1]) for part in (kernel.level, kernel.change))
        with torch.no_grad():
            power, rate, r = kernel.power, kernel.rate, rows[:, -1]
            start = kernel.common * decay(step, power, rate)
            self.fade, self.shared = decay(r + step, power, rate), start * decay(r, power, rate)
            self.prior = self.level.prior + self.change.prior * decay(2 * step, power, rate)
            self.prior += start * decay(step, power, rate)

    def fill(self, X: Tensor) -> Tensor:
        return torch.addcmul(self.level.fill(X) + self.shared, self.change.fill(X), self.fade)

    def pull(self, G: Tensor) -> Tensor:
        return self.level.pull(G) + self.change.pull(G * self.fade)


def crossing(kernel: Kernel, rows: Tensor, step: Tensor | None = None) -> Crossing | None:
    """The covariances of a kernel in closed form, at one step where the last column of rows (n, d) is one; or None."""
    if step is None:
        return RadialCross(kernel, rows) if isinstance(kernel, Stationary) and _plain(kernel) else None
    if not isinstance(kernel, LearningCurve) or kernel.active_dims is not None:
        return None
    parts = (kernel.level, kernel.change)
    if not all(isinstance(part, Stationary) and _plain(part, rows.shape[1] - 1) for part in parts):
        return None
    return None if kernel.batch_shape else CurveCross(kernel, rows, step)


def _plain(kernel: Kernel, inputs: int | None = None) -> bool:
    """Whether a kernel sees exactly the columns it is given, all of them or the first ones, and is a single one."""
    own = kernel.active_dims
    every = own is None if inputs is None else own is not None and own.tolist() == list(range(inputs))
    return every and not kernel.batch_shape
