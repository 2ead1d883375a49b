"""Laws are judged by what they promised: all intervals, or those between quantiles that were given."""

import numpy as np
import pytest
from scipy import stats

from kernelfield.uq.arrays import law_from
from kernelfield.uq.calibration import Calibration
from kernelfield.uq.diagnosis.drift import drift
from kernelfield.uq.diagnosis.findings import diagnose
from kernelfield.uq.diagnosis.groups import by_column
from kernelfield.uq.diagnosis.worst_group import worst_group
from kernelfield.uq.promises import main_promise, promised
from kernelfield.uq.scores import Evaluation, evaluate
from kernelfield.uq.verdict import output_verdicts

RNG = np.random.default_rng(0)
SITE = RNG.choice(["Bern", "Oslo"], 1200)
Y = np.where(SITE == "Bern", 2.0, 1.0) * RNG.normal(size=1200)


def told(*levels: float) -> Evaluation:
    """Quantiles of a standard normal, right in Oslo alone."""
    return evaluate(law_from(quantiles={p: np.full(1200, stats.norm.ppf(p)) for p in levels}), Y)


@pytest.mark.parametrize(
    ("levels", "shares", "main"),
    [
        ((0.1, 0.9), [0.8], (0.1, 0.9)),
        ((0.05, 0.25, 0.5, 0.75, 0.95), [0.5, 0.9], (0.05, 0.95)),
        ((0.1, 0.5), [0.4], (0.1, 0.5)),
        ((0.01, 0.2, 0.8, 0.99), [0.98], (0.01, 0.99)),
    ],
)
def test_the_intervals_are_between_levels_that_were_given(levels, shares, main):
    assert [one.share for one in promised(told(*levels))] == pytest.approx(shares)
    chief = main_promise(told(*levels))
    assert (chief.low, chief.high) == pytest.approx(main)


@pytest.mark.parametrize("levels", [(0.1, 0.9), (0.1, 0.5), (0.25, 0.75)])
def test_groups_worst_group_and_drift_count_values_between_the_quantiles(levels):
    evaluation, (low, high) = told(*levels), levels
    inside = (stats.norm.ppf(low) <= Y) & (stats.norm.ppf(high) >= Y)
    column = by_column(evaluation, {"site": SITE})[0]
    for group in column.groups:
        rows = group.label == SITE
        assert group.coverage == pytest.approx(inside[rows].mean())
        assert group.promised == pytest.approx(high - low)
        law = stats.binom(rows.sum(), high - low)
        assert group.p_value == pytest.approx(
            min(1, 2 * min(law.cdf(inside[rows].sum()), law.sf(inside[rows].sum() - 1)))
        )
    assert worst_group(evaluation, {"site": SITE}).promised == pytest.approx(high - low)
    over_time = drift(evaluation, np.arange(1200.0))
    assert over_time.parts[0].promised == pytest.approx(high - low)
    assert over_time.parts[0].coverage == pytest.approx(inside[:120].mean())


def test_the_light_names_the_interval_that_it_judges():
    evaluation = told(0.1, 0.9)
    found = diagnose(evaluation, columns={"site": SITE})[0]
    light = next(one for one in output_verdicts(evaluation, None, found, given=1) if one.name == "conditional")
    assert light.grade == "bad" and light.sentence.startswith("The 80% intervals hold")
    assert "against 80.0% promised" in light.sentence and light.threshold == pytest.approx(0.8)


def test_the_curve_and_the_quantiles_are_drawn_at_the_levels_given():
    found = Calibration.of(told(0.05, 0.1, 0.5, 0.9, 0.95))
    assert found.curve().levels == pytest.approx([0.8, 0.9])
    assert found.tails().levels == pytest.approx([0.05, 0.1, 0.5, 0.9, 0.95])
    assert not found.shaped and Calibration.of(told(*np.arange(1, 10) / 10)).shaped
    assert len(Calibration(found.pit).curve().levels) == 99


def test_laws_that_promise_nothing_have_no_groups():
    nothing = Evaluation(**told(0.1, 0.9).arrays(), levels=())
    assert by_column(nothing, {"site": SITE}) == []
    found = diagnose(nothing, columns={"site": SITE}, time=np.arange(1200.0))[0]
    assert found.columns == () and found.worst is None and found.drift is None
    with pytest.raises(ValueError, match="at least two levels"):
        drift(nothing, np.arange(1200.0))
