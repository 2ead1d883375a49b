import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.neural.ensemble import Ensemble, EnsembleClassifier, kalman, last_layer, subsets
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.train import Training
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.rectifiers import Relu
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws

QUICK = Training(steps=40, batch=16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sines(n: int = 40, d: int = 2, m: int = 2) -> Data:
    X = torch.rand(n, d) * 2 - 1
    return Data(X, torch.sin(3 * X @ torch.ones(d, m)) + 0.1 * torch.randn(n, m))


MODELS = {
    "learned": Ensemble(members=3, training=QUICK),
    "heteroscedastic": Ensemble(members=3, noise="heteroscedastic", training=QUICK),
    "priors": Ensemble(members=3, noise=0.1, prior_scale=1.0, prior_weight=1.0, subset=1.0, training=QUICK),
    "priors, learned": Ensemble(members=3, prior_scale=1.0, training=QUICK),
    "priors, heteroscedastic": Ensemble(members=3, noise="heteroscedastic", prior_scale=1.0, training=QUICK),
    "last layer": Ensemble(members=3, moving="last", training=QUICK),
    "one": Ensemble(members=1, training=QUICK),
}


@pytest.mark.parametrize("name", MODELS)
def test_posteriors_obey_the_laws(name):
    fitted = MODELS[name].fit(sines(), generator=generator())
    assert fitted.outputs == 2
    for X in (torch.randn(3, 2), torch.randn(2, 3, 2)):
        obeys_posterior_laws(fitted.posterior(X, noise=True))
    obeys_posterior_laws(fitted.posterior(torch.randn(3, 2)))
    density_integrates_to_cdf(fitted.posterior(torch.randn(3, 2), noise=True))
    X = torch.randn(2, 3, 2)
    assert_close(fitted.posterior(X, noise=True).variance[1], fitted.posterior(X[1], noise=True).variance)
    assert_close(fitted.posterior(X).mean[1], fitted.posterior(X[1]).mean)


@pytest.mark.parametrize("weighted", [False, True])
def test_randomised_priors_on_a_linear_network_are_bayesian_regression(weighted, monkeypatch):
    """Members are draws from the posterior of y = X (0.5 W) / sqrt(2) + noise, W standard normal."""
    X = torch.randn(5, 2)
    data = Data(X, torch.randn(5, 1), torch.rand(5) * 4 + 0.2 if weighted else None)
    new, noise, k = torch.randn(3, 2), 0.1, 4000
    # The same law as that of 4000 modules, in no time.
    monkeypatch.setattr(Network, "draw", lambda net, k, g: net.prior_std * torch.randn(k, net.size, generator=g))
    model = Ensemble(
        Dense(0.5), members=k, noise=noise, subset=1.0, prior_scale=1.0, prior_weight=1.0,
        training=Training(steps=500, batch=None, learning_rate=0.1, precision="double"),
    )  # fmt: skip
    values = model.fit(data, generator=generator()).values(new)[..., 0]
    K = 0.5**2 / 2 * torch.cat([X, new]) @ torch.cat([X, new]).T
    A = K[:5, :5] + noise * (torch.ones(5) if data.weight is None else 1 / data.weight).diag()
    mean = (K[5:, :5] @ torch.linalg.solve(A, data.Y))[:, 0]
    covariance = K[5:, 5:] - K[5:, :5] @ torch.linalg.solve(A, K[:5, 5:])
    size = covariance.diagonal().sqrt()
    assert ((values.mean(0) - mean).abs() < 6 * size / k**0.5).all()
    error = 6 * (covariance.square() + size[:, None].square() * size.square()).sqrt() / k**0.5
    assert ((torch.cov(values.T) - covariance).abs() < error).all()


@pytest.mark.slow
def test_a_wide_ensemble_of_last_layers_is_the_process_of_its_network():
    """Randomised priors on ridge regressions: every member is a draw from the posterior of the NNGP."""
    arch = Dense(1.0, 0.5) >> Relu() >> Dense(1.4)
    X = torch.linspace(-1.5, 1.5, 6)[:, None]
    data, new, noise = Data(X, torch.sin(2 * X)), torch.tensor([[-2.5], [0.2], [0.9], [3.0]]), 0.1
    model = Ensemble(
        arch, width=512, members=128, noise=noise, subset=1.0, prior_scale=1.0, prior_weight=1.0, moving="last",
        training=Training(steps=500, batch=None, learning_rate=0.05, precision="double"),
    )  # fmt: skip
    law = model.fit(data, generator=generator()).posterior(new)
    both = torch.cat([X, new])
    K = gram(arch, Points(both, 0), Points(both, 0), kind="nngp")
    A = K[:6, :6] + noise * torch.eye(6)
    mean = K[6:, :6] @ torch.linalg.solve(A, data.Y)
    covariance = K[6:, 6:] - K[6:, :6] @ torch.linalg.solve(A, K[:6, 6:])
    # Kernels of finite members vary by 1 / sqrt(width) about the limit, and posterior means with them.
    error = 6 * (covariance.diagonal()[:, None] / 128).sqrt()
    assert ((law.mean - mean).abs() < error).all()
    members = law.values[..., 0]
    found = torch.cov(members.T, correction=0)
    size = covariance.diagonal().sqrt()
    product = (covariance.square() + size[:, None].square() * size.square()).sqrt()
    assert ((found - covariance).abs() < 6 * product / math.sqrt(128) + 0.05 * product).all()


def test_new_data_move_members_as_a_gaussian_with_their_moments():
    values = torch.randn(7, 5, 2) @ torch.randn(2, 2) + torch.randn(5, 2)
    Y, weight, noise = torch.randn(3, 2), torch.rand(3) + 0.5, torch.tensor([0.2, 0.5])
    moved = torch.einsum("ij,jnm->inm", kalman(values[:, :3], noise, Data(torch.zeros(3, 1), Y, weight)), values)
    prior = torch.cov(values.flatten(1).T, correction=0)
    R = (noise / weight[:, None]).flatten().diag()
    H = torch.eye(10)[:6]
    gain = torch.linalg.solve(H @ prior @ H.T + R, H @ prior).T
    mean = values.mean(0).flatten() + gain @ (Y.flatten() - values.mean(0).flatten()[:6])
    assert_close(moved.mean(0).flatten(), mean)
    assert_close(torch.cov(moved.flatten(1).T, correction=0), prior - gain @ H @ prior)


@pytest.mark.parametrize("name", ["learned", "heteroscedastic", "priors"])
def test_conditioning_twice_is_conditioning_on_both(name):
    fitted = MODELS[name].fit(sines(), generator=generator())
    first, second = (Data(torch.randn(2, 2), torch.randn(2, 2)) for _ in range(2))
    X = torch.randn(4, 2)
    apart = fitted.condition(first).condition(second).posterior(X)
    joint = fitted.condition(first.joined(second)).posterior(X)
    assert_close(apart.mean, joint.mean)
    assert_close(apart.variance, joint.variance)
    again = fitted.condition(Data(X, fitted.posterior(X).mean)).posterior(X)
    assert_close(again.mean, fitted.posterior(X).mean)
    assert (again.variance < fitted.posterior(X).variance).all()


def test_the_noise_counts_what_was_learned_by_heart():
    """Few rows of pure noise, a large network: on rows it has not seen a member errs by more than on its own."""
    data = Data(torch.randn(40, 5), torch.randn(40, 1))
    settings = Training(steps=250, batch=None, learning_rate=0.01)
    honest = (
        Ensemble(members=4, subset=0.7, training=settings).fit(data, generator=generator()).hyperparameters()["noise"]
    )
    fooled = (
        Ensemble(members=4, subset=1.0, training=settings).fit(data, generator=generator()).hyperparameters()["noise"]
    )
    assert fooled < 0.1 and honest > 0.5


def test_a_heteroscedastic_ensemble_finds_where_the_noise_is():
    X = torch.rand(300, 1) * 2 - 1
    data = Data(X, 0.05 * (1 + 9 * (X > 0)) * torch.randn(300, 1))
    model = Ensemble(members=3, noise="heteroscedastic", training=Training(steps=400, learning_rate=0.01))
    law = model.fit(data, generator=generator()).posterior(torch.tensor([[-0.5], [0.5]]), noise=True)
    assert_close(law.variance.sqrt().flatten(), torch.tensor([0.05, 0.5]), rtol=0.5, atol=0)


def test_members_see_shares_of_the_rows():
    seen = subsets(50, 4, 0.7, generator())
    assert (seen.sum(1) == 35).all() and not torch.equal(seen[0], seen[1])
    assert subsets(50, 4, 1.0, generator()) is None and subsets(2, 4, 0.8, generator()) is None


def test_the_last_layer_is_that_of_the_outputs():
    net = Network(multilayer((4,)), 3, 2)
    assert last_layer(net).nonzero().flatten().tolist() == list(range(16, 26))


@pytest.mark.parametrize(("n", "d", "m"), [(2, 1, 1), (3, 50, 2), (10, 1, 3)])
def test_few_rows_and_constant_targets(n, d, m):
    X = torch.randn(n, d)
    for Y in (torch.randn(n, m), torch.full((n, m), 3.0), torch.zeros(n, m)):
        law = Ensemble(training=Training(steps=50)).fit(Data(X, Y), generator=generator()).posterior(X, noise=True)
        assert law.mean.isfinite().all() and (law.variance > 0).all()


def test_a_fitted_ensemble_is_saved(tmp_path):
    X, Y = sines(20).X.numpy(), sines(20).Y.numpy()
    for name in ("learned", "priors, heteroscedastic"):
        fitted = FieldRegressor(MODELS[name], random_state=0).fit(X, Y)
        save(fitted, tmp_path / name)
        assert (load(tmp_path / name).predict(X) == fitted.predict(X)).all()


def test_classes_get_probabilities():
    X = torch.randn(60, 2)
    Y = nn.functional.one_hot((X[:, 0] > 0).long() + (X[:, 1] > 1).long(), 3).double()
    for subset in (1.0, 0.7):
        model = EnsembleClassifier(members=3, subset=subset, training=Training(steps=300, learning_rate=0.01))
        fitted = model.fit(Data(X, Y), generator=generator())
        p = fitted.probabilities(X)
        assert_close(p.sum(-1), torch.ones(60))
        assert (p.argmax(-1) == Y.argmax(-1)).double().mean() > 0.9
        assert fitted.outputs == 3 and fitted.decision(X).shape == (60, 3)
    single = [fitted.network.values(theta, X).softmax(-1) for theta in fitted.parameters]
    assert_close(p, torch.stack(single).mean(0))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Ensemble(members=0), "members must be at least 1, got 0"),
        (Ensemble(subset=0.0), "subset must be a share .* got 0"),
        (Ensemble(prior_scale=-1.0), "prior_scale must be finite and not negative, got -1"),
        (Ensemble(prior_weight=math.inf), "prior_weight must be .* got inf"),
        (Ensemble(moving="first"), "moving must be 'all' or 'last', got 'first'"),
        (Ensemble(noise="student_t"), "noise must be a variance, None or 'heteroscedastic', got 'student_t'"),
        (Ensemble(noise=-1.0), "positive variance, got -1"),
        (Ensemble(nn.Linear(2, 3)), "must give 2 outputs a row"),
    ],
)
def test_settings_out_of_range_are_refused(model, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.fit(sines(), generator=generator())


def test_one_member_takes_in_no_data():
    with pytest.raises(ValueError, match="at least 2 members"):
        MODELS["one"].fit(sines(), generator=generator()).condition(sines(2))
