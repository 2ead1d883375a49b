"""One axis of a grid: the functions that a spectral mixture kernel spans on it, with their derivatives.

A mixture of Gaussian bumps has the kernel k(r) = sum_q w_q exp(-r^2 / 2 l_q^2) cos(2 pi mu_q r), which the trapezoidal
rule in frequency turns into waves, k(x - x') = phi(x) . phi(x'),

    phi(x) = [a_k cos(2 pi s_k (x - c)), a_k sin(2 pi s_k (x - c))],   s_k = k / P,
    a_k^2 = (1 / P) sum_q w_q [p_q(s_k - mu_q) + p_q(s_k + mu_q)],     half of that at k = 0.

By Poisson's summation formula the sum is the kernel repeated with period P, and P = T + 8.6 l leaves exp(-8.6^2 / 2),
1e-16, of the copies on an axis of length T. Derivatives are a factor (2 pi s_k)^p and a turn by p quarter periods.

The singular values Phi = V diag(sigma) W^T at the nodes give the eigenvectors V of the kernel matrix, its eigenvalues
sigma^2, and the functions v_j(x) = phi(x) . w_j / sigma_j through them, of which the conditional mean given node
values consists: D_p = [v_j^(p)(x_i)] V^T is K^(p) K^-1. Decomposing Phi instead of K = Phi Phi^T keeps eigenvalues down
to the square of the rounding error; those below TRUNCATION^2 are left out, and the condition number is reported.

Sources: Wilson & Adams (2013), for the kernel; Rahimi & Recht (2007) for such features, here on a rule
instead of random; Fang et al. (2024), for conditional means as derivatives.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

TRUNCATION = 1e-8  # of the largest singular value: half of the digits, so that derivatives keep the other half
NEGLIGIBLE = 1e-16  # of the largest power: waves below do not reach a singular value that is kept
REACH = 8.6  # standard deviations beyond which a Gaussian is below 1e-16


@dataclass(frozen=True)
class Bands:
    """A mixture of Gaussian bumps of equal weight.

    frequencies in cycles per unit of the axis; lengthscales, one for each bump, in units of the axis.

    >>> round(Bands((0.0, 3.0), (0.5, 0.5)).top, 3)
    5.737
    """

    frequencies: tuple[float, ...]
    lengthscales: tuple[float, ...]

    @property
    def top(self) -> float:
        """The frequency above which there is no power left."""
        pairs = zip(self.frequencies, self.lengthscales, strict=True)
        return max(mu + REACH / (2 * math.pi * length) for mu, length in pairs)


@dataclass(frozen=True, eq=False)
class WaveFeatures:
    """phi of the module docstring: s (k,), a (k,) and the centre c.

    >>> features = WaveFeatures.of(Bands((2.0,), (1.0,)), 0.0, 1.0)
    >>> x = torch.tensor([0.0, 0.25], dtype=torch.double)
    >>> round((features.at(x) @ features.at(x).mT)[0, 1].item(), 4)  # -exp(-1/32)
    -0.9692
    """

    frequencies: Tensor
    amplitudes: Tensor
    centre: float

    @classmethod
    def of(cls, bands: Bands, low: float, high: float) -> "WaveFeatures":
        """The features of the kernel on [low, high]."""
        spacing = 1 / (high - low + REACH * max(bands.lengthscales))
        s = spacing * torch.arange(int(bands.top / spacing) + 2, dtype=torch.double)
        power = torch.zeros_like(s)
        for mu, length in zip(bands.frequencies, bands.lengthscales, strict=True):
            unit = 2 * math.pi * length
            for centre in (mu, -mu):
                power += unit / math.sqrt(2 * math.pi) * (-0.5 * (unit * (s - centre)).square()).exp()
        power[0] /= 2
        power *= spacing / len(bands.frequencies)
        kept = power > NEGLIGIBLE * power.max()
        return cls(s[kept], power[kept].sqrt(), (low + high) / 2)

    @property
    def width(self) -> int:
        """The number of features."""
        return 2 * len(self.frequencies) - int((self.frequencies == 0).sum())

    def at(self, x: Tensor, order: int = 0) -> Tensor:
        """The derivative (n, width) of the features at x (n,)."""
        omega = (2 * math.pi * self.frequencies).to(x)
        phase = (x - self.centre)[:, None] * omega + order * math.pi / 2
        scale = self.amplitudes.to(x) * omega**order
        moving = omega > 0
        return torch.cat([scale * phase.cos(), (scale * phase.sin())[:, moving]], 1)


@dataclass(frozen=True, eq=False)
class AxisBasis:
    """The functions v_1, ..., v_r of the module docstring.

    nodes (m,); values (m, r), orthonormal; singular (r,); mixing (width, r), v = phi mixing.
    """

    nodes: Tensor
    features: WaveFeatures
    values: Tensor
    singular: Tensor
    mixing: Tensor

    @classmethod
    def of(cls, nodes: Tensor, bands: Bands) -> "AxisBasis":
        """The basis on nodes (m,), in rising order, of the kernel with these bands."""
        features = WaveFeatures.of(bands, float(nodes[0]), float(nodes[-1]))
        U, sigma, Wh = torch.linalg.svd(features.at(nodes), full_matrices=False)
        rank = int((sigma > TRUNCATION * sigma[0]).sum())
        return cls(nodes, features, U[:, :rank], sigma[:rank], Wh[:rank].mT / sigma[:rank])

    @property
    def rank(self) -> int:
        """The number r of functions."""
        return len(self.singular)

    @property
    def condition(self) -> float:
        """The condition number of the kernel matrix, as truncated."""
        return float((self.singular[0] / self.singular[-1]).square())

    def at(self, x: Tensor, order: int = 0) -> Tensor:
        """The derivatives (n, r) of the functions at x (n,)."""
        return self.features.at(x, order) @ self.mixing

    def differentiation(self, order: int) -> Tensor:
        """D_order (m, m), from values at the nodes to derivatives there; see the module docstring."""
        return self.at(self.nodes, order) @ self.values.mT


@dataclass(frozen=True)
class Condition:
    """A boundary condition at one end of an axis: the derivative of this order (0 or 1) is given there."""

    side: str
    end: int  # 0 for the lower, 1 for the upper
    order: int


@dataclass(frozen=True, eq=False)
class Axis:
    """A basis, split by the boundary conditions at the ends of the axis.

    Functions with coefficients c have end values rows @ c. Those without any are spanned by `free`, which is made such
    that its values at the inner nodes, `test` (n, r - b), are orthonormal; `lift` (r, b) has rows @ lift = 1.
    """

    basis: AxisBasis
    conditions: tuple[Condition, ...]
    rows: Tensor
    free: Tensor
    lift: Tensor
    test: Tensor
    inner: slice

    @classmethod
    def of(cls, basis: AxisBasis, conditions: Sequence[Condition]) -> "Axis":
        """Split the basis. An end with a condition is no inner node: the equation gives way to the condition there."""
        ends = {condition.end for condition in conditions}
        inner = slice(1 if 0 in ends else 0, len(basis.nodes) - (1 if 1 in ends else 0))
        cut = inner.stop - inner.start + len(conditions)
        if cut < basis.rank:
            kept = slice(cut)
            basis = replace(
                basis, values=basis.values[:, kept], singular=basis.singular[kept], mixing=basis.mixing[:, kept]
            )
        rows = end_rows(basis.at, basis.nodes, conditions)
        if not len(conditions):
            test, triangle = torch.linalg.qr(basis.values)
            free, lift = torch.linalg.solve_triangular(triangle, torch.eye(basis.rank).to(rows), upper=True), rows.mT
            return cls(basis, (), rows, free, lift, test, inner)
        whole, triangle = torch.linalg.qr(rows.mT, mode="complete")
        b = len(conditions)
        lift = torch.linalg.solve_triangular(triangle[:b].mT, whole[:, :b], upper=False, left=False)
        test, triangle = torch.linalg.qr(basis.values[inner] @ whole[:, b:])
        free = torch.linalg.solve_triangular(triangle, whole[:, b:], upper=True, left=False)
        return cls(basis, tuple(conditions), rows, free, lift, test, inner)

    @cached_property
    def inner_nodes(self) -> Tensor:
        """The nodes (n,) at which the equation is asked for."""
        return self.basis.nodes[self.inner]

    @cached_property
    def offset(self) -> Tensor:
        """The points (m - 1,) halfway between the nodes."""
        return (self.basis.nodes[1:] + self.basis.nodes[:-1]) / 2


def end_rows(at: Callable[[Tensor, int], Tensor], nodes: Tensor, conditions: Sequence[Condition]) -> Tensor:
    """The conditions (b, k) on the coefficients of k functions, of which at(x, order) gives the derivatives."""
    ends = nodes[[0, -1]]
    empty = at(ends[:0], 0)
    return torch.cat([empty, *(at(ends[c.end : c.end + 1], c.order) for c in conditions)])
