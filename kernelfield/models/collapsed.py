"""The evidence bound of a process seen through k basis functions, from sums over the rows.

    f(x) = phi(x)' a + rest(x),    a ~ N(0, I),    phi(x) = L^-1 c(x),    L L' = cov(u)

with inducing variables u and c(x) = cov(u, f(x)); what the basis leaves has the variance
k(x, x) - phi'phi, and the data are said to tell nothing of it. Rows have the noise s / w_i and the
mean H b. With B = I + G / s and V = [Y, H], the bound of the log evidence of m outputs is

    F = -1/2 [ m (log|B| + n log(2 pi s) - sum log w + slack / s) + S ],
    S = tr of the Schur complement of H in V'A^-1 V = sum w v v' / s - C' B^-1 C / s^2,
    G = sum w phi phi',    C = sum w phi v',    slack = sum w (k(x, x) - phi'phi),

at the best b and the best normal law of a. Where that law is held independent between groups of
basis functions, log|B| becomes the sum of the log determinants of the diagonal blocks, and the mean
stays the same: with the precision B the divergence to the joint law is half of their difference.
A basis without a rest has slack zero, and F is then the evidence of Bayesian linear regression.

Two passes over blocks of rows give F and its slope in memory O(block k + k^2): the first gathers the
sums, the second pulls dF/dphi = 2 (dF/dG) phi w + (dF/dC) v w back through c(x).

Sources: Titsias (2009), "Variational Learning of Inducing Variables in Sparse Gaussian Processes";
Salimbeni, Cheng, Boots & Deisenroth (2018), "Orthogonally Decoupled Variational Gaussian Processes";
Shi, Titsias & Mnih (2020), "Sparse Orthogonal Variational Inference for Gaussian Processes".
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import NotPositiveDefinite, cholesky, schur
from kernelfield.core.posterior import LazyMatrix
from kernelfield.models.evidence import Trend

BLOCK = 2**18  # entries of c(X) of a block: products gain nothing from more, and the memory of less is used again
SQUARE = 256  # rows of G that are added to at once: what is right of the diagonal block is left to symmetry
LEAST_ROWS = 64  # of a block


class Basis(ABC):
    """Basis functions, as the covariances of inducing variables; see the module docstring."""

    kernel: Kernel | None  # whose parameters are learned with the bound

    @property
    @abstractmethod
    def size(self) -> int:
        """The number k of functions."""

    @property
    def groups(self) -> tuple[int, ...]:
        """The sizes of the groups between which the approximate law of a is independent."""
        return (self.size,)

    @abstractmethod
    def factor(self) -> Tensor | None:
        """L (k, k); None is the identity."""

    @abstractmethod
    def cross(self, X: Tensor) -> Tensor:
        """c (k, n) at X (n, d)."""

    @abstractmethod
    def variance(self, X: Tensor) -> Tensor | None:
        """The variance (n,) of the whole process at X (n, d); None where the basis leaves nothing."""

    @abstractmethod
    def prior(self, X: Tensor) -> LazyMatrix | None:
        """The covariance of the whole process at X (*b, n, d); None where the basis leaves nothing."""

    @property
    def free(self) -> Tensor:
        """What else of the basis is learned, as a vector."""
        return torch.empty(0)

    def at(self, free: Tensor) -> Self:
        """The basis with another vector `free`."""
        return self

    def rescaled(self, scale: float) -> Self | None:
        """The basis of the process of `scale` times the variance; None where it has no number for that."""
        return None


@dataclass(frozen=True, eq=False)
class RegressionSums:
    """The sums over rows of the module docstring; those of two sets of rows add."""

    G: Tensor  # (k, k)
    C: Tensor  # (k, m + p), v = [y - centre, h]
    V: Tensor  # (m + p, m + p), sum w v v'
    slack: Tensor
    log_weight: Tensor
    rows: int

    def __add__(self, more: "RegressionSums") -> "RegressionSums":
        names = ("G", "C", "V", "slack", "log_weight", "rows")
        return RegressionSums(*(getattr(self, name) + getattr(more, name) for name in names))

    def times(self, share: float) -> "RegressionSums":
        """What the sums over `share` times as many rows of the same kind would be."""
        G, C, V, slack, log_weight = (share * t for t in (self.G, self.C, self.V, self.slack, self.log_weight))
        return RegressionSums(G, C, V, slack, log_weight, round(share * self.rows))

    def rescaled(self, scale: Tensor | float) -> "RegressionSums":
        """The sums were the variance of the process `scale` times as large."""
        return replace(self, G=scale * self.G, C=scale**0.5 * self.C, slack=scale * self.slack)


@dataclass(frozen=True, eq=False)
class Rows:
    """Inputs with v = [y - centre, h], and the weights (n,), in blocks."""

    X: Tensor
    V: Tensor
    weight: Tensor

    @classmethod
    def of(cls, data: Data, trend: Trend, centre: Tensor) -> "Rows":
        """centre (m,) is a constant of the mean: taken off first, it costs the sums no digits."""
        weight = torch.ones_like(data.X[:, 0]) if data.weight is None else data.weight
        return cls(data.X, torch.cat([data.Y - centre, trend(data.X)], -1), weight)

    def blocks(self, k: int) -> Iterator["Rows"]:
        step = max(LEAST_ROWS, BLOCK // max(k, 1))
        for X, V, weight in zip(*(t.split(step) for t in (self.X, self.V, self.weight)), strict=True):
            yield Rows(X, V, weight)


def gather(basis: Basis, factor: Tensor | None, rows: Rows) -> RegressionSums:
    """The sums over the rows, block by block."""
    k, q = basis.size, rows.V.shape[1]
    G, C, slack = rows.V.new_zeros(k, k), rows.V.new_zeros(k, q), rows.V.new_zeros(())
    for block in rows.blocks(k):
        phi = whitened(factor, basis.cross(block.X))
        heavy = phi if (block.weight == 1).all() else phi * block.weight
        for start in range(0, k, SQUARE):
            end = start + SQUARE
            G[start:end, :end].addmm_(heavy[start:end], phi[:end].mT)
        C.addmm_(heavy, block.V)
        prior = basis.variance(block.X)
        if prior is not None:
            slack += (block.weight * (prior - phi.square().sum(0))).sum()
    V = rows.V.mT @ (rows.weight[:, None] * rows.V)
    G = G.tril() + G.tril(-1).mT
    return RegressionSums(G, C, V, slack, rows.weight.log().sum(), len(rows.X))


def whitened(factor: Tensor | None, c: Tensor) -> Tensor:
    """phi = L^-1 c."""
    return c if factor is None else torch.linalg.solve_triangular(factor, c, upper=False)


def bound(moments: RegressionSums, noise: Tensor, groups: Sequence[int], m: int) -> Tensor:
    """F of the module docstring, in nats; differentiable in G, C, slack and the noise."""
    B = torch.eye(len(moments.G)).to(moments.G) + moments.G / noise
    L = cholesky(B)
    half = torch.linalg.solve_triangular(L, moments.C, upper=False) / noise
    Q = schur(moments.V / noise, half)
    S = Q[:m, :m].trace()
    if Q.shape[0] > m:
        of_H = determined(Q[m:, m:], moments.V[m:, m:] / noise, B.trace().detach())
        S = S - (Q[:m, m:] * torch.linalg.solve(of_H, Q[m:, :m]).mT).sum()
    factors = [L] if len(groups) == 1 else [cholesky(part) for part in diagonal_blocks(B, groups)]
    logdet = 2 * sum(f.diagonal().log().sum() for f in factors)
    rest = moments.rows * (2 * math.pi * noise).log() - moments.log_weight + moments.slack / noise
    return -0.5 * (m * (logdet + rest) + S)


def determined(Q: Tensor, V: Tensor, largest: Tensor) -> Tensor:
    """Q = H'A^-1 H (p, p), a difference of which rounding can leave less than there is, or a negative number.

    With eigenvalues of B below `largest`, and so A <= largest s / w, it is no less than V / largest for V = H'w H / s:
    what lacks of that is added.
    Errors: NotPositiveDefinite where rounding leaves nothing of the ones that B adds to G / s.
    """
    if largest * torch.finfo(Q.dtype).eps > 1:
        raise NotPositiveDefinite(
            f"the process has about {largest.item():.1g} times the variance of the noise, and rounding leaves nothing "
            "of the noise; raise it, lower the kernel's output scale, or use a Process"
        )
    with torch.no_grad():
        half = cholesky(V)
        white = torch.linalg.solve_triangular(half, Q, upper=False)
        white = torch.linalg.solve_triangular(half, white.mT, upper=False)
        values, vectors = torch.linalg.eigh(white)
        root = half @ vectors
        added = (root * (1 / largest - values).clamp_min(0)) @ root.mT
    return Q + added


def diagonal_blocks(B: Tensor, groups: Sequence[int]) -> list[Tensor]:
    """The square blocks of B (k, k) on its diagonal."""
    ends = torch.tensor(groups).cumsum(0).tolist()
    return [B[end - size : end, end - size : end] for size, end in zip(groups, ends, strict=True)]


@dataclass(frozen=True, eq=False)
class Slopes:
    """F, its derivatives in the tensors asked for, and in the logarithm of the noise."""

    value: float
    tensors: list[Tensor]
    log_noise: float


def slopes(basis: Basis, rows: Rows, noise: float, m: int, wanted: list[Tensor]) -> Slopes:
    """F and its slope in `wanted`, leaves on which the basis depends; call with gradients enabled.

    Errors: NotPositiveDefinite.
    """
    L = basis.factor()
    factor = None if L is None else L.detach()
    with torch.no_grad():
        sums = gather(basis, factor, rows)
    G, C, slack = (t.requires_grad_() for t in (sums.G, sums.C, sums.slack))
    log_noise = slack.new_tensor(math.log(noise)).requires_grad_()
    value = bound(sums, log_noise.exp(), basis.groups, m)
    dG, dC, dslack, dnoise = torch.autograd.grad(value, (G, C, slack, log_noise))
    if not wanted:
        return Slopes(value.item(), [], dnoise.item())
    with torch.no_grad():
        symmetric = dG + dG.mT
        if basis.variance(rows.X[:1]) is not None:
            symmetric.diagonal().sub_(2 * dslack)  # slack holds -tr G
        pull, shift = _back(factor, symmetric), _back(factor, dC, once=True)
        inner = symmetric @ G + dC @ C.mT  # sum over rows of (dF/dphi) phi'
    total = [torch.zeros_like(t) for t in wanted]
    if factor is not None and L is not None and L.requires_grad:
        _collect(total, [L], wanted, [-torch.linalg.solve_triangular(factor.mT, inner, upper=True).tril()])
    for block in rows.blocks(basis.size):
        c, prior = basis.cross(block.X), basis.variance(block.X)
        with torch.no_grad():
            gradients = [(pull @ c).addmm_(shift, block.V.mT).mul_(block.weight)]
        outputs = [c]
        if prior is not None:
            outputs.append(prior)
            gradients.append(dslack * block.weight)
        _collect(total, outputs, wanted, gradients)
    return Slopes(value.item(), total, dnoise.item())


def _back(factor: Tensor | None, A: Tensor, *, once: bool = False) -> Tensor:
    """L^-T A L^-1, or L^-T A."""
    if factor is None:
        return A
    half = torch.linalg.solve_triangular(factor.mT, A, upper=True)
    return half if once else torch.linalg.solve_triangular(factor, half, upper=False, left=False)


def _collect(total: list[Tensor], outputs: list[Tensor], wanted: list[Tensor], gradients: list[Tensor]) -> None:
    pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
    if not pairs:
        return
    found = torch.autograd.grad([o for o, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True)
    for sum_, part in zip(total, found, strict=True):
        if part is not None:
            sum_ += part
