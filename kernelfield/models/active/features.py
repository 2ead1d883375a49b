"""Base kernels of active learning: what makes two rows alike.

    Linear       x . x'
    LastLayer    the gradients in the weights of a network's last dense layer
    Gradients    those in all of its parameters, the tangent kernel
    Covariance   any GPyTorch kernel, such as an NNGP or one fitted by a process

The gradient in the weights of a dense layer is the product h (x) s of its input and of the slope of
the output in its own, so that a random sketch has a cheap form: with independent vectors a, b of
random signs, a layer has the features

    (a . h) (b . s) / sqrt(m)    in column 1 .. m,

whose products estimate (h . h') (s . s') without bias; those of several layers are added, with
signs of their own. A row costs O(m (c + w)) for a layer of c inputs and w outputs, where a sketch of
the whole gradient costs O(m c w). In exchange its variance is larger, by up to a factor of three.

Source: Holzmueller, Zaverkin, Kaestner & Steinwart (2023), "A Framework and Benchmark for Deep Batch
Active Learning for Regression", sections 4.1 and 4.2.4 (with Gaussian vectors in place of signs).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce

import torch
from gpytorch.kernels import Kernel
from torch import Tensor, nn

from kernelfield.models.active.finite import FeatureKernel, FiniteKernel, PointKernel
from kernelfield.nets.empirical import empirical_diagonal, empirical_ntk
from kernelfield.nets.jacobian import Factored, Group, constants, groups

LIMIT = 2**24  # numbers of gradients that are held at a time, 128 MiB in double precision


class Base(ABC):
    """A way to compare rows."""

    @abstractmethod
    def over(self, X: Tensor) -> FiniteKernel:
        """The kernel at the rows of X (n, d)."""


@dataclass(frozen=True)
class Linear(Base):
    """The inputs themselves."""

    def over(self, X: Tensor) -> FiniteKernel:
        return FeatureKernel(X)


@dataclass(frozen=True, eq=False)
class Covariance(Base):
    """A GPyTorch kernel, with the hyperparameters that it has."""

    kernel: Kernel

    def over(self, X: Tensor) -> FiniteKernel:
        return PointKernel(self.kernel, X)


@dataclass(frozen=True, eq=False)
class LastLayer(Base):
    """What the last dense layer of a trained network sees, with the input that its biases stand for.

    module: a torch module from (n, d) to (n, o) that ends in a dense layer.
    Errors: ValueError for a module that does not.

    >>> LastLayer(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))).over(torch.zeros(5, 2)).features.shape
    torch.Size([5, 4])
    """

    module: nn.Module

    @torch.no_grad()
    def over(self, X: Tensor) -> FiniteKernel:
        X = _taken(self.module, X)
        (name, cost) = self._last(X)
        group = Factored(self.module, (name,), cost)
        blocks = [group.shares(part)[0].h for part in X.split(max(1, LIMIT // cost))]
        return FeatureKernel(torch.cat([h.detach() for h in blocks]))

    def _last(self, X: Tensor) -> tuple[str, int]:
        """The dense layer whose slopes are one, by name, and the numbers it adds for each row."""
        for group in groups(self.module, X, LIMIT):
            for name in reversed(group.names if isinstance(group, Factored) else ()):
                (share,) = Factored(self.module, (name,), group.cost).shares(X[:1])
                o = share.slopes.shape[1]
                if torch.equal(share.slopes[0], torch.eye(o).to(share.slopes)):
                    return name, group.cost
        raise ValueError(
            f"{type(self.module).__name__} does not end in a dense layer, whose inputs would be the features; "
            "use Gradients"
        )


@dataclass(frozen=True, eq=False)
class Gradients(Base):
    """The tangent kernel of a trained network, as a mean over its outputs; follow it by a Sketch.

    Without a sketch the kernel is exact, and each pick costs a pass of the pool through the network.

    module: a torch module from (n, d) to (n, o) that treats rows one by one.
    """

    module: nn.Module

    def over(self, X: Tensor) -> FiniteKernel:
        return GradientKernel(self.module, _taken(self.module, X))


@dataclass(frozen=True, eq=False)
class GradientKernel(FiniteKernel):
    """The tangent kernel of a network at points (n, d)."""

    module: nn.Module
    points: Tensor

    @property
    def size(self) -> int:
        return len(self.points)

    @property
    def device(self) -> torch.device:
        return self.points.device

    @torch.no_grad()
    def diagonal(self) -> Tensor:
        return empirical_diagonal(self.module, self.points, kind="ntk", limit=LIMIT)

    @torch.no_grad()
    def block(self, rows: slice, columns: Tensor) -> Tensor:
        return empirical_ntk(self.module, self.points[rows], self.points[columns], limit=LIMIT)

    @torch.no_grad()
    def total(self, count: int) -> Tensor:
        parts = self.points[:count].split(max(1, LIMIT // self.size))
        return reduce(torch.add, (empirical_ntk(self.module, self.points, p, limit=LIMIT).sum(1) for p in parts))

    @torch.no_grad()
    def sketched(self, size: int, generator: torch.Generator) -> Tensor:
        """Features (n, size) whose products estimate the kernel without bias; see the module docstring."""
        features = self.points.new_zeros(self.size, size)
        for group in groups(self.module, self.points, LIMIT):
            shares = group.shares(self.points[:1])
            step = max(1, LIMIT // max(max(s.h.shape[1], s.slopes[0].numel()) for s in shares))
            for start in range(0, size, step):
                self._project(group, features[:, start : start + step], generator)
        outputs = self.module(self.points[:1]).numel()
        return features.div_(math.sqrt(size * outputs))

    def _project(self, group: Group, features: Tensor, generator: torch.Generator) -> None:
        """Add the projections of a group of parameters to columns (n, k) of the features."""
        rows = max(1, LIMIT // (group.cost + features.shape[1]))
        signs: list[tuple[Tensor, Tensor]] = []
        for points, block in zip(self.points.split(rows), features.split(rows), strict=True):
            sides = [(share.h, share.slopes.flatten(1)) for share in group.shares(points)]
            if not signs:
                k = features.shape[1]
                signs = [(random_signs(h, k, generator), random_signs(s, k, generator)) for h, s in sides]
            for (h, slopes), (a, b) in zip(sides, signs, strict=True):
                block.addcmul_(h @ a, slopes @ b)


def random_signs(side: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Independent +-1, shape (c, size) for rows (n, c)."""
    bits = torch.randint(2, (side.shape[1], size), generator=generator, device=generator.device)
    return (2 * bits - 1).to(side)


def _taken(module: nn.Module, X: Tensor) -> Tensor:
    """Rows of the type and on the device of a module's parameters."""
    parameters = constants(module)
    return X.to(next(iter(parameters.values()))) if parameters else X
