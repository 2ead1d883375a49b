"""Elementwise nonlinearities and their Gaussian duals.

The dual of an activation phi is the pair of expectations over jointly Gaussian (u, v)

    tau = E[phi(u) phi(v)]    and    E[phi'(u) phi'(v)] = dtau / dcov(u, v),

which carry the NNGP and the NTK through the activation. With a and b the standard deviations of
u and v, e their haversine, and a', b', e' those of the outputs, z standard normal and s(e) the
second expectation,

    e' = (1 - tau / (a' b')) / 2
       = E[(phi(a z) / a' - phi(b z) / b')^2] / 4 + a b / (a' b') int_0^e s(t) dt.

The first line cancels where the outputs nearly coincide; the second, whose terms are positive,
takes over there. Odd and even functions turn opposite inputs into coincident ones.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kernelfield.nets.algebra import Layer
from kernelfield.nets.points import NEAR
from kernelfield.nets.state import CovState, Wanted

# Gauss-Legendre in t = e x^2: a kink of phi makes the slope a function of the root of e.
SPAN, SHARE = (0.5 * v for v in np.polynomial.legendre.leggauss(4))
SPAN = SPAN + 0.5

FEW = 16  # below one near pair in so many, those alone are computed again
CONTACT = 16  # units of rounding within which two angles or deviations are one


class Activation(Layer):
    """An elementwise nonlinearity on a Gaussian layer."""

    @abstractmethod
    def phi(self, u: Tensor) -> Tensor:
        """The function itself."""

    @abstractmethod
    def rule(self, state: CovState) -> CovState:
        """Moments of phi(u) from those of u."""

    def propagate(self, state: CovState) -> CovState:
        return state.lift(self.rule)

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        return Pointwise(self), fan_in

    def gaussian(self, before: bool) -> bool:
        if not before:
            raise ValueError(
                f"{type(self).__name__} needs a Gaussian layer such as Dense or Conv before it: behind an "
                "activation, a product, a concatenation or the bare inputs it has no closed form"
            )
        return False

    def wanted(self, after: Wanted) -> Wanted:
        return replace(after, std=True)


@dataclass(frozen=True, eq=False)
class Pair:
    """Jointly Gaussian (u, v): the haversine of their angle and their standard deviations."""

    haversine: Tensor
    std1: Tensor
    std2: Tensor

    @cached_property
    def both(self) -> Tensor:
        """The product of the standard deviations."""
        return self.std1 * self.std2

    @cached_property
    def covariance(self) -> Tensor:
        return (1 - 2 * self.haversine) * self.both

    @cached_property
    def var1(self) -> Tensor:
        return self.std1.square()

    @cached_property
    def var2(self) -> Tensor:
        return self.std2.square()

    @cached_property
    def gap(self) -> Tensor:
        """The determinant var1 var2 - covariance^2."""
        return 4 * self.both.square() * self.haversine * (1 - self.haversine)

    @cached_property
    def distance(self) -> Tensor:
        """E[(u - v)^2] / 2."""
        return 0.5 * (self.std1 - self.std2).square() + 2 * self.haversine * self.both


class Smooth(Activation):
    """An activation whose dual is a function of the haversine and the standard deviations."""

    @abstractmethod
    def value(self, pair: Pair) -> Tensor:
        """E[phi(u) phi(v)]; broadcasts what a pair holds."""

    @abstractmethod
    def slope(self, pair: Pair) -> Tensor:
        """E[phi'(u) phi'(v)]."""

    @property
    def parity(self) -> int:
        """1 for an even function, -1 for an odd one, 0 for neither."""
        return 0

    def variance(self, std: Tensor) -> Tensor:
        """E[phi(u)^2]."""
        return self.value(Pair(torch.zeros_like(std), std, std))

    def unlike(self, pair: Pair) -> Tensor:
        """E[(phi(a z) / a' - phi(b z) / b')^2] / 2: what e' owes to the standard deviations alone."""
        nodes, weights = (t.to(pair.std1) for t in NORMAL)
        values = (self.phi(along(self, nodes, std)) for std in (pair.std1, pair.std2))
        first, second = (v * weights.reshape(-1, *[1] * (v.ndim - 1)) for v in values)
        return apart(first, second)

    def rule(self, state: CovState) -> CovState:
        before, opposed = Pair(state.haversine, state.std1, state.std2), None
        if self.parity:
            opposed = state.haversine > 0.5
            before = replace(before, haversine=torch.where(opposed, 1 - state.haversine, state.haversine))
        std1, std2 = (root(self.variance(s)) for s in (state.std1, state.std2))
        haversine = self._haversine(before, std1 * std2)
        tangent = None if state.tangent is None else state.tangent * self.slope(before)
        if opposed is not None and self.parity < 0:
            haversine = torch.where(opposed, 1 - haversine, haversine)
        elif opposed is not None and tangent is not None:
            tangent = torch.where(opposed, -tangent, tangent)
        return state.with_std(std1, std2, haversine, tangent)

    def _haversine(self, before: Pair, both: Tensor) -> Tensor:
        """e', by the line of the module docstring that does not cancel."""
        positive = both > 0
        some = bool(positive.all())
        after = torch.rsub(self.value(before) / (both if some else torch.where(positive, both, 1)), 1) * 0.5
        after = self.mended(after, before, both, after.detach() < torch.finfo(after.dtype).eps ** NEAR).clamp(0, 1)
        return after if some else torch.where(positive, after, 0)

    def mended(self, after: Tensor, before: Pair, both: Tensor, near: Tensor) -> Tensor:
        """e', those of near pairs computed again by the second line of the module docstring."""
        if not near.any():
            return after
        if FEW * int(near.sum()) > near.numel():
            return torch.where(near, self._close(before, both), after)
        places = near.nonzero(as_tuple=True)

        def chosen(t: Tensor) -> Tensor:
            return t.expand(near.shape)[places]

        close = Pair(chosen(before.haversine), chosen(before.std1), chosen(before.std2))
        return after.index_put(places, self._each(chosen)._close(close, chosen(both)))

    def _close(self, before: Pair, both: Tensor) -> Tensor:
        """e' by the second line of the module docstring, where outputs nearly coincide; both is a' b'."""
        eps = torch.finfo(both.dtype).eps
        # A diagonal has passed other layers, and is zero up to their rounding.
        unequal = (before.std1 - before.std2).abs() > CONTACT * eps * before.std1
        different = (both > 0) & (unequal | (before.haversine > (CONTACT * eps) ** 2))
        if not different.any():
            return torch.zeros_like(before.haversine)
        e = torch.where(different, before.haversine, 0)
        mean = sum(
            2 * w * x * self.slope(replace(before, haversine=e * x**2)) for x, w in zip(SPAN, SHARE, strict=True)
        )
        after = 0.5 * self.unlike(before) + before.both / torch.where(both > 0, both, 1) * e * mean
        return torch.where(different, after, 0)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same activation with every scale that comes in a batch changed."""

        def changed(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(changed(v) for v in value)
            return change(value) if isinstance(value, Tensor) and value.ndim else value

        return replace(self, **{f.name: changed(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type, type-var]


class Pointwise(nn.Module):
    """An activation as a module."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation.phi(x)


