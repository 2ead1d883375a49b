"""Starts race on a sample of rows, and the winner goes on with all of them."""

import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel, RBFKernel

from kernelfield.core.contracts import Data
from kernelfield.models.search import SUBSET, kernel_for, race, sample


class Valley:
    """An evidence whose best parameter is a thousandth of the rows it has seen."""

    def __init__(self, data: Data) -> None:
        self.n = len(data.X)

    def bounds(self):
        return [(-50.0, 50.0)]

    def given(self):
        return np.array([40.0])

    def scattered(self, shift, noise, generator):
        return np.array([float(torch.rand((), generator=generator))])

    def __call__(self, theta):
        gap = theta[0] - self.n / 1000
        return float(gap**2), np.array([2 * gap])


def rows(n: int) -> Data:
    return Data(torch.arange(n)[:, None].double(), torch.zeros(n, 1), torch.ones(n))


@pytest.mark.parametrize(("n", "searches"), [(50, 2), (2000, 3)])
def test_a_race_ends_at_the_best_for_all_rows(n, searches):
    theta, record = race(Valley, rows(n), restarts=2, steps=50, generator=torch.Generator().manual_seed(0))
    assert theta[0] == pytest.approx(n / 1000, abs=1e-4)
    assert len(record) == searches


def test_a_sample_is_of_different_rows_and_their_weights():
    data = rows(2000)
    few = sample(data, SUBSET, torch.Generator().manual_seed(0))
    assert len(few.X.unique()) == len(few.weight) == SUBSET
    assert sample(few, SUBSET, torch.Generator()) is few


def test_a_kernel_is_copied_or_scaled_to_the_data():
    X = torch.randn(30, 3) * torch.tensor([1.0, 10.0, 0.0])
    given = RBFKernel(ard_num_dims=3)
    assert kernel_for(given, X, torch.tensor(1.0)) is not given
    scaled = kernel_for("rbf", X, torch.tensor(4.0))
    assert scaled.outputscale.item() == pytest.approx(4.0)
    with pytest.raises(ValueError, match="MaternKernel has 2 lengthscales and the data 3 inputs"):
        kernel_for(MaternKernel(ard_num_dims=2), X, torch.tensor(1.0))
    with pytest.raises(ValueError, match="names input 5, and the data have 3"):
        kernel_for(RBFKernel(active_dims=(0, 5)), X, torch.tensor(1.0))
