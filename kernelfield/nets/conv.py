"""Convolutions.

With w and b the scales of weights and biases, and K, T the NNGP and NTK between position p of
one input and position q of another, a convolution whose windows have s taps gives

    K'_pq = w^2 / s sum_t K_{p+t, q+t} + b^2,    T'_pq = K'_pq + w^2 / s sum_t T_{p+t, q+t},

with zeros for positions in the padding; in the standard parameterisation, as for `Dense`,
T' = (s c / s_in) mean_t K + w^2 mean_t T + 1. Only the joint shift of both positions occurs, so
that the sum splits into one along each axis.

What is summed is half the expected squared difference D = (K_pp + K_qq) / 2 - K_pq: it stays zero
where patches coincide, and a window half of which lies in the padding adds K_pp / 2 or K_qq / 2.

Sources: Novak et al. (2019), "Bayesian deep convolutional networks with many channels are
Gaussian processes", eq. (9)-(11); Garriga-Alonso et al. (2019), "Deep convolutional networks as
shallow Gaussian processes", eq. (8); Arora et al. (2019), "On exact computation with an
infinitely wide neural net", section 4.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from types import EllipsisType

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from kernelfield.nets.algebra import Layer
from kernelfield.nets.dense import UNKNOWN, Affine, Scale, refuse_negative
from kernelfield.nets.pooling import centred
from kernelfield.nets.positions import (
    Tap,
    Windows,
    at_matching,
    axes_of,
    beside,
    cropped,
    padded,
    scattered,
    sizes_of,
    taps,
    transposed_taps,
)
from kernelfield.nets.state import CovState, covariance_of, distance_of


@dataclass(frozen=True)
class _Filters(Layer):
    """What convolutions have in common: filters on windows, and a bias."""

    window: tuple[int, ...]
    w: Scale = 1.0
    b: Scale | None = None
    padding: str = "SAME"
    strides: int | tuple[int, ...] = 1
    width: int | None = None
    scaling: tuple[int, int] = (1, 1)
    sets_width = True

    def __post_init__(self) -> None:
        _ = self.windows  # which refuses what makes no sense
        refuse_negative(self, self.w)
        refuse_negative(self, self.b)

    @property
    def windows(self) -> Windows:
        return Windows(type(self).__name__, self.window, self.strides, self.padding)

    def propagate(self, state: CovState) -> CovState:
        fan_in = self._fan_in(state)
        return replace(state.lift(lambda s: self.rule(s, fan_in)), width=self.width)

    @abstractmethod
    def rule(self, state: CovState, fan_in: float | None) -> CovState:
        """Moments after independent filters and biases; fan_in is None in the NTK parameterisation."""

    def gaussian(self, before: bool) -> bool:
        return True

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        size = fan_out if self.width is None else self.width
        return self.filters(fan_in, size), size

    @abstractmethod
    def filters(self, fan_in: int, size: int) -> nn.Module:
        """A finite module on (n, *space, fan_in) with `size` filters."""

    def _fan_in(self, state: CovState) -> float | None:
        if self.width is None:
            return None
        if state.width is None:
            raise ValueError(f"{self} has the standard parameterisation, so the layer before it needs a width")
        return state.width * prod(self.window) / self.scaling[0]


@dataclass(frozen=True)
class Conv(_Filters):
    """y(p) = w / sqrt(s c) sum_t W_t x(stride p + t) + b B, with W_t and B standard normal.

    window: the sizes of the filter, (3, 3) for images and (3,) for sequences. b: None for a layer
    without biases. padding: SAME, VALID or CIRCULAR. width, scaling: as in `Dense`. A position is
    missing behind it where the middle of its window is.

    Errors: ValueError for windows, strides or paddings that make no sense or do not fit.
    """

    def rule(self, state: CovState, fan_in: float | None) -> CovState:
        along = [[taps(axis) for axis in self.windows.axes(sizes_of(state, i))] for i in (0, 1)]
        presents = [centred(side.present, self.windows, state, i) for i, side in enumerate((state.first, state.second))]
        return _filtered(self, state, along, presents, fan_in)

    def filters(self, fan_in: int, size: int) -> nn.Module:
        return Convolution(self, fan_in * prod(self.window), size)


@dataclass(frozen=True)
class ConvTranspose(_Filters):
    """Each position p adds w / sqrt(s c) W_t x(p) to the positions stride p + t; see `Conv`.

    The outputs are `strides` times as large as the inputs; SAME cuts off on both ends what stands
    over, CIRCULAR adds it at the other end, VALID keeps it. A position is missing behind it if no
    position that is present reaches it.
    """

    def rule(self, state: CovState, fan_in: float | None) -> CovState:
        along = [[transposed_taps(axis) for axis in self.windows.backward(sizes_of(state, i))] for i in (0, 1)]
        presents: list[Tensor | None] = []
        for i, side in enumerate((state.first, state.second)):
            reached = None if side.present is None else side.present.to(state.haversine)
            presents.append(None if reached is None else _sums(reached, along[i], axes_of(state, i)) > 0)
        return _filtered(self, state, along, presents, fan_in)

    def filters(self, fan_in: int, size: int) -> nn.Module:
        return TransposedConvolution(self, fan_in * prod(self.window), size)


@dataclass(frozen=True)
class ConvLocal(_Filters):
    """A convolution with filters and biases of its own at each position: different ones are uncorrelated.

    The finite module draws its weights when the first images show how many positions there are.
    """

    def rule(self, state: CovState, fan_in: float | None) -> CovState:
        matching = at_matching(state)
        along = [[taps(axis) for axis in self.windows.axes(sizes_of(matching))]] * 2
        presents = [centred(side.present, self.windows, matching, 0) for side in (matching.first, matching.second)]
        after = _filtered(self, matching, along, presents, fan_in)
        if not state.full:
            return after
        first, second = (
            replace(
                side,
                std=beside(side.std, state.space, i),
                present=None if side.present is None else beside(side.present, state.space, i),
                own=before.own,
            )
            for i, side, before in ((0, after.first, state.first), (1, after.second, state.second))
        )
        tangent = None if after.tangent is None else scattered(after.tangent, state.space, 0.0)
        haversine = scattered(after.haversine, state.space, 0.5)
        return replace(after, haversine=haversine, tangent=tangent, first=first, second=second, full=True)

    def filters(self, fan_in: int, size: int) -> nn.Module:
        return LocalConvolution(self, UNKNOWN, size)


Along = list[tuple[Tap, ...]]  # the taps along each position axis
Place = tuple[tuple[Tap, ...], int]  # those along one axis, and where it stands


def _filtered(
    layer: _Filters, state: CovState, along: list[Along], presents: list[Tensor | None], fan_in: float | None
) -> CovState:
    """Moments after filters with these taps on the positions of the first and second inputs."""
    size = prod(layer.window)
    share, shift = layer.w**2 / size, 0.0 if layer.b is None else layer.b**2
    scaled1, scaled2 = state.std1 * share**0.5, state.std2 * share**0.5
    distance, tangent = distance_of(state.haversine, scaled1, scaled2), state.tangent
    if tangent is not None:
        gain = share if fan_in is None else fan_in / size
        tangent = share * tangent + covariance_of(state.haversine, gain * state.std1, state.std2)
    variances = [scaled1.square(), scaled2.square()]
    for d in range(state.space):
        places = [(along[i][d], axes_of(state, i)[d]) for i in (0, 1)]
        if state.full:
            distance = _joint_sum(distance, places, [v / 2 for v in variances])
            tangent = None if tangent is None else _joint_sum(tangent, places)
        else:
            distance = _sum(distance, *places[0])
            tangent = None if tangent is None else _sum(tangent, *places[0])
        variances = [_sum(v, *place) for v, place in zip(variances, places, strict=True)]
    std1, std2 = (_root(v + shift) for v in variances)
    tangent = None if tangent is None else tangent + (shift if fan_in is None else float(layer.b is not None))
    sides = [replace(side, present=p) for side, p in zip((state.first, state.second), presents, strict=True)]
    return replace(state, first=sides[0], second=sides[1]).with_distance(std1, std2, distance, tangent)


def _sums(values: Tensor, along: Along, axes: tuple[int, ...]) -> Tensor:
    for taps_, axis in zip(along, axes, strict=True):
        values = _sum(values, taps_, axis)
    return values


def _sum(values: Tensor, along: tuple[Tap, ...], axis: int) -> Tensor:
    """Sums over the windows along one axis."""
    total = _zeros(values, {axis: along[0].size})
    for tap in along:
        for out, into in tap.inside:
            total[_at({axis: out})].add_(values[_at({axis: into})])
    return total


def _joint_sum(values: Tensor, places: list[Place], alone: Sequence[Tensor] = ()) -> Tensor:
    """Sums over the windows of both inputs along one axis, shifted jointly.

    alone: the values where the second, or the first, position lies in the padding; else zeros.
    """
    (taps1, axis1), (taps2, axis2) = places
    total = _zeros(values, {axis1: taps1[0].size, axis2: taps2[0].size})
    for tap1, tap2 in zip(taps1, taps2, strict=True):
        for (out1, in1), (out2, in2) in product(tap1.inside, tap2.inside):
            total[_at({axis1: out1, axis2: out2})].add_(values[_at({axis1: in1, axis2: in2})])
        if not alone:
            continue
        for (out1, in1), out2 in product(tap1.inside, tap2.outside):
            total[_at({axis1: out1, axis2: out2})].add_(alone[0][_at({axis1: in1})])
        for out1, (out2, in2) in product(tap1.outside, tap2.inside):
            total[_at({axis1: out1, axis2: out2})].add_(alone[1][_at({axis2: in2})])
    return total


def _zeros(values: Tensor, sizes: dict[int, int]) -> Tensor:
    """Zeros like the values, with other sizes along some axes."""
    return values.new_zeros([sizes.get(i, values.shape[i]) for i in range(-values.ndim, 0)])


def _at(places: dict[int, slice]) -> tuple[EllipsisType | slice, ...]:
    """The index of some places along axes counted from the end."""
    return (..., *(places.get(i, slice(None)) for i in range(min(places), 0)))


def _root(variance: Tensor) -> Tensor:
    positive = variance > 0
    return torch.where(positive, variance, 1).sqrt() * positive


CONVOLUTIONS = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}
TRANSPOSED = {
    1: nn.functional.conv_transpose1d,
    2: nn.functional.conv_transpose2d,
    3: nn.functional.conv_transpose3d,
}


class _FilterBank(Affine):
    """Filters as the rows of a matrix, over channels and taps."""

    def __init__(self, layer: _Filters, columns: int, size: int) -> None:
        if len(layer.window) > 3:
            raise ValueError(f"finite networks have up to three position axes, got {layer}")
        standard, widened = layer.width is not None, layer.scaling[0]
        super().__init__(columns, size, float(layer.w), layer.b, standard=standard, widened=widened)
        self.windows = layer.windows

    @property
    def kernel(self) -> Tensor:
        return (self.gains[0] * self.weight).unflatten(1, (-1, *self.windows.window))

    @property
    def shift(self) -> Tensor | float:
        return 0.0 if self.bias is None else self.gains[1] * self.bias


class Convolution(_FilterBank):
    def forward(self, x: Tensor) -> Tensor:
        axes = self.windows.axes(tuple(x.shape[1:-1]))
        y = CONVOLUTIONS[len(axes)](padded(x.movedim(-1, 1), axes), self.kernel, stride=self.windows.steps)
        return y.movedim(1, -1) + self.shift


class TransposedConvolution(_FilterBank):
    def forward(self, x: Tensor) -> Tensor:
        axes = self.windows.backward(tuple(x.shape[1:-1]))
        y = TRANSPOSED[len(axes)](x.movedim(-1, 1), self.kernel.transpose(0, 1), stride=self.windows.steps)
        return cropped(y, axes).movedim(1, -1) + self.shift


class LocalConvolution(_FilterBank):
    def forward(self, x: Tensor) -> Tensor:
        axes = self.windows.axes(tuple(x.shape[1:-1]))
        patches, k = padded(x.movedim(-1, 1), axes), len(axes)
        for d, axis in enumerate(axes, start=2):
            patches = patches.unfold(d, axis.window, axis.stride)
        patches = patches.movedim(1, k + 1)  # (n, *space, c, *window)
        sizes = tuple(patches.shape[1 : k + 1])
        patches = patches.flatten(k + 1).flatten(1, k)
        if isinstance(self.weight, UninitializedParameter):
            self.draw(prod(sizes) * self.fan_out, patches.shape[-1])
        weight = (self.gains[0] * self.weight).unflatten(0, (-1, self.fan_out))
        y = torch.einsum("npc,poc->npo", patches, weight)
        if self.bias is not None:
            y = y + (self.gains[1] * self.bias).unflatten(0, (-1, self.fan_out))
        return y.unflatten(1, sizes)
