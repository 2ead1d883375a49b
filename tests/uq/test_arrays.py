"""Laws from arrays are the laws that the arrays describe; what cannot be a law is refused in a sentence."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from kernelfield.uq.arrays import law_from
from kernelfield.uq.laws import Sample
from kernelfield.uq.scores import evaluate

MEAN, STD = np.array([0.5, -2.0, 3.0]), np.array([1.0, 0.2, 4.0])
Y = np.array([0.0, -1.5, 9.0])


@pytest.mark.parametrize("read", [np.asarray, pd.Series, torch.as_tensor, list, np.float32], ids=lambda f: f.__name__)
def test_means_and_deviations_are_gaussians_whatever_the_array(read):
    law, oracle = law_from(mean=read(MEAN), std=read(STD)), stats.norm(MEAN, STD)
    assert law.mean.dtype == torch.float64
    assert_close(law.quantile(0.9)[:, 0], torch.as_tensor(oracle.ppf(0.9)), rtol=1e-6, atol=0)
    assert_close(law.log_prob(torch.as_tensor(Y)[:, None])[:, 0], torch.as_tensor(oracle.logpdf(Y)), rtol=1e-5, atol=0)


def test_several_outputs_keep_their_columns():
    law = law_from(mean=np.arange(6.0).reshape(3, 2), std=np.full((3, 2), 2.0))
    assert_close(law.mean, torch.arange(6.0).reshape(3, 2))
    assert_close(law.variance, torch.full((3, 2), 4.0))


def test_a_covariance_is_of_all_values_or_of_each_row():
    root = np.random.default_rng(0).normal(size=(6, 6))
    whole = root @ root.T + np.eye(6)
    law = law_from(mean=np.zeros((3, 2)), covariance=whole)
    assert_close(law.covariance, torch.as_tensor(whole))
    each = np.stack([whole[i : i + 2, i : i + 2] for i in (0, 2, 4)])
    rows = law_from(mean=np.zeros((3, 2)), covariance=each)
    assert_close(rows.variance, law.variance)
    assert_close(rows.covariance, torch.block_diag(*torch.as_tensor(each)))
    alone = law_from(mean=np.zeros(6), covariance=whole)
    assert alone.mean.shape == (6, 1)


def test_quantiles_come_in_any_order_and_a_mean_beside_them_is_the_prediction():
    quantiles = {0.95: stats.norm.ppf(0.95, MEAN, STD), 0.05: stats.norm.ppf(0.05, MEAN, STD)}
    law = law_from(quantiles=quantiles)
    assert_close(law.mean[:, 0], torch.as_tensor(MEAN))
    assert_close(law.variance[:, 0], torch.as_tensor(STD**2))
    assert_close(law_from(mean=MEAN + 1, quantiles=quantiles).mean[:, 0], torch.as_tensor(MEAN + 1))


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 2)])
def test_samples_lead_with_the_draws(shape):
    values = np.random.default_rng(0).normal(size=shape)
    law = law_from(samples=values)
    assert isinstance(law, Sample)
    assert_close(law.values, torch.as_tensor(values).reshape(5, 3, -1))


def test_distribution_functions_on_a_fine_grid_are_the_law():
    grid = np.linspace(-20, 25, 4001)
    law = law_from(cdf=(grid, stats.norm.cdf(grid, MEAN[:, None], STD[:, None])))
    exact, near = (evaluate(one, Y) for one in (law_from(mean=MEAN, std=STD), law))
    for name in ("mean", "std", "low", "high", "pit", "crps"):
        # Cells are one eighteenth of the least deviation wide: errors of its square.
        np.testing.assert_allclose(getattr(near, name), getattr(exact, name), rtol=3e-3, atol=3e-3)
    # The density is constant in a cell, half of which is 2.5 / 36 of the slope of a Gaussian's logarithm 2.5 off.
    np.testing.assert_allclose(near.nll, exact.nll, rtol=0, atol=2.5 / 36)


def test_what_a_grid_leaves_out_is_in_half_normal_tails():
    """From the 2% to the 98% quantile: half of either tail within a cell of the grid's end."""
    grid = np.linspace(*stats.norm.ppf([0.02, 0.98]), 50)
    law = law_from(cdf=(grid, stats.norm.cdf(grid)[None]))
    cell = grid[1] - grid[0]
    assert law.quantile(0.01).item() == pytest.approx(grid[0] - cell)
    assert law.quantile(0.99).item() == pytest.approx(grid[-1] + cell)
    assert law.cdf(torch.tensor([[grid[10]]])).item() == pytest.approx(stats.norm.cdf(grid[10]))
    assert law.log_prob(torch.tensor([[grid[0] - 3 * cell]])).isfinite().all()


