"""Expected improvement of a histogram, exactly.

A bin [a, b) of mass w adds w E(y - best)+ for y uniform in it: w ((a + b) / 2 - best) where all of it lies
above, w (b - best)^2 / (2 (b - a)) where best lies within. Tails are half-normal from their inner edge
outwards: with t = (best - edge) / std and g(t) = phi(t) - t (1 - Phi(t)),

    upper  2 std g(t) for t > 0, else std sqrt(2 / pi) - std t,
    lower  std (2 |t| Phi(|t|) - |t| - 2 phi(0) + 2 phi(t)) for t < 0, else zero.

Source: Mueller et al. (2023), "PFNs4BO: In-Context Learning for Bayesian Optimization", for bins.
"""

import math

import torch
from torch import Tensor

from kernelfield.core.contracts import Surrogate
from kernelfield.core.posterior import Binned

LEAST = 1e-300  # an improvement whose logarithm is still finite


def log_improvement(surrogate: Surrogate, X: Tensor, *, best: float) -> Tensor:
    """The logarithm (r,) of the expected improvement of the first output at X (r, d)."""
    law = surrogate.posterior(X)
    assert isinstance(law, Binned)
    return expected_improvement(law, best)[:, 0].clamp_min(LEAST).log()


def expected_improvement(law: Binned, best: float) -> Tensor:
    """E(y - best)+ of each marginal, (*b, n, m), in units of y."""
    low, high = law.edges[..., :-1], law.edges[..., 1:]
    above = (high - best).clamp_min(0)
    parts = torch.where(low >= best, (low + high) / 2 - best, above.square() / (2 * (high - low)))
    if law.tails:
        lower, upper = law.tail_std
        parts = parts.clone()
        parts[..., 0] = _lower(high[..., 0], lower, best)
        parts[..., -1] = _upper(low[..., -1], upper, best)
    return (law.mass * parts).sum(-1)


def _upper(edge: Tensor, std: Tensor, best: float) -> Tensor:
    t = (best - edge) / std
    beyond = 2 * (_density(t) - t * torch.special.ndtr(-t))
    return std * torch.where(t > 0, beyond, math.sqrt(2 / math.pi) - t)


def _lower(edge: Tensor, std: Tensor, best: float) -> Tensor:
    t = ((edge - best) / std).clamp_min(0)
    return std * (2 * t * torch.special.ndtr(t) - t - 2 * _density(torch.zeros_like(t)) + 2 * _density(t))


def _density(t: Tensor) -> Tensor:
    return torch.exp(-0.5 * t.square()) / math.sqrt(2 * math.pi)
