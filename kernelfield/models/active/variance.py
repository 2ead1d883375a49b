"""Picking rows that tell most about the rest, where a kernel is the covariance of what is not known.

    LargestDeterminant  maximises det(K_BB + noise I) over batches B, greedily: each row is that of the
                        largest variance given the rows before it, the pivots of a Cholesky factor
    Bait                minimises the sum over all points of the variance that is left, greedily
    FrankWolfe          sum over the pool of phi as a combination of few phi_i, by steps of Frank and Wolfe

Adding row i leaves k - k(:, i) k(i, :) / (k(i, i) + noise), and less in total by the sum of squares of
the column, over k(i, i) + noise. With features, G = Phi' Phi over all points and A the posterior
covariance of their weights, that is

    phi_i' H phi_i / (phi_i' A phi_i + noise),   H = A G A;

with u = A phi_i, g = H phi_i and s = phi_i' u + noise, a pick changes A by -u u' / s and H by
-(u g' + g u') / s + u u' (phi_i' g) / s^2: two products with Phi, O(n p).

`Bait` may pick more rows than asked for, by `surplus`, and then drop one by one those that are missed
least: for W = (K_BB + noise I)^-1 and M = K_B: K_:B, row j is worth (W M W)_jj / W_jj.

Sources: Kirsch, van Amersfoort & Gal (2019), "BatchBALD"; Ash et al. (2021), "Gone Fishing: Neural Active
Learning with Fisher Embeddings" (BAIT); Pinsler et al. (2019), "Bayesian Batch Active Learning as Sparse
Subset Approximation"; Holzmueller et al. (2023), section 4.3, as in `selection`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.core.numerics import cholesky
from kernelfield.models.active.finite import BLOCK, FeatureKernel, FiniteKernel
from kernelfield.models.active.selection import Selection

ROUNDED = 1e-6  # of a gain: the rest of double precision is good for ten digits of what is left


@dataclass(frozen=True)
class LargestDeterminant(Selection):
    """Each time the row of the largest variance given those before; put Condition before it.

    noise: the variance of an observation. Rows that have no variance left beyond rounding, such as
    copies without noise, come last and at random.
    """

    noise: float = 0.0

    def __post_init__(self) -> None:
        refuse_negative(self, self.noise)

    def pick(self, kernel: FiniteKernel, size: int, pool: int, generator: torch.Generator) -> Tensor:
        found = pivoted(kernel, size, pool, self.noise).pivots
        rest = torch.ones(pool, dtype=torch.bool, device=found.device).index_fill_(0, found, False).nonzero()[:, 0]
        order = torch.randperm(len(rest), generator=generator, device=generator.device)[: size - len(found)]
        return torch.cat([found, rest[order.to(rest.device)]])


@dataclass(frozen=True, eq=False)
class Pivoted:
    """A partial Cholesky factor: half' half (r, n) is K up to what is left, in the order of pivots (r,)."""

    pivots: Tensor
    half: Tensor


def pivoted(kernel: FiniteKernel, size: int, count: int, noise: float = 0.0) -> Pivoted:
    """The factor of the first `count` points, of rank `size` or where nothing but rounding is left."""
    diagonal = kernel.diagonal()[:count]
    rounding = size * torch.finfo(diagonal.dtype).eps * diagonal.max().item()
    left, rows = diagonal.double(), slice(0, count)
    half = torch.empty(size, count, dtype=torch.float64, device=left.device)
    score, pivots = left.clone(), list[int]()
    while len(pivots) < size and score.max() > rounding:
        best = int(score.argmax())
        known = half[: len(pivots)]
        column = kernel.block(rows, torch.tensor([best], device=left.device))[:, 0].double()
        column = (column - known[:, best] @ known) / (left[best] + noise).sqrt()
        half[len(pivots)] = column
        left = left - column.square()
        pivots.append(best)
        score = left.index_fill(0, torch.tensor(pivots, device=left.device), -math.inf)
    return Pivoted(torch.tensor(pivots, dtype=torch.long, device=left.device), half[: len(pivots)])


@dataclass(frozen=True)
class Bait(Selection):
    """Each time the row whose label takes most off the sum of all variances; put Condition before it.

    noise: the variance of an observation.
    surplus: how many times the batch is picked before rows are dropped; one drops none.

    Errors: ValueError for a kernel without features.
    """

    noise: float = 1e-6
    surplus: float = 1.0

    def __post_init__(self) -> None:
        refuse_noise(self, self.noise)
        if not 1 <= self.surplus < math.inf:
            raise ValueError(f"surplus must be at least 1, got {self.surplus}; 2 picks two rows for each one kept")

    def pick(self, kernel: FiniteKernel, size: int, pool: int, generator: torch.Generator) -> Tensor:
        features = require_features(kernel, "Bait", "put Sketch or LowRank before it").double()
        moments = features.mT @ features
        wanted = min(pool, round(self.surplus * size))
        found = self._forward(features[:pool], moments, wanted)
        return found if wanted == size else found[self._kept(features[found], moments, size)]

    def _forward(self, features: Tensor, moments: Tensor, size: int) -> Tensor:
        left = _Left(features, moments, self.noise)
        picked: list[int] = []
        for _ in range(size):
            score = left.gain.clamp_min(0) / (left.variance.clamp_min(0) + self.noise)
            score[picked] = -math.inf
            picked.append(int(score.argmax()))
            left.label(picked[-1])
            if left.rounded:
                left.refresh(picked)
        return torch.tensor(picked, device=features.device)

    def _kept(self, features: Tensor, moments: Tensor, size: int) -> Tensor:
        """Which rows of a batch (b, p) are left when those that are missed least have been dropped."""
        K = features @ features.mT
        K.diagonal().add_(self.noise)
        W, M = torch.cholesky_inverse(cholesky(K)), features @ moments @ features.mT
        kept = torch.arange(len(features), device=features.device)
        while len(kept) > size:
            worth = ((W @ M) * W).sum(1) / W.diagonal()
            rest = torch.arange(len(kept), device=kept.device) != worth.argmin()
            w = W[~rest][0]
            W = (W - torch.outer(w, w) / w[~rest])[rest][:, rest]
            M, kept = M[rest][:, rest], kept[rest]
        return kept


