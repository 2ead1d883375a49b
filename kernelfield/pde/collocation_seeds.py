"""Where the search for a kernel starts: the waves that the source and the boundary values hold.

Waves are found in the source along each axis (`kernels.spectral_start`) and divided by what the operator
multiplies a wave by, its symbol P(2 pi i s) = sum_j c_j (2 pi i s)^(o_j), which gives the weights
that they have in u. Waves of the initial and boundary values enter as they are. So do waves that the
operator sends to zero, P(2 pi i s) = 0, as those of Helmholtz' equation: u may hold them and the
source does not. Bumps about zero stand for drift and for what is no wave.

No frequency above Nyquist is looked for; a source that has some is told by a warning.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kernelfield.kernels.bumps import Bump
from kernelfield.kernels.derived import Mixture
from kernelfield.kernels.spectral_start import AboveNyquist, find_waves
from kernelfield.pde.problem import Problem

PROBE = 2048  # points of a line on which a source is looked at
LINES = 12  # of points along an axis, at random places of the others
TAIL = 1e-6  # the share of the power of a source that may lie above the highest frequency counted
WAVES = {1: 8, 2: 5, 3: 4}  # components at most, besides those about zero
PER_WAVE = 4.0  # points of the grid in the shortest wave
LEAST, MOST = {1: 128, 2: 24, 3: 10}, {1: 1024, 2: 1600, 3: 1600}  # points along an axis, and in all
ALIASED = 1e-2  # the share of the power of a source above Nyquist that is worth a warning
NEAR = 0.3  # of 1 / T: waves nearer to each other than this are one
DRIFT = (0.5, 0.1)  # lengthscales of the bumps about zero, in the extent of the axis
SPREAD = 0.3  # lengthscales of waves, in the extent


def counts(problem: Problem) -> tuple[int, ...]:
    """How many points along each axis resolve the source and the boundary values; within the room of a dense solve.

    Warns AboveNyquist where there is no room for two points a wave.
    """
    d = problem.dims
    waves = np.array([highest(problem, axis) * (b - a) for axis, (a, b) in enumerate(problem.domain)])
    least, most = LEAST.get(d, 6), MOST.get(d, 1600)
    wanted = np.maximum(np.ceil(PER_WAVE * waves) + (64 if d == 1 else 8), least)
    if wanted.prod() > most:
        fixed = wanted <= least
        room = most / wanted[fixed].prod()
        factor = (room / wanted[~fixed].prod()) ** (1 / max(1, (~fixed).sum()))
        wanted = np.where(fixed, wanted, np.maximum(np.floor(wanted * factor), least / 2))
    for axis, (name, count) in enumerate(zip(problem.names, wanted, strict=True)):
        low, high = problem.domain[axis]
        wave = highest(problem, axis, ALIASED) * (high - low)
        if count < 2 * wave + 1:
            warnings.warn(
                f"the source of {problem.name} has {wave:.0f} waves along {name}, above the Nyquist frequency of "
                f"{int(count)} points, the most that a dense solve has room for; use a grid solver",
                AboveNyquist,
                stacklevel=3,
            )
    return tuple(int(count) for count in wanted)


def highest(problem: Problem, axis: int, tail: float = TAIL) -> float:
    """The frequency above which the source and boundary values have this share of their power along an axis."""
    low, high = problem.domain[axis]
    top = 0.0
    for lines in _lines(problem, axis, PROBE):
        if lines.shape[1]:
            window = np.hanning(PROBE)[:, None]
            power = (np.abs(np.fft.rfft((lines - lines.mean(0)) * window, axis=0)) ** 2).sum(1)
            power[power < 1e-24 * power.max()] = 0.0
            above = power[::-1].cumsum()[::-1]
            counted = np.flatnonzero(above > tail * above[0])
            top = max(top, float(counted[-1]) if len(counted) else 0.0)
    return top / (high - low)


def seed(problem: Problem, axis: int, count: int, bump: Bump, *, size: float = 0.0) -> Mixture:
    """The mixture along an axis with `count` points to start from; its weights are variances of u in one dimension.

    size : a mean square that u is known to have, from observations.

    >>> from kernelfield.kernels.bumps import GaussianBump
    >>> from kernelfield.pde.problem import Term
    >>> wave = Problem("wave", ((0.0, 1.0),), (Term(1.0, (2,)),), lambda X: (50 * X[:, 0]).sin(), lambda X: 0 * X[:, 0])
    >>> round(2 * math.pi * seed(wave, 0, 100, GaussianBump()).frequencies[len(DRIFT)].item(), 1)
    50.0
    """
    low, high = problem.domain[axis]
    extent = high - low
    limit = (count - 1) / (2 * extent)
    top = highest(problem, axis, ALIASED)
    if top > limit:
        warnings.warn(
            f"the source of {problem.name} has waves of {top:.3g} cycles a unit along {problem.names[axis]}, above the "
            f"Nyquist frequency {limit:.3g} of {count} points; take a finer grid",
            AboveNyquist,
            stacklevel=3,
        )
    source, boundary = _lines(problem, axis, count)
    x = np.linspace(low, high, count)
    symbol = _Symbol(problem, axis)
    slow, frequencies, powers = _waves(x, source, limit, WAVES.get(problem.dims, 3))
    gain = np.abs(symbol(np.array([0.5 / extent, *frequencies])))
    weights = [2 * power / g**2 for power, g in zip(powers, gain[1:], strict=True)]
    drift = slow / gain[0] ** 2
    slow, more, powers = _waves(x, boundary, limit, WAVES.get(problem.dims, 3))
    frequencies += more
    weights += [2 * power for power in powers]
    drift += slow
    resonances = [s for s in symbol.resonances() if 0.5 / extent < s < limit]
    frequencies += resonances
    weights += [max(drift, size, max(weights, default=0.0), 1e-12)] * len(resonances)
    kept = _apart(frequencies, weights, NEAR / extent)
    weights, frequencies = [weights[i] for i in kept], [frequencies[i] for i in kept]
    drift = max(drift, size, 1e-4 * sum(weights)) or 1.0
    lengths = [extent * share for share in DRIFT] + [SPREAD * extent] * len(kept)
    values = [drift] + [0.1 * drift] * (len(DRIFT) - 1) + weights
    return Mixture(bump, _log(values), _log(lengths), torch.tensor([0.0] * len(DRIFT) + frequencies))


def _log(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.double).log()


def _lines(problem: Problem, axis: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The source (count, m) on lines along an axis, and the boundary values (count, k) on sides along it."""
    generator = torch.Generator().manual_seed(0)
    low, high = problem.domain[axis]
    along = torch.linspace(low, high, count, dtype=torch.double)
    boundary = [
        _on_line(problem, fixed, axis, along, generator, name)
        for name, fixed in problem.sides.items()
        if problem.side(name)[0] != axis
    ]
    lines = 1 if problem.dims == 1 else LINES
    source = [_on_line(problem, problem.source, axis, along, generator, None) for _ in range(lines)]
    empty = np.empty((count, 0))
    return tuple(np.column_stack([empty, *(column for column in group)]) for group in (source, boundary))  # type: ignore[return-value]


