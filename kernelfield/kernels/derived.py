"""Product kernels under differential operators, from tables of one input each.

The kernel is stationary in every input, a product over inputs of mixtures

    k(x, x') = prod_d k_d(x_d - x'_d),    k_d(t) = sum_q w_q g(t; l_q) cos(2 pi mu_q t),

so the covariance of D^a u(x) with D^b u(x') is a product of derivatives of functions of one
difference, (-1)^|b| prod_d k_d^(a_d + b_d)(x_d - x'_d), and

    k_d^(m)(t) = sum_q w_q sum_i binom(m, i) g^(i)(t; l_q) (2 pi mu_q)^(m - i) cos(2 pi mu_q t + (m - i) pi / 2).

Points share their coordinates, and on a lattice even the differences: a table holds each difference
once (2m - 1 of m equally spaced coordinates, not m^2), and matrices are gathered from it. Its slopes in
the parameters come from automatic differentiation of the formula above alone, in chunks that are
computed again, so that memory is that of the table.

Sources: Fang et al. (2024), section 3, for the mixtures; Rasmussen & Williams (2006), section 9.4, for
processes under linear operators.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.kernels.bumps import Bump

CHUNK = 2**16  # differences of a table whose graph is alive at once
LATTICE = 1e-14  # of the extent: how far from a lattice a point on it may be by rounding


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture in one input: logarithms of weights and lengthscales, and frequencies, each (Q,)."""

    bump: Bump
    log_weights: Tensor
    log_lengths: Tensor
    frequencies: Tensor

    @property
    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        """What is learned."""
        return self.log_weights, self.log_lengths, self.frequencies

    def derivatives(self, tau: Tensor, orders: Sequence[int]) -> Tensor:
        """k^(m)(tau) for each order m, (len(orders), t) at differences (t,), differentiable.

        >>> from kernelfield.kernels.bumps import GaussianBump
        >>> zero = torch.zeros(1)
        >>> mixture = Mixture(GaussianBump(), zero, zero, zero + 0.5)
        >>> round(mixture.derivatives(zero, [2]).item(), 4)  # -1 / lengthscale^2 - (2 pi mu)^2
        -10.8696
        """
        self.bump.require(max(orders))
        weights, lengths, omega = self.log_weights.exp(), self.log_lengths.exp(), 2 * math.pi * self.frequencies
        phase = tau[:, None] * omega
        cosine, sine = phase.cos(), phase.sin()
        turned = (cosine, -sine, -cosine, sine)  # derivatives of the cosine in its phase
        envelopes = [self.bump.derivative(tau[:, None], lengths, i) for i in range(max(orders) + 1)]
        rows = []
        for m in orders:
            parts = (math.comb(m, i) * envelopes[i] * turned[(m - i) % 4] * omega ** (m - i) for i in range(m + 1))
            rows.append(sum(parts, torch.zeros_like(phase)) @ weights)
        return torch.stack(rows)

    def table(self, tau: Tensor, orders: Sequence[int]) -> Tensor:
        """`derivatives`, with slopes in the parameters alone and memory of the result alone."""
        table: Tensor = _Chunked.apply(self.bump, tau, tuple(orders), *self.parameters)
        return table


class _Chunked(torch.autograd.Function):
    """Derivatives of a mixture, chunk by chunk of differences."""

    @staticmethod
    def forward(ctx, bump, tau, orders, *parameters):  # type: ignore[no-untyped-def]
        ctx.bump, ctx.orders = bump, orders
        ctx.save_for_backward(tau, *parameters)
        mixture = Mixture(bump, *parameters)
        return torch.cat([mixture.derivatives(part, orders) for part in tau.split(CHUNK)], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        tau, *saved = ctx.saved_tensors
        parameters = [p.detach().requires_grad_(True) for p in saved]
        totals = [torch.zeros_like(p) for p in saved]
        with torch.enable_grad():
            for part, slope in zip(tau.split(CHUNK), grad.split(CHUNK, -1), strict=True):
                value = Mixture(ctx.bump, *parameters).derivatives(part, ctx.orders)
                for total, one in zip(totals, torch.autograd.grad(value, parameters, slope), strict=True):
                    total.add_(one)
        return None, None, None, *totals


@dataclass(frozen=True, eq=False)
class Differences:
    """The differences a_i - b_j of two lists of coordinates, each value of a lattice once.

    tau (t,) holds the values; entry (i, j) is tau[left[i] + right[j]].
    """

    tau: Tensor
    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> "Differences":
        """Of coordinates a (n,) and b (k,)."""
        (one, i), (two, j) = (x.unique(return_inverse=True) for x in (a, b))
        steps = _lattice(one, two)
        if steps is None:
            return cls((one[:, None] - two).flatten(), i * len(two), j)
        first, second, spacing = steps
        low, high = int(first.min() - second.max()), int(first.max() - second.min())
        return cls(spacing * torch.arange(low, high + 1).to(a), first[i] - low, -second[j])

    def index(self) -> Tensor:
        """Where each entry (n, k) is in tau."""
        return self.left[:, None] + self.right


def _lattice(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, float] | None:
    """The places of coordinates on a common lattice, and its spacing; None where a table of it is no smaller."""
    whole = torch.cat([one, two]).unique()
    extent = float(whole[-1] - whole[0])
    if extent == 0:
        return None
    gaps = whole.diff()
    spacing = extent / round(extent / float(gaps[gaps > 1e-9 * extent].min()))
    places = ((one - whole[0]) / spacing).round(), ((two - whole[0]) / spacing).round()
    reach = float(whole.abs().max())
    for x, place in zip((one, two), places, strict=True):
        if (x - whole[0] - place * spacing).abs().max() > LATTICE * reach:
            return None
    if 2 * extent / spacing + 1 >= len(one) * len(two):
        return None
    return places[0].long(), places[1].long(), spacing
