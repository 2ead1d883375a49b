"""Scores agree with SciPy, scikit-learn and hand-made constants; bad values are refused by name."""

from dataclasses import replace

import numpy as np
import pytest
import scoringrules
import torch
from numpy.testing import assert_allclose
from scipy import integrate, stats
from sklearn import metrics
from torch.testing import assert_close

from kernelfield.core.mixing import InverseGamma
from kernelfield.core.posterior import Binned, Draws, Elliptical, Posterior
from kernelfield.core.quantiles import Quantiles
from kernelfield.uq import scores as module
from kernelfield.uq.arrays import law_from
from kernelfield.uq.laws import Sample
from kernelfield.uq.scores import (
    Evaluation,
    baseline,
    crps,
    evaluate,
    interval,
    interval_score,
    nll,
    pit,
    quantile_score,
)


def gaussian(n: int = 200, m: int = 2) -> Elliptical:
    return Elliptical(torch.randn(n, m), torch.diag(torch.rand(n * m) + 0.1))


def values(law: Posterior) -> torch.Tensor:
    return law.rsample(generator=torch.Generator().manual_seed(3))


LAWS = {
    "gaussian": gaussian,
    "student": lambda: Elliptical(torch.randn(200, 1), torch.diag(torch.rand(200) + 0.1), InverseGamma(2.0, 3.0)),
    "noisy functions": lambda: Draws(torch.randn(5, 400, 2), torch.full((5,), 0.2), torch.tensor([0.1, 2.0])),
    "histogram": lambda: Binned(torch.randn(400, 2, 20), torch.linspace(-3, 3, 21).expand(2, -1)),
}


def test_the_negative_log_density_and_pit_of_a_gaussian_are_scipy_s():
    law = gaussian()
    y = values(law)
    oracle = stats.norm(law.mean.numpy(), law.variance.sqrt().numpy())
    assert_allclose(nll(law, y), -oracle.logpdf(y))
    assert_allclose(pit(law, y), oracle.cdf(y))


def test_a_calibrated_gaussian_pays_4_125426_deviations_for_its_intervals():
    """Width 2 q plus 2 / alpha for each unit missed: 4 phi(q) / alpha deviations."""
    law = Elliptical(torch.zeros(1, 1), torch.full((1, 1), 9.0))
    price = lambda y: interval_score(law, torch.tensor([[y]]), 0.9).item()  # noqa: E731
    edges = stats.norm.ppf([0.05, 0.95], scale=3)
    mean = integrate.quad(lambda y: price(y) * stats.norm.pdf(y, scale=3), -30, 30, points=edges)[0]
    assert mean / 3 == pytest.approx(4.125426, abs=5e-7)


def test_the_interval_score_adds_forty_times_the_miss_at_95_percent():
    law = Binned(torch.zeros(3, 1, 1), torch.tensor([[0.0, 1.0]]))  # uniform: interval [0.025, 0.975]
    y = torch.tensor([[0.5], [1.975], [-0.975]])
    assert_close(interval_score(law, y, 0.95), torch.tensor([[0.95], [40.95], [40.95]]))


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_no_interval_of_another_level_scores_better_on_average(law, level):
    """The interval score is proper: shrinking or stretching the law costs something."""
    law = law()
    many = law.rsample((1000,), torch.Generator().manual_seed(4))
    low, high = interval(law, level)
    own = interval_score(law, many, level).mean(0)
    for factor in (0.7, 1.4):
        middle, half = (low + high) / 2, (high - low) / 2 * factor
        miss = (middle - half - many).clamp_min(0) + (many - middle - half).clamp_min(0)
        other = (2 * half + 2 / (1 - level) * miss).mean(0)
        assert (own < other).double().mean() > 0.98


@pytest.mark.parametrize("name", LAWS)
def test_coverage_is_the_share_inside_the_intervals(name):
    law = LAWS[name]()
    y = values(law)
    levels = [0.5, 0.9, 0.99]
    shares = []
    for level in levels:
        low, high = interval(law, level)
        shares.append(((low <= y) & (y <= high)).double().mean(0).numpy())
    assert_allclose(evaluate(law, y).coverage(levels), np.stack(shares), atol=1e-12)


