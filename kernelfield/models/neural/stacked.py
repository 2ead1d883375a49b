"""k networks of one architecture, each on rows of its own, evaluated and differentiated together.

Multilayers of dense steps and rectifiers, tangents, sigmoids or error functions become a few batched
matrix products, forward and backward, on views of the parameters (k, p): nothing is copied, and
gradients are written where they belong. Other architectures are mapped over the members by
torch.func, which gives the same numbers at more cost an operation.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import vmap

from kernelfield.core.numerics import BINARY
from kernelfield.models.neural.network import Network
from kernelfield.nets.activation import Pointwise
from kernelfield.nets.dense import Affine
from kernelfield.nets.quadrature import Sigmoid, Tanh
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.smooth import Erf

Views = tuple[Tensor, Tensor | None]
Stacked = Callable[[Tensor, Tensor], Tensor]  # parameters (k, p) and X (k, b, d) to values (k, b, o)

ERF_SLOPE = math.log2(2 / math.pi**0.5)  # that of erf at zero is two to this power


@dataclass(frozen=True)
class Elementwise:
    """A function, and what a gradient becomes given its arguments, which are its values where it works in place."""

    value: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]


# Named, so that other processes find them by their names.
def _of_relu(gradient: Tensor, y: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(gradient, y, 0.0, grad_input=gradient)


def _tanh(u: Tensor) -> Tensor:
    # By the logistic function, several times as fast as `tanh` on some makers' processors. It differs near zero by
    # the rounding of one, as the values of units that are not near zero do anyway.
    return u.mul_(2).sigmoid_().mul_(2).sub_(1)


def _of_tanh(gradient: Tensor, y: Tensor) -> Tensor:
    return gradient.addcmul_(gradient * y, y, value=-1)


def _of_sigmoid(gradient: Tensor, y: Tensor) -> Tensor:
    return gradient.mul_(y).mul_(1 - y)


def _of_erf(gradient: Tensor, u: Tensor) -> Tensor:
    return gradient.mul_(torch.addcmul(u.new_full((), ERF_SLOPE), u, u, value=-BINARY).exp2_())


RELU, TANH, SIGMOID, ERF = (
    Elementwise(torch.relu_, _of_relu),
    Elementwise(_tanh, _of_tanh),
    Elementwise(torch.sigmoid_, _of_sigmoid),
    Elementwise(torch.erf, _of_erf),
)
KINDS: dict[type, Elementwise] = {
    Relu: RELU,
    Tanh: TANH,
    Sigmoid: SIGMOID,
    nn.ReLU: RELU,
    nn.Tanh: TANH,
    nn.Sigmoid: SIGMOID,
}
SKIPPED = (nn.Identity, nn.Dropout)  # which does nothing outside of training


@dataclass(frozen=True, eq=False)
class Block:
    """Where the weights (m, d) and biases (m,) of a dense step are in the parameters, and what follows it.

    gains multiply weights and biases, see `Affine`.
    """

    shape: torch.Size
    weights: slice
    biases: slice | None
    gains: tuple[float | Tensor, float]
    after: Elementwise | None = None

    def views(self, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weights (k, m, d) and biases (k, 1, m) in the parameters (k, p)."""
        weights = parameters[:, self.weights].view(len(parameters), *self.shape)
        return weights, None if self.biases is None else parameters[:, None, self.biases]

    def forward(self, weights: Tensor, biases: Tensor | None, X: Tensor) -> tuple[Tensor, Tensor]:
        """Values (k, b, m) at X (k, b, d), and the arguments of the activation, overwritten where it works in place."""
        values = torch.bmm(X, self.scaled(weights).mT)
        if biases is not None:
            values.add_(biases, alpha=self.gains[1])
        after = values if self.after is None else self.after.value(values)
        return after, values

    def backward(self, gradient: Tensor, X: Tensor) -> Iterator[Tensor]:
        """The gradients of weights and biases, side by side, from that of the values before the activation."""
        yield self.scaled(torch.bmm(gradient.mT, X)).flatten(1)
        if self.biases is not None:
            biases = gradient.sum(1)
            yield biases if self.gains[1] == 1 else biases.mul_(self.gains[1])

    def scaled(self, weights: Tensor) -> Tensor:
        """Weights times their gains, themselves where those are one."""
        gain = self.gains[0]
        if isinstance(gain, Tensor):
            return weights * gain.to(weights)
        return weights if gain == 1 else weights * gain


