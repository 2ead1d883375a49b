"""Quantile processes find the quantiles of noise that is skewed and changes with x."""

import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import NotConverged
from kernelfield.core.quantiles import Quantiles, crossed
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.pinball import pinball
from kernelfield.models.quantile import QuantileProcess
from kernelfield.uq.scores import evaluate


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(n, seed=0):
    """Exponential noise about a line, whose scale grows with x: the quantile of level t is x - (1 + x) log(1 - t)."""
    generator = seeded(seed)
    X = torch.rand(n, 1, generator=generator)
    return Data(X, X - (1 + X) * torch.rand(n, 1, generator=generator).log())


def smooth(**settings):
    """A model with a kernel that is held, and settings that suit the data above; no offset is moved."""
    kernel = RBFKernel()
    kernel.lengthscale = 0.5
    return QuantileProcess(**{"kernel": kernel, "ridge": 1.0, "similarity": 1.0, "parts": None} | settings)


def truth(X, levels):
    return X[..., None] - (1 + X[..., None]) * torch.log1p(-levels)


def error(fitted, X):
    middle = fitted.levels[(fitted.levels > 0.04) & (fitted.levels < 0.96)]
    law = fitted.posterior(X, noise=True)
    values = torch.stack([law.quantile(p) for p in middle.tolist()], -1)
    return (values - truth(X, middle)).square().mean().item()


def test_quantiles_come_near_as_rows_grow():
    X = torch.linspace(0.02, 0.98, 60)[:, None]
    model = smooth()
    few, many = (
        np.mean([error(model.fit(data(n, seed), generator=seeded()), X) for seed in range(3)]) for n in (40, 240)
    )
    assert many < few / 2  # at the rate of a parametric model it would be a sixth


def test_settings_that_are_not_held_are_chosen_by_rows_left_out():
    X = torch.linspace(0.02, 0.98, 60)[:, None]
    rows = data(120)
    chosen = QuantileProcess("rbf", parts=None).fit(rows, generator=seeded())
    wild = QuantileProcess(RBFKernel(), ridge=0.01, similarity=100.0, parts=None)
    wild.kernel.lengthscale = 0.05
    assert error(chosen, X) < error(wild.fit(rows, generator=seeded()), X) / 2
    again = QuantileProcess("rbf", parts=None).fit(rows, generator=seeded())
    assert torch.equal(again.coefficients, chosen.coefficients)


def test_moved_offsets_hold_their_share_of_new_rows_where_others_learn_noise_by_heart():
    kernel = RBFKernel()
    kernel.lengthscale = 0.1
    new, shares = data(4000, seed=50), {}
    for parts in (None, 10):
        model = QuantileProcess(kernel, (0.05, 0.5, 0.95), ridge=0.1, similarity=1.0, parts=parts, tolerance=1e-2)
        laws = [model.fit(data(100, seed), generator=seeded()).posterior(new.X, noise=True) for seed in range(8)]
        inside = [(law.quantile(0.05) < new.Y) & (new.Y < law.quantile(0.95)) for law in laws]
        shares[parts] = torch.stack(inside).double().mean().item()
    assert shares[None] < 0.83
    # The shares of single fits scatter like those of 100 residuals, by 0.03; of the mean of eight, six times 0.011.
    assert shares[10] == pytest.approx(0.9, abs=0.065)


def test_an_offset_moves_by_the_residuals_of_fits_that_lack_their_rows():
    """With as many parts as rows, each row is left out alone.

    A fit divides targets by their spread s, so that its ridge is that of the targets as they are times s.
    """
    rows, levels = data(12), torch.tensor([0.25, 0.75])
    settings = {"levels": tuple(levels.tolist()), "tolerance": 1e-6, "sweeps": 20_000}
    spread, residuals = rows.Y.std(correction=0), []
    for i in range(12):
        kept = torch.arange(12) != i
        ridge = (rows.Y[kept].std(correction=0) / spread).item()
        refit = smooth(ridge=ridge, **settings).fit(Data(rows.X[kept], rows.Y[kept]), generator=seeded())
        residuals.append(rows.Y[i] - refit.quantiles(rows.X[i : i + 1])[0, 0])
    expected = np.quantile(torch.stack(residuals), levels, axis=0, method="weibull").diagonal()
    moved, plain = (smooth(parts=parts, **settings).fit(rows, generator=seeded()) for parts in (12, None))
    assert_close((moved.offsets - plain.offsets)[0], torch.as_tensor(expected.copy()), atol=1e-4, rtol=0)
    assert torch.equal(moved.coefficients, plain.coefficients)