def test_values_of_the_law_itself_are_covered_as_announced():
    law = Draws(torch.zeros(1, 1000, 20), torch.ones(1), torch.tensor(1.0))
    y = torch.randn(1000, 20, generator=torch.Generator().manual_seed(5))
    levels = np.linspace(0.05, 0.95, 19)
    share = evaluate(law, y).coverage(levels).mean(1)
    assert_allclose(share, levels, atol=6 * 0.5 / 20000**0.5)


@pytest.mark.parametrize("name", LAWS)
def test_an_evaluation_holds_the_pointwise_scores(name):
    law = LAWS[name]()
    y = values(law)
    result = evaluate(law, y)
    assert {array.shape for array in result.arrays().values()} == {tuple(y.shape)}
    assert {array.dtype for array in result.arrays().values()} == {np.dtype("float64")}
    expected = {"nll": nll(law, y), "crps": crps(law, y), "pit": pit(law, y), "interval": interval_score(law, y, 0.9)}
    for field, value in expected.items():
        assert_allclose(getattr(result, field), value)
    assert np.isnan(result.latent).all()


def test_chunks_join_to_the_whole():
    law = LAWS["noisy functions"]()
    y = values(law)
    parts = [
        evaluate(Draws(law.values[:, rows], law.weights, law.noise), y[rows])
        for rows in (slice(0, 150), slice(150, 399), slice(399, 400))
    ]
    joined, whole = Evaluation.concatenate(parts), evaluate(law, y)
    for name, array in whole.arrays().items():
        assert_allclose(getattr(joined, name), array)


def test_scores_of_the_mean_are_scikit_learn_s():
    law = gaussian()
    y = values(law)
    scores, pair = evaluate(law, y).scores(), (y.numpy(), law.mean.numpy())
    assert scores["rmse"] == pytest.approx(metrics.root_mean_squared_error(*pair))
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(*pair))
    assert scores["r2"] == pytest.approx(metrics.r2_score(*pair))


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_r2_of_a_constant_value_is_scikit_learn_s(shift):
    law = Draws(torch.full((1, 5, 1), 3.0 + shift), torch.ones(1), torch.tensor(1.0))
    y = torch.full((5, 1), 3.0)
    assert evaluate(law, y).scores()["r2"] == metrics.r2_score(y, law.mean)


def test_scores_are_means_over_outputs_of_the_scores_of_each():
    result = evaluate(law := gaussian(), values(law))
    for name, value in result.scores().items():
        assert value == pytest.approx((result.output(0).scores()[name] + result.output(1).scores()[name]) / 2)


@pytest.mark.parametrize("name", LAWS)
def test_coverage_and_sharpness_are_of_the_intervals_that_are_kept(name):
    law = LAWS[name]()
    result = evaluate(law, values(law))
    scores = result.scores()
    assert scores["coverage90"] == pytest.approx(np.mean((result.low <= result.y) & (result.y <= result.high)))
    assert scores["sharpness90"] == pytest.approx(np.mean(result.high - result.low))


def test_a_single_row_is_scored_and_has_no_r2():
    scores = evaluate(gaussian(1, 1), torch.zeros(1, 1)).scores()
    assert np.isnan(scores.pop("r2"))
    assert np.isfinite(list(scores.values())).all()


def test_one_output_may_be_a_plain_vector():
    law = gaussian(5, 1)
    y = np.arange(5.0)
    assert_allclose(evaluate(law, y).nll, evaluate(law, y[:, None]).nll)


def test_the_baseline_is_the_gaussian_of_the_training_targets():
    train, test = np.random.default_rng(0).normal(3, 2, (50, 2)), np.random.default_rng(1).normal(3, 2, (30, 2))
    result = baseline(train, test)
    oracle = stats.norm(train.mean(0), train.std(0))
    assert_allclose(result.nll, -oracle.logpdf(test))
    assert_allclose(result.high, np.broadcast_to(oracle.ppf(0.95), (30, 2)))


