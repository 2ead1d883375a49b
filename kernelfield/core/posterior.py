"""Posterior: the predictive law of m outputs at n points.

Every posterior is a deterministic function of standard normal noise,

    values = posterior.draw(z),    z of shape (*s, *b, width).

Seeding, quasi-Monte-Carlo, common random numbers and sample-average acquisition all
follow from this one method. Three families cover the package:

    Elliptical   one scaled Gaussian    GP, Student-t process, Laplace, deep kernel, PDE
    Draws        a finite set of functions    ensemble, HMC, SGHMC, dropout, neural process
    Binned       a histogram per point  prior-fitted network

All three are closed under `affine`, so output scaling never needs a wrapper.

Shapes: *b batch, n points, m outputs, *s samples. Joint vectors are point-major: entry
i * m + j is output j at point i. Units: those of y.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from kernelfield.core.mixing import Mixing, Unit
from kernelfield.core.numerics import cholesky

HALF_NORMAL_MEDIAN = 0.6744897501960817  # of |z|, where the normal distribution function is 3/4


class Posterior(ABC):
    """See the module docstring."""

    @property
    @abstractmethod
    def width(self) -> int:
        """The length of the noise vector z."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """Marginal means (*b, n, m)."""

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """Marginal variances (*b, n, m)."""

    @abstractmethod
    def draw(self, z: Tensor) -> Tensor:
        """Push noise (*s, *b, width) forward to values (*s, *b, n, m)."""

    @abstractmethod
    def cdf(self, y: Tensor) -> Tensor:
        """Marginal P(f <= y), shape of y broadcast with (*b, n, m)."""

    @abstractmethod
    def log_prob(self, y: Tensor) -> Tensor:
        """Marginal log density at y, in nats, shape of y broadcast with (*b, n, m)."""

    @abstractmethod
    def affine(self, scale: Tensor, shift: Tensor) -> "Posterior":
        """The law of scale * f + shift, with scale > 0 and both of shape (m,)."""

    def quantile(self, p: float) -> Tensor:
        """Marginal quantile, shape (*b, n, m), by bisection on `cdf`."""
        reach = 2.0 / min(p, 1 - p) ** 0.5  # Chebyshev: |quantile - mean| <= reach * std
        mean, std = self.mean, self.variance.sqrt()
        low, high = mean - reach * std, mean + reach * std
        for _ in range(60):  # halves the bracket to below double rounding
            mid = (low + high) / 2
            below = self.cdf(mid) < p
            low, high = torch.where(below, mid, low), torch.where(below, high, mid)
        return high  # cdf(high) >= p, also where the cdf has steps

    def rsample(self, shape: Sequence[int] = (), generator: torch.Generator | None = None) -> Tensor:
        """Samples (*shape, *b, n, m), differentiable in the posterior's tensors."""
        mean = self.mean
        z = torch.randn(*shape, *mean.shape[:-2], self.width, generator=generator, dtype=mean.dtype)
        return self.draw(z.to(mean.device))


class LazyMatrix(Protocol):
    """What an elliptical law asks of its scale matrix; linear operators answer it."""

    def diagonal(self, *, dim1: int, dim2: int) -> Tensor:
        """The diagonal (*b, k)."""

    def to_dense(self) -> Tensor:
        """The matrix (*b, k, k)."""


