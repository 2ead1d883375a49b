"""Networks of x and the level find quantiles that do not cross."""

import numpy as np
import pytest
import torch
from torch.func import jvp
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.quantiles import Quantiles, crossed
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.quantile_process import AtLevels, Pinball, QuantileNetwork, quantiles_and_slopes
from kernelfield.models.neural.train import Training
from kernelfield.models.pinball import pinball
from kernelfield.nets.polynomials import ReQU
from kernelfield.uq.scores import evaluate
from tests.models.neural.posteriors import generator

SCORES = torch.linspace(-1.6, 1.6, 17)
SHORT = Training(steps=60, learning_rate=3e-3)


def data(n, seed=0):
    """y = x + (1 + x) e with e standard normal, whose quantile at the score z is x + (1 + x) z."""
    X = torch.rand(n, 1, generator=generator(seed))
    return Data(X, X + (1 + X) * torch.randn(n, 1, generator=generator(seed + 1000)))


def short(**settings):
    return QuantileNetwork(**{"widths": (8, 8), "members": 1, "training": SHORT} | settings)


def test_slopes_are_derivatives_in_the_score():
    network = Network(multilayer((5, 4), ReQU()), 3, 2)
    parameters, X, scores = network.draw(2, generator()), torch.randn(2, 6, 2), torch.randn(2, 6, 7)
    spread = torch.tensor([2.0, 3.0])
    values, slopes = quantiles_and_slopes(network, spread, parameters, X, scores)
    for k in range(2):

        def at(z, k=k):
            rows = torch.cat([X[k, :, None].expand(-1, 7, -1), z[..., None]], -1).flatten(0, 1)
            return network.call(parameters[k], rows).unflatten(0, (6, 7)) + spread * z[..., None]

        expected = jvp(at, (scores[k],), (torch.ones(6, 7),))
        assert_close((values[k], slopes[k]), expected)


def test_the_loss_is_a_mean_of_pinball_losses_and_weights_are_repetitions():
    network = Network(multilayer((4,), ReQU()), 2, 2)
    rows = data(5)
    Y, parameters = torch.cat([rows.Y, -rows.Y], 1), network.draw(1, generator())
    evaluate = AtLevels(network, torch.ones(2), 3)
    seen = evaluate(parameters, rows.X[None])
    values = seen.unflatten(1, (5, 3))[0]
    assert_close(values[0, :, -1], torch.tensor([1 / 6, 1 / 2, 5 / 6]))
    plain = sum(
        pinball(Y[i, j] - values[i, t, j], values[i, t, 4]) for i in range(5) for j in range(2) for t in range(3)
    )
    steep = values[..., 2:4].neg().clamp_min(0).mean((0, 1)).sum()
    assert steep > 0
    assert_close(Pinball(7.0).loss(seen, Y[None])[0], plain / 15 + 7 * steep)
    weight = torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0])
    twice = torch.tensor([0, 0, 1, 2, 3, 4])
    again = Pinball(7.0).loss(evaluate(parameters, rows.X[twice][None]), Y[twice][None])
    assert_close(6 * again, 5 * Pinball(7.0).loss(seen, Y[None], weight[None]))


def test_levels_of_training_are_uniform_one_in_each_part():
    network = Network(multilayer((4,), ReQU()), 2, 1)
    draws = AtLevels(network, torch.ones(1), 4, generator())
    level = draws(network.draw(1, generator()), torch.rand(1, 5000, 1))[0, :, -1].unflatten(0, (5000, 4))
    assert ((level * 4).floor().clamp_max(3) == torch.arange(4)).all()
    assert_close(level.mean(0), (torch.arange(4) + 0.5) / 4, atol=6 * 0.25 / (12 * 5000) ** 0.5, rtol=0)


@pytest.mark.slow
def test_quantiles_come_near_as_rows_grow():
    X = torch.linspace(0.02, 0.98, 60)[:, None]
    truth = X + (1 + X) * SCORES

    def error(n):
        model = QuantileNetwork(members=2)
        fits = [model.fit(data(n, seed), generator=generator(seed)) for seed in range(3)]
        return np.mean([(fit.quantiles(X, SCORES)[:, 0] - truth).square().mean().item() for fit in fits])

    # With two inputs, x and the score, functions of one derivative are found at the rate n^(-1/2), and those of
    # all, as the truth is, at nearly n^(-1). The mean error of three fits scatters by a fifth, the slope by 0.1.
    few, some, many = error(50), error(250), error(1250)
    slope = np.polyfit(np.log([50, 250, 1250]), np.log([few, some, many]), 1)[0]
    assert few > some > many and slope < -0.5


