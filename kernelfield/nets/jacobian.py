"""Jacobians of torch modules in their parameters, as the shares that kernels are summed from.

A dense layer that takes h to z has the Jacobian dz_k h' of output k, with dz_k = df_k / dz, so
that two vectors stand for it; the weights of all other layers go through their Jacobian, in
groups of tensors. A share is the pair of slopes (n, o, w) and inputs h (n, c), whose products are

    sum_w slopes_ikw slopes'_jlw  *  sum_c h_ic h'_jc.

Source: Novak, Sohl-Dickstein & Schoenholz (2022), "Fast Finite Width Neural Tangent Kernel",
section 3.3, for the factors of a dense layer.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from kernelfield.nets.dense import Affine
from kernelfield.nets.functional import called

Calls = dict[str, list[tuple[Tensor, Tensor]]]
FEWEST = 32  # inputs that should fit at a time, as long as no single tensor is too large


@dataclass(frozen=True, eq=False)
class Share:
    """The part of a Jacobian that one layer has; see the module docstring."""

    slopes: Tensor
    h: Tensor

    def mean_product(self, other: "Share") -> Tensor:
        """The mean over outputs k = l, (n1, n2)."""
        square = self.slopes.flatten(1) @ other.slopes.flatten(1).mT
        return square * (self.h @ other.h.mT) / self.slopes.shape[1]

    def full_product(self, other: "Share") -> Tensor:
        """All pairs of outputs, (n1, n2, o, o)."""
        pairs = torch.einsum("ikw,jlw->ijkl", self.slopes, other.slopes)
        return pairs * (self.h @ other.h.mT)[..., None, None]

    def squares(self) -> Tensor:
        """Each output of each input with itself, (n, o)."""
        return self.slopes.square().sum(-1) * self.h.square().sum(-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Group(ABC):
    """Parameters of a module whose Jacobians are taken together.

    cost: the numbers that one input adds to the shares.
    """

    module: nn.Module
    names: tuple[str, ...]
    cost: int

    @abstractmethod
    def shares(self, x: Tensor) -> list[Share]:
        """The shares of the inputs x (n, ...)."""


class Factored(Group):
    """Dense layers, by name."""

    def shares(self, x: Tensor) -> list[Share]:
        parameters = {name: p.requires_grad_() for name, p in constants(self.module).items()}
        with torch.enable_grad(), _watched(self.module, self.names) as calls:
            f = called(self.module, parameters, x).reshape(len(x), -1)
            pairs = [calls[name][0] for name in self.names]
            slopes = _slopes(f, [z for _, z in pairs], differentiable=x.requires_grad)
        layers = [self.module.get_submodule(name) for name in self.names]
        if not x.requires_grad:  # the inputs of a layer still lead to the copies of the parameters before it
            pairs = [(h.detach(), z) for h, z in pairs]
        return [_share(layer, h, s) for layer, (h, _), s in zip(layers, pairs, slopes, strict=True)]


class Explicit(Group):
    """Tensors of parameters, by name: each input gets its own view of them."""

    def shares(self, x: Tensor) -> list[Share]:
        fixed = constants(self.module)
        moving = {name: fixed.pop(name) for name in self.names}
        moving = {name: p.expand(len(x), *p.shape).requires_grad_() for name, p in moving.items()}

        def single(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
            return called(self.module, {**fixed, **parameters}, row[None]).reshape(-1)

        with torch.enable_grad():
            slopes = _slopes(vmap(single)(moving, x), list(moving.values()), differentiable=x.requires_grad)
        J = torch.cat([s.flatten(2) for s in slopes], -1)
        return [Share(J, J.new_ones(len(x), 1))]


def _slopes(f: Tensor, leaves: list[Tensor], *, differentiable: bool) -> list[Tensor]:
    """The slopes (n, o, ...) of f (n, o) in tensors (n, ...) whose rows act on their own row alone."""
    found = [
        torch.autograd.grad(
            f[:, k].sum(), leaves, retain_graph=True, create_graph=differentiable, materialize_grads=True
        )
        for k in range(f.shape[1])
    ]
    return [torch.stack(parts, 1) for parts in zip(*found, strict=True)]


def groups(module: nn.Module, x: Tensor, limit: int) -> list[Group]:
    """All parameters of a module, in groups of at most `limit` numbers for a few inputs.

    Errors: ValueError for a module that is random or mixes its inputs, or has nothing to train.
    """
    refuse_unready(module)
    parameters = constants(module)
    if not parameters:
        raise ValueError(f"{type(module).__name__} has no parameters that require gradients, so it has no NTK")
    layers, o = _dense(module, x[:1])
    owned = {f"{name}.{p}" if name else p for name in layers for p, _ in module.get_submodule(name).named_parameters()}
    found: list[Group] = [Factored(module, tuple(layers), sum(layers.values()))] if layers else []
    names: list[str] = []
    room = limit // (o * min(len(x), FEWEST))
    for name in (name for name in parameters if name not in owned):
        if names and sum(parameters[n].numel() for n in (*names, name)) > room:
            found.append(_explicit(module, names, o, parameters))
            names = []
        names.append(name)
    if names:
        found.append(_explicit(module, names, o, parameters))
    return found


def constants(module: nn.Module) -> dict[str, Tensor]:
    """The trained parameters, outside of any graph."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def refuse_unready(module: nn.Module) -> None:
    """Errors: ValueError for layers that drop out, take statistics of the batch or have no weights yet."""
    for name, layer in module.named_modules():
        if any(is_lazy(p) for p in layer.parameters(recurse=False)):
            raise ValueError(
                f"the weights of {type(layer).__name__} {name!r} have no size yet: call the module once first"
            )
        if layer.training and isinstance(layer, _BatchNorm | _DropoutNd):
            raise ValueError(
                f"{type(layer).__name__} {name!r} is in training mode, where an output is no function of its input "
                "alone: call module.eval() first"
            )


