"""Joint scores: how good a law is of several values together, not of each alone.

Models that agree on every marginal may differ in what they say of sums, differences, paths and the
greatest of many values, which is what acquisitions, inverse problems and risks are made of. For a law
of vectors f of N values, the vector y that came to be, and f' another draw,

    energy            E |f - y| - E |f - f'| / 2, with Euclidean distances, in units of y
    variogram         sum over i, j of w_ij (|y_i - y_j|^p - E |f_i - f_j|^p)^2, in units of y^(2 p)
    nll               -log p(y) / N, in nats a value
    dawid_sebastiani  log det C + (y - mean)' C^-1 (y - mean), C the covariance
    pit               P(d(f) < d(y)), d being the Mahalanobis distance from the mean: uniform if the
                      laws are right; correlations that are too strong make it pile up at one

All but the last are proper and better when smaller. The energy score with N = 1 is the CRPS; it
hardly sees correlations, which the variogram score, blind to a common shift, is made for. The gain of
the joint nll over the mean of the marginal ones is what predicted correlations are worth.

What needs draws takes them from the law, a fixed number, so that scores are unbiased with an error of
their own; of a `Sample` all pairs of draws are taken, and nothing is biased by how few they are.
A vector is the n x m values of a law; leading axes of a law are a batch of vectors, as
`kernelfield.uq.parts.blocks` makes of a long law.

Sources: Gneiting & Raftery (2007), "Strictly Proper Scoring Rules, Prediction, and Estimation";
Scheuerer & Hamill (2015), "Variogram-Based Proper Scoring Rules for Probabilistic Forecasts of
Multivariate Quantities"; Dawid & Sebastiani (1999), "Coherent Dispersion Criteria for Optimal
Experimental Design"; Gneiting, Stanberry, Grimit, Held & Johnson (2008), "Assessing Probabilistic
Forecasts of Multivariate Quantities", for ranks of vectors; Winkelbauer (2012), "Moments and Absolute
Moments of the Normal Distribution", for E |f_i - f_j|^p.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy import special
from torch import Tensor

from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.core.numerics import cholesky
from kernelfield.core.pathwise import Pathwise
from kernelfield.core.posterior import Binned, Draws, Elliptical, Posterior
from kernelfield.core.quantiles import Quantiles
from kernelfield.uq.laws import Marginals, Sample
from kernelfield.uq.parts import blocks
from kernelfield.uq.scores import between

ORDER = 0.5  # of the variogram: Scheuerer & Hamill find it to tell most
DRAWS = 256  # of a law whose expectations have no formula here: errors of 6% of a spread, less on average
ENTRIES = 2**23  # of draws that are held at once
CLEAR = 2.0  # standard errors beyond which a gain is called one
SIZES = (20, 16, 15, 12, 10)  # points of a block in a report
MOST = 500  # points of a block that has another size


def evaluate_joint(
    law: Posterior,
    y: Tensor,
    *,
    size: int = 1,
    order: float = ORDER,
    draws: int = DRAWS,
    generator: torch.Generator | None = None,
) -> "JointEvaluation":
    """Score the joint law of each block of `size` consecutive points, of n, at the values y (n, m).

    Errors: ValueError if blocks hold a single value, or `size` does not divide n.

    >>> pair = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    >>> law = Elliptical(torch.zeros(3, 2), torch.block_diag(pair, pair, pair))
    >>> result = evaluate_joint(law, torch.tensor([[1.0, 1.2], [-0.5, -0.4], [0.1, 0.3]]))
    >>> round(result.scores()["gain"], 3)  # nats a value
    0.496
    """
    with torch.no_grad():
        parts = blocks(law, size)
        y = torch.as_tensor(y).to(law.mean).reshape(parts.mean.shape)
        N = y[0].numel()
        if N < 2:
            raise ValueError(f"blocks of {size} point hold one value, for which there is evaluate; raise size")
        generator = generator or torch.Generator().manual_seed(0)
        enough = not isinstance(parts, Sample) or parts.values.shape[-3] > N
        unknown = torch.full((len(y),), math.nan)
        columns = {
            "energy": energy_score(parts, y, draws=draws, generator=generator),
            "variogram": variogram_score(parts, y, order=order, draws=draws, generator=generator),
            "nll": joint_nll(parts, y),
            "marginal_nll": -parts.log_prob(y).mean((-2, -1)),
            "dawid_sebastiani": dawid_sebastiani(parts, y) if enough else unknown,
            "pit": mahalanobis_pit(parts, y, draws=draws, generator=generator) if enough else unknown,
        }
    return JointEvaluation(**{name: value.double().cpu().numpy() for name, value in columns.items()})


def evaluate_blocks(law: Posterior, y: Tensor) -> "JointEvaluation | None":
    """The same in blocks of some twenty points, for a report; None where a law has no joint rule or points are few.

    >>> law = Elliptical(torch.zeros(40, 1), torch.eye(40))
    >>> len(evaluate_blocks(law, torch.zeros(40, 1)).nll)
    2
    """
    n = len(y)
    size = next((size for size in SIZES if n % size == 0), n)
    if size * y.shape[-1] < 2 or size > MOST:
        return None
    try:
        return evaluate_joint(law, y, size=size)
    except NotImplementedError:  # independent marginals, or a family that `blocks` does not take apart
        return None


@dataclass(frozen=True, eq=False)
class JointEvaluation:
    """Scores of the joint laws of b blocks, each field (b,); see the module docstring.

    nll and marginal_nll, of the joint law and of its marginals as if they were independent, are in
    nats a value. What a law cannot say is NaN: a density of samples, and moments of fewer of them than
    a block has values.
    """

    energy: np.ndarray
    variogram: np.ndarray
    nll: np.ndarray
    marginal_nll: np.ndarray
    dawid_sebastiani: np.ndarray
    pit: np.ndarray

    def scores(self) -> dict[str, float]:
        """Means over the blocks, without that of pit, and `gain`: nats a value that correlations are worth."""
        names = [field.name for field in fields(self) if field.name != "pit"]
        means = {name: float(np.mean(getattr(self, name))) for name in names}
        return means | {"gain": means["marginal_nll"] - means["nll"]}

    @property
    def sentence(self) -> str:
        """What the joint density adds to the marginal ones."""
        gain, n = self.marginal_nll - self.nll, len(self.nll)
        mean = float(np.mean(gain))
        if math.isnan(mean):
            return "The laws have no joint density, so that it does not tell what their correlations are worth."
        found = f"Taken together, values cost {np.mean(self.nll):.3f} nats each, apart {np.mean(self.marginal_nll):.3f}"
        error = float(np.std(gain, ddof=1) / math.sqrt(n)) if n > 1 else math.inf
        if not abs(mean) > CLEAR * error:
            where = "1 block" if n == 1 else f"{n:,} blocks"
            return f"{found}: no clear gain from predicted correlations in {where}."
        what = "are worth" if mean > 0 else "are wrong and cost"
        sure = f"{abs(mean):.3f} nats a value, {abs(mean) / error:.1f} standard errors"
        return f"{found}: predicted correlations {what} {sure}."


def energy_score(law: Posterior, y: Tensor, *, draws: int = DRAWS, generator: torch.Generator | None = None) -> Tensor:
    """The energy score (*b,) of the joint law at y (*b, n, m), in units of y.

    >>> law = Sample(torch.tensor([[0.0, 0.0], [3.0, 4.0]]).reshape(2, 2, 1))
    >>> energy_score(law, torch.zeros(2, 1)).item()  # 5 / 2 - 5 / 2
    0.0
    """
    y = y.flatten(-2)
    near, apart, count = torch.zeros(()), torch.zeros(()), 0
    for x in _drawn(law, draws, generator):
        k = len(x)
        # Draws of a law are as many as one likes, and pairs of neighbours are enough; those of a sample are few.
        lags = range(1, k) if isinstance(law, Sample) else (1,)
        near = near + torch.linalg.vector_norm(x - y, dim=-1).sum(0)
        apart = apart + sum(torch.linalg.vector_norm(x - x.roll(lag, 0), dim=-1).sum(0) for lag in lags) / len(lags)
        count += k
    return (near - apart / 2) / count


def variogram_score(
    law: Posterior,
    y: Tensor,
    *,
    order: float = ORDER,
    weights: Tensor | None = None,
    draws: int = DRAWS,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The variogram score (*b,) of the joint law at y (*b, n, m), in units of y^(2 order).

    weights (N, N) of pairs of values, point-major; all 1 without.
    """
    y = y.flatten(-2)
    came = _apart(y, order)
    match law:
        case Elliptical(mixing=Unit()):
            mean, covariance = _moments(law)
            variance = covariance.diagonal(dim1=-2, dim2=-1)
            spread = variance.unsqueeze(-1) + variance.unsqueeze(-2) - 2 * covariance
            gap = mean.unsqueeze(-1) - mean.unsqueeze(-2)
            terms = (came - absolute_moment(gap, spread.clamp_min(0).sqrt(), order)).square()
        case _:
            first, second, count = torch.zeros(()), torch.zeros(()), 0
            for x in _drawn(law, draws, generator):
                for one in x:
                    power = _apart(one, order)
                    first, second, count = first + power, second + power.square(), count + 1
            mean = first / count
            noise = (second / count - mean.square()) / (count - 1)  # of the mean, by which its square is too large
            terms = (came - mean).square() - noise
    return (terms if weights is None else weights.to(y) * terms).sum((-2, -1))


