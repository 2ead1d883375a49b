"""Normal scores are right far out, invert each other and can be differentiated."""

import math

import mpmath
import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.mixing import InverseGamma
from kernelfield.core.posterior import Draws, Elliptical
from kernelfield.uq.recalibration.normal_scores import at_normal_score, below, normal_score
from kernelfield.uq.recalibration.stretched import Stretched
from tests.uq.recalibration.laws_of_families import FAMILIES, law_of


@pytest.mark.parametrize("name", FAMILIES)
def test_a_normal_score_has_the_level_of_its_value(name):
    law = law_of(name)
    y = law.mean + torch.randn_like(law.mean) * law.variance.sqrt()
    assert_close(below(normal_score(law, y)), law.cdf(y), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("t", [-5.0, -0.3, 0.0, 1.7, 5.0])
def test_the_value_at_a_normal_score_has_that_score(name, t):
    law = law_of(name)
    scores = torch.full_like(law.mean, t)
    assert_close(normal_score(law, at_normal_score(law, scores)), scores, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_far_tails_of_a_student_t_are_those_of_mpmath(sign):
    """P(T > x) of three degrees of freedom in closed form, at 1e6 scales: a level of 1e-18."""
    law, x = Elliptical(torch.zeros(1, 1), torch.eye(1), InverseGamma.student(3.0)), mpmath.mpf(10) ** 6
    with mpmath.workdps(40):
        u = x / mpmath.sqrt(3)
        tail = mpmath.mpf(1) / 2 - (u / (1 + u**2) + mpmath.atan(u)) / mpmath.pi
        score = -mpmath.sqrt(2) * mpmath.erfinv(2 * tail - 1)
    found = normal_score(law, torch.tensor([[sign * 1e6]]))
    assert found.item() == pytest.approx(sign * float(score), rel=1e-9)
    assert at_normal_score(law, found).item() == pytest.approx(sign * 1e6, rel=1e-6)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_far_tails_of_a_mixture_are_those_of_its_widest_member(sign):
    law = Draws(torch.zeros(2, 1, 1), torch.tensor([0.75, 0.25]), torch.tensor([1.0, 4.0]).view(2, 1, 1))
    with mpmath.workdps(40):
        tail = 0.75 * mpmath.ncdf(-20) + 0.25 * mpmath.ncdf(-10)
        score = mpmath.sqrt(2) * mpmath.erfinv(1 - 2 * tail)
    assert normal_score(law, torch.tensor([[sign * 20.0]])).item() == pytest.approx(sign * float(score), rel=1e-12)


def test_scores_beyond_all_doubles_stay_finite_and_in_order():
    law = Draws(torch.tensor([0.0, 1.0]).view(2, 1, 1), torch.full((2,), 0.5), torch.tensor(1e-4))
    assert_close(normal_score(law, torch.tensor([[1e3]])), torch.tensor([[37.0]]))
    assert_close(normal_score(law, torch.tensor([[-1e3]])), torch.tensor([[-37.0]]))


def test_values_of_a_mixture_have_the_derivative_of_the_implicit_function():
    weights, t = torch.tensor([0.6, 0.4]), torch.randn(4, 2)
    values, noise = torch.randn(2, 4, 2).requires_grad_(), (0.5 + torch.rand(2, 4, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, s: at_normal_score(Draws(v, weights, s), t), (values, noise))
    t = t.requires_grad_()
    law = Draws(values.detach(), weights, noise.detach())
    assert torch.autograd.gradcheck(lambda t: at_normal_score(law, t), (t,))


def test_a_wrapped_law_keeps_far_scores():
    law = Stretched(law_of("gaussian"), torch.tensor([2.0, 3.0]), torch.zeros(2))
    y = at_normal_score(law, torch.full_like(law.mean, 30.0))
    assert_close(normal_score(law, y), torch.full_like(y, 30.0))


def test_the_normal_distribution_function_keeps_its_figures_at_minus_thirty():
    assert below(torch.tensor(-30.0)).item() == pytest.approx(float(mpmath.ncdf(-30)), rel=1e-13)
    assert math.isclose(below(torch.tensor(0.0)).item(), 0.5)