@dataclass(frozen=True, eq=False)
class Elliptical(Posterior):
    """f = loc + unit * sqrt(s) chol(scale) z: Gaussian, Student-t and other scale mixtures.

    loc (*b, n, m); scale (*b, n*m, n*m) positive semi-definite, a tensor or a lazy matrix of
    which only `diagonal` and `to_dense` are used, so that marginals of many points never form
    the joint matrix; unit, a positive number for each output (m,) that carries its scaling.
    """

    loc: Tensor
    scale: Tensor | LazyMatrix
    mixing: Mixing = field(default_factory=Unit)
    unit: Tensor | float = 1.0

    @property
    def width(self) -> int:
        return self.mixing.width + self.loc.shape[-2] * self.loc.shape[-1]

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        # Infinity times a spread of zero is not a number, and a known value has no variance.
        return torch.where(self.spread > 0, self.spread.square() * self.mixing.mean, 0.0)

    @property
    def covariance(self) -> Tensor:
        """The joint covariance (*b, n*m, n*m), point-major, in squared units of f.

        Errors: ValueError where it does not exist, the variance being infinite.
        """
        if math.isinf(self.mixing.mean):
            raise ValueError(
                f"the variance under {self.mixing} is infinite, so that there is no covariance; "
                "use scale, quantiles or samples"
            )
        rows = torch.as_tensor(self.unit).to(self.loc).expand(self.loc.shape[-2:]).flatten()
        return self.mixing.mean * rows[:, None] * self.scale.to_dense() * rows

    @cached_property
    def spread(self) -> Tensor:
        """What the marginal law of sqrt(s) z is stretched by, (*b, n, m); the std of a Gaussian."""
        diagonal = self.scale.diagonal(dim1=-2, dim2=-1).clamp_min(0)
        return diagonal.sqrt().reshape(self.loc.shape) * self.unit

    def draw(self, z: Tensor) -> Tensor:
        # The mixing normal comes first, so that adding points keeps earlier noise in place.
        head, body = z[..., : self.mixing.width], z[..., self.mixing.width :]
        values = (cholesky(self.scale.to_dense()) @ body.unsqueeze(-1)).squeeze(-1)
        if self.mixing.width:
            values = values * self.mixing.scale(head)
        return self.loc + self.unit * values.unflatten(-1, self.loc.shape[-2:])

    def cdf(self, y: Tensor) -> Tensor:
        return self.mixing.cdf((y - self.loc) / self.spread)

    def log_prob(self, y: Tensor) -> Tensor:
        return self.mixing.log_density((y - self.loc) / self.spread) - self.spread.log()

    def joint_log_prob(self, y: Tensor) -> Tensor:
        """The log density (*b,) of all values y (*b, n, m) together, in nats."""
        factor = cholesky(self.scale.to_dense())
        gap = ((y - self.loc) / self.unit).flatten(-2)
        S = torch.linalg.solve_triangular(factor, gap.unsqueeze(-1), upper=False).square().sum((-2, -1))
        N = gap.shape[-1]
        values = [self.mixing.log_expectation(form, N)[0] for form in S.flatten().tolist()]
        units = torch.as_tensor(self.unit).to(y).expand(self.loc.shape[-2:]).log().sum()
        logdet = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return S.new_tensor(values).reshape(S.shape) - logdet - units - 0.5 * N * math.log(2 * math.pi)

    def quantile(self, p: float) -> Tensor:
        return self.loc + self.spread * self.mixing.quantile(torch.full_like(self.loc, p))

    def affine(self, scale: Tensor, shift: Tensor) -> "Elliptical":
        return replace(self, loc=self.loc * scale + shift, unit=self.unit * scale)


