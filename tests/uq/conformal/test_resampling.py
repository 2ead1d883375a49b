"""Jackknife+ and CV+ against MAPIE, against their definition, and for the coverage that they promise."""

from functools import cache

import numpy as np
import pytest
from mapie.regression import CrossConformalRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, LeaveOneOut

from kernelfield.uq.conformal import resampling
from kernelfield.uq.conformal.resampling import LeftOut

RNG = np.random.default_rng(0)
X = RNG.normal(size=(57, 3))
Y = X @ [1.0, -2.0, 0.5] + np.abs(X[:, 0]) * RNG.standard_t(3, size=57)
AT = RNG.normal(size=(23, 3)) * 2
LEVELS = [0.5, 0.8, 0.9, 0.95]
SPLITS = {"jackknife+": LeaveOneOut(), "5 folds": KFold(5, shuffle=True, random_state=3), "2 folds": KFold(2)}


def refits(splitter, X=X, Y=Y, at=AT) -> tuple[LeftOut, np.ndarray]:
    """Residuals of the rows left out, and predictions (q, K, 1), by explicit refits."""
    residuals, member, predictions = np.empty((len(Y), 1)), np.empty(len(Y), dtype=int), []
    for k, (train, test) in enumerate(splitter.split(X)):
        model = Ridge().fit(X[train], Y[train])
        residuals[test, 0], member[test] = np.abs(Y[test] - model.predict(X[test])), k
        predictions.append(model.predict(at))
    return LeftOut(residuals, member), np.stack(predictions, 1)[:, :, None]


@pytest.mark.parametrize("method", ["plus", "minmax"])
@pytest.mark.parametrize("splitter", SPLITS.values(), ids=SPLITS)
def test_intervals_are_those_of_mapie(splitter, method) -> None:
    theirs = CrossConformalRegressor(Ridge(), confidence_level=LEVELS, method=method, cv=splitter)
    _, intervals = theirs.fit_conformalize(X, Y).predict_interval(AT)
    left, predictions = refits(splitter)
    for j, level in enumerate(LEVELS):
        low, high = getattr(left, method)(predictions, level)
        np.testing.assert_allclose(low[:, 0], intervals[:, 0, j], rtol=1e-12)
        np.testing.assert_allclose(high[:, 0], intervals[:, 1, j], rtol=1e-12)


def test_ends_are_the_order_statistics_of_the_definition() -> None:
    left, predictions = refits(KFold(4))
    low, high = left.plus(predictions, 0.9)
    n = len(Y)
    for point, (a, b) in enumerate(zip(low[:, 0], high[:, 0], strict=True)):
        lower = sorted(predictions[point, left.member[i], 0] - left.residuals[i, 0] for i in range(n))
        upper = sorted(predictions[point, left.member[i], 0] + left.residuals[i, 0] for i in range(n))
        assert a == lower[int(0.1 * (n + 1)) - 1]  # floor(alpha (n + 1))
        assert b == upper[int(np.ceil(0.9 * (n + 1))) - 1]


def test_outputs_have_intervals_of_their_own() -> None:
    left, predictions = refits(KFold(5))
    both = LeftOut(left.residuals * [1.0, 3.0], left.member)
    together = both.plus(predictions * [1.0, 3.0], 0.8)
    for ends, alone in zip(together, left.plus(predictions, 0.8), strict=True):
        np.testing.assert_allclose(ends, alone * [1.0, 3.0], rtol=1e-12)


def test_blocks_change_nothing(monkeypatch) -> None:
    left, predictions = refits(LeaveOneOut())
    whole = left.plus(predictions, 0.9)
    monkeypatch.setattr(resampling, "BLOCK", 4 * len(Y))
    assert left.block_rows() == 4
    for ends, parts in zip(whole, left.plus(predictions, 0.9), strict=True):
        np.testing.assert_array_equal(ends, parts)
    assert left.plus(predictions[:0], 0.9)[0].shape == (0, 1)


