"""Picking rows that are far apart, in the distances d(i, j)^2 = k(i, i) + k(j, j) - 2 k(i, j) of a kernel.

    Random           any rows
    LargestDiagonal  those of the largest variance k(i, i)
    Farthest         each time the row that is farthest from all centres
    Seeding          a random row, with a probability proportional to its squared distance
    LargestCluster   the farthest row of the cluster with the largest sum of squared distances

Centres are the rows that have been picked and, in the mode "TP", those that have labels; a row
belongs to the cluster of its nearest centre, the earliest of several. In the mode "P" the first row
is that of the largest variance, or any row for Seeding. A pick costs O(n) beside a column of the
kernel: O(n p) with p features.

Sources: Holzmueller et al. (2023), "A Framework and Benchmark for Deep Batch Active Learning for
Regression", section 4.3, which calls them Random, MaxDiag, MaxDist, KMeansPP and LCMD; Sener & Savarese
(2018), "Active Learning for Convolutional Neural Networks: A Core-Set Approach"; Arthur & Vassilvitskii
(2007), "k-means++".
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kernelfield.models.active.finite import BLOCK, FiniteKernel

Mode = Literal["P", "TP"]


class Selection(ABC):
    """A way to pick rows."""

    @abstractmethod
    def pick(self, kernel: FiniteKernel, size: int, pool: int, generator: torch.Generator) -> Tensor:
        """`size` different numbers below `pool`; the kernel's points from `pool` on have labels."""


@dataclass(frozen=True)
class Random(Selection):
    """Rows at random, for comparison."""

    def pick(self, kernel: FiniteKernel, size: int, pool: int, generator: torch.Generator) -> Tensor:
        return torch.randperm(pool, generator=generator, device=generator.device)[:size]


@dataclass(frozen=True)
class LargestDiagonal(Selection):
    """The rows of the largest variance, each judged alone; close ones are picked together."""

    def pick(self, kernel: FiniteKernel, size: int, pool: int, generator: torch.Generator) -> Tensor:
        return kernel.diagonal()[:pool].argsort(descending=True, stable=True)[:size]


@dataclass(frozen=True)
class Farthest(Selection):
    """The row farthest from all centres: a cover of the pool by balls, within twice the least radius."""

    mode: Mode = "TP"

    def __post_init__(self) -> None:
        _check(self.mode)

    def pick(self, kernel: FiniteKernel, size: int, pool: int, generator: torch.Generator) -> Tensor:
        clusters = Clusters(kernel, pool, self.mode)
        while len(clusters.picked) < size:
            clusters.add(clusters.best(clusters.gap if clusters.centres else clusters.diagonal[:pool]))
        return clusters.numbers()


@dataclass(frozen=True)
class Seeding(Selection):
    """The random seeds of k-means++: rows with probabilities proportional to squared distances."""

    mode: Mode = "TP"

    def __post_init__(self) -> None:
        _check(self.mode)

    def pick(self, kernel: FiniteKernel, size: int, pool: int, generator: torch.Generator) -> Tensor:
        clusters = Clusters(kernel, pool, self.mode)
        while len(clusters.picked) < size:
            weight = clusters.gap if clusters.centres else torch.ones_like(clusters.gap)
            if not weight.any():  # all that is left lies upon a centre
                weight = clusters.free.to(weight)
            # Not torch.multinomial, which cannot take more than 2^24 categories.
            sums = weight.cumsum(0)
            u = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64).to(sums)
            clusters.add(int(torch.searchsorted(sums, u * sums[-1], right=True)))
        return clusters.numbers()


@dataclass(frozen=True)
class LargestCluster(Selection):
    """The farthest row of the heaviest cluster: where much of the pool is far from any label."""

    mode: Mode = "TP"

    def __post_init__(self) -> None:
        _check(self.mode)

    def pick(self, kernel: FiniteKernel, size: int, pool: int, generator: torch.Generator) -> Tensor:
        clusters = Clusters(kernel, pool, self.mode)
        while len(clusters.picked) < size:
            if clusters.centres:
                weights = torch.bincount(clusters.nearest, clusters.gap, minlength=clusters.centres)
                inside = clusters.nearest == weights.argmax()
                clusters.add(clusters.best(torch.where(inside, clusters.gap, -1.0)))
            else:
                clusters.add(clusters.best(clusters.diagonal[:pool]))
        return clusters.numbers()


class Clusters:
    """The pool's rows by their nearest centres.

    nearest (n,) counts centres in the order in which they came; gap (n,) is the squared distance,
    in double precision, and zero for rows that have been picked.
    """

    def __init__(self, kernel: FiniteKernel, pool: int, mode: Mode) -> None:
        self.kernel, self.pool = kernel, pool
        self.diagonal = kernel.diagonal().double()
        self.gap = torch.full_like(self.diagonal[:pool], math.inf)
        self.nearest = torch.zeros_like(self.gap, dtype=torch.long)
        self.free = torch.ones_like(self.gap, dtype=torch.bool)
        self.picked: list[int] = []
        self.centres = 0
        if mode == "TP" and kernel.size > pool:
            labelled = torch.arange(pool, kernel.size, device=self.gap.device)
            for columns in labelled.split(max(1, BLOCK // pool)):
                self._centre(columns)

    def add(self, number: int) -> None:
        """Pick a row of the pool."""
        self._centre(torch.tensor([number], device=self.gap.device))
        self.picked.append(number)
        self.free[number] = False
        self.gap[number] = 0.0

    def best(self, score: Tensor) -> int:
        """The free row of the highest score, the first of several."""
        return int(score.masked_fill(~self.free, -math.inf).argmax())

    def numbers(self) -> Tensor:
        """What has been picked."""
        return torch.tensor(self.picked, device=self.gap.device)

    def _centre(self, columns: Tensor) -> None:
        products = self.kernel.block(slice(0, self.pool), columns)
        squares = self.diagonal[columns] - 2 * products
        least, which = squares.min(1)
        least = (least + self.diagonal[: self.pool]).clamp_min_(0)
        closer = least < self.gap
        self.gap = torch.where(closer, least, self.gap)
        self.nearest = torch.where(closer, which + self.centres, self.nearest)
        self.centres += len(columns)


def _check(mode: str) -> None:
    if mode not in ("P", "TP"):
        raise ValueError(f"mode must be 'P' or 'TP', got {mode!r}")
