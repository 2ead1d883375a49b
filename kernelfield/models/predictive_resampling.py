"""Martingale posteriors: what data leave unknown of a functional, by completing the data again and again.

Uncertainty is missing data. A predictor that has seen n rows draws the next one from its own predictive law,
takes it in, and goes on,

    x_{i+1} ~ law of inputs,    y_{i+1} ~ p_i(y | x_{i+1}),    p_{i+1} = p_i updated by (x_{i+1}, y_{i+1}),

until n + T rows are there. The functional of the completed data, or of the predictive law at its end, is then
one draw; b chains are b of them. If the updates are those of Bayes' rule, this is the usual posterior; else it
takes no prior and no likelihood, only a predictor whose predictions are a martingale. How p_i is updated:

    gaussian   the laws of all rows and points are jointly Gaussian and `condition` is Gaussian conditioning
               (it is tried on one row): rank-one updates of that law, for all chains at once
    condition  `Surrogate.condition`, chain by chain
    refit      a model is fitted again to the completed data
    copula     `kernelfield.models.copula_update.Copula`, for predictors that cannot be conditioned

A chain that ends at N = n + T rows has not arrived. Its increments fall as 1 / i, so that the variance still to
come is c^2 / N, and that of the way from N' rows to N is c^2 (1 / N' - 1 / N), which is seen: `remaining`.

Sources: Fong, Holmes & Walker (2023), "Martingale Posterior Distributions"; Rubin (1981), "The Bayesian
Bootstrap", and Newton & Raftery (1994), for weights of rows, for the law of inputs.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeGuard

import torch
from torch import Tensor

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.mixing import Unit
from kernelfield.core.posterior import Elliptical, Posterior
from kernelfield.models.copula_update import Copula, copula_chains

CHUNK = 2**24  # numbers of covariance matrices that are alive at a time: 128 MiB
SAME = 1e-6  # of the prior variance, by which conditioning may differ from that of Gaussians

Inputs = Literal["bootstrap", "empirical", "shared"]


@dataclass(frozen=True, eq=False)
class OfLimit:
    """A functional of the law of y at points `at` (q, d), as the completed data leave it.

    of : from a law (*b, q, m) to values (*b, *k); its means by default.
    """

    at: Tensor
    of: Callable[[Posterior], Tensor] = lambda law: law.mean


@dataclass(frozen=True, eq=False)
class OfCompleted:
    """A functional of the completed data, such as their regression coefficients: values (*k)."""

    of: Callable[[Data], Tensor]


@dataclass(frozen=True, eq=False)
class MartingalePosterior:
    """Draws of a functional.

    values (b, *k); halfway (b, *k), the same after half of the steps; rows n; steps T; update: how the
    predictor learned.

    >>> law = MartingalePosterior(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0]), 10, 90, "gaussian")
    >>> law.mean.item(), round(law.remaining.item(), 2)  # 1 / 2 of a square of one, times 55 / 45
    (2.0, 0.61)
    """

    values: Tensor
    halfway: Tensor
    rows: int
    steps: int
    update: str

    @property
    def mean(self) -> Tensor:
        return self.values.mean(0)

    @property
    def std(self) -> Tensor:
        return self.values.std(0)

    def quantile(self, p: float) -> Tensor:
        """The quantile (*k) of level p."""
        return self.values.quantile(p, dim=0)

    @property
    def mean_error(self) -> Tensor:
        """The Monte-Carlo standard error (*k) of the mean."""
        return self.std / math.sqrt(len(self.values))

    @property
    def variance_error(self) -> Tensor:
        """The Monte-Carlo standard error (*k) of the variance, from the fourth moment."""
        square = (self.values - self.mean).square()
        return square.std(0) / math.sqrt(len(self.values))

    @property
    def remaining(self) -> Tensor:
        """An estimate (*k) of the variance that further steps would still add; more steps make it smaller."""
        now, then = self.rows + self.steps, self.rows + self.steps // 2
        return (self.values - self.halfway).square().mean(0) * then / (now - then)

    def summary(self, levels: tuple[float, ...] = (0.05, 0.5, 0.95)) -> dict[str, Tensor]:
        """Mean, std, quantiles, the Monte-Carlo error of the mean, and the std that was cut off."""
        quantiles = {f"q{level:g}": self.quantile(level) for level in levels}
        errors = {"mean_error": self.mean_error, "truncation": self.remaining.sqrt()}
        return {"mean": self.mean, "std": self.std, **quantiles, **errors}


def predictive_resampling(
    surrogate: Surrogate,
    functional: OfLimit | OfCompleted,
    *,
    data: Data,
    generator: torch.Generator,
    draws: int = 500,
    steps: int = 1000,
    inputs: Inputs = "bootstrap",
    update: Literal["auto", "gaussian", "condition"] | Model | Copula = "auto",
    block: int = 1,
) -> MartingalePosterior:
    """The martingale posterior of a functional.

    data : those of the fit; further inputs are drawn from their rows.
    inputs : "bootstrap" draws weights of the rows for each chain (the Bayesian bootstrap), "empirical" takes
        equal ones; "shared" does too, and all chains see the same inputs, which is as good for `OfLimit` and
        quicker, as they then share one covariance.
    update : see the module docstring. "auto" is the first of gaussian, condition and copula that there is; a
        Model is fitted again.
    block : rows between two updates by `condition` or a refit, drawn from their joint law.

    Errors: ValueError for settings out of range, or an update that the surrogate or functional has not;
        NotImplementedError if it cannot be conditioned and update="condition".

    >>> from kernelfield.models.process import Process
    >>> data = Data(torch.zeros(4, 1), torch.tensor([[1.0], [2.0], [1.0], [2.0]]))
    >>> fitted = Process("rbf", noise=1.0, steps=0).fit(data, generator=torch.Generator())
    >>> mean = OfLimit(torch.zeros(1, 1))
    >>> law = predictive_resampling(fitted, mean, data=data, generator=torch.Generator().manual_seed(0))
    >>> law.update, [round(value, 1) for value in (law.mean.item(), law.std.item())]
    ('gaussian', [1.5, 0.5])
    """
    if draws < 2 or steps < 2 or block < 1:
        raise ValueError(f"need draws and steps of at least 2 and block of 1, got {draws}, {steps} and {block}")
    if inputs not in ("bootstrap", "empirical", "shared"):
        raise ValueError(f"inputs must be 'bootstrap', 'empirical' or 'shared', got {inputs!r}")
    plan = _Plan(functional, data, _Noise.of(data, inputs, draws, steps, generator))
    with torch.no_grad():
        values, how = _chains(surrogate, plan, update, block)
    return MartingalePosterior(values[1], values[0], len(data.X), steps, how)


@dataclass(frozen=True, eq=False)
class _Noise:
    """Randomness of the chains: one seed for each; chances (n,), of the rows before the bootstrap."""

    inputs: Inputs
    chances: Tensor
    steps: int
    seeds: list[int]
    shared: Tensor | None

    @classmethod
    def of(cls, data: Data, inputs: Inputs, draws: int, steps: int, generator: torch.Generator) -> "_Noise":
        chances = torch.ones(len(data.X), dtype=torch.float64) if data.weight is None else data.weight.double().cpu()
        shared = torch.multinomial(chances, steps, True, generator=generator) if inputs == "shared" else None
        seeds = torch.randint(2**62, (draws,), generator=generator).tolist()
        return cls(inputs, chances, steps, seeds, shared)

    def chain(self, b: int) -> tuple[Tensor, torch.Generator]:
        """The rows (T,) whose inputs chain b sees, and the source of its further noise."""
        own = torch.Generator().manual_seed(self.seeds[b])
        if self.shared is not None:
            return self.shared, own
        chances = self.chances
        if self.inputs == "bootstrap":
            chances = chances * torch.empty_like(chances).exponential_(generator=own)
        return torch.multinomial(chances, self.steps, True, generator=own), own


@dataclass(frozen=True, eq=False)
class _Plan:
    functional: OfLimit | OfCompleted
    data: Data
    noise: _Noise

    @property
    def places(self) -> Tensor:
        """The inputs (n + q, d) of rows, and after them the points of the functional."""
        at = [self.functional.at.to(self.data.X)] if isinstance(self.functional, OfLimit) else []
        return torch.cat([self.data.X, *at])

    def completed(self, rows: Tensor, Y: Tensor) -> Data:
        """The data with rows (t,) once more, of which y (t, m) was drawn."""
        return self.data.joined(Data(self.data.X[rows], Y))


def _chains(
    surrogate: Surrogate, plan: _Plan, update: str | Model | Copula, block: int
) -> tuple[tuple[Tensor, Tensor], str]:
    """Values halfway and at the end, and by what update."""
    match update:
        case Copula():
            return _by_copula(surrogate, plan, update), "copula"
        case Model():
            return _one_by_one(surrogate, plan, block, update), "refit"
        case "condition":
            return _one_by_one(surrogate, plan, block, None), "condition"
        case "auto" | "gaussian":
            joint = _Joint.of(surrogate, plan)
            if joint is not None:
                return _together(joint, plan), "gaussian"
            if update == "gaussian":
                raise ValueError(
                    f"conditioning a {type(surrogate).__name__} is not that of a joint Gaussian law of y; "
                    "leave update='auto'"
                )
            try:
                return _one_by_one(surrogate, plan, block, None), "condition"
            except NotImplementedError:
                return _by_copula(surrogate, plan, Copula()), "copula"
    raise ValueError(f"update must be 'auto', 'gaussian', 'condition', a Model or a Copula, got {update!r}")


def _one_by_one(surrogate: Surrogate, plan: _Plan, block: int, model: Model | None) -> tuple[Tensor, Tensor]:
    found = [list(_chain(surrogate, plan, b, block, model)) for b in range(len(plan.noise.seeds))]
    return torch.stack([first for first, _ in found]), torch.stack([last for _, last in found])


def _chain(surrogate: Surrogate, plan: _Plan, b: int, block: int, model: Model | None) -> Iterator[Tensor]:
    """The functional of one chain, halfway and at the end."""
    rows, own = plan.noise.chain(b)
    half, steps = plan.noise.steps // 2, plan.noise.steps
    starts = [*range(0, half, block), *range(half, steps, block)]
    data, z = plan.data, torch.empty(0)
    for i, (start, end) in enumerate(zip(starts, [*starts[1:], steps], strict=True)):
        X = data.X[rows[start:end]]
        law = surrogate.posterior(X, noise=True)
        if not i:
            z = torch.randn(len(starts), law.width, generator=own, dtype=law.mean.dtype).to(law.mean)
        drawn = Data(X, law.draw(z[i, : law.width]))
        data = data.joined(drawn)
        if model is None:
            surrogate = surrogate.condition(drawn)
        else:
            with torch.enable_grad():
                surrogate = model.fit(data, generator=own)
        if end in (half, steps):
            if isinstance(plan.functional, OfCompleted):
                yield plan.functional.of(data)
            else:
                yield plan.functional.of(surrogate.posterior(plan.functional.at.to(X), noise=True))


@dataclass(frozen=True, eq=False)
class _Joint:
    """The Gaussian law of f at distinct places, and the noise of y there.

    mean (q m,), covariance (q m, q m), noise (q, m, m), place (n + p,): where each of `_Plan.places` is.
    """

    mean: Tensor
    covariance: Tensor
    noise: Tensor
    place: Tensor

    @classmethod
    def of(cls, surrogate: Surrogate, plan: _Plan) -> "_Joint | None":
        """None where the laws are not Gaussian, or are not conditioned as such."""
        X, place = torch.unique(plan.places, dim=0, return_inverse=True)
        f, y = surrogate.posterior(X), surrogate.posterior(X, noise=True)
        if not (_gaussian(f) and _gaussian(y)):
            return None
        q, m = f.mean.shape
        covariance = f.covariance
        gap = (y.covariance - covariance).reshape(q, m, q, m)
        noise = gap.diagonal(dim1=0, dim2=2).movedim(-1, 0)
        if not (noise.diagonal(dim1=-2, dim2=-1) > 0).all():
            return None
        joint = cls(f.mean.flatten(), covariance, noise.contiguous(), place)
        return joint if joint._agrees(surrogate, X) else None

    def _agrees(self, surrogate: Surrogate, X: Tensor) -> bool:
        """Whether `condition` on one row does what is done here."""
        m = self.noise.shape[-1]
        z = torch.ones(1, m).to(X)
        mean, covariance = self.mean[None].clone(), self.covariance[None].clone()
        y = self.step(mean, covariance, torch.zeros(1, dtype=torch.long), z)
        try:
            law = surrogate.condition(Data(X[:1], y)).posterior(X)
        except NotImplementedError:
            return False
        if not _gaussian(law):
            return False
        size = self.covariance.diagonal().max()
        apart = (law.mean.flatten() - mean[0]).abs().max() / size.sqrt()
        return bool(torch.maximum(apart, (law.covariance - covariance[0]).abs().max() / size) < SAME)

    def step(self, mean: Tensor, covariance: Tensor, place: Tensor, z: Tensor) -> Tensor:
        """Draw y (b, m) at places (c,) and take it in, changing means (b, qm) and covariances (c, qm, qm).

        c is b, or one where all chains see the same inputs. With L the factor of the law of y and W = L^-1 times
        the rows of the covariance there, y = mean + L z moves the mean by W' z and the covariance by -W' W.
        """
        m = self.noise.shape[-1]
        own = place[:, None] * m + torch.arange(m, device=place.device)
        rows = covariance.gather(1, own[..., None].expand(-1, -1, covariance.shape[-1]))
        here = rows.gather(2, own[:, None].expand(-1, m, -1)) + self.noise[place]
        factor = torch.linalg.cholesky(here)
        W = torch.linalg.solve_triangular(factor, rows, upper=False)
        y = mean.gather(1, own.expand(len(mean), -1)) + _times(z, factor.mT)
        mean += _times(z, W)
        covariance.baddbmm_(W.mT, W, alpha=-1)
        return y


def _times(z: Tensor, A: Tensor) -> Tensor:
    """z (b, m) times A (b, m, k), or one A (1, m, k) for all, as a single product."""
    return z @ A[0] if len(A) == 1 else torch.bmm(z[:, None], A)[:, 0]


def _gaussian(law: Posterior) -> TypeGuard[Elliptical]:
    return isinstance(law, Elliptical) and isinstance(law.mixing, Unit)


def _together(joint: _Joint, plan: _Plan) -> tuple[Tensor, Tensor]:
    """All chains by rank-one updates, as many at once as their covariances have room."""
    shared = plan.noise.shared is not None
    size = len(plan.noise.seeds) if shared else max(1, CHUNK // joint.covariance.numel())
    parts = []
    for start in range(0, len(plan.noise.seeds), size):
        parts.append(_some(joint, plan, range(start, min(start + size, len(plan.noise.seeds)))))
    first, last = zip(*parts, strict=True)
    return torch.cat(first), torch.cat(last)


def _some(joint: _Joint, plan: _Plan, chains: range) -> list[Tensor]:
    m, steps = joint.noise.shape[-1], plan.noise.steps
    mean = joint.mean.repeat(len(chains), 1)
    rows, noise = [], []
    for b in chains:
        own, generator = plan.noise.chain(b)
        rows.append(own)
        noise.append(torch.randn(steps, m, generator=generator, dtype=mean.dtype))
    row, z = torch.stack(rows), torch.stack(noise).to(mean)
    place = joint.place[row.to(joint.place.device)]
    place = place[:1] if plan.noise.shared is not None else place
    covariance = joint.covariance.repeat(len(place), 1, 1)
    by_step = z.transpose(0, 1).contiguous()
    Y, found = torch.empty_like(by_step), []
    for t in range(steps):
        Y[t] = joint.step(mean, covariance, place[:, t], by_step[t])
        if t + 1 in (steps // 2, steps):
            if isinstance(plan.functional, OfCompleted):
                of = plan.functional.of
                pairs = zip(row[:, : t + 1], Y[: t + 1].transpose(0, 1), strict=True)
                found.append(torch.stack([of(plan.completed(own, y)) for own, y in pairs]))
            else:
                found.append(plan.functional.of(_law(joint, mean, covariance, len(plan.data.X))))
    return found


def _law(joint: _Joint, mean: Tensor, covariance: Tensor, n: int) -> Elliptical:
    """The law of y (b, q, m) at the points after the n rows."""
    m, at = joint.noise.shape[-1], joint.place[n:]
    own = (at[:, None] * m + torch.arange(m, device=at.device)).flatten()
    scale = covariance[:, own][:, :, own].reshape(-1, len(at), m, len(at), m)
    scale = scale + torch.einsum("qij,qp->qipj", joint.noise[at], torch.eye(len(at)).to(mean))
    scale = scale.reshape(-1, len(own), len(own)).expand(len(mean), -1, -1)
    return Elliptical(mean[:, own].unflatten(-1, (len(at), m)), scale)


def _by_copula(surrogate: Surrogate, plan: _Plan, copula: Copula) -> tuple[Tensor, Tensor]:
    if not isinstance(plan.functional, OfLimit):
        raise ValueError(
            f"a {type(surrogate).__name__} is updated by a copula, which changes laws and completes no data; ask for "
            "OfLimit, or give update=a Model to refit"
        )
    chains = range(len(plan.noise.seeds))
    return copula_chains(
        surrogate.posterior(plan.functional.at.to(plan.data.X), noise=True),
        plan.functional.at.to(plan.data.X),
        plan.data.X,
        [plan.noise.chain(b) for b in chains],
        copula,
        plan.functional.of,
    )
