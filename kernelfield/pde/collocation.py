"""Linear problems by conditioning a process on its boundary values and on the equation, at points.

A process with a stationary product kernel (`kernels.derived`) is conditioned on u at the boundary and on
L u = f at the points of a grid, or the part of it inside of a mask; what it then believes of u and of its
derivatives is a Gaussian with covariances in closed form. The frequencies of the kernel start
from the source (`pde.collocation_seeds`), and the evidence moves them with all other hyperparameters.

Candidates, one for each shape of bump and before and after the search, are compared by the residual at
points between those that were used, never by an error that only the exact solution could tell. O(N^3)
for N rows, a few hundred to two thousand. Unknown coefficients are hyperparameters: observations
of u decide them; what they leave open is part of the band (`pde.unknowns`).

Sources: Raissi, Perdikaris & Karniadakis (2017), "Machine learning of linear differential equations
using Gaussian processes"; Cockayne et al. (2019), "Bayesian Probabilistic Numerical Methods"; Fang et
al. (2024), "Solving High Frequency and Multi-Scale PDEs with Gaussian Processes", for the kernels.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import NotPositiveDefinite, rounding, threads_for
from kernelfield.kernels.bumps import Bump, GaussianBump, StudentBump
from kernelfield.models.fit import minimise
from kernelfield.pde.collocation_seeds import counts, seed
from kernelfield.pde.conditioned import Conditioned
from kernelfield.pde.likelihood import NOISE, Evidence, Kernel, System, prior_variances
from kernelfield.pde.points import Points, place, weak_norm
from kernelfield.pde.problem import HIGHEST, Orders, Problem, Unknown, evaluate
from kernelfield.pde.rows import Part, Rows, variances
from kernelfield.pde.solution import Estimate, Solution
from kernelfield.pde.unknowns import Averaged, covariance_of, doubts, estimates

STEPS = 40  # of the search for hyperparameters; the seeds are near
START = 1e-10  # noise variance of an equation at the start, relative to that of its rows
GOOD = 1e-6  # relative residual with which the next shape of bump is not tried any more
FLOORS = (1e2, 1e4, 1e6)  # factors on a noise of an equation that is too small to be one, tried by the residual
FAINT = 1e-4  # relative noise variance of an equation below which it is a floor and no noise
SEEDED = 0.5  # of the weak norm: how much less that of the seeds must be
LEARN = 500  # rows at most on which hyperparameters are learned in several dimensions; all are conditioned on
SETTLE = 8  # steps of the search in which values of an unknown are compared
SCAN = 9  # values of an unknown coefficient between its bounds that are tried before the search


@dataclass(frozen=True, eq=False)
class Setting:
    """A problem made discrete: where it is held to, and what was observed besides."""

    problem: Problem
    points: Points
    counts: tuple[int, ...]
    observations: Data | None = None

    @property
    def zero(self) -> Orders:
        return (0,) * self.problem.dims

    def known(self) -> tuple[Rows, ...]:
        """Boundary values and slopes, as far as there are any."""
        X, values = self.points.values
        rows = [Rows.derivative(X, self.zero, values)] if len(X) else []
        for face, axis, slope in self.points.slopes:
            rows.append(Rows.derivative(face, tuple(int(d == axis) for d in range(self.problem.dims)), slope))
        return tuple(rows)

    def equation(self) -> Rows:
        """L u = f at the points, with unknowns by name."""
        X, problem = self.points.interior, self.problem
        parts = []
        for term in problem.operator:
            free = isinstance(term.coefficient, Unknown)
            name = term.coefficient.name if isinstance(term.coefficient, Unknown) else None
            parts.append(Part(X.new_ones(len(X)) if free else term.at(X), term.orders, name))
        return Rows(X, tuple(parts), evaluate(problem.source, X, what=f"the source of {problem.name}"))

    def observed(self) -> tuple[Rows, ...]:
        """The observations of u."""
        if self.observations is None:
            return ()
        return (Rows.derivative(self.observations.X, self.zero, self.observations.Y[:, 0]),)

    def rows(self, equation: Rows) -> tuple[Rows, ...]:
        return (*self.known(), equation, *self.observed())

    def noisy(self) -> list[int]:
        """Which groups of `rows` have a noise."""
        first = len(self.known())
        return [first, first + 1] if self.observations is not None else [first]

    def residual(self, system: System) -> tuple[float, float]:
        """Relative residual at the offset points, and the error of u that it stands for, see `weak_norm`."""
        settled = self.problem.settled(system.kernel.unknowns)
        given, X = Conditioned(system), self.points.offset
        values: dict[Orders, Tensor] = {}

        def derivative(orders: Orders) -> Tensor:
            if orders not in values:
                values[orders] = given.mean(X, orders)
            return values[orders]

        residual = settled.residual(X, derivative)
        relative = float(residual.square().mean().sqrt()) / (settled.size(X, derivative) or 1.0)
        return relative, weak_norm(settled, self.points, residual)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A conditioned system with what its residual tells."""

    system: System
    name: str
    relative: float
    weak: float
    history: tuple[float, ...] = ()
    seeded: bool = False


