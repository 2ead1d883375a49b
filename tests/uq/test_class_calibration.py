"""Tests of class probabilities against MAPIE, brute force and simulation."""

import math
import time
from itertools import pairwise

import numpy as np
import pytest
from mapie.metrics import calibration as mapie
from scipy import stats

from kernelfield.uq.class_calibration import (
    adaptive_ece,
    brownian_reach,
    classwise_ece,
    kolmogorov,
    selective_risk,
    spiegelhalter,
    top_label_ece,
    worst_gap,
)
from kernelfield.uq.classes import ClassEvaluation


def simulated(n: int, k: int = 3, *, seed: int = 0, power: float = 1.0) -> ClassEvaluation:
    """Labels drawn from probabilities, of which those that are claimed are a power: 1 is calibrated."""
    generator = np.random.default_rng(seed)
    p = generator.dirichlet(np.full(k, 0.7), n)
    labels = (generator.random(n)[:, None] > p.cumsum(1)).sum(1).clip(max=k - 1)
    claimed = (p + 1e-9) ** power
    return ClassEvaluation.of(claimed / claimed.sum(1, keepdims=True), labels)


def gap_by_loops(p, came, edges) -> float:
    total = 0.0
    for low, high in pairwise(edges):
        inside = (p > low) & (p <= high)
        if inside.any():
            total += inside.mean() * abs(p[inside].mean() - came[inside].mean())
    return total


def test_errors_of_equal_width_are_those_of_loops():
    result, edges = simulated(400), np.linspace(0, 1, 16)
    assert top_label_ece(result) == pytest.approx(gap_by_loops(result.confidence, result.right, edges))
    each = [gap_by_loops(result.probabilities[:, j], result.labels == j, edges) for j in range(3)]
    assert classwise_ece(result) == pytest.approx(np.mean(each))


def test_the_adaptive_error_is_that_of_loops_over_classes_and_equal_bins():
    result, gaps = simulated(403), []
    for j in range(3):
        p, came = result.probabilities[:, j], result.labels == j
        parts = np.array_split(np.argsort(p), 10)
        gaps.append(sum(len(part) / 403 * abs(p[part].mean() - came[part].mean()) for part in parts))
    assert adaptive_ece(result, bins=10) == pytest.approx(np.mean(gaps))


def test_the_worst_gap_is_of_the_reliability_diagram():
    p = np.array([[0.6, 0.4], [0.7, 0.3], [0.9, 0.1], [0.95, 0.05]])
    result = ClassEvaluation.of(p, [0, 1, 0, 0], bins=2)
    assert worst_gap(result) == pytest.approx(0.15)
    assert worst_gap(result) >= result.ece


def test_spiegelhalter_s_and_the_walk_are_mapie_s_for_two_classes():
    result = simulated(300, 2, power=1.3)
    p, y = result.probabilities[:, 1], result.labels
    found = spiegelhalter(result)
    assert abs(found.statistic) == pytest.approx(abs(mapie.spiegelhalter_statistic(y, p)), rel=1e-10)
    # Theirs is one-sided.
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(mapie.spiegelhalter_statistic(y, p))), rel=1e-10)
    top = kolmogorov(result)
    scaled = mapie.kolmogorov_smirnov_statistic(result.right.astype(int), result.confidence)
    assert top.p_value == pytest.approx(
        mapie.kolmogorov_smirnov_p_value(result.right.astype(int), result.confidence), rel=1e-6
    )
    c = result.confidence
    assert top.statistic == pytest.approx(scaled * math.sqrt((c * (1 - c)).sum()) / 300, rel=1e-6)


def test_spiegelhalter_s_statistic_of_many_classes_is_brier_s_score_over_its_simulated_deviation():
    result = simulated(200, 4)
    p, generator = result.probabilities, np.random.default_rng(0)
    labels = (generator.random((20_000, 200, 1)) > p.cumsum(1)).sum(2).clip(max=3)
    said = p[np.arange(200), labels]
    brier = (1 + (p**2).sum(1) - 2 * said).sum(1)
    z = (result.brier * 200 - brier.mean()) / brier.std()
    assert spiegelhalter(result).statistic == pytest.approx(z, abs=6 / math.sqrt(20_000) * (1 + abs(z)))


