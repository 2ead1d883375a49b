"""Groups have the coverage that counting gives, and their tests the size they claim."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from kernelfield.uq.diagnosis.groups import CONFIDENT, STD, by_column, class_by_column, rarity
from tests.uq.diagnosis.worlds import classes, gaussian, world


def test_a_group_s_figures_are_those_of_its_rows():
    evaluation, columns = world(600, 0)
    made = {column.name: column for column in by_column(evaluation, columns)}
    assert list(made) == [*columns, STD]
    group = next(group for group in made["site"].groups if group.label == "Bern")
    part = evaluation.rows(columns["site"] == "Bern")
    scores = part.scores()
    assert (group.count, group.coverage) == (len(part.y), pytest.approx(scores["coverage90"]))
    assert (group.rmse, group.crps) == (pytest.approx(scores["rmse"]), pytest.approx(scores["crps"]))
    assert group.pit == pytest.approx(part.pit.mean())
    hits = round(group.coverage * group.count)
    law = stats.binom(group.count, 0.9)
    assert group.p_value == pytest.approx(min(1, 2 * min(law.cdf(hits), law.sf(hits - 1))))
    assert (group.low, group.high) == tuple(law.ppf([0.025, 0.975]) / group.count)
    json.dumps([asdict(column) for column in made.values()], allow_nan=False)


def test_a_group_of_wrong_intervals_is_found():
    evaluation, columns = world(1000, 1, lambda at: np.where(at["site"] == "Bern", 1.6, 1.0))
    made = {column.name: column for column in by_column(evaluation, columns)}
    assert made["site"].adjusted < 1e-4
    assert made["site"].worst.label == "Bern"
    assert next(group for group in made["site"].groups if group.label == "Chur").p_value > 0.01


@pytest.mark.slow
def test_columns_together_are_seldom_wrong_about_calibrated_laws():
    least = [min(c.adjusted for c in by_column(*world(150, seed))) for seed in range(150)]
    assert np.mean(np.array(least) <= 0.1) <= 0.1 + 2.5 * (0.09 / 150) ** 0.5


def test_laws_without_a_distribution_function_are_judged_by_their_ends():
    evaluation, columns = world(200, 2)
    blind = type(evaluation)(**(vars(evaluation) | {"pit": np.full((200, 1), np.nan)}))
    pairs = zip(by_column(evaluation, columns), by_column(blind, columns), strict=True)
    assert all(one.p_value == other.p_value for one, other in pairs)


def test_classes_are_held_against_their_confidence():
    evaluation, columns = classes(2000, 0, lambda at: np.where(at["site"] == "Bern", 3.0, 1.0))
    made = {column.name: column for column in class_by_column(evaluation, columns)}
    assert made.keys() == {"x0", "site", "day", CONFIDENT}
    bern = next(group for group in made["site"].groups if group.label == "Bern")
    rows = columns["site"] == "Bern"
    assert bern.accuracy == pytest.approx(evaluation.right[rows].mean())
    assert bern.confidence == pytest.approx(evaluation.confidence[rows].mean())
    assert bern.p_value < 1e-6
    assert next(group for group in made["site"].groups if group.label == "Basel").p_value > 0.001


@pytest.mark.slow
def test_class_columns_together_are_seldom_wrong_about_calibrated_probabilities():
    least = [min(c.adjusted for c in class_by_column(*classes(120, seed))) for seed in range(150)]
    assert np.mean(np.array(least) <= 0.1) <= 0.1 + 2.5 * (0.09 / 150) ** 0.5


@pytest.mark.parametrize(("make", "judge"), [(world, by_column), (classes, class_by_column)])
def test_columns_asked_for_are_looked_at_value_by_value_and_come_first(make, judge):
    evaluation, columns = make(600, 0)
    columns["code"] = np.repeat(np.arange(60.0), 10)
    plain = {column.name: column for column in judge(evaluation, columns)}
    made = judge(evaluation, columns, groups=["code", "site"])
    assert [column.name for column in made][:2] == ["code", "site"]
    assert sorted(column.name for column in made) == sorted(plain)
    assert [group.label for group in made[0].groups] == [str(code) for code in range(60)]
    assert {group.count for group in made[0].groups} == {10}
    assert len(plain["code"].groups) == 10
    assert made[1].groups == plain["site"].groups
    with pytest.raises(ValueError, match="no column is called 'town'; there are"):
        judge(evaluation, columns, groups=["town"])


def test_a_site_with_few_rows_is_found_where_it_is_asked_for():
    evaluation, columns = world(600, 3, lambda at: np.where(np.arange(600) // 10 == 42, 8.0, 1.0))
    columns["code"] = np.repeat(np.arange(60.0), 10)
    found = by_column(evaluation, columns, groups=["code"])[0]
    assert (found.worst.label, found.adjusted < 1e-3) == ("42", True)


def test_of_a_million_rows_the_group_that_fails_most_is_the_worst_whatever_the_order():
    n = 1_000_000
    rng = np.random.default_rng(0)
    site = rng.choice(["Chur", "Bern", "Aarau", "Zug"], n)
    wrong = {"Chur": 1.4, "Bern": 2.5, "Aarau": 1.7, "Zug": 1.2}
    factor = np.select([site == name for name in wrong], list(wrong.values()))
    evaluation = gaussian(factor * rng.standard_normal(n), np.zeros(n), np.ones(n))
    column = by_column(evaluation, {"site": site})[0]
    assert all(group.p_value == 0 for group in column.groups)
    assert column.worst.label == "Bern"
    ranks = sorted(column.groups, key=rarity)
    assert [group.label for group in ranks] == ["Bern", "Aarau", "Chur", "Zug"]
