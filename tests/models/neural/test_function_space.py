import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.neural.function_space import FittedFunctionSpace, FunctionSpace
from kernelfield.models.neural.function_space_scores import Evidence, HeldOut, chosen
from kernelfield.models.neural.network import Network
from kernelfield.models.neural.tangent_features import TangentFeatures, inducing_rows, own_kernel, pivots
from kernelfield.models.neural.train import Training
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws

DELTA, NOISE = 0.7, 0.05
QUICK = Training(steps=60)


class Basis(nn.Module):
    """Fixed features tanh(A x) and a linear layer on them: a network that is linear in its parameters."""

    def __init__(self, d, size, outputs):
        super().__init__()
        self.register_buffer("A", torch.randn(size, d, generator=torch.Generator().manual_seed(1)))
        self.last = nn.Linear(size, outputs)

    def forward(self, x):
        return self.last(torch.tanh(x @ self.A.mT.to(x)))

    def design(self, x):
        return torch.cat([torch.tanh(x @ self.A.mT), torch.ones(len(x), 1)], 1)


def rows(n, m=1, weighted=False):
    X = torch.randn(n, 2)
    Y = torch.sin(2 * X[:, :1]) + 0.2 * torch.randn(n, m)
    return Data(X, Y, 0.5 + torch.rand(n) if weighted else None)


def bayes(module, data, Xs):
    """Mean (q, m) and covariance (q, q) of Bayesian linear regression, in weight space."""
    design, test = module.design(data.X), module.design(Xs)
    weight = torch.ones(len(data.X)) if data.weight is None else data.weight
    A = DELTA * torch.eye(design.shape[1]) + design.mT @ (weight[:, None] * design) / NOISE
    mean = test @ torch.linalg.solve(A, design.mT @ (weight[:, None] * data.Y) / NOISE)
    return mean, test @ torch.linalg.solve(A, test.mT)


def process(module, data, mean="sparse", parameters=None, m=1):
    network = Network(module, 2, m)
    theta = network.start(torch.Generator()) if parameters is None else parameters
    features = TangentFeatures.of(network, theta, data.X)
    empty = FittedFunctionSpace.empty(features, NOISE, mean, [])
    return FittedFunctionSpace(features, DELTA, NOISE, mean, empty.seen, empty.target, [])


@pytest.mark.parametrize("size", [4, 60], ids=["fewer parameters than rows", "more"])
@pytest.mark.parametrize("weighted", [False, True])
def test_all_rows_inducing_is_bayesian_linear_regression(size, weighted):
    module, data, Xs = Basis(2, size, 2).double(), rows(20, 2, weighted), torch.randn(7, 2)
    law = process(module, data, m=2).condition(data).posterior(Xs)
    mean, covariance = bayes(module, data, Xs)
    assert_close(law.mean, mean, atol=1e-8, rtol=0)
    assert_close(law.variance, covariance.diagonal()[:, None].expand(7, 2), atol=1e-8, rtol=0)
    assert_close(law.covariance.reshape(7, 2, 7, 2)[:, 1, :, 1], covariance, atol=1e-8, rtol=0)
    noisy = process(module, data, m=2).condition(data).posterior(Xs, noise=True)
    assert_close(noisy.variance, law.variance + NOISE)


@pytest.mark.parametrize("mean", ["sparse", "network"])
def test_a_second_batch_gives_what_both_give_at_once(mean):
    module, data, more, Xs = Basis(2, 9, 1).double(), rows(15), rows(8, weighted=True), torch.randn(5, 2)
    start = process(module, data, mean)
    laws = [s.posterior(Xs) for s in (start.condition(data).condition(more), start.condition(data.joined(more)))]
    assert_close(laws[0].mean, laws[1].mean, atol=1e-10, rtol=0)
    assert_close(laws[0].covariance, laws[1].covariance, atol=1e-10, rtol=0)


