"""Kernels by name, started at the scale of the data.

Stationary kernels get one lengthscale an input; networks one scale an input on their first
layer, which plays the same part, and hyperparameters with weak priors around plain values.
"""

import math
from collections.abc import Callable

import torch
from gpytorch.kernels import Kernel
from gpytorch.priors import LogNormalPrior
from torch import Tensor

from kernelfield.kernels.network import NetworkKernel
from kernelfield.kernels.stationary import NAMES, dimension_scaled
from kernelfield.nets.algebra import Layer
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import Kind
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.smooth import Erf

DEPTH = 3  # hidden layers of the networks by name
# The variance of the logarithm of a network's scale a priori; of one of d inputs, that over the root of d: as free as
# this, hundreds of them explain a few rows by a few inputs, and the law is far too sure elsewhere.
SPREAD = 3.0
NETWORKS: dict[str, tuple[Kind, Callable[[], Layer]]] = {
    "nngp": ("nngp", Relu),
    "ntk": ("ntk", Relu),
    "erf-nngp": ("nngp", Erf),
}


def named(name: str, spread: Tensor, size: Tensor, inputs: int | None = None) -> Kernel:
    """A kernel by name for inputs of the standard deviations `spread` (d,) and outputs of mean square `size`.

    inputs : the number of inputs of the function, where the kernel is a factor on d of them.

    Errors: ValueError for an unknown name.

    >>> named("nngp", torch.ones(3), torch.tensor(1.0)).scales.shape  # 3 inputs, 3 biases, 3 weights
    torch.Size([9])
    """
    if name in NETWORKS:
        kind, activation = NETWORKS[name]
        return _network(kind, activation(), spread, size)
    if name not in NAMES:
        raise ValueError(f"kernel must be a GPyTorch kernel or one of {', '.join([*NAMES, *NETWORKS])}, got {name!r}")
    kernel = dimension_scaled(name, spread, inputs)
    kernel.lengthscale = spread * (inputs or len(spread)) ** 0.5
    kernel.outputscale = size
    return kernel


def _network(kind: Kind, activation: Layer, spread: Tensor, size: Tensor) -> Kernel:
    weight, bias = math.sqrt(2), 0.3
    arch: Layer = Dense(tuple((1 / spread).tolist()), 1.0)
    for _ in range(DEPTH - 1):
        arch = arch >> activation >> Dense(weight, bias)
    arch = arch >> activation >> Dense(math.sqrt(size.item()))
    start = spread.new_tensor(arch.scales())
    variance = torch.full_like(start, SPREAD)
    variance[: len(spread)] /= len(spread) ** 0.5
    prior = LogNormalPrior(start.log() + variance, variance.sqrt())  # whose mode is the start
    kernel = NetworkKernel(arch, kind, scales_prior=prior).to(spread)
    kernel.scales = start
    return kernel
