"""Kernels of the members of a pool."""

import dataclasses

import pytest
import torch

from kernelfield.core.contracts import Data
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.kernels.pool import PoolKernel, require_semidefinite
from kernelfield.models.process import Process


def grams(count: int = 2, members: int = 6) -> torch.Tensor:
    half = torch.randn(count, members, 9, generator=torch.Generator().manual_seed(0))
    return half @ half.mT


def test_the_matrix_is_the_weighted_sum_with_its_diagonal_divided_out() -> None:
    kernel = PoolKernel(grams())
    kernel.raw_shares.data = torch.tensor([0.3, -1.0])
    kernel.outputscale = 2.5
    w = torch.tensor([0.3, -1.0]).exp() / torch.tensor([0.3, -1.0]).exp().sum()
    K = w[0] * grams()[0] + w[1] * grams()[1]
    expected = 2.5 * K / K.diagonal().sqrt()[:, None] / K.diagonal().sqrt()[None, :]
    X = torch.arange(6.0)[:, None]
    torch.testing.assert_close(kernel(X).to_dense(), expected)
    torch.testing.assert_close(kernel(X, diag=True), expected.diagonal())
    torch.testing.assert_close(kernel(X[:2], X[3:]).to_dense(), expected[:2, 3:])
    torch.testing.assert_close(kernel(X[:3], X[3:], diag=True), expected[:3, 3:].diagonal())
    batch = torch.stack([X[:2], X[2:4]])
    torch.testing.assert_close(kernel(batch).to_dense()[1], expected[2:4, 2:4])
    plain = PoolKernel(grams(), normalised=False)
    torch.testing.assert_close(plain(X).to_dense(), grams().mean(0))
    torch.testing.assert_close(plain(X, diag=True), grams().mean(0).diagonal())


def test_a_process_over_a_longer_pool_predicts_as_one_that_knew_it_all_along() -> None:
    whole, few = grams(), grams()[:, :4, :4]
    data = Data(torch.arange(4.0)[:, None], torch.tensor([[1.0], [0.5], [-1.0], [0.2]]))
    fitted = Process(PoolKernel(few)).fit_exact(data, generator=torch.Generator())
    later = dataclasses.replace(fitted, kernel=fitted.kernel.over(whole))
    held = Process(fitted.kernel.over(whole), noise=fitted.noise, steps=0).fit_exact(data, generator=torch.Generator())
    X = torch.tensor([[1.0], [4.0], [5.0]])
    torch.testing.assert_close(later.posterior(X).mean, held.posterior(X).mean)
    torch.testing.assert_close(later.posterior(X).variance, held.posterior(X).variance)
    torch.testing.assert_close(later.posterior(X[:1]).mean, fitted.posterior(X[:1]).mean)


def test_the_evidence_finds_the_matrix_that_the_values_came_from() -> None:
    generator = torch.Generator().manual_seed(1)
    half = torch.randn(2, 80, 40, generator=generator)
    pool = half @ half.mT / 40
    y = half[0] @ torch.randn(40, 1, generator=generator) / 40**0.5
    fitted = Process(PoolKernel(pool)).fit_exact(Data(torch.arange(80.0)[:, None], y), generator=generator)
    assert fitted.kernel.shares[0] > 0.9


def test_inputs_that_are_no_members_are_refused_and_so_are_standardised_ones() -> None:
    kernel = PoolKernel(grams())
    for bad in (0.5, -1.0, 6.0):
        with pytest.raises(ValueError, match=f"{bad:g} is not the number of one of 6"):
            kernel(torch.tensor([[bad]])).to_dense()
    with pytest.raises(ValueError, match="one column; got 2"):
        kernel(torch.zeros(3, 2)).to_dense()
    with pytest.raises(ValueError, match="use Process with Data"):
        FieldRegressor(Process(kernel)).fit([[0], [1], [2]], [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.ones(2, 3), "got \\(1, 2, 3\\)"),
        (torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), "NaN"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (torch.tensor([[0.0, 0.0], [0.0, 1.0]]), "normalised=False"),
    ],
    ids=["oblong", "nan", "asymmetric", "zero"],
)
def test_matrices_that_are_no_covariances_are_refused(bad: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PoolKernel(bad)


def test_a_negative_eigenvalue_and_a_scale_are_refused_by_their_values() -> None:
    with pytest.raises(ValueError, match="eigenvalue is -1"):
        require_semidefinite(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match="got -2"):
        PoolKernel(grams()).outputscale = -2.0
    with pytest.raises(ValueError, match="shares of 2 matrices, got 1"):
        PoolKernel(grams()).over(grams(1))
