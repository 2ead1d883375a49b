"""Warps are increasing, invertible, and have the slopes they say; Yeo-Johnson is scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import PowerTransformer
from torch.testing import assert_close

from kernelfield.models.warps import Spline, Splines, YeoJohnson, YeoJohnsons

Y = torch.randn(40, 2).exp() * torch.tensor([1.0, -30.0]) + torch.tensor([0.0, 100.0])


def yeo_johnson(power):
    return YeoJohnson(*(torch.tensor([v]) for v in (power, 0.3, 0.7, -0.2, 1.9)))


def learned(space, seed):
    theta = torch.randn(len(space.starts()[0]), generator=torch.Generator().manual_seed(seed))
    low, high = torch.tensor(space.bounds()).T
    return space.warp(theta.clamp(low, high))


POWERS = (0.0, 1e-9, 0.4, 1.0, 1.7, 2.0 - 1e-9, 2.0)
WARPS = {f"yeo-johnson {power}": yeo_johnson(power) for power in POWERS}
WARPS |= {f"{s.__name__} {seed}": learned(s(Y[:, :1]), seed) for s in (YeoJohnsons, Splines) for seed in range(3)}


@pytest.fixture(params=WARPS.values(), ids=WARPS)
def warp(request):
    return request.param


PLACES = torch.cat([torch.linspace(-9, 9, 2001), torch.tensor([0.3, 0.3 + 1e-12, -200.0, 500.0])]).sort()[0][:, None]


def test_a_warp_increases_and_its_inverse_leads_back(warp):
    z = warp.forward(PLACES)
    assert (z.diff(dim=0) > 0).all()
    # An inverse cannot undo the rounding of z, which a slope s turns into eps |z| / s.
    slack = 8 * torch.finfo(z.dtype).eps * (z.abs() + 1) / warp.log_slope(PLACES).exp()
    assert ((warp.inverse(z) - PLACES).abs() <= 1e-12 * (1 + PLACES.abs()) + slack).all()


def test_the_slope_is_the_derivative(warp):
    y = PLACES.clone().requires_grad_()
    (slope,) = torch.autograd.grad(warp.forward(y).sum(), y)
    assert_close(warp.log_slope(PLACES), slope.log(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("power", [0.0, 0.6, 1.0, 2.0])
def test_yeo_johnson_is_that_of_scikit_learn(power):
    one = torch.ones(1)
    transformer = PowerTransformer(standardize=False).fit(np.random.default_rng(0).normal(size=(9, 1)))
    transformer.lambdas_ = np.array([power])
    ours = YeoJohnson(power * one, 0 * one, one, 0 * one, one).forward(PLACES)
    assert_close(ours, torch.tensor(transformer.transform(PLACES.numpy())), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("space", [YeoJohnsons, Splines])
def test_a_space_starts_at_the_identity_and_standardises(space):
    made = space(Y)
    z = made.warp(torch.from_numpy(made.starts()[0])).forward(Y)
    assert_close(z, (Y - Y.mean(0)) / Y.std(0, correction=0), rtol=1e-10, atol=1e-10)
    for seed in range(3):
        z = learned(made, seed).forward(Y)
        assert_close(z.mean(0), torch.zeros(2), rtol=0, atol=1e-10)
        assert_close(z.var(0, correction=0), torch.ones(2))


@pytest.mark.parametrize("space", [YeoJohnsons, Splines])
def test_warps_are_differentiable_in_their_parameters(space):
    made = space(Y[:9])
    theta = torch.from_numpy(made.starts()[-1]) - 0.1
    theta.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: made.warp(t).forward(Y[:9]), (theta,))
    assert torch.autograd.gradcheck(lambda t: made.warp(t).log_slope(Y[:9]), (theta,))


def test_a_spline_goes_on_as_a_line():
    spline = Spline(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([[0.5, 3.0]]))
    y = torch.tensor([[-4.0], [5.0]])
    assert_close(spline.forward(y), torch.tensor([[-2.0], [14.0]]))
    assert_close(spline.inverse(spline.forward(y)), y)


def test_repeated_targets_do_not_repeat_a_knot():
    Y = torch.tensor([0.0] * 30 + [1.0])[:, None].expand(-1, 2).clone()
    Y[:, 1] = 7.0
    assert (Splines(Y).knots.diff(dim=-1) > 0).all()


def test_parameters_that_are_none_are_refused():
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"power .* must be in \[0, 2\], got \[2.5\]"):
        YeoJohnson(2.5 * one, one, one, one, one)
    with pytest.raises(ValueError, match=r"unit .* must be positive, got \[-1.0\]"):
        YeoJohnson(one, one, -one, one, one)
    line = torch.tensor([[0.0, 1.0]])
    with pytest.raises(ValueError, match="values of a spline must increase"):
        Spline(line, 1 - line, line + 1)
    with pytest.raises(ValueError, match="slopes of a spline must be positive"):
        Spline(line, line, line)
