import pytest
import torch

from kernelfield.bo.binned import expected_improvement
from kernelfield.core.posterior import Binned


@pytest.mark.parametrize("tails", [False, True])
@pytest.mark.parametrize("best", [-9.0, -1.4, -0.2, 0.35, 1.0, 2.6, 9.0])
def test_expected_improvement_is_the_integral_over_the_density(best: float, tails: bool) -> None:
    logits = torch.tensor([[[0.3, -0.5, 1.0, 0.2, -1.0]]])
    edges = torch.tensor([[-1.5, -0.7, 0.1, 0.6, 1.9, 2.4]])
    law = Binned(logits, edges, tails=tails)
    grid = torch.linspace(-14, 16, 3_000_001)
    density = law.log_prob(grid[:, None, None]).exp().flatten()
    exact = torch.trapezoid((grid - best).clamp_min(0) * density, grid)
    assert expected_improvement(law, best).item() == pytest.approx(exact.item(), rel=1e-5, abs=1e-7)


def test_its_slope_in_the_logits_is_that_of_its_values() -> None:
    edges = torch.tensor([[-1.5, -0.7, 0.1, 0.6, 1.9]])
    logits = torch.tensor([[[0.3, -0.5, 1.0, 0.2]]], requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: expected_improvement(Binned(x, edges, tails=True), 0.3), logits)


def test_bins_of_each_point_are_its_own() -> None:
    logits = torch.zeros(2, 1, 3)
    edges = torch.tensor([[[0.0, 1.0, 2.0, 3.0]], [[10.0, 11.0, 12.0, 13.0]]])
    value = expected_improvement(Binned(logits, edges), 1.0)
    assert value[:, 0].tolist() == pytest.approx([(0 + 0.5 + 1.5) / 3, 10.5])
