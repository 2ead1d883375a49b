"""The Matern kernel of any smoothness nu, which can be learned: a Gamma mixture of RBF kernels.

    k(r) = 2^(1 - nu) / Gamma(nu) u^nu K_nu(u) = E[exp(-r^2 / (2 v))],    u = sqrt(2 nu) r,

for v of the Gamma law of mean one and shape nu. With v = e^t the mean is an integral over the
line which the trapezoid rule takes to rounding, with nodes that do not depend on r:

    k(r) = sum_j p_j exp(-r^2 e^-t_j / 2),    p_j proportional to exp(nu (t_j - e^t_j)).

A finite mixture of RBF kernels is positive definite whatever its nodes, nothing cancels for any
nu, and the derivatives in r^2 and nu are sums over the same exponentials. Pairs share their
nodes, so that all sums are one product of a matrix of exponentials with a few columns.

Sources: Rasmussen & Williams (2006), eq. (4.14) and section 4.2.1; the mixture is DLMF 10.32.10.
"""

import math
from typing import Any

import torch
from gpytorch.constraints import Interval
from gpytorch.priors import Prior
from torch import Tensor

from kernelfield.kernels.stationary import Stationary
from kernelfield.linalg.profiles import CONTACT, Profile

DROP = 38.0  # nats below its peak at which the weight of a node is below rounding
FLAT = 45.0  # nats at which an exponential is nothing beside the smallest weight
UNDERFLOW = 200.0  # exponents end here: numbers that underflow take exp and products ten times as long
CHUNK = 2**16  # exponentials at once: what a core's second-level cache holds
REACH = (0.05, 1000.0)  # of nu in a fit; at its upper end the kernel is the RBF to 1e-3


class GeneralMatern(Stationary):
    """Matern of any smoothness nu > 0: samples have as many derivatives as there are integers below nu.

    nu : where the smoothness starts, or what it is without learn_nu. One for each batch.
    nu_constraint : its bounds, if others than those of a fit of `Process`, 0.05 to 1000.

    Errors: ValueError for a nu that is not positive and finite.

    Matern of 1/2, 3/2 and 5/2 are many times faster as `Matern`.

    >>> kernel = GeneralMatern(nu=0.5)
    >>> round(kernel(torch.tensor([[0.0], [1.0]])).to_dense()[0, 1].item(), 4)
    0.3679
    """

    def __init__(
        self,
        nu: float | Tensor = 2.5,
        *,
        learn_nu: bool = True,
        nu_prior: Prior | None = None,
        nu_constraint: Interval | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._own("nu", self.batch_shape, nu_constraint, None)
        if nu_prior is not None:
            self.register_prior("nu_prior", nu_prior, _get_nu, _set_nu)
        self.nu = nu
        self.raw_nu.requires_grad_(learn_nu)

    @property
    def nu(self) -> Tensor:
        """The smoothness, shape (*batch_shape,)."""
        return self.raw_nu_constraint.transform(self.raw_nu)

    @nu.setter
    def nu(self, value: float | Tensor) -> None:
        self._assign("nu", value)

    @property
    def raw_shape(self) -> Tensor:
        return self.raw_nu

    def _shape(self) -> Tensor:
        return self.nu

    @property
    def profile(self) -> Profile:
        return GammaMixture()


class GammaMixture(Profile):
    """k = E[exp(-r^2 / (2 v))] for v ~ Gamma(nu, nu); nu is the shape."""

    stretch = 1.0
    gain = 1.0
    shaped = True
    shape_reach = REACH
    kinked = True
    passes = 1000.0
    obstacle = "Matern of any smoothness is an integral, which KeOps has no formula for"

    def tile(self, a: Tensor, log_scale: Tensor, K: Tensor, S: Tensor, shape: Tensor | None) -> None:
        assert shape is not None
        sums = _mixed(a, shape)
        scale = log_scale.exp()
        torch.mul(sums[0], scale, out=K)
        torch.mul(sums[1], scale, out=S)
        S.masked_fill_(a < CONTACT**2, 0.0)  # infinite for nu < 1, and of no effect on pairs that coincide

    def shape_slope(self, a: Tensor, K: Tensor, shape: Tensor) -> Tensor:
        value, _, slope = _mixed(a, shape)
        return K * slope / value.clamp_min(torch.finfo(a.dtype).tiny)


def _mixed(a: Tensor, shape: Tensor) -> tuple[Tensor, ...]:
    """k, -2 dk/da and dk/dlog nu at a = r^2 (*b, n, k), for nu of shape () or (*b, 1, 1)."""
    if shape.numel() == 1:
        return _of_one(a, shape.item())
    orders = shape.expand(*a.shape[:-2], 1, 1).flatten().tolist()
    parts = [_of_one(tile, nu) for tile, nu in zip(a.reshape(-1, *a.shape[-2:]), orders, strict=True)]
    return tuple(torch.stack(part).reshape(a.shape) for part in zip(*parts, strict=True))


def _of_one(a: Tensor, nu: float) -> tuple[Tensor, ...]:
    flat = a.flatten()
    least = flat.masked_fill(flat <= 0, torch.inf).amin().item() if flat.numel() else torch.inf
    rates, weights = _nodes(nu, least)
    rates, weights = rates.to(flat), weights.to(flat)
    columns = weights.mT.contiguous()
    pieces = flat.split(max(1, CHUNK // len(rates)))
    sums = [columns @ torch.outer(-rates, piece).clamp_min_(-UNDERFLOW).exp_() for piece in pieces]
    value, slope, by_nu = torch.cat(sums, -1).unflatten(-1, a.shape)
    at_zero = a <= 0  # where nodes were left out
    return value.masked_fill_(at_zero, 1.0), slope.masked_fill_(at_zero, 0.0), by_nu.masked_fill_(at_zero, 0.0)


def _nodes(nu: float, least: float) -> tuple[Tensor, Tensor]:
    """Rates (j,) of the exponentials in r^2, and columns (j, 3) of their weights in k, -2 dk/dr^2, dk/dlog nu.

    The weight of t is less than that of its peak, 0, by nu (e^t - 1 - t) nats. Nodes whose
    exponential vanishes at r^2 = least are left out, though not of the sum of all weights.
    """
    share = DROP / nu
    low, high = -share - math.sqrt(2 * share), math.log1p(share + math.sqrt(2 * share))
    frequency = 2 / math.pi * DROP + math.sqrt(2 * DROP * nu)
    count = math.ceil((high - low) * frequency / (2 * math.pi))
    t = torch.linspace(low, high, count + 1, dtype=torch.double)
    gap = t - torch.expm1(t)
    p = (nu * gap).softmax(0)
    rates = (-t).exp() / 2
    columns = torch.stack([p, 2 * rates * p, nu * p * (gap - p @ gap)], 1)
    kept = rates * least <= FLAT
    kept[-1] = True
    return rates[kept], columns[kept]


# Module-level, so that kernels with priors can be pickled.
def _get_nu(kernel: GeneralMatern) -> Tensor:
    return kernel.nu


def _set_nu(kernel: GeneralMatern, value: float | Tensor) -> None:
    kernel.nu = value
