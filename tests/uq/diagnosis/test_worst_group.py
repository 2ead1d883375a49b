"""The search finds the group that was spoilt, and the held-out half does not flatter it."""

import numpy as np
import pytest

from kernelfield.uq.diagnosis.worst_group import worst_class_group, worst_group
from tests.uq.diagnosis.worlds import classes, world


def test_a_tree_finds_a_group_of_a_number_and_a_category():
    spoilt = lambda at: np.where((at["x2"] > 0.5) & (at["site"] == "Bern"), 2.0, 1.0)  # noqa: E731
    found = worst_group(*world(4000, 0, spoilt))
    assert (found.method, found.p_value < 1e-10) == ("tree", True)
    assert "x2 > " in found.words
    assert "site is Bern" in found.words
    assert found.low < 2 * 0.7946 - 1 + 0.01 < found.high + 0.05  # P(|z| < 1.645 / 2) = 0.589
    assert found.words in found.sentence


def test_a_slab_finds_what_no_column_shows_alone():
    found = worst_group(*world(20_000, 1, lambda at: np.where(at["x2"] + at["x3"] > 1.5, 1.7, 1.0)))
    assert (found.method, found.p_value < 1e-10) == ("slab", True)
    assert "x2" in found.words
    assert "x3" in found.words


def test_a_calibrated_model_looks_worse_where_it_was_searched_than_where_it_was_tested():
    made = [worst_group(*world(600, seed)) for seed in range(12)]
    assert np.mean([one.found_coverage for one in made]) < 0.82
    assert np.mean([one.coverage for one in made]) == pytest.approx(
        0.9, abs=6 * (0.09 / sum(o.count for o in made)) ** 0.5
    )


@pytest.mark.slow
def test_the_held_out_test_has_its_size():
    p_values = [worst_group(*world(400, seed)).p_value for seed in range(200)]
    assert np.mean(np.array(p_values) <= 0.1) <= 0.1 + 3 * (0.09 / 200) ** 0.5


def test_sure_classes_that_are_wrong_are_found():
    evaluation, columns = classes(3000, 0, lambda at: np.where(at["x0"] > 0.8, 4.0, 1.0))
    found = worst_class_group(evaluation, columns)
    assert "x0 > " in found.words
    assert found.promised - found.coverage > 0.1
    assert found.p_value < 1e-6


def test_missing_numbers_count_as_the_middle_and_a_column_that_is_constant_as_nothing():
    evaluation, columns = world(400, 3)
    columns = {"x0": np.where(np.arange(400) % 7 == 0, np.nan, columns["x0"]), "one": np.ones(400)}
    assert "one" not in worst_group(evaluation, columns).words
    nothing = worst_group(evaluation, {"one": np.ones(400)})
    assert (nothing.words, nothing.count) == ("any value", 200)


def test_too_little_to_search_is_refused():
    evaluation, columns = world(199, 0)
    with pytest.raises(ValueError, match="at least 200 rows to split in halves, got 199"):
        worst_group(evaluation, columns)
    evaluation, columns = world(300, 0)
    with pytest.raises(ValueError, match="needs a column, got none"):
        worst_group(evaluation, {})
    with pytest.raises(ValueError, match=r"between 0 and 0\.5, got 0\.7"):
        worst_group(evaluation, columns, least=0.7)


def test_a_rule_on_days_says_dates_and_is_the_same_rule():
    evaluation, columns = world(2000, 0, lambda at: np.where(at["day"] >= 150, 3.0, 1.0))
    days = {"day": 19_723.0 + np.floor(columns["day"])}
    plain, made = worst_group(evaluation, days), worst_group(evaluation, days, dates=["day"])
    assert (plain.words, made.words) == ("day > 19872", "day > 2024-05-29")
    assert (made.count, made.p_value) == (plain.count, plain.p_value)
