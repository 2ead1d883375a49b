"""Continuous ranked probability scores of every family of posteriors.

    crps(F, y) = integral of (F(x) - 1[x >= y])^2 dx = E|f - y| - E|f - f'| / 2

with f and f' independent draws of F. The second form is what remains finite sums and normal
integrals for mixtures; the first one splits at the edges of a histogram. For a law that is
symmetric about zero, both give

    crps(F, y) = 2 int_0^inf F(-x)^2 dx + int_0^|y| (2 F(x) - 1) dx,

from which the Student-t case below and, by quadrature, that of any other scale mixture follow.

Units: those of y. Source: Jordan, Krueger & Lerch (2019), "Evaluating Probabilistic Forecasts with
scoringRules", appendix A; the Student-t form is theirs, rearranged to stay accurate near df = 1.
"""

import math

import numpy as np
import torch
from scipy import special
from torch import Tensor

from kernelfield.core.convolved import Convolved
from kernelfield.core.mixing import InverseGamma, Mixing, Unit
from kernelfield.core.pathwise import Pathwise
from kernelfield.core.posterior import Binned, Draws, Elliptical, Posterior
from kernelfield.core.quantiles import Quantiles
from kernelfield.uq.laws import Sample

NODES = 64  # Gauss-Legendre nodes: 1e-10 of a scale mixture's CRPS
LEVELS, REACH = 401, 6.0  # quantiles of a law without a formula, equally spaced in normal scores to this one
CHUNK = 4096  # values whose nodes are held at once
PAIRS = 2**22  # of Gaussians in a mixture, held at once
REMOVABLE = 1e-7  # |df - 1| below which the Student-t form is 0 / 0; moving df by it costs as much


def expected_score(law: Posterior, y: Tensor) -> Tensor:
    """The CRPS (*b, n, m) of a law at y; of a family without a formula here by its quantiles, to 1e-4."""
    match law:
        case Elliptical():
            return _elliptical(law, y)
        case Draws():
            return _mixture(law, y) if (law.noise > 0).any() else _empirical(law, y)
        case Binned():
            return _histogram(law, y)
        case Quantiles():
            return _pieces(law, y)
        case Sample():
            return _fair(law, y)
        case Convolved():
            return _convolved(law, y)
        case Pathwise():
            return expected_score(law.law, y)
        case _:
            return _by_quantiles(law, y)


def _elliptical(law: Elliptical, y: Tensor) -> Tensor:
    error = (y - law.loc).abs()
    spread = law.spread
    t = error / torch.where(spread > 0, spread, 1.0)
    match law.mixing:
        case Unit():
            score = expected_distance(t, torch.ones_like(t)) - 1 / math.sqrt(math.pi)
        case InverseGamma() as mixing:
            score = mixing.spread * _student(t / mixing.spread, mixing.df)
        case mixing:
            score = _symmetric(t, mixing)
    return torch.where(spread > 0, spread * score, error)  # a law without spread is a point prediction


def expected_distance(error: Tensor, std: Tensor) -> Tensor:
    """E|error + std z| for a standard normal z; |error| where std is zero.

    >>> round(expected_distance(torch.zeros(1), torch.ones(1)).item(), 6)  # sqrt(2 / pi)
    0.797885
    """
    t = error / torch.where(std > 0, std, 1.0)
    value = error * torch.erf(t / math.sqrt(2)) + std * math.sqrt(2 / math.pi) * (-t.square() / 2).exp()
    return torch.where(std > 0, value, error.abs())


def _student(t: Tensor, df: float) -> Tensor:
    """Of a standard Student-t at t >= 0; infinite if df <= 1/2.

    crps(0) + t (2 F(t) - 1) - 2 int_0^t x p(x) dx. Both outer terms have the pole 1 / (df - 1),
    which `expm1` removes.
    """
    if df <= 0.5:
        return torch.full_like(t, math.inf)
    if abs(df - 1) < REMOVABLE:
        df = 1 + REMOVABLE
    height = math.sqrt(df) * math.exp(-special.betaln(df / 2, 0.5))  # df times the density at 0
    centre = math.expm1(special.betaln(0.5, df - 0.5) - special.betaln(df / 2, 0.5))
    tail = torch.expm1((1 - df) / 2 * torch.log1p(t.square() / df))
    inside = 2 * InverseGamma.student(df).cdf(t) - 1
    return t * inside + 2 * height / (df - 1) * (tail - centre)


