"""Regions of m outputs together: ellipsoids and boxes that hold the promised share of rows.

An ellipsoid goes by the squared Mahalanobis distance of y from the mean of its law,

    s = (y - mean)' C^-1 (y - mean),    { y : s <= t },
    volume = pi^(m/2) / Gamma(m/2 + 1) t^(m/2) sqrt(det C),

where C is the covariance of the outputs of that row. Where the law takes outputs for independent, C is
that of standardised residuals, times the law's own deviations: D^(1/2) M D^(1/2). It is estimated from
rows that calibrate nothing else, since scores are exchangeable only if they are one function of all rows.

Boxes are for comparison, with s_j = |y_j - mean_j| / std_j:

    bonferroni  each output has the level 1 - (1 - level) / m: nothing is assumed, and too much is paid
    rank        of each row the largest rank of its s_j among those of output j, then the rank of these:
                all sides are as surprising, and what outputs have in common is not paid for twice

With the scores of n rows the bound t is the k-th smallest, k = ceil((n + 1) level), and a new row is
inside with probability at least `level` if all rows are exchangeable (`kernelfield.uq.conformal.ranks`).
The new row raises ranks of others by at most one, which `rank` allows for.

Sources: Johnstone & Cox (2021), "Conformal Uncertainty Sets for Robust Optimization", and Messoudi,
Destercke & Rousseau (2022), "Ellipsoidal Conformal Inference for Multi-Target Regression"; Timans,
Straehle, Sakmann & Nalisnick (2025), "Max-Rank: Efficient Multiple Testing for Conformal Prediction".
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kernelfield.core.numerics import cholesky
from kernelfield.core.posterior import Draws, Elliptical, Posterior
from kernelfield.uq.conformal.ranks import CoverageLaw, rank

MOST = 4096  # entries of a joint mean whose covariance is formed to read its blocks
CORNERS = 200  # of the polygon that stands for an ellipse


@dataclass(frozen=True)
class Ellipsoids:
    """Ellipsoids around the means of laws.

    shape : "law" takes the covariance of the outputs from the law of each row, "residuals" from
        standardised residuals of the calibration rows.
    share : of the calibration rows, for that.

    A law is that of n rows (n, m), or of a batch of n rows of one point each (n, 1, m), which never
    forms the covariance between rows: surrogate.posterior(X.unsqueeze(-2), noise=True).

    >>> law = Elliptical(torch.zeros(19, 1, 2), torch.eye(2).expand(19, 2, 2))
    >>> y = torch.stack([torch.arange(1.0, 20.0), torch.zeros(19)], -1)
    >>> fitted = Ellipsoids().fit(law, y)
    >>> new = Elliptical(torch.zeros(1, 1, 2), torch.eye(2)[None])
    >>> round(fitted.volume(new, 0.9).item() / math.pi)  # 18^2, of the 18th of 19
    324
    """

    shape: Literal["law", "residuals"] = "law"
    share: float = 0.3

    def fit(
        self, law: Posterior, y: Tensor, *, X: Tensor | None = None, generator: torch.Generator | None = None
    ) -> "FittedEllipsoids":
        """Errors: ValueError for an unknown shape, shapes that do not agree, or too few rows."""
        if self.shape not in ("law", "residuals"):
            raise ValueError(f"shape must be 'law' or 'residuals', got {self.shape!r}")
        z = _standardised(law, y)
        if self.shape == "law":
            return FittedEllipsoids(_mahalanobis(_gap(law, y), output_covariance(law)).sort().values, None)
        if not 0 < self.share < 1:
            raise ValueError(f"share must lie between 0 and 1, got {self.share}; 0.3 is usual")
        n, m = z.shape
        count = round(self.share * n)
        if not m < count < n:
            raise ValueError(
                f"the covariance of {m} outputs needs more than {m} rows for itself, and share={self.share:g} of {n} "
                f"calibration rows is {count}; calibrate on at least {math.ceil((m + 1) / self.share)} rows"
            )
        order = torch.randperm(n, generator=generator)
        own = z[order[:count]]
        moment = own.mT @ own / count
        return FittedEllipsoids(_mahalanobis(z[order[count:]], moment).sort().values, moment)


@dataclass(frozen=True, eq=False)
class FittedEllipsoids:
    """Sorted scores (n,) of calibration rows; moment (m, m) of standardised residuals, or None for the laws' own."""

    scores: Tensor
    moment: Tensor | None

    @property
    def rows(self) -> int:
        return len(self.scores)

    def bound(self, level: float) -> float:
        """The squared distance t at which an ellipsoid of this level ends."""
        return self.scores[rank(self.rows, level) - 1].item()

    def contains(self, law: Posterior, y: Tensor, level: float) -> Tensor:
        """Whether y (n, m) lies in the ellipsoids of its rows (n,)."""
        return _mahalanobis(_gap(law, y), self.covariance(law)) <= self.bound(level)

    def volume(self, law: Posterior, level: float) -> Tensor:
        """The volumes (n,), in the product of the units of the outputs."""
        C = self.covariance(law)
        m = C.shape[-1]
        unit = m / 2 * math.log(math.pi) - math.lgamma(m / 2 + 1)
        logdet = cholesky(C).diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (unit + logdet).exp() * self.bound(level) ** (m / 2)

    def outline(self, law: Posterior, level: float) -> Tensor:
        """Corners (n, 200, 2) of the ellipses of two outputs. Errors: ValueError for another number of outputs."""
        mean = _rows(law.mean)
        _require_plane(mean)
        angle = torch.arange(CORNERS).to(mean) * (2 * math.pi / CORNERS)
        circle = math.sqrt(self.bound(level)) * torch.stack([angle.cos(), angle.sin()], -1)
        return mean[:, None] + circle @ cholesky(self.covariance(law)).mT

    def covariance(self, law: Posterior) -> Tensor:
        """The matrices C (n, m, m) of the rows."""
        if self.moment is None:
            return output_covariance(law)
        std = _rows(law.variance).sqrt()
        return std[:, :, None] * self.moment * std[:, None]

    def coverage_law(self, level: float) -> CoverageLaw:
        """The law of the share of new rows that are inside, given these calibration rows."""
        return CoverageLaw(rank(self.rows, level), self.rows)