@cache
def simulated_coverage() -> dict[str, float]:
    """Of one new value by least squares, over 2000 training sets of data that are heavy-tailed and unequal."""
    rng, n, inside = np.random.default_rng(5), 24, {"jackknife+": [], "cv+": [], "minmax": []}
    x = rng.normal(size=(RUNS, n + 1, 2))
    y = x[..., 0] + (0.2 + np.abs(x[..., 1])) * rng.standard_t(3, size=(RUNS, n + 1))
    for name, folds in (("jackknife+", n), ("cv+", 4)):
        member = np.arange(n) % folds
        kept = (member != np.arange(folds)[:, None]).astype(float)
        gram = np.einsum("kn,rni,rnj->rkij", kept, x[:, :n], x[:, :n])
        slopes = np.linalg.solve(gram, np.einsum("kn,rni,rn->rki", kept, x[:, :n], y[:, :n])[..., None])[..., 0]
        fitted = np.einsum("rni,rki->rnk", x, slopes)
        for run in range(RUNS):
            left = LeftOut(np.abs(y[run, :n] - fitted[run, np.arange(n), member])[:, None], member)
            at = fitted[run, n][None, :, None]
            ends = {name: left.plus(at, 0.8)} | ({"minmax": left.minmax(at, 0.8)} if folds == n else {})
            for kind, (low, high) in ends.items():
                inside[kind].append(low.item() <= y[run, n] <= high.item())
    return {name: float(np.mean(hits)) for name, hits in inside.items()}


RUNS = 2000
ERROR = (0.8 * 0.2 / RUNS) ** 0.5


class TestGuarantees:
    """What the intervals promise is kept."""

    @pytest.mark.parametrize("name", ["jackknife+", "cv+"])
    def test_plus_covers_about_what_it_says(self, name) -> None:
        assert abs(simulated_coverage()[name] - 0.8) < 4 * ERROR + 1 / 25  # ranks of 24 rows are that coarse

    def test_minmax_covers_no_less(self) -> None:
        shares = simulated_coverage()
        assert shares["minmax"] > 0.8 - 4 * ERROR
        assert shares["minmax"] >= shares["jackknife+"]

    def test_of_each_row_and_of_folds(self) -> None:
        r = np.ones((100, 1))
        assert LeftOut.of_each(r).guarantee(0.9) == pytest.approx(0.8)
        folds = LeftOut(r, np.arange(100) % 5)  # min(2 * 0.8 / 21, 0.95 / 6)
        assert folds.guarantee(0.9) == pytest.approx(0.8 - 1.6 / 21)
        assert LeftOut.of_each(r).guarantee(0.5) == 0.0


@pytest.mark.parametrize(
    ("residuals", "member", "words"),
    [
        ([[1.0], [-2.0]], [0, 1], "1 residuals are negative, NaN or infinite"),
        ([[1.0], [np.nan]], [0, 1], "1 residuals are negative"),
        ([[1.0], [2.0]], [0, 1, 2], r"got \(2, 1\) and \(3,\)"),
        ([[1.0], [2.0]], [-1, 0], "counted from 0, got -1"),
    ],
)
def test_residuals_that_are_none_are_refused(residuals, member, words) -> None:
    with pytest.raises(ValueError, match=words):
        LeftOut(np.array(residuals), np.array(member))


def test_what_cannot_be_promised_is_refused() -> None:
    left = LeftOut.of_each(np.ones((18, 1)))
    with pytest.raises(ValueError, match=r"level 0\.95 needs at least 19 .*got 18"):
        left.plus(np.zeros((2, 18, 1)), 0.95)
    with pytest.raises(ValueError, match=r"which is nothing at level 0\.4"):
        left.plus(np.zeros((2, 18, 1)), 0.4)
    with pytest.raises(ValueError, match=r"\(q, 18, 1\) of 18 models, got \(2, 17, 1\)"):
        left.plus(np.zeros((2, 17, 1)), 0.9)
