"""Layers that combine positions with fixed weights.

A sum over positions, f'(o) = sum_p P_op f(p), maps all covariances between positions to

    K'_oo' = sum_pp' P_op P_o'p' K_pp',

and the NTK alike. The new variances come from the covariances within each input (`Side.own`),
which are carried along where an activation follows. With D = (K_pp + K_qq) / 2 - K_pq, the rows'
sums s = P 1, and S_o = (P D P^T)_oo within one input, they and the new D are

    K'_oo = s_o (P diag K)_o - S_o,
    D'_oo' = (P D P^T)_oo' - (S_o + S_o') / 2 + (s_o - s_o') ((P diag K)_o - (P diag K)_o') / 2,

which stays zero where all that is combined coincides. Elsewhere only covariances matter, and a
bound, |P| applied to the standard deviations, serves in place of the new ones.

Flatten keeps positions apart, as so many inputs of the next layer: K' is the mean of all K_pp.

Sources: Novak et al. (2019), "Bayesian deep convolutional networks with many channels are
Gaussian processes", section 3; Arora et al. (2019), "On exact computation with an infinitely
wide neural net", section 4.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from kernelfield.nets.algebra import Layer
from kernelfield.nets.dense import UNKNOWN
from kernelfield.nets.positions import Axis, Windows, at_matching, axes_of, beside, matching, padded, sizes_of
from kernelfield.nets.state import CovState, Side, Wanted


class Mixing(Layer):
    """A layer that combines positions with fixed weights."""

    @abstractmethod
    def mixed(self, values: Tensor, state: CovState, index: int, *, absolute: bool = False) -> Tensor:
        """Values of pairs with the positions of the first (0) or second (1) input combined by P or |P|."""

    @abstractmethod
    def present(self, side: Side, state: CovState, index: int) -> Tensor | None:
        """Which of the new positions are present."""

    def propagate(self, state: CovState) -> CovState:
        refuse_flat(self, state)
        sides = [
            replace(side, present=self.present(side, state, i)) for i, side in enumerate((state.first, state.second))
        ]
        tangent = None if state.tangent is None else self._both(state.tangent, state)
        own1, own2 = state.first.own, state.second.own
        if own1 is None or own2 is None:
            std1, std2 = (self.mixed(side.std, state, i, absolute=True) for i, side in enumerate(sides))
            covariance = self._both(state.covariance, state)
            return replace(state, first=sides[0], second=sides[1]).with_covariance(std1, std2, covariance, tangent)
        distance = self._distance(state, self._spread(own1, 0), self._spread(own2, 1))
        own1, own2 = self._own(own1), self._own(own2)
        state = replace(state, first=replace(sides[0], own=own1), second=replace(sides[1], own=own2))
        state = state.with_distance(own1.std1, own2.std2, distance, tangent)
        coincident = state.coincident
        return state if coincident is None else replace(state, haversine=torch.where(coincident, 0, state.haversine))

    def wanted(self, after: Wanted) -> Wanted:
        return replace(after, full=True, own=after.own or after.std, same=after.same or after.std)

    def _own(self, own: CovState) -> CovState:
        """The moments of each input with itself, behind this layer."""
        spreads = [self._spread(own, i) for i in (0, 1)]
        variances = [self._sum(own, i) * self._power(own, i) - spreads[i] for i in (0, 1)]
        std1, std2 = (torch.where(v > 0, v, 1).sqrt() * (v > 0) for v in variances)
        sides = [replace(side, present=self.present(side, own, i)) for i, side in enumerate((own.first, own.second))]
        distance = self._distance(own, *spreads)
        tangent = None if own.tangent is None else self._both(own.tangent, own)
        return replace(own, first=sides[0], second=sides[1]).with_distance(std1, std2, distance, tangent)

    def _distance(self, state: CovState, spread1: Tensor, spread2: Tensor) -> Tensor:
        """D' of the module docstring."""
        uneven = (self._sum(state, 0) - self._sum(state, 1)) * (self._power(state, 0) - self._power(state, 1))
        return self._both(state.distance, state) - 0.5 * (spread1 + spread2) + 0.5 * uneven

    def _spread(self, own: CovState, index: int) -> Tensor:
        """S of the first (0) or second (1) input."""
        return beside(matching(self._both(own.distance, own), own.space), own.space, index)

    def _power(self, state: CovState, index: int) -> Tensor:
        """P applied to the variances of the first (0) or second (1) input."""
        return self.mixed((state.std1, state.std2)[index].square(), state, index)

    def _sum(self, state: CovState, index: int) -> Tensor:
        """The sums of the rows of P."""
        return self.mixed(torch.ones_like((state.std1, state.std2)[index]), state, index)

    def _both(self, values: Tensor, state: CovState) -> Tensor:
        return self.mixed(self.mixed(values, state, 0), state, 1)


@dataclass(frozen=True)
class _Windowed(Mixing):
    """Sums over windows, times a factor."""

    window: tuple[int, ...]
    strides: int | tuple[int, ...] | None = None
    padding: str = "VALID"

    def __post_init__(self) -> None:
        _ = self.windows  # which refuses what makes no sense

    @property
    @abstractmethod
    def factor(self) -> float:
        """What the sums are multiplied with."""

    @property
    def windows(self) -> Windows:
        strides = self.window if self.strides is None else self.strides
        return Windows(type(self).__name__, self.window, strides, self.padding)

    def mixed(self, values: Tensor, state: CovState, index: int, *, absolute: bool = False) -> Tensor:
        matrices = [_sums(axis, values) for axis in self.windows.axes(sizes_of(state, index))]
        return self.factor * along(values, matrices, axes_of(state, index))

    def present(self, side: Side, state: CovState, index: int) -> Tensor | None:
        return centred(side.present, self.windows, state, index)

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        return WindowSum(self.windows, self.factor), fan_in


