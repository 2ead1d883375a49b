"""Nearest-neighbour (Vecchia) Gaussian processes: exact conditionals on a few neighbours, for many rows of few inputs.

The observations y, noise included, are taken to depend on their nearest neighbours among the rows before them in an
order, which gives the evidence of `vecchia_evidence` in O(n k^3) time and O(n k) memory. With as many neighbours as
rows it is the exact process. Neighbours and hyperparameters are learned in turn: on the conditionals of a random part
of the rows, whose neighbours are taken among all, and then on all.

A new point x leans on its own nearest rows N of all, three times as many as rows lean on: the error of its best
linear prediction from them, under the process itself,

    f(x) - m(x),    m(x) = h'b + b_x'(y_N - H_N b),    b_x = A_NN^-1 k_N(x),

is Gaussian with a covariance between any two points x and x' that can be written down,

    k(x, x') - b_x'k_N(x') - k_N'(x)'b_x' + b_x'A_NN' b_x' + t(x)'t(x'),
    t(x) = T^-1 (h - H_N'b_x),    T T' = H'A^-1 H,

and that is the joint law of several points: one proper process whatever is asked together, so that predictions do
not depend on their company, with marginals that cost a small block each. Joint draws of q points cost more: all pairs
of the rows that any of them leans on, up to (3 k q)^2 values of the kernel, which is a second or two for 10,000 rows.
It is the exact conditional law where N are all rows. A law whose new points lean on each other would be sharper in
correlations and would give each point other marginals in other company.

Leaning on noisy observations costs accuracy where the noise outweighs the process: more neighbours, or inducing
inputs, serve such data better, and `notes` says so.

Sources: Vecchia (1988), "Estimation and Model Identification for Continuous Spatial Processes"; Datta, Banerjee, Finley
& Gelfand (2016), "Hierarchical Nearest-Neighbor Gaussian Process Models for Large Geostatistical Datasets"; Katzfuss &
Guinness (2021), "A General Framework for Vecchia Approximations of Gaussian Processes"; Guinness (2021), "Gaussian
Process Learning via Fisher Scoring of Vecchia's Approximation".
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.mixing import Mixing, Unit
from kernelfield.core.numerics import cholesky, rounding, threads_for
from kernelfield.core.posterior import Elliptical
from kernelfield.linalg.dense import Conditional
from kernelfield.linalg.sparse_factor import CHUNK, SparseFactor
from kernelfield.models.covariance import matrix, named_values
from kernelfield.models.evidence import Fit, Trend
from kernelfield.models.expansion import guess
from kernelfield.models.fit import LOOSE, Search, minimise
from kernelfield.models.neighbours import Nearest, Order, earlier, ordered, scales
from kernelfield.models.search import check_settings, kernel_for
from kernelfield.models.vecchia_errors import Errors
from kernelfield.models.vecchia_evidence import Conditionals, NeighbourObjective, factored, log_evidence, system
from kernelfield.models.vecchia_leave_one_out import MeansWithoutEach, sums_without_each

ROUNDS = 2  # of choosing neighbours and learning hyperparameters
PART = 4096  # rows whose conditionals teach hyperparameters before those of all do
CHECKED = 512  # rows at which the loss by few neighbours is estimated
PREDICTING = 3  # neighbours of a new point for each of a row: predictions are made once, evidences often
LOSS = 0.02  # nats a row, of which a user should know
ASKED = 64  # rows at which predictions from few and from many neighbours are compared
FURTHER = 4  # times as many neighbours, which halve an error that is all noise
FALL = 0.5  # of the mean variance of f, by so many neighbours, of which a user should know


@dataclass(eq=False, repr=False)
class NearestNeighbourProcess(Model):
    """A Gaussian process in which each row leans on its nearest neighbours, for very many rows of few inputs.

    kernel, mean, noise, restarts, learn_noise : as for `Process`; the starts race by the exact evidence
        of a sample of 512 rows.
    neighbours : of each row, and a third of those of a new point; as many as rows make the exact process. 30 is usual
        up to about ten inputs that matter; where many inputs do, neighbours are far and `notes` tells the loss.
    ordering : "maximin", each row far from those before it (from some thousand rows on, only the first ones);
        "random", nearly as good; "given", as the rows come, for those along a line.
    steps : the most iterations of each search; 0 keeps the given hyperparameters.

    Units: X and Y as given. Outputs share kernel and noise.
    Errors: ValueError for a count below one, an unknown ordering, and those of `Process`.

    >>> X = torch.linspace(0, 1, 400, dtype=torch.double)[:, None]
    >>> model = NearestNeighbourProcess("rbf", neighbours=10)
    >>> fitted = model.fit(Data(X, torch.sin(6 * X)), generator=torch.Generator())
    >>> round(fitted.posterior(X[:1] + 0.5).mean.item(), 3)  # sin(3)
    0.141
    """

    kernel: Kernel | str | None = None
    mean: Literal["constant", "zero", "linear"] = "constant"
    noise: float = 0.1
    neighbours: int = 30
    ordering: Order = "maximin"
    restarts: int = 4
    steps: int = 200
    learn_noise: bool = True

    @property
    def mixing(self) -> Mixing:
        """The law of the scale of the process: none."""
        return Unit()

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedNearestNeighbours":
        self._check()
        kernel = kernel_for(self.kernel, data.X, data.Y.var(0, correction=0).mean().clamp_min(1e-12))
        noise, few, found = guess(kernel, self, data, learn_noise=self.learn_noise, generator=generator)
        searches, n = list(found), len(data.X)
        stages = [n] * ROUNDS if n <= 1.5 * PART else [PART] * ROUNDS + [n]
        with threads_for(n):
            for count in stages if self.steps else [n]:
                order, case = self._chosen(kernel, data, count, generator)
                noise, more = self._climbed(kernel, few, case, noise)
                searches += more
        kernel.requires_grad_(False)
        with torch.no_grad():
            half, _ = factored(case, kernel, noise)
            whole = torch.empty_like(half).index_copy_(0, order, half)
            near = torch.empty_like(case.neighbours).index_copy_(0, order, case.neighbours)
            loss = self._loss(kernel, data, order, half, noise, generator)
            factor = SparseFactor(order, near, whole)
            return FittedNearestNeighbours.of(
                kernel, noise, data, self.mean, factor, self.neighbours, loss, tuple(searches)
            )

    def _check(self) -> None:
        check_settings(self)
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {self.neighbours}; 30 is usual")
        if self.ordering not in ("maximin", "random", "given"):
            raise ValueError(f"ordering must be 'maximin', 'random' or 'given', got {self.ordering!r}")

    def _chosen(
        self, kernel: Kernel, data: Data, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Conditionals]:
        """An order of the rows, and `count` of them with their neighbours, in that order where they are all."""
        Z = data.X / scales(kernel, data.X)
        order = ordered(self.ordering, Z, generator=generator)
        places = torch.arange(len(Z), device=Z.device)
        if count < len(Z):
            places = torch.randperm(len(Z), generator=generator)[:count].to(Z.device)
        near = neighbours_of(Z, order, places, self.neighbours)
        return order, Conditionals(data, Trend.of(self.mean, data.X), near, order[places])

    def _climbed(self, kernel: Kernel, few: Data, case: Conditionals, noise: float) -> tuple[float, list[Search]]:
        """Set the kernel to the best found near where it is; returns the noise and the record."""
        objective = NeighbourObjective(kernel, few, case, noise, learn=self.learn_noise)
        box = objective.bounds()
        if not self.steps or all(low == high for low, high in box):
            return noise, []
        label = f"fit of {len(case.rows)} rows to their neighbours"
        theta, searches = minimise(objective, [objective.start()], box, self.steps, label=label)
        parameters, noise = objective.split(theta)
        objective.covariance.assign(parameters)
        return noise, searches

    def _loss(
        self, kernel: Kernel, data: Data, order: Tensor, half: Tensor, noise: float, generator: torch.Generator
    ) -> float:
        """What twice the neighbours would gain, in nats a row: the divergence between the two laws."""
        places = torch.randperm(len(order), generator=generator)[:CHECKED].to(order.device)
        near = neighbours_of(data.X / scales(kernel, data.X), order, places, 2 * self.neighbours)
        case = Conditionals(data, Trend.of("zero", data.X), near, order[places])
        more, _ = factored(case, kernel, noise)
        return data.Y.shape[1] * (more[:, -1] / half[places, -1]).log().mean().item()


def neighbours_of(Z: Tensor, order: Tensor, places: Tensor, count: int) -> Tensor:
    """The nearest rows of Z (n, d) before those at some places (t,) of an order (n,), (t, k); -1 for none."""
    near = earlier(Z[order], min(count, len(Z) - 1), places)
    return torch.where(near < 0, near, order[near])


@dataclass(frozen=True, eq=False)
class FittedNearestNeighbours(Surrogate):
    """A nearest-neighbour process conditioned on data; see the module docstring.

    noise a variance in squared units of Y; log_evidence in nats, of the approximate law of the rows; loss the nats a
    row that twice the neighbours would gain, estimated; searches the record of the searches for hyperparameters.
    """

    kernel: Kernel
    noise: float
    data: Data
    trend: Trend
    factor: SparseFactor
    mean: Fit
    neighbours: int
    loss: float
    searches: tuple[Search, ...] = ()

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        noise: float,
        data: Data,
        mean: Literal["constant", "zero", "linear"],
        factor: SparseFactor,
        neighbours: int,
        loss: float,
        searches: tuple[Search, ...] = (),
    ) -> "FittedNearestNeighbours":
        """The conditioned process, given the factor of the rows."""
        m, trend = data.Y.shape[1], Trend.of(mean, data.X)
        whitened = factor.whiten(torch.cat([data.Y, trend(data.X)], -1))
        fit = Fit.of(whitened[:, :m], whitened[:, m:])
        return cls(kernel, noise, data, trend, factor, fit, neighbours, loss, searches)

    @property
    def outputs(self) -> int:
        return self.data.Y.shape[1]

    def footprint(self, rows: int) -> int:
        return self._count(rows) ** 2

    def _count(self, rows: int) -> int:
        """How many of so many rows a new point leans on."""
        return min(PREDICTING * self.neighbours, rows)

    @cached_property
    def log_evidence(self) -> float:
        """The log evidence of the approximate law, in nats."""
        return log_evidence(self.mean, -0.5 * self.factor.logdet().item())

    def posterior(self, X: Tensor, *, noise: bool = False) -> Elliptical:
        batch, flat = X.shape[:-1], X.reshape(-1, X.shape[-1])
        near = self._nearest(flat / self._scales, self._count(len(self.data.X)))
        weights, variance = self._locals(flat, near)
        H = self.trend(flat)
        loc = H @ self.mean.coefficients + torch.einsum("qk,qkm->qm", weights, self._residual[near])
        gap = H - torch.einsum("qk,qkp->qp", weights, self._basis[near])
        unsure = torch.linalg.solve_triangular(self.mean.factor, gap.mT, upper=False)

        def terms() -> tuple[Tensor, Tensor]:
            trend = unsure.unflatten(-1, batch).movedim(0, -2)
            return trend[..., :0, :], trend

        errors = Errors(
            self.kernel, self.data.X, self.spread, X, *(part.unflatten(0, batch) for part in (near, weights, variance))
        )
        scale = Conditional(errors, terms, self.noise if noise else 0.0, self.outputs)
        return Elliptical(loc.unflatten(0, batch), scale)

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (n, m) of each y given all other rows.

        Source: `kernelfield.models.vecchia_leave_one_out`.
        """
        X, Y, n, means = self.data.X, self.data.Y, len(self.data.X), self._means
        near = self._others(torch.arange(n, device=X.device), self._count(n))
        weights, variance = self._locals(X, near)
        gap = self._basis - torch.einsum("nk,nkp->np", weights, self._basis[near])
        loc = torch.einsum("nk,nkm->nm", weights, Y[near]) + torch.einsum("np,npm->nm", gap, means.coefficients)
        unsure = torch.linalg.solve_triangular(means.factor, gap[..., None], upper=False)
        return loc, (variance + unsure.square().sum((-2, -1)) + self.spread)[:, None].expand_as(loc)

    def without_each(self, X: Tensor) -> Tensor:
        """Means (q, n, m) at X (q, d) of the n surrogates that each lack one row.

        Source: `kernelfield.models.vecchia_leave_one_out`.
        """
        n, m = self.data.Y.shape
        values, means = torch.cat([self.data.Y, self._basis], -1), self._means
        near = self._nearest(X / self._scales, min(self._count(n) + 1, n))
        parts = [X.new_empty(0, n, m)]
        size = max(1, CHUNK // near.shape[1] ** 2)
        for x, rows in zip(X.split(size), near.split(size), strict=True):
            around = self.data.X[rows]
            A = system(self.kernel, around, self.spread[rows])
            each = sums_without_each(A, matrix(self.kernel, around, x[:, None]), values[rows])
            # To lack a row that is not among them is to lean on all but the farthest.
            whole = each[:, -1:].expand(-1, n, -1).scatter(1, rows[..., None].expand_as(each), each)
            of_Y, of_H = whole.split([m, values.shape[1] - m], -1)
            gap = self.trend(x)[:, None] - of_H
            parts.append(of_Y + torch.einsum("qnp,npm->qnm", gap, means.coefficients))
        return torch.cat(parts)

    def _others(self, rows: Tensor, count: int) -> Tensor:
        """The nearest others (t, k) of some rows (t,), k up to `count`."""
        near = self._nearest(self.data.X[rows] / self._scales, min(count + 1, len(self.data.X)))
        own = near == rows[:, None]
        own[~own.any(-1), -1] = True  # among more copies of a row than were asked for, it may not be itself
        return near[~own].reshape(len(rows), -1)

    @cached_property
    def gain(self) -> float:
        """What `FURTHER` times the neighbours would leave of the mean variance of f at rows left out, a share."""
        n = len(self.data.X)
        rows = torch.linspace(0, n - 1, min(ASKED, n), device=self.data.X.device).long()
        near, count = self._others(rows, FURTHER * self._count(n)), self._count(n)
        with torch.no_grad():
            few, many = (self._locals(self.data.X[rows], some)[1].mean() for some in (near[:, :count], near))
        return (many / few).item() if few > 0 else 1.0

    @cached_property
    def _means(self) -> MeansWithoutEach:
        n = len(self.data.X)
        case = Conditionals(self.data, self.trend, self.factor.neighbours, torch.arange(n, device=self.data.X.device))
        return MeansWithoutEach.of(case, self.kernel, self.noise, self.mean)

    def _locals(self, X: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        """`_local` of many points, some at a time."""
        size = max(1, CHUNK // max(1, near.shape[1]) ** 2)
        parts = [self._local(x, rows) for x, rows in zip(X.split(size), near.split(size), strict=True)]
        weights, variance = (torch.cat(part) for part in zip(*parts, strict=True))
        return weights, variance

    def _local(self, x: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        """b (q, k) and the variance (q,) of f at x (q, d) given the rows near (q, k)."""
        around = self.data.X[near]
        factor = cholesky(system(self.kernel, around, self.spread[near]))
        explained = torch.linalg.solve_triangular(factor, matrix(self.kernel, around, x[:, None]), upper=False)
        weights = torch.linalg.solve_triangular(factor.mT, explained, upper=True)
        prior = self.kernel(x[:, None], diag=True)
        # The joint covariance is a sum of terms as large as those that are added here, whatever is left of them.
        error = rounding(prior, explained) * (1 + weights.abs().sum(-2)).square()
        left = prior - explained.square().sum(-2) + error
        return weights[..., 0], left[:, 0].clamp_min(0)

    @cached_property
    def _scales(self) -> Tensor:
        return scales(self.kernel, self.data.X)

    @cached_property
    def _nearest(self) -> Nearest:
        return Nearest(self.data.X / self._scales)

    @cached_property
    def _basis(self) -> Tensor:
        return self.trend(self.data.X)

    @cached_property
    def _residual(self) -> Tensor:
        return self.data.Y - self._basis @ self.mean.coefficients

    @cached_property
    def spread(self) -> Tensor:
        """The variance of the noise of each row (n,)."""
        return Conditionals(self.data, self.trend, self.factor.neighbours, self.factor.order).spread(self.noise)

    def condition(self, data: Data) -> "FittedNearestNeighbours":
        joined, n = self.data.joined(data), len(self.data.X)
        with torch.no_grad():
            order = torch.cat([self.factor.order, torch.arange(n, len(joined.X)).to(self.factor.order)])
            near = neighbours_of(joined.X / self._scales, order, order[n:], self.neighbours)
            case = Conditionals(joined, self.trend, near, order[n:])
            factor = self.factor.extend(near, factored(case, self.kernel, self.noise)[0])
            return FittedNearestNeighbours.of(
                self.kernel, self.noise, joined, self.trend.kind, factor, self.neighbours, self.loss, self.searches
            )

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {**named_values(self.kernel), "noise": self.noise}

    def notes(self) -> list[str]:
        found = []
        last = self.searches[-1] if self.searches else None
        if last is not None and not last.converged and last.slope > LOOSE:
            left = f"with a slope of {last.slope:.2g} nats a point left"
            found.append(f"the search stopped after {last.steps} steps {left}; raise steps")
        if self.loss >= LOSS:
            found.append(
                f"twice the {self.neighbours} neighbours would gain {self.loss:.2g} nats a row of the evidence; "
                "raise neighbours, or use a SparseProcess where many inputs matter"
            )
        elif self.gain < FALL:
            found.append(
                f"{FURTHER} times the {self._count(len(self.data.X))} neighbours of a prediction would leave "
                f"{100 * self.gain:.0f}% of the variance of the function, for noise outweighs it: predictions of y "
                "hardly change, and those of the function do; raise neighbours, or use a SparseProcess"
            )
        return found
