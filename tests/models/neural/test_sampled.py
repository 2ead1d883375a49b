import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.neural.sampled import HMC, NUTS, SGHMC, planned
from tests.laws import obeys_posterior_laws
from tests.models.neural.posteriors import generator

MODELS = {
    "hmc": HMC(width=8, warmup=40, draws=20, chains=2, path=0.3),
    "nuts": NUTS(width=8, warmup=20, draws=10, chains=2, depth=4),
    "sghmc": SGHMC(width=8, warmup=200, draws=20, thin=10, chains=2, batch=16),
}


def problem(n: int = 40) -> Data:
    X = torch.linspace(-2, 2, n)[:, None]
    return Data(X, torch.cat([torch.sin(2 * X), X.abs() - 1], 1) + 0.3 * torch.randn(n, 2))


@pytest.mark.parametrize("name", MODELS)
def test_networks_are_drawn_that_fit(name):
    data = problem()
    fitted = MODELS[name].fit(data, generator=generator())
    assert fitted.outputs == 2
    law = fitted.posterior(data.X, noise=True)
    assert (law.mean - data.Y).square().mean() < 0.5 * data.Y.var(0).mean()
    assert ((law.cdf(data.Y) > 0.005) & (law.cdf(data.Y) < 0.995)).double().mean() > 0.9
    obeys_posterior_laws(fitted.posterior(data.X[:2], noise=True))
    batch = fitted.posterior(torch.stack([data.X[:3], data.X[5:8]]))
    assert_close(batch.mean[1], fitted.posterior(data.X[5:8]).mean)
    assert all(0.01 < value < 0.5 for value in fitted.hyperparameters()["noise"])
    again = MODELS[name].fit(data, generator=generator())
    assert torch.equal(again.sample.parameters, fitted.sample.parameters)


@pytest.mark.parametrize("name", MODELS)
def test_tiny_and_constant_data_are_fitted(name):
    for X, Y in ((torch.zeros(2, 1), torch.zeros(2, 1)), (torch.randn(3, 50), torch.ones(3, 1))):
        law = MODELS[name].fit(Data(X, Y), generator=generator()).posterior(X, noise=True)
        assert law.mean.isfinite().all() and (law.variance > 0).all()


def test_targets_that_are_all_equal_are_answered_without_chains(tmp_path):
    """Their noise sank without end, and steps with it: 100 rows took the defaults of HMC most of a minute."""
    X = torch.randn(100, 2, generator=generator()).numpy()
    fitted = FieldRegressor(HMC(width=20), random_state=0).fit(X, [5.0] * 100)
    assert any("All targets are equal: no chains were run" in note for note in fitted.notes_)
    assert not any("converged" in note for note in fitted.notes_)
    mean, std = fitted.predict(X, return_std=True)
    assert abs(mean - 5).max() < 0.02
    assert std.max() < 0.05
    _, far = fitted.predict(20 * X, return_std=True)
    assert far.mean() > 3 * std.mean()
    save(fitted, tmp_path / "model")
    assert (load(tmp_path / "model").predict(X) == mean).all()


def test_weights_count_rows():
    # A row of weight w in noise that is held is worth w rows of weight one.
    X, Y = torch.tensor([[-1.0], [0.0], [1.0]]), torch.tensor([[1.0], [0.0], [-1.0]])
    model = HMC(width=3, noise=0.5, warmup=50, draws=150, chains=16, training=None, precision="double")
    heavy = model.fit(Data(X, Y, torch.tensor([1.0, 3.0, 2.0])), generator=generator())
    rows = torch.tensor([0, 1, 1, 1, 2, 2])
    repeated = model.fit(Data(X[rows], Y[rows]), generator=generator())
    # The densities are equal up to rounding, hence so are the chains, which start alike.
    assert_close(heavy.posterior(X).mean, repeated.posterior(X).mean, atol=0.1, rtol=0)
    assert heavy.hyperparameters() == {"noise": 0.5}


def test_a_torch_module_is_sampled():
    model = HMC(nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 2)), warmup=40, draws=20, chains=2, path=0.3)
    data = problem()
    fitted = model.fit(data, generator=generator())
    assert (fitted.posterior(data.X).mean - data.Y).square().mean() < data.Y.var(0).mean()


def test_notes_say_whether_chains_agree():
    data = problem()
    short = HMC(width=8, warmup=0, draws=4, chains=2, training=None).fit(data, generator=generator())
    assert any("have not converged: R-hat" in note for note in short.notes())
    simple = Data(data.X[:3], data.Y[:3])
    long = HMC(width=2, warmup=50, draws=150, chains=8, noise=1.0).fit(simple, generator=generator())
    assert any("chains agree" in note for note in long.notes())


def test_the_work_of_a_default_fit_is_bounded():
    for n in (10, 500, 2000, 10_000, 100_000):
        warmup, draws, longest = planned(n)
        assert draws >= 4 and (warmup + draws) * longest * n <= max(1.1e7, 1.1 * 60 * 4 * n)


def test_a_fit_that_was_cut_short_says_so():
    data = Data(torch.randn(2500, 1), torch.randn(2500, 1))
    for warmup, cut in ((None, True), (1, False)):
        model = HMC(width=2, chains=1, warmup=warmup, draws=4, path=0.001, training=None)
        notes = model.fit(data, generator=generator()).notes()
        assert any("use SGHMC" in note for note in notes) == cut


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (HMC(chains=0), "chains must be at least 1, got 0"),
        (HMC(draws=3), "draws must be at least 4 a chain"),
        (NUTS(scale=-1.0), "scale must be positive and finite, got -1"),
        (SGHMC(precision="half"), "got 'half'"),
        (HMC(noise=0.0), "noise must be a positive variance, got 0"),
        (HMC(nn.Linear(1, 3)), "must give 2 outputs"),
        (HMC(path=math.nan, warmup=2, draws=4), "path and longest must be positive"),
    ],
)
def test_bad_settings_are_refused(model, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.fit(problem(6), generator=generator())
