"""Weighted intervals are those of a brute-force quantile, and split intervals where weights are equal."""

import warnings

import pytest
import torch
from torch.testing import assert_close

from kernelfield.uq.conformal.conformity import Absolute, Quantiles
from kernelfield.uq.conformal.ratio import DensityRatio
from kernelfield.uq.conformal.split import Split
from kernelfield.uq.conformal.weighted import FewEffectiveRows, Weighted
from tests.uq.conformal.simulated import gaussian, heteroscedastic


@pytest.mark.parametrize("score", [Absolute(), Quantiles((0.55, 0.9))], ids=repr)
@pytest.mark.parametrize("level", [0.55, 0.9])
@pytest.mark.parametrize("rows", [60, 99, 100])
def test_equal_weights_give_split_intervals(score, level, rows):
    law, y, _ = heteroscedastic(rows, 2, 0)
    weights = torch.full((rows,), 0.37)
    fitted = Weighted(score=score).fit(law, y, weights=weights)
    assert fitted.effective_rows == pytest.approx(rows)
    assert_close(fitted.interval(law, level, weights=weights), Split(score).fit(law, y).interval(law, level))


def test_the_bound_is_the_weighted_quantile_with_the_new_row_at_infinity():
    law, y, _ = heteroscedastic(50, 1, 1)
    weights, own = torch.rand(50), 5 * torch.rand(50)
    fitted = Weighted(score=Absolute()).fit(law, y, weights=weights)
    _, high = fitted.interval(law, 0.8, weights=own)
    scores = (y - law.mean).abs().flatten()
    for i in range(50):
        bounds = [s for s in scores if weights[scores <= s].sum() >= 0.8 * (weights.sum() + own[i])]
        expect = min(bounds, default=torch.tensor(torch.inf))
        assert_close(high[i, 0] - law.mean[i, 0], expect)
    assert high.isinf().any() or own.max() < weights.sum() / 4


def test_rows_unlike_all_others_have_the_whole_line():
    law, y, _ = heteroscedastic(50, 1, 2)
    fitted = Weighted().fit(law, y, weights=torch.ones(50))
    low, high = fitted.interval(law, 0.9, weights=torch.full((50,), 1e6))
    assert (low == -torch.inf).all() and (high == torch.inf).all()


def test_rows_of_weight_zero_do_not_count():
    law, y, _ = heteroscedastic(80, 1, 3)
    weights = (torch.arange(80) < 40).double()
    first = gaussian(law.mean[:40], law.variance[:40].sqrt())
    found = Weighted().fit(law, y, weights=weights).interval(first, 0.9, weights=torch.ones(40))
    assert_close(found, Split().fit(first, y[:40]).interval(first, 0.9))


def test_a_ratio_weighs_rows_by_their_inputs():
    law, y, X = heteroscedastic(200, 1, 4)
    ratio = DensityRatio().fit(X, X + 0.2)
    by_ratio = Weighted(ratio).fit(law, y, X=X)
    given = Weighted().fit(law, y, weights=ratio(X))
    assert_close(by_ratio.interval(law, 0.9, X), given.interval(law, 0.9, weights=ratio(X)))
    assert by_ratio.hyperparameters()["effective rows"] == by_ratio.effective_rows < 200


def test_few_effective_rows_are_warned_of():
    law, y, _ = heteroscedastic(100, 1, 5)
    weights = torch.tensor([1.0] * 10 + [1e-3] * 90)
    with pytest.warns(FewEffectiveRows, match="100 calibration rows are worth 10 and more from where"):
        fitted = Weighted().fit(law, y, weights=weights)
    assert fitted.effective_rows == pytest.approx(10.09**2 / (10 + 90e-6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "worth 100." in Weighted().fit(law, y, weights=torch.ones(100)).notes()[0]


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        (None, "got neither; see DensityRatio"),
        (torch.ones(39), r"one weight for each of 40 rows, got \(39,\)"),
        (-torch.ones(40), "weights must not be negative, the least is -1"),
        (torch.full((40,), torch.nan), "the weights holds 40 entries"),
        (torch.zeros(40), "all 40 weights are zero"),
    ],
    ids=["none", "shape", "negative", "nan", "zero"],
)
def test_bad_weights_are_refused(weights, complaint):
    law, y, _ = heteroscedastic(40, 1, 6)
    with pytest.raises(ValueError, match=complaint):
        Weighted().fit(law, y, weights=weights)


def test_a_ratio_needs_inputs_and_no_weights():
    law, y, X = heteroscedastic(40, 1, 7)
    choice = Weighted(DensityRatio().fit(X, X))
    with pytest.raises(ValueError, match="function of the inputs, got none; give X="):
        choice.fit(law, y)
    with pytest.raises(ValueError, match="got both"):
        choice.fit(law, y, X=X, weights=torch.ones(40))
