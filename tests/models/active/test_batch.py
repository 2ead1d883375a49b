"""Batches from pools: every way to make them gives what it should, and bad input is refused."""

import pytest
import torch
from gpytorch.kernels import RBFKernel
from torch import nn

from kernelfield.models.active.batch import SELECTIONS, select_batch
from kernelfield.models.active.features import Base, Covariance, Gradients, LastLayer, Linear
from kernelfield.models.active.transforms import Condition, LogLikelihoods, LowRank, Scale, Sketch

torch.manual_seed(5)
NETWORK = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)).double()
BASES: dict[str, tuple[Base, tuple]] = {
    "linear": (Linear(), ()),
    "last layer": (LastLayer(NETWORK), (Scale(), Condition())),
    "gradients": (Gradients(NETWORK), (Sketch(20), Scale(), Condition())),
    "a kernel": (Covariance(RBFKernel()), (LowRank(20), Condition(1e-3))),
    "gains": (LastLayer(NETWORK), (Condition(0.1), LogLikelihoods(30, 0.1))),
}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("name", BASES)
def test_a_batch_has_different_rows_and_comes_again(name: str, selection: str) -> None:
    base, transforms = BASES[name]
    pool, train = torch.randn(50, 3), torch.randn(9, 3)
    picks = [
        select_batch(
            pool, 12, train=train, base=base, transforms=transforms, selection=selection, generator=generator()
        )
        for _ in range(2)
    ]
    assert picks[0].shape == (12,) and picks[0].dtype == torch.long
    assert len(picks[0].unique()) == 12 and 0 <= picks[0].min() and picks[0].max() < 50
    assert torch.equal(*picks)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_whole_pool_can_be_picked_with_and_without_labels(selection: str) -> None:
    pool = torch.randn(10, 2).repeat(2, 1)  # each row twice
    for train in (None, pool[:3]):
        found = select_batch(pool, 20, train=train, selection=selection, generator=generator())
        assert sorted(found.tolist()) == list(range(20))


@pytest.mark.parametrize("selection", sorted(SELECTIONS.keys() - {"random", "max-diag"}))
def test_a_batch_spreads_over_the_pool(selection: str) -> None:
    """Four far blobs, of which one has labels; the others are to be visited."""
    corners = torch.tensor([[9.0, 9.0], [9.0, -9.0], [-9.0, 9.0], [-9.0, -9.0]])
    pool = (corners[:, None] + 0.1 * torch.randn(4, 25, 2)).flatten(0, 1)
    train = corners[:1] + 0.1 * torch.randn(6, 2)
    transforms = (LowRank(30), Condition(1e-3))
    base = Covariance(RBFKernel())
    found = select_batch(
        pool, 3, train=train, base=base, transforms=transforms, selection=selection, generator=generator()
    )
    if selection == "k-means++":
        assert len((found // 25).unique()) >= 2
    elif selection == "frank-wolfe":
        assert 0 not in found // 25
    else:
        assert sorted((found // 25).tolist()) == [1, 2, 3]


def test_integers_and_single_precision_go_through() -> None:
    pool = torch.arange(20.0).reshape(10, 2)
    assert torch.equal(
        select_batch(pool.float(), 4, train=pool[:2], generator=generator()),
        select_batch(pool, 4, train=pool[:2].float(), generator=generator()),
    )


def test_bad_input_is_refused() -> None:
    pool = torch.randn(5, 2)
    for size in (0, 6):
        with pytest.raises(ValueError, match=f"between 1 and the 5 rows of the pool, got {size}"):
            select_batch(pool, size, generator=generator())
    with pytest.raises(ValueError, match="selection must be one of random, .*, got 'best'"):
        select_batch(pool, 2, selection="best", generator=generator())
    with pytest.raises(ValueError, match=r"got \(5, 2\) and \(4, 3\)"):
        select_batch(pool, 2, train=torch.randn(4, 3), generator=generator())
    pool[3, 1] = torch.nan
    with pytest.raises(ValueError, match="pool holds 1 entries that are NaN"):
        select_batch(pool, 2, generator=generator())
