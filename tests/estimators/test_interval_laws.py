"""A law made of intervals has these intervals, and is near the law that the errors came from."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import BayesianRidge, Ridge

from kernelfield.core.quantiles import Quantiles
from kernelfield.estimators import calibrated as calibrated_module
from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.interval_laws import spaced, through
from kernelfield.estimators.predictive import Pooled, pooled
from kernelfield.uq.conformal.conformity import Distributional
from kernelfield.uq.conformal.ranks import rank, rows_needed
from kernelfield.uq.conformal.split import Split
from kernelfield.uq.scores import evaluate

INTERVALS = ["split", "normalised", "cqr", "mondrian", "weighted", "jackknife+", "cv+"]


def problem(n: int, seed: int, outputs: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    y = X[:, [0]] + (0.3 + np.abs(X[:, [1]])) * rng.normal(size=(n, outputs))
    return X, y[:, 0] if outputs == 1 else y


def calibrated(method: str, n: int = 150, outputs: int = 1, **settings) -> Calibrated:
    X, y = problem(n, 0, outputs)
    base = BayesianRidge() if outputs == 1 else Ridge()
    target = {"X_target": X} if method == "weighted" else {}
    return Calibrated(base, method=method, cv=3, random_state=0, **settings).fit(X, y, **target)


@pytest.mark.parametrize("method", INTERVALS)
def test_the_law_has_the_intervals_of_the_method(method, monkeypatch) -> None:
    settings = {"levels": (0.5, 0.8, 0.9)} if method == "cqr" else {}
    one, (X, y) = calibrated(method, **settings), problem(60, 1)
    law = one.posterior(X)
    for level in (0.5, 0.8, 0.9):
        ends = [law.quantile(p)[:, 0].numpy() for p in ((1 - level) / 2, (1 + level) / 2)]
        np.testing.assert_allclose(np.stack(ends, -1), one.predict_interval(X, level), rtol=1e-10)
    mean, std = one.predict(X, return_std=True)
    np.testing.assert_array_equal(law.mean[:, 0], mean)
    np.testing.assert_allclose(law.variance[:, 0].sqrt(), std, rtol=1e-12)
    low, high = one.predict_interval(X, 0.9).T
    found = evaluate(law, y)
    assert found.scores()["coverage90"] == np.mean((low <= y) & (y <= high))
    assert np.isfinite([found.scores()[name] for name in ("nll", "crps", "interval90")]).all()
    monkeypatch.setattr(calibrated_module, "ROWS", 17)
    torch.testing.assert_close(one.posterior(X).values, law.values, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["split", "jackknife+"])
def test_the_law_of_two_outputs_is_two_laws(method) -> None:
    one, (X, _) = calibrated(method, outputs=2), problem(7, 1)
    law = one.posterior(X)
    assert law.values.shape[:2] == (7, 2)
    np.testing.assert_allclose(law.quantile(0.95), one.predict_interval(X, 0.9)[..., 1], rtol=1e-12)


def test_many_gaussian_errors_give_a_gaussian_law() -> None:
    X, y = np.zeros((20_000, 1)), stats.norm(1.0, 2.0).rvs(20_000, random_state=0)
    base = Ridge().fit(np.zeros((2, 1)), [1.0, 1.0])
    law = Calibrated(base, method="split", cv="prefit").fit(X, y).posterior(X[:1])
    truth = stats.norm(1.0, 2.0)
    # Four standard errors of shares of 20,000 rows, and of their deviation.
    for p in (0.001, 0.05, 0.3, 0.5, 0.9, 0.999):
        assert abs(truth.cdf(law.quantile(p).item()) - p) < 4 * (p * (1 - p) / 20_000) ** 0.5
    assert abs(law.variance.sqrt().item() / 2 - 1) < 4 / (2 * 20_000) ** 0.5


class TestLevels:
    """What rows are enough for."""

    @pytest.mark.parametrize("rows", [1, 2, 5, 8, 9, 12, 20, 50, 99, 100, 199, 1000, 5000])
    def test_ranks_are_apart_and_there(self, rows) -> None:
        for least in (0.0, 0.5):
            if rows_needed(least or 0.01) > rows:
                continue
            levels = spaced(rows, least=least)
            ranks = [rank(rows, level) for level in levels]
            assert min(levels) >= least
            assert ranks[-1] <= rows
            assert (np.diff(ranks) >= 4).all()  # five, but for what ranks are rounded up by
            assert (0.9 in levels) == (rows >= 9)

    def test_few_rows_go_on_like_a_gaussian(self) -> None:
        base = Ridge().fit(np.zeros((2, 1)), [0.0, 0.0])
        one = Calibrated(base, method="split", cv="prefit").fit(np.zeros((4, 1)), [1.0, 2.0, 3.0, 4.0])
        law = one.posterior(np.zeros((1, 1)))
        assert law.levels.tolist() == pytest.approx([0.1, 0.9])  # 80% needs four rows, 90% nine
        assert law.quantile(0.9).item() == pytest.approx(4.0, rel=1e-12)
        assert law.quantile(0.975).item() == pytest.approx(4.0 * stats.norm.ppf(0.975) / stats.norm.ppf(0.9))
        assert calibrated("jackknife+", n=2, levels=(0.9,)).posterior([[0.0, 0.0]]).variance.isfinite()

    def test_quantiles_have_those_that_were_calibrated(self) -> None:
        law = calibrated("cqr", levels=(0.9, 0.8)).posterior([[0.0, 0.0]])
        assert law.levels.tolist() == pytest.approx([0.05, 0.1, 0.9, 0.95])


def test_a_law_that_is_not_there_says_why() -> None:
    one = calibrated("split")
    with pytest.raises(NotImplementedError, match="says nothing of a function behind them"):
        one.posterior([[0.0, 0.0]], noise=False)
    assert isinstance(calibrated(Split(Distributional())).posterior([[0.0, 0.0]]), Quantiles)
    with pytest.raises(NotImplementedError, match="they make no law; use predict_interval"):
        through([], [], np.zeros((1, 1)))


def test_rows_unlike_those_of_the_calibration_have_no_law() -> None:
    X, y = problem(300, 0)
    base, target = BayesianRidge(), X + np.array([0.7, 0.0])
    one = Calibrated(base, method="weighted", cv=3, random_state=0).fit(X, y, X_target=target)
    far = np.array([[0.0, 0.0], [40.0, 0.0]])
    assert np.isfinite(one.predict_interval(far, 0.9)).all(-1).tolist() == [True, False]
    _, std = one.predict(far, return_std=True)
    assert np.isfinite(std).tolist() == [True, False]
    with pytest.raises(ValueError, match="infinite at 1 rows, which are too unlike"):
        one.posterior(far)


def test_pooled_laws_by_quantiles_are_one() -> None:
    levels = torch.tensor([0.1, 0.9]).double()
    parts = [Quantiles(levels, torch.randn(n, 2, 2).double().sort(-1).values) for n in (3, 2)]
    one, other = pooled(parts), Pooled(tuple(parts))
    assert isinstance(one, Quantiles)
    torch.testing.assert_close(one.quantile(0.3), other.quantile(0.3))
    assert isinstance(pooled([parts[0], Quantiles(levels, parts[1].values, parts[1].mean)]), Pooled)
