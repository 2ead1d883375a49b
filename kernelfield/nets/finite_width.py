"""Corrections to the Gaussian process of networks of finite width.

Given the layer before, the inputs of a layer are Gaussian with a random variance Q. With q and v
its mean and its variance, N the width, and M_k = E[phi(sqrt(q) z)^k],

    activation   q' = M_2,  v' = (dM_2 / dq)^2 v + (M_4 - M_2^2) / N
    dense        q' = w^2 q + b^2,  v' = w^4 v

to the first order in 1 / N, and an output has the excess kurtosis k = 3 v / q^2. For one hidden
layer this is exact, k = 3 (M_4 - M_2^2) / (N M_2^2) without bias, and 15 / N for ReLU; L hidden
layers of ReLU and equal width have 15 L / N to first order and 3 (1 + 5 / N)^L - 3 exactly.

The density of an output y of variance q follows by Edgeworth's series; with t = y / sqrt(q),

    p(y) = N(y; 0, q) (1 + k / 24 He_4(t)),    P(y) = Phi(t) - k / 24 He_3(t) phi(t).

Sources: Antognini (2019), "Finite size corrections for neural network Gaussian processes", eq.
(9)-(16); Yaida (2020), "Non-Gaussian processes and neural networks at finite widths", section 3;
Hanin & Nica (2019), "Products of many large random matrices and gradients in deep neural
networks", theorem 1, for ReLU.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kernelfield.nets.activation import Activation
from kernelfield.nets.algebra import Layer, Repeat, Scale, Serial
from kernelfield.nets.dense import Dense
from kernelfield.nets.points import Points
from kernelfield.nets.state import CovState, Side, Wanted

NODES = 24  # Gauss-Legendre points on each of 28 intervals of length one, whose ends hold the kinks
END = 14
ROOT = math.sqrt(3 - math.sqrt(6))  # where He_4 is zero and He_3 phi largest
WORST = abs(ROOT**3 - 3 * ROOT) * math.exp(-(ROOT**2) / 2) / math.sqrt(2 * math.pi)


@dataclass(frozen=True, eq=False)
class Correction:
    """The law of an output of a finite network: variance and excess kurtosis, (n,) each."""

    variance: Tensor
    kurtosis: Tensor

    def density(self, y: Tensor) -> Tensor:
        """Edgeworth's density of y, which broadcasts with (n,); it may be negative far out in the tails."""
        t = y / self.variance.sqrt()
        normal = torch.exp(-0.5 * t.square()) / (2 * math.pi * self.variance).sqrt()
        return normal * (1 + self.kurtosis / 24 * (t**4 - 6 * t.square() + 3))

    def cdf(self, y: Tensor) -> Tensor:
        """Edgeworth's distribution function of y, which broadcasts with (n,)."""
        t = y / self.variance.sqrt()
        normal = torch.exp(-0.5 * t.square()) / math.sqrt(2 * math.pi)
        return torch.special.ndtr(t) - self.kurtosis / 24 * (t**3 - 3 * t) * normal

    @property
    def distance(self) -> Tensor:
        """The largest difference (n,) between the distribution functions of output and Gaussian, to first order."""
        return self.kurtosis.abs() / 24 * WORST


def finite_width(arch: Layer, x: Tensor, widths: int | tuple[int, ...]) -> Correction:
    """The law of an output of a network of dense layers at inputs x (n, d), to first order in 1 / width.

    widths: of the hidden layers, one number for all or one for each activation.

    Errors: ValueError for layers other than Dense, activations and Scale, a network that does not
        end in a Gaussian layer, and another number of widths than of activations.
    """
    steps = list(_unrolled(arch))
    hidden = sum(isinstance(step, Activation) for step in steps)
    if not arch.gaussian(False):
        raise ValueError(f"the law of an output is known behind a Dense layer, got {arch}")
    sizes = (widths,) * hidden if isinstance(widths, int) else tuple(widths)
    if len(sizes) != hidden or min(sizes, default=1) < 1:
        raise ValueError(f"the network has {hidden} hidden layers, which need as many positive widths, got {widths}")
    state = CovState.of_pairs(Points(x), Points(x), replace(arch.wanted(Wanted(tangent=False)), points=True))
    spread, left = torch.zeros_like(state.std1), iter(sizes)
    for step in steps:
        before, state = state, step.propagate(state)
        match step:
            case Activation():
                slope, fourth = _slope(step, before.std1), _fourth(step, before.std1)
                own = fourth - state.std1**4
                spread = slope.square() * spread + own / next(left)
            case Dense():
                spread = (1.0 if isinstance(step.w, tuple) else step.w**4) * spread
            case Scale():
                spread = step.factor**4 * spread
    variance = state.std1.square()
    kurtosis = 3 * spread / torch.where(variance > 0, variance, 1).square()
    return Correction(variance[..., 0], kurtosis[..., 0])


def least_width(arch: Layer, x: Tensor, tolerance: float) -> int:
    """The least equal width of the hidden layers at which no output's distribution function is
    further than `tolerance` from the Gaussian one, to first order.

    Errors: as `finite_width`, and ValueError for a tolerance that is not positive.
    """
    if not tolerance > 0:
        raise ValueError(f"the tolerance must be positive, got {tolerance}")
    return max(1, math.ceil(finite_width(arch, x, 1).distance.max().item() / tolerance))


def _unrolled(arch: Layer) -> list[Layer]:
    match arch:
        case Serial():
            return [step for part in arch.steps for step in _unrolled(part)]
        case Repeat():
            return _unrolled(arch.block) * arch.times
        case Dense() | Activation() | Scale():
            return [arch]
        case _:
            raise ValueError(
                f"finite-width corrections are known for networks of Dense, activations and Scale, got {arch}"
            )


def _fourth(activation: Activation, std: Tensor) -> Tensor:
    """E[phi(std z)^4]."""
    nodes, weights = _rule()
    z, share = nodes.to(std), weights.to(std)
    return (share * activation.phi(std[..., None] * z) ** 4).sum(-1)


def _slope(activation: Activation, std: Tensor) -> Tensor:
    """dM_2 / dq, by a difference of fourth order."""
    step = 1e-3

    def square(factor: float) -> Tensor:
        side = Side(std * math.sqrt(factor))
        zero = torch.zeros_like(std)
        return activation.propagate(CovState(zero, None, side, side, paired=True)).std1.square()

    near, far = ((square(1 + k * step) - square(1 - k * step)) / (2 * k * step) for k in (1, 2))
    variance = std.square()
    return (4 * near - far) / 3 / torch.where(variance > 0, variance, 1)


def _rule() -> tuple[Tensor, Tensor]:
    """Points and weights for the standard normal law."""
    t, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(NODES))
    starts = torch.arange(-END, END, dtype=torch.float64)[:, None]
    z = (starts + (t + 1) / 2).flatten()
    return z, (w / 2).repeat(2 * END) * torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