def _apart(y: Tensor, order: float) -> Tensor:
    """|y_i - y_j|^order (*b, N, N) of vectors (*b, N)."""
    return (y.unsqueeze(-1) - y.unsqueeze(-2)).abs() ** order


def absolute_moment(mean: Tensor, std: Tensor, order: float) -> Tensor:
    """E |mean + std z|^order for a standard normal z; |mean|^order where std is zero.

    std^p 2^(p/2) Gamma((1 + p)/2) / sqrt(pi) M(-p/2, 1/2, -t^2/2), t = mean / std and M Kummer's function.

    >>> round(absolute_moment(torch.tensor(3.0), torch.tensor(2.0), 2.0).item(), 6)  # 9 + 4
    13.0
    """
    t = mean / torch.where(std > 0, std, 1.0)
    kummer = torch.as_tensor(special.hyp1f1(-order / 2, 0.5, (-t.square() / 2).cpu().numpy())).to(mean)
    constant = 2 ** (order / 2) * math.gamma((1 + order) / 2) / math.sqrt(math.pi)
    return torch.where(std > 0, std**order * constant * kummer, mean.abs() ** order)


def joint_nll(law: Posterior, y: Tensor) -> Tensor:
    """Negative joint log density (*b,) at y (*b, n, m) divided by the number of values; NaN where it is not known."""
    N = y.shape[-2] * y.shape[-1]
    match law:
        case Elliptical():
            value = law.joint_log_prob(y)
        case Pathwise():
            value = law.law.joint_log_prob(y)
        case Draws():
            if not (law.noise > 0).all():
                law.log_prob(y)  # refuses, with the remedy
            t = (y.unsqueeze(-3) - law.values) / law.spread
            each = (Unit().log_density(t) - law.spread.log()).sum((-2, -1))
            value = (each + law.weights.log()).logsumexp(-1)
        case Binned() | Quantiles() | Marginals():
            value = law.log_prob(y).sum((-2, -1))
        case _:
            value = torch.full_like(y[..., 0, 0], math.nan)
    return -value / N


