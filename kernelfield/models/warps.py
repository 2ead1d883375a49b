"""Monotone maps of targets, from the whole line onto the whole line, and the spaces they are sought in.

Yeo-Johnson with a power p in [0, 2], a centre and a unit: with u = (y - centre) / unit,

    g(u) = sign(u) q(|u|),    q(v) = ((1 + v)^e - 1) / e,    e = p for u >= 0 and 2 - p below,

with log(1 + v) at e = 0. Other powers would leave a part of the line without a preimage, to which
a Gaussian gives mass. The rational-quadratic spline has knots (x_i, z_i) and slopes d_i > 0;
between two knots, with s their secant and t in [0, 1] the place,

    g = z_i + (z_{i+1} - z_i) (s t^2 + d_i t (1 - t)) / (s + (d_i + d_{i+1} - 2 s) t (1 - t)),

and it goes on as a line beyond the last ones. All maps are standardised on the data that chose
them. Shapes: y and z (*s, n, m), parameters one row or number for each of m outputs.

Sources: Yeo & Johnson (2000), "A New Family of Power Transformations", section 3; Durkan, Bekasov,
Murray & Papamakarios (2019), "Neural Spline Flows", eq. (4)-(8).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PIECES = 8  # of a spline
BEND = 0.5  # prior std of the change in log slope from a knot to the middle of a piece
REACH = 10.0  # of log slopes of a spline about that of the identity
UNITS = (1e-3, 1e2)  # of a Yeo-Johnson map, in standard deviations of the targets
TAYLOR = 1e-4  # below it two more terms of a series are exact


class Warp(ABC):
    """An increasing map g from targets y to process values z."""

    @abstractmethod
    def forward(self, y: Tensor) -> Tensor:
        """z = g(y)."""

    @abstractmethod
    def inverse(self, z: Tensor) -> Tensor:
        """y = g^-1(z)."""

    @abstractmethod
    def log_slope(self, y: Tensor) -> Tensor:
        """log g'(y)."""


class Space(ABC):
    """A family of warps of given targets Y (n, m), over a vector of p numbers, standardised on Y."""

    def __init__(self, Y: Tensor) -> None:
        self.Y = Y
        spread = Y.std(0, correction=0)
        self.mean, self.spread = Y.mean(0), torch.where(spread > 0, spread, 1.0)

    @abstractmethod
    def starts(self) -> list[np.ndarray]:
        """Where searches begin; the first is the identity, up to its scale."""

    @abstractmethod
    def bounds(self) -> list[tuple[float, float]]:
        """The box of the vector."""

    @abstractmethod
    def warp(self, theta: Tensor) -> Warp:
        """The warp at a vector (p,), differentiable."""

    @abstractmethod
    def log_prior(self, theta: Tensor) -> Tensor:
        """What keeps the warp from following single targets, in nats."""


@dataclass(frozen=True, eq=False)
class YeoJohnson(Warp):
    """(g((y - centre) / unit) - offset) / size; every field is of shape (m,).

    Errors: ValueError for a power outside [0, 2] or a unit or size that is not positive.

    >>> one = torch.ones(1, dtype=torch.double)
    >>> warp = YeoJohnson(0 * one, 0 * one, one, 0 * one, one)
    >>> round(warp.forward(2 * one).item(), 4)  # log(3)
    1.0986
    """

    power: Tensor
    centre: Tensor
    unit: Tensor
    offset: Tensor
    size: Tensor

    def __post_init__(self) -> None:
        if not ((self.power >= 0) & (self.power <= 2)).all():
            raise ValueError(f"the power of a Yeo-Johnson map must be in [0, 2], got {self.power.tolist()}")
        for name in ("unit", "size"):
            if not (getattr(self, name) > 0).all():
                raise ValueError(f"{name} of a Yeo-Johnson map must be positive, got {getattr(self, name).tolist()}")

    def forward(self, y: Tensor) -> Tensor:
        u = (y - self.centre) / self.unit
        # Not by sign and abs, which have no slope at zero.
        length = torch.where(u >= 0, u.clamp_min(0).log1p(), -(-u).clamp_min(0).log1p())
        return (length * _expm1_ratio(self._exponent(u) * length.abs()) - self.offset) / self.size

    def inverse(self, z: Tensor) -> Tensor:
        g = z * self.size + self.offset
        length = g.abs() * _log1p_ratio(self._exponent(g) * g.abs())
        return self.centre + self.unit * g.sign() * length.expm1()

    def log_slope(self, y: Tensor) -> Tensor:
        u = (y - self.centre) / self.unit
        return (self._exponent(u) - 1) * u.abs().log1p() - (self.unit * self.size).log()

    def _exponent(self, u: Tensor) -> Tensor:
        return torch.where(u >= 0, self.power, 2 - self.power)


