from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from kernelfield.models.neural.curvature import Tangent, class_root, explicit, weighed
from kernelfield.models.neural.evidence_bounds import ParameterBound, RowBound
from kernelfield.models.neural.network import Network, multilayer

PRECISION, NOISE = torch.tensor([0.5, 2.0]), torch.tensor(0.2)
NETWORK = Network(multilayer((6,)), inputs=2, outputs=3)
TANGENT = Tangent(NETWORK, NETWORK.draw(1, torch.Generator().manual_seed(0))[0])
X = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))
ROOTS = {
    "none": None,
    "weights": torch.rand(12, 1, 1, generator=torch.Generator().manual_seed(2)) + 0.5,
    "classes": class_root(torch.randn(12, 3, generator=torch.Generator().manual_seed(3))),
}


def exact(root, precision) -> torch.Tensor:
    J = explicit(weighed(TANGENT.shares(X), root)).flatten(0, 1)
    each = precision.expand(2).repeat_interleave(torch.tensor(TANGENT.sizes))
    return torch.logdet(torch.eye(36) + (J / each) @ J.mT / NOISE)


@pytest.mark.parametrize("precision", [PRECISION, PRECISION[:1]])
@pytest.mark.parametrize("root", ROOTS)
def test_the_bound_by_rows_falls_with_the_size_of_blocks_to_the_exact_value(root, precision):
    values = [RowBound.of(TANGENT, X, ROOTS[root], size).logdet(precision, NOISE) for size in (1, 2, 4, 12)]
    assert all(a > b for a, b in pairwise(values))
    assert_close(values[-1], exact(ROOTS[root], precision), rtol=1e-10, atol=0)
    apart = RowBound.of(TANGENT, X, ROOTS[root], 12, apart=True).logdet(precision, NOISE)
    assert apart > values[-1]


@pytest.mark.parametrize("precision", [PRECISION, PRECISION[:1]])
@pytest.mark.parametrize("root", ROOTS)
def test_bounds_by_parameters_are_ordered_above_the_exact_value(root, precision):
    layers = ParameterBound.layers(TANGENT, X, ROOTS[root]).logdet(precision, NOISE)
    diagonal = ParameterBound.diagonal(TANGENT, X, ROOTS[root]).logdet(precision, NOISE)
    assert exact(ROOTS[root], precision) < layers < diagonal
    # One layer of many is its own block: its share of the parameters has the same determinant as of rows.
    only = Tangent(NETWORK, TANGENT.parameters, last=True)
    one = ParameterBound.layers(only, X, ROOTS[root]).logdet(precision[:1], NOISE)
    assert_close(one, RowBound.of(only, X, ROOTS[root], 12).logdet(precision[:1], NOISE), rtol=1e-10, atol=0)


def test_one_random_block_has_the_bound_and_its_gradient_on_average():
    precision = PRECISION.clone().requires_grad_()
    noise = NOISE.clone().requires_grad_()

    def slopes(seed: int, most: int | None) -> torch.Tensor:
        source = torch.Generator().manual_seed(seed)
        value = RowBound.of(TANGENT, X, None, 4, most=most, generator=source).logdet(precision, noise)
        gradient = torch.autograd.grad(value, (precision, noise))
        return torch.cat([value.detach().reshape(1), *(g.reshape(-1) for g in gradient)])

    # The same seed shuffles the rows alike, so that only the choice of the block is left to chance.
    gaps = torch.stack([slopes(seed, 1) - slopes(seed, None) for seed in range(60)])
    error = gaps.std(0) / 60**0.5
    assert (gaps.mean(0).abs() < 6 * error).all()
    assert (error > 0).all() and (error < 0.1 * slopes(0, None).abs()).all()


def test_gradients_are_those_of_differences():
    for bound in (RowBound.of(TANGENT, X, None, 4), ParameterBound.layers(TANGENT, X, None)):
        inputs = (PRECISION.clone().requires_grad_(), NOISE.clone().requires_grad_())
        assert torch.autograd.gradcheck(bound.logdet, inputs)


def test_blocks_without_rows_and_chance_without_a_source_are_refused():
    with pytest.raises(ValueError, match="got size=0"):
        RowBound.of(TANGENT, X, None, 0)
    with pytest.raises(ValueError, match="1 of 3 blocks are drawn at random, which needs a generator"):
        RowBound.of(TANGENT, X, None, 4, most=1)
