"""How the training of k networks is shared out among processes, and its results put together.

Members of an ensemble share nothing, so each process trains some of them and sends what they have become:

    jobs    processes that joblib starts, by the backend of the user's choice (`joblib.parallel_config`)
    ranks   those that this process has joined (`linalg.ranks`)

Where there are fewer networks than ranks, every rank has all of them and a part of each mini-batch, and the
gradients are summed in one message a step, which is what DistributedDataParallel does with a model of one tensor:

    d loss = sum over ranks of (b_r / b) d loss_r,    b_r of b rows of the batch.

Results are those of one process, up to rounding.

Source: Li et al. (2020), "PyTorch Distributed: Experiences on Accelerating Data Parallel Training".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import joblib  # type: ignore[import-untyped]
import torch
from torch import Tensor

from kernelfield.linalg.ranks import Ranks

Task = TypeVar("Task")


@dataclass(frozen=True, eq=False)
class Trained:
    """Trained members.

    parameters (k, p) in double precision; noise (k, m), the variances that were learned, or None;
    losses (steps, k), those of mini-batches, and NaN where training had stopped.
    """

    parameters: Tensor
    noise: Tensor | None
    losses: Tensor

    @property
    def notes(self) -> list[str]:
        """What a user should know."""
        steps = len(self.losses)
        ran = dict.fromkeys((~self.losses.isnan()).sum(0).tolist())
        return [f"training stopped after {last} of {steps} steps" for last in ran if last < steps]


def joined(parts: Sequence[Trained]) -> Trained:
    """The members of all parts, in their order."""
    noise = None if parts[0].noise is None else torch.cat([part.noise for part in parts if part.noise is not None])
    return Trained(torch.cat([part.parameters for part in parts]), noise, torch.cat([part.losses for part in parts], 1))


def gathered(own: Trained, ranks: Ranks, k: int) -> Trained:
    """All k members, of which this rank has trained its part."""
    parameters, losses = ranks.gather(own.parameters, k), ranks.gather(own.losses.mT, k).mT
    return Trained(parameters, None if own.noise is None else ranks.gather(own.noise, k), losses)


def jobs() -> int:
    """How many processes joblib would start here: one, unless the user has asked for more."""
    return int(joblib.effective_n_jobs(None))


def divided(k: int, most: int, parts: int) -> list[slice]:
    """k members in parts of nearly equal size: at least so many parts, and at most so many members in each.

    >>> divided(7, 10, 2)
    [slice(0, 4, None), slice(4, 7, None)]
    """
    count = min(k, max(parts, math.ceil(k / most)))
    ends = [math.ceil(part * k / count) for part in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def run_all(run: Callable[[Task], Trained], tasks: Sequence[Task], *, jobs: int) -> Trained:
    """What comes of tasks that share nothing, in so many jobs."""
    if jobs == 1:
        return joined([run(task) for task in tasks])
    return joined(joblib.Parallel(n_jobs=jobs)(joblib.delayed(run)(task) for task in tasks))


def exchanged(ranks: Ranks, loss: Tensor, moving: Sequence[Tensor | None]) -> Tensor:
    """The loss of a whole batch, of which each rank has its share; the gradients become those of it as well."""
    own = [tensor for tensor in moving if tensor is not None and tensor.grad is not None]
    total, *slopes = ranks.sums([loss.detach(), *(tensor.grad for tensor in own if tensor.grad is not None)])
    for tensor, slope in zip(own, slopes, strict=True):
        tensor.grad = slope
    return total