def test_a_network_at_its_mode_moves_to_that_of_all_rows():
    module, data, more, Xs = Basis(2, 9, 1).double(), rows(15), rows(8), torch.randn(5, 2)
    design = module.design(data.X)
    A = DELTA * torch.eye(10) + design.mT @ design / NOISE
    mode = torch.linalg.solve(A, design.mT @ data.Y / NOISE)[:, 0]
    fitted = process(module, data, "network", mode).known(data)
    for seen, surrogate in ((data, fitted), (data.joined(more), fitted.condition(more))):
        mean, covariance = bayes(module, seen, Xs)
        assert_close(surrogate.posterior(Xs).mean, mean, atol=1e-8, rtol=0)
        assert_close(surrogate.posterior(Xs).covariance, covariance, atol=1e-8, rtol=0)


def test_the_variance_lies_between_what_inducing_rows_leave_and_the_prior():
    module, data, Xs = Basis(2, 40, 1).double(), rows(30), torch.randn(20, 2)
    law = process(module, Data(data.X[:8], data.Y[:8])).condition(data).posterior(Xs)
    K = own_kernel(module, torch.cat([data.X[:8], Xs]), torch.cat([data.X[:8], Xs]))[0] / DELTA
    left = K[8:, 8:] - K[8:, :8] @ torch.linalg.solve(K[:8, :8], K[:8, 8:])
    assert (law.variance[:, 0] >= left.diagonal() - 1e-9).all()
    assert (law.variance[:, 0] <= K[8:, 8:].diagonal() + 1e-9).all()


def test_the_kernel_of_an_output_is_that_of_its_gradients():
    module = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    X, Z = torch.randn(4, 2), torch.randn(3, 2)

    def jacobian(x, c):
        rows = [torch.autograd.grad(module(row)[c], list(module.parameters())) for row in x]
        return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])

    expect = torch.stack([jacobian(X, c) @ jacobian(Z, c).mT for c in range(3)])
    assert_close(own_kernel(module, X, Z), expect)


def test_pivots_are_the_greedy_choice_by_conditional_variance():
    root = torch.randn(12, 12)
    K, taken = root @ root.mT, []
    for _ in range(6):
        left = K.clone()
        if taken:
            left = K - K[:, taken] @ torch.linalg.solve(K[taken][:, taken], K[taken])
        taken.append(int(left.diagonal().argmax()))
    assert pivots(K, 6).tolist() == taken


def test_pivots_end_with_the_rank():
    root = torch.randn(10, 3)
    assert len(set(pivots(root @ root.mT, 8).tolist())) == len(pivots(root @ root.mT, 8)) <= 4


@pytest.mark.parametrize("selection", ["variance", "random"])
def test_inducing_rows_are_different_rows_of_the_data(selection):
    module, data = Basis(2, 40, 1).double(), rows(50)
    network = Network(module, 2, 1)
    Z = inducing_rows(network, network.start(torch.Generator()), data, 10, selection, torch.Generator().manual_seed(0))
    found = (Z[:, None] == data.X).all(-1)
    assert Z.shape == (10, 2) and found.any(1).all() and found.any(0).sum() == 10


@pytest.mark.parametrize("weighted", [False, True])
def test_the_evidence_is_that_of_the_equivalent_process(weighted):
    module, data = Basis(2, 30, 1).double(), rows(12, weighted=weighted)
    weight = torch.ones(12) if data.weight is None else data.weight
    score = Evidence.of(process(module, data).features, data.X, data.Y, weight[:, None])
    K = module.design(data.X) @ module.design(data.X).mT / DELTA + NOISE * torch.diag(1 / weight)
    expect = MultivariateNormal(torch.zeros(12), K).log_prob(data.Y[:, 0]) / 12
    assert score(torch.tensor(DELTA), torch.tensor(NOISE)).item() == pytest.approx(expect.item(), abs=1e-8)