def test_the_score_of_the_law_is_twice_its_mean_pinball_loss():
    rows, new = data(200), data(50, seed=1)
    law = smooth().fit(rows, generator=seeded()).posterior(new.X, noise=True)
    levels = (torch.arange(4000) + 0.5) / 4000
    losses = sum(pinball(new.Y - law.quantile(p), p) for p in levels.tolist()) / 4000
    # The midpoint rule over 4000 levels against the closed form.
    assert_close(torch.from_numpy(evaluate(law, new.Y).crps), 2 * losses, rtol=1e-5, atol=1e-6)


def test_levels_that_cross_are_put_in_order_and_it_is_said():
    kernel = RBFKernel()
    kernel.lengthscale = 0.05
    fitted = QuantileProcess(kernel, ridge=0.1, similarity=1e4).fit(data(60), generator=seeded())
    X = torch.rand(500, 1)
    assert crossed(fitted.quantiles(fitted.X)) > 0
    assert "of neighbouring quantiles at the rows of the fit crossed" in fitted.notes()[0]
    law = fitted.posterior(X, noise=True)
    assert isinstance(law, Quantiles) and crossed(law.values) == 0
    alike = QuantileProcess(kernel, ridge=0.1, similarity=1e-9).fit(data(60), generator=seeded())
    assert crossed(alike.quantiles(X)) == 0 and alike.notes() == []


def test_there_is_no_law_of_a_function():
    fitted = smooth().fit(data(20), generator=seeded())
    with pytest.raises(NotImplementedError, match=r"use posterior\(X, noise=True\)"):
        fitted.posterior(torch.rand(3, 1))


def test_units_and_the_size_of_the_kernel_do_not_matter():
    rows = data(60)
    model = smooth()
    one = model.fit(rows, generator=seeded()).posterior(rows.X, noise=True)
    other = model.fit(Data(rows.X, 100 * rows.Y + 7), generator=seeded()).posterior(rows.X, noise=True)
    assert_close(other.values, 100 * one.values + 7, rtol=1e-6, atol=1e-4)


def test_outputs_are_regressions_of_their_own():
    rows, other = data(60), data(60, seed=3)
    model = smooth(tolerance=1e-6, sweeps=5000)
    both = model.fit(Data(rows.X, torch.cat([rows.Y, other.Y], 1)), generator=seeded()).quantiles(rows.X)
    alone = model.fit(rows, generator=seeded()).quantiles(rows.X)
    assert_close(both[:, :1], alone, rtol=0, atol=1e-4)


def test_the_estimator_gives_all_of_the_law_and_is_saved(tmp_path):
    rows = data(120)
    X, y = rows.X.numpy(), rows.Y[:, 0].numpy()
    model = smooth()
    estimator = FieldRegressor(model, random_state=0).fit(X, y, sample_weight=np.arange(120) % 3 + 1.0)
    mean, std, quantiles = estimator.predict(X, return_std=True, quantiles=[0.1, 0.5, 0.9])
    assert (std > 0).all() and (np.diff(quantiles) > 0).all()
    share = (y[:, None] <= quantiles).mean(0)
    np.testing.assert_allclose(share, [0.1, 0.5, 0.9], atol=0.08)
    samples = estimator.sample_y(X, 4000)
    np.testing.assert_allclose(samples.mean(1), mean, atol=6 * std.max() / 4000**0.5)
    assert np.isfinite(estimator.log_density(X, y)).all()
    save(estimator, tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").predict(X), mean)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ridge": 0.0}, "ridge must be positive"),
        ({"similarity": -1.0}, "similarity must be positive"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"parts": 1}, "parts must be from 2 to the number of rows, 60, got 1; None moves no offset"),
        ({"parts": 61}, "parts must be from 2"),
        ({"folds": 40}, "60 rows are too few to leave out 40 folds; give 80 rows"),
        ({"levels": (0.5, 0.1)}, "increasing"),
        ({"levels": (0.5, 1.0)}, "between 0 and 1"),
        ({"kernel": "rfb"}, "kernel must be"),
        ({"sweeps": 0}, "sweeps at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        QuantileProcess(**settings).fit(data(60), generator=seeded())


def test_a_solver_that_is_stopped_says_so():
    with pytest.warns(NotConverged, match="from optimal after 2 sweeps"):
        smooth(sweeps=2).fit(data(60), generator=seeded())
