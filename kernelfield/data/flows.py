"""Flows on a periodic line and square: random initial fields, and what they become.

A field on the unit torus is drawn from a Gaussian process of given smoothness, kept to a few waves:

    w(x) = sum over k of s_k (a_k cos(2 pi k.x) + b_k sin(2 pi k.x)),    a_k, b_k ~ N(0, 1),
    s_k^2 in proportion to (2 nu / l^2 + |2 pi k|^2)^-(nu + D/2),

the Matern process of smoothness nu and length l, periodic, without its mean. From it two equations go on:

    Burgers         u_t + u u_x = v u_xx
    Navier-Stokes   w_t + V.grad w = v lap w + f,    V = (psi_y, -psi_x),    -lap psi = w

with the forcing f = a (sin(2 pi (x + y)) + cos(2 pi (x + y))) of Li et al. A surrogate has the numbers s_k a_k,
s_k b_k as inputs, and as outputs the field at a later time on a coarse grid: `flow_sample`.

Both are solved by Fourier's method: products on the grid, of which the wavenumbers below a third of its points
are kept, so that none comes back as another (a product then conserves the energy, and in the plane the
enstrophy, to rounding); in time by exponential Runge-Kutta steps of fourth order, to which viscosity is exact.

Sources: Li et al. (2021), "Fourier Neural Operator for Parametric Partial Differential Equations", for such
data; Cox & Matthews (2002), "Exponential Time Differencing for Stiff Systems", for the steps; Kassam & Trefethen
(2005), "Fourth-Order Time-Stepping for Stiff PDEs", for their coefficients; Orszag (1971), "On the Elimination of
Aliasing in Finite-Difference Schemes by Filtering High-Wavenumber Components".
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

BLOCK = 2**16  # numbers of the fields that march together: they and their products stay in the cache
CONTOUR = 32  # points of the mean that stands for a difference of nearly equal numbers
COURANT = 1.0  # cells a step; the steps are unstable from about 1.3
TAIL = 0.8  # of the highest wavenumber: beyond it, a field that is resolved has next to nothing,
SHARE = 1e-6  # at most this part of its squares


@dataclass(frozen=True)
class PeriodicField:
    """The law of a random field on the unit torus, of waves up to a highest wavenumber.

    modes : the highest wavenumber |k|, a Euclidean length in the plane.
    size : standard deviation of the field at each point.
    length, smoothness : l and nu, as above; less of either is a rougher field.

    Errors: ValueError for numbers that are not positive.

    >>> law = PeriodicField(modes=2)
    >>> law.waves(1).shape, law.waves(2).shape
    ((2, 1), (6, 2))
    >>> coefficients = law.draw(3, 1, np.random.default_rng(0))
    >>> law.values(coefficients, 1, points=8).shape
    (3, 8)
    """

    modes: int = 4
    size: float = 1.0
    length: float = 0.3
    smoothness: float = 2.5

    def __post_init__(self) -> None:
        _require_positive(modes=self.modes, size=self.size, length=self.length, smoothness=self.smoothness)

    def waves(self, axes: int) -> np.ndarray:
        """Wavevectors (q, axes), one of each pair k and -k, by their length."""
        every = product(range(-self.modes, self.modes + 1), repeat=axes)
        half = [k for k in every if k > (0,) * axes and sum(c * c for c in k) <= self.modes**2]
        return np.array(sorted(half, key=lambda k: (sum(c * c for c in k), k)))

    def deviations(self, axes: int) -> np.ndarray:
        """The standard deviations s_k (q,) of the coefficients."""
        squares = (2 * math.pi) ** 2 * (self.waves(axes) ** 2).sum(1)
        spectrum = (2 * self.smoothness / self.length**2 + squares) ** -(self.smoothness + axes / 2)
        return self.size * np.sqrt(spectrum / spectrum.sum())

    def draw(self, n: int, axes: int, rng: np.random.Generator) -> np.ndarray:
        """Coefficients (n, 2 q) of n fields: those of the cosines, then those of the sines.

        The first fields of a larger n are those of a smaller one.
        """
        deviations = self.deviations(axes)
        return rng.standard_normal((n, 2 * len(deviations))) * np.tile(deviations, 2)

    def values(self, coefficients: np.ndarray, axes: int, *, points: int) -> np.ndarray:
        """The fields (n, points) or (n, points, points) of coefficients (n, 2 q), at multiples of 1 / points.

        Errors: ValueError for another number of coefficients than these waves have.
        """
        waves = self.waves(axes)
        if coefficients.ndim != 2 or coefficients.shape[1] != 2 * len(waves):
            shape, need = coefficients.shape, 2 * len(waves)
            raise ValueError(f"need coefficients (n, {need}) for waves up to {self.modes}, got {shape}")
        grid = np.stack(np.meshgrid(*[np.arange(points) / points] * axes, indexing="ij")).reshape(axes, -1)
        phases = 2 * math.pi * waves @ grid
        fields = coefficients @ np.concatenate([np.cos(phases), np.sin(phases)])
        return fields.reshape(-1, *[points] * axes)


@dataclass(frozen=True)
class Flow(ABC):
    """An equation on the unit torus, and how it is solved; see `Burgers` and `NavierStokes`.

    viscosity : v, in squared lengths of the torus a unit of time.
    time : how long the field flows.
    points : of the grid along each axis; wavenumbers below a third of it are kept.
    steps : of equal length.

    Errors: ValueError for numbers that are not positive, or fewer than 8 points.
    """

    viscosity: float
    time: float
    points: int
    steps: int
    axes: ClassVar[int]

    def __post_init__(self) -> None:
        _require_positive(time=self.time, steps=self.steps)
        if not (self.viscosity >= 0 and math.isfinite(self.viscosity)):
            raise ValueError(f"viscosity must be finite and not negative, got {self.viscosity}; 0.02 is usual")
        if self.points < 8 or self.points % 2:
            raise ValueError(f"points must be an even number of at least 8, got {self.points}; 64 is usual")

    def solve(self, initial: np.ndarray) -> np.ndarray:
        """The fields at the end, from those at the start, each (n, points) or (n, points, points).

        Errors: ValueError for fields of another shape or that are not finite, that are finer than the grid
            at their start or end, or that move more than a cell in a step.
        """
        shape = (self.points,) * self.axes
        if initial.ndim != self.axes + 1 or initial.shape[1:] != shape:
            raise ValueError(f"need fields (n, {', '.join(map(str, shape))}), got {initial.shape}")
        if not np.isfinite(initial).all():
            raise ValueError(f"{(~np.isfinite(initial)).sum()} values of the fields at the start are not finite")
        blocks = torch.as_tensor(initial, dtype=torch.float64).split(max(1, BLOCK // self.points**self.axes))
        return torch.cat([self._solved(block) for block in blocks]).numpy()

    def _solved(self, initial: Tensor) -> Tensor:
        spectrum = torch.fft.rfftn(initial, dim=self._dim)
        self._require_resolved(spectrum, "at the start")
        end = _marched(spectrum * self._kept, -self.viscosity * self._squares, self.rate, self.time, self.steps)
        if not bool(torch.view_as_real(end).isfinite().all()):
            raise ValueError(f"the flow is not finite after {self.steps} steps; take {4 * self.steps}")
        self._require_resolved(end, "at the end")
        return self._inverse(end)

    @abstractmethod
    def rate(self, spectrum: Tensor) -> Tensor:
        """The rate of change of spectra (n, ...), as `rfftn` has them, but for what viscosity does."""

    @abstractmethod
    def speed(self, spectrum: Tensor) -> Tensor:
        """The largest component of the velocity of all fields."""

    def _require_resolved(self, spectrum: Tensor, when: str) -> None:
        weight = torch.full((self.points // 2 + 1,), 2.0, dtype=torch.float64)  # k and -k,
        weight[0] = 1.0  # but for the constant along the last axis; the highest is not kept
        squares = weight * spectrum.abs().square()
        high = self._wave.abs().amax(0) > TAIL * self.points / 3
        total = squares.flatten(1).sum(1)
        share = (squares * high).flatten(1).sum(1) / torch.where(total > 0, total, 1.0)
        if bool((share > SHARE).any()):
            raise ValueError(
                f"{int((share > SHARE).sum())} of {len(share)} fields are finer {when} than {self.points} points "
                f"show, with {share.max():.1e} of their squares in the highest waves; take more points or viscosity"
            )
        cells = float(self.speed(spectrum)) * self.points * self.time / self.steps
        if cells > COURANT:
            need = math.ceil(self.steps * cells / COURANT)
            raise ValueError(f"fields move {cells:.2g} cells a step {when}; take at least {need} steps")

    def _forward(self, values: Tensor) -> Tensor:
        return torch.fft.rfftn(values, dim=self._dim) * self._kept

    def _inverse(self, spectrum: Tensor) -> Tensor:
        return torch.fft.irfftn(spectrum, s=(self.points,) * self.axes, dim=self._dim)

    @property
    def _dim(self) -> tuple[int, ...]:
        return tuple(range(-self.axes, 0))

    @cached_property
    def _wave(self) -> Tensor:
        """The wavenumbers (axes, ...) of a spectrum."""
        full = torch.fft.fftfreq(self.points, 1 / self.points, dtype=torch.float64)
        half = torch.fft.rfftfreq(self.points, 1 / self.points, dtype=torch.float64)
        return torch.stack(torch.meshgrid(*[full] * (self.axes - 1), half, indexing="ij"))

    @cached_property
    def _slope(self) -> Tensor:
        """What the derivatives along each axis multiply a spectrum by."""
        return 2j * math.pi * self._wave

    @cached_property
    def _squares(self) -> Tensor:
        return (2 * math.pi * self._wave).square().sum(0)

    @cached_property
    def _kept(self) -> Tensor:
        return (self._wave.abs().amax(0) < self.points / 3).double()


@dataclass(frozen=True)
class Burgers(Flow):
    """Viscous Burgers on a periodic line, whose crests become fronts.

    >>> x = np.arange(64) / 64
    >>> end = Burgers(points=64).solve(np.sin(2 * np.pi * x)[None])
    >>> round(float(end.max()), 3)
    0.735
    """

    viscosity: float = 0.02
    time: float = 0.3
    points: int = 128
    steps: int = 200
    axes: ClassVar[int] = 1

    def rate(self, spectrum: Tensor) -> Tensor:
        return -0.5 * self._slope[0] * self._forward(self._inverse(spectrum).square())

    def speed(self, spectrum: Tensor) -> Tensor:
        return self._inverse(spectrum).abs().max()


@dataclass(frozen=True)
class NavierStokes(Flow):
    """The vorticity of an incompressible flow on a periodic square.

    forcing : a, the strength of a steady force along the diagonal.

    >>> x, y = np.meshgrid(*[np.arange(16) / 16] * 2, indexing="ij")
    >>> start = np.cos(2 * np.pi * x) + np.cos(2 * np.pi * y)  # a Taylor-Green vortex, which only decays
    >>> end = NavierStokes(viscosity=0.01, time=1.0, points=16, forcing=0.0).solve(start[None])
    >>> round(float(end[0, 0, 0]) / 2, 4), round(math.exp(-0.01 * 4 * math.pi**2), 4)
    (0.6738, 0.6738)
    """

    viscosity: float = 0.002
    time: float = 1.0
    points: int = 32
    steps: int = 100
    forcing: float = 0.1
    axes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.forcing):
            raise ValueError(f"forcing must be finite, got {self.forcing}; 0 is none")

    def rate(self, spectrum: Tensor) -> Tensor:
        vorticity = self._inverse(spectrum)
        u, v = self._velocity(spectrum)
        along, across = self._slope
        return self._force - along * self._forward(u * vorticity) - across * self._forward(v * vorticity)

    def speed(self, spectrum: Tensor) -> Tensor:
        return torch.stack(self._velocity(spectrum)).abs().max()

    def _velocity(self, spectrum: Tensor) -> tuple[Tensor, Tensor]:
        stream = spectrum * self._inverse_squares
        along, across = self._slope
        return self._inverse(across * stream), self._inverse(-along * stream)

    @cached_property
    def _inverse_squares(self) -> Tensor:
        return torch.where(self._squares > 0, 1 / self._squares, 0.0)

    @cached_property
    def _force(self) -> Tensor:
        place = torch.arange(self.points, dtype=torch.float64) / self.points
        phase = 2 * math.pi * (place[:, None] + place)
        return self._forward(self.forcing * (phase.sin() + phase.cos()))


def flow_sample(
    flow: Flow, law: PeriodicField, n: int, rng: np.random.Generator, *, sensors: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """X (n, 2 q), the coefficients of random fields, and Y (n, sensors ** axes), what they become on a coarse grid.

    Errors: ValueError for fewer rows than one, sensors that do not divide the points, or a grid that does
        not keep the waves of the law; and those of `Flow.solve`.

    >>> X, Y = flow_sample(Burgers(), PeriodicField(modes=3), 5, np.random.default_rng(0), sensors=8)
    >>> X.shape, Y.shape
    ((5, 6), (5, 8))
    """
    if n < 1:
        raise ValueError(f"a sample needs at least 1 row, got {n}")
    if sensors < 1 or flow.points % sensors:
        raise ValueError(f"sensors must divide the {flow.points} points of the grid, got {sensors}")
    if 3 * law.modes >= flow.points:
        raise ValueError(f"{flow.points} points do not keep waves up to {law.modes}; take {3 * law.modes + 2} or more")
    X = law.draw(n, flow.axes, rng)
    end = flow.solve(law.values(X, flow.axes, points=flow.points))
    every = flow.points // sensors
    coarse = end[(slice(None), *[slice(None, None, every)] * flow.axes)]
    return X, coarse.reshape(n, -1)


def _marched(spectrum: Tensor, linear: Tensor, rate: Callable[[Tensor], Tensor], time: float, steps: int) -> Tensor:
    """y at `time`, where y' = linear y + rate(y), by equal steps of Cox and Matthews' scheme."""
    h = time / steps
    whole, half = (h * linear).exp(), (h * linear / 2).exp()
    z = h * linear[..., None] + torch.exp(1j * math.pi * (torch.arange(CONTOUR) + 0.5) / CONTOUR)
    e = z.exp()
    q, first, middle, last = (
        h * f.real.mean(-1)
        for f in (
            ((z / 2).exp() - 1) / z,
            (-4 - z + e * (4 - 3 * z + z**2)) / z**3,
            (2 + z + e * (z - 2)) / z**3,
            (-4 - 3 * z - z**2 + e * (4 - z)) / z**3,
        )
    )
    for _ in range(steps):
        begin = rate(spectrum)
        a = half * spectrum + q * begin
        at_a = rate(a)
        at_b = rate(half * spectrum + q * at_a)
        at_c = rate(half * a + q * (2 * at_b - begin))
        spectrum = whole * spectrum + first * begin + 2 * middle * (at_a + at_b) + last * at_c
    return spectrum


def _require_positive(**numbers: float) -> None:
    for name, value in numbers.items():
        whole = name in ("modes", "steps")
        if not (value > 0 and math.isfinite(value)) or (whole and value != int(value)):
            kind = "a whole number of at least 1" if whole else "positive and finite"
            raise ValueError(f"{name} must be {kind}, got {value}")
