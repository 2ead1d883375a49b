"""Have chains converged? Rank-normalised split R-hat, effective sample sizes, and E-BFMI.

Quantities x (s, k, q), s draws of k chains, are split in halves, so that there are 2 k chains of n
draws. With W the mean of their variances and B / n the variance of their means,

    R-hat = sqrt(V / W),    V = (n - 1) / n W + B / n,

of x replaced by the normal scores of their ranks, and of |x - median|, whichever is larger. The
effective sample size is S = 2 k n over the integrated autocorrelation time,

    S / (1 + 2 sum rho_t),    rho_t = 1 - (W - mean autocovariance at t) / V,

summed in pairs of lags, which must be positive and made to fall (Geyer's initial monotone sequence);
"bulk" of normal scores, "tail" of the indicators of the 5% and 95% quantiles, whichever is smaller.
E-BFMI is the mean square of the changes of energy over its variance: below 0.3, momenta that are
drawn anew do not reach the energies that the posterior has.

For networks x are predictions at probe points. Weights may be exchanged without a change of the
function, so that theirs do not converge and need not.

Sources: Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), "Rank-Normalization, Folding, and
Localization: An Improved R-hat"; Geyer (1992), "Practical Markov Chain Monte Carlo"; Betancourt
(2016), "Diagnosing Suboptimal Cotangent Disintegrations in Hamiltonian Monte Carlo".
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

RHAT, SIZE, ENERGY = 1.05, 100.0, 0.3  # worse than this is worth a sentence


@dataclass(frozen=True)
class Diagnosis:
    """How well chains mixed: the worst and the median over the quantities that were looked at.

    rhat: the largest R-hat; bulk, tail: the least effective sample sizes; median_bulk: the median one;
    bfmi: the least over chains, None for samplers without an energy; accepted: the mean
    probability of acceptance, and divergent the share of divergent moves, None likewise.
    """

    rhat: float
    median_rhat: float
    bulk: float
    median_bulk: float
    tail: float
    draws: int
    accepted: float | None = None
    divergent: float | None = None
    bfmi: float | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        *,
        accepted: Tensor | None = None,
        divergent: Tensor | None = None,
        energy: Tensor | None = None,
    ) -> "Diagnosis":
        """The diagnosis of quantities (s, k, q) and of what the sampler recorded (s, k)."""
        x = x.double()
        # A prediction that no draw changes says that chains are stuck, not that they have converged.
        moved = (x != x[0, 0]).any(0).any(0)
        hat, bulk, tail = rhat(x), bulk_size(x), tail_size(x)
        hat, bulk, tail = torch.where(moved, hat, torch.inf), torch.where(moved, bulk, 1), torch.where(moved, tail, 1)
        return cls(
            hat.max().item(),
            hat.median().item(),
            bulk.min().item(),
            bulk.median().item(),
            tail.min().item(),
            x.shape[0] * x.shape[1],
            None if accepted is None else accepted.double().mean().item(),
            None if divergent is None else divergent.double().mean().item(),
            None if energy is None else bfmi(energy.double()).min().item(),
        )

    @property
    def complaints(self) -> list[str]:
        """What is wrong, in sentences with the figures; empty if nothing is."""
        found = []
        if not self.rhat < RHAT:
            found.append(
                f"R-hat of the predictions is up to {self.rhat:.3g} (median {self.median_rhat:.3g}), above {RHAT}: "
                "the chains disagree"
            )
        if not self.bulk >= SIZE or not self.tail >= SIZE:
            found.append(
                f"{self.draws} draws are worth {self.bulk:.0f} independent ones in the middle and {self.tail:.0f} in "
                f"the tails of the prediction that mixes worst, fewer than {SIZE:.0f}"
            )
        if self.divergent:
            found.append(f"{100 * self.divergent:.2g}% of the trajectories diverged: raise the target acceptance")
        if self.bfmi is not None and self.bfmi < ENERGY:
            found.append(f"E-BFMI is {self.bfmi:.2g}, below {ENERGY}: energies are explored slowly")
        return found


def rhat(x: Tensor) -> Tensor:
    """The rank-normalised split R-hat (q,) of x (s, k, q); one for quantities that do not vary.

    Errors: ValueError for fewer than four draws.
    """
    halves = split(x)
    folded = (halves - torch.quantile(halves.flatten(0, 1), 0.5, dim=0)).abs()
    return torch.maximum(_rhat(normal_scores(halves)), _rhat(normal_scores(folded)))


def _rhat(x: Tensor) -> Tensor:
    within, total = _variances(x)
    return torch.where(within > 0, total / within, torch.where(total > 0, torch.inf, 1.0)).sqrt()


def bulk_size(x: Tensor) -> Tensor:
    """The effective sample size (q,) of the middle of x (s, k, q)."""
    return effective_size(normal_scores(split(x)))


def tail_size(x: Tensor) -> Tensor:
    """The effective sample size (q,) of the 5% and 95% quantiles of x (s, k, q), the smaller one."""
    ends = torch.quantile(x.flatten(0, 1), x.new_tensor([0.05, 0.95]), dim=0)
    return torch.minimum(*(effective_size(split((x <= end).to(x))) for end in ends))


def bfmi(energy: Tensor) -> Tensor:
    """E-BFMI (k,) of the energies (s, k); infinite where they do not vary."""
    change = energy.diff(dim=0).square().sum(0)
    total = (energy - energy.mean(0)).square().sum(0)
    return torch.where(total > 0, change / total, torch.inf)


def split(x: Tensor) -> Tensor:
    """The halves of s draws (s, k, q) as chains of their own, (s // 2, 2 k, q); the middle one of odd s is left out.

    Errors: ValueError for fewer than four draws.
    """
    if len(x) < 4:
        raise ValueError(f"diagnostics need at least four draws a chain, got {len(x)}")
    half = len(x) // 2
    return torch.cat([x[:half], x[len(x) - half :]], 1)


def normal_scores(x: Tensor) -> Tensor:
    """The normal quantiles of (rank - 3/8) / (S + 1/4) over all S draws of a quantity; ties share their mean rank."""
    flat = x.flatten(0, 1).mT.contiguous()
    ordered = flat.sort(-1).values
    below = torch.searchsorted(ordered, flat)
    upto = torch.searchsorted(ordered, flat, right=True)
    rank = (below + upto + 1).to(x) / 2
    return torch.special.ndtri((rank - 0.375) / (flat.shape[-1] + 0.25)).mT.reshape(x.shape)


def effective_size(x: Tensor) -> Tensor:
    """The effective sample size (q,) of the means of x (n, c, q), c chains taken as they are.

    It is at most S log10(S) for S draws in all, and S for quantities that do not vary.
    """
    n, c, q = x.shape
    within, total = _variances(x)
    covariance = autocovariance(x).mean(1)  # (n, q)
    # Chains that do not vary have no correlation; they are given their number below.
    rho = 1 - (within - covariance) / torch.where(total > 0, total, 1)
    rho[0] = 1
    pairs = rho[: n // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    positive = (pairs > 0).to(pairs).cummin(0).values
    falling = (pairs * positive).cummin(0).values
    count = positive.sum(0).long()  # of pairs that are positive from the first on
    time = -1 + 2 * falling.sum(0)
    # The last even lag before the first pair that is not positive improves antithetic chains.
    following = rho[(2 * count).clamp_max(n - 1), torch.arange(q)]
    time = time + torch.where((2 * count < n) & (following > 0), following, 0)
    size = n * c
    time = time.clamp_min(1 / math.log10(size)) if size > 1 else time
    return torch.where(total > 0, size / time, float(size))


def autocovariance(x: Tensor) -> Tensor:
    """The autocovariances (n, *) at all lags along the first axis, divided by n, by Fourier transforms."""
    n = len(x)
    gap = x - x.mean(0)
    spectrum = torch.fft.rfft(gap, 2 * n, dim=0)
    return torch.fft.irfft(spectrum.abs().square(), 2 * n, dim=0)[:n] / n


def _variances(x: Tensor) -> tuple[Tensor, Tensor]:
    """W and V (q,) of chains x (n, c, q)."""
    n, c, _ = x.shape
    within = x.var(0).mean(0)
    between = x.mean(0).var(0) if c > 1 else torch.zeros_like(within)
    return within, (n - 1) / n * within + between
