"""What the tiles of a GPyTorch kernel's matrix are computed from.

Radial kernels, ours and GPyTorch's, spectral mixtures, networks of dense layers and rectifiers, and sums, products
and scalings of kernels are taken apart into `linalg.entries`. A spectral mixture is one as well: cos(a - b) is an
inner product of (cos a, sin a) and (cos b, sin b). Every other kernel is called on the points of a tile.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from gpytorch.kernels import AdditiveKernel, Kernel, MaternKernel, ProductKernel, RBFKernel, RQKernel, ScaleKernel
from torch import Tensor

from kernelfield.kernels.grid import GridKernel
from kernelfield.kernels.network import NetworkKernel
from kernelfield.kernels.spectral import SpectralKernel, SpectralMixture, SpectralProduct
from kernelfield.kernels.stationary import Stationary
from kernelfield.linalg import profiles
from kernelfield.linalg.entries import Inner, Product, Radial, Sum
from kernelfield.linalg.profiles import Profile
from kernelfield.linalg.tiled import Entries, Lazy
from kernelfield.nets.angle import powers
from kernelfield.nets.dense import Dense, biased
from kernelfield.nets.points import Points
from kernelfield.nets.stack import Layers, Stack, prepared, unrolled
from kernelfield.nets.tile import Desk, Sides, Task, backwards, forwards

MATERN: dict[float, Profile] = {0.5: profiles.Matern12(), 1.5: profiles.Matern32(), 2.5: profiles.Matern52()}


def entries(kernel: Kernel, x1: Tensor, x2: Tensor | None = None) -> Entries:
    """The matrix of a kernel between x1 (n1, d) and x2 (n2, d), None for x1 with itself; differentiable.

    Errors: ValueError for a batch of kernels.

    >>> from kernelfield.kernels.stationary import RBF
    >>> found = entries(RBF() * RBF() + RBF(), torch.zeros(3, 1))
    >>> [type(part).__name__ for part in found.parts], found.diagonal().tolist()
    (['Product', 'Sum'], [2.0, 2.0, 2.0])
    """
    if kernel.batch_shape:
        raise ValueError(f"products are of one kernel, and this is a batch of shape {tuple(kernel.batch_shape)}")
    whole = x1, x2
    inherits = isinstance(kernel, ScaleKernel) and kernel.base_kernel.active_dims is not None
    if kernel.active_dims is not None and not inherits:  # the base of a scaled kernel chooses its own columns
        x1 = x1.index_select(-1, kernel.active_dims)
        x2 = None if x2 is None else x2.index_select(-1, kernel.active_dims)
    match kernel:
        case AdditiveKernel():
            return Sum([entries(k, x1, x2) for k in kernel.kernels])
        case ProductKernel():
            return Product([entries(k, x1, x2) for k in kernel.kernels])
        case ScaleKernel():
            return _scaled(entries(kernel.base_kernel, x1, x2), kernel.outputscale)
        case GridKernel():
            others: Sequence[Tensor | None] = [None] * len(kernel.axes) if x2 is None else kernel.slices(x2)
            slices = zip(kernel.axes, kernel.slices(x1), others, strict=True)
            return _scaled(Product([entries(k, a, b) for k, a, b in slices]), kernel.outputscale)
        case Stationary():
            return _scaled(_radial(kernel, kernel.profile, x1, x2, kernel._shape()), kernel.outputscale)
        case SpectralProduct() if _factors(kernel):
            factors = [_mixture(kernel, x1, x2, kernel.weights[:, d], (d,)) for d in range(kernel.dims)]
            return _scaled(Product(factors), kernel.outputscale)
        case SpectralMixture() if _factors(kernel):
            return _mixture(kernel, x1, x2, kernel.weights, range(kernel.dims))
        case NetworkKernel() if (layers := _layers(kernel)) is not None:
            return _stack(kernel, layers, x1, x2)
    if type(kernel) is RBFKernel:
        return _radial(kernel, profiles.Rbf(), x1, x2)
    if type(kernel) is MaternKernel:
        return _radial(kernel, MATERN[kernel.nu], x1, x2)
    if type(kernel) is RQKernel:
        return _radial(kernel, profiles.RationalQuadratic(), x1, x2, kernel.alpha.squeeze(-1))
    return Called(kernel, *whole)  # which chooses its columns itself


def _scaled(part: Entries, outputscale: Tensor) -> Sum:
    return Sum([part], outputscale.reshape(1))


def _radial(kernel: Kernel, profile: Profile, x1: Tensor, x2: Tensor | None, shape: Tensor | None = None) -> Radial:
    second = None if x2 is None else x2 / kernel.lengthscale
    return Radial(x1 / kernel.lengthscale, second, profile, shape)


def _factors(kernel: SpectralKernel) -> bool:
    """Whether the envelopes of a mixture are among the profiles."""
    return kernel.density == "gaussian" or kernel.nu in MATERN


def _mixture(kernel: SpectralKernel, x1: Tensor, x2: Tensor | None, weights: Tensor, dims: Sequence[int]) -> Sum:
    """The weighted waves and envelopes of a spectrum over some inputs; those of a product are shares of one."""
    columns = list(dims)
    own, other = x1[:, columns], None if x2 is None else x2[:, columns]
    # Phases lose digits far from zero.
    centre = (own if other is None else other).detach().mean(0)
    own, other = own - centre, None if other is None else other - centre
    parts = []
    for lengths, frequencies in zip(kernel.lengthscales[:, columns], kernel.frequencies[:, columns], strict=True):
        wave = Inner(_circle(own, frequencies), None if other is None else _circle(other, frequencies))
        parts.append(Product([*_envelopes(kernel, own, other, lengths), wave]))
    return Sum(parts, weights / weights.sum() if isinstance(kernel, SpectralProduct) else weights)


def _circle(x: Tensor, frequencies: Tensor) -> Tensor:
    phase = x @ (2 * math.pi * frequencies[:, None])
    return torch.cat([phase.cos(), phase.sin()], 1)


def _envelopes(kernel: SpectralKernel, x1: Tensor, x2: Tensor | None, lengths: Tensor) -> list[Radial]:
    first, second = x1 / lengths, None if x2 is None else x2 / lengths
    if kernel.density == "gaussian":
        return [Radial(first, second, profiles.Rbf())]
    columns = [slice(d, d + 1) for d in range(len(lengths))]
    return [Radial(first[:, c], None if second is None else second[:, c], MATERN[kernel.nu]) for c in columns]


def _layers(kernel: NetworkKernel) -> Layers | None:
    """The layers of a plain stack on vectors; None for other networks."""
    if kernel.shape is not None:
        return None
    scales = kernel.scales
    return unrolled(kernel.arch.rebuild(iter(scales if scales.requires_grad else scales.tolist())))


def _stack(kernel: NetworkKernel, layers: Layers, x1: Tensor, x2: Tensor | None) -> "Rectified":
    first = layers[0]
    assert isinstance(first, Dense)
    read: Callable[[Tensor], Points] = kernel.points
    if biased(first.b):  # one more input, of one value for all points, does what the biases of the first layer do
        read, layers = partial(_extended, first), (Dense(), *layers[1:])
    return Rectified(prepared(layers, read(x1), None if x2 is None else read(x2), tangent=kernel.kind == "ntk"))


def _extended(first: Dense, x: Tensor) -> Points:
    """Inputs whose mean square is the variance behind a first layer with biases."""
    weights = first.w if isinstance(first.w, tuple) else (first.w,)
    scales = torch.stack([torch.as_tensor(w).to(x) for w in weights])
    bias = torch.as_tensor(first.b).to(x) * x.shape[1] ** 0.5
    wide = torch.cat([x * scales, bias.expand(len(x), 1)], 1)
    return Points(wide * (wide.shape[1] / x.shape[1]) ** 0.5)


class Rectified(Entries):
    """The NNGP or NTK of a plain stack; see `nets.stack` and `nets.tile`."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.symmetric = stack.second is None
        self.roots = (*stack.first, *(stack.second or ()), stack.kappas)
        held = tuple(root.detach() for root in self.roots)
        self.sides = Sides(*held[:3], *held[-4:-1])
        self.shape = (len(self.sides.u), len(self.sides.v))
        self.task = Task(stack.program, stack.tangent, held[-1].tolist())
        self.passes = 25.0 * len(self.task.kappas) + 2.0
        self.desk = Desk(self.sides.u)
        if "turn" in stack.program:
            self.obstacle = "biases behind the first layer make the network a function of more than one angle"

    def tile(self, rows: slice, columns: slice) -> Tensor:
        same, sides = self.symmetric and rows == columns, self.sides.block(rows, columns)
        T = forwards(self.task, sides, self.desk, 0 if same else None, None).mul_(sides.std1).mul_(sides.std2.mT)
        if same:
            T.diagonal().copy_(self.diagonal()[rows])
        return T

    def pull(self, rows: slice, columns: slice, G: Tensor, slopes: list[Tensor]) -> None:
        same, sides = self.symmetric and rows == columns, self.sides.block(rows, columns)
        kept: list[Any] = []
        value = forwards(self.task, sides, self.desk, 0 if same else None, kept)
        part = backwards(self.task, sides, self.desk, kept, G, value, by_inputs=True, by_kappas=slopes[-1])
        totals = Sides(*slopes[:3], *slopes[-4:-1]).block(rows, columns)
        for total, slope in zip(totals, part, strict=True):
            total += slope

    def diagonal(self) -> Tensor:
        assert self.stack.diagonal is not None
        return self.stack.diagonal.to(self.sides.u)

    def formula(self, lazy: Lazy) -> Any:
        u, std1, _, v, std2, _ = (*self.roots[:3], *self.roots[-4:-1])
        first, second = lazy.rows(u), lazy.columns(v)
        theta = 2 * (first - second).norm2().atan2((first + second).norm2())
        t = theta * (2 / math.pi) - 1
        coefficients = powers(self.stack.program, self.roots[-1], tangent=self.stack.tangent)
        held = lazy.whole(coefficients)
        total = held.elem(len(coefficients) - 1)
        for k in range(len(coefficients) - 2, -1, -1):
            total = total * t + held.elem(k)
        return total * lazy.rows(std1) * lazy.columns(std2)


