"""Radial functions k(r^2) with k(0) = 1, and their slopes, for tiles of stretched squared distances.

A profile gives, for a tile of stretched squared distances a = stretch * r^2, the values K and the
slopes S = -2 outputscale * dk/d(r^2) / gain >= 0, which share their exponential.

Source: Rasmussen & Williams (2006), eq. (4.9), (4.14), (4.17) and (4.19).
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from kernelfield.core.numerics import BINARY

CONTACT = 1e-7  # Matern-1/2 has a kink at r = 0; nearer pairs than this get its symmetric derivative, 0
EXPONENTIAL = 3.0  # passes over a tile that an exponential or a logarithm is worth


class Profile(ABC):
    """A radial function k with k(0) = 1; `shaped` if it has a shape parameter."""

    stretch: float  # how a tile's squared distances are scaled, to spare a pass over it
    gain: float  # the constant factor left out of S, for the same reason
    shaped = False
    shape_reach = (1e-3, 1e4)  # bounds of the shape in a fit
    kinked = False  # whether k is linear in r at 0, so that r^2 must be exact there
    negative = False  # whether `values` takes -a
    obstacle: str | None = None  # why there is no `formula`
    passes: float  # the price of `values`, in passes over a tile of an elementary operation

    @abstractmethod
    def tile(self, a: Tensor, log_scale: Tensor, K: Tensor, S: Tensor, shape: Tensor | None) -> None:
        """Write K and S (*b, rows, columns) for a = stretch * r^2, lost unless `shaped`."""

    def values(self, a: Tensor, scratch: Tensor, shape: Tensor | None) -> Tensor:
        """k alone, in place of a = stretch * r^2, or of -a, up to rounding; scratch may be overwritten."""
        self.tile(a.clamp_min_(0), a.new_zeros(()), scratch, torch.empty_like(a), shape)
        return scratch

    def formula(self, a: Any, shape: Any) -> Any:
        """k for lazy tensors a = stretch * r^2 and shape, if there is no `obstacle`."""
        raise NotImplementedError(self.obstacle)

    def shape_slope(self, a: Tensor, K: Tensor, shape: Tensor) -> Tensor:
        """dK / dlog shape, of the shape of K."""
        raise NotImplementedError(f"{type(self).__name__} has no shape parameter")


class Rbf(Profile):
    """k = exp(-r^2 / 2)."""

    stretch = 0.5
    gain = 1.0
    negative = True
    passes = 1.0 + EXPONENTIAL

    def values(self, a: Tensor, scratch: Tensor, shape: Tensor | None) -> Tensor:
        return a.mul_(BINARY).exp2_()

    def formula(self, a: Any, shape: Any) -> Any:
        return (-a).exp()

    def tile(self, a: Tensor, log_scale: Tensor, K: Tensor, S: Tensor, shape: Tensor | None) -> None:
        torch.exp(torch.sub(log_scale, a, out=a), out=K)
        S.copy_(K)


class Matern12(Profile):
    """k = exp(-r)."""

    stretch = 1.0
    gain = 1.0
    kinked = True
    passes = 5.0 + EXPONENTIAL

    def values(self, a: Tensor, scratch: Tensor, shape: Tensor | None) -> Tensor:
        return a.abs_().sqrt_().mul_(-BINARY).exp2_()

    def formula(self, a: Any, shape: Any) -> Any:
        return (-a.sqrt()).exp()

    def tile(self, a: Tensor, log_scale: Tensor, K: Tensor, S: Tensor, shape: Tensor | None) -> None:
        r = a.sqrt_()
        torch.exp(log_scale - r, out=K)
        torch.div(K, r.masked_fill_(r < CONTACT, torch.inf), out=S)


class Matern32(Profile):
    """k = (1 + u) exp(-u), u = sqrt(3) r."""

    stretch = 3.0
    gain = 3.0
    passes = 5.0 + EXPONENTIAL

    def values(self, a: Tensor, scratch: Tensor, shape: Tensor | None) -> Tensor:
        u = a.abs_().sqrt_()
        growth = torch.mul(u, BINARY, out=scratch).exp2_()  # beyond the largest number K is 0, as it should be
        return u.add_(1).div_(growth)

    def formula(self, a: Any, shape: Any) -> Any:
        u = a.sqrt()
        return (1 + u) * (-u).exp()

    def tile(self, a: Tensor, log_scale: Tensor, K: Tensor, S: Tensor, shape: Tensor | None) -> None:
        u = a.sqrt_()
        torch.exp(log_scale - u, out=S)
        torch.addcmul(S, u, S, out=K)


class Matern52(Profile):
    """k = (1 + u + u^2 / 3) exp(-u), u = sqrt(5) r."""

    stretch = 5.0
    gain = 5.0 / 3.0
    passes = 6.0 + EXPONENTIAL

    def values(self, a: Tensor, scratch: Tensor, shape: Tensor | None) -> Tensor:
        u = torch.sqrt(a.abs_(), out=scratch)
        polynomial = torch.add(u, a, alpha=1 / 3, out=a).add_(1)
        return polynomial.div_(u.mul_(BINARY).exp2_())  # as for Matern32

    def formula(self, a: Any, shape: Any) -> Any:
        u = a.sqrt()
        return (1 + u + a * (1 / 3)) * (-u).exp()  # KeOps divides by integers in single precision

    def tile(self, a: Tensor, log_scale: Tensor, K: Tensor, S: Tensor, shape: Tensor | None) -> None:
        u = a.sqrt()
        decay = torch.sub(log_scale, u).exp_()
        torch.addcmul(decay, u, decay, out=S)
        torch.addcmul(S, a, decay, value=1 / 3, out=K)


class RationalQuadratic(Profile):
    """k = (1 + r^2 / (2 alpha))^-alpha; alpha, the shape, mixes lengthscales."""

    stretch = 0.5
    gain = 1.0
    shaped = True
    passes = 5.0 + 3 * EXPONENTIAL

    def values(self, a: Tensor, scratch: Tensor, shape: Tensor | None) -> Tensor:
        assert shape is not None
        return a.clamp_min_(0).div_(shape).log1p_().mul_(-BINARY * shape).exp2_()

    def formula(self, a: Any, shape: Any) -> Any:
        return (-shape * (1 + a / shape).log()).exp()

    def tile(self, a: Tensor, log_scale: Tensor, K: Tensor, S: Tensor, shape: Tensor | None) -> None:
        assert shape is not None
        share = a / shape
        torch.exp(log_scale - shape * share.log1p(), out=K)
        torch.div(K, share.add_(1), out=S)

    def shape_slope(self, a: Tensor, K: Tensor, shape: Tensor) -> Tensor:
        share = a / shape
        return K * (share / (1 + share) - share.log1p()) * shape
