"""The steps of a variational process: one mini-batch after another, on one rank or on many.

A step changes the law of the coefficients by its natural gradient, and then, at the new law, the kernel, the
likelihood and the inducing inputs by Adam. Sums over the rows of a batch are sums over the ranks, each of which has
a part of the batch: k ranks with B / k rows each take the steps of one rank with B, up to rounding.

Kingma & Ba (2015), "Adam", take steps of one length whatever the size of the slope; here they shorten to nothing over
the last part of the passes, and so do the natural ones, down to the share of a batch in all rows. Steps of Adam move
f, at the law as it is, by a share of its size: where rows tell f to a smaller one, steps are shorter alike. With
Gaussian noise the noise is in the end that of the greatest collapsed bound.
"""

import copy
from dataclasses import dataclass, replace

import torch
from gpytorch.kernels import Kernel
from torch import Tensor, nn

from kernelfield.core.contracts import Data
from kernelfield.core.streaming import Learner
from kernelfield.linalg.ranks import Ranks
from kernelfield.models.collapsed import RegressionSums, Rows, gather, whitened
from kernelfield.models.covariance import matrix
from kernelfield.models.evidence import Trend
from kernelfield.models.expansion import FittedExpansion
from kernelfield.models.fit import Search
from kernelfield.models.fitted_variational import FittedVariationalProcess
from kernelfield.models.likelihoods import Gaussian, Likelihood, Local
from kernelfield.models.natural_gradient import Coefficients, Marginals, basis_slope, factor_slope
from kernelfield.models.sparse import NUGGET, InducingInputs, nuggeted
from kernelfield.models.streamed import settled_noise

SHORTEN = 0.5  # share of the passes, the last ones, over which steps shorten
STEADY = 0.1  # natural step, of a full batch among many: the law is an average over the last tens of batches
WARM = 10  # steps before the hyperparameters take steps of full length: the law has to be one of the data first
CALM = 0.2  # deviation of the noise, in units of that of f, below which steps are shorter
SETTLING = 100  # iterations, at most, of the last search for the noise: some milliseconds each
CAUTION = 0.3  # the longest natural step where curvatures depend on where it ends


@dataclass(frozen=True, eq=False)
class Start:
    """Where a fit starts: what is held of it, and the first values of what is learned.

    size : the mean square of latent values.
    """

    basis: InducingInputs
    likelihood: Likelihood
    trend: Trend
    centre: Tensor  # (m,)
    law: Coefficients
    size: float
    searches: tuple[Search, ...]


@dataclass(frozen=True)
class Course:
    """How long a fit goes on, and how long its steps are.

    rows of all ranks; batch, those of a full step; passes that learn, one after another; rate, of Adam; move and
    learn_noise, whether inducing inputs and likelihood are learned.
    """

    rows: int
    batch: int
    passes: int
    rate: float
    move: bool
    learn_noise: bool

    def left(self, seen: int) -> float:
        """The share of their full length that steps have after so many rows."""
        return min(1.0, max(0.0, 1 - seen / (self.passes * self.rows)) / SHORTEN)

    def natural(self, seen: int, size: int, *, conjugate: bool) -> float:
        """rho of the next step, on `size` rows."""
        share = min(1.0, size / self.rows)
        rho = max(share, STEADY * min(1.0, size / self.batch) * self.left(seen))
        return rho if conjugate else min(rho, CAUTION)

    def adam(self, seen: int, steps: int, size: int) -> float:
        """The length of the next step of Adam."""
        warm = 1.0 if size >= self.rows else min(1.0, steps / WARM)
        return self.rate * warm * min(1.0, size / min(self.batch, self.rows)) * self.left(seen)