class Called(Entries):
    """Any kernel, called on the points of each tile."""

    coarse = True
    passes = 200.0

    def __init__(self, kernel: Kernel, x1: Tensor, x2: Tensor | None) -> None:
        other = x1 if x2 is None else x2
        self.kernel, self.symmetric, self.shape = kernel, x2 is None, (len(x1), len(other))
        self.first, self.second = x1.detach(), other.detach()
        points = (x1,) if x2 is None else (x1, x2)
        self.roots = (*points, *(p for p in kernel.parameters() if p.requires_grad))
        self.count = len(points)
        self.obstacle = f"{type(kernel).__name__} has no formula in KeOps"

    def tile(self, rows: slice, columns: slice) -> Tensor:
        first = self.first[rows]
        second = first if self.symmetric and rows == columns else self.second[columns]
        return self.kernel(first, second).to_dense().clone(memory_format=torch.contiguous_format)

    def pull(self, rows: slice, columns: slice, G: Tensor, slopes: list[Tensor]) -> None:
        moving = [root.requires_grad for root in self.roots[: self.count]]
        first = self.first[rows].requires_grad_(moving[0])
        second = first if self.symmetric and rows == columns else self.second[columns].requires_grad_(moving[-1])
        with torch.enable_grad():
            K = self.kernel(first, second).to_dense()
        leaves = [*((first,) if first is second else (first, second)), *self.roots[self.count :]]
        places = [slopes[0][rows], *([] if first is second else [slopes[self.count - 1][columns]])]
        places += slopes[self.count :]
        chosen = [(leaf, place) for leaf, place in zip(leaves, places, strict=True) if leaf.requires_grad]
        if not chosen or not K.requires_grad:
            return
        found = torch.autograd.grad(K, [leaf for leaf, _ in chosen], G, allow_unused=True, materialize_grads=True)
        for (_, place), slope in zip(chosen, found, strict=True):
            place += slope

    def diagonal(self) -> Tensor:
        return self.kernel(self.first, diag=True)

    def formula(self, lazy: Lazy) -> Any:
        raise NotImplementedError(self.obstacle)
