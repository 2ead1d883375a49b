"""Our posteriors against those of laplace-torch, around the same parameters and with the same prior.

It cannot be a plain dependency of the tests, see `pytest.importorskip`: it pins an alpha release
of asdfghjkl, and names torchvision, whose wheels must match the build of torch.
"""

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from kernelfield.core.contracts import Data
from kernelfield.models.neural.laplace import LaplaceNetwork
from kernelfield.models.neural.laplace_classifier import LaplaceNetworkClassifier
from kernelfield.models.neural.network import Network, flat

laplace = pytest.importorskip("laplace")
pytestmark = pytest.mark.filterwarnings("ignore")

DELTA, NOISE = 0.7, 0.3
X, NEW = (torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (15, 4))
FORMS = {
    "full": ("all", "full"),
    "kronecker": ("all", "kron"),
    "diagonal": ("all", "diag"),
    "last_layer": ("last_layer", "full"),
}


def network(outputs: int, *, bias: bool) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 6, bias=bias), nn.Tanh(), nn.Linear(6, 5, bias=bias), nn.Tanh())
    return layers.append(nn.Linear(5, outputs, bias=bias)).double()


def theirs(module: nn.Module, likelihood: str, form: str, targets: torch.Tensor, **settings):
    """Their approximation, with the prior of our `Network`; precisions of layers where it takes no others."""
    subset, structure = FORMS[form]
    found = laplace.Laplace(module, likelihood, subset_of_weights=subset, hessian_structure=structure, **settings)
    found.fit(DataLoader(TensorDataset(X, targets), batch_size=len(X)))
    std = Network(module, 3, module[-1].out_features).prior_std
    if form == "kronecker":  # one number a tensor
        sizes = [p.numel() for p in module.parameters()]
        std = torch.stack([part[0] for part in std.split(sizes)])
    if form == "last_layer":
        std = std[-sum(p.numel() for p in module[-1].parameters()) :]
    found.prior_precision = DELTA / std.square()
    return found


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("form", FORMS)
def test_regression_has_their_law_and_evidence(form, outputs):
    # Their Kronecker form keeps biases apart from weights, ours does not.
    module = network(outputs, bias=form != "kronecker")
    Y = torch.randn(len(X), outputs, generator=torch.Generator().manual_seed(1))
    ours = LaplaceNetwork(form=form, precision=DELTA, noise=NOISE).around(
        Network(module, 3, outputs), flat(module), Data(X, Y), generator=torch.Generator()
    )
    other = theirs(module, "regression", form, Y, sigma_noise=NOISE**0.5)
    law = ours.posterior(NEW)
    mean, covariance = other(NEW, joint=True)
    assert_close(law.mean.flatten(), mean.flatten(), rtol=1e-9, atol=1e-10)
    assert_close(law.covariance, covariance, rtol=1e-7, atol=1e-9)
    assert_close(torch.tensor(ours.log_evidence), other.log_marginal_likelihood(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_classification_has_their_law(form):
    module = network(3, bias=form != "kronecker")
    label = torch.arange(len(X)) % 3
    ours = LaplaceNetworkClassifier(form=form, precision=DELTA, link="probit").around(
        Network(module, 3, 3), flat(module), Data(X, one_hot(label).double()), generator=torch.Generator()
    )
    other = theirs(module, "classification", form, label)
    _, covariance = other._glm_predictive_distribution(NEW)
    blocks = ours.latent(NEW).covariance.reshape(4, 3, 4, 3).diagonal(dim1=0, dim2=2).movedim(-1, 0)
    assert_close(blocks, covariance, rtol=1e-6, atol=1e-8)
    assert_close(ours.probabilities(NEW), other(NEW, link_approx="probit"), rtol=1e-6, atol=1e-8)