def dawid_sebastiani(law: Posterior, y: Tensor) -> Tensor:
    """The score (*b,) of mean and covariance alone, in nats but for constants, of the joint law at y (*b, n, m).

    Errors: ValueError for a sample of too few draws for a covariance, saying how many are needed.
    """
    mean, covariance = _moments(law)
    factor = cholesky(covariance)
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) + _form(factor, y.flatten(-2) - mean)


def mahalanobis_pit(
    law: Posterior, y: Tensor, *, draws: int = DRAWS, generator: torch.Generator | None = None
) -> Tensor:
    """The level (*b,) of the distance of y (*b, n, m) from the mean, in units of the covariance.

    Chi-squared for Gaussians, F for Student-t laws. Others are asked for draws, among whose distances the
    rank of y's is made uniform between its neighbours; so for a sample, whose mean and covariance are those
    of draws and y together, as they must treat all alike.

    Errors: ValueError for a sample of too few draws.

    >>> law = Elliptical(torch.zeros(2, 1), torch.eye(2))
    >>> round(mahalanobis_pit(law, torch.ones(2, 1)).item(), 4)  # 1 - exp(-1)
    0.6321
    """
    match law:
        case Pathwise():
            return mahalanobis_pit(law.law, y)
        case Elliptical(mixing=Unit()):
            mean, covariance = _moments(law)
            form = _form(cholesky(covariance), y.flatten(-2) - mean)
            return torch.special.gammainc(torch.full_like(form, mean.shape[-1] / 2), form / 2)
        case Elliptical(mixing=InverseGamma() as mixing):
            gap = ((y - law.loc) / law.unit).flatten(-2)
            N = gap.shape[-1]
            form = _form(cholesky(torch.as_tensor(law.scale.to_dense())), gap) / (N * mixing.spread**2)
            return torch.as_tensor(special.fdtr(N, mixing.df, form.cpu().numpy())).to(y)
        case Sample():
            _moments(law)  # refuses too few draws
            pooled = torch.cat([law.values, y.unsqueeze(-3)], -3)
            mean, covariance = _moments(Sample(pooled))
            distances = _form(cholesky(covariance), pooled.flatten(-2).movedim(-2, 0) - mean)
            return _ranked(distances[:-1], distances[-1], y)
        case _:
            mean, covariance = _moments(law)
            factor = cholesky(covariance)
            distances = torch.cat([_form(factor, x - mean) for x in _drawn(law, draws, generator)])
            return _ranked(distances, _form(factor, y.flatten(-2) - mean), y)


