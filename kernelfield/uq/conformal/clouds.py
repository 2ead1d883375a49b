"""Regions of any shape, given as clouds of points, grown or shrunk until they hold the promised share.

For each row a model gives points y_j with a flag: inside of its region or not. A value y belongs to the
region that they stand for if its nearest point is an inner one, no further away than the points of
clouds are from each other, `gap`. Its signed distance is the score,

    s(y) =  distance to the nearest inner point     outside
    s(y) = -distance to the nearest outer point     inside,

and { y : s(y) <= t } is the region grown by t, or shrunk by -t. With t the rank of the scores of
calibration rows it holds a new row with the promised probability, whatever the clouds are worth.

Source: Feldman, Bates & Romano (2023), "Calibrated Multiple-Output Quantile Regression with
Representation Learning", section on calibration, which grows by the one distance or shrinks by the other.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.uq.conformal.contour import outlines
from kernelfield.uq.conformal.ranks import CoverageLaw, rank

CHUNK = 2**23  # distances that are alive at a time
SAMPLE = 32  # rows on which the gaps of clouds are measured
GRID = 200  # points along each side of the grid on which an outline is drawn
PROBES = 4096  # points by which a volume is estimated


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points (n, j, m) and whether they are inside (n, j), for n rows; gap a length in units of y.

    Errors: ValueError for shapes that do not agree.

    >>> line = torch.linspace(-2, 2, 41)[None, :, None]
    >>> cloud = Cloud(line, (line.abs() < 1)[..., 0], gap=0.1)
    >>> cloud.distance(torch.tensor([[[0.0], [1.5]]]))  # the edge is between 0.9 and 1
    tensor([[-1.0000,  0.6000]])
    """

    points: Tensor
    inside: Tensor
    gap: float

    def __post_init__(self) -> None:
        if self.points.ndim != 3 or self.inside.shape != self.points.shape[:2]:
            shapes = f"{tuple(self.points.shape)} and {tuple(self.inside.shape)}"
            raise ValueError(f"need points (n, j, m) and flags (n, j), got {shapes}")

    def __getitem__(self, rows: slice) -> "Cloud":
        return Cloud(self.points[rows], self.inside[rows], self.gap)

    def __len__(self) -> int:
        return len(self.points)

    def distance(self, y: Tensor) -> Tensor:
        """Signed distances (n, q) of q values y (n, q, m) for each row."""
        step = max(1, CHUNK // (y.shape[1] * self.points.shape[1]))
        parts = [self[i : i + step]._distance(y[i : i + step]) for i in range(0, len(y), step)]
        return torch.cat(parts)

    def _distance(self, y: Tensor) -> Tensor:
        apart = torch.cdist(y, self.points)
        inner = apart.masked_fill(~self.inside[:, None], math.inf).amin(-1)
        outer = apart.masked_fill(self.inside[:, None], math.inf).amin(-1)
        return torch.where((inner <= outer) & (inner <= self.gap), -outer, inner)


def gap_of(points: Tensor, inside: Tensor) -> float:
    """How far the inner points of clouds are from each other: the median over rows of the widest gap to the next.

    Points (n, j, m), flags (n, j), of which the first 32 rows are looked at.

    >>> gap_of(torch.tensor([[[0.0], [1.0], [3.0], [9.0]]]), torch.tensor([[True, True, True, False]]))
    2.0
    """
    widest = []
    for own, flags in zip(points[:SAMPLE], inside[:SAMPLE], strict=True):
        inner = own[flags]
        if len(inner) > 1:
            widest.append(torch.cdist(inner, inner).fill_diagonal_(math.inf).amin(-1).max())
    return torch.stack(widest).median().item() if widest else 0.0


def calibrated(cloud: Cloud, y: Tensor) -> "CalibratedClouds":
    """What values y (n, m) of calibration rows say of how far regions are to be grown.

    Errors: ValueError for shapes that do not agree.
    """
    expected = (len(cloud), cloud.points.shape[-1])
    if tuple(y.shape) != expected:
        raise ValueError(f"need values y {expected} for these clouds, got {tuple(y.shape)}")
    return CalibratedClouds(cloud.distance(y[:, None])[:, 0].sort().values)


@dataclass(frozen=True, eq=False)
class CalibratedClouds:
    """Signed distances (n,) of calibration rows, sorted."""

    scores: Tensor

    @property
    def rows(self) -> int:
        return len(self.scores)

    def bound(self, level: float) -> float:
        """How far regions are grown, in units of y; negative where they shrink.

        Errors: ValueError for too few rows.
        """
        return self.scores[rank(self.rows, level) - 1].item()

    def contains(self, cloud: Cloud, y: Tensor, level: float) -> Tensor:
        """Whether y (n, m) lies in the regions of its rows (n,)."""
        return cloud.distance(y[:, None])[:, 0] <= self.bound(level)

    def volume(self, cloud: Cloud, level: float, *, probes: int = PROBES) -> Tensor:
        """Volumes (n,), estimated by the share of even points of a box that lie in a region.

        Its relative error is about sqrt((1 - share) / (share probes)) at most.
        """
        low, high = self._box(cloud, level)
        m = low.shape[-1]
        even = torch.quasirandom.SobolEngine(m, scramble=True, seed=0).draw(probes, dtype=low.dtype).to(low)
        step = max(1, CHUNK // (probes * cloud.points.shape[1]))
        shares = []
        for i in range(0, len(cloud), step):
            own = slice(i, i + step)
            at = low[own, None] + (high - low)[own, None] * even
            shares.append((cloud[own].distance(at) <= self.bound(level)).to(low).mean(-1))
        return (high - low).prod(-1) * torch.cat(shares)

    def outline(self, cloud: Cloud, level: float) -> list[list[Tensor]]:
        """For each row the polygons (k, 2) around the pieces of its region, and around holes in it.

        Errors: ValueError for another number of outputs than two.
        """
        if cloud.points.shape[-1] != 2:
            raise ValueError(f"an outline is one of two outputs, got {cloud.points.shape[-1]}; use contains and volume")
        low, high = self._box(cloud, level)
        found = []
        for i in range(len(cloud)):
            margin = 0.02 * (high[i] - low[i])
            first, second = (low[i] - margin).tolist(), (high[i] + margin).tolist()
            x, y = (torch.linspace(a, b, GRID).to(low) for a, b in zip(first, second, strict=True))
            at = torch.cartesian_prod(x, y)
            values = cloud[slice(i, i + 1)].distance(at[None])[0].reshape(GRID, GRID)
            found.append(outlines(values, x, y, self.bound(level)))
        return found

    def coverage_law(self, level: float) -> CoverageLaw:
        """The law of the share of new rows that are inside, given these calibration rows."""
        return CoverageLaw(rank(self.rows, level), self.rows)

    def _box(self, cloud: Cloud, level: float) -> tuple[Tensor, Tensor]:
        """The ends (n, m) of boxes around the regions; of no size where there is no inner point."""
        reach = max(self.bound(level), cloud.gap)
        inside = cloud.inside[..., None]
        low = torch.where(inside, cloud.points, math.inf).amin(1) - reach
        high = torch.where(inside, cloud.points, -math.inf).amax(1) + reach
        empty = ~cloud.inside.any(1, keepdim=True)
        return torch.where(empty, 0.0, low), torch.where(empty, 0.0, high)
