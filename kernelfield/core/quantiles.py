"""Laws by their quantiles: what a quantile regression predicts, as a posterior.

Between known quantiles q_1 <= ... <= q_k at the levels t_1 < ... < t_k a law is completed by
straight lines in the normal score z = ndtri(t), of which the outer two go on for ever:

    y = g(z),    g(z) = q_j + s_j (z - z_j)    for z_j <= z < z_j+1,    s_j = (q_j+1 - q_j) / (z_j+1 - z_j)

with z standard normal. So a law is a Gaussian one from piece to piece, tails are Gaussian, and the
quantiles of a Gaussian law, be they only two, give that law. Equal quantiles are an atom. Moments are
sums of

    int z^0 phi = D ndtr,    int z phi = -D phi,    int z^2 phi = D (ndtr - z phi)

over pieces, where D is the difference between their ends.

Quantiles that were estimated apart may cross. Sorting them (`rearranged`) is the law of g(z) for the
crossing g, and brings every one of them, on the whole, nearer to the true quantiles.

Source: Chernozhukov, Fernandez-Val & Galichon (2010), "Quantile and Probability Curves Without Crossing".
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.core.mixing import Unit
from kernelfield.core.posterior import Posterior


@dataclass(frozen=True, eq=False)
class Quantiles(Posterior):
    """Marginals with given quantiles, independent across points.

    levels (k,) increasing, k >= 2; values (*b, n, m, k) that do not decrease along the levels. Where
    neighbours are equal the law has an atom, and no density there: `log_prob` is NaN. point (*b, n, m) is
    a prediction that came beside the quantiles, as the means of a regression beside its intervals;
    `mean` is it, or without it that of the law.

    Errors: ValueError for levels that do not increase within (0, 1), or values of another number.

    >>> law = Quantiles(torch.tensor([0.025, 0.975]), torch.tensor([[[-1.959964, 1.959964]]]))  # a 95% interval
    >>> round(law.variance.item(), 4), round(law.quantile(0.9).item(), 4)  # of the standard normal
    (1.0, 1.2816)
    """

    levels: Tensor
    values: Tensor
    point: Tensor | None = None

    def __post_init__(self) -> None:
        levels = self.levels
        if levels.ndim != 1 or len(levels) < 2 or not (levels.diff() > 0).all():
            raise ValueError(f"levels must be at least two increasing numbers, got {levels.tolist()}")
        if not (levels[0] > 0 and levels[-1] < 1):
            raise ValueError(f"levels must lie between 0 and 1, got {levels[0]:g} to {levels[-1]:g}; write 0.9 for 90%")
        if self.values.shape[-1:] != levels.shape:
            raise ValueError(f"need {len(levels)} values a point, one a level, got {tuple(self.values.shape)}")

    @property
    def width(self) -> int:
        return self.values.shape[-3] * self.values.shape[-2]

    @property
    def mean(self) -> Tensor:
        return self._centre if self.point is None else self.point

    @property
    def _centre(self) -> Tensor:
        zeroth, first, _ = self._parts
        return (self._offsets * zeroth + self.slopes * first).sum(-1)

    @property
    def variance(self) -> Tensor:
        zeroth, first, second = self._parts
        offsets = self._offsets - self._centre.unsqueeze(-1)  # so that nothing cancels far from zero
        square = offsets.square() * zeroth + 2 * offsets * self.slopes * first + self.slopes.square() * second
        return square.sum(-1).clamp_min(0)

    @cached_property
    def scores(self) -> Tensor:
        """The normal scores (k,) of the levels."""
        return torch.special.ndtri(self.levels).to(self.values)

    @cached_property
    def slopes(self) -> Tensor:
        """The standard deviations (*b, n, m, k - 1) of the Gaussian pieces."""
        return self.values.diff() / self.scores.diff()

    @property
    def pieces(self) -> tuple[Tensor, Tensor]:
        """The normal scores (k - 1,) at which pieces start and end, the first and last infinite."""
        inner, end = self.scores[1:-1], self.scores.new_tensor([math.inf])
        return torch.cat([-end, inner]), torch.cat([inner, end])

    @property
    def _offsets(self) -> Tensor:
        """The values of the pieces at a score of zero, were they to reach it."""
        return self.values[..., :-1] - self.slopes * self.scores[:-1]

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The integrals of 1, z and z^2 by the standard normal law over each piece (k - 1,)."""
        inner = self.scores[1:-1]
        density = (-inner.square() / 2).exp() / math.sqrt(2 * math.pi)
        zero, one = inner.new_zeros(1), inner.new_ones(1)
        zeroth = torch.cat([zero, torch.special.ndtr(inner), one]).diff()
        first = -torch.cat([zero, density, zero]).diff()
        return zeroth, first, zeroth - torch.cat([zero, inner * density, zero]).diff()

    def draw(self, z: Tensor) -> Tensor:
        return self.at_score(z.unflatten(-1, self.values.shape[-3:-1]))

    def quantile(self, p: float) -> Tensor:
        level = torch.tensor(p, dtype=torch.float64)
        return self.at_score(torch.special.ndtri(level).to(self.values).expand(self.values.shape[:-1]))

    def at_score(self, z: Tensor) -> Tensor:
        """The value whose level has the normal score z."""
        piece = torch.bucketize(z.contiguous(), self.scores[1:-1].contiguous(), right=True)
        return _taken(self.values, piece) + _taken(self.slopes, piece) * (z - self.scores[piece])

    def score(self, y: Tensor) -> Tensor:
        """The normal score of P(f <= y), of which `cdf` is the normal distribution function."""
        return self._score(y, self.values[..., 1:-1] <= y.unsqueeze(-1), torch.ge)[0]

    def _score(self, y: Tensor, passed: Tensor, right: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The normal score of y on the piece behind the inner quantiles that it passed, and the slope there.

        right : whether y lies to the right of a piece that is an atom.
        """
        piece = passed.sum(-1)
        start, slope = _taken(self.values, piece), _taken(self.slopes, piece)
        rise = (y - start) / torch.where(slope > 0, slope, 1.0)
        beside = torch.where(right(y, start), math.inf, -math.inf).to(rise)
        return torch.where(slope > 0, self.scores[piece] + rise, beside), slope

    def cdf(self, y: Tensor) -> Tensor:
        return torch.special.ndtr(self.score(y))

    def jump(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """P(f < y) and P(f <= y), which differ at atoms."""
        below, _ = self._score(y, self.values[..., 1:-1] < y.unsqueeze(-1), torch.gt)
        return torch.special.ndtr(below), self.cdf(y)

    def log_prob(self, y: Tensor) -> Tensor:
        score, slope = self._score(y, self.values[..., 1:-1] <= y.unsqueeze(-1), torch.ge)
        density = Unit().log_density(score) - torch.where(slope > 0, slope, 1.0).log()
        below, upto = self.jump(y)
        return torch.where(below < upto, math.nan, density)

    def affine(self, scale: Tensor, shift: Tensor) -> "Quantiles":
        point = None if self.point is None else self.point * scale + shift
        return replace(self, values=self.values * scale[:, None] + shift[:, None], point=point)


def _taken(values: Tensor, index: Tensor) -> Tensor:
    """The entries of values (*b, k) at index (*s, *b)."""
    index, _ = torch.broadcast_tensors(index, values[..., 0])  # broadcast_shapes would import sympy
    return values.expand(*index.shape, values.shape[-1]).gather(-1, index.unsqueeze(-1)).squeeze(-1)


def rearranged(values: Tensor) -> Tensor:
    """Quantiles (*b, k) in increasing order.

    >>> rearranged(torch.tensor([0.0, 2.0, 1.0]))
    tensor([0., 1., 2.])
    """
    return values.sort(-1).values


def correction(residuals: Tensor, levels: Tensor, weight: Tensor) -> Tensor:
    """What to add to quantiles (*b, k) for a share of each level of targets to lie below them.

    It is the quantile of that level among the residuals y - q (*b, n, k) of n rows that the fit has not
    seen, of weight (n,): of equal ones the r-th smallest has the level r / (n + 1), as among n + 1 that
    are exchangeable. Between them it is interpolated, and beyond them it is the last.

    Source: Romano, Patterson & Candes (2019), "Conformalized Quantile Regression", here for one end.

    >>> correction(torch.tensor([[3.0], [1.0], [2.0]]), torch.tensor([0.75]), torch.ones(3))
    tensor([3.])
    """
    ordered, order = residuals.sort(-2)
    mass = (weight / weight.mean())[order]
    place = (mass.cumsum(-2) + (1 - mass) / 2) / (len(weight) + 1)
    index = (place < levels).sum(-2, keepdim=True).clamp(1, len(weight) - 1)
    (low, start), (high, end) = ([t.gather(-2, i) for t in (ordered, place)] for i in (index - 1, index))
    share = ((levels - start) / torch.where(end > start, end - start, 1.0)).clamp(0, 1)
    return (low + share * (high - low)).squeeze(-2)


def crossed(values: Tensor) -> float:
    """The share of neighbouring quantiles (*b, k) that are in the wrong order.

    >>> crossed(torch.tensor([0.0, 2.0, 1.0]))
    0.5
    """
    return (values.diff() < 0).double().mean().item()


def reordered(share: float) -> list[str]:
    """What to say of neighbouring quantiles that crossed, nothing if none did."""
    if not share:
        return []
    return [f"{share:.2g} of neighbouring quantiles at the rows of the fit crossed, and are put in order"]


def require_noise(noise: bool) -> None:
    """Refuse to give the law of a function, where quantiles are those of y.

    Errors: NotImplementedError, with the remedy.
    """
    if not noise:
        raise NotImplementedError(
            "the quantiles are those of observations y, and there is no law of a function behind them; use "
            "posterior(X, noise=True)"
        )