@dataclass(frozen=True)
class Boxes:
    """An interval for each output, together a region: see the module docstring.

    >>> law = Elliptical(torch.zeros(39, 2), torch.eye(78))
    >>> y = torch.arange(1.0, 40.0)[:, None].expand(-1, 2)  # outputs that go together
    >>> new = Elliptical(torch.zeros(1, 2), torch.eye(2))
    >>> [Boxes(score).fit(law, y).volume(new, 0.9).item() / 4 for score in ("rank", "bonferroni")]
    [1369.0, 1444.0]
    """

    score: Literal["rank", "bonferroni"] = "rank"

    def fit(
        self, law: Posterior, y: Tensor, *, X: Tensor | None = None, generator: torch.Generator | None = None
    ) -> "FittedBoxes":
        """Errors: ValueError for an unknown score, or shapes that do not agree."""
        if self.score not in ("rank", "bonferroni"):
            raise ValueError(f"score must be 'rank' or 'bonferroni', got {self.score!r}")
        scores = _standardised(law, y).abs()
        ordered = scores.sort(0).values
        if self.score == "bonferroni":
            return FittedBoxes(ordered, None)
        ranks = torch.searchsorted(ordered.mT.contiguous(), scores.mT.contiguous()) + 1  # (m, n), from 1
        return FittedBoxes(ordered, ranks.amax(0).sort().values)