class VariationalLearner(Learner):
    """A variational process under way; see the module docstring."""

    def __init__(self, start: Start, course: Course, X: Tensor, ranks: Ranks) -> None:
        basis = start.basis
        self.start, self.course, self.ranks = start, course, ranks
        self.kernel, self.likelihood = basis.kernel, start.likelihood
        self.conjugate = isinstance(self.likelihood, Gaussian)
        self.passes, self.batch = course.passes + self.conjugate, course.batch
        spread = X.std(0, correction=0)
        self.unit = torch.where(spread > 0, spread, torch.ones_like(spread))
        self.places = nn.Parameter(basis.Z / self.unit, requires_grad=course.move)
        self.logs = nn.Parameter(start.likelihood.logs().to(X), requires_grad=course.learn_noise)
        reaches = [self.likelihood.reach(name, start.size) for name in self.likelihood.learned]
        self.reach = torch.tensor(reaches).reshape(-1, 2).log().to(X)
        self.law = start.law
        free = [*self.kernel.parameters(), self.places, self.logs]
        self.free = [p for p in free if p.requires_grad and p.numel()]
        self.optimiser = torch.optim.Adam(self.free, lr=course.rate) if self.free else None
        self.seen, self.steps, self.bound = 0, 0, X.new_zeros(())
        self.sums: RegressionSums | None = None
        self.factor: Tensor | None = None  # of the last pass, in which it stays

    @property
    def gathering(self) -> bool:
        """Whether the last pass, of the collapsed bound, has begun."""
        return self.conjugate and self.seen >= self.course.passes * self.course.rows

    def step(self, batch: Data) -> float | None:
        self.likelihood.check(batch.Y)
        size = int(self.ranks.sum(torch.tensor(len(batch.X))))
        if self.gathering:
            self._gather(batch)
            self.seen += size
            return None
        scene = Scene.of(self.kernel, self.places * self.unit, self.start.trend, batch)
        rate = self.course.natural(self.seen, size, conjugate=self.conjugate)
        scale = self.course.rows / size
        with torch.no_grad():
            self._natural(scene, scale, rate)
            value, slopes, precision = self._slopes(scene, scale)
            self.bound = torch.lerp(self.bound, value, rate)
        if self.optimiser is not None:
            sure = CALM**2 * self.start.size * precision.item()
            self._descend(slopes, max(sure, 1.0) ** -0.5 * self.course.adam(self.seen, self.steps, size))
        self.seen, self.steps = self.seen + size, self.steps + 1
        return -value.item() / (self.course.rows * len(self.start.centre))

    def _natural(self, scene: "Scene", scale: float, rate: float) -> None:
        """The step of the law of the coefficients."""
        marginals = None if self.conjugate else self.law.at(scene.psi, scene.rest)
        local = self._local(scene, self.law.mean, marginals)
        pull = scale * (scene.psi @ local.pull)
        curvature = scale * torch.stack([(scene.psi * beta) @ scene.psi.mT for beta in local.curvature.mT])
        pull, curvature = self._summed([pull, curvature])
        self.law = self.law.stepped(pull, curvature, rate, convex=self.likelihood.log_concave)

    def _slopes(self, scene: "Scene", scale: float) -> tuple[Tensor, list[Tensor], Tensor]:
        """The bound, of all rows as these rows tell it, its slopes in what Adam changes, and the precision of a row."""
        law, k = self.law, self.law.k
        marginals = law.at(scene.psi, scene.rest)
        local = self._local(scene, law.mean, marginals)
        phi = scene.psi[:k]
        along = scale * basis_slope(law, marginals, local, phi)
        heavy = -0.5 * scale * local.curvature.sum(-1) * (law.mean.shape[1] // len(law.precision))
        precision = scale * local.curvature.mean(-1).sum() / self.course.rows
        value, precision, inner = self._summed([phi.new_tensor(scale * local.value), precision, along @ phi.mT])
        total = value - law.divergence()
        if not self.free:
            return total, [], precision
        inside = factor_slope(scene.factor, inner) / self.ranks.world  # what all ranks have alike is summed, too
        inside.diagonal().mul_(1 + NUGGET)
        ahead = torch.linalg.solve_triangular(scene.factor.mT, along, upper=True)
        found = _pulled(scene.parts, [inside, ahead, heavy], self.free)
        if self.logs.requires_grad:
            found[-1] += scale * local.slope
        found = self._summed(found)
        for extra, own in zip(_pulled(self._log_priors(), None, self.free), found, strict=True):
            own += extra
        return total, found, precision

    def _local(self, scene: "Scene", mean: Tensor, marginals: Marginals | None) -> Local:
        """What the rows say; without marginals, where their variance makes no difference to the step."""
        centre = self.start.centre
        if marginals is None:
            loc, variance = scene.psi.mT @ mean, scene.rest[:, None]
        else:
            loc, variance = marginals.mean, marginals.variance
        return self.likelihood.local(scene.Y, centre + loc, variance, scene.weight, self.logs)

    def _log_priors(self) -> list[Tensor]:
        with torch.enable_grad():
            found = [p.log_prob(get(part)).sum() for _, part, p, get, _ in self.kernel.named_priors()]
        return [value for value in found if value.requires_grad]

    def _summed(self, parts: list[Tensor]) -> list[Tensor]:
        """Sums over the ranks, in one message."""
        if self.ranks.world == 1:
            return parts
        flat = self.ranks.sum(torch.cat([part.flatten() for part in parts]))
        pieces = flat.split([part.numel() for part in parts])
        return [piece.reshape(part.shape) for piece, part in zip(pieces, parts, strict=True)]

    def _descend(self, slopes: list[Tensor], length: float) -> None:
        assert self.optimiser is not None
        count = self.course.rows * len(self.start.centre)
        for parameter, slope in zip(self.free, slopes, strict=True):
            parameter.grad = -slope / count
        for group in self.optimiser.param_groups:
            group["lr"] = length
        self.optimiser.step()
        with torch.no_grad():
            if self.logs.requires_grad:
                self.logs.clamp_(self.reach[:, 0], self.reach[:, 1])
                self.likelihood = self.likelihood.at(self.logs.detach())

    def _gather(self, batch: Data) -> None:
        """Add to the sums of the collapsed bound."""
        basis, start = self._basis(), self.start
        with torch.no_grad():
            if self.factor is None:
                self.factor = basis.factor()
            more = gather(basis, self.factor, Rows.of(batch, start.trend, start.centre))
        whole = self._summed([more.G, more.C, more.V, more.slack, more.log_weight, more.slack.new_tensor(more.rows)])
        G, C, V, slack, log_weight, rows = whole
        more = RegressionSums(G, C, V, slack, log_weight, round(rows.item()))
        self.sums = more if self.sums is None else self.sums + more

    def _basis(self) -> InducingInputs:
        return InducingInputs(self.kernel, (self.places * self.unit).detach())

    def surrogate(self) -> "FittedExpansion | FittedVariationalProcess":
        start = self.start
        basis = replace(self._basis(), kernel=copy.deepcopy(self.kernel).requires_grad_(False))
        if self.sums is not None and self.sums.rows == self.course.rows:
            noise, searches = self.likelihood.at(self.logs.detach()).noise, start.searches  # type: ignore[attr-defined]
            if self.course.learn_noise:
                noise, more = settled_noise(self.sums, len(start.centre), noise, SETTLING)
                searches += tuple(more)
            return FittedExpansion(basis, noise, start.trend, start.centre, self.sums, searches)
        return FittedVariationalProcess(
            basis, self.likelihood, start.trend, start.centre, self.law, self.bound.item(), start.searches
        )

    def state(self) -> dict[str, Tensor]:
        found = {f"kernel.{name}": value for name, value in self.kernel.state_dict().items()}
        found |= {"places": self.places, "logs": self.logs, "bound": self.bound}
        found |= {"trend": self.start.trend.T, "centre": self.start.centre}
        found |= {"mean": self.law.mean, "precision": self.law.precision, "factor": self.law.factor}
        found |= {"seen": torch.tensor(self.seen), "steps": torch.tensor(self.steps)}
        if self.optimiser is not None:
            for i, moments in self.optimiser.state_dict()["state"].items():
                found |= {f"adam.{i}.{name}": value for name, value in moments.items()}
        if self.sums is not None:
            found |= {f"sums.{name}": torch.as_tensor(value) for name, value in vars(self.sums).items()}
        return {name: value.detach().cpu().clone() for name, value in found.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        state = dict(state)
        self._refuse_strangers(state)
        take = {name: state[name].to(self.unit.device) for name in state}
        self.kernel.load_state_dict({name: take[f"kernel.{name}"] for name in self.kernel.state_dict()})
        with torch.no_grad():
            self.places.copy_(take["places"])
            self.logs.copy_(take["logs"])
        trend = replace(self.start.trend, T=take["trend"])
        self.start = replace(self.start, trend=trend, centre=take["centre"])
        self.law = Coefficients(take["mean"], take["precision"], take["factor"], self.law.k)
        self.likelihood = self.likelihood.at(self.logs.detach())
        self.bound, self.seen, self.steps = take["bound"], int(take["seen"]), int(take["steps"])
        self.factor, self.sums = None, None
        if "sums.G" in take:
            G, C, V, slack, log_weight = (take[f"sums.{name}"] for name in ("G", "C", "V", "slack", "log_weight"))
            self.sums = RegressionSums(G, C, V, slack, log_weight, int(take["sums.rows"]))
        if self.optimiser is not None and self.steps:
            moments = ("step", "exp_avg", "exp_avg_sq")
            own = {i: {name: state[f"adam.{i}.{name}"].clone() for name in moments} for i in range(len(self.free))}
            self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": own})

    def _refuse_strangers(self, state: dict[str, Tensor]) -> None:
        own = {name: value.shape for name, value in self.state().items() if not name.startswith(("adam.", "sums."))}
        for name, shape in own.items():
            found = state[name].shape if name in state else None
            if found != shape:
                what = "nothing" if found is None else f"the shape {tuple(found)}"
                raise ValueError(
                    f"the state is of other settings: {name} has {what} in it and {tuple(shape)} here; "
                    "go on with the settings of its run, or start anew"
                )


@dataclass(frozen=True, eq=False)
class Scene:
    """Some rows as the basis sees them, at the present hyperparameters.

    parts : K(Z, Z), K(Z, X) and the variances at X, with their graph. factor L; psi (K, B); rest (B,).
    """

    parts: list[Tensor]
    factor: Tensor
    psi: Tensor
    rest: Tensor
    Y: Tensor
    weight: Tensor | None

    @classmethod
    def of(cls, kernel: Kernel, Z: Tensor, trend: Trend, batch: Data) -> "Scene":
        """Errors: NotPositiveDefinite."""
        X = batch.X
        parts = [matrix(kernel, Z, Z), matrix(kernel, Z, X), kernel(X, diag=True)]
        with torch.no_grad():
            factor = nuggeted(parts[0].detach())
            phi = whitened(factor, parts[1].detach())
            rest = (parts[2].detach() - phi.square().sum(0)).clamp_min(0)
            return cls(parts, factor, torch.cat([phi, trend(X).mT]), rest, batch.Y, batch.weight)


def _pulled(outputs: list[Tensor], slopes: list[Tensor] | None, inputs: list[nn.Parameter]) -> list[Tensor]:
    """The slopes in the inputs of a function whose slopes in the outputs are known; ones without."""
    slopes = [torch.ones_like(t) for t in outputs] if slopes is None else slopes
    pairs = [(output, slope) for output, slope in zip(outputs, slopes, strict=True) if output.requires_grad]
    if not pairs:
        return [torch.zeros_like(t) for t in inputs]
    found = torch.autograd.grad([o for o, _ in pairs], inputs, [s for _, s in pairs], allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=True)]