def _ranked(others: Tensor, own: Tensor, y: Tensor) -> Tensor:
    """A uniform number between the levels around the rank of own (*b,) among others (k, *b)."""
    k = len(others)
    below, upto = (others < own).sum(0), (others <= own).sum(0)
    return between(below.to(own) / (k + 1), (upto + 1).to(own) / (k + 1), y)


def _form(factor: Tensor, gap: Tensor) -> Tensor:
    """|factor^-1 gap|^2 (*s, *b) for gap (*s, *b, N)."""
    return torch.linalg.solve_triangular(factor, gap.unsqueeze(-1), upper=False).square().sum((-2, -1))


def _drawn(law: Posterior, draws: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Draws (k, *b, N), at least two at once; all of a sample, or so many as fit in the memory that is allowed."""
    if isinstance(law, Sample):
        yield law.values.flatten(-2).movedim(-2, 0)
        return
    generator = generator or torch.Generator().manual_seed(0)
    count = max(1, draws * max(law.mean.numel(), 1) // ENTRIES)
    for part in np.array_split(np.arange(max(draws, 2)), min(count, max(draws, 2) // 2)):
        yield law.rsample((len(part),), generator).flatten(-2)


def _moments(law: Posterior) -> tuple[Tensor, Tensor]:
    """Mean (*b, N) and covariance (*b, N, N) of a vector."""
    mean = law.mean.flatten(-2)
    match law:
        case Sample():
            x = law.values.flatten(-2)
            k, N = x.shape[-2:]
            if k <= N:
                raise ValueError(f"a covariance of {N} values needs more than {N} draws, got {k}; score smaller blocks")
            centred = x - mean.unsqueeze(-2)
            return mean, centred.mT @ centred / (k - 1)
        case Draws():
            centred = law.values.flatten(-2) - mean.unsqueeze(-2)
            between_functions = centred.mT @ (law.weights[:, None] * centred)
            noise = law.variance.flatten(-2) - between_functions.diagonal(dim1=-2, dim2=-1)
            return mean, between_functions + torch.diag_embed(noise.clamp_min(0))
        case Binned() | Quantiles() | Marginals():
            return mean, torch.diag_embed(law.variance.flatten(-2))
        case _:
            return mean, law.covariance  # type: ignore[attr-defined]