RAMP = np.linspace(0, 1, 5)
BAD = {
    "nothing": ({}, "samples, or cdf; got nothing"),
    "a mean alone": ({"mean": MEAN}, "got mean"),
    "too much": ({"mean": MEAN, "std": STD, "samples": [MEAN, MEAN]}, "got mean and std and samples"),
    "std of zero": ({"mean": MEAN, "std": [1, 0, -2]}, "2 of 3 std are not positive, the least is -2; leave"),
    "NaN std": ({"mean": MEAN, "std": [1, np.nan, 1]}, "1 of 3 entries of std are NaN or infinite"),
    "NaN mean": ({"mean": [np.inf, np.nan, 1], "std": STD}, "2 of 3 entries of mean are NaN or infinite; drop"),
    "lengths": ({"mean": MEAN, "std": STD[:2]}, r"mean and std must have the same .* \(3, 1\) and \(2, 1\)"),
    "no row": ({"mean": [], "std": []}, r"mean must be an array .* at least one row, got \(0, 1\)"),
    "one level": ({"quantiles": {0.5: MEAN}}, "quantiles at two levels or more, got 1"),
    "percent": ({"quantiles": {5: MEAN, 95: MEAN}}, "between 0 and 1, got 5; 5% is 0.05"),
    "level one": ({"quantiles": {0.5: MEAN, 1: MEAN}}, "between 0 and 1, got 1"),
    "crossing": ({"quantiles": {0.1: Y, 0.9: MEAN}}, "cross at 2 of 3 rows, .* sort the quantiles of each row"),
    "NaN quantile": ({"quantiles": {0.1: Y * np.nan, 0.9: Y}}, "3 of 3 entries of the quantile at 0.1 are NaN"),
    "quantile lengths": ({"quantiles": {0.1: Y, 0.9: Y[1:]}}, "the quantile at 0.1 and the quantile at 0.9 must"),
    "point lengths": ({"mean": Y[1:], "quantiles": {0.1: Y, 0.9: Y + 1}}, "mean and the quantile at 0.1 must"),
    "flat quantiles": ({"quantiles": {0.1: Y, 0.9: Y + np.array([0, 1, 1])}}, "1 of 3 rows of quantiles are all equal"),
    "one draw": ({"samples": [MEAN]}, r"at least two draws .* got \(1, 3, 1\)"),
    "a vector of draws": ({"samples": MEAN}, r"at least two draws .* got \(3,\)"),
    "constant draws": ({"samples": [[1, 2], [1, 3]]}, "1 of 2 values of samples are the same in all draws"),
    "falling cdf": ({"cdf": (np.arange(5), [RAMP, RAMP[[0, 2, 1, 3, 4]]])}, "1 of 2 rows of cdf are not monotone"),
    "cdf above one": ({"cdf": (np.arange(5), [2 * RAMP])}, "2 of 5 entries of cdf are outside of"),
    "short grid": ({"cdf": (np.arange(5), [0.3 + 0.7 * RAMP])}, "too short, up to 0.3 of the probability"),
    "unsorted grid": ({"cdf": ([0, 2, 2, 1, 3], [RAMP])}, "2 of 4 steps of the grid of cdf are not upwards"),
    "grid of another length": ({"cdf": ([0, 1], [RAMP])}, r"got \(2,\) and \(1, 1, 5\)"),
    "covariance shape": ({"mean": MEAN, "covariance": np.eye(2)}, r"shape \(3, 3\) or \(3, 1, 1\)"),
    "covariance sign": ({"mean": MEAN, "covariance": np.diag([1, -1, 1])}, "1 of 3 variances .* least is -1"),
    "covariance symmetry": (
        {"mean": MEAN[:2], "covariance": [[1, 0.5], [0, 1]]},
        "symmetric, but entries differ by 0.5",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_law_is_refused_in_a_sentence(name):
    given, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        law_from(**given)
