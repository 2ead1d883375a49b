"""Selection by distances, against loops over dense matrices."""

import math

import pytest
import torch
from gpytorch.kernels import RBFKernel
from torch import Tensor
from torch.testing import assert_close

from kernelfield.models.active.finite import FeatureKernel, FiniteKernel, PointKernel
from kernelfield.models.active.selection import (
    Clusters,
    Farthest,
    LargestCluster,
    LargestDiagonal,
    Mode,
    Random,
    Seeding,
)

POOL, LABELLED = 60, 7


def kernels() -> dict[str, FiniteKernel]:
    points = torch.randn(POOL + LABELLED, 3)
    return {
        "features": FeatureKernel(points * torch.tensor([3.0, 1.0, 0.3])),
        "points": PointKernel(RBFKernel(), points),
        "single precision": FeatureKernel(points.float()),
    }


def distances(kernel: FiniteKernel) -> Tensor:
    """All squared distances, (n, n)."""
    K = kernel.block(slice(None), torch.arange(kernel.size)).double()
    return (K.diagonal()[:, None] + K.diagonal() - 2 * K).clamp_min(0)


def cluster_picks(kernel: FiniteKernel, size: int, mode: Mode) -> list[int]:
    """LCMD, with every distance and every cluster worked out anew for each pick."""
    D, picked = distances(kernel), list[int]()
    centres = list(range(POOL, kernel.size)) if mode == "TP" else []
    while len(picked) < size:
        clusters: dict[int, list[int]] = {}
        for i in set(range(POOL)) - set(picked) if centres else ():
            clusters.setdefault(min(centres, key=lambda c: D[i, c].item()), []).append(i)
        if centres:
            heaviest = max(clusters, key=lambda c: sum(D[i, c].item() for i in clusters[c]))
            best = max(clusters[heaviest], key=lambda i: D[i, heaviest].item())
        else:
            best = int(kernel.diagonal()[:POOL].argmax())
        picked.append(best)
        centres.append(best)
    return picked


def farthest_picks(kernel: FiniteKernel, size: int, mode: Mode) -> list[int]:
    """The core-set by its definition."""
    D, picked = distances(kernel), list[int]()
    centres = list(range(POOL, kernel.size)) if mode == "TP" else []
    while len(picked) < size:
        if centres:
            best = max(range(POOL), key=lambda i: min(D[i, c].item() for c in centres))
        else:
            best = int(kernel.diagonal()[:POOL].argmax())
        picked.append(best)
        centres.append(best)
    return picked


@pytest.mark.parametrize("mode", ["P", "TP"])
@pytest.mark.parametrize("name", ["features", "single precision"])
def test_clusters_are_those_of_brute_force(name: str, mode: Mode) -> None:
    kernel = kernels()[name]
    found = LargestCluster(mode).pick(kernel, 20, POOL, torch.Generator())
    assert found.tolist() == cluster_picks(kernel, 20, mode)


def test_clusters_of_a_kernel_without_features_are_those_of_brute_force() -> None:
    kernel = kernels()["points"]
    found = LargestCluster().pick(kernel, 20, POOL, torch.Generator())
    assert found.tolist() == cluster_picks(kernel, 20, "TP")


@pytest.mark.parametrize("mode", ["P", "TP"])
def test_the_farthest_rows_are_those_of_brute_force(mode: Mode) -> None:
    kernel = kernels()["features"]
    found = Farthest(mode).pick(kernel, 20, POOL, torch.Generator())
    assert found.tolist() == farthest_picks(kernel, 20, mode)


@pytest.mark.parametrize("selection", [LargestCluster("P"), Farthest("P"), LargestCluster("TP"), Farthest("TP")])
def test_three_blobs_are_hit_in_three_picks(selection: LargestCluster | Farthest) -> None:
    centres = torch.tensor([[10.0, 0.0], [0.0, 10.0], [-10.0, -10.0]])
    blob = torch.arange(150) % 3
    points = torch.cat([centres[blob] + torch.randn(150, 2), torch.zeros(1, 2)])
    pool = 150 if selection.mode == "TP" else 151
    found = selection.pick(FeatureKernel(points), 3, pool, torch.Generator())
    assert sorted(blob[found].tolist()) == [0, 1, 2]


