"""An exact process of many rows, solved by iterations: `models.iterative_evidence`, `models.iterative_posterior`.

Predictions are those of `FittedProcess` to the residuals that it reports: nothing is approximated but what is solved
for, and what the log-determinant leaves to random vectors, which has an interval.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data, Surrogate
from kernelfield.core.mixing import Mixing
from kernelfield.core.pathwise import Pathwise
from kernelfield.core.posterior import Elliptical
from kernelfield.linalg.product import KernelProduct
from kernelfield.models.covariance import matrix, named_values
from kernelfield.models.evidence import Trend
from kernelfield.models.fit import Search
from kernelfield.models.grid_evidence import Regression
from kernelfield.models.iterative_evidence import FITTED, Ladder, System, half_width, spread_of
from kernelfield.models.iterative_posterior import (
    ACCURACY,
    DRAWING,
    JOINT,
    Conditioned,
    Solved,
    Waves,
    has_waves,
    paths,
    solve,
)
from kernelfield.models.slope_search import Descent
from kernelfield.models.solver_choice import COLUMNS, Solver, product_for

PRODUCTS = 1000  # of one matrix that are expected: a fit, and predictions


@dataclass(frozen=True)
class SolvePlan:
    """How a process is solved: the solver and why, the rank of its preconditioner, the seed of that and of random
    vectors, whether it needs a factor in single precision, and the search on all rows, None without one."""

    solver: Solver
    reason: str
    rank: int
    seed: int
    factored: bool = False
    course: Descent | None = None


@dataclass(frozen=True)
class SolveOutcome:
    """How the solve of the result went: the method of products and why, the rank that the preconditioner has, products
    used and the largest relative residual, recomputed."""

    method: str
    reason: str
    rank: int
    iterations: int
    residual: float


@dataclass(frozen=True, eq=False)
class FittedIterativeProcess(Surrogate):
    """A process conditioned on data by iterations.

    log_evidence in nats, an estimate; log_evidence_error, half of its 95 % interval; noise a variance in squared units
    of Y; mean the regression on the trend; accuracy, the largest error of a variance that is allowed, relative and
    proved for each point, but for rounding: with `dataclasses.replace(fitted, accuracy=0.01)` predictions of many
    points are a few times quicker.
    """

    kernel: Kernel
    noise: float
    mixing: Mixing
    data: Data
    trend: Trend
    mean: Regression
    log_evidence: float
    log_evidence_error: float
    plan: SolvePlan
    outcome: SolveOutcome
    searches: tuple[Search, ...] = ()
    accuracy: float = ACCURACY

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        noise: float,
        mixing: Mixing,
        data: Data,
        trend: Trend,
        plan: SolvePlan,
        searches: tuple[Search, ...] = (),
        *,
        start: Tensor | None = None,
        accuracy: float = ACCURACY,
    ) -> "FittedIterativeProcess":
        """The conditioned process; start (n, m + p), nearly A^-1 [Y, H]."""
        with torch.no_grad():
            H, product = trend(data.X), product_for(plan.solver, kernel, data.X, PRODUCTS)
            ladder = Ladder(plan.solver, plan.rank, plan.seed, plan.factored)
            right, spread = torch.cat([data.Y, H], -1), spread_of(noise, data)
            system, found = ladder.solution(product, spread, right, tolerance=FITTED, start=start)
            mean = Regression.solved(data.Y, H, found.X)
            determinant = system.determinant(plan.seed)
        m, count = data.Y.shape[1], data.Y.numel()
        value, _ = mixing.log_expectation(mean.S, count)
        evidence = value - 0.5 * m * determinant.value - 0.5 * count * math.log(2 * math.pi)
        error = 0.5 * m * half_width(determinant.error)
        outcome = SolveOutcome(
            product.method, product.reason, system.rank, found.iterations, found.residual.max().item()
        )
        plan = replace(plan, factored=ladder.factored)
        fitted = cls(kernel, noise, mixing, data, trend, mean, evidence, error, plan, outcome, searches, accuracy)
        fitted.__dict__["system"] = system  # which the property would make again
        return fitted

    @property
    def outputs(self) -> int:
        return self.data.Y.shape[1]

    def footprint(self, rows: int) -> int:
        return 6 * rows  # covariances, solutions, residuals, directions, their images and a spare

    @cached_property
    def system(self) -> System:
        """A, by products."""
        with torch.no_grad():
            product = product_for(self.plan.solver, self.kernel, self.data.X, PRODUCTS)
            ladder = Ladder(self.plan.solver, self.plan.rank, self.plan.seed, self.plan.factored)
            return ladder.system(product, spread_of(self.noise, self.data))

    def posterior(self, X: Tensor, *, noise: bool = False) -> Elliptical | Pathwise:
        flat = X.reshape(-1, X.shape[-1])
        H = self.trend(flat)
        if X.requires_grad:
            cross = matrix(self.kernel, self.data.X, flat)
            loc = H @ self.mean.coefficients + cross.mT @ self.mean.alpha
        else:
            loc = H @ self.mean.coefficients + self._cross(flat, self.mean.alpha)

        def terms() -> tuple[Solved, Tensor]:
            K = matrix(self.kernel, self.data.X, flat)
            solved = solve(self.system, K, self.kernel(flat, diag=True), self.accuracy)
            gap = H.mT - self.mean.gain.mT @ K
            return solved, torch.linalg.solve_triangular(self.mean.factor, gap, upper=False)

        added = self.noise if noise else 0.0
        scale = Conditioned(self.kernel, X, terms, added, self.outputs)
        law = Elliptical(loc.reshape(*X.shape[:-1], self.outputs), scale, self.scale_law)
        if X.ndim > 2 or len(X) <= JOINT or not has_waves(self.kernel):
            return law

        def predict(observed: Tensor) -> Tensor:
            b = torch.cholesky_solve(self.mean.gain.mT @ observed, self.mean.factor)
            parts = [self.system.solution(part, tolerance=DRAWING).X for part in observed.split(COLUMNS, 1)]
            return H @ b + self._cross(flat, torch.cat(parts, 1) - self.mean.gain @ b)

        waves, spread = Waves.of(self.kernel, X.shape[1], self.plan.seed, X), spread_of(self.noise, self.data)
        return Pathwise(law, paths(waves, self.data.X, flat, spread, predict, added, self.outputs))

    def _cross(self, X: Tensor, V: Tensor) -> Tensor:
        """K(X, data) V."""
        with torch.no_grad():
            return self._once.cross(X, V)

    @cached_property
    def _once(self) -> KernelProduct:
        """Products for means, which are few: a loaded surrogate needs no more for them."""
        return product_for(self.plan.solver, self.kernel, self.data.X, 1)

    @cached_property
    def scale_law(self) -> Mixing:
        """The law of s given the data, by which all predictions are mixed."""
        spent = self.mean.gain.shape[1]  # a coefficient with its flat prior costs one
        return self.mixing.condition(self.mean.S, (len(self.data.X) - spent) * self.outputs)

    def condition(self, data: Data) -> "FittedIterativeProcess":
        joined = self.data.joined(data)
        trend = Trend.of(self.trend.kind, joined.X)
        # alpha is a start for A^-1 Y where the mean is zero, and the iterations see to the rest.
        start = joined.X.new_zeros(len(joined.X), self.outputs + trend.T.shape[1])
        start[: len(self.data.X), : self.outputs] = self.mean.alpha
        return FittedIterativeProcess.of(
            self.kernel,
            self.noise,
            self.mixing,
            joined,
            trend,
            self.plan,
            self.searches,
            start=start,
            accuracy=self.accuracy,
        )

    def hyperparameters(self) -> dict[str, float | list[float]]:
        shapes = {f"mixing.{name}": value for name, value in self.mixing.shapes.items()}
        return {**named_values(self.kernel), "noise": self.noise, **shapes}

    def notes(self) -> list[str]:
        found, n = self.outcome, len(self.data.X)
        by = "a Cholesky factor in single precision" if self.plan.factored else f"a factor of rank {found.rank}"
        first = (
            f"solved by iterations ({self.plan.solver}: {self.plan.reason}), products {found.method} ({found.reason}), "
            f"preconditioned by {by}; {found.iterations} products to a relative residual of "
            f"{found.residual:.1g}, log evidence {self.log_evidence:.6g} with a 95 % interval of +-"
            f"{self.log_evidence_error:.2g} nats, variances within {self.accuracy:.1g} of themselves"
        )
        course = self.plan.course
        if course is None:
            return [first]
        end = "which ends the search" if course.converged else "which more steps would gain"
        return [
            first,
            f"hyperparameters from a sample of the rows, then {course.evaluations} evaluations on all {n} "
            f"({course.iterations} products, to relative residuals of {course.residual:.1g} at most): "
            f"{course.gain:.2g} nats of the evidence of all rows are left by the slope, {end}",
        ]
