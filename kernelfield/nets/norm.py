"""Layer normalisation, which has no parameters.

A Gaussian layer has mean zero, so that in the limit of infinite width normalisation divides each
position by a number. With q(s) the variance at position s and S the positions normalised together,

    y(s) = x(s) / sqrt(mean of q over S),

S being {s} where only channels are normalised: all variances are one then. Haversines stay, the
NTK is divided like the covariance, because the number does not depend on any one weight.

Source: Ba et al. (2016), "Layer Normalization", eq. (3), in the limit of many hidden units.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kernelfield.nets.algebra import Layer
from kernelfield.nets.positions import axes_of
from kernelfield.nets.state import CovState, Wanted

VARIANCE = 1e-12  # a finite module adds this to variances, so that constant inputs become zeros


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Subtracts the mean over some axes of x (n, *space, c), channels included, and divides by the deviation.

    axis: counted from either end: (-1,) for channels; (1, 2, 3) or (-3, -2, -1) for whole images.
        Missing positions are left out of the mean over positions.

    Errors: ValueError for axes without the channels or with the inputs' own, and where the layer
    before is not Gaussian.
    """

    axis: tuple[int, ...] = (-1,)

    def __post_init__(self) -> None:
        ends = {a < 0 for a in self.axis}
        if len(ends) != 1 or len(set(self.axis)) < len(self.axis):
            raise ValueError(f"the axes of a LayerNorm must be different and counted from one end, got {self.axis}")
        if 0 in self.axis:
            raise ValueError(f"a LayerNorm treats each input by itself: leave axis 0 out of {self.axis}")
        if max(self.axis) < -1:
            raise ValueError(f"a LayerNorm needs the channels among its axes: add -1 to {self.axis}")

    def propagate(self, state: CovState) -> CovState:
        channels = state.space + 1
        if max(self.axis) not in (-1, channels) or min(self._from_end) < -channels:
            raise ValueError(
                f"the axes {self.axis} of a LayerNorm must have the channels (-1 or {channels}) and otherwise only "
                f"positions (1 to {state.space}) here: choose them among {tuple(range(1, channels + 1))}"
            )
        return state.lift(self._rule)

    def _rule(self, state: CovState) -> CovState:
        places = [a + state.space + 1 for a in self._from_end if a != -1]
        size1, size2 = (
            _size(side.std, side.present, tuple(axes_of(state, index)[p] for p in places))
            for index, side in enumerate((state.first, state.second))
        )
        tangent = None if state.tangent is None else state.tangent / (size1 * size2)
        return state.with_std(state.std1 / size1, state.std2 / size2, state.haversine, tangent)

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        return Normalisation(self._from_end), fan_in

    def gaussian(self, before: bool) -> bool:
        if not before:
            raise ValueError(
                "LayerNorm needs a Gaussian layer such as Dense or Conv before it: the mean of an activation, "
                "a product or the bare inputs is not zero, so its kernel has no closed form there"
            )
        return True

    def wanted(self, after: Wanted) -> Wanted:
        return replace(after, std=True)

    @property
    def _from_end(self) -> tuple[int, ...]:
        return self.axis if self.axis[0] < 0 else tuple(a - max(self.axis) - 1 for a in self.axis)


def _size(std: Tensor, present: Tensor | None, axes: tuple[int, ...]) -> Tensor:
    """The root of the mean variance over present positions, and one where that is zero."""
    variance = std.square()
    if axes:
        count = torch.ones_like(std) if present is None else present.to(std)
        variance = variance.sum(axes, keepdim=True) / count.sum(axes, keepdim=True).clamp_min(1)
    return torch.where(variance > 0, variance, 1).sqrt()


class Normalisation(nn.Module):
    """Layer normalisation over any axes, without parameters."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(self.axes, keepdim=True)
        return centred / (centred.square().mean(self.axes, keepdim=True) + VARIANCE).sqrt()
