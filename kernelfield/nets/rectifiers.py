"""Rectifiers: activations that are linear on either side of zero.

phi(u) = a min(u, 0) + b max(u, 0) is homogeneous, so that correlations map to correlations
whatever the variances. With e = sin^2(theta / 2) and kappa = (a - b)^2 / (pi (a^2 + b^2)),

    e' = e - kappa (sin theta - theta cos theta) / 2,    de'/de = 1 - kappa theta,

and the variance and the dual of phi' are (a^2 + b^2) / 2 times a^2 and 1 - kappa theta.

The sign and the step see directions alone: e' = theta / pi and theta / (2 pi).

Source: Cho & Saul (2009), "Kernel Methods for Deep Learning", eq. (6)-(7).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernelfield.nets.activation import Activation, angle
from kernelfield.nets.state import CovState

Number = float | Tensor


class Rectifier(Activation):
    """An activation with the slopes `left` and `right` of zero."""

    left: Number
    right: Number

    def phi(self, u: Tensor) -> Tensor:
        return self.left * u.clamp_max(0) + self.right * u.clamp_min(0)

    @property
    def gain(self) -> Number:
        """E[phi(u)^2] / E[u^2]."""
        return (self.left**2 + self.right**2) / 2

    @property
    def kappa(self) -> Number:
        """How strongly angles shrink: from 0 for a linear function to 2 / pi for |u|."""
        return (self.left - self.right) ** 2 / (2 * math.pi * self.gain)

    def rule(self, state: CovState) -> CovState:
        gain, kappa = self.gain, self.kappa
        haversine, slope = fold(state.haversine, kappa)
        tangent = None if state.tangent is None else (state.tangent * slope).mul_(gain)
        root = gain**0.5
        return state.with_std(state.std1 * root, state.std2 * root, haversine, tangent)


@dataclass(frozen=True)
class Relu(Rectifier):
    """phi(u) = max(u, 0)."""

    left = 0.0
    right = 1.0


@dataclass(frozen=True)
class Abs(Rectifier):
    """phi(u) = |u|."""

    left = -1.0
    right = 1.0

    def rule(self, state: CovState) -> CovState:
        """Opposite inputs are one input to |u|: their angle is measured from the nearer end."""
        opposed = state.haversine > 0.5
        folded = replace(state, haversine=torch.where(opposed, 1 - state.haversine, state.haversine))
        after = super().rule(folded)
        if after.tangent is None:
            return after
        return replace(after, tangent=torch.where(opposed, -after.tangent, after.tangent))


@dataclass(frozen=True)
class LeakyRelu(Rectifier):
    """phi(u) = max(u, 0) + slope min(u, 0); a positive slope is learned, as in a PReLU."""

    slope: Number = 0.01
    right = 1.0

    @property
    def left(self) -> Number:  # type: ignore[override]
        return self.slope


@dataclass(frozen=True)
class ABRelu(Rectifier):
    """phi(u) = a min(u, 0) + b max(u, 0)."""

    a: Number
    b: Number

    @property
    def left(self) -> Number:  # type: ignore[override]
        return self.a

    @property
    def right(self) -> Number:  # type: ignore[override]
        return self.b


class Threshold(Activation):
    """An activation of two levels, whose slope is zero; a network stops learning below it."""

    size: float  # the root of E[phi(u)^2]
    turn: float  # e' of opposite inputs

    def rule(self, state: CovState) -> CovState:
        haversine = angle(state.haversine) * (self.turn / math.pi)
        std1, std2 = (self.size * (std > 0).to(std) for std in (state.std1, state.std2))
        haversine = haversine * (std1 * std2 > 0)
        tangent = None if state.tangent is None else torch.zeros_like(state.tangent)
        return state.with_std(std1, std2, haversine, tangent)


@dataclass(frozen=True)
class Sign(Threshold):
    """phi(u) = -1, 0 or 1, as u is negative, zero or positive."""

    size = 1.0
    turn = 1.0

    def phi(self, u: Tensor) -> Tensor:
        return u.sign()


@dataclass(frozen=True)
class Step(Threshold):
    """phi(u) = 1 where u > 0 and 0 elsewhere."""

    size = math.sqrt(0.5)
    turn = 0.5

    def phi(self, u: Tensor) -> Tensor:
        return (u > 0).to(u)


def fold(haversine: Tensor, kappa: Number) -> tuple[Tensor, Tensor]:
    """e' and de'/de of a rectifier, see the module docstring."""
    kappa = kappa if isinstance(kappa, Tensor) else haversine.new_tensor(kappa)
    if haversine.requires_grad or kappa.requires_grad:
        return _Fold.apply(haversine, kappa)
    return _fold(haversine, kappa)[:2]


def _fold(e: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """e', de'/de, theta / 2 and sin(theta) / 2."""
    half = e.sqrt().asin_()
    sine = torch.addcmul(e, e, e, value=-1).clamp_min_(0).sqrt_()
    after = torch.addcmul(e, torch.addcmul(half, e, half, value=-2).sub_(sine), kappa).clamp_min_(0)
    return after, torch.addcmul(half.new_ones(()), half, kappa, value=-2), half, sine


def contact(e: Tensor) -> float:
    """sin(theta) / 2 below which two points are one, up to rounding, and slopes have their kink."""
    return 16 * torch.finfo(e.dtype).eps


class _Fold(torch.autograd.Function):
    """The chain rule through the arcsine is infinity minus infinity at e = 0, where every
    diagonal sits; this states the finite answer. The slope has a kink there: its derivative is
    that of a symmetric function, 0.
    """

    @staticmethod
    def forward(ctx: Any, e: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor]:
        after, slope, half, sine = _fold(e, kappa)
        ctx.save_for_backward(e, kappa, slope, half, sine)
        return after, slope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, after_grad: Tensor, slope_grad: Tensor) -> tuple[Tensor, Tensor]:
        e, kappa, slope, half, sine = ctx.saved_tensors
        bend = torch.where(sine > contact(e), kappa / sine, 0)
        grad = after_grad * slope - slope_grad * bend
        by_kappa = after_grad * (half * (1 - 2 * e) - sine) - slope_grad * (2 * half)
        return grad.sum_to_size(e.shape), by_kappa.sum_to_size(kappa.shape)