def solve_collocation(
    problem: Problem,
    *,
    kernel: str = "auto",
    grid: int | Sequence[int] | None = None,
    observations: Data | None = None,
    steps: int = STEPS,
    device: torch.device | str = "cpu",
) -> Solution:
    """Solve a linear problem at points of a grid, inside of its mask if it has one.

    kernel : "spectral" for Gaussian bumps, "student_t" for bumps with tails and twice the derivatives
        of the operator at most, or "auto" for the one with the least residual.
    grid : how many points along each axis; None takes four in the shortest wave of the source.
    observations : values of u (n, 1) at points X (n, d), with a noise that is learned.
    steps : the most iterations of the search for hyperparameters; 0 keeps the seeds.

    Errors: ValueError for a nonlinear problem, an unknown kernel, unknown coefficients without
    observations; NotPositiveDefinite where no kernel can be factored.
    """
    if problem.nonlinear is not None:
        raise ValueError(f"{problem.name} is nonlinear, which collocation does not solve; take solver='newton'")
    began = time.perf_counter()
    setting = settle(problem, grid, observations, device)
    with threads_for(len(setting.points.interior)):
        best = search(setting, setting.equation(), kernel=kernel, steps=steps)
        representation, learned, doubtful = representations(setting, best.system)
        condition = best.system.condition
    return Solution(
        problem.settled(best.system.kernel.unknowns),
        representation,
        f"collocation, {best.name}, {describe(setting)}",
        {"covariance": condition},
        time.perf_counter() - began,
        best.relative,
        best.history,
        message=f"expected error of u {best.weak:.2g}, from the residual between the points{doubtful}",
        estimates=learned,
    )


def representations(setting: Setting, system: System) -> tuple[Conditioned | Averaged, Mapping[str, Estimate], str]:
    """The law of the solution, averaged over unknown coefficients if there are any, these, and doubts about them."""
    given = _conditioned(setting, system)
    if not setting.problem.unknowns:
        return given, {}, ""
    evidence = _evidence(setting, system.rows, system.kernel)
    covariance = covariance_of(evidence)
    learned = estimates(evidence, covariance)
    return Averaged.of(given, evidence, covariance), learned, doubts(system, evidence, learned)


def _conditioned(setting: Setting, system: System) -> Conditioned:
    """The solution, its covariance inflated where residuals between the points are larger than it says.

    Rounding errors and a kernel that is too sure of itself
    show there. A covariance that is too wide is left as it is.
    """
    X = setting.points.offset
    settled = setting.problem.settled(system.kernel.unknowns)
    given = Conditioned(system)
    parts = [Part(term.at(X), term.orders) for term in settled.operator]
    if settled.nonlinearity is not None:
        values = [given.mean(X, orders) for orders in settled.nonlinearity.orders]
        slopes = settled.nonlinearity.linearised(X, values)[1]
        parts += [Part(slope, orders) for slope, orders in zip(slopes, settled.nonlinearity.orders, strict=True)]
    asked = Rows(X, tuple(parts), torch.zeros_like(X[:, 0]))
    half, prior = given.explained(asked), variances(asked, system.kernel.mixtures)
    noise = system.kernel.noises[len(setting.known())]
    expected = (prior - half.square().sum(0)).clamp_min(0) + rounding(prior, half) + noise
    residual = settled.residual(X, lambda orders: given.mean(X, orders))
    return Conditioned(system, max(1.0, float(residual.square().mean() / expected.mean())))


