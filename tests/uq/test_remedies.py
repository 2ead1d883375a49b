"""Remedies are measured on rows they have not seen, and are recommended where they help."""

import numpy as np
import pytest
import torch

from kernelfield.core.posterior import Draws
from kernelfield.uq.lights import Verdict
from kernelfield.uq.remedies import PLAIN, Remedy, advised, recommended, remedies


def tried(n: int, *, factor: float = 1.0, outputs: int = 1) -> list[Remedy]:
    """Of Gaussian predictions whose deviations are `factor` of what they should be."""
    rng = np.random.default_rng(3)
    std = rng.uniform(0.5, 2, (n, outputs))
    y = std * rng.standard_normal((n, outputs))

    def law_at(index: np.ndarray) -> Draws:
        variance = torch.as_tensor(factor * std[index]).square()
        return Draws(torch.zeros(1, len(index), outputs, dtype=torch.float64), torch.ones(1).double(), variance)

    return remedies(law_at, y)


def test_a_deviation_that_is_too_small_is_found_and_mended_on_other_rows():
    plain, std, isotonic = tried(4000, factor=0.5)
    assert [one.name for one in (plain, std, isotonic)] == [PLAIN, "std", "isotonic"]
    assert std.learned["factor"][0] == pytest.approx(2.0, rel=6 / np.sqrt(2 * 2000))
    coverage = [one.evaluation.scores()["coverage90"] for one in (plain, std, isotonic)]
    assert coverage[0] == pytest.approx(0.589, abs=6 * 0.011)  # of 1.645 / 2 deviations
    assert coverage[1:] == pytest.approx([0.9, 0.9], abs=6 * np.sqrt(2) * 0.0067)
    assert recommended([plain, std, isotonic]) in ("std", "isotonic")


def test_right_predictions_may_stay_as_they_are():
    assert recommended(tried(4000)) is None


def test_all_are_measured_on_the_same_rows_and_at_most_so_many():
    rows = [one.evaluation.y for one in tried(30_000)]
    assert len(rows[0]) == 5000
    for other in rows[1:]:
        np.testing.assert_array_equal(other, rows[0])


@pytest.mark.parametrize(("n", "names"), [(18, []), (20, [PLAIN, "std"]), (100, [PLAIN, "std", "isotonic"])])
def test_a_remedy_is_tried_where_the_rows_are_enough(n, names):
    found = tried(n)
    assert [one.name for one in found] == names
    assert recommended(tried(18)) is None


def test_outputs_are_mended_one_by_one():
    assert len(tried(400, factor=0.5, outputs=2)[1].learned["factor"]) == 2


def test_a_remedy_that_was_tried_replaces_what_the_light_proposes():
    lights = [
        Verdict("bad", "Intervals are too narrow", "They are.", "calibration", remedy="Recalibrate: multiply by 2."),
        Verdict("bad", "Some groups fail", "They do.", "conditional", remedy="Collect data in Bern."),
    ]
    assert advised(lights, None, fitted=True)[0] == "Recalibrate: multiply by 2."
    told = advised(lights, "isotonic", fitted=True)
    assert told[0].startswith("Collect data in Bern.")
    assert "kernelfield calibrate --method isotonic" in told[1]
    assert "Calibrated(estimator, method='isotonic')" in advised(lights, "isotonic", fitted=False)[1]
