"""The knowledge gradient: what an observation at x is expected to add to the best mean, here over a finite set.

Once y is seen at x, the means at points x_i of a set that holds x are normal, and move together,

    mean_i + b_i Z,    b_i = C(x_i, x) / sqrt(C(x, x) + noise(x)),    Z ~ N(0, 1),

so that E max_i (mean_i + b_i Z) - max_i mean_i is that of the upper envelope of lines in Z. With the lines on it in
order of their slopes, c_i where line i meets the next, and h(z) = phi(z) + z Phi(z),

    log KG = log sum over i of (b_{i+1} - b_i) h(-|c_i|),

which no line off the envelope enters, and which is finite where the gain itself underflows. The other points are
where functions drawn from the posterior are greatest. A law that is not Gaussian is taken by its mean and
covariance.

Sources: Frazier, Powell & Dayanik (2009), "The Knowledge-Gradient Policy for Correlated Normal Beliefs", for the
envelope; Scott, Frazier & Powell (2011), "The Correlated Knowledge Gradient for Simulation Optimization of
Continuous Parameters using Gaussian Process Regression", for a set that holds x.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.bo.conditioned import joint_covariance, noise_variance
from kernelfield.bo.improvement import log_partial_expectation
from kernelfield.core.contracts import Surrogate
from kernelfield.core.posterior import Binned

PLACES = 1024  # random points among which drawn functions are greatest somewhere
LIMIT = 2**21  # pairs of lines that are compared at once


@dataclass(frozen=True, eq=False)
class Maxima:
    """Where functions drawn from a posterior are greatest, points (k, d), and how great, values (k, 1)."""

    points: Tensor
    values: Tensor

    @classmethod
    def drawn(cls, surrogate: Surrogate, near: Tensor, count: int, generator: torch.Generator) -> "Maxima":
        """Of the first output, among random points of the unit cube and those of `near` (n, d).

        Errors: ValueError for a law that says nothing of how points depend on each other.
        """
        random = torch.rand(PLACES, near.shape[1], generator=generator, dtype=near.dtype).to(near)
        places = torch.cat([random, near])
        with torch.no_grad():
            law = surrogate.posterior(places)
            if isinstance(law, Binned):
                raise ValueError(
                    "a surrogate of histograms says nothing of how points depend on each other, which this acquisition "
                    "rests on; use 'log_ei' or 'thompson'"
                )
            found = law.rsample((count,), generator)[..., 0].max(-1)
        return cls(places[found.indices], found.values[:, None])


@dataclass(frozen=True, eq=False)
class KnowledgeGradient:
    """Points X (r, d) to log KG (r,) of the first output, the means being compared at `rivals` (k, d) and at x itself.

    >>> from kernelfield.core.contracts import Data
    >>> from kernelfield.models.process import Process
    >>> X = torch.tensor([[0.0], [1.0]]).double()
    >>> fitted = Process("rbf", noise=1e-3, steps=0).fit(Data(X, X - 0.5), generator=torch.Generator())
    >>> gain = KnowledgeGradient(fitted, X)(torch.tensor([[1.0], [2.0]]).double())
    >>> bool(gain[1] > gain[0])  # what is known already teaches little
    True
    """

    surrogate: Surrogate
    rivals: Tensor

    def __call__(self, X: Tensor) -> Tensor:
        k, m = len(self.rivals), self.surrogate.outputs
        law = self.surrogate.posterior(torch.cat([self.rivals, X]))
        mean, covariance = law.mean[:, 0], joint_covariance(law)[::m, ::m]
        own = covariance.diagonal()[k:]
        noise = noise_variance(self.surrogate, X).expand(len(X), m)[:, 0]
        means = torch.cat([mean[:k].expand(len(X), -1), mean[k:, None]], 1)
        slopes = torch.cat([covariance[k:, :k], own[:, None]], 1) / (own + noise)[:, None].sqrt()
        rows = max(1, LIMIT // (k + 1) ** 2)
        parts = zip(means.split(rows), slopes.split(rows), strict=True)
        return torch.cat([log_expected_gain(a, b) for a, b in parts])


def log_expected_gain(mean: Tensor, slope: Tensor) -> Tensor:
    """log(E max_i (mean_i + slope_i Z) - max_i mean_i) over lines (*b, k), (*b,); minus infinity for a gain of zero.

    >>> flat, steep = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> round(log_expected_gain(flat, steep).exp().item(), 4)  # E max(0, Z)
    0.3989
    """
    slope, order = slope.sort(dim=-1, stable=True)
    mean = mean.gather(-1, order)
    with torch.no_grad():
        above = _on_envelope(mean, slope)
        count = int(above.sum(-1).max())
        kept = above.sort(dim=-1, descending=True, stable=True).indices[..., :count]
        last = torch.arange(count, device=mean.device) >= above.sum(-1, keepdim=True) - 1  # and what follows it
    mean, slope = mean.gather(-1, kept), slope.gather(-1, kept)
    if count == 1:
        return (0 * mean).sum(-1) - math.inf
    rise = torch.where(last[..., :-1], 1.0, slope.diff())
    meet = torch.where(last[..., :-1], 0.0, mean.diff()).abs() / rise
    parts = rise.log() + log_partial_expectation(-meet)
    # A row of one line would have a slope that is no number.
    alone = last[..., 0]
    parts = parts.masked_fill(last[..., :-1] & ~alone[..., None], -math.inf)
    return parts.logsumexp(-1).masked_fill(alone, -math.inf)


def _on_envelope(mean: Tensor, slope: Tensor) -> Tensor:
    """Which of the lines (*b, k), in order of their slopes, are the greatest for some Z."""
    fall, rise = mean[..., :, None] - mean[..., None, :], slope[..., None, :] - slope[..., :, None]
    meet = fall / rise
    until = torch.where(rise > 0, meet, math.inf).amin(-1)
    since = torch.where(rise < 0, meet, -math.inf).amax(-1)
    index = torch.arange(mean.shape[-1], device=mean.device)
    before = index[None, :] < index[:, None]
    beaten = (rise == 0) & ((fall < 0) | ((fall == 0) & before))  # of equal lines the first counts
    return (since < until) & ~beaten.any(-1)
