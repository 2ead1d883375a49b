"""Dense layers and dropout.

With w and b the scales of weights and biases and K, T the NNGP and NTK of a layer's input, a
dense layer gives, in the NTK parameterisation,

    K' = w^2 K + b^2,    T' = K' + w^2 T.

In the standard one the parameters themselves have the standard deviations w / sqrt(fan_in) and
b; gradients are larger by the width, and T' = (fan_in / s_in) K + w^2 T + 1, the 1 for a bias.

Haversines follow without cancellation. A bias adds to each input a direction that all share;
with phi the angle it turns an input of size a by, tan phi = b / (w a), they obey

    e' = cos phi_1 cos phi_2 e + sin^2((phi_1 - phi_2) / 2).

Sources: Lee et al. (2018), eq. (4)-(5); Jacot et al. (2018), theorem 1; Sohl-Dickstein et al.
(2020), "On the infinite width limit of neural networks with a standard parameterization".
"""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parameter import UninitializedParameter

from kernelfield.nets.algebra import Layer, hypotenuse
from kernelfield.nets.points import Points
from kernelfield.nets.state import CovState, Wanted, summed

Scale = float | Tensor
UNKNOWN = -1  # a number of inputs that only the first of them show, as behind Flatten


@dataclass(frozen=True)
class Dense(Layer):
    """y = w W x / sqrt(fan_in) + b B, with W and B standard normal.

    w: one scale, or a tuple with one for each input (on the first layer of a network alone).
    b: the scale of the biases; None for a layer without, 0.0 for biases that start at zero.
    width: None for the NTK parameterisation; the number of outputs for the standard one.
    scaling: (s_in, s_out), the factors by which the two sides of the weight matrix of the
        standard parameterisation are widened in the limit.

    Errors: ValueError for a negative scale, and for a standard layer behind one of unknown width.
    """

    w: Scale | tuple[Scale, ...] = 1.0
    b: Scale | None = None
    width: int | None = None
    scaling: tuple[int, int] = (1, 1)
    sets_width = True

    def __post_init__(self) -> None:
        for scale in (*(self.w if isinstance(self.w, tuple) else (self.w,)), self.b):
            refuse_negative(self, scale)

    def propagate(self, state: CovState) -> CovState:
        if isinstance(self.w, tuple):
            state = _weighted(state, self.w)
            return replace(state.lift(lambda s: affine(s, 1.0, self.b, self._fan_in(state))), width=self.width)
        w = self.w
        return replace(state.lift(lambda s: affine(s, w, self.b, self._fan_in(state))), width=self.width)

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        size = fan_out if self.width is None else self.width
        w = torch.tensor(self.w) if isinstance(self.w, tuple) else float(self.w)
        return Affine(fan_in, size, w, self.b, standard=self.width is not None, widened=self.scaling[0]), size

    def gaussian(self, before: bool) -> bool:
        return True

    def wanted(self, after: Wanted) -> Wanted:
        return replace(after, points=isinstance(self.w, tuple) or after.points)

    def _fan_in(self, state: CovState) -> float | None:
        """The gradients' factor of the standard parameterisation; None in the other one."""
        if self.width is None:
            return None
        if state.width is None:
            raise ValueError(f"{self} has the standard parameterisation, so the layer before it needs a width")
        return state.width / self.scaling[0]


def affine(state: CovState, w: Scale, b: Scale | None, fan_in: float | None) -> CovState:
    """Moments after independent weights and biases; fan_in is None in the NTK parameterisation."""
    std1, std2, haversine = state.std1 * w, state.std2 * w, state.haversine
    if biased(b):
        first, second = turn(std1, b), turn(std2, b)
        std1, std2 = first.std, second.std
        haversine = _Turned.apply(haversine, first.share, first.sin, first.cos, second.share, second.sin, second.cos)
    after = state.with_std(std1, std2, haversine, None)
    if state.tangent is None:
        return after
    if fan_in is None:
        tangent = after.covariance + w**2 * state.tangent
    else:
        tangent = fan_in * state.covariance + w**2 * state.tangent + (b is not None)
    return after.with_std(std1, std2, haversine, tangent)


def biased(b: Scale | None) -> TypeGuard[Scale]:
    """Whether biases of scale b have a variance."""
    return isinstance(b, Tensor) or bool(b)


class Turn(NamedTuple):
    """What a bias does to points of a given size: their new one, and the angle phi it turns them by."""

    std: Tensor
    share: Tensor  # cos phi
    bias: Tensor  # sin phi
    sin: Tensor  # sin(phi / 2)
    cos: Tensor  # cos(phi / 2)


def turn(std: Tensor, b: Scale) -> Turn:
    """The effect of biases of scale b; tan phi = b / std."""
    total = hypotenuse(std, b)
    share, bias = std / total, b / total
    half = ((1 + share) / 2).sqrt()
    return Turn(total, share, bias, bias / (2 * half), half)


class _Turned(torch.autograd.Function):
    """e cos phi_i cos phi_j + sin^2((phi_i - phi_j) / 2), without an array of pairs for the slope in each number."""

    @staticmethod
    def forward(ctx: Any, e: Tensor, *sides: Tensor) -> Tensor:
        share1, _, _, share2, _, _ = sides
        ctx.save_for_backward(e, *sides)
        between = _between(*sides)
        return (e * share1 * share2).addcmul_(between, between)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        e, *sides = ctx.saved_tensors
        share1, sin1, cos1, share2, sin2, cos2 = sides
        by_between = (grad * _between(*sides)).mul_(2)
        by_both = grad * e
        return (
            (grad * share1).mul_(share2).sum_to_size(e.shape),
            summed(by_both, share2, share1),
            summed(by_between, cos2, sin1),
            -summed(by_between, sin2, cos1),
            summed(by_both, share1, share2),
            -summed(by_between, cos1, sin2),
            summed(by_between, sin1, cos2),
        )