def root(variance: Tensor) -> Tensor:
    """The square root, with a finite slope at zero."""
    positive = variance > 0
    return torch.where(positive, variance, 1).sqrt() * positive


def angle(haversine: Tensor) -> Tensor:
    """2 asin sqrt(e), zero within rounding of it, with slope 0 at both ends.

    There the true slope is infinite, but e is at its extreme and does not move with the inputs.
    """
    contact = (CONTACT * torch.finfo(haversine.dtype).eps) ** 2
    e = torch.where(haversine > contact, haversine, 0)  # repeated roots would make 1 out of 1e-34
    return _Angle.apply(e) if e.requires_grad else 2 * e.sqrt().asin()


class _Angle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, e: Tensor) -> Tensor:
        ctx.save_for_backward(e)
        return 2 * e.sqrt().asin()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (e,) = ctx.saved_tensors
        square = e * (1 - e)
        return torch.where(square > 0, grad * square.rsqrt(), 0)


def along(activation: Layer, nodes: Tensor, std: Tensor) -> Tensor:
    """The products of nodes (k) and std, with k in front of the axes of std and of all scales."""
    values = (getattr(activation, f.name) for f in fields(activation))  # type: ignore[arg-type]
    scales = (s for v in values for s in (v if isinstance(v, tuple) else (v,)))
    ranks = [s.ndim for s in scales if isinstance(s, Tensor)]
    return nodes.reshape(-1, *[1] * max(std.ndim, *ranks, 0)) * std


def apart(first: Tensor, second: Tensor) -> Tensor:
    """|f / |f| - g / |g||^2 / 2 of vectors f (k, *shape1) and g (k, *shape2); shapes broadcast."""
    units = []
    for vector in (first, second):
        length = root(vector.square().sum(0))
        units.append(vector / torch.where(length > 0, length, 1))
    return _Apart.apply(*units)


class _Apart(torch.autograd.Function):
    """sum_k (f_k - g_k)^2 / 2 for all pairs, without an array of all k and pairs at once."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, g: Tensor) -> Tensor:
        ctx.save_for_backward(f, g)
        total = (f[0] - g[0]).square_()
        for u, v in zip(f[1:], g[1:], strict=True):
            difference = u - v
            total.addcmul_(difference, difference)
        return total.mul_(0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        f, g = ctx.saved_tensors
        by_f, by_g = torch.empty_like(f), torch.empty_like(g)
        for k in range(len(f)):
            part = grad * (f[k] - g[k])
            by_f[k], by_g[k] = part.sum_to_size(f[k].shape), -part.sum_to_size(g[k].shape)
        return by_f, by_g


def _normal(step: float = 0.08, finest: float = 0.08, end: float = 14.0) -> tuple[Tensor, Tensor]:
    """Points and square roots of weights of the standard normal law, denser near zero.

    The trapezoidal rule in t for z = finest sinh t: exponentially accurate for analytic functions,
    with features down to `finest` wide.
    """
    count = int(np.ceil(np.arcsinh(end / finest) / step))
    t = step * (np.arange(-count, count) + 0.5)
    z = finest * np.sinh(t)
    weights = step * finest * np.cosh(t) * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return torch.from_numpy(z), torch.from_numpy(np.sqrt(weights))


NORMAL = _normal()
