"""Fixed points and depth scales, against closed forms, quadrature and deep propagation."""

import math

import pytest
import torch
from scipy import integrate, optimize, stats
from torch.testing import assert_close

from kernelfield.nets.algebra import Repeat, Residual
from kernelfield.nets.criticality import criticality, deep_residual, edge_of_chaos
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import diagonal, gram
from kernelfield.nets.points import Points
from kernelfield.nets.quadrature import Tanh
from kernelfield.nets.rectifiers import LeakyRelu, Relu
from kernelfield.nets.smooth import Cos, Erf


def mean(f) -> float:
    return integrate.quad(lambda z: f(z) * stats.norm.pdf(z), -10, 10, epsabs=1e-14, epsrel=1e-13)[0]


@pytest.mark.parametrize(("w", "b"), [(1.5, 0.2), (0.9, 0.5)])
def test_tanh_has_the_fixed_points_of_quadrature(w: float, b: float) -> None:
    def moved(q: float) -> float:
        return w**2 * mean(lambda z: math.tanh(math.sqrt(q) * z) ** 2) + b**2

    q = optimize.brentq(lambda q: moved(q) - q, 1e-3, 10, xtol=1e-14)
    chi = w**2 * mean(lambda z: (1 - math.tanh(math.sqrt(q) * z) ** 2) ** 2)
    found = criticality(Tanh() >> Dense(w, b))
    assert_close(found.variance, q, rtol=1e-9, atol=0)
    assert_close(found.chi, chi, rtol=1e-9, atol=0)
    assert_close(found.variance_slope, (moved(q + 1e-4) - moved(q - 1e-4)) / 2e-4, rtol=1e-6, atol=0)
    assert found.phase == ("chaotic" if chi > 1 else "ordered")


def test_erf_has_the_closed_forms() -> None:
    """q = w^2 (2 / pi) asin(2 q / (1 + 2 q)) + b^2 and chi = w^2 (4 / pi) / sqrt(1 + 4 q)."""
    found = criticality(Erf() >> Dense(1.8, 0.1), start=3.0)
    q = found.variance
    assert_close(q, 1.8**2 * (2 / math.pi) * math.asin(2 * q / (1 + 2 * q)) + 0.01, rtol=1e-12, atol=0)
    assert_close(found.chi, 1.8**2 * (4 / math.pi) / math.sqrt(1 + 4 * q), rtol=1e-10, atol=0)


@pytest.mark.parametrize("block", [Erf() >> Dense(1.5, 0.2), Erf() >> Dense(0.9, 0.5), Relu() >> Dense(1.2, 0.3)])
def test_deep_networks_approach_the_fixed_points_at_the_depth_scales(block) -> None:
    found = criticality(block)
    x = torch.tensor([[1.0, 0.2], [-0.3, 0.9]])

    def deviation(depth: int) -> tuple[float, float]:
        K = gram(Dense(1.0) >> Repeat(block, depth), Points(x))
        correlation = K[0, 1] / (K[0, 0] * K[1, 1]).sqrt()
        return abs(K[0, 0].item() - found.variance), abs(correlation.item() - found.correlation)

    depth = 3 + round(3 * found.correlation_depth)
    (q1, c1), (q2, c2) = deviation(depth), deviation(depth + 1)
    assert abs(c2 / c1 - math.exp(-1 / found.correlation_depth)) < 0.03
    depth = 3 + round(3 * found.variance_depth)
    (q1, _), (q2, _) = deviation(depth), deviation(depth + 1)
    assert abs(q2 / q1 - math.exp(-1 / found.variance_depth)) < 0.03


def test_chaos_without_bias_makes_odd_networks_forget() -> None:
    found = criticality(Tanh() >> Dense(2.0))
    assert_close(found.correlation, 0.0, rtol=0, atol=1e-9)
    assert found.phase == "chaotic" and 0 < found.correlation_depth < math.inf


def test_the_signal_of_a_small_weight_vanishes() -> None:
    found = criticality(Tanh() >> Dense(0.8))
    assert found.variance == 0 and found.phase == "ordered"
    assert_close(found.chi, 0.64, rtol=1e-8, atol=0)
    assert_close(found.variance_slope, 0.64, rtol=1e-6, atol=0)


def test_relu_is_critical_at_the_weight_of_he_whatever_the_variance() -> None:
    for start in (0.1, 1.0, 7.0):
        found = criticality(Relu() >> Dense(2**0.5), start=start)
        assert (found.variance, found.phase) == (start, "critical")
        assert found.correlation_depth == found.variance_depth == math.inf
    assert_close(edge_of_chaos(Relu()), 2**0.5)
    assert_close(edge_of_chaos(LeakyRelu(0.5)), (2 / 1.25) ** 0.5)


@pytest.mark.parametrize("activation", [Erf(), Erf(0.7, 1.4)])
@pytest.mark.parametrize("b", [0.05, 0.2, 0.6])
def test_at_the_edge_of_chaos_chi_is_one(activation, b: float) -> None:
    w = edge_of_chaos(activation, b)
    found = criticality(activation >> Dense(w, b))
    assert abs(found.chi - 1) < 1e-8 and found.phase == "critical"
    assert criticality(activation >> Dense(1.05 * w, b)).phase == "chaotic"
    assert criticality(activation >> Dense(0.95 * w, b)).phase == "ordered"


def test_the_edge_without_bias_is_the_slope_at_zero() -> None:
    assert_close(edge_of_chaos(Tanh()), 1.0, rtol=1e-9, atol=0)
    assert_close(edge_of_chaos(Erf()), math.sqrt(math.pi) / 2, rtol=1e-9, atol=0)


def test_what_has_no_fixed_point_or_edge_is_named() -> None:
    with pytest.raises(ValueError, match="grows without bound"):
        criticality(Relu() >> Dense(1.6, 0.1))
    with pytest.raises(ValueError, match="must end in Dense"):
        criticality(Dense(1.0) >> Relu())
    with pytest.raises(ValueError, match="no edge of chaos at b=0.3"):
        edge_of_chaos(Relu(), 0.3)
    with pytest.raises(ValueError, match="not zero at zero"):
        edge_of_chaos(Cos())


def test_divided_residual_branches_keep_the_variance_at_any_depth() -> None:
    x, w = torch.tensor([[1.0, 0.5, -2.0]]), 1.3
    before = diagonal(Dense(1.0), Points(x)).item()
    block = Relu() >> Dense(w)
    for depth in (1, 10, 100, 1000):
        after = diagonal(Dense(1.0) >> deep_residual(block, depth), Points(x)).item()
        assert_close(after / before, (1 + w**2 / 2 / depth) ** depth)
        assert after / before < math.exp(w**2 / 2)
    undivided = diagonal(Dense(1.0) >> Repeat(Residual(block), 100), Points(x)).item()
    assert undivided > 1e20 * before
    with pytest.raises(ValueError, match="got depth=0"):
        deep_residual(block, 0)
