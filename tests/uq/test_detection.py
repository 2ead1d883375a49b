"""Detection against scikit-learn, exact laws and draws of rows one by one."""

import math
import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from kernelfield.uq.detection import CELLS, _cells, _from_counts, detection


def scores(n0: int, n1: int, *, gap: float = 1.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=n0), generator.normal(gap, 1.3, size=n1)


def by_sklearn(near: np.ndarray, far: np.ndarray) -> list[float]:
    came, all_scores = np.repeat([0, 1], [len(near), len(far)]), np.concatenate([near, far])
    let_out, let_in, _ = roc_curve(1 - came, -all_scores, drop_intermediate=False)
    return [
        roc_auc_score(came, all_scores),
        average_precision_score(came, all_scores),
        average_precision_score(1 - came, -all_scores),
        let_out[np.argmax(let_in >= 0.95)],
    ]


@pytest.mark.parametrize("digits", [8, 0])  # without and with ties
def test_the_values_are_those_of_scikit_learn(digits):
    near, far = (np.round(s, digits) for s in scores(301, 120))
    found = detection(near, far, draws=50)
    values = [one.value for one in (found.auroc, found.aupr_outside, found.aupr_inside, found.fpr95)]
    assert values == pytest.approx(by_sklearn(near, far), rel=1e-12)
    assert (found.inside, found.outside) == (301, 120)


def test_the_area_is_the_share_of_pairs_in_order_and_its_error_that_of_delong_pair_by_pair():
    near, far = (np.round(s, 1) for s in scores(40, 30))
    pairs = (far[None] > near[:, None]) + 0.5 * (far[None] == near[:, None])
    found = detection(near, far, draws=10).auroc
    assert found.value == pytest.approx(pairs.mean())
    error = math.sqrt(pairs.mean(1).var(ddof=1) / 40 + pairs.mean(0).var(ddof=1) / 30)
    logits = [math.log(p / (1 - p)) for p in (found.low, found.value, found.high)]
    step = 1.959963984540054 * error / (found.value * (1 - found.value))
    assert logits == pytest.approx([logits[1] - step, logits[1], logits[1] + step])


@pytest.mark.parametrize("digits", [8, 1])
def test_counts_in_cells_have_the_values_of_the_rows(digits):
    near, far = (np.sort(np.round(s, digits)) for s in scores(301, 120))
    found = _from_counts(*(counts[None] for counts in _cells(near, far)))[0]
    assert found == pytest.approx(by_sklearn(near, far)[1:], rel=1e-12)
    near, far = (np.sort(s) for s in scores(5 * CELLS, 3 * CELLS))
    cells = _cells(near, far)
    assert len(cells[0]) == CELLS and [counts.sum() for counts in cells] == [5 * CELLS, 3 * CELLS]
    assert _from_counts(*(counts[None] for counts in cells))[0] == pytest.approx(by_sklearn(near, far)[1:], abs=1e-3)


@pytest.mark.slow
def test_the_intervals_hold_the_truth_about_95_times_in_100():
    truth = by_sklearn(*scores(200_000, 100_000, seed=1))
    held, times = np.zeros(4), 200
    for seed in range(times):
        found = detection(*scores(200, 100, seed=seed + 2), draws=400)
        ends = (found.auroc, found.aupr_outside, found.aupr_inside, found.fpr95)
        held += [one.low <= value <= one.high for one, value in zip(ends, truth, strict=True)]
    # Percentiles of extreme ranks are a few percent short at 100 rows.
    assert np.all(np.abs(held / times - 0.95) < 6 * math.sqrt(0.95 * 0.05 / times)), held / times
    assert abs(held[0] / times - 0.95) < 4 * math.sqrt(0.95 * 0.05 / times)


# Each score in a cell of its own, and many to a cell.
@pytest.mark.parametrize("rows", [150, pytest.param(4 * CELLS, marks=pytest.mark.slow)])
def test_drawing_cells_is_drawing_rows(rows):
    near, far = scores(rows, rows // 2)
    found = detection(near, far, draws=1000)
    generator, draws = np.random.default_rng(9), 150
    drawn = np.array([by_sklearn(generator.choice(near, rows), generator.choice(far, rows // 2)) for _ in range(draws)])
    for index, one in enumerate((found.auroc, found.aupr_outside, found.aupr_inside, found.fpr95)):
        spread = drawn[:, index].std()
        # Of 150 draws the spread is known to 6%, of the ends of 1000 to 3%.
        assert (one.high - one.low) / (2 * 1.96 * spread) == pytest.approx(1, abs=6 * 0.065)
        assert abs((one.low + one.high) / 2 - drawn[:, index].mean()) < 0.6 * spread


def test_sets_that_do_not_overlap_have_an_end_that_their_rows_prove():
    found = detection([0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0], draws=20).auroc
    assert (found.value, found.low, found.high) == (1.0, pytest.approx(0.025 ** (1 / 3)), 1.0)
    turned = detection([4.0, 5.0, 6.0], [0.0, 1.0, 2.0, 3.0], draws=20).auroc
    assert (turned.value, turned.low, turned.high) == (0.0, 0.0, pytest.approx(1 - 0.025 ** (1 / 3)))
    # At that end, three separate pairs are all in order with probability 2.5%.
    assert found.low**3 == pytest.approx(0.025)


def test_the_curve_runs_from_corner_to_corner_and_has_the_area():
    near, far = scores(400, 300)
    found = detection(near, far, draws=10)
    assert (found.false_alarms[0], found.detections[0]) == (0, 0)
    assert (found.false_alarms[-1], found.detections[-1]) == (1, 1)
    assert len(found.detections) <= 201
    area = np.trapezoid(found.detections, found.false_alarms)
    assert area == pytest.approx(found.auroc.value, abs=0.005)


def test_the_same_seed_draws_the_same():
    near, far = scores(50, 50)
    assert detection(near, far).fpr95 == detection(near, far).fpr95
    assert detection(near, far).fpr95 != detection(near, far, seed=1).fpr95


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="1 scores of rows outside are NaN or infinite"):
        detection([0.0, 1.0], [np.nan, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"at least 2 rows inside \(better 50\), got 1"):
        detection([0.0], [1.0, 2.0])


@pytest.mark.slow
def test_a_million_rows_take_seconds():
    near, far = scores(700_000, 300_000)
    start = time.perf_counter()
    detection(near, far)
    assert time.perf_counter() - start < 10
