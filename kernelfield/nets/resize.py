"""Resizing of images and sequences: interpolation and smoothing along each axis.

An axis of `size` positions at (i + 1/2) / size of its length is read at (o + 1/2) / shape, as the
mean of its values under a kernel centred there, whose weights are divided by their sum. The kernel
is as wide as an input position, or an output position where those are wider (antialiasing):

    linear (tent)   k(t) = 1 - |t|
    cubic           Keys' cubic convolution, a = -1/2
    nearest         the position at floor((o + 1/2) size / shape)

These are the conventions of `jax.image.resize` and of torch's `interpolate(antialias=True)`.

Source: Keys (1981), "Cubic convolution interpolation for digital image processing", eq. (15).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernelfield.nets.pooling import Mixing, along
from kernelfield.nets.positions import axes_of, sizes_of
from kernelfield.nets.state import CovState, Side

METHODS = ("nearest", "linear", "cubic")


@dataclass(frozen=True)
class Resize(Mixing):
    """Positions read off by interpolation; missing ones count as zeros.

    shape: the new size of each position axis, -1 for the old one.

    Errors: ValueError for an unknown method, and for inputs with other position axes.
    """

    shape: tuple[int, ...]
    method: str = "linear"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if any(not isinstance(n, int) or n == 0 or n < -1 for n in self.shape):
            raise ValueError(f"the sizes of a Resize are positive integers, or -1 to leave an axis, got {self.shape}")

    def mixed(self, values: Tensor, state: CovState, index: int, *, absolute: bool = False) -> Tensor:
        matrices = [m.to(values) for m in self.matrices(sizes_of(state, index))]
        return along(values, [m.abs() for m in matrices] if absolute else matrices, axes_of(state, index))

    def present(self, side: Side, state: CovState, index: int) -> Tensor | None:
        if side.present is None:
            return None
        nearest = [interpolation(*sizes, "nearest") for sizes in self._changes(sizes_of(state, index))]
        present = side.present.to(state.haversine)
        return along(present, [m.to(present) for m in nearest], axes_of(state, index)) > 0

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        return _Resize(self), fan_in

    def matrices(self, sizes: tuple[int, ...]) -> list[Tensor]:
        """The matrix (out, in) of each axis."""
        return [interpolation(*change, self.method) for change in self._changes(sizes)]

    def _changes(self, sizes: tuple[int, ...]) -> list[tuple[int, int]]:
        if len(sizes) != len(self.shape):
            raise ValueError(
                f"a Resize to the shape {self.shape} works on {len(self.shape)} position axes, but its input has "
                f"{len(sizes)}: give one size for each, or -1"
            )
        return [(new if new > 0 else old, old) for new, old in zip(self.shape, sizes, strict=True)]


def interpolation(new: int, old: int, method: str) -> Tensor:
    """The weights (new, old) of the values on an axis of `old` positions at those of `new` ones."""
    places = (torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5
    if method == "nearest":
        return torch.eye(old, dtype=torch.float64)[(places + 0.5).floor().long()]
    offset = (places[:, None] - torch.arange(old)).abs() / max(1.0, old / new)
    weights = (1 - offset).clamp_min(0) if method == "linear" else _cubic(offset)
    return weights / weights.sum(1, keepdim=True)


def _cubic(t: Tensor) -> Tensor:
    near = (1.5 * t - 2.5) * t.square() + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, 0))


class _Resize(nn.Module):
    def __init__(self, layer: Resize) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        sizes = tuple(x.shape[1:-1])
        matrices = [m.to(x) for m in self.layer.matrices(sizes)]
        return along(x, matrices, tuple(range(-1 - len(sizes), -1)))
