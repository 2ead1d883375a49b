"""Signals through many equal layers: fixed points, order and chaos, and depth scales.

A block that is repeated, such as phi >> Dense(w, b), maps the variance q of its inputs to V(q)
and, at a fixed point q* = V(q*), their correlation c to C(c), with the slope

    C'(c) = w^2 E[phi'(u) phi'(v)],    chi = C'(1) = w^2 E[phi'(sqrt(q*) z)^2].

Inputs forget their distance if chi < 1 (order) and their likeness if chi > 1 (chaos); at the edge,
chi = 1, signals and gradients pass through any number of layers. Deviations from the fixed points
fall as exp(-depth / xi), with 1 / xi_q = -log V'(q*) and 1 / xi_c = -log C'(c*). The slopes C' are
those by which a block multiplies the NTK of its inputs, so any block of layers has them.

Sources: Poole et al. (2016), "Exponential expressivity in deep neural networks through transient
chaos", eq. (3)-(7); Schoenholz et al. (2017), "Deep information propagation", eq. (5), (9)-(12).
"""

import math
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

from kernelfield.nets.activation import Activation
from kernelfield.nets.algebra import Layer, Repeat, Residual, Scale
from kernelfield.nets.state import CovState, Side

TINY = 1e-16  # the variance at which limits at zero are taken
HUGE = 1e16  # a variance that grows beyond it is taken to grow for ever
LASTS = 1e-10  # a slope this near to one is one: slopes of variances are differences
EDGE = 1e-6  # chi this near to one is the edge of chaos


@dataclass(frozen=True)
class Criticality:
    """What becomes of signals in an infinitely deep network.

    variance: q* of the block's outputs. correlation: c* of two inputs. chi: C'(1) at q*.
    variance_slope: V'(q*). correlation_slope: C'(c*).
    """

    variance: float
    correlation: float
    chi: float
    variance_slope: float
    correlation_slope: float

    @property
    def phase(self) -> str:
        """ordered, critical or chaotic."""
        if abs(self.chi - 1) <= EDGE:
            return "critical"
        return "ordered" if self.chi < 1 else "chaotic"

    @property
    def variance_depth(self) -> float:
        """xi_q, in blocks; infinite where deviations last."""
        return _depth(self.variance_slope)

    @property
    def correlation_depth(self) -> float:
        """xi_c, in blocks; infinite at the edge of chaos."""
        return _depth(self.correlation_slope)


def criticality(block: Layer, *, start: float = 1.0) -> Criticality:
    """The fixed points of a block that is repeated, reached from inputs of the variance `start`.

    block: from Gaussian to Gaussian, as in Tanh() >> Dense(1.5, 0.2); its q* is that of the
    activation's inputs.

    Errors: ValueError for a block that does not end in a Gaussian layer, and where the variance
        grows without bound.
    """
    if not block.gaussian(True):
        raise ValueError(f"a block that repeats must end in Dense or another Gaussian layer, got {block}")
    q = _fixed_variance(block, start)
    chi = _slope(block, q, 0.0)
    e = 0.0 if chi <= 1 + EDGE else _fixed_haversine(block, q)
    return Criticality(q, 1 - 2 * e, chi, _variance_slope(block, q), _slope(block, q, e) if e else chi)


def edge_of_chaos(activation: Activation, b: float = 0.0) -> float:
    """The w for which activation >> Dense(w, b) is critical.

    At a fixed point w^2 = (q - b^2) / E[phi^2], so that chi is a function of q alone; for b = 0 it
    is the limit of small q, 1 / |phi'(0)| of a smooth phi.

    Errors: ValueError where no such w exists, as for ReLU with a bias.
    """
    if b == 0:
        square, slope = _moments(activation, TINY)
        if not abs(TINY * slope / square - 1) < EDGE:
            raise ValueError(f"{activation} has no edge of chaos without bias: it is not zero at zero; give a b > 0")
        return math.sqrt(TINY / square)

    def excess(log_q: float) -> float:
        square, slope = _moments(activation, math.exp(log_q))
        return (math.exp(log_q) - b**2) * slope / square - 1

    low = 2 * math.log(b)
    grid = [low + step / 4 for step in range(1, 80)]
    above = next((log_q for log_q in grid if excess(log_q) > 0), None)
    if above is None:
        raise ValueError(f"{activation} has no edge of chaos at b={b}: chi stays below one for every w")
    log_q = brentq(excess, low, above, xtol=1e-14, rtol=1e-14)
    return math.sqrt((math.exp(log_q) - b**2) / _moments(activation, math.exp(log_q))[0])


