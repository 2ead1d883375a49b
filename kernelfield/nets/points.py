"""Inputs of networks: vectors, images, sequences and graphs, with their missing positions.

Axes: x (*b, n, *space, c), channels last. Moments put space in front of the points,
(*b, *space, n1, n2), and have two sets of space axes where all pairs of positions are needed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import itemgetter

import torch
from torch import Tensor

NEAR = 0.4  # pairs with sin^2(theta) / 4 below eps^0.4 are taken from differences of the inputs


@dataclass(frozen=True, eq=False)
class Points:
    """Inputs x (*b, n, *space, c), with what some networks read beside them.

    space is the number of position axes: 2 for images (H, W), 1 for sequences (L,) and for the
    nodes of graphs. present (*b, n, *space) is False where a position is missing; graph
    (*b, n, L, L) mixes the nodes of each input.

    Errors: ValueError for a mask or a graph that does not match the positions.
    """

    x: Tensor
    space: int = 0
    present: Tensor | None = None
    graph: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.x.shape)
        if len(shape) < self.space + 2:
            axes = ", ".join(["n", *"HWD"[: self.space], "channels"])
            raise ValueError(f"inputs must have the axes (..., {axes}), got an array of shape {shape}")
        if self.present is not None and tuple(self.present.shape) != shape[:-1]:
            raise ValueError(f"the mask must have the positions' shape {shape[:-1]}, got {tuple(self.present.shape)}")
        if self.graph is not None:
            wanted = (*shape[:-1], shape[-2])
            if self.space != 1 or tuple(self.graph.shape) != wanted:
                raise ValueError(f"the graphs must have the shape {wanted}, got {tuple(self.graph.shape)}")

    def __len__(self) -> int:
        return self.x.shape[-self.space - 2]

    def __getitem__(self, rows: slice) -> "Points":
        """Some of the n inputs."""
        first = len(self.batch)
        return self._each(lambda t: t.transpose(0, first)[rows].transpose(0, first))

    @property
    def batch(self) -> torch.Size:
        return self.x.shape[: -self.space - 2]

    def expand(self, batch: torch.Size) -> "list[Points]":
        """The points of each element of a batch."""
        own = len(self.batch)
        flat = self._each(lambda t: t.expand(*batch, *t.shape[own:]).flatten(0, len(batch) - 1))
        return [flat._each(itemgetter(i)) for i in range(batch.numel())]

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Points":
        present, graph = (None if t is None else change(t) for t in (self.present, self.graph))
        return replace(self, x=change(self.x), present=present, graph=graph)

    def double(self) -> "Points":
        """The same points in double precision."""
        return self._each(lambda t: t.double() if t.is_floating_point() else t)

    def detached(self, *, requires_grad: bool) -> "Points":
        """The same points outside of any graph."""
        return replace(self, x=self.x.detach().requires_grad_(requires_grad))

    @property
    def channels(self) -> int:
        return self.x.shape[-1]

    @property
    def columns(self) -> Tensor:
        """x (*b, *space, n, c), zero where a position is missing."""
        x = self.x if self.present is None else self.x * self.present[..., None].to(self.x)
        return x.movedim(-self.space - 2, -2)


def check_alike(points1: Points, points2: Points, *, full: bool, paired: bool) -> None:
    """Refuse inputs that cannot be compared.

    Errors: ValueError for other channels or axes, for other positions where each meets its like, and
    in pairs for other numbers of inputs.
    """
    sizes = [tuple(p.columns.shape[-p.space - 2 : -2]) for p in (points1, points2)]
    said = " and ".join(
        f"{' x '.join(map(str, size)) or 'no'} positions of {p.channels} channels"
        for size, p in zip(sizes, (points1, points2), strict=True)
    )
    if len({(p.space, p.channels) for p in (points1, points2)}) > 1:
        raise ValueError(f"both inputs must have the same channels and axes of positions, got {said}")
    if not full and sizes[0] != sizes[1]:
        raise ValueError(
            "this network compares each position with its like, so both inputs must have the same positions, "
            f"got {said}; a network that pools over all positions takes inputs of different sizes"
        )
    if paired and len(points1) != len(points2):
        raise ValueError(f"inputs in pairs must be as many on both sides, got {len(points1)} and {len(points2)}")


def size(x: Tensor) -> Tensor:
    """The root of the mean square of the channels of x (..., c), with a finite slope at zero."""
    square = x.square().mean(-1)
    positive = square > 0
    return torch.where(positive, square, 1).sqrt() * positive


def crossed(points1: Points, points2: Points, full: bool) -> Tensor:
    """The haversines (*b, *space[, *space], n1, n2) of all pairs."""
    first, second = directions(points1), directions(points2)
    if not full:
        return haversine(first, second)
    k, n1, n2 = points1.space, len(points1), len(points2)
    space1, space2 = first.shape[-k - 2 : -2], second.shape[-k - 2 : -2]
    e = haversine(first.flatten(-k - 2, -2), second.flatten(-k - 2, -2))
    e = e.unflatten(-1, (*space2, n2)).unflatten(-k - 2, (*space1, n1))
    return e.movedim(-k - 2, -2).contiguous()


def paired(points1: Points, points2: Points, full: bool) -> Tensor:
    """The haversines (*b, *space[, *space], n, 1) of the pairs (i, i)."""
    first, second = directions(points1), directions(points2)
    if not full:
        return haversine(first[..., None, :], second[..., None, :])[..., 0]
    k = points1.space
    by_point = [d.movedim(-2, -k - 2).flatten(-k - 1, -2) for d in (first, second)]  # (*b, n, S, c)
    e = haversine(*by_point).movedim(-3, -1)
    space1, space2 = first.shape[-k - 2 : -2], second.shape[-k - 2 : -2]
    return e.unflatten(-2, space2).unflatten(-k - 2, space1)[..., None].contiguous()


def directions(points: Points) -> Tensor:
    """x (*b, *space, n, c) on the unit sphere; zero stays zero."""
    x = points.columns
    length = size(x)[..., None] * points.channels**0.5
    return x / torch.where(length > 0, length, 1)


def haversine(first: Tensor, second: Tensor) -> Tensor:
    """|u - v|^2 / 4 of unit vectors u (*b, n1, c) and v (*b, n2, c).

    One matrix product serves most pairs; nearly parallel ones, where it would cancel, are
    taken from u - v or u + v.
    """
    return resolved((1 - first @ second.mT) / 2, first, second)


def resolved(e: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The haversines e of unit vectors, those of nearly parallel ones computed again, in place."""
    near = torch.finfo(e.dtype).eps ** NEAR
    if not e.numel():
        return e
    least, most = torch.aminmax(e.detach())
    if near < least and most < 1 - near:
        return e
    found = (e * (1 - e) < near).nonzero(as_tuple=True)
    *batch, i, j = found
    u = first.expand(*e.shape[:-2], -1, -1)[(*batch, i)]
    v = second.expand(*e.shape[:-2], -1, -1)[(*batch, j)]
    apart, opposed = (u - v).square().sum(-1) / 4, 1 - (u + v).square().sum(-1) / 4
    return e.index_put_(found, torch.where(apart < 0.5, apart, opposed))
