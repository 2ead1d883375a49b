"""Selection by variances, against dense algebra done anew for every candidate."""

from itertools import pairwise

import pytest
import torch
from gpytorch.kernels import RBFKernel
from torch import Tensor
from torch.testing import assert_close

from kernelfield.models.active.finite import FeatureKernel, FiniteKernel, PointKernel, conditioned
from kernelfield.models.active.transforms import Condition
from kernelfield.models.active.variance import Bait, FrankWolfe, LargestDeterminant, pivoted

POOL, LABELLED = 40, 6


def drawn(kind: str = "features") -> FiniteKernel:
    points = torch.randn(POOL + LABELLED, 5) * torch.rand(POOL + LABELLED, 1)
    return FeatureKernel(points) if kind == "features" else PointKernel(RBFKernel(), points)


def dense(kernel: FiniteKernel) -> Tensor:
    return kernel.block(slice(None), torch.arange(kernel.size)).double()


def left(K: Tensor, given: list[int], noise: float) -> Tensor:
    """The covariance given some points, by Gaussian elimination of all of them at once."""
    if not given:
        return K
    A = K[given][:, given] + noise * torch.eye(len(given))
    return K - K[:, given] @ torch.linalg.solve(A, K[given])


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["features", "points"])
def test_the_largest_determinant_is_picked_by_the_largest_conditional_variance(kind: str, noise: float) -> None:
    kernel, picked = drawn(kind), list[int]()
    size = 5 if kind == "features" and not noise else 20
    for _ in range(size):
        variance = left(dense(kernel), picked, noise).diagonal()[:POOL].clone()
        variance[picked] = -1
        picked.append(int(variance.argmax()))
    assert LargestDeterminant(noise).pick(kernel, size, POOL, torch.Generator()).tolist() == picked


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_picks_after_the_labels_are_pivots_behind_those_of_the_labels(noise: float) -> None:
    """Conditioning is what the mode TP would be: the labelled rows are the first pivots."""
    kernel, picked = drawn("points"), list(range(POOL, POOL + LABELLED))
    for _ in range(8):
        variance = left(dense(kernel), picked, noise).diagonal()[:POOL].clone()
        variance[[i for i in picked if i < POOL]] = -1
        picked.append(int(variance.argmax()))
    given = Condition(noise).apply(kernel, torch.arange(POOL, kernel.size), torch.Generator())
    assert LargestDeterminant(noise).pick(given, 8, POOL, torch.Generator()).tolist() == picked[LABELLED:]


def test_labels_without_information_change_nothing() -> None:
    kernel = drawn()
    given = Condition(1e12).apply(kernel, torch.arange(POOL, kernel.size), torch.Generator())
    for selection in (LargestDeterminant(), Bait(0.1), Bait(0.1, surplus=2.0)):
        before, after = (selection.pick(k, 5, POOL, torch.Generator()) for k in (kernel, given))
        assert before.tolist() == after.tolist()


def test_pivots_are_those_of_a_cholesky_factor() -> None:
    kernel = drawn("points")
    found = pivoted(kernel, POOL, POOL)
    K = dense(kernel)[:POOL, :POOL]
    assert_close(found.half.mT @ found.half, K, rtol=0, atol=1e-12)
    order = found.pivots
    L = found.half.mT[order]
    assert_close(L, L.tril(), rtol=0, atol=1e-8)
    assert (L.diagonal().diff() <= 1e-12).all()


def test_a_kernel_of_low_rank_has_no_more_pivots_and_the_rest_is_random() -> None:
    kernel = drawn()
    assert len(pivoted(kernel, 30, POOL).pivots) == 5
    picks = [LargestDeterminant().pick(kernel, 30, POOL, torch.Generator().manual_seed(s)) for s in range(2)]
    assert picks[0][:5].tolist() == picks[1][:5].tolist()
    assert picks[0].tolist() != picks[1].tolist()
    assert all(len(p.unique()) == 30 for p in picks)


def left_in_total(K: Tensor, picked: list[int], noise: float) -> float:
    return left(K, picked, noise).diagonal().sum().item()


@pytest.mark.parametrize("noise", [1e-3, 0.5])
def test_bait_leaves_the_least_variance_in_total_at_each_pick(noise: float) -> None:
    kernel, picked = drawn(), list[int]()
    K = dense(kernel)
    for _ in range(12):
        candidates = [i for i in range(POOL) if i not in picked]
        picked.append(min(candidates, key=lambda i: left_in_total(K, [*picked, i], noise)))
    assert Bait(noise).pick(kernel, 12, POOL, torch.Generator()).tolist() == picked