def test_the_baseline_of_a_constant_target_predicts_a_point():
    result = baseline(np.full(354, 0.1), np.array([0.1, 8.0]))  # the mean of 354 times 0.1 is not 0.1
    assert_allclose(result.high, result.low)
    assert_allclose(result.crps[:, 0], [0.0, 7.9], atol=1e-12)
    assert_allclose(result.interval[:, 0], [0.0, 20 * 7.9], atol=1e-11)  # 2 / 0.1 of each unit missed
    assert np.isnan([result.std, result.nll, result.pit]).all()  # which no point has
    both = np.stack([np.full(9, 0.1), np.arange(9.0)], 1)
    assert_allclose(baseline(both, both).crps[:, 1], baseline(both[:, 1], both[:, 1]).crps[:, 0])


def test_latent_functions_are_refused_as_their_density_is():
    law = Draws(torch.randn(3, 2, 1), torch.full((3,), 1 / 3), torch.tensor(0.0))
    for call in (nll, evaluate):
        with pytest.raises(ValueError, match=r"no density; use posterior\(X, noise=True\)"):
            call(law, torch.zeros(2, 1))


def test_a_law_without_spread_is_refused():
    law = Elliptical(torch.zeros(2, 1), torch.diag(torch.tensor([1.0, 0.0])))
    with pytest.raises(ValueError, match=r"1 predicted variances are not positive; .* noise=True"):
        evaluate(law, torch.ones(2, 1))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_counted_and_refused(bad):
    y = torch.tensor([[0.0], [bad]])
    for call in (nll, crps, pit, evaluate):
        with pytest.raises(ValueError, match="y holds 1 entries that are NaN or infinite; drop"):
            call(gaussian(2, 1), y)


def test_means_that_are_not_finite_are_counted_and_refused():
    law = Elliptical(torch.tensor([[0.0], [float("nan")]]), torch.eye(2))
    with pytest.raises(ValueError, match="1 predicted means are NaN"):
        evaluate(law, torch.zeros(2, 1))


@pytest.mark.parametrize("shape", [(3, 1), (2, 2), (0, 1)])
def test_values_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"need values y \(n, m\)"):
        evaluate(gaussian(2, 1), torch.zeros(shape))


@pytest.mark.parametrize("level", [0.0, 1.0, 90])
def test_levels_outside_of_zero_and_one_are_refused(level):
    with pytest.raises(ValueError, match=f"between 0 and 1, got {level:g}"):
        interval(gaussian(2, 1), level)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
def test_the_quantile_score_is_scikit_learn_s_and_scoringrules_pinball_loss(p):
    law = gaussian()
    y, q = values(law), law.quantile(p)
    score = quantile_score(law, y, p)
    assert score.mean().item() == pytest.approx(metrics.mean_pinball_loss(y, q, alpha=p))
    assert_allclose(score, scoringrules.quantile_score(y.numpy(), q.numpy(), p))
    key = {0.05: "quantile05", 0.95: "quantile95"}.get(p)
    if key:
        assert evaluate(law, y).scores()[key] == pytest.approx(score.mean().item())


def test_the_interval_score_is_twenty_times_the_pinball_losses_of_its_ends():
    law = gaussian()
    scores = evaluate(law, values(law)).scores()
    assert scores["interval90"] == pytest.approx(20 * (scores["quantile05"] + scores["quantile95"]))


@pytest.mark.parametrize("p", [0.0, 1.0, 5])
def test_levels_of_quantiles_outside_of_zero_and_one_are_refused(p):
    with pytest.raises(ValueError, match=f"level of a quantile must lie between 0 and 1, got {p:g}"):
        quantile_score(gaussian(2, 1), torch.zeros(2, 1), p)


def test_pieces_are_scored_as_the_whole(monkeypatch):
    for law in (gaussian(40, 2), LAWS["noisy functions"](), LAWS["histogram"]()):
        y = values(law)
        whole = evaluate(law, y)
        monkeypatch.setattr(module, "PIECE", 7)
        pieces = evaluate(law, y)
        monkeypatch.undo()
        for name, array in whole.arrays().items():
            assert_allclose(getattr(pieces, name), array, rtol=1e-12)


