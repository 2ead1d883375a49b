"""Architectures as values.

A network is a value built from layers with `>>`:

    arch = Dense(w=1.5, b=0.1) >> Relu() >> Dense(w=1.5, b=0.1)

and has three readings, which agree as the width grows:

    arch.propagate(state)    the layer's action on second moments: NNGP and NTK kernels
    arch.module(fan_in, ..)  a finite torch network: ensembles, Laplace, HMC
    arch.scales()            its positive floats: the hyperparameters a kernel learns

A positive float field is a learnable scale, a zero switches its term off, an integer is
structure. Layers are frozen; `rebuild` returns a copy with other scales, which may be tensors
that carry gradients. `Repeat` shares its scales among its copies; written out with `>>`, each
layer has its own.

Sources: Lee et al. (2018), "Deep Neural Networks as Gaussian Processes", eq. (4)-(5);
Jacot et al. (2018), "Neural Tangent Kernel", theorem 1.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce

import torch
from torch import Tensor, nn

from kernelfield.nets.state import CovState, Wanted, merge


class Layer(ABC):
    """One step of a network. Subclasses are frozen dataclasses."""

    sets_width: bool = False  # whether this step chooses the size of its output

    @abstractmethod
    def propagate(self, state: CovState) -> CovState:
        """Moments after this layer, in the limit of infinite width."""

    @abstractmethod
    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        """A finite module on (..., *space, fan_in) with random weights, and its output size.

        fan_out is the size of the network's last layer that sets one; `Serial` passes it on.
        """

    def gaussian(self, before: bool) -> bool:
        """Whether the output is a Gaussian process with mean zero, given whether the input is.

        Errors: ValueError where the layer has no closed form on such an input.
        """
        return before

    def wanted(self, after: Wanted) -> Wanted:
        """What this layer needs to know of its input, given what those after it need."""
        return after

    def __rshift__(self, after: object) -> "Serial":
        if not isinstance(after, Layer):
            given = f"the class {after.__name__}: write {after.__name__}()" if isinstance(after, type) else repr(after)
            raise TypeError(f"layers are followed by layers such as Relu(), got {given}")
        return Serial(_steps(self) + _steps(after))

    def scales(self) -> list[float]:
        """The positive float fields, depth first."""
        return [s for f in fields(self) for s in _scales(getattr(self, f.name))]  # type: ignore[arg-type]

    def rebuild(self, scales: Iterator[Tensor | float]) -> "Layer":
        """A copy whose positive float fields come from an iterator, in the order of `scales`."""
        return type(self)(*(_rebuild(getattr(self, f.name), scales) for f in fields(self)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Serial(Layer):
    """Layers one after another; written a >> b."""

    steps: tuple[Layer, ...]

    def propagate(self, state: CovState) -> CovState:
        for step in self.steps:
            state = step.propagate(state)
        return state

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        last = max((i for i, s in enumerate(self.steps) if s.sets_width), default=-1)
        modules = []
        for i, step in enumerate(self.steps):
            module, fan_in = step.module(fan_in, width, fan_out if i == last else width)
            modules.append(module)
        return nn.Sequential(*modules), fan_in

    def gaussian(self, before: bool) -> bool:
        for step in self.steps:
            before = step.gaussian(before)
        return before

    def wanted(self, after: Wanted) -> Wanted:
        for step in reversed(self.steps):
            after = step.wanted(after)
        return after

    @property
    def sets_width(self) -> bool:  # type: ignore[override]
        return any(step.sets_width for step in self.steps)


@dataclass(frozen=True)
class Repeat(Layer):
    """A block, several times over, with scales that all copies share (their weights are their own)."""

    block: Layer
    times: int

    def __post_init__(self) -> None:
        if self.times < 0:
            raise ValueError(f"times must be a number of copies, zero or more, got {self.times}")

    def propagate(self, state: CovState) -> CovState:
        for _ in range(self.times):
            state = self.block.propagate(state)
        return state

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        return self._unrolled().module(fan_in, width, fan_out)

    def gaussian(self, before: bool) -> bool:
        return self._unrolled().gaussian(before)

    def wanted(self, after: Wanted) -> Wanted:
        return self._unrolled().wanted(after)

    @property
    def sets_width(self) -> bool:  # type: ignore[override]
        return self.times > 0 and self.block.sets_width

    def _unrolled(self) -> Serial:
        return Serial((self.block,) * self.times)


@dataclass(frozen=True)
class Identity(Layer):
    """y = x."""

    def propagate(self, state: CovState) -> CovState:
        return state

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        return nn.Identity(), fan_in


@dataclass(frozen=True)
class Residual(Layer):
    """y = skip(x) + branch(x).

    The branch must end in a layer with fresh weights, such as `Dense`, so that the two terms
    are uncorrelated; the skip path is the identity unless a layer is given.
    """

    branch: Layer
    skip: Layer = Identity()

    def propagate(self, state: CovState) -> CovState:
        return merge([self.skip.propagate(state), self.branch.propagate(state)], _sum)

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        size = fan_out if self.sets_width else fan_in
        skip, size = self.skip.module(fan_in, width, size)
        branch, _ = self.branch.module(fan_in, width, size)
        return Added(nn.ModuleList([skip, branch])), size

    def gaussian(self, before: bool) -> bool:
        if not self.branch.gaussian(before):
            raise ValueError(
                f"the branch of a Residual must end in Dense, Conv or another layer with weights of its own, "
                f"got {self.branch}: its output is not Gaussian with mean zero, so the sum has no closed form"
            )
        return self.skip.gaussian(before)

    def wanted(self, after: Wanted) -> Wanted:
        return _either(self.skip.wanted(after), self.branch.wanted(after))

    @property
    def sets_width(self) -> bool:  # type: ignore[override]
        return self.skip.sets_width


@dataclass(frozen=True)
class Concat(Layer):
    """The channels of several branches side by side, in the proportion of `widths` (equal by default)."""

    branches: tuple[Layer, ...]
    widths: tuple[int, ...] | None = None
    sets_width = True

    def __post_init__(self) -> None:
        _require_branches(self, self.branches)
        if self.widths is not None and len(self.widths) != len(self.branches):
            raise ValueError(f"{len(self.branches)} branches need as many widths, got {self.widths}")

    def propagate(self, state: CovState) -> CovState:
        total = sum(self._widths)
        shares = [math.sqrt(w / total) for w in self._widths]
        branches = [_scaled(b.propagate(state), s) for b, s in zip(self.branches, shares, strict=True)]
        width = None if self.widths is None else total
        return replace(merge(branches, _sum), width=width)

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        total = sum(self._widths)
        sizes = [max(1, round(fan_out * w / total)) for w in self._widths]
        pairs = [b.module(fan_in, width, s) for b, s in zip(self.branches, sizes, strict=True)]
        return Joined(nn.ModuleList(m for m, _ in pairs)), sum(size for _, size in pairs)

    def gaussian(self, before: bool) -> bool:
        laws = [branch.gaussian(before) for branch in self.branches]
        return all(laws) and len(laws) == 1  # channels of different laws are no Gaussian sample

    def wanted(self, after: Wanted) -> Wanted:
        return reduce(_either, (branch.wanted(after) for branch in self.branches))

    @property
    def _widths(self) -> tuple[int, ...]:
        return self.widths or (1,) * len(self.branches)


@dataclass(frozen=True)
class Product(Layer):
    """The product of several branches with weights of their own: gates, interactions."""

    branches: tuple[Layer, ...]

    def __post_init__(self) -> None:
        _require_branches(self, self.branches)

    def propagate(self, state: CovState) -> CovState:
        return merge([b.propagate(state) for b in self.branches], _product)

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        pairs = [b.module(fan_in, width, fan_out) for b in self.branches]
        return Multiplied(nn.ModuleList(m for m, _ in pairs)), pairs[0][1]

    def gaussian(self, before: bool) -> bool:
        for branch in self.branches:
            branch.gaussian(before)
        return False

    def wanted(self, after: Wanted) -> Wanted:
        return reduce(_either, (branch.wanted(after) for branch in self.branches))

    @property
    def sets_width(self) -> bool:  # type: ignore[override]
        return all(branch.sets_width for branch in self.branches)


def _require_branches(layer: Layer, branches: tuple[Layer, ...]) -> None:
    if not branches:
        raise ValueError(f"a {type(layer).__name__} needs at least one branch, got none")


@dataclass(frozen=True)
class Scale(Layer):
    """y = factor * x: a fixed gain, such as 1 / sqrt(depth) on residual branches."""

    factor: float

    def propagate(self, state: CovState) -> CovState:
        return _scaled(state, self.factor)

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        return Rescaled(float(self.factor)), fan_in

    def scales(self) -> list[float]:
        return []  # the layers around it have scales to learn

    def rebuild(self, scales: Iterator[Tensor | float]) -> Layer:
        return self


def _scaled(state: CovState, factor: float | Tensor) -> CovState:
    gain = factor if isinstance(factor, Tensor) else abs(factor)

    def rule(s: CovState) -> CovState:
        tangent = None if s.tangent is None else s.tangent * gain**2
        return s.with_std(s.std1 * gain, s.std2 * gain, s.haversine, tangent)

    return state.lift(rule)


def _sum(states: Sequence[CovState]) -> CovState:
    """The sum of uncorrelated terms, two at a time."""
    return reduce(add, states)


def add(s: CovState, t: CovState) -> CovState:
    """The sum of two uncorrelated terms."""
    std1, std2 = hypotenuse(s.std1, t.std1), hypotenuse(s.std2, t.std2)
    first, second, both = s.std1 * s.std2, t.std1 * t.std2, std1 * std2
    # std1 std2 - first - second, without its cancellation: Lagrange's identity.
    lost = (s.std1 * t.std2 - t.std1 * s.std2).square() / _nonzero(both + first + second)
    haversine = (first * s.haversine + second * t.haversine + lost / 2) / _nonzero(both)
    tangent = None if s.tangent is None or t.tangent is None else s.tangent + t.tangent
    return s.with_std(std1, std2, haversine, tangent)


def _product(states: Sequence[CovState]) -> CovState:
    return reduce(_multiply, states)


def _multiply(s: CovState, t: CovState) -> CovState:
    haversine = s.haversine + t.haversine - 2 * s.haversine * t.haversine
    tangent = None
    if s.tangent is not None and t.tangent is not None:
        tangent = s.tangent * t.covariance + s.covariance * t.tangent
    return s.with_std(s.std1 * t.std1, s.std2 * t.std2, haversine, tangent)


def hypotenuse(a: Tensor, b: Tensor | float) -> Tensor:
    """sqrt(a^2 + b^2), with a finite slope at zero."""
    square = a.square() + b**2
    positive = square > 0
    return torch.where(positive, square, 1).sqrt() * positive


def _nonzero(value: Tensor) -> Tensor:
    return torch.where(value > 0, value, 1)


def _either(one: Wanted, other: Wanted) -> Wanted:
    return Wanted(*(getattr(one, f.name) or getattr(other, f.name) for f in fields(Wanted)))


class Added(nn.Module):
    def __init__(self, branches: nn.ModuleList) -> None:
        super().__init__()
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        return sum((branch(x) for branch in self.branches), torch.zeros(()).to(x))


class Multiplied(Added):
    def forward(self, x: Tensor) -> Tensor:
        return math.prod((branch(x) for branch in self.branches), start=torch.ones(()).to(x))


class Joined(Added):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], -1)


class Rescaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def _steps(layer: Layer) -> tuple[Layer, ...]:
    return layer.steps if isinstance(layer, Serial) else (layer,)


def _scales(value: object) -> list[float]:
    match value:
        case Layer():
            return value.scales()
        case tuple():
            return [s for v in value for s in _scales(v)]
        case float() if value > 0:
            return [value]
        case _:
            return []


def _rebuild(value: object, scales: Iterator[Tensor | float]) -> object:
    match value:
        case Layer():
            return value.rebuild(scales)
        case tuple():
            return tuple(_rebuild(v, scales) for v in value)
        case float() if value > 0:
            return next(scales)
        case _:
            return value