def deep_residual(block: Layer, depth: int) -> Repeat:
    """`depth` residual blocks with branches divided by the root of the depth.

    Variances stay bounded as the depth grows: a branch that multiplies them by g gives a factor
    (1 + g / depth)^depth <= exp(g), and (1 + g)^depth if it is not divided.

    Errors: ValueError for a depth below one.

    Source: Hayou et al. (2021), "Stable ResNet", section 3.
    """
    if depth < 1:
        raise ValueError(f"a residual network needs one block or more, got depth={depth}")
    return Repeat(Residual(block >> Scale(depth**-0.5)), depth)


def _depth(slope: float) -> float:
    if slope <= 0:
        return 0.0
    return -1 / math.log(slope) if slope < 1 - LASTS else math.inf


def _state(q: float, e: float, tangent: float) -> CovState:
    value = torch.full((1, 1), math.sqrt(q), dtype=torch.float64)
    side = Side(value)
    return CovState(torch.full_like(value, e), torch.full_like(value, tangent), side, side, width=1)


def _variance(layer: Layer, q: float) -> float:
    return layer.propagate(_state(q, 0.0, 0.0)).std1.square().item()


def _slope(layer: Layer, q: float, e: float) -> float:
    """C'(1 - 2 e) at the variance q, by what the layer multiplies an NTK with."""
    one, none = (_tangent(layer.propagate(_state(max(q, TINY), e, t))) for t in (1.0, 0.0))
    return one - none


def _tangent(state: CovState) -> float:
    assert isinstance(state.tangent, Tensor)
    return state.tangent.item()


def _moments(activation: Activation, q: float) -> tuple[float, float]:
    """E[phi^2] and E[phi'^2] at the variance q."""
    return _variance(activation, q), _slope(activation, q, 0.0)


def _fixed_variance(block: Layer, start: float) -> float:
    """The fixed point that V leads to from the variance `start`; zero if it is below TINY."""

    def growth(q: float) -> float:
        return _variance(block, q) / q - 1

    if abs(growth(start)) < 1e-14:
        return start
    factor, end = (4.0, start) if growth(start) > 0 else (0.25, start)
    while TINY < end < HUGE:
        before, end = end, end * factor
        if growth(end) * growth(before) <= 0:
            return brentq(growth, min(before, end), max(before, end), xtol=1e-300, rtol=1e-14)
    if end >= HUGE:
        raise ValueError(f"the variance of {block} grows without bound: make its weights smaller")
    return 0.0


def _fixed_haversine(block: Layer, q: float) -> float:
    """The stable fixed point of the haversine, away from zero."""

    def growth(e: float) -> float:
        return block.propagate(_state(q, e, 0.0)).haversine.item() - e

    low, high = 1e-9, 1 - 1e-9
    if growth(low) <= 0:
        return 0.0
    return brentq(growth, low, high, xtol=1e-15, rtol=1e-14) if growth(high) < 0 else 1.0


def _variance_slope(block: Layer, q: float) -> float:
    """V'(q), by a difference of fourth order."""
    step = 1e-3
    q = max(q, TINY)
    near, far = (
        (_variance(block, q * (1 + k * step)) - _variance(block, q * (1 - k * step))) / (2 * k * step * q)
        for k in (1, 2)
    )
    return (4 * near - far) / 3