@dataclass(frozen=True, eq=False)
class Draws(Posterior):
    """A weighted set of k functions, each with independent Gaussian noise.

    values (*b, k, n, m); weights (k,) summing to one; noise a variance, zero for the latent
    function: broadcast to (*b, n, m) where the functions share it, or to (*b, k, n, m), with as
    many axes as the values, where each has its own.
    """

    values: Tensor
    weights: Tensor
    noise: Tensor

    @property
    def width(self) -> int:
        return 1 + self.values.shape[-2] * self.values.shape[-1]

    @property
    def mean(self) -> Tensor:
        return self._average(self.values)

    @property
    def variance(self) -> Tensor:
        between = self._average((self.values - self.mean.unsqueeze(-3)).square())
        return between + (self._average(self.noise) if self._own else self.noise)

    @property
    def _own(self) -> bool:
        """Whether each function has a noise of its own."""
        return self.noise.ndim == self.values.ndim

    def _average(self, values: Tensor) -> Tensor:
        return (self.weights[:, None, None] * values).sum(-3)

    def draw(self, z: Tensor) -> Tensor:
        level = torch.special.ndtr(z[..., 0])
        member = torch.searchsorted(self.weights.cumsum(0), level).clamp_max(len(self.weights) - 1)
        choice = torch.nn.functional.one_hot(member, len(self.weights)).to(self.values)[..., None, None]
        function = (choice * self.values).sum(-3)
        std = (choice * self.noise.sqrt()).sum(-3) if self._own else self.noise.sqrt()
        return function + std * z[..., 1:].unflatten(-1, self.values.shape[-2:])

    def cdf(self, y: Tensor) -> Tensor:
        if not (self.noise > 0).all():
            return self._average((self.values <= y.unsqueeze(-3)).to(self.values))
        return self._average(torch.special.ndtr((y.unsqueeze(-3) - self.values) / self.spread))

    def log_prob(self, y: Tensor) -> Tensor:
        if not (self.noise > 0).all():
            raise ValueError("a finite set of functions has no density; use posterior(X, noise=True)")
        spread, log_weights = self.spread, self.weights.log()[:, None, None]
        log_density = Unit().log_density((y.unsqueeze(-3) - self.values) / spread) - spread.log()
        return (log_density + log_weights).logsumexp(-3)

    def quantile(self, p: float) -> Tensor:
        if len(self.weights) > 1:
            return super().quantile(p)
        value = self.values + self.spread * Unit().quantile(torch.full_like(self.weights, p))  # one Gaussian
        return value.squeeze(-3)

    @property
    def spread(self) -> Tensor:
        """Standard deviations of the noise (*b, k, n, m), or (*b, 1, n, m) where it is shared."""
        return self.noise.sqrt() if self._own else self.noise.sqrt().expand(self.mean.shape).unsqueeze(-3)

    def affine(self, scale: Tensor, shift: Tensor) -> "Draws":
        return replace(self, values=self.values * scale + shift, noise=self.noise * scale.square())