def _symmetric(t: Tensor, mixing: Mixing) -> Tensor:
    """Of sqrt(s) z at t >= 0 by quadrature, in the variable v of x = unit sinh(v).

    It stretches both tails, so that a few nodes serve laws with heavy ones. The integral to
    infinity is a trapezoidal sum after x = unit exp(pi / 2 sinh(u)).
    """
    unit = float(mixing.quantile(t.new_tensor(0.75)))
    u = torch.linspace(-4, 4, 401, dtype=torch.float64)
    x = unit * (math.pi / 2 * u.sinh()).exp()
    weight = (u[1] - u[0]) * x * math.pi / 2 * u.cosh()
    centre = 2 * float((weight * mixing.cdf(-x).square()).sum())
    reach = (t / unit).asinh().flatten()
    area = torch.cat([_area(part, unit, mixing) for part in reach.split(CHUNK)])
    return centre + area.reshape(t.shape)


def _area(reach: Tensor, unit: float, mixing: Mixing) -> Tensor:
    """int_0^(unit sinh(reach)) (2 F(x) - 1) dx for each entry of reach (n,)."""
    nodes, weights = (torch.as_tensor(a).to(reach) for a in np.polynomial.legendre.leggauss(NODES))
    v = reach[:, None] * (1 + nodes) / 2
    height = (2 * mixing.cdf(unit * v.sinh()) - 1) * unit * v.cosh()
    return reach / 2 * (height @ weights)


def _mixture(law: Draws, y: Tensor) -> Tensor:
    """Of weighted Gaussians.

    Pairs of members are visited once, a diagonal of the k x k table at a time: memory O(k n m).
    """
    std, weights = law.spread.expand(law.values.shape), law.weights[:, None, None]
    near = (weights * expected_distance(y.unsqueeze(-3) - law.values, std)).sum(-3)
    apart = (weights.square() * std).sum(-3) * 2 / math.sqrt(math.pi)
    for lag in range(1, len(law.weights)):
        gap = law.values[..., lag:, :, :] - law.values[..., :-lag, :, :]
        between = torch.hypot(std[..., lag:, :, :], std[..., :-lag, :, :])
        apart = apart + 2 * (weights[lag:] * weights[:-lag] * expected_distance(gap, between)).sum(-3)
    return near - apart / 2


def _empirical(law: Draws, y: Tensor) -> Tensor:
    """Of weighted values: E|f - f'| / 2 is the integral of F (1 - F), a step function."""
    near = (law.weights[:, None, None] * (y.unsqueeze(-3) - law.values).abs()).sum(-3)
    values, order = law.values.sort(-3)
    level = law.weights[order].cumsum(-3)[..., :-1, :, :]
    return near - (level * (1 - level) * values.diff(dim=-3)).sum(-3)


def _histogram(law: Binned, y: Tensor) -> Tensor:
    """Of a piecewise-linear F: each bin is cut at y, and the square of a line integrated; tails apart."""
    low, high = law.edges[..., :-1], law.edges[..., 1:]
    mass = law.logits.softmax(-1)
    top = mass.cumsum(-1)
    bins = _cut_bin(low, high, top - mass, top, y.unsqueeze(-1))
    if law.tails:
        lower, upper = law.tail_std
        tails = _tail(law.edges[..., 1] - y, lower, mass[..., 0]) + _tail(y - law.edges[..., -2], upper, mass[..., -1])
        return bins[..., 1:-1].sum(-1) + tails
    outside = (y - y.clamp(law.edges[..., 0], law.edges[..., -1])).abs()
    return bins.sum(-1) + outside


def _pieces(law: Quantiles, y: Tensor) -> Tensor:
    """Of Gaussian pieces, each cut at y; in the normal score u of a piece dx = slope du.

    Where the outer quantiles are equal the law ends there, and all that lies beyond them counts.
    """
    low, high = law.pieces
    start, slope = law.values[..., :-1], law.slopes
    rise = (y.unsqueeze(-1) - start) / torch.where(slope > 0, slope, 1.0)
    cut = torch.minimum(torch.maximum(law.scores[:-1] + rise, low), high)
    inner = slope * (_area_below(cut) - _area_below(low) + _area_below(-cut) - _area_below(-high))
    ends = law.values[..., 0] - y, y - law.values[..., -1]
    beyond = [torch.where(slope[..., i] > 0, 0.0, end.clamp_min(0)) for i, end in zip((0, -1), ends, strict=True)]
    return inner.sum(-1) + sum(beyond)