@dataclass(frozen=True, eq=False)
class FittedBoxes:
    """Scores (n, m) of calibration rows, each column sorted; ranks (n,), sorted, where they decide."""

    scores: Tensor
    ranks: Tensor | None

    @property
    def rows(self) -> int:
        return len(self.scores)

    def bound(self, level: float) -> Tensor:
        """The half sides (m,), in deviations of the laws; infinite where too few rows lie beyond them.

        Errors: ValueError for too few rows.
        """
        n, m = self.scores.shape
        if self.ranks is None:
            return self.scores[rank(n, 1 - (1 - level) / m) - 1]
        place = int(self.ranks[rank(n, level) - 1])  # 0-based, the next rank above
        return self.scores[place] if place < n else self.scores.new_full((m,), math.inf)

    def interval(self, law: Posterior, level: float, X: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The ends (n, m) of the sides."""
        mean, half = _rows(law.mean), self.bound(level).to(law.mean) * _rows(law.variance).sqrt()
        return mean - half, mean + half

    def contains(self, law: Posterior, y: Tensor, level: float) -> Tensor:
        """Whether y (n, m) lies in the boxes of its rows (n,)."""
        return (_standardised(law, y).abs() <= self.bound(level).to(law.mean)).all(-1)

    def volume(self, law: Posterior, level: float) -> Tensor:
        """The volumes (n,), in the product of the units of the outputs."""
        low, high = self.interval(law, level)
        return (high - low).prod(-1)

    def outline(self, law: Posterior, level: float) -> Tensor:
        """The corners (n, 4, 2) of the boxes of two outputs. Errors: ValueError for another number of outputs."""
        low, high = self.interval(law, level)
        _require_plane(low)
        ends = torch.stack([low, high])
        first, second = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 1])
        return torch.stack([ends[first, :, 0], ends[second, :, 1]], -1).movedim(0, 1)


def output_covariance(law: Posterior) -> Tensor:
    """The covariance (n, m, m) between the outputs of each row, of a law of (n, m) or (n, 1, m).

    Posteriors that say nothing of it have independent outputs.

    Errors: ValueError for an elliptical law of many rows, whose joint covariance would be formed.
    """
    mean = law.mean
    n, m = _rows(mean).shape
    match law:
        case Elliptical() if mean.ndim == 3:
            return law.covariance
        case Elliptical():
            if n * m > MOST:
                raise ValueError(
                    f"the joint covariance of {n} rows of {m} outputs would be formed to read its blocks; ask for the "
                    "law of a batch of single points, posterior(X.unsqueeze(-2), noise=True)"
                )
            return law.covariance.reshape(n, m, n, m).diagonal(dim1=0, dim2=2).movedim(-1, 0)
        case Draws():
            gap = law.values - mean.unsqueeze(-3)
            between = torch.einsum("k,...knm,...knp->...nmp", law.weights, gap, gap).reshape(n, m, m)
            within = law.variance - between.diagonal(dim1=-2, dim2=-1).reshape(mean.shape)
            return between + torch.diag_embed(_rows(within.clamp_min(0)))
    return torch.diag_embed(_rows(law.variance))


def _rows(values: Tensor) -> Tensor:
    """Values (n, m), from those or (n, 1, m)."""
    if values.ndim == 3 and values.shape[1] == 1:
        return values[:, 0]
    if values.ndim != 2:
        raise ValueError(f"need the law of rows (n, m) or of single points (n, 1, m), got {tuple(values.shape)}")
    return values


def _gap(law: Posterior, y: Tensor) -> Tensor:
    mean = _rows(law.mean)
    if y.shape != mean.shape or not len(y):
        raise ValueError(f"need values y of the shape of the law, {tuple(mean.shape)}, got {tuple(y.shape)}")
    bad = int((~y.isfinite()).sum())
    if bad:
        raise ValueError(f"y holds {bad} entries that are NaN or infinite; drop these rows")
    return y.to(mean) - mean


def _standardised(law: Posterior, y: Tensor) -> Tensor:
    variance = _rows(law.variance)
    exact = int((~(variance > 0)).sum())
    if exact:
        raise ValueError(f"{exact} predicted variances are not positive; ask for the law of y, with noise=True")
    return _gap(law, y) / variance.sqrt()


def _mahalanobis(gap: Tensor, C: Tensor) -> Tensor:
    """Squared distances (n,) of gaps (n, m) under C (n, m, m) or (m, m)."""
    factor = cholesky(C).expand(*gap.shape, gap.shape[-1])
    return torch.linalg.solve_triangular(factor, gap.unsqueeze(-1), upper=False).square().sum((-2, -1))


def _require_plane(mean: Tensor) -> None:
    if mean.shape[-1] != 2:
        raise ValueError(f"an outline is one of two outputs, got {mean.shape[-1]}; use contains and volume")
