import pytest
import torch
from torch.nn.functional import one_hot

from kernelfield.core.contracts import Data
from kernelfield.models.neural.density import NetworkDensity
from kernelfield.models.neural.likelihoods import Softmax
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.sampled import HMC, SGHMC
from kernelfield.models.neural.sampled_classifier import SampledClassifier
from kernelfield.nets.dense import Dense
from kernelfield.nets.quadrature import Tanh
from tests.models.neural.posteriors import generator


@pytest.mark.parametrize(
    "sampler", [HMC(width=8, warmup=30, draws=15, path=0.3), SGHMC(width=8, warmup=300, draws=30, thin=5)]
)
def test_three_classes_are_told_apart(sampler):
    X = torch.randn(60, 2) + 5 * torch.eye(3, 2)[torch.arange(60) % 3]
    Y = one_hot(torch.arange(60) % 3).double()
    fitted = SampledClassifier(sampler).fit(Data(X, Y), generator=generator())
    p = fitted.probabilities(X)
    assert p.shape == (60, 3) and (p.sum(-1) - 1).abs().max() < 1e-6 and fitted.outputs == 3
    assert (p.argmax(-1) == Y.argmax(-1)).double().mean() > 0.8
    assert fitted.notes()


def test_probabilities_agree_with_quadrature():
    X, Y = torch.tensor([[-1.0], [0.5], [2.0]]), one_hot(torch.tensor([0, 1, 1])).double()
    network = Dense(2.0)
    model = HMC(network, warmup=100, draws=250, chains=20, training=None, precision="double")
    fitted = SampledClassifier(model).fit(Data(X, Y), generator=generator())
    line = torch.linspace(-7, 7, 281)
    grid = torch.cartesian_prod(line, line)
    density = NetworkDensity.of(Network(network, 1, 2), Data(X, Y), Softmax(), dtype=torch.float64)
    exact = torch.einsum("k,knc->nc", density(grid).softmax(0), density.network.values(grid, X).softmax(-1))
    # About 4000 independent draws of probabilities with standard deviations below 0.25.
    assert (fitted.probabilities(X) - exact).abs().max() < 6 * 0.25 / 4000**0.5


def test_targets_that_are_no_classes_are_refused():
    with pytest.raises(ValueError, match="each row of Y must have a one"):
        SampledClassifier().fit(Data(torch.zeros(2, 1), torch.rand(2, 2)), generator=generator())


def test_the_default_prior_can_be_sure_of_labels():
    """The mean chance of the likelier of two classes; log odds of the prior of regression give 0.66."""
    sampler = SampledClassifier().sampler
    network = Network(multilayer((sampler.width, sampler.width), Tanh()), 5, 2)
    theta = sampler.scale * network.draw(60, generator())
    p = network.values(theta, torch.randn(20, 5, generator=generator(1))).softmax(-1)
    assert 0.75 < p.max(-1).values.mean() < 0.9
