"""Kernels of infinitely deep networks.

On the unit sphere a layer maps cosines by its normalised dual psi, psi(1) = 1, with the slopes
A = psi'(0) and B = psi'(1). If psi(0) = 0 and 0 < A < 1, the kernels of deeper and deeper networks
have, after division by A^depth, the limit

    K(z) = lim A^-L psi(psi(...psi(z))),    K(psi(z)) = A K(z),    K(z) = z + O(z^2),

the Koenigs function of psi. It is infinite at z = 1, K = R / |x - x'|^alpha with a bounded R and
alpha = -2 log A / log B, so that the network's classifier is the vote of all training points with
these weights; it is consistent in d dimensions if alpha = d. Other networks have simpler limits:
the majority's label if psi(0) is not zero, the nearest neighbour's if A = 0.

Near z = 1 the map runs in d = 1 - z, which does not cancel; below z = 1e-8 A two terms of the
series of K are exact.

Sources: Radhakrishnan, Belkin & Uhler (2023), "Wide and deep neural networks achieve consistency
for classification", theorems 1-3; Koenigs (1884) for the limit; Devroye et al. (1998), "The
Hilbert kernel regression estimate".
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import roots_hermitenorm
from torch import Tensor

from kernelfield.nets.activation import Activation
from kernelfield.nets.points import Points, crossed

SMALL = 1e-8  # times A: the next term of the series of K is below rounding from here on
MOST = 1800  # dimensions: SMALL * 2^(-d / 2) is a normal number in double precision
PIECE = 2**14  # pairs that are mapped again and again at once: they stay in the cache
TERMS = 160
NODES = 320

Map = Callable[[Tensor], Tensor]


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
        return _polynomial(self.coefficients, z)

    def complement(self, d: Tensor) -> Tensor:
        # 1 - z^k = d (1 + z + ... + z^(k - 1)), so that nothing is subtracted.
        rests = [math.fsum(self.coefficients[k:]) for k in range(1, len(self.coefficients))]
        return d * _polynomial(rests, 1 - d)


def _polynomial(coefficients: Sequence[float], z: Tensor) -> Tensor:
    total = torch.zeros_like(z)
    for c in reversed(coefficients):
        total.mul_(z).add_(c)
    return total


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


def consistent_dual(d: int) -> Power:
    """The dual of exponent d, whose infinitely deep network is a consistent classifier in d dimensions.

    psi(z) = A z + (1 - 2 A) z^2 + A z^3 with A = 2^(-d / 2), for which B = 2; where d = 1, that
    is no dual, z / 2 + z^7 / 2.

    Errors: ValueError where A, or what is computed from it, is no number of double precision.

    >>> consistent_dual(4).coefficients, InfinitelyDeep(consistent_dual(4)).exponent
    ((0.0, 0.25, 0.5, 0.25), 4.0)
    """
    if not 1 <= d <= MOST:
        raise ValueError(f"there is a dual of exponent d from 1 to {MOST}, got d = {d}; give a dual or fewer inputs")
    if d == 1:
        return Power((0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5))
    A = 2.0 ** (-d / 2)
    return Power((0.0, A, 1 - 2 * A, A))


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
        at training points it is their own target. Points more than a right angle apart may count
        against each other, with an odd dual as much as their opposites count for: keep angles below.
        """
        sign, log = self.of_haversine(crossed(Points(Z), Points(X), False))
        top = log.amax(-1, keepdim=True)
        weights = torch.where(top == math.inf, (log == math.inf).to(log), sign * (log - top).exp())
        return weights @ Y / weights.abs().sum(-1, keepdim=True)

    def of_haversine(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """The sign of K and the logarithm of its size, for pairs of haversine e = (1 - z) / 2."""
        pieces = e.flatten().split(PIECE if e.device.type == "cpu" else max(1, e.numel()))
        signs, logarithms = zip(*(self._iterated(piece) for piece in pieces), strict=True)
        return torch.cat(signs).view(e.shape), torch.cat(logarithms).view(e.shape)

    def _iterated(self, e: Tensor) -> tuple[Tensor, Tensor]:
        turned = (e > 0.5) & self.dual.odd
        e = torch.where(turned, 1 - e, e)
        coincident, (_, A, second) = e == 0, self.dual.taylor
        d = torch.where(coincident, 1, 2 * e)
        d, depth = _repeated(lambda d: self.dual.complement(d.clamp_max(0.5)), d, lambda d: d < 0.5)
        z, more = _repeated(self.dual.value, 1 - d, lambda z: z.abs() > SMALL * A)
        K = z * (1 + z * second / (A - A**2))
        log = torch.where(coincident, math.inf, K.abs().log() - (depth + more) * math.log(A))
        sign = torch.where(coincident, 1, K.sign())
        return torch.where(turned, -sign, sign), log


def _repeated(step: Map, x: Tensor, wanted: Map) -> tuple[Tensor, Tensor]:
    """The entries of x after as many steps as each needs until it is not wanted any more, and their number."""
    count = torch.zeros_like(x)
    while (going := wanted(x)).any():
        x, count = torch.where(going, step(x), x), count + going
    return x, count