def _on_line(problem, field, axis, along, generator, side):  # type: ignore[no-untyped-def]
    """A function on a line through a random point, or one of a side."""
    ends = along.new_tensor(problem.domain)
    point = ends[:, 0] + torch.rand(problem.dims, generator=generator, dtype=torch.double) * (ends[:, 1] - ends[:, 0])
    if side is not None:
        other, at = problem.side(side)
        point[other] = at
    X = point.repeat(len(along), 1)
    X[:, axis] = along
    values = field(X).detach().numpy().copy()
    known = np.isfinite(values) if problem.inside is None else problem.inside(X).numpy() & np.isfinite(values)
    if not known.any():
        return np.zeros(len(values))
    # Where the line leaves the domain, the last value goes on: a jump would look like waves.
    return np.interp(np.arange(len(values)), np.flatnonzero(known), values[known])


def _waves(x: np.ndarray, Y: np.ndarray, limit: float, most: int) -> tuple[float, list[float], list[float]]:
    """Mean square of the drift of Y (n, m) without its waves, their frequencies and powers."""
    size = np.abs(Y).max(initial=0.0)
    if not size:
        return 0.0, [], []
    Y = Y[:, np.abs(Y).max(0) > 1e-9 * size]
    rng = np.random.default_rng(0)
    found = find_waves(x[:, None], Y, most, np.array([limit]), rng) if len(x) > 8 else None
    frequencies = [] if found is None else np.abs(found.frequencies[:, 0]).tolist()
    unit = (x - x.mean()) / np.ptp(x)
    drift = np.column_stack([unit**0, unit, unit**2])
    phase = 2 * math.pi * (x - x.mean())[:, None] * np.array(frequencies)
    basis = np.column_stack([drift, np.cos(phase), np.sin(phase)])
    fit = np.linalg.lstsq(basis, Y, rcond=1e-10)[0]
    slow = float(((drift @ fit[:3]) ** 2).mean())
    return min(slow, float((Y**2).mean())), frequencies, [] if found is None else found.powers.tolist()


def _apart(frequencies: Sequence[float], weights: Sequence[float], least: float) -> list[int]:
    """The heaviest of waves that are nearer than `least` to each other."""
    kept: list[int] = []
    for i in sorted(range(len(weights)), key=lambda i: -weights[i]):
        if all(abs(frequencies[i] - frequencies[j]) > least for j in kept):
            kept.append(i)
    return kept


class _Symbol:
    """P(2 pi i s) of the terms along one axis, with coefficients at their root mean square and sign of the mean."""

    def __init__(self, problem: Problem, axis: int) -> None:
        self.extent = problem.domain[axis][1] - problem.domain[axis][0]
        X = problem.test_points(40 if problem.dims < 3 else 8)
        self.coefficients: dict[int, list[float]] = {}
        for term in problem.operator:
            if not any(order for d, order in enumerate(term.orders) if d != axis):
                values = term.at(X)
                size = float(values.square().mean().sqrt()) * (-1.0 if float(values.mean()) < 0 else 1.0)
                self.coefficients.setdefault(term.orders[axis], []).append(size)

    def __call__(self, s: np.ndarray) -> np.ndarray:
        z = 2j * math.pi * np.asarray(s)
        total = sum((sum(c) * z**order for order, c in self.coefficients.items()), np.zeros_like(z))
        parts = [np.abs(sum(c) * z**order) for order, c in self.coefficients.items()]
        largest = np.max(parts, axis=0) if parts else np.ones(len(z))
        # Near a resonance the source says little of u.
        return np.maximum(np.maximum(np.abs(total), 0.1 * largest), 1e-300)

    def resonances(self) -> list[float]:
        """Frequencies at which the symbol is zero."""
        if not self.coefficients:
            return []
        degree = max(self.coefficients)
        if not degree:
            return []
        roots: np.ndarray = np.roots([sum(self.coefficients.get(degree - k, [0.0])) for k in range(degree + 1)])
        least = 1 / self.extent
        waves = [abs(z.imag) / (2 * math.pi) for z in roots if abs(z.imag) > least and abs(z.real) < 0.2 * abs(z.imag)]
        return sorted(set(np.round(waves, 12)))