def test_the_penalty_keeps_quantiles_from_crossing():
    rows = data(60)
    training = Training(steps=500, learning_rate=1e-2)  # with no row held out, so that all is learned by heart
    X = torch.linspace(0, 1, 1000)[:, None]
    scores = torch.linspace(-2, 2, 101)
    shares = []
    for crossing in (0.0, None):
        model = QuantileNetwork(widths=(32, 32), members=1, crossing=crossing, training=training)
        fitted = model.fit(rows, generator=generator())
        shares.append(crossed(fitted.quantiles(X, scores)))  # of 1e5 pairs
        assert bool(fitted.notes()) == (fitted.crossed > 0)
        assert crossed(fitted.posterior(X, noise=True).values) == 0
    assert shares[0] > 1e-3 and shares[1] == 0


def test_the_score_of_the_law_is_twice_its_mean_pinball_loss():
    new = data(40, seed=5)
    law = short().fit(data(60), generator=generator()).posterior(new.X, noise=True)
    levels = (torch.arange(4000) + 0.5) / 4000
    losses = sum(pinball(new.Y - law.quantile(p), p) for p in levels.tolist()) / 4000
    # The midpoint rule over 4000 levels against the closed form.
    assert_close(torch.from_numpy(evaluate(law, new.Y).crps), 2 * losses, rtol=1e-5, atol=1e-6)


def test_training_starts_from_the_law_of_all_targets():
    rows = data(60)
    fitted = short(training=Training(steps=1, learning_rate=1e-9)).fit(rows, generator=generator())
    expected = (rows.Y.std(correction=0) * SCORES).expand(60, 1, -1)
    assert_close(fitted.quantiles(rows.X, SCORES), expected, atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_quantiles_and_outputs_have_their_own():
    rows = data(30)
    both = Data(rows.X, torch.cat([rows.Y, 5 - rows.Y], 1), 1 + torch.rand(30))
    one, other = (short(members=2).fit(both, generator=generator()) for _ in range(2))
    assert torch.equal(one.parameters, other.parameters)
    law = one.posterior(rows.X.expand(3, 30, 1), noise=True)
    assert isinstance(law, Quantiles) and law.mean.shape == (3, 30, 2) and (law.variance > 0).all()


def test_beyond_the_data_quantiles_stay_as_at_their_edge():
    rows = data(30)
    fitted = short().fit(rows, generator=generator())
    edge, far = (fitted.posterior(X, noise=True).values for X in (rows.X.amax(0)[None], torch.full((1, 1), 50.0)))
    assert_close(edge, far)


def test_there_is_no_law_of_a_function():
    fitted = short().fit(data(10), generator=generator())
    with pytest.raises(NotImplementedError, match=r"use posterior\(X, noise=True\)"):
        fitted.posterior(torch.rand(3, 1))


def test_the_estimator_gives_all_of_the_law_and_is_saved(tmp_path):
    rows = data(80)
    X, y = rows.X.numpy(), rows.Y[:, 0].numpy()
    estimator = FieldRegressor(short(training=Training(steps=300, learning_rate=3e-3)), random_state=0).fit(X, y)
    mean, std, quantiles = estimator.predict(X, return_std=True, quantiles=[0.1, 0.5, 0.9])
    assert (std > 0).all() and (np.diff(quantiles) > 0).all()
    np.testing.assert_allclose((y[:, None] <= quantiles).mean(0), [0.1, 0.5, 0.9], atol=0.12)
    samples = estimator.sample_y(X, 4000)
    np.testing.assert_allclose(samples.mean(1), mean, atol=6 * std.max() / 4000**0.5)
    assert np.isfinite(estimator.log_density(X, y)).all()
    save(estimator, tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").predict(X), mean)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"members": 0}, "members must be at least 1"),
        ({"levels": 0}, "levels must be at least 1"),
        ({"crossing": -1.0}, "crossing must be finite and not negative"),
        ({"widths": ()}, "widths must name"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        short(**settings).fit(data(30), generator=generator())