@pytest.mark.parametrize("noise", [1e-3, 0.5])
def test_bait_drops_the_rows_that_are_missed_least(noise: float) -> None:
    kernel = drawn()
    K = dense(kernel)
    kept = Bait(noise).pick(kernel, 12, POOL, torch.Generator()).tolist()
    while len(kept) > 6:
        dropped = min(kept, key=lambda j: left_in_total(K, [i for i in kept if i != j], noise))
        kept.remove(dropped)
    assert Bait(noise, surplus=2.0).pick(kernel, 6, POOL, torch.Generator()).tolist() == kept


def test_bait_stays_right_where_the_noise_is_next_to_nothing() -> None:
    features = torch.randn(300, 40)
    noise = 1e-6
    found = Bait(noise).pick(FeatureKernel(features), 60, 300, torch.Generator()).tolist()
    for t in (10, *range(36, 60)):
        given = features[found[:t]]
        A = torch.linalg.inv(torch.eye(40) + given.mT @ given / noise)
        totals = ((features @ A @ features.mT).square().sum(1)) / ((features @ A * features).sum(1) + noise)
        totals[found[:t]] = -1
        assert totals[found[t]] >= totals.max() * (1 - 1e-7)


def conditional_gradient(features: Tensor, size: int) -> tuple[list[int], list[float]]:
    """Frank and Wolfe's steps towards the sum of the features, with vectors in place of a kernel."""
    length = features.norm(dim=1)
    corners = features / length[:, None] * length.sum()
    target, now = features.sum(0), torch.zeros(features.shape[1])
    picked, gaps = list[int](), list[float]()
    for _ in range(size):
        score = corners @ (target - now)
        score[picked] = -torch.inf
        picked.append(int(score.argmax()))
        towards = corners[picked[-1]] - now
        step = (towards @ (target - now) / towards.square().sum()).clamp(0, 1)
        now = now + step * towards
        gaps.append((target - now).norm().item())
    return picked, gaps


def test_the_steps_of_frank_and_wolfe_are_those_of_vectors() -> None:
    features = torch.randn(POOL, 8) + 0.3
    picked, gaps = conditional_gradient(features, 15)
    assert FrankWolfe().pick(FeatureKernel(features), 15, POOL, torch.Generator()).tolist() == picked
    assert all(a >= b for a, b in pairwise(gaps))
    assert gaps[-1] < 0.5 * gaps[0]


def test_the_steps_need_no_features() -> None:
    points = torch.randn(POOL, 2)
    kernel = PointKernel(RBFKernel(), points)
    root = torch.linalg.cholesky(dense(kernel) + 1e-12 * torch.eye(POOL))
    assert FrankWolfe().pick(kernel, 10, POOL, torch.Generator()).tolist() == conditional_gradient(root, 10)[0]


def test_rows_without_features_come_last() -> None:
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    assert FrankWolfe().pick(FeatureKernel(features), 4, 4, torch.Generator()).tolist() == [3, 1, 0, 2]


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="Bait needs features, which PointKernel does not have; put Sketch or LowRank"):
        Bait().pick(drawn("points"), 3, POOL, torch.Generator())
    with pytest.raises(ValueError, match="Bait needs a noise variance above zero, got 0"):
        Bait(0.0)
    with pytest.raises(ValueError, match="surplus must be at least 1, got 0.5"):
        Bait(surplus=0.5)
    with pytest.raises(ValueError, match="LargestDeterminant needs a noise variance of zero or more, got -1"):
        LargestDeterminant(-1.0)


def test_conditioning_twice_is_conditioning_on_both() -> None:
    kernel = drawn("points")
    first, second = torch.arange(3), torch.arange(3, 9)
    both = conditioned(kernel, torch.cat([first, second]), 0.2)
    one_by_one = conditioned(conditioned(kernel, first, 0.2), second, 0.2)
    assert_close(dense(one_by_one), dense(both), rtol=0, atol=1e-12)
    assert_close(one_by_one.diagonal(), dense(both).diagonal(), rtol=0, atol=1e-12)
    assert_close(both.total(POOL), dense(both)[:, :POOL].sum(1))