@dataclass(frozen=True)
class AvgPool(_Windowed):
    """The mean over windows; the zeros of a padding count.

    strides: those of the window unless given.

    Errors: ValueError for windows, strides or paddings that make no sense or do not fit.
    """

    @property
    def factor(self) -> float:
        return 1 / prod(self.window)


@dataclass(frozen=True)
class SumPool(_Windowed):
    """The sum over windows; see `AvgPool`."""

    factor = 1.0


@dataclass(frozen=True)
class GlobalAvgPool(Mixing):
    """The mean over all positions that are present."""

    def propagate(self, state: CovState) -> CovState:
        return _without_space(super().propagate(state))

    def mixed(self, values: Tensor, state: CovState, index: int, *, absolute: bool = False) -> Tensor:
        axes, present = axes_of(state, index), (state.first, state.second)[index].present
        if present is None:
            return values.mean(axes, keepdim=True)
        return values.sum(axes, keepdim=True) / present.sum(axes, keepdim=True).clamp_min(1)

    def present(self, side: Side, state: CovState, index: int) -> Tensor | None:
        return None

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        return GlobalMean(), fan_in


@dataclass(frozen=True)
class GlobalSumPool(Mixing):
    """The sum over all positions that are present."""

    def propagate(self, state: CovState) -> CovState:
        return _without_space(super().propagate(state))

    def mixed(self, values: Tensor, state: CovState, index: int, *, absolute: bool = False) -> Tensor:
        return values.sum(axes_of(state, index), keepdim=True)

    def present(self, side: Side, state: CovState, index: int) -> Tensor | None:
        return None

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        return GlobalSum(), fan_in


@dataclass(frozen=True)
class Flatten(Layer):
    """All positions as inputs of the next layer; missing ones are zeros.

    Behind it, the finite module draws its weights when the first images show how many there are.

    Errors: ValueError for inputs without positions, or with different ones in the two batches.
    """

    def propagate(self, state: CovState) -> CovState:
        refuse_flat(self, state)
        state = at_matching(state)
        axes = axes_of(state, 1)
        variances = [std.square().mean(axes) for std in (state.std1, state.std2)]
        std1, std2 = (torch.where(v > 0, v, 1).sqrt() * (v > 0) for v in variances)
        tangent = None if state.tangent is None else state.tangent.mean(axes)
        distance = state.distance.mean(axes)
        width = None if state.width is None else state.width * prod(sizes_of(state))
        sides = [replace(side, present=None, graph=None, own=None) for side in (state.first, state.second)]
        after = replace(state, first=sides[0], second=sides[1], space=0, width=width)
        return after.with_distance(std1, std2, distance, tangent)

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        return nn.Flatten(), UNKNOWN

    def gaussian(self, before: bool) -> bool:
        return False

    def wanted(self, after: Wanted) -> Wanted:
        return replace(after, full=False, own=False)


def along(values: Tensor, matrices: list[Tensor], axes: tuple[int, ...]) -> Tensor:
    """The values with each of some axes multiplied by a matrix (out, in)."""
    for matrix, axis in zip(matrices, axes, strict=True):
        tail = values.shape[axis + 1 :]
        values = (matrix @ values.flatten(axis + 1)).unflatten(-1, tail)
    return values


def centred(present: Tensor | None, windows: Windows, state: CovState, index: int) -> Tensor | None:
    """The mask of windows: one is present if its middle position is."""
    if present is None:
        return None
    for axis, a in zip(windows.axes(sizes_of(state, index)), axes_of(state, index), strict=True):
        present = present.movedim(a, 0)[axis.centres].movedim(0, a)
    return present


def refuse_flat(layer: Layer, state: CovState) -> None:
    if not state.space:
        raise ValueError(
            f"a {type(layer).__name__} combines positions, but its input has none: give Points(x, space=2) with x "
            "of shape (n, H, W, channels) for images, space=1 for sequences, and do not pool or flatten twice"
        )


def _sums(axis: Axis, like: Tensor) -> Tensor:
    """The matrix (windows, inputs) of which input lies how often in which window."""
    matrix = like.new_zeros(axis.count, axis.size)
    for tap in range(axis.window):
        for windows, inputs in axis.reached(tap):
            matrix[windows, inputs] += torch.eye(windows.stop - windows.start).to(matrix)
    return matrix


def _without_space(state: CovState) -> CovState:
    """A state with one position, as one of vectors."""
    axes = (*axes_of(state, 0), *axes_of(state, 1))
    sides = [replace(s, std=s.std.squeeze(axes), graph=None, own=None) for s in (state.first, state.second)]
    return replace(
        state,
        haversine=state.haversine.squeeze(axes),
        tangent=None if state.tangent is None else state.tangent.squeeze(axes),
        first=sides[0],
        second=sides[1],
        space=0,
        full=False,
    )


class WindowSum(nn.Module):
    def __init__(self, windows: Windows, factor: float) -> None:
        super().__init__()
        self.windows, self.factor = windows, factor

    def forward(self, x: Tensor) -> Tensor:
        axes = self.windows.axes(tuple(x.shape[1:-1]))
        x = padded(x.movedim(-1, 1), axes)
        for d, axis in enumerate(axes, start=2):
            x = x.unfold(d, axis.window, axis.stride).sum(-1)
        return self.factor * x.movedim(1, -1)


class GlobalMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1, -2).mean(1)


class GlobalSum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1, -2).sum(1)
