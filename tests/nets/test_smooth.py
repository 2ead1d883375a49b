"""What is particular to single closed forms; their duals are checked in test_activation."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets.activation import Pair, Smooth
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.smooth import Cos, Erf, Exp, ExpNormalized, Gaussian, Rbf, SigmoidLike, Sin
from kernelfield.nets.state import CovState, Side


def test_rbf_is_the_squared_exponential_kernel():
    x = torch.randn(4, 3)
    K = gram(Dense() >> Rbf(0.7) >> Dense(), Points(x))
    assert_close(K, torch.exp(-0.7 * torch.cdist(x, x).square() / 3))


def test_rbf_and_exp_are_known_moments_of_a_normal():
    x = torch.randn(4, 3)
    K, T = (gram(Dense() >> Exp(1.3, 0.6) >> Dense(), Points(x), kind=kind) for kind in ("nngp", "ntk"))
    q = x @ x.mT / 3
    p = q.diagonal()
    wanted = 1.3**2 * torch.exp(0.6**2 * ((p[:, None] + p) / 2 + q))
    assert_close(K, wanted)
    assert_close(T, wanted + q * 0.6**2 * wanted)


def test_exp_normalized_is_its_formula():
    x = torch.randn(4, 3)
    K, T = (gram(Dense() >> ExpNormalized(1.2, -0.5) >> Dense(), Points(x), kind=kind) for kind in ("nngp", "ntk"))
    q = x @ x.mT / 3
    size = (q.diagonal()[:, None] * q.diagonal()).sqrt()
    factor = torch.exp(1.2 * (q / size - 0.5))
    assert_close(K, size * factor)
    assert_close(T, size * factor + q * 1.2 * factor)


def test_a_kernel_without_a_function_has_no_network():
    with pytest.raises(NotImplementedError, match="use Exp or Rbf"):
        (Dense() >> ExpNormalized()).module(2, 8, 1)


def test_a_gaussian_that_grows_too_fast_is_refused():
    with pytest.raises(ValueError, match=r"b = 0\.3 .* as large as 4: .* below 1"):
        gram(Dense() >> Gaussian(1, 0.3) >> Dense(), Points(2 * torch.ones(1, 3)))


def test_cosine_is_the_sine_a_quarter_turn_ahead():
    x = Points(torch.randn(4, 3))
    for kind in ("nngp", "ntk"):
        ahead = gram(Dense(1.1, 0.2) >> Sin(1.2, 0.7, 0.3 + math.pi / 2) >> Dense(), x, kind=kind)
        assert_close(gram(Dense(1.1, 0.2) >> Cos(1.2, 0.7, 0.3) >> Dense(), x, kind=kind), ahead)


@pytest.mark.parametrize("activation", [Erf(), Sin()], ids=str)
def test_odd_functions_have_opposite_outputs_at_opposite_inputs(activation):
    x = torch.randn(1, 3)
    K = gram(Dense(1.3) >> activation >> Dense() >> activation >> Dense(), Points(torch.cat([x, -x])))
    assert K[0, 1] == -K[0, 0]


def test_large_waves_do_not_overflow():
    x = Points(40 * torch.randn(4, 3))
    for activation in (Sin(), Cos(), Sin(1, 3, 1)):
        K = gram(Dense() >> activation >> Dense(), x)
        assert_close(K.diagonal(), torch.full((4,), 0.5), rtol=1e-6, atol=0)


def test_scales_are_positive_floats():
    assert (Erf() >> Sin(1.5, 0.5, 0.25) >> SigmoidLike() >> Rbf(2.0)).scales() == [1.5, 0.5, 0.25, 2.0]
    assert Gaussian(1.3, -0.5).scales() == [1.3]


SIDES = {"pairs": ((3, 1), (1, 4), (3, 4)), "in batches": ((2, 3, 1), (2, 1, 4), (2, 3, 4)), "paired": ((5, 1),) * 3}


@pytest.mark.parametrize("shapes", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_arc_of_an_error_function_and_its_slopes_are_those_of_its_dual(shapes, size):
    draw = torch.Generator().manual_seed(0)
    std1, std2, e = (0.05 + 0.9 * torch.rand(shape, generator=draw) for shape in shapes)
    leaves = [t.requires_grad_() for t in (size * std1, size * std2, e, torch.tensor(1.3), torch.tensor(0.7))]
    pull, found = torch.randn(shapes[2], generator=draw), []
    for rule in (Erf.rule, Smooth.rule):
        after = rule(Erf(*leaves[3:]), CovState(leaves[2], None, Side(leaves[0]), Side(leaves[1])))
        total = (after.haversine * pull).sum() + after.std1.sum() + 2 * after.std2.sum()
        found.append((after.haversine, after.std1, after.std2, *torch.autograd.grad(total, leaves)))
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs, rtol=1e-8, atol=1e-8 * theirs.abs().max().item())


def test_an_error_function_of_near_points_keeps_their_digits():
    std = torch.full((1, 1), 0.8)
    for e in (0.0, 1e-25, 1e-12, 1e-8):
        after = Erf().rule(CovState(torch.full_like(std, e), None, Side(std), Side(std)))
        slope = Erf().slope(Pair(0 * std, std, std)) * std**2 / Erf().variance(std)
        assert_close(after.haversine, e * slope, rtol=1e-7, atol=0)


@pytest.mark.parametrize("activation", [Erf(b=0.0), Erf(a=0.0), Erf()], ids=str)
def test_an_error_function_that_is_switched_off_or_sees_nothing_is_nothing(activation):
    x = torch.ones(2, 3) if activation != Erf() else torch.zeros(2, 3)
    assert_close(gram(Dense() >> activation >> Dense(), Points(x)), torch.zeros(2, 2))
