"""Scores of class probabilities against scikit-learn, simulation and their own identities."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from kernelfield.uq.classes import ClassEvaluation, _folded


def simulated(n: int, k: int = 3, *, seed: int = 0, power: float = 1.0) -> ClassEvaluation:
    """Labels drawn from probabilities, of which those that are claimed are a power: 1 is calibrated."""
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.full(k, 0.7), n)
    labels = (generator.random(n)[:, None] > p.cumsum(1)).sum(1).clip(max=k - 1)
    claimed = (p + 1e-9) ** power
    return ClassEvaluation.of(claimed / claimed.sum(1, keepdims=True), labels)


def test_log_loss_and_brier_are_those_of_scikit_learn() -> None:
    result = simulated(500)
    assert result.log_loss == pytest.approx(log_loss(result.labels, result.probabilities), rel=1e-12)
    two = simulated(500, 2)
    # Theirs counts one of the two equal halves.
    assert two.brier == pytest.approx(2 * brier_score_loss(two.labels, two.probabilities[:, 1]), rel=1e-12)


def test_the_parts_of_brier_s_score_add_up_and_are_murphy_s_where_bins_hold_one_forecast() -> None:
    forecasts = np.array([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    index = np.repeat([1, 2, 0], 40)
    labels = (np.random.default_rng(0).random(120) < forecasts[index, 1]).astype(int)
    result = ClassEvaluation.of(forecasts[index], labels, bins=3)
    parts = result.brier_parts()
    shares = np.array([labels[index == i].mean() for i in range(3)])
    assert parts.reliability == pytest.approx(np.mean(2 * (forecasts[:, 1] - shares) ** 2), rel=1e-12)
    assert parts.resolution == pytest.approx(np.mean(2 * (shares - labels.mean()) ** 2), rel=1e-12)
    assert parts.uncertainty == pytest.approx(2 * labels.mean() * (1 - labels.mean()), rel=1e-12)
    assert parts.within == pytest.approx(0, abs=1e-14)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    assert total == pytest.approx(result.brier, rel=1e-12)


def test_what_binning_loses_is_the_spread_inside_of_bins_less_its_covariance() -> None:
    result = simulated(300)
    order = np.argsort(result.probabilities.max(1), kind="stable")
    expect = 0.0
    for part in np.array_split(order, 15):
        p, e = result.probabilities[part], np.eye(3)[result.labels[part]]
        p, e = p - p.mean(0), e - e.mean(0)
        expect += (p**2 - 2 * p * e).sum() / 300
    assert result.brier_parts().within == pytest.approx(expect, rel=1e-10)


def test_the_ece_is_the_mean_gap_of_equal_bins() -> None:
    p = np.array([[0.6, 0.4], [0.7, 0.3], [0.9, 0.1], [0.95, 0.05]])
    result = ClassEvaluation.of(p, [0, 1, 0, 0], bins=2)
    assert result.ece == pytest.approx(0.5 * abs(0.65 - 0.5) + 0.5 * abs(0.925 - 1.0))
    points = result.reliability()
    np.testing.assert_allclose(points.confidence, [0.65, 0.925])
    np.testing.assert_array_equal(points.accuracy, [0.5, 1.0])
    np.testing.assert_array_equal(points.count, [2, 2])


def test_calibrated_probabilities_stay_in_the_null_band_nine_times_in_ten() -> None:
    inside = 0
    for seed in range(200):
        result = simulated(150, seed=seed)
        band = result.null()
        inside += band.low <= result.ece <= band.high
    assert abs(inside - 180) < 6 * np.sqrt(200 * 0.9 * 0.1)


def test_overconfidence_leaves_the_null_band() -> None:
    result = simulated(600, power=3.0)
    assert result.ece > result.null().high
    assert result.null().low < result.null().mean < result.null().high


def test_the_debiased_ece_is_nearer_to_the_truth_of_many_rows() -> None:
    """The truth is that of 400 000 rows, the average that of 100 samples of 300."""
    truth = simulated(400_000, power=1.5).ece
    plain, debiased = np.mean([[(r := simulated(300, seed=s, power=1.5)).ece, r.ece_debiased] for s in range(100)], 0)
    assert abs(debiased - truth) < 0.5 * abs(plain - truth)


def test_the_mean_of_a_folded_normal() -> None:
    z = np.random.default_rng(0).standard_normal(400_000)
    for mean, std in ((0.0, 1.0), (0.3, 0.2), (-1.0, 0.5)):
        error = 6 * std / np.sqrt(len(z))
        assert _folded(np.array(abs(mean)), np.array(std)) == pytest.approx(np.abs(mean + std * z).mean(), abs=error)
    assert _folded(np.array(0.3), np.array(0.0)) == 0.3


def test_an_impossible_class_that_came_costs_much_and_not_infinity() -> None:
    assert ClassEvaluation.of([[1.0, 0.0]], [1]).log_loss == pytest.approx(708.4, abs=0.1)


def test_the_scores_by_name() -> None:
    result = simulated(100)
    assert list(result.scores()) == [
        "accuracy",
        "log_loss",
        "brier",
        "ece",
        "ece_debiased",
        "ece_null_low",
        "ece_null_high",
    ]
    assert result.scores()["accuracy"] == (result.probabilities.argmax(1) == result.labels).mean()


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        ([[0.5, 0.5]], [2], "labels must be columns of the probabilities, 0 to 1, got np.int64(2)"),
        ([[0.5, 0.5]], ["a"], "labels must be columns"),
        ([[0.5, 0.6]], [0], "sum to one"),
        ([[1.5, -0.5]], [0], "not negative"),
        ([[np.nan, 0.5]], [0], "finite"),
        ([0.5, 0.5], [0, 1], "need probabilities"),
        ([[1.0]], [0], "k >= 2"),
        ([[0.5, 0.5]], [0, 1], "need probabilities"),
    ],
)
def test_what_is_no_law_or_no_label_is_refused(p, y, message) -> None:
    with pytest.raises(ValueError) as error:
        ClassEvaluation.of(p, y)
    assert message in str(error.value)


def test_bins_must_be_at_least_one() -> None:
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        ClassEvaluation.of([[0.5, 0.5]], [0], bins=0)