def _area_below(u: Tensor) -> Tensor:
    """The integral of the squared normal distribution function from minus infinity to u < infinity."""
    level, bell = torch.special.ndtr(u), (-u.square() / 2).exp() / math.sqrt(2 * math.pi)
    area = level * (u * level + 2 * bell) - torch.special.ndtr(math.sqrt(2) * u) / math.sqrt(math.pi)
    return torch.where(u.isinf(), 0.0, area)


def _fair(law: Sample, y: Tensor) -> Tensor:
    """Of the law that k draws came from, without bias: pairs of different draws, as gaps between neighbours.

    It is below zero where the draws lie further apart than y from them.
    """
    near = (y.unsqueeze(-3) - law.values).abs().mean(-3)
    k = law.values.shape[-3]
    place = torch.arange(1, k).to(y)
    pairs = (place * (k - place) / (k * (k - 1)))[:, None, None]
    return near - (pairs * law.ordered.diff(dim=-3)).sum(-3)


def _tail(beyond: Tensor, std: Tensor, mass: Tensor) -> Tensor:
    """What a half-normal tail adds, for y that lies so far beyond its inner edge.

    There F = mass q(u) with q(u) = 2 ndtr(-u) at u std beyond the edge, so that with t that of y the
    integral is std (t - 2 mass (integral of q from 0 to t) + mass^2 (integral of q^2 from 0 on)).
    """
    t = beyond.clamp_min(0) / std
    root = math.sqrt(2 / math.pi)
    area = -root * torch.expm1(-t.square() / 2) + 2 * t * torch.special.ndtr(-t)
    return std * (t - 2 * mass * area + mass.square() * (math.sqrt(2) - 1) * 2 / math.sqrt(math.pi))


def _by_quantiles(law: Posterior, y: Tensor) -> Tensor:
    """Of a law whose distribution function is taken to be linear between many quantiles, one pair at a time."""
    reach = min(REACH, -float(special.ndtri(8 * torch.finfo(y.dtype).eps)))  # levels that differ from one
    levels = torch.special.ndtr(torch.linspace(-reach, reach, LEVELS, dtype=torch.float64))
    shares = ((levels - levels[0]) / (levels[-1] - levels[0])).tolist()
    first = low = law.quantile(levels[0].item())
    score = torch.zeros_like(y)
    for level, bottom, top in zip(levels[1:].tolist(), shares[:-1], shares[1:], strict=True):
        high = law.quantile(level)
        score = score + _cut_bin(low, high, bottom, top, y)
        low = high
    return score + (first - y).clamp_min(0) + (y - low).clamp_min(0)


def _cut_bin(low: Tensor, high: Tensor, bottom: Tensor | float, top: Tensor | float, y: Tensor) -> Tensor:
    """Of the bin [low, high] in which F rises in a line from bottom to top, cut at y."""
    cut = torch.minimum(torch.maximum(y, low), high)
    wide = torch.where(high > low, high - low, 1.0)  # an atom of the law is a bin without width
    middle = top - (top - bottom) * (high - cut) / wide
    return (cut - low) * _mean_square(bottom, middle) + (high - cut) * _mean_square(1 - middle, 1 - top)


def _mean_square(start: Tensor | float, end: Tensor | float) -> Tensor:
    """The mean of the square of a line between two heights."""
    return torch.as_tensor((start * start + start * end + end * end) / 3)


def _convolved(law: Convolved, y: Tensor) -> Tensor:
    """Of a mixture of Gaussians that differ in their spread.

    E|y - f| and E|f - f'| / 2 are infinite for nu <= 1 and their difference is not: the means of
    std sqrt(2 / pi) that they share are taken out of both.
    """
    if law.nu <= 0.5:
        return torch.full_like(y, math.inf)
    spread, mass = law.gaussians()
    error, spread = (y - law.mean).abs().flatten(), spread.flatten(0, -2)
    pairs = torch.outer(mass, mass)
    scores = []
    for e, std in zip(*(t.split(max(1, PAIRS // len(mass) ** 2)) for t in (error, spread)), strict=True):
        t = e[:, None] / std
        gain = math.sqrt(2 / math.pi) * std * torch.expm1(-t.square() / 2)
        near = (e[:, None] * torch.erf(t / math.sqrt(2)) + gain) @ mass
        one, other = std[:, :, None], std[:, None, :]
        apart = (one * other / (one + other + torch.hypot(one, other)) * pairs).sum((-2, -1))
        scores.append(near + math.sqrt(2 / math.pi) * apart)
    return torch.cat(scores).reshape(law.mean.shape)
