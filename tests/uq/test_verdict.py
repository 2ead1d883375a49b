"""Verdicts say what the figures say, are green for models that are right, and red for those that are wrong."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from kernelfield.core.posterior import Draws
from kernelfield.uq.arrays import law_from
from kernelfield.uq.diagnosis.findings import diagnose
from kernelfield.uq.lights import LIGHTS
from kernelfield.uq.scores import Evaluation, baseline, evaluate
from kernelfield.uq.verdict import Verdict, advice, calibrated, output_verdicts, verdicts
from tests.uq.diagnosis.worlds import gaussian, world


def case(n: int, factor: float = 1.0, signal: float = 2.0, m: int = 1) -> tuple[Evaluation, Evaluation]:
    """A law that knows the signal, of a deviation wrong by a factor, and the baseline."""
    f, noise = torch.randn(2, n, m, generator=torch.Generator().manual_seed(1))
    y = signal * f + noise
    law = Draws(signal * f.unsqueeze(0), torch.ones(1), torch.tensor(factor**2))
    return evaluate(law, y), baseline(y.numpy(), y.numpy())


def lights(n: int, seed: int, error=lambda _: 1.0) -> list[Verdict]:
    """All six of a simulated model, with everything given that may be."""
    evaluation, columns = world(n, seed, error)
    outside = 3 * np.exp(0.5 * np.random.default_rng(seed).standard_normal((max(n // 5, 20), 1)))
    found = diagnose(evaluation, columns=columns, time=columns["day"], outside=outside)
    return verdicts(evaluation, baseline(evaluation.y, evaluation.y), ["y"], findings=found)


def from_pit(pit: np.ndarray) -> Evaluation:
    return gaussian(stats.norm.ppf(pit), np.zeros(len(pit)), np.ones(len(pit)))


@pytest.mark.parametrize(
    ("factor", "grade", "words"),
    [(1.0, "good", "keep their promise"), (0.6, "bad", "too narrow"), (1.6, "bad", "too wide")],
)
def test_intervals_are_judged_by_their_band(factor, grade, words):
    honesty, _ = verdicts(*case(500, factor), ["y"])
    assert honesty.grade == grade
    assert words in honesty.title
    assert "of 500 test values" in honesty.sentence
    assert (honesty.name, honesty.count, honesty.threshold) == ("calibration", 500, 0.9)
    assert honesty.low < honesty.value < honesty.high


def test_the_band_in_the_sentence_is_that_of_the_binomial_law():
    honesty, _ = verdicts(*case(100), ["y"])
    tail = 0.02 / 6 / 7 / 2  # seven tests of one of six lights
    low, high = stats.binom.ppf([tail, 1 - tail], 100, 0.9)
    assert f"{low:.1f}% to {high:.1f}%" in honesty.sentence


@pytest.mark.parametrize("factor", [0.75, 1.25])
def test_a_deviation_wrong_by_a_quarter_shows_at_a_thousand_rows(factor):
    made = [calibrated(world(1000, seed, lambda _: 1 / factor)[0]) for seed in range(100)]
    assert sum(one.grade == "bad" for one in made) >= 95
    assert made[0].title == f"Intervals are too {'narrow' if factor < 1 else 'wide'}"
    assert f"standard deviations by about {1 / factor:.1f}" in made[0].remedy


def test_the_advised_factor_knows_no_bound():
    made = [calibrated(world(1000, 0, lambda _: 2.43)[0]), calibrated(world(1000, 1, lambda _: 10.0)[0])]
    for one, factor in zip(made, [2.43, 10.0], strict=True):
        advised = float(one.remedy.split("about ")[1].split(" ")[0])
        assert advised == pytest.approx(factor, rel=0.08)  # four standard errors of a 90% quantile of 1000
        assert f"Errors are typically {advised:.2f} times as large" in one.sentence
    evaluation, _ = world(1000, 0, lambda _: 2.43)
    evaluation.y[0] = 1e6  # one row is no matter of all
    assert calibrated(evaluation).remedy == made[0].remedy


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 1000, 20_000])
def test_no_light_is_red_for_a_model_that_is_right(n):
    red = [[one.name for one in lights(n, seed) if one.grade == "bad"] for seed in range(100)]
    assert sum(map(bool, red)) <= 5


def test_the_calibration_light_keeps_its_level_whatever_the_law():
    rng = np.random.default_rng(0)
    red = [calibrated(from_pit(rng.random(n)), level=0.1).grade == "bad" for n in (25, 120) for _ in range(75)]
    assert np.mean(red) <= 0.1 + 3 * (0.09 / 150) ** 0.5


def test_a_gap_that_no_decision_notices_is_green_however_many_the_rows():
    n = 200_000
    pit = np.linspace(0, 1, n + 2)[1:-1]
    slight = from_pit(stats.norm.cdf(stats.norm.ppf(pit) * 1.01))  # errors 1% too large: coverage 0.8966
    verdict = calibrated(slight)
    assert (verdict.grade, round(verdict.value, 3)) == ("good", 0.897)
    assert "too small to matter" in verdict.sentence
    assert calibrated(from_pit(stats.norm.cdf(stats.norm.ppf(pit) * 1.06))).grade == "bad"


def test_a_bias_and_a_shape_are_called_what_they_are():
    pit = np.linspace(0, 1, 4002)[1:-1]
    low = calibrated(from_pit(stats.norm.cdf(stats.norm.ppf(pit) + 0.4)))
    assert low.title == "Predictions are too low"
    assert "too low by about 0.4 predicted standard deviations" in low.remedy
    shape = calibrated(from_pit(stats.norm.cdf(stats.t(3).ppf(pit) / 3**0.5)))
    assert shape.grade == "bad"


def test_a_gain_beyond_chance_is_named_and_its_absence_too():
    gain = verdicts(*case(300), ["y"])[1]
    assert (gain.title, gain.name) == ("Better than the baseline", "sharpness")
    model, other = case(300)
    assert gain.value == pytest.approx(1 - model.crps.mean() / other.crps.mean())
    assert gain.low < gain.value < gain.high
    worse = verdicts(other, model, ["y"])[1]
    assert worse.title == "Worse than the baseline"
    assert advice([worse]) == [worse.remedy]
    assert verdicts(*case(300, signal=0.0), ["y"])[1].grade == "open"
    assert output_verdicts(model, None)[1].grade == "open"


def test_the_baseline_is_called_what_it_is():
    worse = verdicts(*reversed(case(300)), ["y"], rule="the mean of the test values")[1]
    assert worse.remedy.endswith("it does worse than always predicting the mean of the test values.")
    assert "than that of always predicting the mean of the test values" in worse.sentence


def test_a_baseline_without_spread_is_no_rival():
    model, _ = case(300)
    made = verdicts(model, baseline(np.full(9, 0.1), model.y), ["y"])[1]
    assert (made.grade, made.title) == ("open", "The baseline has no spread")


def test_few_rows_are_not_judged():
    assert [verdict.grade for verdict in verdicts(*case(1), ["y"])] == ["open", "open"]
    few = verdicts(*case(19, 0.1), ["y"])[0]
    assert few.grade == "open"
    assert "At least 20 are needed" in few.sentence


def test_what_was_not_given_is_open_and_says_so():
    evaluation, _ = world(150, 0)
    made = {one.name: one for one in verdicts(evaluation, None, ["y"], findings=diagnose(evaluation))}
    assert list(made) == list(LIGHTS)
    assert {made[name].grade for name in ("sharpness", "conditional", "tails", "outside", "drift")} == {"open"}
    assert "--time" in made["drift"].sentence
    assert "--ood" in made["outside"].sentence
    assert "At least 300 rows" in made["tails"].sentence
    assert "at least 200" in made["conditional"].sentence


def test_each_light_turns_red_for_its_own_fault():
    spoilt = {one.name: one for one in lights(3000, 0, lambda at: np.where(at["site"] == "Bern", 1.8, 0.8))}
    assert spoilt["conditional"].grade == "bad"
    assert "site is Bern" in spoilt["conditional"].remedy
    changed = {one.name: one for one in lights(3000, 1, lambda at: np.where(at["day"] > 150, 1.7, 1.0))}
    assert changed["drift"].grade == "bad"
    rng = np.random.default_rng(2)
    heavy = {one.name: one for one in lights(3000, 2, lambda _: (3 / 5 * 5 / rng.chisquare(5, 3000)) ** 0.5)}
    assert heavy["tails"].grade == "bad"
    evaluation, _ = world(500, 3)
    same = diagnose(evaluation, outside=evaluation.std[::-1])
    assert verdicts(evaluation, None, ["y"], findings=same)[4].grade == "bad"
    assert len(advice(list(spoilt.values()))) == sum(one.grade == "bad" for one in spoilt.values())


def test_several_outputs_are_counted_and_the_failing_ones_named():
    right, wrong = case(500), case(500, 0.5)
    pair = [
        Evaluation(**{name: np.hstack([values, b.arrays()[name]]) for name, values in a.arrays().items()})
        for a, b in zip(right, wrong, strict=True)
    ]
    honesty, gain = verdicts(*pair, ["first", "second"])
    assert (honesty.grade, honesty.title) == ("bad", "Intervals keep their promise for 1 of 2 outputs")
    assert honesty.sentence == "Except for second (intervals are too narrow)."
    assert honesty.remedy.startswith("second: recalibrate")
    assert (gain.grade, gain.sentence) == ("good", "This holds for each of them.")
    assert len(verdicts(*pair, ["first", "second"], findings=diagnose(pair[0]))) == 6


def given(levels: list[float], n: int = 1000, factor: float = 1.0) -> Evaluation:
    """Right but for a factor, and known by quantiles of these levels alone; beyond 99% errors are far too large."""
    z = stats.norm.ppf((np.arange(n) + 0.5) / n)
    y = np.where(np.abs(z) > 2.33, 3 * z, z)[np.random.default_rng(0).permutation(n)]
    return evaluate(law_from(quantiles={p: np.full(n, stats.norm.ppf(p) / factor) for p in levels}), y)


@pytest.mark.parametrize(
    ("levels", "share", "tests"),
    [([0.05, 0.95], 0.9, 1), ([0.1, 0.9], 0.8, 1), ([0.15, 0.5, 0.85], 0.7, 1), ([0.05, 0.1, 0.9, 0.95], 0.9, 2)],
)
def test_intervals_are_judged_by_what_they_promised(levels, share, tests):
    honesty, _, _, tails, *_ = output_verdicts(right := given(levels), None, diagnose(right)[0])
    assert (honesty.grade, honesty.threshold) == ("good", share)
    assert honesty.sentence.startswith(f"The {share:.0%} intervals hold {share:.1%} of 1,000 test values")
    assert f"({1 - 0.02 / 6 / tests:.2%} band)" in honesty.sentence
    assert (tails.grade, tails.title) == ("open", "Tails are not known")
    assert tails.sentence.startswith(f"Only quantiles from {levels[0]:.0%} to {levels[-1]:.0%} were given")
    narrow = calibrated(given(levels, factor=2.0))
    assert (narrow.grade, narrow.title) == ("bad", "Intervals are too narrow")
    assert ("the widths of the intervals by about 2.0" in narrow.remedy) == (share == 0.9)


def test_quantiles_of_one_side_are_judged_by_what_lies_between_them():
    made = calibrated(given([0.1, 0.6]))
    assert made.grade == "good"
    assert made.sentence.startswith("The intervals from the 10% to the 60% quantile hold 50.0% of 1,000")
    assert calibrated(replace(given([0.1, 0.6]), levels=(0.1,))).title == "No intervals to judge"


def test_many_quantiles_have_a_shape_and_tails_as_far_as_they_go():
    grid = [0.01, *np.arange(0.05, 0.96, 0.05), 0.99]
    honesty, _, _, tails, *_ = output_verdicts(right := given(grid), None, diagnose(right)[0])
    assert f"({1 - 0.02 / 6 / 6:.2%} band)" in honesty.sentence  # 50%, 80%, 90% and three of the shape
    assert tails.grade == "good"
    assert "0.1%" not in tails.sentence
    known = output_verdicts(right := given([0.001, *grid, 0.999]), None, diagnose(right)[0])[3]
    assert (known.grade, "beyond the 0.1% and 99.9% points" in known.sentence) == ("bad", True)
