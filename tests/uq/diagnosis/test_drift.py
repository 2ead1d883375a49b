"""Drift is seen where errors change, seldom where they do not, and in the order of time."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from kernelfield.uq.diagnosis.drift import class_drift, drift
from kernelfield.uq.words import day
from tests.uq.diagnosis.worlds import classes, world


def test_false_alarms_keep_ville_s_bound():
    alarms = []
    for seed in range(100):
        evaluation, columns = world(300, seed)
        alarms.append(drift(evaluation, columns["day"], level=0.1).alarm is not None)
    assert np.mean(alarms) <= 0.1 + 3 * (0.09 / 100) ** 0.5


def test_a_model_that_was_always_wrong_does_not_drift():
    alarms = [drift(*_timed(*world(1000, seed, lambda _: 1.4))).alarm for seed in range(10)]
    assert alarms.count(None) >= 9


def test_a_change_of_spread_raises_an_alarm_after_it_happened():
    for seed in range(5):
        found = drift(*_timed(*world(3000, seed, lambda at: np.where(at["day"] > 150, 1.7, 1.0))))
        assert found.alarm is not None
        assert 1500 < found.alarm < 2500
        assert found.alarm_time == found.alarm / 10
        assert found.p_value == pytest.approx(10**-found.highest)
        assert found.p_value < 1 / 300


def test_a_bias_raises_an_alarm_though_intervals_hardly_notice():
    evaluation, columns = world(3000, 0)
    shift = np.where(columns["day"] > 150, 0.5, 0.0)[:, None]
    pit = 1 - np.clip(1 - evaluation.pit - shift * 0.3, 0, 1)
    assert drift(type(evaluation)(**(vars(evaluation) | {"pit": pit})), columns["day"]).alarm is not None


def _timed(evaluation, columns):
    return evaluation, columns["day"]


def test_rows_are_put_in_order_and_those_without_time_left_out():
    evaluation, columns = world(800, 1, lambda at: np.where(at["day"] > 40, 3.0, 1.0))
    mixed = np.random.default_rng(0).permutation(800)
    straight, shuffled = drift(evaluation, columns["day"]), drift(evaluation.rows(mixed), columns["day"][mixed])
    assert (straight.path, straight.alarm_time) == (shuffled.path, shuffled.alarm_time)
    assert mixed[shuffled.alarm] == straight.alarm
    text = np.array([f"2026-{i // 28 % 12 + 1:02d}-{i % 28 + 1:02d}" for i in range(800)], dtype=object)
    text[:3] = None
    found = drift(evaluation, text)
    assert (found.count, found.dropped) == (797, 3)
    assert found.times[0] == "2026-01-01"


def test_windows_have_the_coverage_of_their_rows():
    evaluation, columns = world(500, 2)
    found = drift(evaluation, columns["day"])
    inside = np.abs(2 * evaluation.pit[:, 0] - 1) <= 0.9
    assert [part.coverage for part in found.parts] == pytest.approx(inside.reshape(10, 50).mean(1))
    first, last = found.windows[0], found.windows[-1]
    assert (first.coverage, first.low) == (pytest.approx(inside[:50].mean()), 0.82)
    assert last.stop == columns["day"][-1]
    json.dumps(asdict(found), allow_nan=False)


def test_classes_drift_too():
    evaluation, columns = classes(4000, 0, lambda at: np.where(at["day"] > 2000, 4.0, 1.0))
    assert class_drift(evaluation, columns["day"]).alarm > 2000
    assert class_drift(classes(2000, 1)[0], np.arange(2000)).alarm is None


def test_too_few_times_are_refused():
    evaluation, columns = world(60, 0)
    with pytest.raises(ValueError, match="at least 50 rows with a time, got 40"):
        drift(evaluation, np.where(np.arange(60) < 20, np.nan, columns["day"]))
    with pytest.raises(ValueError, match=r"a time for each of 60 rows, got shape \(3,\)"):
        drift(evaluation, np.zeros(3))


def test_days_come_out_as_dates():
    evaluation, _ = world(400, 0, lambda at: np.where(at["day"] >= 20, 3.0, 1.0))
    days = 19_723.0 + np.arange(400) / 2
    plain, made = drift(evaluation, days), drift(evaluation, days, dated=True)
    assert (made.times, made.path, made.alarm) == (plain.times, plain.path, plain.alarm)
    assert (made.windows[0].start, made.windows[0].stop) == ("2024-01-01", "2024-01-25 12:00")
    assert made.parts[-1].stop == "2024-07-18 12:00"
    assert made.alarm_time == day(plain.alarm_time)