def settle(
    problem: Problem, grid: int | Sequence[int] | None, observations: Data | None, device: torch.device | str
) -> Setting:
    """The points of a problem, and its observations checked."""
    if problem.unknowns and observations is None:
        names = ", ".join(unknown.name for unknown in problem.unknowns)
        raise ValueError(f"the unknown coefficients {names} need observations= of the solution, got none")
    if observations is not None and (observations.X.shape[1] != problem.dims or observations.Y.shape[1] != 1):
        shapes = f"X {tuple(observations.X.shape)} and Y {tuple(observations.Y.shape)}"
        raise ValueError(f"observations must have X (n, {problem.dims}) and Y (n, 1), got {shapes}")
    sizes = counts(problem) if grid is None else (grid,) * problem.dims if isinstance(grid, int) else tuple(grid)
    return Setting(problem, place(problem, sizes, torch.device(device)), sizes, observations)


def describe(setting: Setting) -> str:
    sizes = " x ".join(str(count) for count in setting.counts)
    return f"{len(setting.points.interior)} points of a {sizes} grid"


def search(setting: Setting, equation: Rows, *, kernel: str, steps: int) -> Candidate:
    """The candidate with the least weak norm of the residual; see the module docstring."""
    rows = setting.rows(equation)
    found: list[Candidate] = []
    complaint: NotPositiveDefinite | None = None
    for bump in bumps(setting.problem, kernel):
        try:
            found += candidates(setting, rows, seeded(setting, rows, bump), steps=steps, name=name_of(bump))
        except NotPositiveDefinite as error:
            complaint = error
        if found and min(candidate.relative for candidate in found) < GOOD:
            break
    if not found:
        raise complaint or NotPositiveDefinite(f"no kernel could be factored for {setting.problem.name}")
    # Without a search nothing is known of the noise, so seeds must be clearly better to be taken as they are.
    return min(found, key=lambda candidate: candidate.weak / (SEEDED if candidate.seeded else 1.0))


def bumps(problem: Problem, kernel: str) -> list[Bump]:
    """The shapes of bumps that a name stands for, as far as they have the derivatives that the problem needs."""
    if kernel not in ("auto", "spectral", "student_t"):
        raise ValueError(f"kernel must be 'auto', 'spectral' or 'student_t', got {kernel!r}")
    parts = [term.orders for term in problem.operator]
    parts += problem.nonlinearity.orders if problem.nonlinearity else ()
    highest = max(max(orders) for orders in parts)
    tails = StudentBump(2.5 if highest <= 2 else HIGHEST + 0.5)
    choices: dict[str, list[Bump]] = {
        "auto": [GaussianBump(), tails],
        "spectral": [GaussianBump()],
        "student_t": [tails],
    }
    return choices[kernel]


def name_of(bump: Bump) -> str:
    return "Gaussian bumps" if isinstance(bump, GaussianBump) else f"Student-t bumps, nu {bump.smoothness / 2 + 0.5:g}"


def seeded(setting: Setting, rows: tuple[Rows, ...], bump: Bump) -> Kernel:
    """The kernel to start from: of the seeds for several values of each bounded unknown, that of the best evidence.

    An operator's own waves move with its coefficients, so each value has seeds of its own.
    """
    best = start(setting, rows, bump)
    unknowns = setting.problem.unknowns
    if not unknowns:
        return best
    least = _loss(setting, rows, best)
    for unknown in unknowns:
        if math.isfinite(unknown.low) and math.isfinite(unknown.high):
            for value in np.linspace(unknown.low, unknown.high, SCAN).tolist():
                trial = start(setting, rows, bump, {**best.unknowns, unknown.name: value})
                loss = _loss(setting, rows, trial)
                best, least = (trial, loss) if loss < least else (best, least)
    return best


def _loss(setting: Setting, rows: tuple[Rows, ...], kernel: Kernel) -> float:
    """Minus the evidence after the few steps that a kernel takes to fit the size of the data."""
    try:
        return learn(setting, rows, kernel, SETTLE)[1][1]
    except NotPositiveDefinite:
        return math.inf


