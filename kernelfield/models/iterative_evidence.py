"""The evidence of an exact process by iterations: products with the kernel matrix, and no factor of it.

As in `models.evidence`, with A = K + noise / weight. Solves are by block conjugate gradients, preconditioned by
P = F F' + noise / weight of low rank; log|A| = log|P| + log|P^-1 A|, the second by Lanczos quadrature of a few random
vectors, which P has left little to. In the gradient

    dlog p = c/2 tr alpha' dA alpha - m/2 tr(A^-1 dA),    tr(A^-1 dA) ~ mean over k of (A^-1 L w)' dA (L^-T w),

with P = L L' and random signs w. Where P is A, the variance of m/2 times the trace is at most m / k times the entry of
the Fisher information m/2 tr(A^-1 dA A^-1 dA) (plain signs, without L, may have a hundred times as much where the noise
is small): the hyperparameters at which the estimate is zero are off by 1 / sqrt(k) of their own standard deviation,
and cost p / 2k nats of the evidence of all rows. The signs are the same at each evaluation, so that searches see a
smooth function, and solves start from the last ones.

Sources: Gardner et al. (2018), "GPyTorch: Blackbox Matrix-Matrix Gaussian Process Inference with GPU Acceleration";
Wenger et al. (2022), "Preconditioning for Scalable Gaussian Process Hyperparameter Optimization"; Lin et al. (2024),
"Improving Linear System Solvers for Hyperparameter Optimisation in Iterative Gaussian Processes", for warm starts.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import Mixing
from kernelfield.linalg.iterative import LogDeterminant, Solution, conjugate_gradients, log_determinant, signs
from kernelfield.linalg.preconditioner import LowRankPlusDiagonal, low_rank
from kernelfield.linalg.product import KernelProduct
from kernelfield.linalg.single import SingleFactor
from kernelfield.linalg.traces import Probes
from kernelfield.models.evidence import Objective, Trend
from kernelfield.models.grid_evidence import Regression
from kernelfield.models.slope_search import Evaluation
from kernelfield.models.solver_choice import Solver, single_fits, worth_of_a_factor

SEARCHING, FITTED = 1e-3, 1e-8  # relative residuals in a search, and in its result
ITERATIONS = 1000  # at most, of one solve
COLUMNS_COST = 3  # about, an iteration for all columns with a factor, in those for the data with one of low rank
PROBES = 16  # random vectors of a gradient and of a log-determinant
CONFIDENCE = 0.95  # of the interval that is reported for the evidence


@dataclass(frozen=True, eq=False)
class System:
    """A = K + diag(spread), spread (n,), by products with K and a preconditioner P = L L'.

    A - least P is positive semidefinite, which bounds errors; rank, of what P has of K; factored, whether P is A but
    for rounding.
    """

    product: KernelProduct
    spread: Tensor
    preconditioner: LowRankPlusDiagonal | SingleFactor
    rank: int
    least: float
    factored: bool = False

    @classmethod
    def low_rank(cls, product: KernelProduct, spread: Tensor, rank: int, seed: int) -> "System":
        """With randomly pivoted Cholesky of this rank, or of that of K; the same seed gives the same factor."""
        factor = low_rank(product.rows, product.diagonal, rank, generator=torch.Generator().manual_seed(seed))
        return cls(product, spread, LowRankPlusDiagonal(factor, spread), factor.shape[1], 1.0)

    @classmethod
    def single(cls, product: KernelProduct, spread: Tensor, factor: SingleFactor) -> "System":
        """With its Cholesky factor in single precision."""
        return cls(product, spread, factor, len(spread), factor.least, factored=True)

    def multiply(self, B: Tensor) -> Tensor:
        """A B for B (n, k)."""
        return torch.addcmul(self.product(B), self.spread[:, None], B)

    def solution(
        self,
        B: Tensor,
        *,
        tolerance: float,
        start: Tensor | None = None,
        iterations: int | None = None,
        quiet: bool = False,
    ) -> Solution:
        """A^-1 B for B (n, k), with its residual; see `conjugate_gradients`."""
        return conjugate_gradients(
            self.multiply,
            B,
            precondition=self.preconditioner.solve,
            start=start,
            tolerance=tolerance,
            steps=ITERATIONS if iterations is None else iterations,
            quiet=quiet,
        )

    def determinant(self, seed: int) -> LogDeterminant:
        """log|A| with its standard error."""
        return log_determinant(
            self.multiply,
            self.spread,
            probes=PROBES,
            generator=torch.Generator().manual_seed(seed),
            preconditioner=self.preconditioner,
        )


@dataclass
class Ladder:
    """The preconditioner that a kernel matrix needs: of low rank, or a factor where that leaves much to iterations.

    What was needed once is what the next matrix starts with: hyperparameters of a search are near each other.
    """

    solver: Solver
    rank: int
    seed: int
    factored: bool = False
    held: SingleFactor | None = None  # of the last matrix

    def system(self, product: KernelProduct, spread: Tensor) -> System:
        """A with the preconditioner that is needed so far."""
        if not self.factored:
            return System.low_rank(product, spread, min(self.rank, len(spread)), self.seed)
        self.held = None  # there is room for one
        self.held = SingleFactor.of(product, spread)
        return System.single(product, spread, self.held)

    def again(self, product: KernelProduct, spread: Tensor) -> System | None:
        """A with the factor of the last matrix, of which nothing is known but that A was near; None without one."""
        return None if self.held is None else System(product, spread, self.held, len(spread), 0.0)

    def solution(
        self, product: KernelProduct, spread: Tensor, B: Tensor, *, tolerance: float, start: Tensor | None = None
    ) -> tuple[System, Solution]:
        """A, and A^-1 B for B (n, k)."""
        system, n = self.system(product, spread), len(spread)
        if self.factored or not single_fits(self.solver, n, spread.device):
            return system, system.solution(B, tolerance=tolerance, start=start)
        found = system.solution(B, tolerance=tolerance, start=start, iterations=worth_of_a_factor(n), quiet=True)
        if found.converged:
            return system, found
        self.factored, used = True, found.iterations
        system = self.system(product, spread)
        found = system.solution(B, tolerance=tolerance, start=found.X)
        return system, replace(found, iterations=used + found.iterations)


def spread_of(noise: float, data: Data) -> Tensor:
    """The noise variances (n,) of the rows."""
    return torch.full_like(data.X[:, 0], noise) if data.weight is None else noise / data.weight


def half_width(error: float) -> float:
    """Half of the interval of CONFIDENCE around a mean over PROBES vectors, given one standard error of it.

    >>> round(half_width(1.0), 2)  # Student's t with 15 degrees of freedom
    2.13
    """
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, PROBES - 1)) * error


class StochasticEvidence:
    """The slope of minus the log posterior of theta, a number observed, by a fixed set of random vectors.

    form : the same objective on a few of the rows, which knows theta: its kernel is the one that is set.
    product : makes the products of that kernel at all rows as it is set.
    """

    def __init__(
        self,
        form: Objective,
        data: Data,
        trend: Trend,
        product: Callable[[], KernelProduct],
        ladder: Ladder,
    ) -> None:
        self.form, self.data, self.product = form, data, product
        self.Y, self.H, self.ladder = data.Y, trend(data.X), ladder
        self.w = signs(len(data.X), PROBES, data.X, torch.Generator().manual_seed(ladder.seed))
        self.last: Tensor | None = None
        self.held_at: np.ndarray | None = None  # where the last factor is from

    def __call__(self, theta: np.ndarray) -> Evaluation:
        _, _, mixing = self.form.split(theta)
        with torch.no_grad():
            if self.held_at is not None and self.ladder.held is None:  # it was of an earlier run
                self.ladder.system(*self._matrix(self.held_at))
            solved = self._settled if self.ladder.factored else self._tried
            system, probes, found = solved(*self._matrix(theta))
            if system.factored:
                self.held_at = theta.copy()
            self.last, inverse = found.X.tensor_split([found.X.shape[1] - PROBES], 1)
        slope = self._slope(system, self.last, *probes.pairs(inverse), mixing)
        slope += self.form.log_prior(theta)[1]
        return Evaluation(-slope / self.Y.numel(), found.iterations, found.residual.max().item())

    def _matrix(self, theta: np.ndarray) -> tuple[KernelProduct, Tensor]:
        """Products of K, and the noise (n,), at theta."""
        parameters, noise, _ = self.form.split(theta)
        self.form.covariance.assign(parameters)
        return self.product(), spread_of(noise, self.data)

    @cached_property
    def known(self) -> Tensor:
        """The right-hand sides (n, m + p) that do not depend on the probes."""
        return torch.cat([self.Y, self.H], -1)

    def _tried(self, product: KernelProduct, spread: Tensor) -> tuple[System, Probes, Solution]:
        """A^-1 [known, probes], one after the other: the first finds the preconditioner that the second is made of."""
        system, found = self.ladder.solution(product, spread, self.known, tolerance=SEARCHING, start=self.last)
        probes = Probes.of(self.w, system.preconditioner)
        inverse = system.solution(probes.right, tolerance=SEARCHING, start=probes.partners, quiet=True)
        whole = Solution(
            torch.cat([found.X, inverse.X], 1),
            torch.cat([found.residual, inverse.residual]),
            found.iterations + inverse.iterations,
            found.converged and inverse.converged,
        )
        return system, probes, whole

    def _settled(self, product: KernelProduct, spread: Tensor) -> tuple[System, Probes, Solution]:
        """The same at once, where a factor is needed: one product serves all columns, and the last factor will do as
        long as it leaves fewer iterations than a new one is worth."""
        system = self.ladder.again(product, spread)
        if system is not None:
            probes, found = self._solved(system, worth_of_a_factor(len(spread)) // COLUMNS_COST)
            if found.converged:
                return system, probes, found
            del system  # its factor makes room for the next
        system = self.ladder.system(product, spread)
        return system, *self._solved(system, None)

    def _solved(self, system: System, iterations: int | None) -> tuple[Probes, Solution]:
        probes = Probes.of(self.w, system.preconditioner)
        first = torch.zeros_like(self.known) if self.last is None else self.last
        right, start = torch.cat([self.known, probes.right], 1), torch.cat([first, probes.partners], 1)
        quiet = iterations is not None
        return probes, system.solution(right, tolerance=SEARCHING, start=start, iterations=iterations, quiet=quiet)

    def state(self) -> dict[str, Tensor]:
        """What the last evaluation left for the next one, by name."""
        last = {} if self.last is None else {"last": self.last}
        held = {} if self.held_at is None else {"held at": torch.tensor(self.held_at)}
        return last | held | {"factored": torch.tensor(self.ladder.factored)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.last = state["last"].to(self.Y)
        self.ladder.factored = bool(state["factored"])
        self.held_at = state["held at"].numpy() if "held at" in state else None

    def _slope(self, system: System, solved: Tensor, first: Tensor, second: Tensor, mixing: Mixing) -> np.ndarray:
        """The slope of the log evidence, by A^-1 [Y, H], and the pairs of vectors of each trace."""
        m = self.Y.shape[1]
        mean = Regression.solved(self.Y, self.H, solved)
        _, slope = mixing.log_expectation(mean.S, self.Y.numel())
        left = torch.cat([-slope * mean.alpha, -m / 2 * first], -1)
        right = torch.cat([mean.alpha, second], -1)
        pulled = system.product.pull(left, right)
        raw = self.form.covariance.raw
        found = {id(t): g for t, g in zip(_learned(raw, self.form.covariance.kernel), pulled, strict=True)}
        kernel = [found.get(id(t), torch.zeros_like(t)).detach().cpu().double().numpy().ravel() for t in raw]
        rows = system.spread * (left * right).sum(-1)
        shapes = mixing.score(mean.S, self.Y.numel()) if len(self.form.log_shapes) else ()
        return np.concatenate([*kernel, [rows.sum().item()] if self.form.learn else [], shapes])


def _learned(raw: list, kernel: torch.nn.Module) -> list[Tensor]:
    """The parameters that a product is differentiated in, in its order."""
    return [p for p in kernel.parameters() if p.requires_grad]
