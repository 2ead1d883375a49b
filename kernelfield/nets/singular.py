"""Kernels of infinitely deep networks.

On the unit sphere a layer maps cosines by its normalised dual psi, psi(1) = 1, with the slopes
A = psi'(0) and B = psi'(1). If psi(0) = 0 and 0 < A < 1, the kernels of deeper and deeper networks
have, after division by A^depth, the limit

    K(z) = lim A^-L psi(psi(...psi(z))),    K(psi(z)) = A K(z),    K(z) = z + O(z^2),

the Koenigs function of psi. It is infinite at z = 1, K = R / |x - x'|^alpha with a bounded R and
alpha = -2 log A / log B, so that the network's classifier is the vote of all training points with
these weights; it is consistent in d dimensions if alpha = d. Other networks have simpler limits:
the majority's label if psi(0) is not zero, the nearest neighbour's if A = 0.

Near z = 1 the map runs in d = 1 - z, which does not cancel; below z = 1e-8 two terms of the
series of K are exact.

Sources: Radhakrishnan, Belkin & Uhler (2023), "Wide and deep neural networks achieve consistency
for classification", theorems 1-3; Koenigs (1884) for the limit; Devroye et al. (1998), "The
Hilbert kernel regression estimate".
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import roots_hermitenorm
from torch import Tensor

from kernelfield.nets.activation import Activation
from kernelfield.nets.points import Points, crossed

SMALL = 1e-8  # the next term of the series of K is below rounding from here on
TERMS = 160
NODES = 320


class Dual(ABC):
    """A map of cosines, psi, with psi(1) = 1.

    taylor: the coefficients of 1, z, z^2. end_slope: B. odd: psi(-z) = -psi(z).
    """

    taylor: tuple[float, float, float]
    end_slope: float
    odd: bool

    @abstractmethod
    def value(self, z: Tensor) -> Tensor:
        """psi(z)."""

    @abstractmethod
    def complement(self, d: Tensor) -> Tensor:
        """1 - psi(1 - d) for 0 <= d < 1, to relative precision."""


@dataclass(frozen=True)
class Power(Dual):
    """psi(z) = sum_k coefficients_k z^k, with coefficients that are not negative and add up to one."""

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        if min(self.coefficients) < 0 or abs(math.fsum(self.coefficients) - 1) > 1e-9:
            raise ValueError(f"the coefficients of a dual are not negative and add up to 1, got {self.coefficients}")

    @property
    def taylor(self) -> tuple[float, float, float]:  # type: ignore[override]
        first = (*self.coefficients, 0.0, 0.0, 0.0)
        return first[0], first[1], first[2]

    @property
    def end_slope(self) -> float:  # type: ignore[override]
        return math.fsum(k * c for k, c in enumerate(self.coefficients))

    @property
    def odd(self) -> bool:  # type: ignore[override]
        return not any(self.coefficients[::2])

    def value(self, z: Tensor) -> Tensor:
        total = torch.zeros_like(z)
        for c in reversed(self.coefficients):
            total = total * z + c
        return total

    def complement(self, d: Tensor) -> Tensor:
        log = torch.log1p(-d)
        terms = [-c * torch.expm1(k * log) for k, c in enumerate(self.coefficients) if c > 0]
        return torch.stack(terms).sum(0)


@dataclass(frozen=True)
class Sinh(Dual):
    """psi(z) = sinh(a z) / sinh a."""

    a: float
    odd = True

    @property
    def taylor(self) -> tuple[float, float, float]:  # type: ignore[override]
        return 0.0, self.a / math.sinh(self.a), 0.0

    @property
    def end_slope(self) -> float:  # type: ignore[override]
        return self.a / math.tanh(self.a)

    def value(self, z: Tensor) -> Tensor:
        return torch.sinh(self.a * z) / math.sinh(self.a)

    def complement(self, d: Tensor) -> Tensor:
        return 2 * torch.cosh(self.a * (1 - d / 2)) * torch.sinh(self.a * d / 2) / math.sinh(self.a)


def dual_of(activation: Activation, variance: float = 1.0) -> Power:
    """The normalised dual of an activation on inputs of some variance: its coefficients c_k^2 in
    Hermite polynomials, by quadrature.

    Errors: ValueError where the series is long, as for functions with a kink.

    >>> from kernelfield.nets.smooth import Erf
    >>> round(dual_of(Erf()).end_slope, 4)
    1.2257
    """
    z, weights = roots_hermitenorm(NODES)
    values = activation.phi(torch.from_numpy(z * math.sqrt(variance))).numpy()
    rows = [np.sqrt(weights / weights.sum())]
    rows.append(z * rows[0])
    for k in range(1, TERMS):
        rows.append((z * rows[-1] - math.sqrt(k) * rows[-2]) / math.sqrt(k + 1))
    coefficients = np.stack(rows) @ (rows[0] * values)
    powers = coefficients**2
    total = (rows[0] * values) @ (rows[0] * values)
    missing = abs(1 - powers.sum() / total)
    if missing > 1e-10:
        raise ValueError(
            f"the dual of {activation} at variance {variance} needs more than {TERMS} terms: {missing:.1e} of it is "
            "missing; give a smaller variance or a dual in closed form"
        )
    powers[powers < 1e-28 * total] = 0  # coefficients that are zero, but for rounding
    return Power(tuple(float(p) for p in powers / powers.sum()))


@dataclass(frozen=True)
class InfinitelyDeep:
    """The singular kernel of infinitely many layers of one dual.

    Errors: ValueError for a dual whose limit is another, by name, and for a linear network.
    """

    dual: Dual

    def __post_init__(self) -> None:
        constant, slope, _ = self.dual.taylor
        if constant != 0:
            raise ValueError(
                f"psi(0) = {constant:.3g} is not zero: infinitely many such layers predict the majority's label; "
                "use an odd activation, or subtract its mean"
            )
        if slope == 0:
            raise ValueError(
                "psi'(0) = 0: infinitely many such layers predict the label of the nearest neighbour; add a linear "
                "part to the activation"
            )
        if not slope < 1:
            raise ValueError(f"psi'(0) = {slope:.3g}: a linear network keeps its kernel at any depth")

    @property
    def exponent(self) -> float:
        """alpha: the kernel grows as |x - x'|^-alpha."""
        return -2 * math.log(self.dual.taylor[1]) / math.log(self.dual.end_slope)

    def kernel(self, X: Tensor, Z: Tensor) -> Tensor:
        """K (*b, n, k) of the directions of points X (*b, n, d) and Z (*b, k, d); infinite for equal ones."""
        sign, log = self.of_haversine(crossed(Points(X), Points(Z), False))
        return sign * log.exp()

    def koenigs(self, cosine: Tensor) -> Tensor:
        """K(z) of the module docstring."""
        sign, log = self.of_haversine((1 - cosine) / 2)
        return sign * log.exp()

    def classify(self, X: Tensor, Y: Tensor, Z: Tensor) -> Tensor:
        """The mean (k, m) of targets Y (n, m), such as +-1 or one-hot rows, with the kernel as weights.

        Its sign, or its largest column, is the prediction of the infinitely deep network at Z;
        at training points it is their own target. An odd dual counts opposite points against each
        other: scale features so that points lie in one half of the sphere.
        """
        sign, log = self.of_haversine(crossed(Points(Z), Points(X), False))
        top = log.amax(-1, keepdim=True)
        weights = torch.where(top == math.inf, (log == math.inf).to(log), sign * (log - top).exp())
        return weights @ Y / weights.abs().sum(-1, keepdim=True)

    def of_haversine(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """The sign of K and the logarithm of its size, for pairs of haversine e = (1 - z) / 2."""
        turned = (e > 0.5) & self.dual.odd
        e = torch.where(turned, 1 - e, e)
        coincident, depth, d = e == 0, torch.zeros_like(e), torch.where(e == 0, 1, 2 * e)
        while (near := d < 0.5).any():
            d = torch.where(near, self.dual.complement(torch.where(near, d, 0)), d)
            depth = depth + near
        z = 1 - d
        while (large := z.abs() > SMALL).any():
            z = torch.where(large, self.dual.value(z), z)
            depth = depth + large
        _, A, second = self.dual.taylor
        K = z * (1 + z * second / (A - A**2))
        log = torch.where(coincident, math.inf, K.abs().log() - depth * math.log(A))
        sign = torch.where(coincident, 1, K.sign())
        return torch.where(turned, -sign, sign), log
