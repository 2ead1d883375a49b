import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from kernelfield.core.posterior import Binned
from kernelfield.models.neural.bar_distribution import cross_entropy, equal_mass_edges, gaussian_masses


def test_bins_hold_equally_many_values():
    values = torch.randn(8000)
    edges = equal_mass_edges(values, 16)
    inner = torch.searchsorted(edges[1:-1], values)
    assert_close(inner.bincount(minlength=16), torch.full((16,), 500), atol=1, rtol=0)
    for share, edge in ((1 / 32, edges[0]), (31 / 32, edges[-1])):  # the medians of the outer bins
        assert (values < edge).double().mean().item() == pytest.approx(share, abs=1e-3)


def test_bins_need_values_and_values_that_differ():
    with pytest.raises(ValueError, match="four values each, got 7 values"):
        equal_mass_edges(torch.randn(7), 2)
    with pytest.raises(ValueError, match="take fewer bins"):
        equal_mass_edges(torch.zeros(100), 4)


def test_masses_are_those_of_a_gaussian():
    mean, variance, edges = torch.randn(5), torch.rand(5), torch.randn(9).sort().values
    masses = gaussian_masses(mean, variance, edges)
    assert_close(masses.sum(-1), torch.ones(5))
    law = stats.norm(mean[:, None].numpy(), variance[:, None].sqrt().numpy())
    below = torch.tensor(law.cdf(edges[1:-1].numpy()))
    assert_close(masses[:, 1:-1], below.diff(dim=-1))
    assert_close(masses[:, 0], below[:, 0])


def test_a_law_without_variance_is_a_point():
    masses = gaussian_masses(torch.tensor([0.5, -9.0]), torch.zeros(2), torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    assert_close(masses, torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("reach", [2.0, 6.0])
def test_the_loss_is_the_mean_of_that_of_samples(reach):
    """By quadrature: of two laws the difference, and where the tails hold nothing of y the loss itself."""
    edges, mean, variance = torch.linspace(-reach, reach, 13), torch.tensor([0.3]), torch.tensor([0.4])
    masses = gaussian_masses(mean, variance, edges)
    y = torch.linspace(-8, 8, 400_001)
    weight = torch.distributions.Normal(mean, variance.sqrt()).log_prob(y).exp() * (y[1] - y[0])
    losses, means = [], []
    for logits in torch.randn(2, 1, 12):
        law = Binned(logits[None], edges[None], tails=True)
        means.append(-(weight * law.log_prob(y[:, None, None]).flatten()).sum())
        losses.append(cross_entropy(logits, masses, edges))
    assert_close(losses[0] - losses[1], means[0] - means[1], rtol=0, atol=1e-4)  # bins end between nodes
    if reach > 5:
        assert_close(losses, means, rtol=0, atol=1e-4)
