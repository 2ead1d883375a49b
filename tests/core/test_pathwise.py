"""Posteriors whose draws come from a function, against the same law with a matrix."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.core.pathwise import Linear, Pathwise
from kernelfield.core.posterior import Elliptical
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws


def pair(mixing, m, batch=()):
    """One law twice: with a root of its scale as a function, and with its scale as a matrix."""
    root = torch.randn(*batch, 3 * m, 5)
    loc = torch.randn(*batch, 3, m)
    matrix = Elliptical(loc, root @ root.mT, mixing)

    def function(z):
        return (root @ z.unsqueeze(-1)).squeeze(-1).unflatten(-1, (3, m))

    return Pathwise(matrix, Linear(5, function)), matrix


@pytest.mark.parametrize("shape", [(1, ()), (2, ()), (2, (2,))], ids=str)
@pytest.mark.parametrize("mixing", [Unit(), InverseGamma(4.5, 6.0)], ids=["gaussian", "student"])
def test_laws(mixing, shape):
    law, _ = pair(mixing, *shape)
    obeys_posterior_laws(law)
    density_integrates_to_cdf(law)


def test_draws_have_the_joint_scale_of_the_matrix():
    law, matrix = pair(Unit(), 2)
    root = (law.draw(torch.eye(5)) - law.mean).flatten(-2)
    assert_close(root.mT @ root, matrix.scale)
    assert torch.equal(law.covariance, matrix.covariance)


def test_units_reach_draws_once():
    law, matrix = pair(InverseGamma(4.5, 6.0), 2)
    scale, shift = torch.tensor([2.0, 5.0]), torch.tensor([1.0, -1.0])
    z = torch.randn(4, 6)
    assert_close(law.affine(scale, shift).draw(z), law.draw(z) * scale + shift)
    assert_close(law.affine(scale, shift).affine(scale, shift).variance, matrix.variance * scale**4)


def test_the_mixing_variable_is_one_for_a_draw():
    law, matrix = pair(InverseGamma(1.5, 2.0), 1)
    z = torch.cat([torch.tensor([[1.3]]), torch.randn(1, 5)], -1)
    plain, _ = Pathwise(Elliptical(matrix.loc, matrix.scale), law.paths), None
    stretched = matrix.mixing.scale(z[:, :1]).unsqueeze(-1) * (plain.draw(z[:, 1:]) - matrix.loc)
    assert_close(law.draw(z), matrix.loc + stretched)