@dataclass(frozen=True, eq=False)
class Binned(Posterior):
    """Piecewise-uniform marginals on bins, independent across points.

    logits (*b, n, m, k); edges (m, k + 1) increasing, or with leading dimensions that broadcast
    with those of the logits, where points have bins of their own. With tails the outer two of
    k >= 2 bins are half-normal from their inner edge outwards, their medians at e_0 and e_k, so
    that the density is positive everywhere; without, nothing falls outside of [e_0, e_k).
    """

    logits: Tensor
    edges: Tensor
    tails: bool = False

    @property
    def width(self) -> int:
        return self.logits.shape[-3] * self.logits.shape[-2]

    @property
    def mass(self) -> Tensor:
        """The probabilities (*b, n, m, k) of the bins."""
        return self.logits.softmax(-1)

    @property
    def _bins(self) -> tuple[Tensor, Tensor]:
        return self.edges[..., :-1], self.edges[..., 1:]

    @property
    def tail_std(self) -> tuple[Tensor, Tensor]:
        """The std of the normals whose halves are the lower and the upper tail, each (m,) as the edges lead."""
        gaps = self.edges.diff()
        return gaps[..., 0] / HALF_NORMAL_MEDIAN, gaps[..., -1] / HALF_NORMAL_MEDIAN

    @property
    def mean(self) -> Tensor:
        return (self.mass * self._moments[0]).sum(-1)

    @property
    def variance(self) -> Tensor:
        first, spread = self._moments
        gap = first - self.mean.unsqueeze(-1)  # about the mean, so that nothing cancels far from zero
        return (self.mass * (spread + gap.square())).sum(-1)

    @property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance within each bin."""
        low, high = self._bins
        first, spread = (low + high) / 2, (high - low).square() / 12
        if not self.tails:
            return first, spread
        lower, upper = self.tail_std
        shift = math.sqrt(2 / math.pi)
        ends = [high[..., 0] - shift * lower, low[..., -1] + shift * upper]
        spreads = [(1 - shift**2) * std.square() for std in (lower, upper)]
        return _with_ends(first, *ends), _with_ends(spread, *spreads)

    def draw(self, z: Tensor) -> Tensor:
        level = torch.special.ndtr(z).unflatten(-1, self.logits.shape[-3:-1])
        return self._invert(level)

    def quantile(self, p: float) -> Tensor:
        return self._invert(torch.full_like(self.logits[..., 0], p))

    def _invert(self, level: Tensor) -> Tensor:
        mass = self.mass
        top = mass.cumsum(-1)
        index = (top < level.unsqueeze(-1)).sum(-1, keepdim=True).clamp_max(top.shape[-1] - 1)
        here, top, low, high = (
            t.expand(*level.shape, -1).gather(-1, index).squeeze(-1) for t in (mass, top, *self._bins)
        )
        left = ((top - level) / here).clamp(0, 1)  # the share of the bin that lies above
        value = high - (high - low) * left
        if not self.tails:
            return value
        lower, upper = self.tail_std
        rounding = torch.finfo(left.dtype).eps
        below = self.edges[..., 1] + lower * torch.special.ndtri((1 - left).clamp(rounding, 1) / 2)
        above = self.edges[..., -2] - upper * torch.special.ndtri(left.clamp(rounding, 1) / 2)
        value = torch.where(index.squeeze(-1) == 0, below, value)
        return torch.where(index.squeeze(-1) == mass.shape[-1] - 1, above, value)

    def cdf(self, y: Tensor) -> Tensor:
        low, high = self._bins
        share = ((y.unsqueeze(-1) - low) / (high - low)).clamp(0, 1)
        if self.tails:
            lower, upper = self.tail_std
            below = 2 * torch.special.ndtr((y - self.edges[..., 1]).clamp_max(0) / lower)
            above = torch.erf((y - self.edges[..., -2]).clamp_min(0) / (upper * math.sqrt(2)))
            share = _with_ends(share, below, above)
        return (self.mass * share).sum(-1)

    def log_prob(self, y: Tensor) -> Tensor:
        low, high = self._bins
        index = (self.edges[..., 1:-1] <= y.unsqueeze(-1)).sum(-1, keepdim=True)
        log_density = self.logits.log_softmax(-1) - (high - low).log()
        shape = torch.broadcast_shapes(index.shape[:-1], log_density.shape[:-1])
        log_density = log_density.expand(*shape, -1).gather(-1, index.expand(*shape, 1)).squeeze(-1)
        if not self.tails:
            inside = (self.edges[..., 0] <= y) & (y < self.edges[..., -1])
            return torch.where(inside, log_density, float("-inf"))
        # Half-normal in place of uniform: 2 phi(t) / std over 1 / (std times the median of |t|).
        index = index.squeeze(-1)
        lower, upper = self.tail_std
        t = torch.where(index == 0, (self.edges[..., 1] - y) / lower, (y - self.edges[..., -2]) / upper)
        change = 0.5 * math.log(2 / math.pi) + math.log(HALF_NORMAL_MEDIAN) - t.square() / 2
        outer = (index == 0) | (index == self.logits.shape[-1] - 1)
        return log_density + torch.where(outer, change, 0.0)

    def affine(self, scale: Tensor, shift: Tensor) -> "Binned":
        return replace(self, edges=self.edges * scale[:, None] + shift[:, None])


def _with_ends(values: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Values (*b, k) with others in the first and last place."""
    shape = torch.broadcast_shapes(values.shape[:-1], first.shape, last.shape)
    inner = values[..., 1:-1].expand(*shape, -1)
    return torch.cat([first.expand(shape).unsqueeze(-1), inner, last.expand(shape).unsqueeze(-1)], -1)