class _Left:
    """What is not known after some labels, as A and H of the module docstring, at the pool's features (n, p)."""

    def __init__(self, features: Tensor, moments: Tensor, noise: float) -> None:
        self.features, self.moments, self.noise = features, moments, noise
        self.refresh([])

    def refresh(self, picked: list[int]) -> None:
        """Work out everything anew from the rows picked."""
        seen = self.features[picked]
        precision = seen.mT @ seen / self.noise
        precision.diagonal().add_(1)
        self.A = torch.cholesky_inverse(cholesky(precision))
        self.H = self.A @ self.moments @ self.A
        self.gain, self.variance = _forms(self.features, self.H), _forms(self.features, self.A)
        self.fresh = self.gain.max()

    @property
    def rounded(self) -> bool:
        """Whether so much has been subtracted that rounding shows; it is of the order of the first gains."""
        return bool(self.gain.max() < ROUNDED * self.fresh)

    def label(self, i: int) -> None:
        phi = self.features[i]
        u, g = self.A @ phi, self.H @ phi
        s, total = phi @ u + self.noise, phi @ g
        along, across = (self.features @ torch.stack([u, g], -1)).unbind(-1)
        self.variance = self.variance - along.square() / s
        self.gain = self.gain - 2 * along * across / s + along.square() * total / s**2
        self.A = self.A - torch.outer(u, u / s)
        both = torch.outer(u, g / s - u * (total / (2 * s**2)))
        self.H = self.H - both - both.mT


def _forms(features: Tensor, A: Tensor) -> Tensor:
    """phi_i' A phi_i, shape (n,)."""
    blocks = features.split(max(1, BLOCK // features.shape[1]))
    return torch.cat([((block @ A) * block).sum(1) for block in blocks])


@dataclass(frozen=True)
class FrankWolfe(Selection):
    """Rows whose weighted features come nearest to the sum of those of the pool; put LogLikelihoods before it.

    The weights lie in {w >= 0, sum_i w_i |phi_i| = sum_i |phi_i|}, each step goes towards the best
    corner that is not yet used, as far as is best.
    """

    def pick(self, kernel: FiniteKernel, size: int, pool: int, generator: torch.Generator) -> Tensor:
        rows = slice(0, pool)
        length = kernel.diagonal()[rows].double().sqrt()
        whole = length.sum()
        target = kernel.total(pool)[rows].double()
        present = torch.zeros_like(target)  # phi_i . (present combination)
        square = overlap = target.new_zeros(())  # of the combination, and with the target
        free, picked = length > 0, list[int]()
        for _ in range(size):
            score = (target - present) / length
            best = int(score.masked_fill(~free, -math.inf).argmax()) if free.any() else _first(picked, pool)
            picked.append(best)
            if not free[best]:
                continue
            free[best] = False
            r = whole / length[best]
            ahead = whole**2 - 2 * r * present[best] + square
            step = ((r * (target[best] - present[best]) - overlap + square) / ahead).clamp(0, 1)
            column = kernel.block(rows, torch.tensor([best], device=target.device))[:, 0].double()
            square = (1 - step) ** 2 * square + 2 * (1 - step) * step * r * present[best] + (step * whole) ** 2
            overlap = (1 - step) * overlap + step * r * target[best]
            present = (1 - step) * present + step * r * column
        return torch.tensor(picked, device=target.device)


def _first(picked: list[int], pool: int) -> int:
    """The first row that has not been picked: all that are left have no features."""
    return next(i for i in range(pool) if i not in set(picked))


def require_features(kernel: FiniteKernel, who: str, remedy: str) -> Tensor:
    """The features (n, p).

    Errors: ValueError for a kernel that has none.
    """
    if not isinstance(kernel, FeatureKernel):
        raise ValueError(f"{who} needs features, which {type(kernel).__name__} does not have; {remedy}")
    return kernel.features


def refuse_noise(owner: object, noise: float) -> None:
    if not 0 < noise < math.inf:
        raise ValueError(f"{type(owner).__name__} needs a noise variance above zero, got {noise}; try 1e-6")


def refuse_negative(owner: object, noise: float) -> None:
    if not 0 <= noise < math.inf:
        raise ValueError(f"{type(owner).__name__} needs a noise variance of zero or more, got {noise}")