def assemble(
    module: nn.Module, x1: Tensor, x2: Tensor | None, limit: int, product: Callable[[Share, Share], Tensor]
) -> Tensor:
    """The sum over all shares of their products, block by block; symmetric where x2 is None."""
    total: Tensor | None = None
    for group in groups(module, x1, limit):
        part = _square(group, x1, limit, product) if x2 is None else _rectangle(group, x1, x2, limit, product)
        total = part if total is None else total + part
    assert total is not None
    return total


def _rectangle(group: Group, x1: Tensor, x2: Tensor, limit: int, product: Callable[[Share, Share], Tensor]) -> Tensor:
    rows = max(1, limit // group.cost)
    blocks = []
    for part in x1.split(rows):
        first = group.shares(part)
        blocks.append(torch.cat([_total(product, first, group.shares(p)) for p in x2.split(rows)], 1))
    return torch.cat(blocks)


def _square(group: Group, x: Tensor, limit: int, product: Callable[[Share, Share], Tensor]) -> Tensor:
    """The lower half, and its mirror image."""
    parts = x.split(max(1, limit // group.cost))
    blocks: list[list[Tensor]] = []
    for i, part in enumerate(parts):
        first = group.shares(part)
        row = [_total(product, first, group.shares(p)) for p in parts[:i]]
        block = _total(product, first, first)
        blocks.append([*row, (block + _mirrored(block)) / 2])
    full = [
        torch.cat([*row, *(_mirrored(blocks[j][i]) for j in range(i + 1, len(parts)))], 1)
        for i, row in enumerate(blocks)
    ]
    return torch.cat(full)


def _total(product: Callable[[Share, Share], Tensor], first: list[Share], second: list[Share]) -> Tensor:
    result = product(first[0], second[0])
    for a, b in zip(first[1:], second[1:], strict=True):
        result = result + product(a, b)
    return result


def _mirrored(block: Tensor) -> Tensor:
    """K_ijkl to K_jilk."""
    return block.transpose(0, 1) if block.ndim == 2 else block.permute(1, 0, 3, 2)


def _explicit(module: nn.Module, names: list[str], o: int, parameters: dict[str, Tensor]) -> Explicit:
    return Explicit(module, tuple(names), o * sum(parameters[name].numel() for name in names))


def _dense(module: nn.Module, x: Tensor) -> tuple[dict[str, int], int]:
    """The names and costs of the dense layers that two factors stand for, and the outputs' number.

    Such a layer is called once on one input, and its gradient is the product of the two
    factors, which fails where its weights are used elsewhere too.
    """
    candidates = [
        name
        for name, layer in module.named_modules()
        if type(layer) in (nn.Linear, Affine) and all(p.requires_grad for p in layer.parameters())
    ]
    parameters = {name: p.requires_grad_() for name, p in constants(module).items()}
    with torch.enable_grad(), _watched(module, tuple(candidates)) as calls:
        f = called(module, parameters, x.detach()).reshape(-1)
        costs = {}
        for name in candidates:
            if len(calls[name]) != 1 or not _plain(*calls[name][0]):
                continue
            (h, z), layer = calls[name][0], module.get_submodule(name)
            weight = parameters.get(f"{name}.weight" if name else "weight")
            if weight is None:  # a shared tensor, known by another name
                continue
            slopes, truth = torch.autograd.grad(f.sum(), [z, weight], retain_graph=True, materialize_grads=True)
            share = _share(layer, h.detach(), slopes[:, None])
            claimed = (share.slopes.mT @ share.h[:, None]).reshape(len(weight), -1)
            close = (claimed[:, : weight.shape[1]] - truth).abs().max() <= 1e-3 * truth.abs().max()
            if close:
                costs[name] = len(f) * share.slopes[0, 0].numel() + share.h[0].numel()
    return costs, len(f)


def _plain(h: Tensor, z: Tensor) -> bool:
    """Whether the first axis is that of inputs; inside of a forward derivative z has no graph."""
    return z.requires_grad and all(t.ndim >= 2 and len(t) == 1 for t in (h, z))


@contextmanager
def _watched(module: nn.Module, names: tuple[str, ...]) -> Iterator[Calls]:
    """The inputs and outputs of some layers, each time that they are called."""
    calls: Calls = {name: [] for name in names}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            calls[name].append((inputs[0].clone(), output))
            return output.clone()  # what is kept must not change if the next layer works in place

        return hook

    handles = [module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _share(layer: nn.Module, h: Tensor, slopes: Tensor) -> Share:
    """The share of a dense layer: a bias is the weight of one more input."""
    gain, bias = layer.gains if isinstance(layer, Affine) else (1.0, 1.0)
    h = h * gain
    if layer.bias is not None:
        h = torch.cat([h, torch.full_like(h[..., :1], bias)], -1)
    if h.ndim == 2:
        return Share(slopes, h)
    J = torch.einsum("nkpw,npc->nkwc", slopes.flatten(2, -2), h.flatten(1, -2)).flatten(2)
    return Share(J, J.new_ones(len(J), 1))
