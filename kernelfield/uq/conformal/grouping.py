"""Groups of rows: by a column, by nearness of inputs, or by how unsure the law is.

A choice of groups learns from the calibration rows what the groups are; the result names the
group of any row, -1 for one that is in none.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from kernelfield.core.posterior import Posterior
from kernelfield.uq.recalibration.rows import require_finite

STARTS = 5  # of k-means, of which the best is kept


class FittedGroups(ABC):
    """Groups 0, 1, ... by name."""

    names: tuple[str, ...]

    @abstractmethod
    def codes(self, law: Posterior, X: Tensor | None) -> Tensor:
        """The group (n,) of each row."""


class Groups(ABC):
    """A choice of groups."""

    @abstractmethod
    def fit(self, law: Posterior, X: Tensor | None, *, generator: torch.Generator | None = None) -> FittedGroups:
        """What the groups of these rows are."""


@dataclass(frozen=True)
class ByColumn(Groups):
    """Groups by one column of the inputs: each of its values, or `bins` of equally many rows.

    Texts are given as the numbers that stand for them.

    Errors: ValueError for a column that is not there, NaN, fewer than two bins, or more than 1000 values.

    >>> from kernelfield.core.posterior import Elliptical
    >>> law = Elliptical(torch.zeros(4, 1), torch.eye(4))
    >>> X = torch.tensor([[2.0], [7.0], [2.0], [2.0]])
    >>> ByColumn(0).fit(law, X).codes(law, torch.tensor([[7.0], [2.0], [5.0]])).tolist()
    [1, 0, -1]
    """

    column: int
    bins: int | None = None
    most: ClassVar[int] = 1000

    def fit(self, law: Posterior, X: Tensor | None, *, generator: torch.Generator | None = None) -> "FittedColumn":
        x = _column(X, self.column)
        if self.bins is not None:
            edges = _edges(x, self.bins)
            return FittedColumn(self.column, edges, True, _bin_names(f"column {self.column}", edges))
        values = x.unique()
        if len(values) > self.most:
            raise ValueError(f"column {self.column} has {len(values)} values, each a group; cut it with bins=")
        return FittedColumn(self.column, values, False, tuple(f"column {self.column} = {v:g}" for v in values.tolist()))


@dataclass(frozen=True, eq=False)
class FittedColumn(FittedGroups):
    """Sorted values (k,), or inner edges of bins (k - 1,), of a column."""

    column: int
    values: Tensor
    binned: bool
    names: tuple[str, ...]

    def codes(self, law: Posterior, X: Tensor | None) -> Tensor:
        x = _column(X, self.column).to(self.values)
        if self.binned:
            return torch.searchsorted(self.values, x, right=True)
        place = torch.searchsorted(self.values, x).clamp_max(len(self.values) - 1)
        return torch.where(self.values[place] == x, place, -1)


@dataclass(frozen=True)
class ByCluster(Groups):
    """Groups by nearness of standardised inputs, by k-means.

    Errors: ValueError for NaN, or fewer different rows than clusters.
    """

    clusters: int = 8

    def fit(self, law: Posterior, X: Tensor | None, *, generator: torch.Generator | None = None) -> "FittedClusters":
        X = _inputs(X)
        different = len(X.unique(dim=0))
        if not 2 <= self.clusters <= different:
            raise ValueError(
                f"clusters must be from 2 to {different}, the number of different rows, got {self.clusters}"
            )
        shift, scale = X.mean(0), X.std(0, correction=0)
        scale = torch.where(scale > 0, scale, 1.0)
        seed = int(torch.randint(2**31, (), generator=generator))
        found = KMeans(self.clusters, n_init=STARTS, random_state=seed).fit(((X - shift) / scale).cpu().numpy())
        centres = torch.from_numpy(found.cluster_centers_).to(X)
        return FittedClusters(shift, scale, centres, tuple(f"cluster {i}" for i in range(self.clusters)))


@dataclass(frozen=True, eq=False)
class FittedClusters(FittedGroups):
    """Centres (k, d) of inputs (X - shift) / scale."""

    shift: Tensor
    scale: Tensor
    centres: Tensor
    names: tuple[str, ...]

    def codes(self, law: Posterior, X: Tensor | None) -> Tensor:
        X = _inputs(X)
        if X.shape[1] != len(self.shift):
            raise ValueError(f"clusters were made of {len(self.shift)} inputs, got X with {X.shape[1]} columns")
        inside = (X.to(self.shift) - self.shift) / self.scale
        return torch.cat([torch.cdist(part, self.centres).argmin(1) for part in inside.split(2**16)])


@dataclass(frozen=True)
class BySpread(Groups):
    """Groups of equally many rows by the predicted std, a mean over outputs, each relative to its own average.

    Errors: ValueError for fewer than two bins or laws of infinite variance.
    """

    bins: int = 5

    def fit(self, law: Posterior, X: Tensor | None, *, generator: torch.Generator | None = None) -> "FittedSpread":
        typical = law.variance.sqrt().mean(0)
        edges = _edges(_spread(law, typical), self.bins)
        return FittedSpread(typical, edges, _bin_names("relative std", edges))


@dataclass(frozen=True, eq=False)
class FittedSpread(FittedGroups):
    """Typical deviations (m,), and the inner edges (k - 1,) of bins of deviations relative to them."""

    typical: Tensor
    values: Tensor
    names: tuple[str, ...]

    def codes(self, law: Posterior, X: Tensor | None) -> Tensor:
        return torch.searchsorted(self.values, _spread(law, self.typical).to(self.values), right=True)


def _spread(law: Posterior, typical: Tensor) -> Tensor:
    spread = (law.variance.sqrt() / typical.to(law.mean)).mean(-1)
    require_finite(spread, "the predicted std")
    return spread


def _inputs(X: Tensor | None) -> Tensor:
    if X is None or X.ndim != 2:
        raise ValueError(f"groups are made of inputs X (n, d), got {None if X is None else tuple(X.shape)}; give X=")
    require_finite(X, "X")
    return X


def _column(X: Tensor | None, column: int) -> Tensor:
    if X is None or X.ndim != 2 or not 0 <= column < X.shape[1]:
        shape = None if X is None else tuple(X.shape)
        raise ValueError(f"groups are made of column {column} of inputs X (n, d), got X of shape {shape}")
    require_finite(X[:, column], f"column {column}")
    return X[:, column].contiguous()


def _edges(x: Tensor, bins: int) -> Tensor:
    """The inner edges of bins of equally many values; fewer where values are tied."""
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    inner = np.unique(np.quantile(x.cpu().numpy(), np.arange(1, bins) / bins))
    return torch.from_numpy(inner).to(x)


def _bin_names(what: str, edges: Tensor) -> tuple[str, ...]:
    ends = [f"{edge:.4g}" for edge in edges.tolist()]
    middle = [f"{low} <= {what} < {high}" for low, high in pairwise(ends)]
    return (f"{what} < {ends[0]}", *middle, f"{what} >= {ends[-1]}")
