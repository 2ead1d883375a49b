"""The AUROC is scikit-learn's, its interval covers, and what does not overlap is not certain."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from kernelfield.uq.diagnosis.outside import compare, entropy


def test_the_area_is_that_of_scikit_learn_with_ties_too():
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 8, 200).astype(float), rng.integers(2, 12, 70).astype(float)
    found = compare(inside, outside)
    expected = roc_auc_score(np.repeat([0, 1], [200, 70]), np.concatenate([inside, outside]))
    assert found.auroc == pytest.approx(expected)
    assert found.ratio == np.median(outside) / np.median(inside)
    assert found.low < found.auroc < found.high


def test_the_interval_holds_the_true_area():
    rng = np.random.default_rng(1)
    truth = stats.norm.cdf(1 / 2**0.5)
    made = [compare(rng.standard_normal(60), 1 + rng.standard_normal(40)) for _ in range(400)]
    share = np.mean([one.low <= truth <= one.high for one in made])
    assert 0.95 - 6 * (0.0475 / 400) ** 0.5 < share


def test_sets_apart_leave_room_for_doubt():
    found = compare(np.arange(20.0), np.arange(100.0, 110.0))
    assert (found.auroc, found.beyond, found.high) == (1.0, 1.0, 1.0)
    assert 0.5 < found.low < 0.95
    assert compare(np.arange(20.0), np.arange(100.0, 120.0)).low > 0.6


def test_the_entropy_is_that_of_scipy():
    p = np.random.default_rng(0).dirichlet(np.ones(4), 10)
    np.testing.assert_allclose(entropy(p), stats.entropy(p, axis=1))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="at least 2 rows outside"):
        compare(np.arange(5.0), np.ones(1))
    with pytest.raises(ValueError, match="finite uncertainties of at least 2 rows inside"):
        compare(np.array([1.0, np.inf]), np.ones(4))
