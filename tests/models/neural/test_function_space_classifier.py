import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.neural.function_space_classifier import (
    LEAST,
    FittedFunctionSpaceClassifier,
    FunctionSpaceClassifier,
    duals,
)
from kernelfield.models.neural.network import Network
from kernelfield.models.neural.tangent_features import TangentFeatures
from kernelfield.models.neural.train import Training
from tests.laws import obeys_posterior_laws

DELTA = 0.8


def classes(n, k=3):
    X = torch.randn(n, 2)
    label = torch.bucketize(X[:, 0].contiguous(), torch.linspace(-0.5, 0.5, k - 1))
    return Data(X, nn.functional.one_hot(label, k).double())


def linear_network():
    network = Network(nn.Linear(2, 3), 2, 3)
    return network, network.start(torch.Generator())


def process(data, mean, sharpness=1.0):
    network, parameters = linear_network()
    features = TangentFeatures.of(network, sharpness * parameters, data.X)
    zero = torch.zeros_like(features.basis)
    return FittedFunctionSpaceClassifier(features, DELTA, mean, zero, zero[..., 0], [])


def test_duals_are_the_slopes_of_the_likelihood():
    f, Y = torch.randn(4, 3).requires_grad_(), torch.eye(3)[[0, 2, 1, 1]]
    alpha, beta = duals(f, Y)
    (slope,) = torch.autograd.grad((Y * f.log_softmax(-1)).sum(), f, create_graph=True)
    assert_close(alpha, slope)
    for c in range(3):
        (bend,) = torch.autograd.grad(slope[:, c].sum(), f, retain_graph=True)
        assert_close(beta[:, c], -bend[:, c])
    assert duals(torch.tensor([[99.0, -99.0]]), torch.tensor([[1.0, 0.0]]))[1].min() == LEAST


def test_a_linear_network_has_the_weight_space_law_of_its_duals():
    """Each class is a Gaussian regression of f + alpha / beta with noise 1 / beta."""
    data, Xs = classes(12), torch.randn(5, 2)
    fitted = process(data, "sparse").known(data)
    law, f = fitted.latent(Xs), fitted.features.values(data.X)
    alpha, beta = duals(f, data.Y)
    design, test = (torch.cat([x, torch.ones(len(x), 1)], 1) for x in (data.X, Xs))
    for c in range(3):
        A = DELTA * torch.eye(3) + design.mT @ (beta[:, [c]] * design)
        mean = test @ torch.linalg.solve(A, design.mT @ (alpha + beta * f)[:, c])
        assert_close(law.mean[:, c], mean, atol=1e-8, rtol=0)
        spread = (test * torch.linalg.solve(A, test.mT).mT).sum(-1)
        assert_close(law.variance[:, c], spread, atol=1e-8, rtol=0)


@pytest.mark.parametrize("mean", ["sparse", "network"])
def test_new_labels_move_the_mean_to_its_mode(mean):
    """Of a linear network, found in the space of its weights by differentiating the log density twice."""
    data, more, Xs = classes(12), classes(9), torch.randn(5, 2)
    # As sure as a network gets, and wrong: one step of Newton's method goes astray here.
    before = process(data, mean, 20.0).known(data)
    design, late, test = (torch.cat([x, torch.ones(len(x), 1)], 1) for x in (data.X, more.X, Xs))
    beta = duals(before.features.values(data.X), data.Y)[1]
    A = torch.stack([DELTA * torch.eye(3) + design.mT @ (beta[:, [c]] * design) for c in range(3)])
    start = torch.linalg.lstsq(test, before.latent(Xs).mean).solution

    def loss(w):
        gap = w - start
        return 0.5 * torch.einsum("ic,cij,jc", gap, A, gap) - (more.Y * (late @ w).log_softmax(-1)).sum()

    after = before.condition(more)
    w = torch.linalg.lstsq(test, after.latent(Xs).mean).solution.requires_grad_()
    (slope,) = torch.autograd.grad(loss(w), w)
    assert_close(slope, torch.zeros(3, 3), atol=1e-4, rtol=0)
    assert loss(w) < loss(start) - 5
    bend = duals(late @ w.detach(), more.Y)[1]
    for c in range(3):
        own = A[c] + late.mT @ (bend[:, [c]] * late)
        assert_close(after.latent(Xs).variance[:, c], (test * torch.linalg.solve(own, test.mT).mT).sum(-1))


def test_a_label_that_contradicts_a_sure_network_moves_it_to_where_doubt_begins():
    """delta v = 1 - sigmoid(2 v - 40) for each of two outputs; a step of Newton's would have gone to v = 1 / delta."""
    network, delta = Network(nn.Linear(1, 2, bias=False), 1, 2), 0.01
    x, Y = torch.ones(1, 1), torch.tensor([[0.0, 1.0]])
    features = TangentFeatures.of(network, torch.tensor([20.0, -20.0]), x)
    zero = torch.zeros_like(features.basis)
    fitted = FittedFunctionSpaceClassifier(features, delta, "network", zero, zero[..., 0], [])
    mean = fitted.condition(Data(x, Y)).latent(x).mean
    move = mean - torch.tensor([[20.0, -20.0]])
    assert_close(delta * move, Y - mean.softmax(-1))
    assert 20 < move[0, 1] < 22


@pytest.mark.parametrize("n", [6, 90])
def test_it_learns_classes_and_its_latent_law_obeys_the_laws(n):
    data, test = classes(n), classes(60)
    model = FunctionSpaceClassifier(width=16, inducing=20, training=Training(steps=200))
    fitted = model.fit(data, generator=torch.Generator().manual_seed(0))
    p = fitted.probabilities(test.X)
    assert_close(p.sum(-1), torch.ones(60))
    obeys_posterior_laws(fitted.latent(test.X[:3]))
    if n > 10:
        assert (p.argmax(-1) == test.Y.argmax(-1)).double().mean() > 0.85
        assert fitted.notes()[0] == "the prior precision minimises the log loss of 14 held-out rows"
    else:
        assert fitted.notes()[0] == "the prior precision gives latent functions a mean square of 4"
        assert_close(fitted.features.prior(data.X).mean() / fitted.delta, torch.tensor(4.0))


def test_labels_that_are_not_one_hot_are_refused():
    with pytest.raises(ValueError, match="a one in the column of its class"):
        FunctionSpaceClassifier().fit(Data(torch.randn(5, 2), torch.rand(5, 2)), generator=torch.Generator())


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_prior_weight_that_is_none_is_refused(weight):
    model = FunctionSpaceClassifier(prior_weight=weight)
    with pytest.raises(ValueError, match=f"prior_weight must not be negative, got {weight:g}"):
        model.fit(classes(5), generator=torch.Generator())


def noisy(n, d):
    """Rows of which two inputs tell two classes apart, nearly, and the rest nothing."""
    X = torch.randn(n, d)
    label = (X[:, 0] + X[:, 1] + 0.3 * torch.randn(n) > 0).long()
    return Data(X, nn.functional.one_hot(label, 2).double())


@pytest.mark.parametrize("n", [12, 70])
def test_the_log_loss_is_better_than_that_of_the_frequencies(n):
    """Held-out rows on the wrong side of a sure network, or none at all, did most of the harm."""
    data, test = noisy(n, 10), noisy(300, 10)
    model = FunctionSpaceClassifier(width=32, training=Training(steps=400, learning_rate=5e-3))
    p = model.fit(data, generator=torch.Generator().manual_seed(1)).probabilities(test.X)
    loss = -(test.Y * p.log()).sum(-1).mean()
    assert loss < -(test.Y * data.Y.mean(0).log()).sum(-1).mean() - 0.02
