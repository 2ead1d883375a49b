import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.posterior import Draws
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.neural import dropout as module
from kernelfield.models.neural.dropout import MCDropout, thinned
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.train import Training
from kernelfield.nets.algebra import Residual
from kernelfield.nets.dense import Dense, Dropout
from kernelfield.nets.rectifiers import Relu
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws

QUICK = Training(steps=40, batch=16)
NETWORKS = {
    "default": None,
    "residual": Dense(1.0) >> Residual(Relu() >> Dropout(0.8) >> Dense(1.0)) >> Dropout(0.9) >> Dense(1.0),
    "torch": nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2)),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sines(n: int = 40, d: int = 2, m: int = 2) -> Data:
    X = torch.rand(n, d) * 2 - 1
    return Data(X, torch.sin(3 * X @ torch.ones(d, m)) + 0.1 * torch.randn(n, m))


@pytest.mark.parametrize("name", NETWORKS)
def test_posteriors_obey_the_laws(name):
    model = MCDropout(NETWORKS[name], width=16, draws=30, training=QUICK)
    fitted = model.fit(sines(), generator=generator())
    assert fitted.outputs == 2 and isinstance(fitted.posterior(torch.randn(3, 2)), Draws)
    for X in (torch.randn(3, 2), torch.randn(2, 3, 2)):
        obeys_posterior_laws(fitted.posterior(X, noise=True))
    obeys_posterior_laws(fitted.posterior(torch.randn(3, 2)))
    density_integrates_to_cdf(fitted.posterior(torch.randn(3, 2), noise=True))
    X = torch.randn(2, 3, 2)
    assert_close(fitted.posterior(X).values[1], fitted.posterior(X[1]).values)


def test_one_linear_layer_has_the_moments_known_in_closed_form():
    """Masks on d inputs: covariance (1 - q) / q sum_i w_i^2 x_i x_i', between points too."""
    keep, d, k = 0.7, 6, 20_000
    network = Network(nn.Sequential(nn.Dropout(1 - keep), nn.Linear(d, 1)), d, 1)
    theta = network.draw(1, generator())[0]
    masks = module._masks(network, k, generator(1))
    fitted = module.FittedDropout(network, theta, masks, torch.zeros(1))
    X, w = torch.randn(3, d), theta[:d]
    values = fitted.values(X)[..., 0]
    covariance = (1 - keep) / keep * (X * w.square()) @ X.T
    std = covariance.diagonal().sqrt()
    assert ((values.mean(0) - (X @ w + theta[d])).abs() < 6 * std / k**0.5).all()
    products = (values - X @ w - theta[d])[:, :, None] * (values - X @ w - theta[d])[:, None, :]
    assert ((products.mean(0) - covariance).abs() < 6 * products.std(0) / k**0.5).all()


def test_a_draw_is_one_function_whatever_it_is_asked():
    fitted = MCDropout(draws=10, training=QUICK).fit(sines(), generator=generator())
    X = torch.randn(5, 2)
    whole = fitted.posterior(X).values
    assert_close(fitted.posterior(X[2:4]).values, whole[:, 2:4])
    assert_close(fitted.posterior(X).values, whole, rtol=0, atol=0)
    by_hand = []
    for mask in fitted.masks:
        parts, value = iter(mask.split(128)), X
        for step in fitted.network.module(fitted.parameters):
            value = value * next(parts) if isinstance(step, nn.Dropout) else step(value)
        by_hand.append(value)
    assert_close(whole, torch.stack(by_hand))


def test_a_dropout_in_several_places_has_a_mask_in_each():
    drop, relu = nn.Dropout(0.5), nn.ReLU()
    network = nn.Sequential(nn.Linear(2, 4), relu, drop, nn.Linear(4, 8), relu, drop, nn.Linear(8, 2))
    fitted = MCDropout(network, draws=5, training=QUICK).fit(sines(), generator=generator())
    X, (first, _, _, second, _, _, last) = torch.randn(3, 2), fitted.network.module(fitted.parameters)
    assert fitted.masks.shape == (5, 12)
    for mask, values in zip(fitted.masks, fitted.values(X), strict=True):
        expected = last(second(first(X).relu() * mask[:4]).relu() * mask[4:])
        assert_close(values, expected)


def test_chunks_of_masks_give_the_same(monkeypatch):
    fitted, X = MCDropout(draws=7, training=QUICK).fit(sines(), generator=generator()), torch.randn(3, 2)
    whole = fitted.values(X)
    monkeypatch.setattr(module, "CHUNK", 1)
    assert_close(fitted.values(X), whole)


def test_training_drops_units_and_repeats_itself():
    """A network that must guess which half of its inputs it sees learns other weights than one that sees all."""
    X = torch.randn(200, 2)
    data = Data(X, X.sum(-1, keepdim=True))
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1))
    settings = Training(steps=250, learning_rate=0.1, batch=None)
    model = MCDropout(network, noise=1.0, training=settings)
    first, again = (model.fit(data, generator=generator()) for _ in range(2))
    assert torch.equal(first.parameters, again.parameters) and torch.equal(first.masks, again.masks)
    # Least squares with masked inputs is ridge regression: X'X + diag(X'X) (1 - q) / q.
    A = X.T @ X
    expected = torch.linalg.solve(A + A.diagonal().diag(), X.T @ data.Y)
    assert_close(first.parameters[:2], expected[:, 0], rtol=0, atol=0.08)  # 0.5, of gradients that are random


def test_functions_are_conditioned_together():
    fitted = MCDropout(draws=30, training=QUICK).fit(sines(), generator=generator())
    X = torch.randn(4, 2)
    after = fitted.condition(Data(X, fitted.posterior(X).mean))
    assert_close(after.posterior(X).mean, fitted.posterior(X).mean)
    assert (after.posterior(X).variance < fitted.posterior(X).variance).all()
    twice = after.condition(Data(X, torch.zeros(4, 2)))
    joint = fitted.condition(Data(torch.cat([X, X]), torch.cat([fitted.posterior(X).mean, torch.zeros(4, 2)])))
    assert_close(twice.posterior(X).mean, joint.posterior(X).mean)


@pytest.mark.parametrize(("n", "d", "m"), [(2, 1, 1), (3, 50, 2), (30, 1, 3)])
def test_few_rows_and_constant_targets(n, d, m):
    X = torch.randn(n, d)
    for Y in (torch.randn(n, m), torch.zeros(n, m)):
        law = MCDropout(draws=5, training=QUICK).fit(Data(X, Y), generator=generator()).posterior(X, noise=True)
        assert law.mean.isfinite().all() and (law.variance > 0).all()


def test_a_fitted_network_with_dropout_is_saved(tmp_path):
    data = sines(30)
    fitted = FieldRegressor(MCDropout(draws=5, training=QUICK), random_state=0).fit(data.X.numpy(), data.Y.numpy())
    save(fitted, tmp_path / "model")
    assert (load(tmp_path / "model").predict(data.X.numpy()) == fitted.predict(data.X.numpy())).all()


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (MCDropout(multilayer((4,))), "no dropout to draw masks from"),
        (MCDropout(draws=1), "draws must be at least 2 masks, got 1"),
        (MCDropout(held_out=1.0), "held_out must be a share .* got 1"),
        (MCDropout(keep=0.0), "keep is a probability between 0 and 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(model, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.fit(sines(), generator=generator())


def test_the_default_network_thins_each_hidden_layer():
    assert sum(isinstance(step, Dropout) for step in thinned(0.9).steps) == 3