def _between(share1: Tensor, sin1: Tensor, cos1: Tensor, share2: Tensor, sin2: Tensor, cos2: Tensor) -> Tensor:
    """sin((phi_i - phi_j) / 2)."""
    return (sin1 * cos2).addcmul_(cos1, sin2, value=-1)


def _weighted(state: CovState, w: tuple[Scale, ...]) -> CovState:
    """The state of inputs times their scales."""
    points1, points2 = state.first.points, state.second.points
    if points1 is None or points2 is None:
        raise ValueError(f"one scale for each input, as in w={_shown(w)}, is only possible on the first layer")
    moments = CovState.of_pairs if state.paired else CovState.of_points
    own = state.first.own is not None
    wanted = Wanted(state.tangent is not None, full=state.full, own=own, same=state.same is not None)
    return replace(moments(weighed(points1, w), weighed(points2, w), wanted), same=state.same)


def weighed(points: Points, w: tuple[Scale, ...]) -> Points:
    """Inputs times one scale each; scales are floats, or of shape (*b, 1, 1)."""
    if len(w) != points.channels:
        raise ValueError(f"the inputs have {points.channels} channels, but w has {len(w)} scales: {_shown(w)}")
    if not any(isinstance(s, Tensor) for s in w):
        return replace(points, x=points.x * points.x.new_tensor(w))
    scales = [torch.as_tensor(s).to(points.x) for s in w]
    return replace(points, x=points.x * torch.cat([s if s.ndim else s.reshape(1, 1) for s in scales], -1))


def _shown(w: tuple[Scale, ...]) -> tuple[float, ...]:
    return tuple(round(torch.as_tensor(s).detach().mean().item(), 4) for s in w)


@dataclass(frozen=True)
class Dropout(Layer):
    """Each output is kept with probability `keep`, and then divided by it.

    The masks of two inputs are independent, so that only variances grow: K_ii / keep.
    """

    keep: float

    def __post_init__(self) -> None:
        if isinstance(self.keep, float | int) and not 0 < self.keep <= 1:
            raise ValueError(f"keep is a probability between 0 and 1, got {self.keep}")

    def propagate(self, state: CovState) -> CovState:
        return state.lift(self._rule)

    def _rule(self, state: CovState) -> CovState:
        root = self.keep**0.5
        haversine = (1 - self.keep) / 2 + self.keep * state.haversine
        tangent = state.tangent
        coincident = state.coincident
        if coincident is not None:
            haversine = torch.where(coincident, state.haversine, haversine)
            tangent = None if tangent is None else torch.where(coincident, tangent / self.keep, tangent)
        return state.with_std(state.std1 / root, state.std2 / root, haversine, tangent)

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        return nn.Dropout(1 - self.keep), fan_in

    def gaussian(self, before: bool) -> bool:
        return False

    def wanted(self, after: Wanted) -> Wanted:
        return replace(after, same=True)

    def scales(self) -> list[float]:
        return []  # a probability, not a positive scale

    def rebuild(self, scales: object) -> "Dropout":
        return self


def refuse_negative(layer: Layer, scale: object) -> None:
    if isinstance(scale, float | int) and not 0 <= scale < math.inf:
        raise ValueError(f"the scales of a {type(layer).__name__} must be finite and not negative, got {scale}")


class Affine(nn.Module):
    """A dense layer with random weights, in either parameterisation.

    gains multiply weights and biases on their way, so that the parameters of the NTK
    parameterisation are standard normal; `spreads` are their standard deviations. In the standard
    one, `widened` is the s_in of a layer's scaling, by whose root weights are divided. If fan_in is
    UNKNOWN, the weights are drawn when the first inputs come.
    """

    def __init__(
        self, fan_in: int, fan_out: int, w: float | Tensor, b: Scale | None, *, standard: bool, widened: int = 1
    ) -> None:
        super().__init__()
        self.w, self.b, self.standard = w, 0.0 if b is None else float(b), standard
        self.widened = widened
        self.weight = UninitializedParameter()
        self.bias = None if b is None else UninitializedParameter()
        self.fan_out = fan_out
        if fan_in != UNKNOWN:
            self.draw(fan_out, fan_in)

    def draw(self, rows: int, columns: int) -> None:
        """Draw weights (rows, columns) and biases (rows,)."""
        scale = self.w / math.sqrt(columns)
        share = self.widened**-0.5
        self.gains = (share, 1.0) if self.standard else (scale, self.b)
        self.spreads = (scale / share, self.b) if self.standard else (1.0, 1.0)
        for parameter, shape, spread in zip(
            (self.weight, self.bias), ((rows, columns), (rows,)), self.spreads, strict=True
        ):
            if parameter is not None:
                parameter.materialize(shape)
                nn.init.normal_(parameter).data.mul_(spread)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.weight, UninitializedParameter):
            self.draw(self.fan_out, x.shape[-1])
        bias = None if self.bias is None else self.gains[1] * self.bias
        return nn.functional.linear(x, self.gains[0] * self.weight, bias)
