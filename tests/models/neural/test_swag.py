import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.neural.swag import SWAG, Moments
from kernelfield.models.neural.train import Training
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws

QUICK = {"rank": 4, "collected": 6, "every": 2, "draws": 12, "training": Training(steps=40, batch=16)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sines(n: int = 40, d: int = 2, m: int = 2) -> Data:
    X = torch.rand(n, d) * 2 - 1
    return Data(X, torch.sin(3 * X @ torch.ones(d, m)) + 0.1 * torch.randn(n, m))


def taken(path: torch.Tensor, rank: int) -> Moments:
    moments = Moments(path[0], rank)
    for theta in path:
        moments.take(theta)
    return moments


def test_running_moments_are_those_of_all_that_was_taken():
    path = 1e4 + torch.randn(9, 2, 5)  # far from zero, where a mean of squares would cancel
    moments = taken(path, 3)
    assert_close(moments.mean, path.mean(0))
    assert_close(moments.variance, path.var(0, correction=0), rtol=1e-8, atol=0)
    running = torch.stack([path[: t + 1].mean(0) for t in range(9)])
    assert_close(moments.deviations, (path - running)[-3:].transpose(0, 1), rtol=0, atol=1e-10)


def test_draws_have_the_covariance_of_the_method():
    path = torch.randn(6, 2, 4)
    moments, draws = taken(path, 3), 40_000
    theta = moments.draw(torch.randn(2 * draws, 7)).unflatten(0, (draws, 2))
    for member in range(2):
        D = moments.deviations[member]
        expected = moments.variance[member].diag() / 2 + D.T @ D / (2 * (3 - 1))
        own = theta[:, member]
        size = expected.diagonal().sqrt()
        assert ((own.mean(0) - moments.mean[member]).abs() < 6 * size / draws**0.5).all()
        error = 6 * (expected.square() + size[:, None].square() * size.square()).sqrt() / draws**0.5
        assert ((torch.cov(own.T) - expected).abs() < error).all()


@pytest.mark.parametrize("members", [1, 3])
def test_posteriors_obey_the_laws(members):
    fitted = SWAG(members=members, **QUICK).fit(sines(), generator=generator())
    assert fitted.outputs == 2
    for X in (torch.randn(3, 2), torch.randn(2, 3, 2)):
        obeys_posterior_laws(fitted.posterior(X, noise=True))
    obeys_posterior_laws(fitted.posterior(torch.randn(3, 2)))
    density_integrates_to_cdf(fitted.posterior(torch.randn(3, 2), noise=True))


def test_a_larger_rate_leaves_a_wider_law():
    X = torch.randn(20, 2)
    widths = []
    for rate in (1e-4, 1e-2):
        model = SWAG(learning_rate=rate, noise=0.1, **QUICK)
        widths.append(model.fit(sines(), generator=generator()).posterior(X).variance.mean())
    assert widths[0] < 0.1 * widths[1]


def test_the_same_seed_gives_the_same_draws_and_a_saved_model_too(tmp_path):
    data = sines(30)
    first, again = (SWAG(**QUICK).fit(data, generator=generator()) for _ in range(2))
    assert torch.equal(first.parameters, again.parameters)
    fitted = FieldRegressor(SWAG(**QUICK), random_state=0).fit(data.X.numpy(), data.Y.numpy())
    save(fitted, tmp_path / "model")
    assert (load(tmp_path / "model").predict(data.X.numpy()) == fitted.predict(data.X.numpy())).all()


@pytest.mark.parametrize(("n", "d", "m"), [(2, 1, 1), (3, 50, 2), (30, 1, 3)])
def test_few_rows_and_constant_targets(n, d, m):
    X = torch.randn(n, d)
    for Y in (torch.randn(n, m), torch.zeros(n, m)):
        law = SWAG(**QUICK).fit(Data(X, Y), generator=generator()).posterior(X, noise=True)
        assert law.mean.isfinite().all() and (law.variance > 0).all()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"members": 0}, "members must be at least 1, got 0"),
        ({"rank": 1}, "rank must be at least 2, got 1"),
        ({"collected": 3, "rank": 4}, "at least rank=4 parameters, got 3"),
        ({"learning_rate": -1.0}, "learning_rate must be positive, got -1"),
        ({"held_out": 2.0}, "held_out must be a share .* got 2"),
    ],
)
def test_settings_out_of_range_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        SWAG(**{**QUICK, **change}).fit(sines(), generator=generator())
