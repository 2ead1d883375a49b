"""Parts of a law say of their points what the whole says."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.convolved import Convolved
from kernelfield.core.mixing import InverseGamma
from kernelfield.core.pathwise import Linear, Pathwise
from kernelfield.core.posterior import Binned, Draws, Elliptical, Posterior
from kernelfield.core.quantiles import Quantiles
from kernelfield.uq.laws import Functions, Marginals, Sample
from kernelfield.uq.parts import BlockDiagonal, blocks, rows

N, M = 6, 2


def elliptical(**more) -> Elliptical:
    root = torch.randn(N * M, N * M)
    return Elliptical(torch.randn(N, M), root @ root.mT + torch.eye(N * M), unit=torch.tensor([0.5, 3.0]), **more)


def diagonal() -> Elliptical:
    root = torch.randn(N, M, M)
    return Elliptical(torch.randn(N, M), BlockDiagonal(root @ root.mT + torch.eye(M)))


def draws(noise: torch.Tensor) -> Draws:
    return Draws(torch.randn(4, N, M), torch.tensor([0.1, 0.2, 0.3, 0.4]), noise)


LAWS = {
    "gaussian": elliptical,
    "student": lambda: elliptical(mixing=InverseGamma(2.0, 3.0)),
    "blocks": diagonal,
    "paths": lambda: Pathwise(elliptical(), Linear(1, lambda z: z)),
    "student noise": lambda: Convolved(elliptical(), torch.tensor([0.3, 2.0]), 4.0),
    "functions, one noise": lambda: draws(torch.tensor(0.3)),
    "functions, noise an output": lambda: draws(torch.tensor([0.3, 2.0])),
    "functions, noise a value": lambda: draws(0.1 + torch.rand(N, M)),
    "functions, noise of each": lambda: draws(0.1 + torch.rand(4, N, M)),
    "functions, noise of each, shared": lambda: draws(0.1 + torch.rand(4, 1, M)),
    "histogram": lambda: Binned(torch.randn(N, M, 8), torch.randn(M, 9).sort(-1).values, tails=True),
    "histograms": lambda: Binned(torch.randn(N, M, 8), torch.randn(N, M, 9).sort(-1).values, tails=True),
    "quantiles": lambda: Quantiles(torch.tensor([0.1, 0.5, 0.9]), torch.randn(N, M, 3).sort(-1).values),
    "quantiles and points": lambda: Quantiles(
        torch.tensor([0.1, 0.9]), torch.randn(N, M, 2).sort(-1).values, torch.randn(N, M)
    ),
    "sample": lambda: Sample(torch.randn(5, N, M)),
}


def same(part: Posterior, whole: Posterior, y: torch.Tensor, pick) -> None:
    """The marginals of a part at y (n, m) are those that `pick` picks of the whole."""
    assert_close(part.mean, pick(whole.mean))
    assert_close(part.variance, pick(whole.variance))
    assert_close(part.cdf(pick(y)), pick(whole.cdf(y)))
    assert_close(part.log_prob(pick(y)), pick(whole.log_prob(y)), equal_nan=True)
    assert_close(part.quantile(0.3), pick(whole.quantile(0.3)))


@pytest.mark.parametrize("name", LAWS)
def test_rows_have_the_marginals_of_the_whole(name):
    law = LAWS[name]()
    part = rows(law, slice(2, 5))
    assert part is not None
    same(part, law, torch.randn(N, M), lambda values: values[2:5])


@pytest.mark.parametrize("size", [1, 2, 6])
@pytest.mark.parametrize("name", LAWS)
def test_blocks_are_a_batch_with_the_marginals_of_the_whole(name, size):
    law = LAWS[name]()
    same(blocks(law, size), law, torch.randn(N, M), lambda values: values.reshape(N // size, size, M))


@pytest.mark.parametrize("name", ["gaussian", "blocks", "student noise"])
@pytest.mark.parametrize("size", [1, 3])
def test_blocks_have_the_covariances_of_the_whole(name, size):
    law, width = LAWS[name](), size * M
    parts = blocks(law, size).covariance
    for index in range(N // size):
        span = slice(index * width, (index + 1) * width)
        assert_close(parts[index], law.covariance[span, span])


@pytest.mark.parametrize("name", ["functions, noise of each", "sample"])
def test_draws_of_blocks_stay_together(name):
    law = LAWS[name]()
    assert_close(blocks(law, 3).values, torch.stack([law.values[:, :3], law.values[:, 3:]]))


def test_a_block_diagonal_matrix_is_the_dense_one():
    matrix = BlockDiagonal(torch.randn(3, 2, 2))
    assert_close(matrix.diagonal(dim1=-2, dim2=-1), matrix.to_dense().diagonal())


def test_a_family_without_rows_is_left_whole_and_one_without_blocks_is_refused():
    law = Marginals(Functions(torch.zeros(4, 1), torch.ones(4, 1), torch.special.ndtr, lambda y: y))
    assert rows(law, slice(0, 2)) is None
    with pytest.raises(NotImplementedError, match="Marginals has no rule for blocks"):
        blocks(law)


@pytest.mark.parametrize(("size", "rest"), [(4, 2), (7, 6), (0, 0)])
def test_blocks_that_do_not_fit_are_refused(size, rest):
    with pytest.raises(ValueError, match=f"6 points do not fall into blocks of {size}; leave out {rest}"):
        blocks(elliptical(), size)
