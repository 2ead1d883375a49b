"""Copula updates: how any predictive law may learn from a draw of its own, without being conditioned.

With the distribution function P_i(y | x) of the next row and v = P_i(y' | x') of the value just drawn at x',

    P_{i+1}(y | x) = (1 - a) P_i(y | x) + a H(P_i(y | x), v),
    H(u, v) = Phi((Phi^-1(u) - c Phi^-1(v)) / sqrt(1 - c^2)),    H(u, v) = 1[v <= u] for c = 1,

the conditional law of a Gaussian copula of correlation c. A value drawn from P_i has a uniform v, over which
H(u, v) averages to u: whatever c and a, predictions are a martingale, and of the drawn value nothing else is
needed. The step is a_i = (k - (k - 1) / i) / (i + 1) at x = x' and less elsewhere,

    a = a_i w / (1 - a_i + a_i w),    w = product over inputs of the Gaussian copula density of (x_j, x'_j)

for standardised inputs. With c = 1, k = 1 and no inputs it is Polya's urn: the limit is a Dirichlet process with
n times the first law as its base, and P(y) has the law Beta(n p, n (1 - p)). Correlations below one smooth it.

Source: Fong, Holmes & Walker (2023), "Martingale Posterior Distributions", on copula updates for regression, with
k = 2 of theirs; Hahn, Martin & Walker (2018), "On Recursive Bayesian Predictive Distributions".
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.core.posterior import Binned, Posterior

CHUNK = 2**22  # numbers of distribution functions that are alive at a time
EDGE = 1e-12  # how close probabilities may come to zero and one before their normal scores are infinite


@dataclass(frozen=True)
class Copula:
    """How far an update reaches.

    correlation : of the copula of y, in (0, 1]; the larger, the more one value says of those near it alone.
    input_correlation : that of each input, in [0, 1); zero makes an update the same everywhere.
    rate : k above; 1 weighs a drawn row as one of the data, 2 as nearly two.
    bins : of the histogram that stands for a law, of equal mass at the start.

    Errors: ValueError for values out of range.
    """

    correlation: float = 0.9
    input_correlation: float = 0.8
    rate: float = 2.0
    bins: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.correlation <= 1 or not 0 <= self.input_correlation < 1:
            given = f"{self.correlation} and {self.input_correlation}"
            raise ValueError(f"correlation must lie in (0, 1] and input_correlation in [0, 1), got {given}")
        if not 1 <= self.rate <= 2 or self.bins < 3:
            raise ValueError(f"rate must lie in [1, 2] and bins be at least 3, got {self.rate} and {self.bins}")

    def weights(self, at: Tensor, X: Tensor) -> Tensor:
        """w (q, n) of standardised points (q, d) and rows (n, d).

        >>> Copula(input_correlation=0.0).weights(torch.zeros(1, 2), torch.ones(1, 2)).item()
        1.0
        """
        c = self.input_correlation
        a, b = at[:, None], X[None]
        form = (c**2 * (a.square() + b.square()) - 2 * c * a * b) / (2 * (1 - c**2))
        return torch.exp(-form).prod(-1) * (1 - c**2) ** (-X.shape[1] / 2)

    def moved(self, P: Tensor, v: Tensor, step: Tensor) -> Tensor:
        """P (b, q, m, k) after values of rank v (b, m), for steps a (b, q).

        >>> Copula(correlation=1.0).moved(torch.tensor([[[[0.3, 0.7]]]]), torch.tensor([[0.5]]), torch.tensor([[0.1]]))
        tensor([[[[0.2700, 0.7300]]]])
        """
        v, a = v[:, None, :, None], step[..., None, None]
        if self.correlation == 1:
            return P + a * ((v <= P).to(P) - P)
        c = self.correlation
        score = torch.special.ndtri(P.clamp(EDGE, 1 - EDGE)) - c * torch.special.ndtri(v.clamp(EDGE, 1 - EDGE))
        return P + a * (torch.special.ndtr(score / (1 - c**2) ** 0.5) - P)


def copula_chains(
    law: Posterior,
    at: Tensor,
    X: Tensor,
    noise: list[tuple[Tensor, torch.Generator]],
    copula: Copula,
    of: Callable[[Posterior], Tensor],
) -> tuple[Tensor, Tensor]:
    """A functional `of` the laws (b, q, m) of b chains at points (q, d), halfway and at the end.

    law: that of y (q, m) at these points from n rows X (n, d). noise: for each chain the rows (T,) whose
    inputs it sees, and the source of the ranks v.
    """
    shift, scale = X.mean(0), X.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    weights = copula.weights((at - shift) / scale, (X - shift) / scale)
    edges = _edges(law, copula.bins)
    q, m = law.mean.shape
    size = max(1, CHUNK // (q * m * copula.bins))
    parts = []
    for i in range(0, len(noise), size):
        parts.append(_some(noise[i : i + size], weights, edges, copula, of))
    first, last = zip(*parts, strict=True)
    return torch.cat(first), torch.cat(last)


def _some(
    noise: list[tuple[Tensor, torch.Generator]],
    weights: Tensor,
    edges: Tensor,
    copula: Copula,
    of: Callable[[Posterior], Tensor],
) -> list[Tensor]:
    n, m = weights.shape[1], edges.shape[1]
    rows = torch.stack([own for own, _ in noise])
    steps = rows.shape[1]
    v = torch.stack([torch.rand(steps, m, generator=g, dtype=torch.float64) for _, g in noise]).to(weights)
    P = (torch.arange(1, copula.bins).to(weights) / copula.bins).expand(len(noise), *edges.shape[:2], -1)
    found = []
    for t in range(steps):
        i = n + t
        a = (copula.rate - (copula.rate - 1) / i) / (i + 1)
        w = weights[:, rows[:, t]].mT
        P = copula.moved(P, v[:, t], a * w / (1 - a + a * w))
        if t + 1 in (steps // 2, steps):
            mass = torch.nn.functional.pad(P, (1, 1), value=0.0).diff()
            mass[..., -1] = 1 - P[..., -1]
            found.append(of(Binned(mass.clamp_min(0).log(), edges, tails=True)))
    return found


def _edges(law: Posterior, bins: int) -> Tensor:
    """Edges (q, m, bins + 1) of equal mass; the outer ones are the medians of the tails beyond."""
    levels = [0.5 / bins, *(j / bins for j in range(1, bins)), 1 - 0.5 / bins]
    return torch.stack([law.quantile(level) for level in levels], -1)