def test_what_is_known_of_the_latent_function_is_kept_joined_and_cut():
    law, latent = gaussian(6, 2), Elliptical(torch.zeros(6, 2), torch.diag(torch.arange(12.0)))
    y = values(law)
    known, unknown = evaluate(law, y, latent=latent), evaluate(law, y)
    assert_allclose(known.latent, np.sqrt(np.arange(12.0)).reshape(6, 2))
    joined = Evaluation.concatenate([known, unknown]).rows(np.array([1, 7])).output(1)
    assert_allclose(joined.latent, [[np.sqrt(3)], [np.nan]])
    assert known.scores() == unknown.scores()


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        (gaussian(3, 2), r"law of f at the same points, \(6, 2\), got one of \(3, 2\)"),
        (
            Draws(torch.zeros(1, 6, 2), torch.ones(1), torch.tensor([-1.0, 1.0])),
            "6 variances of the latent law are neg",
        ),
    ],
    ids=["shape", "negative"],
)
def test_a_latent_law_that_does_not_fit_is_refused(latent, message):
    with pytest.raises(ValueError, match=message):
        evaluate(gaussian(6, 2), torch.zeros(6, 2), latent=latent)


def test_a_sample_is_scored_without_a_density():
    generator = torch.Generator().manual_seed(0)
    draws, y = torch.randn(19, 20_000, 1, generator=generator), torch.randn(20_000, 1, generator=generator)
    result = evaluate(Sample(draws), y)
    scores = result.scores()
    assert np.isnan(result.nll).all() and np.isnan(scores["nll"]) and np.isnan(result.losses).all()
    assert scores["crps"] == pytest.approx(0.564190, abs=6 * result.crps.std() / 20_000**0.5)
    inside = (result.low <= result.y) & (result.y <= result.high)
    for share in (scores["coverage90"], inside.mean()):  # the ends are the least and the greatest of nineteen
        assert share == pytest.approx(0.9, abs=6 * 0.3 / 20_000**0.5)
    assert stats.kstest(result.pit[:, 0], "uniform").pvalue > 1e-3


def test_levels_where_a_law_jumps_are_uniform_and_the_same_for_the_same_values():
    """Rain: none in half of all cases, else half-normal, which these quantiles say."""
    n = 20_000
    y = torch.randn(n, 1, generator=torch.Generator().manual_seed(0)).clamp_min(0)
    levels = torch.tensor([0.25, 0.5, 0.75, 0.9])
    law = Quantiles(levels, torch.special.ndtri(levels).clamp_min(0).expand(n, 1, 4))
    result = evaluate(law, y)
    assert stats.kstest(result.pit[:, 0], "uniform").pvalue > 1e-3
    assert_allclose(result.pit, evaluate(law, y).pit, rtol=0)
    dry = result.pit[(y == 0).numpy()]
    assert dry.max() < 0.5 and len(np.unique(dry)) == len(dry)


def test_arrays_of_another_library_are_scored_as_the_law_itself():
    law = gaussian(50, 1)
    y = values(law)
    arrays = law_from(mean=law.mean.numpy(), std=law.variance.sqrt().numpy())
    for name, array in evaluate(law, y).arrays().items():
        assert_allclose(getattr(evaluate(arrays, y), name), array)


def test_the_levels_of_quantiles_are_kept_by_all_parts():
    law = Quantiles(torch.tensor([0.1, 0.9], dtype=torch.float64), torch.tensor([[[-1.0, 1.0]] * 2] * 4))
    made = evaluate(law, torch.zeros(4, 2))
    assert made.levels == (0.1, 0.9)
    whole = baseline(made.y, made.y)
    assert whole.levels is None
    for part in (made.output(1), made.rows(np.array([2])), Evaluation.concatenate([made, whole])):
        assert part.levels == (0.1, 0.9)
    assert Evaluation.concatenate([made, replace(made, levels=(0.1, 0.5))]).levels == (0.1,)
