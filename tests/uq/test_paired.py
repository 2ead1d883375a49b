"""Paired tests against scipy and statsmodels, and the levels they keep."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from scipy import stats
from statsmodels.stats.multitest import multipletests

from kernelfield.core.posterior import Draws
from kernelfield.uq.bootstrap import Resampling
from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.diagnosis.counts import holm
from kernelfield.uq.paired import compared_with, diebold_mariano
from kernelfield.uq.scores import Evaluation, evaluate


def model(n: int, bias: float, *, seed: int = 0) -> Evaluation:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(n, 1, generator=generator)
    return evaluate(Draws(torch.full((1, n, 1), bias), torch.ones(1), torch.tensor(1.0)), y)


def test_without_lags_it_is_the_paired_t_test():
    one, other = np.random.default_rng(0).exponential(size=(2, 35))
    expected = stats.ttest_rel(one, other)
    found = diebold_mariano(one - other)
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-12)


@pytest.mark.parametrize("lags", [1, 4])
def test_the_variance_over_lags_is_that_of_newey_and_west(lags):
    d = np.convolve(np.random.default_rng(0).normal(0.2, 1, size=103), [1, 0.8, 0.5], "valid")
    fit = sm.OLS(d, np.ones(len(d))).fit(cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False})
    n, h = len(d), lags + 1
    corrected = fit.tvalues[0] * math.sqrt((n + 1 - 2 * h + h * (h - 1) / n) / n)
    found = diebold_mariano(d, lags=lags)
    assert found.statistic == pytest.approx(corrected, rel=1e-10)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(corrected), n - 1), rel=1e-10)


def test_lags_keep_the_level_where_differences_follow_each_other():
    generator, times = np.random.default_rng(0), 1000
    draws = np.array([np.convolve(generator.normal(size=402), [1, 1, 1], "valid") for _ in range(times)])
    wrong = np.mean([diebold_mariano(d).p_value < 0.05 for d in draws])
    right = np.mean([diebold_mariano(d, lags=8).p_value < 0.05 for d in draws])
    # Triangular weights leave out (1 / 9) (2 * 2 + 2 * 2) / 9 = 10% of this variance, so that 6.3% are rejected.
    assert wrong > 0.2
    assert right == pytest.approx(0.063, abs=6 * math.sqrt(0.063 / times))


def test_groups_are_tested_by_their_sums():
    generator = np.random.default_rng(0)
    one = model(240, 0.1)
    groups = generator.integers(0, 30, 240)
    found = compared_with({"a": one, "b": model(240, 0.4)}, "b", plan=Resampling(groups=groups))[0]
    d = (one.crps - model(240, 0.4).crps)[:, 0]
    fit = sm.OLS(d, np.ones(240)).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}, use_t=True
    )
    t = fit.tvalues[0] * math.sqrt(29 / 30)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), 29), rel=1e-8)


def test_holm_s_adjustment_is_that_of_statsmodels():
    p = np.random.default_rng(0).random(12) ** 3
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    with_hole = holm([0.01, math.nan, 0.04])
    assert with_hole[::2] == pytest.approx([0.02, 0.04]) and math.isnan(with_hole[1])


def test_models_are_compared_with_one_and_said_in_a_sentence():
    models = {"gp": model(800, 0.0), "ntk": model(800, 0.5), "same": model(800, 0.0)}
    ntk, same = compared_with(models, "gp")
    assert (ntk.model, ntk.other, ntk.comparisons, ntk.rows) == ("ntk", "gp", 2, 800)
    assert ntk.difference.value == pytest.approx(models["ntk"].crps.mean() - models["gp"].crps.mean())
    assert ntk.clear and 0 < ntk.difference.low < ntk.difference.value < ntk.difference.high
    start = f"The mean CRPS of ntk is {ntk.difference.value:.3g} higher than that of gp (95% interval "
    assert ntk.sentence.startswith(start) and ntk.sentence.endswith("; 800 rows), beyond chance.")
    assert not same.clear and same.sentence.endswith("no test.")
    back = compared_with({"gp": models["gp"], "ntk": models["ntk"]}, "ntk")[0]
    assert " lower than that of ntk" in back.sentence and "adjusted" not in back.sentence
    assert back.p_value == pytest.approx(ntk.p_value)


def test_a_difference_that_chance_may_explain_is_said_to_be_one():
    near = compared_with({"a": model(60, 0.02), "b": model(60, -0.02)}, "b", loss="squared_error")[0]
    assert not near.clear and near.difference.low < 0 < near.difference.high
    assert near.sentence.endswith("which chance may explain.") and "squared error" in near.sentence


def test_every_loss_is_that_of_its_rows():
    one, other = model(90, 0.1), model(90, 0.6)
    scores = one.scores(), other.scores()
    known = {"nll": "nll", "crps": "crps", "interval90": "interval90", "absolute_error": "mae"}
    for loss, name in known.items():
        found = compared_with({"a": one, "b": other}, "b", loss=loss)[0]
        assert found.difference.value == pytest.approx(scores[0][name] - scores[1][name])
    squared = compared_with({"a": one, "b": other}, "b", loss="squared_error")[0]
    assert squared.difference.value == pytest.approx(scores[0]["rmse"] ** 2 - scores[1]["rmse"] ** 2)
    said = [ClassEvaluation.of(np.tile([p, 1 - p], (4, 1)), [0, 0, 1, 0]) for p in (0.7, 0.4)]
    for loss, value in (("log_loss", said[0].log_loss - said[1].log_loss), ("error", -0.5)):
        found = compared_with({"a": said[0], "b": said[1]}, "b", loss=loss)[0]
        assert found.difference.value == pytest.approx(value)
    assert compared_with({"a": said[0], "b": said[1]}, "b", loss="brier")[0].difference.value == pytest.approx(
        said[0].brier - said[1].brier
    )


def test_what_cannot_be_compared_is_refused():
    one = model(20, 0.0)
    with pytest.raises(ValueError, match="need the reference 'c' and at least one other"):
        compared_with({"a": one, "b": one}, "c")
    with pytest.raises(ValueError, match="the loss must be one of nll, crps, .* got 'brier'"):
        compared_with({"a": one, "b": one}, "a", loss="brier")
    with pytest.raises(ValueError, match="the same rows"):
        compared_with({"a": one, "b": model(20, 0.0, seed=1)}, "a")
    with pytest.raises(ValueError, match="groups and 3 lags; choose one"):
        compared_with({"a": one, "b": one}, "a", plan=Resampling(groups=np.arange(20)), lags=3)
    with pytest.raises(ValueError, match="20 lags needs at least 42 rows, got 20"):
        diebold_mariano(np.arange(20.0), lags=20)