def _expm1_ratio(v: Tensor) -> Tensor:
    """(e^v - 1) / v, and its limit."""
    safe = torch.where(v.abs() < TAYLOR, 1.0, v)
    return torch.where(v.abs() < TAYLOR, 1 + v / 2 * (1 + v / 3 * (1 + v / 4)), safe.expm1() / safe)


def _log1p_ratio(w: Tensor) -> Tensor:
    """log(1 + w) / w, and its limit."""
    safe = torch.where(w.abs() < TAYLOR, 1.0, w)
    return torch.where(w.abs() < TAYLOR, 1 - w * (1 / 2 - w * (1 / 3 - w / 4)), safe.log1p() / safe)


class YeoJohnsons(Space):
    """Power, centre and log unit of each output, in standard deviations of the targets."""

    def starts(self) -> list[np.ndarray]:
        low, high = (end.cpu().double().numpy() for end in self._ends())
        one = np.ones_like(low)
        ends = [(one, 0 * one, 0 * one), (0 * one, low, np.log(0.3) * one), (2 * one, high, np.log(0.3) * one)]
        return [np.concatenate(parts) for parts in ends]

    def bounds(self) -> list[tuple[float, float]]:
        low, high = (end.tolist() for end in self._ends())
        centres = [(a - 3.0, b + 3.0) for a, b in zip(low, high, strict=True)]
        return [*[(0.0, 2.0)] * len(low), *centres, *[(np.log(UNITS[0]), np.log(UNITS[1]))] * len(low)]

    def _ends(self) -> tuple[Tensor, Tensor]:
        scaled = (self.Y - self.mean) / self.spread
        return scaled.amin(0), scaled.amax(0)

    def warp(self, theta: Tensor) -> YeoJohnson:
        power, centre, log_unit = theta.to(self.Y).unflatten(0, (3, -1))
        unit = log_unit.exp() * self.spread
        raw = YeoJohnson(power, self.mean + centre * self.spread, unit, torch.zeros_like(unit), torch.ones_like(unit))
        offset, size = _standard(raw.forward(self.Y))
        return YeoJohnson(raw.power, raw.centre, raw.unit, offset, size)

    def log_prior(self, theta: Tensor) -> Tensor:
        return torch.zeros(()).to(theta)


