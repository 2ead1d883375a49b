"""Scores of class probabilities against scikit-learn, simulation and their own identities."""

import time
import tracemalloc

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss, log_loss

from kernelfield.uq.classes import EXACT, ClassEvaluation, _folded, _heads


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


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 700])
def test_the_law_of_heads_is_that_of_unequal_coins(n) -> None:
    p = np.random.default_rng(n).random(n)
    law = np.ones(1)
    for one in p:
        law = np.convolve(law, [1 - one, one])
    np.testing.assert_allclose(_heads(p), law, atol=1e-14)
    np.testing.assert_allclose(_heads(np.full(n, 0.3)), stats.binom.pmf(np.arange(n + 1), n, 0.3), atol=1e-14)


@pytest.mark.parametrize(("low", "high", "n"), [(0.5, 0.6, 1650), (0.9, 1.0, 9000), (0.985, 1.0, 54_000)])
def test_at_the_switch_a_gaussian_has_the_mean_gap_of_the_coins(low, high, n) -> None:
    p = np.linspace(low, high, n)
    variance = (p * (1 - p)).sum()
    assert EXACT <= variance < 1.1 * EXACT
    gap, law = np.abs(np.arange(n + 1) - p.sum()), _heads(p)
    assert gap @ law == pytest.approx(np.sqrt(2 / np.pi * variance), rel=1 / 6 / variance)
    ends = np.sqrt(variance) * stats.norm.ppf([0.75, 0.95, 0.975])  # within half a step of the lattice
    inside = [law[gap <= end].sum() for end in ends]
    np.testing.assert_allclose(inside, [0.5, 0.9, 0.95], atol=0.8 / np.sqrt(variance))


def test_the_null_is_that_of_drawing_labels_one_by_one() -> None:
    result, generator = simulated(600), np.random.default_rng(1)
    p, order = result.confidence, np.argsort(result.confidence, kind="stable")
    draws = []
    for _ in range(4000):
        right = generator.random(600) < p
        draws.append(sum(abs((p[part] - right[part]).sum()) for part in np.array_split(order, 15)) / 600)
    found = result.null()
    spread = np.std(draws)
    assert found.mean == pytest.approx(np.mean(draws), abs=6 * spread * (1 / 2000 + 1 / 4000) ** 0.5)
    low, high = np.quantile(draws, [0.05, 0.95])
    assert (found.low, found.high) == (pytest.approx(low, abs=0.3 * spread), pytest.approx(high, abs=0.3 * spread))


@pytest.mark.parametrize(("n", "known"), [(200, 0.087), (1000, 0.038), (10_000, 0.012)])
def test_the_ece_of_a_perfect_classifier_of_two_classes_is_far_from_zero(n, known) -> None:
    """Confidence uniform on [1/2, 1], 15 bins of equally many rows.

    Many rows give sqrt(2 / pi) sqrt(15 / n) times the mean of sqrt(p (1 - p)), which is pi / 8.
    """
    generator, eces = np.random.default_rng(0), []
    for _ in range(max(40, 40_000 // n)):
        p = 0.5 + 0.5 * generator.random(n)
        result = ClassEvaluation.of(np.stack([p, 1 - p], 1), (generator.random(n) > p).astype(int))
        eces.append(result.ece)
    error = np.std(eces) / np.sqrt(len(eces))
    assert np.mean(eces) == pytest.approx(np.sqrt(2 / np.pi * 15 / n) * np.pi / 8, rel=0.02, abs=6 * error)
    assert np.mean(eces) == pytest.approx(known, abs=0.0005 + 6 * error)
    assert result.null().mean == pytest.approx(np.mean(eces), rel=0.05)


@pytest.mark.slow
def test_the_null_of_a_million_rows_takes_seconds_and_little_memory() -> None:
    generator = np.random.default_rng(0)
    p = 1 - 0.5 * generator.random(1_000_000) ** 6
    result = ClassEvaluation.of(np.stack([p, 1 - p], 1), (generator.random(1_000_000) > p).astype(int))
    assert result.ece < 0.01
    tracemalloc.start()
    start = time.perf_counter()
    null = result.null()
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert null.low < null.mean < null.high
    assert seconds < 10 and peak < 30e6


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


def test_the_order_of_rows_says_nothing_of_calibration() -> None:
    """Confidences of one digit tie by the hundred; rows sorted by whether they are right give what shuffled ones do."""
    generator = np.random.default_rng(0)
    p = generator.integers(50, 100, 2000) // 10 / 10
    table, labels = np.stack([p, 1 - p], 1), (generator.random(2000) > p).astype(int)
    known = ClassEvaluation.of(table, labels)
    for order in (np.argsort(labels, kind="stable"), generator.permutation(2000)):
        moved = ClassEvaluation.of(table[order], labels[order])
        assert moved.scores() == pytest.approx(known.scores(), abs=1e-12)
        assert vars(moved.brier_parts()) == pytest.approx(vars(known.brier_parts()), abs=1e-12)
        for one, other in zip(vars(moved.reliability()).values(), vars(known.reliability()).values(), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-12)
    assert known.reliability().count.tolist() == [(p == level).sum() for level in np.unique(p)]


def test_a_constant_confidence_has_one_bin_and_the_error_of_all_rows() -> None:
    labels = np.repeat([0, 1], [703, 297])
    result = ClassEvaluation.of(np.tile([0.7, 0.3], (1000, 1)), labels)
    assert result.reliability().count.tolist() == [1000]
    assert result.ece == pytest.approx(0.003, abs=1e-12)
    gap = np.abs(np.arange(1001) / 1000 - 0.7)
    exact = stats.binom(1000, 0.7).pmf(np.arange(1001)) @ gap
    assert result.null().mean == pytest.approx(exact, rel=6 * 0.76 / 2000**0.5)  # |g| has 0.76 of its mean as deviation
