"""Laws of what other libraries hand over: draws, and marginals known by their functions.

    Sample     k draws of a law that is not known itself: an ensemble, simulations, a sampler's output
    Marginals  distribution function, density and quantiles of each marginal, as functions

`Draws` of `kernelfield.core.posterior` is a law: it says that one of k functions is true. A `Sample`
says that a further draw would be exchangeable with the k at hand, and is scored as such: below a
share p of their (k + 1) p-th smallest, a new draw lies with probability p; the rank of a value among
them is uniform; and the score of the law that they came from is estimated without bias.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.core.posterior import Posterior

HALVINGS = 60  # of a bracket, to below double rounding


@dataclass(frozen=True, eq=False)
class Sample(Posterior):
    """k >= 2 independent draws (*b, k, n, m) of a law of which no more is known; joint, as they came.

    There is no density: `log_prob` is NaN. `cdf` is the share of the draws at or below y.

    Errors: ValueError for fewer than two draws.

    >>> law = Sample(torch.tensor([1.0, 2.0, 4.0]).reshape(3, 1, 1))
    >>> law.quantile(0.5).item(), law.quantile(0.25).item()  # a further draw is the least of four in one case of four
    (2.0, 1.0)
    """

    values: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim < 3 or self.values.shape[-3] < 2:
            raise ValueError(f"need at least two draws (k, n, m) of a law, got an array {tuple(self.values.shape)}")

    @property
    def width(self) -> int:
        return 1

    @property
    def mean(self) -> Tensor:
        return self.values.mean(-3)

    @property
    def variance(self) -> Tensor:
        return self.values.var(-3, correction=1)

    @cached_property
    def ordered(self) -> Tensor:
        """The draws of each marginal, the smallest first."""
        return self.values.sort(-3).values

    def draw(self, z: Tensor) -> Tensor:
        k = self.values.shape[-3]
        member = (torch.special.ndtr(z[..., 0]) * k).long().clamp_max(k - 1)
        choice = torch.nn.functional.one_hot(member, k).to(self.values)[..., None, None]
        return (choice * self.values).sum(-3)

    def cdf(self, y: Tensor) -> Tensor:
        return (self.values <= y.unsqueeze(-3)).to(self.values).mean(-3)

    def jump(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of the range of levels that y has among a further draw and these k.

        A uniform number between the two is uniform on (0, 1) if y is exchangeable with the draws, equal
        or not.
        """
        k = self.values.shape[-3]
        below, upto = (self.values < y.unsqueeze(-3)).sum(-3), (self.values <= y.unsqueeze(-3)).sum(-3)
        return below.to(self.values) / (k + 1), (upto + 1).to(self.values) / (k + 1)

    def log_prob(self, y: Tensor) -> Tensor:
        return torch.full_like(y - self.mean, math.nan)

    def quantile(self, p: float) -> Tensor:
        """The (k + 1) p-th smallest draw, interpolated; the least or the greatest beyond them."""
        k = self.values.shape[-3]
        place = min(max((k + 1) * p - 1, 0.0), k - 1.0)
        first = min(int(place), k - 2)
        low, high = self.ordered[..., first, :, :], self.ordered[..., first + 1, :, :]
        return low + (place - first) * (high - low)

    def affine(self, scale: Tensor, shift: Tensor) -> "Sample":
        return Sample(self.values * scale + shift)


@dataclass(frozen=True, eq=False)
class Functions:
    """What a library says of n x m marginals: moments (n, m), and functions of arrays that end in that shape.

    Without `inverse`, quantiles are found by bisection.
    """

    mean: Tensor
    variance: Tensor
    below: Callable[[Tensor], Tensor]
    log_density: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Marginals(Posterior):
    """scale * x + shift, for x with the marginals of `functions`; independent in draws.

    >>> normal = torch.distributions.Normal(torch.zeros(1, 1), 2.0)
    >>> law = Marginals(Functions(normal.mean, normal.variance, normal.cdf, normal.log_prob))
    >>> round(law.quantile(0.975).item(), 4)
    3.9199
    """

    functions: Functions
    scale: Tensor | float = 1.0
    shift: Tensor | float = 0.0

    @property
    def width(self) -> int:
        return self.functions.mean.shape[-2] * self.functions.mean.shape[-1]

    @property
    def mean(self) -> Tensor:
        return self.scale * self.functions.mean + self.shift

    @property
    def variance(self) -> Tensor:
        return torch.as_tensor(self.scale).square() * self.functions.variance

    def draw(self, z: Tensor) -> Tensor:
        return self._invert(torch.special.ndtr(z).unflatten(-1, self.functions.mean.shape))

    def cdf(self, y: Tensor) -> Tensor:
        return self.functions.below((y - self.shift) / self.scale)

    def log_prob(self, y: Tensor) -> Tensor:
        return self.functions.log_density((y - self.shift) / self.scale) - torch.as_tensor(self.scale).log()

    def quantile(self, p: float) -> Tensor:
        return self._invert(torch.full_like(self.functions.mean, p))

    def _invert(self, level: Tensor) -> Tensor:
        return self.scale * (self.functions.inverse or self._bisect)(level) + self.shift

    def _bisect(self, level: Tensor) -> Tensor:
        reach = 2.0 / torch.minimum(level, 1 - level).sqrt()  # Chebyshev: |quantile - mean| <= reach * std
        mean, std = self.functions.mean, self.functions.variance.sqrt()
        low, high = mean - reach * std, mean + reach * std
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            under = self.functions.below(middle) < level
            low, high = torch.where(under, middle, low), torch.where(under, high, middle)
        return high

    def affine(self, scale: Tensor, shift: Tensor) -> "Marginals":
        return replace(self, scale=scale * self.scale, shift=scale * self.shift + shift)
