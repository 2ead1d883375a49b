"""Which rows of a pool to label next.

    base kernel  ->  transforms  ->  selection

A base says what makes rows alike, transforms prepare its kernel, and a selection picks by it:

    select_batch(pool, 256, train=X, base=Gradients(network), transforms=(Sketch(512),), generator=g)

picks with LCMD in the sketched tangent kernel of a trained network, the best of the benchmark of the
source. Labels are not used, other than through the network or the kernel that was fitted to them.

Some of its other combinations:

    BALD        Condition and "max-diag"            BatchBALD   Condition and "max-det"
    core-set    LastLayer and "max-dist"            BADGE       LastLayer and "k-means++"
    ACS-FW      Condition, LogLikelihoods and "frank-wolfe"

Source: Holzmueller, Zaverkin, Kaestner & Steinwart (2023), "A Framework and Benchmark for Deep Batch
Active Learning for Regression", JMLR 24.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernelfield.models.active.features import Base, Linear
from kernelfield.models.active.selection import Farthest, LargestCluster, LargestDiagonal, Random, Seeding, Selection
from kernelfield.models.active.transforms import Transform
from kernelfield.models.active.variance import Bait, FrankWolfe, LargestDeterminant

SELECTIONS: dict[str, Selection] = {
    "random": Random(),
    "max-diag": LargestDiagonal(),
    "max-det": LargestDeterminant(),
    "bait": Bait(),
    "bait-fb": Bait(surplus=2.0),
    "frank-wolfe": FrankWolfe(),
    "max-dist": Farthest(),
    "k-means++": Seeding(),
    "lcmd": LargestCluster(),
}


def select_batch(
    pool: Tensor,
    size: int,
    *,
    train: Tensor | None = None,
    base: Base | None = None,
    transforms: Sequence[Transform] = (),
    selection: Selection | str = "lcmd",
    generator: torch.Generator,
) -> Tensor:
    """The numbers (size,) of the rows of a pool to label next, in the order in which they were picked.

    train: the inputs that have labels, from which the new ones should differ.
    base: what makes rows alike; Linear, the inputs themselves, by default.
    selection: a name of SELECTIONS, or an object for options of its own.

    Shapes: pool (n, d), train (t, d).
    Errors: ValueError for a batch that is larger than the pool or empty, inputs that are not finite,
        and an unknown name.

    >>> pool = torch.tensor([[0.0], [0.1], [4.0], [4.1], [9.0]])
    >>> select_batch(pool, 2, train=torch.tensor([[0.0]]), generator=torch.Generator())
    tensor([4, 3])
    """
    labelled = pool[:0] if train is None else train.to(pool)
    _refuse_unfit(pool, labelled, size)
    kernel = (base or Linear()).over(torch.cat([pool, labelled]))
    numbers = torch.arange(len(pool), kernel.size, device=kernel.device)
    for transform in transforms:
        kernel = transform.apply(kernel, numbers, generator)
    if isinstance(selection, str):
        if selection not in SELECTIONS:
            raise ValueError(f"selection must be one of {', '.join(SELECTIONS)}, got {selection!r}")
        selection = SELECTIONS[selection]
    return selection.pick(kernel, size, len(pool), generator).to(pool.device)


def _refuse_unfit(pool: Tensor, labelled: Tensor, size: int) -> None:
    if pool.ndim != 2 or labelled.ndim != 2 or pool.shape[1] != labelled.shape[1]:
        raise ValueError(
            f"need a pool (n, d) and labelled rows (t, d), got {tuple(pool.shape)} and {tuple(labelled.shape)}"
        )
    if not 1 <= size <= len(pool):
        raise ValueError(f"size must be between 1 and the {len(pool)} rows of the pool, got {size}")
    for name, X in (("pool", pool), ("train", labelled)):
        bad = int((~X.isfinite()).sum())
        if bad:
            raise ValueError(f"{name} holds {bad} entries that are NaN or infinite; remove or impute them")
