"""Over 500 simulated splits every method covers what its theory says, on data of three kinds.

The mean over splits of the coverage of new rows has a known law: k / (n + 1), with the spread of the
Beta-binomial divided by 500^(1/2). Six of its standard errors are allowed. The spread of coverage
from split to split is tested against the same Beta-binomial law by the share of splits in its 90% band.
"""

import pytest
import torch

from kernelfield.uq.conformal.conformity import Absolute, Distributional, Normalised, Quantiles
from kernelfield.uq.conformal.grouping import ByColumn
from kernelfield.uq.conformal.mondrian import Mondrian
from kernelfield.uq.conformal.predictive import PredictiveSystem
from kernelfield.uq.conformal.ranks import CoverageLaw, rank
from kernelfield.uq.conformal.split import Split
from kernelfield.uq.conformal.weighted import Weighted
from tests.uq.conformal.simulated import KINDS, gaussian, grouped

SPLITS, ROWS, NEW = 500, 100, 200
SCORES = [Absolute(), Normalised(), Distributional(), Quantiles((0.9,), symmetric=True)]


def covered(interval, y) -> torch.Tensor:
    """The share of new rows inside, of each split."""
    low, high = interval
    return ((low <= y) & (y <= high)).double().mean(0)


def spread(law: CoverageLaw, new: int) -> float:
    """Standard deviation of the share of `new` rows: of a Beta variable, and of a binomial share given it."""
    p = law.mean
    beta = p * (1 - p) / (law.rows + 2)
    return (beta + (p * (1 - p) - beta) / new) ** 0.5


@pytest.mark.parametrize("level", [0.5, 0.9])
@pytest.mark.parametrize("score", SCORES, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_split_intervals_have_the_beta_law_of_coverage(kind, score, level):
    score = Quantiles((level,), symmetric=True) if isinstance(score, Quantiles) else score
    law, y, X = KINDS[kind](ROWS, SPLITS, 0)
    new_law, new_y, new_X = KINDS[kind](NEW, SPLITS, 1)
    fitted = Split(score).fit(law, y, X=X)
    share = covered(fitted.interval(new_law, level, new_X), new_y)
    expect = fitted.coverage_law(level)
    assert expect == CoverageLaw(rank(ROWS, level), ROWS)
    assert abs(share.mean() - expect.mean) < 6 * spread(expect, NEW) / SPLITS**0.5
    low, high = expect.of_test(NEW, 0.9)
    inside = ((low <= share) & (share <= high)).double().mean()
    assert inside > 0.9 - 6 * (0.09 / SPLITS) ** 0.5
    if kind != "grouped":  # its groups have the same sizes in every split, so that shares vary less
        assert inside < 0.96


@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_of_asymmetric_quantiles_miss_half_of_the_errors(kind):
    law, y, _ = KINDS[kind](ROWS, SPLITS, 2)
    new_law, new_y, _ = KINDS[kind](NEW, SPLITS, 3)
    low, high = Split(Quantiles((0.8,))).fit(law, y).interval(new_law, 0.8)
    side = CoverageLaw(rank(ROWS, 0.9), ROWS)
    for share in ((low <= new_y).double().mean(0), (new_y <= high).double().mean(0)):
        assert abs(share.mean() - side.mean) < 6 * spread(side, NEW) / SPLITS**0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("score", [Absolute(), Normalised(), Distributional()], ids=repr)
def test_predictive_systems_are_right_at_every_level(kind, score):
    """F(y) of a new row is uniform on average over splits, up to the steps of 1 / (n + 1)."""
    law, y, _ = KINDS[kind](ROWS, SPLITS, 4)
    new_law, new_y, _ = KINDS[kind](NEW, SPLITS, 5)
    fitted = PredictiveSystem(score).fit(law, y)
    pit = fitted.apply(new_law).cdf(new_y)
    for level in (0.02, 0.1, 0.3, 0.5, 0.75, 0.95):
        share = (pit <= level).double().mean(0)
        error = 6 * spread(CoverageLaw(round(level * 101), ROWS), NEW) / SPLITS**0.5
        assert abs(share.mean() - level) < error + 1 / (ROWS + 1)
    share = covered(fitted.interval(new_law, 0.9), new_y)
    expect = CoverageLaw(2 * rank(ROWS, 0.95) - ROWS - 1, ROWS)
    assert expect.mean >= 0.9
    assert abs(share.mean() - expect.mean) < 6 * spread(expect, NEW) / SPLITS**0.5


def test_groups_are_covered_one_by_one_where_split_intervals_are_not():
    law, y, X = grouped(4 * ROWS, SPLITS, 6)
    new_law, new_y, new_X = grouped(NEW, SPLITS, 7)
    fitted = Mondrian(ByColumn(0)).fit(law, y, X=X)
    low, high = fitted.interval(new_law, 0.9, new_X)
    plain = Split().fit(law, y).interval(new_law, 0.9)
    for group, rows in ((0.0, 3 * ROWS), (1.0, ROWS)):
        chosen = new_X[:, 0] == group
        share = covered((low[chosen], high[chosen]), new_y[chosen])
        expect = CoverageLaw(rank(rows, 0.9), rows)
        assert abs(share.mean() - expect.mean) < 6 * spread(expect, int(chosen.sum())) / SPLITS**0.5
        assert abs(covered((plain[0][chosen], plain[1][chosen]), new_y[chosen]).mean() - 0.9) > 0.05


def test_weights_keep_the_level_where_inputs_have_shifted():
    """Errors grow with x; the calibration has x uniform, the target the density 2 x, so w = 2 x exactly."""
    generator = torch.Generator().manual_seed(8)
    shares, plain = [], []
    for _ in range(SPLITS):
        x, new = torch.rand(ROWS, generator=generator), torch.rand(NEW, generator=generator).sqrt()
        y, new_y = (t * torch.randn(len(t), generator=generator) for t in (x, new))
        law, new_law = (gaussian(torch.zeros(len(t), 1), torch.ones(1)) for t in (x, new))
        fitted = Weighted(score=Absolute()).fit(law, y[:, None], weights=2 * x)
        shares.append(covered(fitted.interval(new_law, 0.8, weights=2 * new), new_y[:, None]))
        plain.append(covered(Split(Absolute()).fit(law, y[:, None]).interval(new_law, 0.8), new_y[:, None]))
    share = torch.cat(shares)
    error = 6 * share.std() / SPLITS**0.5
    largest = 2 / ROWS  # the largest weight, of a sum of about `ROWS`
    assert 0.8 - error < share.mean() < 0.8 + largest + error
    assert torch.cat(plain).mean() < 0.8 - 0.05