def test_labels_that_lie_together_repel_picks_in_the_mode_that_sees_them() -> None:
    near, far = torch.full((5, 2), 8.0) + torch.randn(5, 2), -torch.ones(1, 2)
    kernel = FeatureKernel(torch.cat([near, far, torch.full((3, 2), 8.0)]))
    assert LargestCluster("TP").pick(kernel, 1, 6, torch.Generator()).item() == 5
    assert LargestCluster("P").pick(kernel, 1, 6, torch.Generator()).item() < 5


@pytest.mark.parametrize("block", [1, 100, 2**23])
def test_clusters_do_not_depend_on_the_blocks_in_which_labels_come(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = kernels()["features"]
    monkeypatch.setattr("kernelfield.models.active.selection.BLOCK", block)
    clusters = Clusters(kernel, POOL, "TP")
    least, which = distances(kernel)[:POOL, POOL:].min(1)
    assert_close(clusters.gap, least)
    assert_close(clusters.nearest, which)


def chi_square(counts: Tensor, probability: Tensor) -> float:
    """In units of its standard deviation, above its mean."""
    expected = counts.sum() * probability
    wanted = expected > 0
    assert not counts[~wanted].any()
    freedom = int(wanted.sum()) - 1
    value = ((counts - expected)[wanted].square() / expected[wanted]).sum().item()
    return (value - freedom) / math.sqrt(2 * freedom)


def test_seeds_have_their_probabilities() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0], [3.5], [-2.0]])
    generator, draws = torch.Generator().manual_seed(1), 2000
    pairs = torch.zeros(4, 4)
    for _ in range(draws):
        i, j = Seeding("TP").pick(FeatureKernel(x), 2, 4, generator).tolist()
        pairs[i, j] += 1
    first = (x[:4, 0] + 2).square()
    first = first / first.sum()
    gap = torch.minimum((x[:4] - x[:4].mT).square(), (x[:4, 0] + 2).square())
    truth = first[:, None] * gap / gap.sum(1, keepdim=True)
    assert chi_square(pairs.flatten(), truth.flatten()) < 6


def test_the_first_seed_is_any_row_where_there_are_no_labels() -> None:
    generator, counts = torch.Generator().manual_seed(1), torch.zeros(4)
    kernel = FeatureKernel(torch.tensor([[0.0], [1.0], [3.0], [30.0], [5.0]]))
    for _ in range(800):
        counts[Seeding("P").pick(kernel, 1, 4, generator)] += 1
    assert chi_square(counts, torch.full((4,), 0.25)) < 6


@pytest.mark.parametrize("selection", [Seeding(), Farthest(), LargestCluster(), LargestCluster("P"), Seeding("P")])
def test_copies_are_picked_when_nothing_else_is_left(selection: Seeding) -> None:
    points = torch.tensor([[0.1, 0.7]]).repeat(6, 1)
    points[2] = 3.0
    found = selection.pick(FeatureKernel(points), 5, 5, torch.Generator().manual_seed(0))
    assert sorted(found.tolist()) == [0, 1, 2, 3, 4]


def test_the_largest_diagonal_is_sorted_and_random_rows_are_all_different() -> None:
    kernel = kernels()["features"]
    found = LargestDiagonal().pick(kernel, 10, POOL, torch.Generator())
    assert found.tolist() == sorted(range(POOL), key=lambda i: -kernel.diagonal()[i].item())[:10]
    random = Random().pick(kernel, POOL, POOL, torch.Generator().manual_seed(0))
    assert sorted(random.tolist()) == list(range(POOL))


def test_an_unknown_mode_is_refused() -> None:
    for selection in (LargestCluster, Farthest, Seeding):
        with pytest.raises(ValueError, match="mode must be 'P' or 'TP', got 'T'"):
            selection("T")
