"""What is particular to single closed forms; their duals are checked in test_activation."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.smooth import Cos, Erf, Exp, ExpNormalized, Gaussian, Rbf, SigmoidLike, Sin


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