@pytest.mark.parametrize("test", [spiegelhalter, kolmogorov])
def test_calibrated_probabilities_are_rejected_as_often_as_the_level_says_and_others_are_found(test):
    times = 400
    rejected = np.mean([test(simulated(400, seed=s)).p_value < 0.05 for s in range(times)])
    # The walk has steps, so that it reaches a little less far than Brownian motion: about 4%.
    assert -4 * math.sqrt(0.0475 / times) - 0.015 < rejected - 0.05 < 4 * math.sqrt(0.0475 / times)
    assert test(simulated(1500, power=2.0)).p_value < 1e-4
    assert test(simulated(1500, power=0.5)).p_value < 1e-4


def test_errors_that_cancel_in_the_mean_are_seen_by_the_walk_alone():
    """Half the rows are too sure, half not enough; confidence 0.7 and 0.9 with 60% and 100% right."""
    p = np.repeat([0.7, 0.9], 200)
    labels = np.concatenate([np.arange(200) % 5 >= 3, np.zeros(200)]).astype(int)
    result = ClassEvaluation.of(np.stack([p, 1 - p], 1), labels)
    assert result.accuracy == pytest.approx(p.mean())
    found = kolmogorov(result)
    assert found.statistic == pytest.approx(0.1 * 200 / 400)
    assert found.p_value == pytest.approx(brownian_reach(20 / math.sqrt(200 * (0.21 + 0.09))))


def test_rows_of_equal_confidence_have_no_order():
    p = np.tile([0.6, 0.4], (50, 1))
    labels = np.arange(50) // 30  # 60% right, and the first 30 rows all right
    assert kolmogorov(ClassEvaluation.of(p, labels)).statistic == pytest.approx(0, abs=1e-12)


def test_the_reach_of_brownian_motion_is_that_of_walks_and_both_series_agree():
    steps = np.random.default_rng(0).normal(size=(4000, 2000)) / math.sqrt(2000)
    reach = np.abs(steps.cumsum(1)).max(1)
    for x in (0.7, 1.0, 1.5, 2.2414):
        # A walk of 2000 steps reaches about 0.58 / sqrt(2000) less far than the motion between them.
        shifted = brownian_reach(x + 0.5826 / math.sqrt(2000))
        assert np.mean(reach > x) == pytest.approx(shifted, abs=6 * 0.5 / math.sqrt(4000))
    assert brownian_reach(1 - 1e-9) == pytest.approx(brownian_reach(1 + 1e-9), abs=1e-8)
    assert brownian_reach(0.0) == 1 and brownian_reach(8.0) == pytest.approx(4 * stats.norm.sf(8), rel=1e-10)


def test_probabilities_that_labels_cannot_contradict_by_chance_have_no_test():
    sure = ClassEvaluation.of([[1.0, 0.0], [0.0, 1.0]], [0, 1])
    level = ClassEvaluation.of([[0.5, 0.5], [0.5, 0.5]], [0, 1])
    assert math.isnan(spiegelhalter(sure).p_value) and math.isnan(spiegelhalter(level).p_value)
    assert math.isnan(kolmogorov(sure).p_value)


def test_the_selective_risk_of_classes_is_their_errors_by_confidence():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    found = selective_risk(ClassEvaluation.of(p, [0, 1, 0, 1]))
    assert found.risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert found.aurc == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_bins_must_be_at_least_one():
    for error in (top_label_ece, classwise_ece, adaptive_ece):
        with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
            error(simulated(10), 0)


@pytest.mark.slow
def test_a_million_rows_take_seconds():
    result = simulated(1_000_000)
    start = time.perf_counter()
    for one in (top_label_ece, classwise_ece, adaptive_ece, worst_gap, spiegelhalter, kolmogorov, selective_risk):
        one(result)
    assert time.perf_counter() - start < 12


def test_the_adaptive_error_of_a_constant_law_is_that_of_all_rows_in_any_order():
    labels, said = np.repeat([0, 1], [703, 297]), np.tile([0.7, 0.3], (1000, 1))
    for order in (np.arange(1000), np.random.default_rng(0).permutation(1000)):
        assert adaptive_ece(ClassEvaluation.of(said, labels[order])) == pytest.approx(0.003, abs=1e-12)
