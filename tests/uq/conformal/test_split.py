"""Split intervals are MAPIE's to 1e-10 where the method is the same, and bad input is refused."""

import numpy as np
import pytest
import torch
from mapie.conformity_scores import AbsoluteConformityScore, ResidualNormalisedScore
from mapie.regression import ConformalizedQuantileRegressor, SplitConformalRegressor
from sklearn.base import BaseEstimator, RegressorMixin
from torch.testing import assert_close

from kernelfield.core.mixing import InverseGamma
from kernelfield.core.posterior import Draws, Elliptical
from kernelfield.uq.conformal.conformity import Absolute, Distributional, Normalised, Quantiles
from kernelfield.uq.conformal.ranks import CoverageLaw
from kernelfield.uq.conformal.split import Split
from tests.uq.conformal.simulated import heteroscedastic


class Column(RegressorMixin, BaseEstimator):
    """A fitted regressor that predicts a column of its inputs; the std is another one."""

    def __init__(self, column=0):
        self.column = column
        self.n_features_in_ = 4

    def fit(self, X, y):
        return self

    def predict(self, X, return_std=False):
        return (X[:, self.column], X[:, 1]) if return_std else X[:, self.column]

    def __sklearn_is_fitted__(self):
        return True


def columns(law: Draws, level: float) -> np.ndarray:
    """Mean, std and the ends of central intervals of one output."""
    parts = [law.mean, law.variance.sqrt(), law.quantile((1 - level) / 2), law.quantile((1 + level) / 2)]
    return torch.cat(parts, 1).numpy()


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("rows", [60, 99, 200])
@pytest.mark.parametrize(
    ("score", "theirs"),
    [(Absolute(), AbsoluteConformityScore()), (Normalised(), ResidualNormalisedScore(Column(1), prefit=True))],
    ids=["absolute", "normalised"],
)
def test_absolute_and_normalised_intervals_are_mapie_s(score, theirs, rows, level):
    """Not by its "std_normalized", whose lower end is a rank short wherever (n + 1) level is no integer."""
    law, y, _ = heteroscedastic(rows, 1, 0)
    new, _, _ = heteroscedastic(50, 1, 1)
    oracle = SplitConformalRegressor(Column(), confidence_level=level, conformity_score=theirs, prefit=True)
    oracle.conformalize(columns(law, level), y.flatten().numpy())
    _, expect = oracle.predict_interval(columns(new, level))
    low, high = Split(score).fit(law, y).interval(new, level)
    assert_close(torch.cat([low, high], 1), torch.from_numpy(expect[:, :, 0]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("rows", [60, 99, 200])
def test_conformalised_quantiles_are_mapie_s(symmetric, rows, level):
    law, y, _ = heteroscedastic(rows, 1, 2)
    new, _, _ = heteroscedastic(50, 1, 3)
    estimators = [Column(2), Column(3), Column(0)]
    oracle = ConformalizedQuantileRegressor(estimators, confidence_level=level, prefit=True)
    oracle.conformalize(columns(law, level), y.flatten().numpy())
    _, expect = oracle.predict_interval(columns(new, level), symmetric_correction=symmetric)
    low, high = Split(Quantiles((0.7, level), symmetric=symmetric)).fit(law, y).interval(new, level)
    assert_close(torch.cat([low, high], 1), torch.from_numpy(expect[:, :, 0]), rtol=0, atol=1e-10)


def test_distributional_and_normalised_intervals_agree_for_gaussians():
    law, y, _ = heteroscedastic(100, 2, 4)
    ends = [torch.stack(Split(score).fit(law, y).interval(law, 0.9)) for score in (Distributional(), Normalised())]
    assert_close(*ends)


def test_distributional_intervals_lie_between_quantiles_of_a_skewed_law():
    """The bound of |t| among 99 scores is a pair of levels, of which the quantiles are the ends."""
    weights, noise = torch.tensor([0.7, 0.3]), torch.tensor([0.1, 2.0]).view(2, 1, 1)
    law = Draws(torch.stack([torch.zeros(99, 1), torch.ones(99, 1)]), weights, noise.expand(2, 99, 1))
    y = 3 * torch.randn(99, 1)
    low, high = Split(Distributional()).fit(law, y).interval(law, 0.9)
    levels = law.cdf(y)
    tail = (torch.minimum(levels, 1 - levels)).sort(0, descending=True).values[89].item()
    assert_close(low[:1], law.quantile(tail)[:1])
    assert_close(high[:1], law.quantile(1 - tail)[:1])


def test_outputs_are_calibrated_one_by_one():
    law, y, _ = heteroscedastic(80, 3, 5)
    low, high = Split().fit(law, y).interval(law, 0.8)
    alone = Draws(law.values[:, :, 1:2], law.weights, law.noise[:, 1:2])
    one_low, one_high = Split().fit(alone, y[:, 1:2]).interval(alone, 0.8)
    assert_close((low[:, 1:2], high[:, 1:2]), (one_low, one_high))


def test_a_joint_gaussian_is_taken_by_its_marginals():
    A = torch.randn(30, 30)
    law, y = Elliptical(torch.randn(30, 1), A @ A.mT), torch.randn(30, 1)
    marginal = Draws(law.mean[None], torch.ones(1), law.variance)
    assert_close(Split().fit(law, y).interval(law, 0.9), Split().fit(marginal, y).interval(marginal, 0.9))


def test_coverage_has_the_law_that_the_report_draws():
    law, y, _ = heteroscedastic(100, 1, 6)
    assert Split().fit(law, y).coverage_law(0.9) == CoverageLaw(91, 100)
    assert Split(Quantiles((0.8,))).fit(law, y).coverage_law(0.8) == CoverageLaw(81, 100)  # 91 of each side
    fitted = Split().fit(law, y)
    assert fitted.rows == 100 and "scores of 100 rows" in fitted.notes()[0] and fitted.hyperparameters()


def test_ends_that_would_cross_meet_in_the_middle():
    """All values lie at the median of laws that are far too wide."""
    law = Draws(torch.zeros(1, 50, 1), torch.ones(1), torch.full((50, 1), 100.0))
    low, high = Split(Quantiles((0.5,))).fit(law, torch.zeros(50, 1)).interval(law, 0.5)
    assert (low <= high).all() and high.abs().max() < 1e-9


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda law, y: Split().fit(law, y).interval(law, 1.5), "between 0 and 1, got 1.5"),
        (lambda law, y: Split().fit(law, y).interval(law, 0.99), "needs at least 99 calibration rows, got 40"),
        (lambda law, y: Split().fit(law, y[:-1]), r"shape \(40, 1\), got \(39, 1\)"),
        (lambda law, y: Split().fit(law, y * torch.nan), "y holds 40 entries that are NaN"),
        (lambda law, y: Split(Quantiles()).fit(law, y).interval(law, 0.8), "calibrated for the levels 0.9, got 0.8"),
        (lambda law, y: Split(Quantiles(())), "needs the levels of its intervals, got none"),
        (lambda law, y: Split(Quantiles((90,))), "between 0 and 1, got 90"),
        (
            lambda law, y: Split().fit(law, y).interval(heteroscedastic(5, 2, 0)[0], 0.9),
            "for 1 outputs, got a law of 2",
        ),
    ],
    ids=["level", "rows", "shape", "nan", "unknown level", "no level", "bad level", "outputs"],
)
def test_bad_input_is_refused_in_a_sentence(call, complaint):
    law, y, _ = heteroscedastic(40, 1, 7)
    with pytest.raises(ValueError, match=complaint):
        call(law, y)


def test_an_infinite_variance_needs_the_distributional_score():
    law = Elliptical(torch.zeros(40, 1), torch.eye(40), InverseGamma.student(1.5))
    with pytest.raises(ValueError, match="use the score Distributional"):
        Split().fit(law, torch.randn(40, 1))
    low, high = Split(Distributional()).fit(law, torch.randn(40, 1)).interval(law, 0.9)
    assert (low < high).all() and high.isfinite().all()
