"""Means of several classes against sums over draws from the prior."""

import pytest
import torch

from kernelfield.core.numerics import NotConverged
from kernelfield.models import recentred as module
from kernelfield.models.mode import climb
from kernelfield.models.recentred import recentred
from kernelfield.models.softmax import Softmax

K = 60 * torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.double)
Y = torch.eye(3, dtype=torch.double)[:2]


def test_the_mean_is_nearer_to_that_of_the_posterior_than_the_mode_is():
    z = torch.randn(1_000_000, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    f = torch.linalg.cholesky(K) @ z
    weights = (Y * f.log_softmax(-1)).sum((-2, -1)).softmax(0)
    mean = torch.einsum("s,sic->ic", weights, f)
    local, _ = climb(Softmax, K, Y)
    assert (recentred(local, Y).f - mean).norm() < 0.5 * (local.f - mean).norm()


def test_the_weights_give_the_mean_and_its_classes_sum_to_nothing():
    law = recentred(climb(Softmax, K, Y)[0], Y)
    torch.testing.assert_close(K @ law.gradient, law.f)
    torch.testing.assert_close(law.f.sum(-1), torch.zeros(2).double(), atol=1e-8, rtol=0)


def test_a_mean_that_still_moves_is_told(monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 1)
    with pytest.warns(NotConverged, match="after 1 rounds; law='mode' needs none"):
        recentred(climb(Softmax, K, Y)[0], Y)
