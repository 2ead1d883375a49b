"""Mondrian intervals are split intervals of each group's own rows; small groups are pooled and named."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.posterior import Draws
from kernelfield.uq.conformal.conformity import Absolute, Quantiles
from kernelfield.uq.conformal.grouping import ByCluster, ByColumn, BySpread
from kernelfield.uq.conformal.mondrian import Mondrian
from kernelfield.uq.conformal.split import Split
from tests.uq.conformal.simulated import heteroscedastic


def rows_of(law: Draws, chosen: torch.Tensor) -> Draws:
    return Draws(law.values[:, chosen], law.weights, law.noise[chosen])


@pytest.mark.parametrize("score", [Absolute(), Quantiles((0.8,))], ids=repr)
@pytest.mark.parametrize(
    "groups", [ByColumn(0), ByColumn(1, bins=3), ByCluster(3), BySpread(4)], ids=["column", "bins", "cluster", "spread"]
)
def test_each_group_has_the_split_intervals_of_its_own_rows(groups, score):
    law, y, X = heteroscedastic(400, 2, 0)
    X[:, 0] = torch.arange(400) % 3
    generator = torch.Generator().manual_seed(0)
    fitted = Mondrian(groups, score, least=20).fit(law, y, X=X, generator=generator)
    low, high = fitted.interval(law, 0.8, X)
    codes = fitted.groups.codes(law, X)
    assert len(codes.unique()) == len(fitted.groups.names)
    for code in codes.unique():
        chosen = codes == code
        own = rows_of(law, chosen)
        assert_close((low[chosen], high[chosen]), Split(score).fit(own, y[chosen]).interval(own, 0.8))


def test_small_groups_share_a_calibration_and_are_named():
    law, y, X = heteroscedastic(200, 1, 1)
    X[:, 0] = torch.tensor([0.0] * 100 + [1.0] * 40 + [2.0] * 30 + [3.0] * 30)
    fitted = Mondrian(ByColumn(0)).fit(law, y, X=X)
    assert fitted.counts() == {"column 0 = 0": 100, "column 0 = 1": 100, "column 0 = 2": 100, "column 0 = 3": 100}
    small = X[:, 0] > 0
    ends = tuple(end[small] for end in fitted.interval(law, 0.9, X))
    own = rows_of(law, small)
    assert_close(ends, Split().fit(own, y[small]).interval(own, 0.9))
    assert "in 1 group," in fitted.notes()[0]
    assert "3 groups with few rows, calibrated together on 100: column 0 = 1, column 0 = 2" in fitted.notes()[1]


def test_groups_too_small_even_together_and_unknown_ones_have_all_rows():
    law, y, X = heteroscedastic(120, 1, 2)
    X[:, 0] = torch.tensor([0.0] * 100 + [1.0] * 20)
    fitted = Mondrian(ByColumn(0)).fit(law, y, X=X)
    assert fitted.counts() == {"column 0 = 0": 100, "column 0 = 1": 120}
    plain = Split().fit(law, y).interval(law, 0.9)
    X[:, 0] = 7.0
    assert_close(fitted.interval(law, 0.9, X), plain)


def test_a_single_small_group_keeps_its_own_rows_only_by_request():
    law, y, X = heteroscedastic(120, 1, 2)
    X[:, 0] = torch.tensor([0.0] * 100 + [1.0] * 20)
    fitted = Mondrian(ByColumn(0), least=20).fit(law, y, X=X)
    assert fitted.counts()["column 0 = 1"] == 20
    assert len(fitted.notes()) == 1 and "in 2 groups" in fitted.notes()[0]
    with pytest.raises(ValueError, match="needs at least 33 calibration rows, got 20"):
        fitted.interval(law, 0.97, X)
    fitted.interval(rows_of(law, X[:, 0] == 0), 0.97, X[:100])  # that group is not asked for


def test_bad_input_is_refused():
    law, y, X = heteroscedastic(60, 1, 3)
    with pytest.raises(ValueError, match="got X of shape None"):
        Mondrian(ByColumn(0)).fit(law, y)
    with pytest.raises(ValueError, match="one row of X for each of 60 values, got 59"):
        Mondrian(ByColumn(0, bins=2)).fit(law, y, X=X[:-1])
    with pytest.raises(ValueError, match="least must be at least one row, got 0"):
        Mondrian(BySpread(), least=0).fit(law, y)
    fitted = Mondrian(ByColumn(0, bins=2), least=10).fit(law, y, X=X)
    with pytest.raises(ValueError, match="for each of the law's 60, got 3"):
        fitted.interval(law, 0.9, X[:3])
    assert set(fitted.hyperparameters()) == {f"median score, {name}" for name in fitted.groups.names}
