"""Second moments of the outputs of one layer on two batches of inputs.

A state holds standard deviations a_i and b_j and, for each pair, the haversine

    e_ij = (1 - rho_ij) / 2 = sin^2(theta_ij / 2),    cov_ij = a_i b_j (1 - 2 e_ij),

in place of the covariance: a correlation rounds to one long before its inputs coincide, e does
not. Rules take e to e without forming 1 - rho, so near inputs stay accurate at any depth.

Axes: (*b, *space, n1, n2). Space is a batch axis, so that the rules of dense networks serve
images and sequences. Where positions meet only themselves there is one set of space axes;
where all pairs of positions are needed (`full`) there are two, of the first and of the second
input. Quantities of one side have size one along the axes of the other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernelfield.nets.points import Points, crossed, paired, size


@dataclass(frozen=True)
class Wanted:
    """What the layers after a point need to know there; layers pass it from last to first."""

    tangent: bool = True
    std: bool = False  # variances: an activation follows
    full: bool = False  # all pairs of positions: they are mixed later
    own: bool = False  # variances after positions are mixed
    points: bool = False  # the inputs themselves, for scales of single inputs
    same: bool = False  # which pairs are one input twice


@dataclass(frozen=True, eq=False)
class Side:
    """What a state knows of one batch of inputs, in shapes that broadcast against the pairs.

    own: the moments of each input with itself, where positions are mixed before a layer that
    needs variances; n stands on the side's own axis and the other one has size one.
    """

    std: Tensor
    present: Tensor | None = None
    graph: Tensor | None = None  # (*b, n, L, L) as given
    points: Points | None = None  # before the first layer alone
    own: "CovState | None" = None


@dataclass(frozen=True, eq=False)
class CovState:
    """See the module docstring. tangent is the NTK so far, or None where only the NNGP is wanted."""

    haversine: Tensor
    tangent: Tensor | None
    first: Side
    second: Side
    space: int = 0
    full: bool = False
    width: int | None = None  # channels; None where only the limit is known
    paired: bool = False  # the pairs (i, i) alone
    same: Tensor | None = None  # broadcasts against pairs: whether they are one input twice

    @classmethod
    def of_points(cls, points1: Points, points2: Points, wanted: Wanted) -> "CovState":
        """All pairs, before the first layer: inner products of inputs over c."""
        full = wanted.full and points1.space > 0
        haversine = crossed(points1, points2, full)
        first, second = (_side(p, i, full, wanted) for i, p in enumerate((points1, points2)))
        return cls(haversine, _zero(haversine, wanted), first, second, points1.space, full, points1.channels)

    @classmethod
    def of_pairs(cls, points1: Points, points2: Points, wanted: Wanted) -> "CovState":
        """The pairs (i, i) alone, as n batches of one: shapes (*b, *space, n, 1)."""
        full = wanted.full and points1.space > 0
        haversine = paired(points1, points2, full)
        first, second = (_side(p, i, full, wanted) for i, p in enumerate((points1, points2)))
        tangent, second = _zero(haversine, wanted), _transposed_side(second)
        return cls(haversine, tangent, first, second, points1.space, full, points1.channels, paired=True)

    @property
    def std1(self) -> Tensor:
        return self.first.std

    @property
    def std2(self) -> Tensor:
        return self.second.std

    @property
    def covariance(self) -> Tensor:
        """a b (1 - 2 e)."""
        return covariance_of(self.haversine, self.std1, self.std2)

    @property
    def coincident(self) -> Tensor | None:
        """Which pairs are one position of one input twice; None where `same` was not asked for."""
        if self.same is None or not self.full:
            return self.same
        sizes = self.haversine.shape[-self.space - 2 : -2]
        eye = torch.eye(math.prod(sizes), dtype=torch.bool, device=self.same.device)
        return self.same & eye.reshape(*sizes, *sizes, 1, 1)

    @property
    def distance(self) -> Tensor:
        """Half the expected squared difference of the outputs; independent terms add up in it."""
        return distance_of(self.haversine, self.std1, self.std2)

    def with_std(self, std1: Tensor, std2: Tensor, haversine: Tensor, tangent: Tensor | None) -> "CovState":
        """The state of given standard deviations and haversines; missing positions stay zero."""
        if self.first.present is not None:
            std1, tangent = std1 * self.first.present, _times(tangent, self.first.present)
        if self.second.present is not None:
            std2, tangent = std2 * self.second.present, _times(tangent, self.second.present)
        first = replace(self.first, std=std1, points=None)
        second = replace(self.second, std=std2, points=None)
        return replace(self, haversine=haversine, tangent=tangent, first=first, second=second)

    def with_distance(self, std1: Tensor, std2: Tensor, distance: Tensor, tangent: Tensor | None) -> "CovState":
        """The state of given standard deviations and half squared distances."""
        return self.with_std(std1, std2, haversine_of(distance, std1, std2), tangent)

    def with_covariance(self, std1: Tensor, std2: Tensor, covariance: Tensor, tangent: Tensor | None) -> "CovState":
        """The state of given standard deviations and covariances, where near pairs do not matter."""
        return self.with_distance(std1, std2, 0.5 * (std1.square() + std2.square()) - covariance, tangent)

    def lift(self, rule: Callable[["CovState"], "CovState"]) -> "CovState":
        """Apply a layer's rule to the own moments of both sides, then to the pairs.

        When the rule sees the pairs, `first.own` and `second.own` are those after the layer.
        """
        first, second = (s if s.own is None else replace(s, own=rule(s.own)) for s in (self.first, self.second))
        return rule(replace(self, first=first, second=second))


def covariance_of(haversine: Tensor, std1: Tensor, std2: Tensor) -> Tensor:
    """a b (1 - 2 e)."""
    both = std1 * std2
    return torch.addcmul(both, both, haversine, value=-2)


def distance_of(haversine: Tensor, std1: Tensor, std2: Tensor) -> Tensor:
    """(a - b)^2 / 2 + 2 a b e."""
    gap = std1 - std2
    return torch.addcmul(haversine * (2 * std1) * std2, gap, gap, value=0.5)


def haversine_of(distance: Tensor, std1: Tensor, std2: Tensor) -> Tensor:
    """The e of a half squared distance; zero where a standard deviation is."""
    gap, (inverse1, inverse2) = std1 - std2, ((std > 0) / torch.where(std > 0, std, 1) for std in (std1, std2))
    return (torch.addcmul(distance, gap, gap, value=-0.5) * (inverse1 / 2) * inverse2).clamp(0, 1)


def merge(states: Sequence[CovState], rule: Callable[[Sequence[CovState]], CovState]) -> CovState:
    """Apply a rule that joins branches to the own moments of both sides, then to the pairs."""
    joined = rule(states)
    owns = [[getattr(s, side).own for s in states] for side in ("first", "second")]
    first, second = (rule(own) if own[0] is not None else None for own in owns)
    return replace(joined, first=replace(joined.first, own=first), second=replace(joined.second, own=second))


def summed(values: Tensor, weights: Tensor, like: Tensor) -> Tensor:
    """Values of pairs times weights of one side, summed to the shape of a quantity of the other."""
    if like.shape[-1] == 1 and weights.shape[-2] == 1:
        return (values @ weights.expand(*weights.shape[:-1], values.shape[-1]).mT).sum_to_size(like.shape)
    if like.shape[-2] == 1 and weights.shape[-1] == 1:
        return (weights.expand(*weights.shape[:-2], values.shape[-2], 1).mT @ values).sum_to_size(like.shape)
    return (values * weights).sum_to_size(like.shape)


def _zero(haversine: Tensor, wanted: Wanted) -> Tensor | None:
    return torch.zeros_like(haversine) if wanted.tangent else None


def _times(tangent: Tensor | None, present: Tensor) -> Tensor | None:
    return None if tangent is None else tangent * present


def _side(points: Points, index: int, full: bool, wanted: Wanted) -> Side:
    """The first (0) or second (1) side of all pairs."""
    std = _placed(size(points.columns), points.space, index, full)
    present = None
    if points.present is not None:
        present = _placed(points.present.movedim(-points.space - 1, -1), points.space, index, full)
    own = None
    if wanted.own and full:
        own = CovState.of_pairs(points, points, replace(wanted, own=False, tangent=False))
        own = replace(own, same=own.haversine.new_ones((1, 1), dtype=torch.bool) if wanted.same else None)
        own = own if index == 0 else _transposed(own)
    return Side(std, present, points.graph, points if wanted.points else None, own)


def _placed(value: Tensor, space: int, index: int, full: bool) -> Tensor:
    """A quantity (*b, *space, n) of one side, among the axes of pairs."""
    if full:
        for _ in range(space):
            value = value.unsqueeze(-2 if index == 0 else -space - 2)
    return value.unsqueeze(-1 if index == 0 else -2)


def _transposed(state: CovState) -> CovState:
    """The same moments with the axes n1 and n2 exchanged."""
    tangent = None if state.tangent is None else state.tangent.mT
    sides = [_transposed_side(s) for s in (state.first, state.second)]
    return replace(state, haversine=state.haversine.mT, tangent=tangent, first=sides[0], second=sides[1])


def _transposed_side(side: Side) -> Side:
    present = None if side.present is None else side.present.mT
    own = None if side.own is None else _transposed(side.own)
    return replace(side, std=side.std.mT, present=present, own=own)