def test_fewer_inducing_rows_bound_the_evidence_from_below():
    module, data = Basis(2, 30, 1).double(), rows(12)
    values = []
    for count in (3, 6, 12):
        features = process(module, Data(data.X[:count], data.Y[:count])).features
        values.append(Evidence.of(features, data.X, data.Y, torch.ones(12, 1))(*torch.tensor([DELTA, NOISE])).item())
    assert values[0] < values[1] < values[2]


def test_the_held_out_density_is_that_of_the_posterior():
    module, data, held = Basis(2, 9, 2).double(), rows(15, 2), rows(6, 2)
    fitted = process(module, data, "network", m=2).known(data)
    law = fitted.posterior(held.X, noise=True)
    score = HeldOut.of(fitted.features, fitted.seen, held, law.mean)
    assert score(*torch.tensor([DELTA, NOISE])).item() == pytest.approx(law.log_prob(held.Y).mean().item(), abs=1e-9)


def test_the_choice_is_where_the_score_has_no_slope_and_respects_what_is_given():
    module, data = Basis(2, 30, 1).double(), rows(40)
    score = Evidence.of(process(module, data).features, data.X, data.Y, torch.ones(40, 1))
    best = torch.tensor(chosen(score, 0.1, None, None)).log().requires_grad_()
    (slope,) = torch.autograd.grad(score(*best.exp()), best)
    assert slope.abs().max() < 1e-4
    assert chosen(score, 0.1, 2.0, None)[0] == pytest.approx(2.0)


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(3)
    model = FunctionSpace(width=16, inducing=20, training=QUICK)
    return model.fit(rows(60, 2), generator=torch.Generator().manual_seed(0))


def test_its_posterior_obeys_the_laws_in_batches_too(fitted):
    obeys_posterior_laws(fitted.posterior(torch.randn(3, 2)))
    density_integrates_to_cdf(fitted.posterior(torch.randn(4, 2), noise=True))
    X = torch.randn(2, 3, 4, 2)
    assert_close(fitted.posterior(X).covariance[1, 2], fitted.posterior(X[1, 2]).covariance, atol=1e-9, rtol=1e-9)
    assert_close(fitted.posterior(X).mean[1, 2], fitted.posterior(X[1, 2]).mean)


def test_predictions_have_gradients_in_the_inputs(fitted):
    X = torch.randn(2, 2, requires_grad=True)
    assert torch.autograd.gradcheck(lambda X: (fitted.posterior(X).mean, fitted.posterior(X).variance), X)


def test_predictions_at_plain_inputs_carry_no_graph(fitted):
    law = fitted.posterior(torch.randn(3, 2))
    assert not any(part.requires_grad for part in (law.mean, law.variance, law.covariance))


def test_it_says_how_it_was_made(fitted):
    assert any("9 held-out rows" in note for note in fitted.notes())
    assert set(fitted.hyperparameters()) == {"prior_precision", "noise"}


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("d", [1, 50])
def test_few_rows_and_constant_targets_can_be_fitted(n, d):
    data = Data(torch.randn(n, d), torch.full((n, 2), 3.0))
    law = FunctionSpace(width=8, training=QUICK).fit(data, generator=torch.Generator().manual_seed(0))
    law = law.posterior(torch.randn(4, d), noise=True)
    assert law.mean.isfinite().all() and (law.variance > 0).all()


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"inducing": 0}, "inducing must be at least 1, got 0"),
        ({"selection": "best"}, "selection must be 'variance' or 'random', got 'best'"),
        ({"mean": "both"}, "mean must be 'network' or 'sparse', got 'both'"),
        ({"held_out": 1.0}, r"held_out must be a share of the rows in \[0, 1\), got 1"),
        ({"noise": -1.0}, "noise must be positive and finite, or None to be chosen, got -1"),
        ({"prior_precision": math.inf}, "prior_precision must be positive"),
        ({"network": nn.Linear(2, 5)}, "must give 1 outputs"),
    ],
)
def test_a_wrong_choice_is_named_with_its_remedy(choice, words):
    with pytest.raises(ValueError, match=words):
        FunctionSpace(**choice).fit(rows(12), generator=torch.Generator())
