"""Positions of images and sequences: where windows lie, and which positions of two inputs meet.

Window o of an axis covers the inputs stride * o + t - low, t = 0 .. window - 1. VALID keeps to
the input; SAME puts zeros around it, the smaller half of them in front, for ceil(size / stride)
windows; CIRCULAR puts the input's other end there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from kernelfield.nets.state import CovState

PADDINGS = ("SAME", "VALID", "CIRCULAR")


@dataclass(frozen=True)
class Windows:
    """The windows of a layer on each of its position axes.

    Errors: ValueError for sizes that are not positive, or as many strides as there are no axes.
    """

    layer: str
    window: tuple[int, ...]
    strides: int | tuple[int, ...]
    padding: str

    def __post_init__(self) -> None:
        if not isinstance(self.window, tuple) or not self.window:
            raise ValueError(
                f"the window of a {self.layer} has one size for each position axis, such as (3, 3) for images or "
                f"(3,) for sequences, got {self.window!r}"
            )
        if len(self.steps) != len(self.window):
            raise ValueError(
                f"a {self.layer} with the window {self.window} needs {len(self.window)} strides, got {self.strides}"
            )
        if any(not isinstance(s, int) or s < 1 for s in self.window + self.steps):
            raise ValueError(
                f"windows and strides are positive integers, got a {self.layer} with the window {self.window} and "
                f"the strides {self.strides}"
            )
        if self.padding not in PADDINGS:
            raise ValueError(f"padding must be 'SAME', 'VALID' or 'CIRCULAR', got {self.padding!r}")

    @property
    def steps(self) -> tuple[int, ...]:
        return self.strides if isinstance(self.strides, tuple) else (self.strides,) * len(self.window)

    def axes(self, sizes: tuple[int, ...]) -> list["Axis"]:
        """The windows on positions of these sizes.

        Errors: ValueError for inputs with fewer or more axes, or smaller than the window.
        """
        if len(sizes) != len(self.window):
            raise ValueError(
                f"a {self.layer} with the window {self.window} works on {len(self.window)} position axes, but its "
                f"input has {len(sizes)}: {_remedy(len(self.window))}"
            )
        found = [Axis(*a, self.padding) for a in zip(sizes, self.window, self.steps, strict=True)]
        if any(axis.count < 1 for axis in found):
            raise ValueError(
                f"the window {self.window} of a {self.layer} is larger than its input of size {sizes}: make it "
                "smaller, or take padding='SAME'"
            )
        return found

    def backward(self, sizes: tuple[int, ...]) -> list["Axis"]:
        """The windows of which these sizes are the counts, for a transposed convolution."""
        spare = [max(w - s, 0) if self.padding == "VALID" else 0 for w, s in zip(self.window, self.steps, strict=True)]
        if len(sizes) != len(self.window):
            return self.axes(sizes)
        return self.axes(tuple(n * s + more for n, s, more in zip(sizes, self.steps, spare, strict=True)))


def _remedy(space: int) -> str:
    shape = {1: "(n, L, c)", 2: "(n, H, W, c)", 3: "(n, H, W, D, c)"}.get(space, "(n, ..., c)")
    return f"give Points(x, space={space}) with x of shape {shape}, and pool or flatten behind such layers"


@dataclass(frozen=True)
class Axis:
    """The windows along one axis; see the module docstring."""

    size: int
    window: int
    stride: int
    padding: str

    @property
    def count(self) -> int:
        """The number of windows."""
        covered = self.size - self.window + 1 if self.padding == "VALID" else self.size
        return -(-covered // self.stride)

    @property
    def added(self) -> tuple[int, int]:
        """The numbers of positions added in front and behind; those behind may be negative."""
        total = (self.count - 1) * self.stride + self.window - self.size
        low = 0 if self.padding == "VALID" else max(0, total) // 2
        return low, total - low

    @property
    def centres(self) -> slice:
        """The middle input of each window."""
        first = (self.window - 1) // 2 - self.added[0]
        return slice(first, first + (self.count - 1) * self.stride + 1, self.stride)

    def reached(self, tap: int) -> list[tuple[slice, slice]]:
        """Windows, and the inputs on which this tap of theirs lies; other windows see zeros there."""
        shift = tap - self.added[0]
        last = shift + (self.count - 1) * self.stride
        copies = range(shift // self.size, last // self.size + 1) if self.padding == "CIRCULAR" else (0,)
        pieces = []
        for copy in copies:
            start = copy * self.size - shift  # the tap of window o is the input stride * o - start of this copy
            low, high = max(0, -(-start // self.stride)), min(self.count, (start + self.size - 1) // self.stride + 1)
            if low < high:
                inputs = slice(low * self.stride - start, (high - 1) * self.stride - start + 1, self.stride)
                pieces.append((slice(low, high, 1), inputs))
        return pieces


@dataclass(frozen=True)
class Tap:
    """One weight of a filter along one axis of `size` outputs: (output, input) places that it joins, and the
    outputs for which it lies outside of the input."""

    size: int
    inside: tuple[tuple[slice, slice], ...]
    outside: tuple[slice, ...]


@cache
def taps(axis: Axis) -> tuple[Tap, ...]:
    """The taps of windows."""
    pieces = [axis.reached(t) for t in range(axis.window)]
    return tuple(Tap(axis.count, tuple(p), _rest(axis.count, [o for o, _ in p], 1)) for p in pieces)


@cache
def transposed_taps(axis: Axis) -> tuple[Tap, ...]:
    """The taps by which windows write to the inputs that they would read."""
    pieces = [[(i, o) for o, i in axis.reached(t)] for t in range(axis.window)]
    return tuple(Tap(axis.size, tuple(p), _rest(axis.size, [i for i, _ in p], axis.stride)) for p in pieces)


def _rest(size: int, taken: list[slice], step: int) -> tuple[slice, ...]:
    """What slices of this step leave of `size` places."""
    left = set(range(size)) - {i for s in taken for i in range(size)[s]}
    by_class = sorted(left, key=lambda i: (i % step, i))
    first, last = [i for i in by_class if i - step not in left], [i for i in by_class if i + step not in left]
    return tuple(slice(a, b + 1, step) for a, b in zip(first, last, strict=True))


def padded(x: Tensor, axes: Sequence[Axis]) -> Tensor:
    """Images (N, c, *space) with what their windows see beyond the edges."""
    if axes[0].padding != "CIRCULAR":
        return nn.functional.pad(x, [n for axis in reversed(axes) for n in axis.added])
    for d, axis in enumerate(axes, start=2):
        low, high = axis.added
        x = x.index_select(d, torch.arange(-low, axis.size + high, device=x.device) % axis.size)
    return x


def cropped(x: Tensor, axes: Sequence[Axis]) -> Tensor:
    """The adjoint of `padded`: what was written beyond the edges is cut off or added at the other end."""
    if axes[0].padding != "CIRCULAR":
        return nn.functional.pad(x, [-n for axis in reversed(axes) for n in axis.added])
    for d, axis in enumerate(axes, start=2):
        low, high = axis.added
        places = torch.arange(-low, axis.size + high, device=x.device) % axis.size
        shape = (*x.shape[:d], axis.size, *x.shape[d + 1 :])
        x = x.new_zeros(shape).index_add(d, places, x)
    return x


def sizes_of(state: CovState, index: int = 1) -> tuple[int, ...]:
    """The sizes of the position axes of the first (0) or second (1) input."""
    return tuple(state.haversine.shape[axis] for axis in axes_of(state, index))


def axes_of(state: CovState, index: int) -> tuple[int, ...]:
    """Where the position axes of the first (0) or second (1) input stand; they are one set unless state.full."""
    first = -2 - state.space * (2 - index if state.full else 1)
    return tuple(range(first, first + state.space))


def matching(values: Tensor, space: int) -> Tensor:
    """Of all pairs of positions (*b, *space, *space, n1, n2) the equal ones (*b, *space, n1, n2).

    Errors: ValueError if the inputs have different sizes.
    """
    k = space
    sizes, others = tuple(values.shape[-2 * k - 2 : -k - 2]), tuple(values.shape[-k - 2 : -2])
    if sizes != others:
        raise ValueError(
            f"this network compares equal positions, but the inputs have the sizes {sizes} and {others}: "
            "pool the positions, or bring the inputs to one size"
        )
    flat = values.flatten(-2 * k - 2, -k - 3).flatten(-k - 2, -3)
    return flat.diagonal(dim1=-4, dim2=-3).movedim(-1, -3).unflatten(-3, sizes)


def beside(values: Tensor, space: int, index: int) -> Tensor:
    """Values (*b, *space, n1, n2) of the first (0) or second (1) input, among all pairs of positions."""
    for _ in range(space):
        values = values.unsqueeze(-3 if index == 0 else -space - 3)
    return values


def scattered(values: Tensor, space: int, elsewhere: float) -> Tensor:
    """All pairs of positions (*b, *space, *space, n1, n2), of which the equal ones have these values."""
    sizes = values.shape[-space - 2 : -2]
    equal = torch.eye(math.prod(sizes), dtype=torch.bool, device=values.device).reshape(*sizes, *sizes, 1, 1)
    return torch.where(equal, beside(values, space, 0), elsewhere)


def at_matching(state: CovState) -> CovState:
    """The moments of equal positions alone."""
    if not state.full:
        return state
    others = (axes_of(state, 1), axes_of(state, 0))
    sides = [
        replace(
            side,
            std=side.std.squeeze(axes),
            present=None if side.present is None else side.present.squeeze(axes),
            own=None,
        )
        for side, axes in zip((state.first, state.second), others, strict=True)
    ]
    haversine = matching(state.haversine, state.space)
    tangent = None if state.tangent is None else matching(state.tangent, state.space)
    return replace(state, haversine=haversine, tangent=tangent, first=sides[0], second=sides[1], full=False)