def stacked(network: Network) -> Stacked:
    """What evaluates networks with parameters (k, p) at X (k, b, d), each at its own rows."""
    blocks = _blocks(network.skeleton)
    return vmap(network.call, randomness="different") if blocks is None else _Multilayers(blocks)


class _Multilayers:
    """Evaluates multilayers, and remembers how the parameters that an optimiser changes in place are cut."""

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self.last = torch.empty(0)
        self.views: list[Views] = []

    def __call__(self, parameters: Tensor, X: Tensor) -> Tensor:
        if parameters is not self.last:
            own = parameters.detach()
            self.last, self.views = parameters, [block.views(own) for block in self.blocks]
        return _Evaluate.apply(parameters, X, self.blocks, self.views)


def _blocks(module: nn.Module) -> list[Block] | None:
    """The dense steps of a multilayer, each with its activation; None for another architecture."""
    blocks: list[Block] = []
    used, known = 0, set()
    for step in _steps(module):
        kind, after = type(step.activation) if isinstance(step, Pointwise) else type(step), _after(step)
        if after is not None and blocks and blocks[-1].after is None:
            blocks[-1] = replace(blocks[-1], after=after)
        elif isinstance(step, Affine | nn.Linear) and kind in (Affine, nn.Linear):
            own = list(step.parameters())
            # A step that occurs twice has one place for two uses, and a frozen one has none.
            if step in known or not all(p.requires_grad for p in own):
                return None
            known.add(step)
            first, middle = used, used + own[0].numel()
            used = middle + sum(p.numel() for p in own[1:])
            gains = step.gains if isinstance(step, Affine) else (1.0, 1.0)
            blocks.append(Block(own[0].shape, slice(first, middle), slice(middle, used) if own[1:] else None, gains))
        elif kind not in SKIPPED:
            return None
    return blocks or None


def _after(step: nn.Module) -> Elementwise | None:
    activation = step.activation if isinstance(step, Pointwise) else step
    if type(activation) is Erf:
        numbers = (activation.a, activation.b, activation.c)
        return ERF if not any(isinstance(v, Tensor) for v in numbers) and numbers == (1, 1, 0) else None
    return KINDS.get(type(activation))


def _steps(module: nn.Module) -> Iterator[nn.Module]:
    if type(module) is nn.Sequential:
        for part in module:
            yield from _steps(part)
    else:
        yield module


class _Evaluate(torch.autograd.Function):
    """Left to autograd, each gradient would be copied twice on its way into the vector."""

    @staticmethod
    def forward(ctx: Any, parameters: Tensor, X: Tensor, blocks: list[Block], views: list[Views]) -> Tensor:
        values, kept = [X], []
        for block, (weights, biases) in zip(blocks, views, strict=True):
            after, before = block.forward(weights, biases, values[-1])
            values.append(after)
            kept.append(before)
        # This refuses parameters that changed before the backward pass.
        ctx.save_for_backward(parameters, *values[:-1], *kept)
        ctx.blocks, ctx.views = blocks, views
        return values[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        _, *saved = ctx.saved_tensors
        values, kept = saved[: len(ctx.blocks)], saved[len(ctx.blocks) :]
        gradient = gradient.clone()
        found: list[Tensor] = []
        for i in reversed(range(len(ctx.blocks))):
            block = ctx.blocks[i]
            if block.after is not None:
                gradient = block.after.pull(gradient, kept[i])
            found[:0] = block.backward(gradient, values[i])
            if i:  # inputs are data
                gradient = torch.bmm(gradient, block.scaled(ctx.views[i][0]))
        return torch.cat(found, 1), None, None, None
