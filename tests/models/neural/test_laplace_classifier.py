import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.neural.curvature import Tangent, explicit
from kernelfield.models.neural.laplace import FORMS
from kernelfield.models.neural.laplace_classifier import LaplaceNetworkClassifier, averaged
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.train import Training
from kernelfield.nets.quadrature import Tanh

EXACT = {"rtol": 1e-10, "atol": 1e-10}
DELTA = 0.7
X, NEW = torch.randn(14, 2, generator=torch.Generator().manual_seed(1)), torch.randn(4, 2)
NETWORK = Network(multilayer((5,), Tanh()), 2, 3)
THETA = NETWORK.draw(1, torch.Generator().manual_seed(2))[0]
DATA = Data(X, one_hot(torch.arange(14) % 3).to(X))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def curvature() -> tuple[Tensor, Tensor]:
    """The curvature of all rows by differentiating the loss of linearised outputs twice, and J at NEW."""
    tangent = Tangent(NETWORK, THETA)
    J, f = explicit(tangent.shares(X)), tangent.values(X)

    def loss(step: Tensor) -> Tensor:
        return -(DATA.Y * (f + J @ step).log_softmax(-1)).sum()

    H = torch.autograd.functional.hessian(loss, torch.zeros(J.shape[-1]))
    return H, explicit(tangent.shares(NEW)).flatten(0, 1)


@pytest.mark.parametrize("form", ["full", "low_rank", "functional"])
def test_the_law_has_the_hessian_of_the_loss_of_the_linearised_network(form):
    H, J = curvature()
    fitted = LaplaceNetworkClassifier(form=form, precision=DELTA).around(NETWORK, THETA, DATA, generator=generator())
    expected = J @ torch.linalg.solve(H + DELTA * torch.eye(len(H)), J.mT)
    assert_close(fitted.latent(NEW).covariance, expected, **EXACT)
    price = torch.logdet(torch.eye(len(H)) + H / DELTA) + DELTA * Tangent(NETWORK, THETA).squares().sum()
    likelihood = (DATA.Y * NETWORK.call(THETA, X).log_softmax(-1)).sum()
    assert_close(torch.tensor(fitted.log_evidence), likelihood - price / 2, **EXACT)


def test_the_diagonal_form_has_the_diagonal_of_that_hessian():
    H, J = curvature()
    model = LaplaceNetworkClassifier(form="diagonal", precision=DELTA)
    fitted = model.around(NETWORK, THETA, DATA, generator=generator())
    assert_close(fitted.latent(NEW).covariance, (J / (H.diagonal() + DELTA)) @ J.mT, **EXACT)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_links_are_near_the_average_of_the_softmax(k):
    half = torch.randn(6, k, k, generator=generator(1))
    loc, covariance = torch.randn(6, k, generator=generator(2)), half @ half.mT
    z = torch.randn(200_000, 6, k, generator=generator(3))
    draws = (loc + torch.einsum("nkl,snl->snk", torch.linalg.cholesky(covariance), z)).softmax(-1)
    error = 6 * draws.std(0) / 200_000**0.5
    sampled = averaged(loc, covariance, "sampling")
    assert ((sampled - draws.mean(0)).abs() < error + 2e-3).all()
    probit = averaged(loc, covariance, "probit")
    assert_close(probit.sum(-1), torch.ones(6))
    # MacKay's formula is good for two classes, and a heuristic for more.
    assert (probit - draws.mean(0)).abs().max() < (0.02 if k == 2 else 0.25)
    for link in ("sampling", "probit"):
        certain = averaged(loc, torch.zeros_like(covariance) + 1e-12 * torch.eye(k), link)
        assert_close(certain, loc.softmax(-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("link", ["probit", "sampling"])
@pytest.mark.parametrize("form", FORMS)
def test_doubt_makes_probabilities_less_extreme(form, link):
    sure, unsure = (
        LaplaceNetworkClassifier(form=form, link=link, precision=d, rank=5, subset=8).around(
            NETWORK, THETA, DATA, generator=generator()
        )
        for d in (1e6, 0.1)
    )
    first, second = sure.probabilities(NEW), unsure.probabilities(NEW)
    assert_close(first.sum(-1), torch.ones(4))
    assert_close(first, NETWORK.call(THETA, NEW).softmax(-1), atol=2e-3, rtol=0)
    assert (second.max(-1).values < first.max(-1).values + 2e-3).all()
    assert second.max(-1).values.sum() < first.max(-1).values.sum()


@pytest.mark.parametrize("k", [2, 3])
def test_a_fit_separates_classes_and_doubts_far_away(k):
    x = torch.linspace(-1, 1, 60)[:, None]
    label = ((x[:, 0] + 1) / 2 * k).long().clamp_max(k - 1)
    training = Training(steps=200, learning_rate=1e-2)
    model = LaplaceNetworkClassifier(training=training, rounds=2)
    fitted = model.fit(Data(x, one_hot(label).to(x)), generator=generator())
    p = fitted.probabilities(x)
    assert (p.argmax(-1) == label).double().mean() > 0.9
    assert (p >= 0).all() and p.shape == (60, k)
    assert fitted.outputs == k and "precision" in fitted.hyperparameters()


@pytest.mark.parametrize(
    ("settings", "Y", "sentence"),
    [
        ({"link": "logit"}, DATA.Y, "link must be 'probit' or 'sampling', got 'logit'"),
        ({"form": "kfac"}, DATA.Y, "form must be one of"),
        ({}, X, "each row of Y must have a one in the column of its class"),
        ({"network": nn.Linear(2, 1)}, DATA.Y, "must give 3 outputs a row"),
    ],
)
def test_bad_input_is_refused(settings, Y, sentence):
    with pytest.raises(ValueError, match=sentence):
        LaplaceNetworkClassifier(**settings).fit(Data(X, Y), generator=generator())
