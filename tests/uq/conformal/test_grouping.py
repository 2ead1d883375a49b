"""Groups are found again on new rows, and are what NumPy and scikit-learn make of the same columns."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from kernelfield.uq.conformal.grouping import ByCluster, ByColumn, BySpread
from tests.uq.conformal.simulated import gaussian, heteroscedastic


def test_values_of_a_column_are_groups_and_others_are_in_none():
    law, _, _ = heteroscedastic(6, 1, 0)
    X = torch.tensor([3.0, 1.0, 1.0, 8.0, 3.0, 1.0])[:, None]
    groups = ByColumn(0).fit(law, X)
    assert groups.names == ("column 0 = 1", "column 0 = 3", "column 0 = 8")
    assert groups.codes(law, X).tolist() == [1, 0, 0, 2, 1, 0]
    assert groups.codes(law, torch.tensor([[0.0], [2.0], [9.0], [8.0]])).tolist() == [-1, -1, -1, 2]


def test_bins_of_a_column_hold_equally_many_rows():
    law, _, X = heteroscedastic(1000, 1, 1)
    groups = ByColumn(1, bins=4).fit(law, X)
    codes = groups.codes(law, X)
    assert codes.bincount().tolist() == [250] * 4
    np.testing.assert_array_equal(codes, np.digitize(X[:, 1].numpy(), np.quantile(X[:, 1].numpy(), [0.25, 0.5, 0.75])))
    assert len(groups.names) == 4 and groups.names[0].startswith("column 1 <")
    assert groups.codes(law, torch.tensor([[0.0, -5.0], [0.0, 5.0]])).tolist() == [0, 3]


def test_clusters_are_those_of_separate_clouds_on_any_scale():
    law, _, _ = heteroscedastic(90, 1, 2)
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5e6]])
    truth = torch.arange(90) % 3
    X = centres[truth] + torch.randn(90, 2) * torch.tensor([0.3, 3e5])
    groups = ByCluster(3).fit(law, X, generator=torch.Generator().manual_seed(1))
    assert adjusted_rand_score(truth, groups.codes(law, X)) == 1
    inside = ((X - X.mean(0)) / X.std(0, correction=0)).numpy()
    oracle = KMeans(3, n_init=5, random_state=0).fit_predict(inside)
    assert adjusted_rand_score(oracle, groups.codes(law, X)) == 1


def test_clusters_depend_on_the_generator_alone():
    law, _, X = heteroscedastic(200, 1, 3)
    codes = [ByCluster(5).fit(law, X, generator=torch.Generator().manual_seed(4)).codes(law, X) for _ in range(2)]
    assert (codes[0] == codes[1]).all()


def test_spread_groups_rank_rows_by_their_relative_deviation():
    std = torch.stack([torch.arange(1.0, 101), 1000 * torch.arange(1.0, 101)], 1)
    groups = BySpread(5).fit(gaussian(torch.zeros(100, 2), std), None)
    assert groups.codes(gaussian(torch.zeros(100, 2), std), None).tolist() == [i // 20 for i in range(100)]


@pytest.mark.parametrize(
    ("choice", "X", "complaint"),
    [
        (ByColumn(2), torch.zeros(5, 2), r"column 2 of inputs X \(n, d\), got X of shape \(5, 2\)"),
        (ByColumn(0), torch.full((5, 1), torch.nan), "column 0 holds 5 entries that are NaN"),
        (ByColumn(0, bins=1), torch.zeros(5, 1), "bins must be at least 2, got 1"),
        (ByColumn(0), torch.arange(1001.0)[:, None], "has 1001 values, each a group; cut it with bins="),
        (ByCluster(8), torch.arange(5.0)[:, None], "clusters must be from 2 to 5, the number of different rows, got 8"),
        (ByCluster(2), None, "made of inputs X .*, got None; give X="),
        (BySpread(0), None, "bins must be at least 2, got 0"),
    ],
    ids=["column", "nan", "bins", "values", "clusters", "none", "spread"],
)
def test_bad_input_is_refused_in_a_sentence(choice, X, complaint):
    law, _, _ = heteroscedastic(5, 1, 5)
    with pytest.raises(ValueError, match=complaint):
        choice.fit(law, X)


def test_clusters_want_inputs_of_the_same_width():
    law, _, X = heteroscedastic(50, 1, 6)
    with pytest.raises(ValueError, match="made of 2 inputs, got X with 3 columns"):
        ByCluster(2).fit(law, X).codes(law, torch.zeros(4, 3))
