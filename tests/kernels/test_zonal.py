import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import eval_gegenbauer, gamma, iv
from torch.testing import assert_close

from kernelfield.kernels.zonal import levels_of, matern_levels, multiplicities, zonal

T = torch.linspace(-1, 1, 41)


def harmonics(n, d):
    """(n + a) / a C_n^a, and twice the cosines of multiple angles on the circle."""
    if d == 2:
        return torch.ones_like(T) if n == 0 else 2 * torch.cos(n * torch.acos(T))
    a = d / 2 - 1
    return torch.from_numpy((n + a) / a * eval_gegenbauer(n, a, T.numpy()))


@pytest.mark.parametrize("d", [2, 3, 4, 9, 40])
def test_a_level_is_a_gegenbauer_polynomial(d):
    for n in (0, 1, 2, 7):
        levels = torch.zeros(9)
        levels[n] = 1.0
        expect = harmonics(n, d)
        assert_close(zonal(T, levels, d), expect, rtol=0, atol=1e-12 * float(expect.abs().max()))
        assert multiplicities(d, 8)[n].item() == pytest.approx(expect[-1].item(), rel=1e-12)


@pytest.mark.parametrize("d", [2, 3, 6, 15])
def test_levels_are_means_over_the_sphere(d):
    def mean(function):
        return quad(lambda a: function(math.cos(a)) * math.sin(a) ** (d - 2), 0, math.pi, points=[math.pi / 2])[0]

    found = levels_of(lambda t: t.clamp_min(0) + t.exp(), d, 5)
    a = d / 2 - 1
    for n in range(6):

        def shape(t, n=n):
            return eval_gegenbauer(n, a, t) / eval_gegenbauer(n, a, 1.0) if d > 2 else math.cos(n * math.acos(t))

        expect = mean(lambda t, shape=shape: (max(t, 0.0) + math.exp(t)) * shape(t)) / mean(lambda t: 1.0)
        assert found[n].item() == pytest.approx(expect, abs=1e-10)


def test_levels_of_the_rbf_kernel_are_bessel_functions():
    # E[exp(b t) P_n(t)] = gamma(d / 2) (2 / b)^(d / 2 - 1) I_{n + d / 2 - 1}(b), see 10.32.2 and 18.17 of the DLMF.
    d, b = 5, 3.0
    found = levels_of(lambda t: (b * t).exp(), d, 8).numpy()
    expect = gamma(d / 2) * (2 / b) ** (d / 2 - 1) * iv(np.arange(9) + d / 2 - 1, b)
    np.testing.assert_allclose(found, expect, rtol=1e-10)


def test_a_smooth_function_is_the_sum_of_its_levels():
    levels = levels_of(lambda t: (2 * t).exp(), 4, 24)
    assert_close(zonal(T, levels, 4), (2 * T).exp(), rtol=1e-12, atol=1e-12)


def test_the_matern_spectrum_has_its_powers_and_sums_to_one():
    d, nu, reach = 4, 1.5, torch.tensor(0.3)
    levels = matern_levels(d, 10, nu, reach)
    assert (levels * multiplicities(d, 10)).sum().item() == pytest.approx(1.0)
    eigenvalues = torch.tensor([n * (n + d - 2.0) for n in range(11)])
    expect = (2 * nu / 0.09 + eigenvalues) ** -(nu + (d - 1) / 2)
    assert_close(levels / levels[0], expect / expect[0])


def test_series_have_slopes_in_the_cosines_and_in_the_levels():
    t, levels = torch.linspace(-0.9, 1.0, 5).requires_grad_(), torch.rand(5).requires_grad_()
    assert torch.autograd.gradcheck(lambda t, levels: zonal(t, levels, 5), (t, levels))


def test_tiles_make_no_difference(monkeypatch):
    levels, grid = torch.rand(6).requires_grad_(), torch.rand(30, 7).mul(2).sub(1).requires_grad_()
    whole = torch.autograd.grad(zonal(grid, levels, 3).square().sum(), (levels, grid))
    monkeypatch.setattr("kernelfield.kernels.zonal.TILE", 16)
    parts = torch.autograd.grad(zonal(grid, levels, 3).square().sum(), (levels, grid))
    for one, other in zip(whole, parts, strict=True):
        assert_close(one, other)