@dataclass(frozen=True, eq=False)
class Spline(Warp):
    """A rational-quadratic spline; every field is of shape (m, k + 1), increasing knots and values.

    Errors: ValueError where knots or values do not increase or a slope is not positive.

    >>> ends = torch.tensor([[0.0, 1.0]])
    >>> round(Spline(ends, ends, torch.tensor([[0.5, 0.5]])).forward(torch.tensor([[0.25]])).item(), 4)
    0.1923
    """

    knots: Tensor
    values: Tensor
    slopes: Tensor

    def __post_init__(self) -> None:
        for name in ("knots", "values"):
            if not (getattr(self, name).diff(dim=-1) > 0).all():
                raise ValueError(f"{name} of a spline must increase, got {getattr(self, name).tolist()}")
        if not (self.slopes > 0).all():
            raise ValueError(f"slopes of a spline must be positive, got {self.slopes.tolist()}")

    def forward(self, y: Tensor) -> Tensor:
        x0, width, z0, height, d0, d1 = self._piece(self.knots, y)
        secant, t = height / width, ((y - x0) / width).clamp(0, 1)
        mix = t * (1 - t)
        inside = z0 + height * (secant * t.square() + d0 * mix) / (secant + (d0 + d1 - 2 * secant) * mix)
        return inside + self._beyond(self.knots, y) * self._end_slope(self.knots, y)

    def inverse(self, z: Tensor) -> Tensor:
        x0, width, z0, height, d0, d1 = self._piece(self.values, z)
        secant, rise = height / width, (z - z0).clamp_min(0).minimum(height)
        bend = rise * (d0 + d1 - 2 * secant)
        a, b, c = height * (secant - d0) + bend, height * d0 - bend, -secant * rise
        t = 2 * c / (-b - (b.square() - 4 * a * c).clamp_min(0).sqrt())
        return x0 + t * width + self._beyond(self.values, z) / self._end_slope(self.values, z)

    def log_slope(self, y: Tensor) -> Tensor:
        x0, width, _, height, d0, d1 = self._piece(self.knots, y)
        secant, t = height / width, ((y - x0) / width).clamp(0, 1)
        mix = t * (1 - t)
        top = d1 * t.square() + 2 * secant * mix + d0 * (1 - t).square()
        return 2 * secant.log() + top.log() - 2 * (secant + (d0 + d1 - 2 * secant) * mix).log()

    def _piece(self, grid: Tensor, at: Tensor) -> tuple[Tensor, ...]:
        """The start and width in x, the same in z, and the slopes at both ends, of the piece of each place."""
        inner = grid[:, 1:-1].detach()
        index = (at.detach().unsqueeze(-1) >= inner).sum(-1, keepdim=True)

        def chosen(table: Tensor) -> Tensor:
            return table.expand(*at.shape, -1).gather(-1, index)[..., 0]

        x, z, d = self.knots, self.values, self.slopes
        columns = (x[:, :-1], x.diff(dim=-1), z[:, :-1], z.diff(dim=-1), d[:, :-1], d[:, 1:])
        return tuple(chosen(column) for column in columns)

    @staticmethod
    def _beyond(grid: Tensor, at: Tensor) -> Tensor:
        """How far a place lies outside of the knots, with its sign."""
        return (at - grid[:, -1]).clamp_min(0) - (grid[:, 0] - at).clamp_min(0)

    def _end_slope(self, grid: Tensor, at: Tensor) -> Tensor:
        return torch.where(at > grid[:, 0], self.slopes[:, -1], self.slopes[:, 0])


class Splines(Space):
    """Log slopes at the knots, and of the secants between them, in turn along the axis, for each output."""

    def __init__(self, Y: Tensor) -> None:
        super().__init__(Y)
        levels = torch.linspace(0, 1, PIECES + 1).to(Y)
        quantiles = torch.quantile(Y, levels, dim=0).mT
        low, high = quantiles[:, :1], quantiles[:, -1:]
        low, high = torch.where(high > low, low, low - 1), torch.where(high > low, high, high + 1)
        # Half way to even spacing, so that repeated targets do not repeat a knot.
        self.knots = (quantiles.clamp(low, high) + low + (high - low) * levels) / 2
        self.knots[:, :1], self.knots[:, -1:] = low, high

    def starts(self) -> list[np.ndarray]:
        return [np.zeros(self.knots.shape[0] * (2 * PIECES + 1))]

    def bounds(self) -> list[tuple[float, float]]:
        return [(-REACH, REACH)] * (self.knots.shape[0] * (2 * PIECES + 1))

    def warp(self, theta: Tensor) -> Spline:
        slopes = theta.to(self.Y).unflatten(0, (-1, 2 * PIECES + 1)).exp()
        rises = slopes[:, 1::2] * self.knots.diff(dim=-1)
        values = torch.cat([torch.zeros_like(rises[:, :1]), rises.cumsum(-1)], -1)
        raw = Spline(self.knots, values, slopes[:, 0::2])
        offset, size = (part[:, None] for part in _standard(raw.forward(self.Y)))
        return Spline(self.knots, (values - offset) / size, raw.slopes / size)

    def log_prior(self, theta: Tensor) -> Tensor:
        along = theta.unflatten(0, (-1, 2 * PIECES + 1))
        # The level of all slopes is that of the standardised values, so the prior alone holds it.
        return -0.5 * ((along.diff(dim=-1) / BEND).square().sum() + along.mean(-1).square().sum())


def _standard(Z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (m,), one where there is none."""
    variance = Z.var(0, correction=0)
    return Z.mean(0), torch.where(variance > 0, variance, 1.0).sqrt()