def start(setting: Setting, rows: tuple[Rows, ...], bump: Bump, values: Mapping[str, float] | None = None) -> Kernel:
    """The kernel of the seeds for these values of the unknowns; the variance is that of the first axis."""
    unknowns = {unknown.name: unknown.start for unknown in setting.problem.unknowns} | dict(values or {})
    problem = setting.problem.settled(unknowns)
    size = 0.0 if setting.observations is None else float(setting.observations.Y.square().mean())
    mixtures = [seed(problem, axis, count, bump, size=size) for axis, count in enumerate(setting.counts)]
    for d, mixture in enumerate(mixtures[1:], 1):
        mixtures[d] = replace(mixture, log_weights=mixture.log_weights - mixture.log_weights.logsumexp(0))
    device = setting.points.interior.device
    mixtures = [
        replace(
            m,
            log_weights=m.log_weights.to(device),
            log_lengths=m.log_lengths.to(device),
            frequencies=m.frequencies.to(device),
        )
        for m in mixtures
    ]
    bare = Kernel(tuple(mixtures), (0.0,) * len(rows), unknowns)
    evidence = Evidence(bare, rows, setting.noisy(), setting.problem.unknowns)
    noises = [0.0] * len(rows)
    for group, relative in zip(setting.noisy(), (START, 1e-4), strict=False):
        noises[group] = relative * evidence.sizes[group]
    return replace(bare, noises=tuple(noises))


def candidates(setting: Setting, rows: tuple[Rows, ...], kernel: Kernel, *, steps: int, name: str) -> list[Candidate]:
    """The seeds as they are, unless there are unknowns, and what the evidence makes of them."""
    found: list[Candidate] = []
    complaint = NotPositiveDefinite("no noise was tried")
    unknowns = setting.problem.unknowns
    if not unknowns or not steps:
        try:
            found.append(judged(setting, System.of(kernel, rows), f"{name} as seeded", seeded=True))
        except NotPositiveDefinite:
            if not steps:
                raise
    if steps:
        learned, history = learn(setting, rows, kernel, steps)
        for floored in _floors(setting, rows, learned):
            try:
                found.append(judged(setting, System.of(floored, rows), name, history))
            except NotPositiveDefinite as error:
                complaint = error
        if not found:
            raise complaint
    return found


def _floors(setting: Setting, rows: tuple[Rows, ...], kernel: Kernel) -> list[Kernel]:
    """The kernel, and the same with more noise in the equation where there is hardly any.

    A part of the rows, on which hyperparameters may have been learned, bears less noise than all of them.
    """
    group = len(setting.known())
    size = float(prior_variances(rows[group], kernel).mean())
    noise = max(kernel.noises[group], NOISE[0] * size)
    raised = [noise * factor for factor in FLOORS if noise * factor < FAINT * size]
    return [replace(kernel, noises=(*kernel.noises[:group], n, *kernel.noises[group + 1 :])) for n in (noise, *raised)]


def learn(setting: Setting, rows: tuple[Rows, ...], kernel: Kernel, steps: int) -> tuple[Kernel, tuple[float, float]]:
    """The kernel that the evidence prefers, and minus the evidence before and after, in nats a row."""
    part = rows if setting.problem.dims == 1 else _thinned(rows)
    evidence = _evidence(setting, part, kernel)
    label = f"kernel of {setting.problem.name}"
    theta, searches = minimise(evidence, [evidence.start], evidence.bounds, steps, label=label)
    return evidence.split(theta), (searches[0].first, searches[0].last)


def _evidence(setting: Setting, rows: tuple[Rows, ...], kernel: Kernel) -> Evidence:
    """The evidence of all rows, or, with unknowns, of the observations given the others."""
    unknowns = setting.problem.unknowns
    return Evidence(kernel, rows, setting.noisy(), unknowns, given=len(rows) - 1 if unknowns else 0)


def _thinned(rows: tuple[Rows, ...]) -> tuple[Rows, ...]:
    """A random part of the rows of each group, in its share of LEARN; small groups stay whole."""
    total = sum(len(group.X) for group in rows)
    if total <= LEARN:
        return rows
    generator = torch.Generator().manual_seed(0)
    kept = []
    for group in rows:
        count = max(math.ceil(len(group.X) * LEARN / total), min(len(group.X), LEARN // 10))
        chosen = torch.randperm(len(group.X), generator=generator)[:count].sort().values.to(group.X.device)
        parts = tuple(replace(part, coefficient=part.coefficient[chosen]) for part in group.parts)
        kept.append(Rows(group.X[chosen], parts, group.targets[chosen]))
    return tuple(kept)


def judged(
    setting: Setting, system: System, name: str, history: tuple[float, ...] = (), *, seeded: bool = False
) -> Candidate:
    relative, weak = setting.residual(system)
    return Candidate(system, name, relative, weak, history, seeded)
