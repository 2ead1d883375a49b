"""Every posterior family obeys the same laws; a few values are known by hand."""

from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.core.mixing_density import Grid
from kernelfield.core.mixing_laws import BurrXII
from kernelfield.core.posterior import Binned, Draws, Elliptical
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws


def elliptical(mixing, m=1, batch=()):
    root = torch.randn(*batch, 3 * m, 3 * m)
    return Elliptical(torch.randn(*batch, 3, m), root @ root.mT + torch.eye(3 * m), mixing)


def draws(noise, m=1, batch=()):
    return Draws(torch.randn(*batch, 4, 3, m), torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor(noise))


def members(m=1, batch=()):
    """Functions with noise of their own, at points of their own."""
    return Draws(torch.randn(*batch, 4, 3, m), torch.tensor([0.1, 0.2, 0.3, 0.4]), 0.1 + torch.rand(*batch, 4, 3, m))


def binned(m=1, batch=()):
    return Binned(torch.randn(*batch, 3, m, 8), torch.randn(m, 9).sort(-1).values)


def own_bins(m=1, batch=()):
    return Binned(torch.randn(*batch, 3, m, 8), (0.2 + torch.rand(*batch, 3, m, 9)).cumsum(-1) - 4, tails=True)


FAMILIES = {
    "gaussian": lambda **k: elliptical(Unit(), **k),
    "student": lambda **k: elliptical(InverseGamma(4.5, 6.0), **k),
    "burr": lambda **k: elliptical(BurrXII(3.0, 2.0), **k),
    "two scales": lambda **k: elliptical(Grid((0.5, 2.0)), **k),
    "functions": lambda **k: draws(0.0, **k),
    "noisy functions": lambda **k: draws(0.25, **k),
    "members": lambda **k: members(**k),
    "histogram": lambda **k: binned(**k),
    "histogram with tails": lambda **k: replace(binned(**k), tails=True),
    "histogram with bins of each point": lambda **k: own_bins(**k),
}


@pytest.mark.parametrize("shape", [{}, {"m": 2}, {"m": 2, "batch": (2,)}], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_laws(family, shape):
    obeys_posterior_laws(FAMILIES[family](**shape))


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"functions"}))
def test_density_is_the_slope_of_the_cdf(family):
    density_integrates_to_cdf(FAMILIES[family]())


@pytest.mark.parametrize("family", sorted(name for name in FAMILIES if "histogram" not in name))
def test_draws_of_a_prefix_do_not_change_when_points_are_added(family):
    law, z = FAMILIES[family](), torch.randn(5, 4)
    match law:
        case Elliptical():
            part = Elliptical(law.loc[:2], law.scale[:2, :2], law.mixing)
        case Draws():
            noise = law.noise[:, :2] if law.noise.ndim else law.noise
            part = Draws(law.values[:, :2], law.weights, noise)
    assert_close(part.draw(z[:, : part.width]), law.draw(z[:, : law.width])[:, :2])


def test_a_single_function_has_no_variance_and_no_density():
    law = Draws(torch.ones(1, 2, 1), torch.ones(1), torch.tensor(0.0))
    assert_close(law.variance, torch.zeros(2, 1))
    with pytest.raises(ValueError, match="noise=True"):
        law.log_prob(torch.ones(2, 1))


def test_noise_that_all_members_have_alike_is_shared_noise():
    shared = draws(0.25, m=2, batch=(2,))
    for shape in ((1, 1, 1, 1), (2, 4, 3, 2), (1, 4, 1, 2)):
        own = Draws(shared.values, shared.weights, torch.full(shape, 0.25))
        y, z = torch.randn(2, 3, 2), torch.randn(5, 2, own.width)
        assert_close(own.variance, shared.variance)
        assert_close(own.log_prob(y), shared.log_prob(y))
        assert_close(own.cdf(y), shared.cdf(y))
        assert_close(own.draw(z), shared.draw(z))


def test_covariance_is_in_the_units_of_the_values():
    law = elliptical(InverseGamma(3.0, 4.0), m=2)
    moved = law.affine(torch.tensor([2.0, 5.0]), torch.zeros(2))
    units = torch.tensor([2.0, 5.0]).repeat(3)
    assert_close(moved.covariance, 2.0 * units[:, None] * law.scale * units)  # E[s] = 4 / (3 - 1)
    assert_close(moved.covariance.diagonal().reshape(3, 2), moved.variance)


def test_a_histogram_outside_of_which_nothing_falls_has_no_density_there():
    law = binned()
    assert law.log_prob(law.edges[:, -1:].T + 1.0).isneginf().all()


def test_half_of_the_mass_of_a_tail_lies_beyond_the_edge():
    law = replace(binned(), tails=True)
    low, high = law.edges[:, 0].expand(3, 1), law.edges[:, -1].expand(3, 1)
    assert_close(law.cdf(low), law.mass[..., 0] / 2)
    assert_close(law.cdf(high), 1 - law.mass[..., -1] / 2)
    assert_close(
        law.quantile(1e-9), law.edges[:, 1] + law.tail_std[0] * torch.special.ndtri(1e-9 / law.mass[..., 0] / 2)
    )


@pytest.mark.parametrize("y", [-9.0, 0.0, 9.0])
def test_the_density_of_a_histogram_with_tails_is_the_slope_of_its_cdf_everywhere(y):
    law = replace(binned(), tails=True)
    at = torch.full((3, 1), y, requires_grad=True)
    (slope,) = torch.autograd.grad(law.cdf(at).sum(), at)
    assert_close(law.log_prob(at).exp(), slope, rtol=1e-9, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_are_reproducible_from_their_generator(family):
    law = FAMILIES[family]()
    first, second = (law.rsample((3,), torch.Generator().manual_seed(5)) for _ in range(2))
    assert_close(first, second, atol=0, rtol=0)


@pytest.mark.parametrize("mixing", [Unit(), InverseGamma(3.0, 4.0)], ids=["gaussian", "student"])
def test_the_joint_density_is_that_of_scipy(mixing):
    law = elliptical(mixing, m=2, batch=(2,)).affine(torch.tensor([2.0, 5.0]), torch.tensor([1.0, 0.0]))
    units, y = torch.tensor([2.0, 5.0]).repeat(3), torch.randn(2, 3, 2)
    shape = units[:, None] * law.scale * units
    for i in range(2):
        if mixing == Unit():
            oracle = stats.multivariate_normal(law.mean[i].flatten(), shape[i])
        else:
            oracle = stats.multivariate_t(law.mean[i].flatten(), shape[i] * 4 / 3, df=6.0)
        assert law.joint_log_prob(y)[i].item() == pytest.approx(oracle.logpdf(y[i].flatten()))
