"""Random features of deep networks: an infinitely wide network's kernel as a matrix of low rank.

A finite network with random weights and T units before its last layer y = w W h / sqrt(T) + b B
has, given the others, the covariance over its last weights

    K(x, x') = phi(x)' phi(x'),    phi(x) = [w h(x) / sqrt(T), b],

whose expectation tends to the NNGP kernel, and whose error falls as 1 / sqrt(T). A Gaussian
process with this kernel is Bayesian regression on the features, in O(n T^2).

Sources: Takhanov (2024), "Multi-layer random features and the approximation power of neural
networks", section 3; Rahimi & Recht (2007); for dependent weights see kernelfield.nets.weights.
"""

from typing import Any

import torch
from gpytorch.kernels import Kernel
from linear_operator.operators import (
    LinearOperator,
    LowRankRootLinearOperator,
    MatmulLinearOperator,
    RootLinearOperator,
)
from torch import Tensor, nn
from torch.func import functional_call

from kernelfield.kernels.stationary import coincide
from kernelfield.nets.algebra import Layer, Serial
from kernelfield.nets.dense import Dense
from kernelfield.nets.weights import Structure, redraw


class DeepRandomFeatures(Kernel):
    """The kernel of the random features of a deep network, all layers of which but the last are drawn once.

    arch: a network that ends in Dense, in its own scales; the kernel has nothing to learn, so
        wrap it in a ScaleKernel for an output scale.
    shape: of one input: its size, or (*space, channels) for rows that are images or sequences.
    width: the units T of each hidden layer.
    seed: the draw; equal seeds give equal features, on any device and in any precision.
    weights: "iid", or a structure of `kernelfield.nets.weights` with the same limit, such as
        "orthogonal", which lies nearer to it.

    Shapes: x1 (*b, n, d), x2 (*b, k, d); returns a LinearOperator (*b, n, k) of rank T + 1 at
        most, or (*b, n) with diag=True.
    Errors: ValueError for a network that does not end in Dense, a width that is not positive, or
        rows that do not have the shape.

    >>> from kernelfield.nets.rectifiers import Relu
    >>> kernel = DeepRandomFeatures(Dense() >> Relu() >> Dense(), 2, 20_000)
    >>> round(kernel(torch.ones(1, 2), diag=True).item(), 1)  # half of x.x / d
    0.5
    """

    def __init__(
        self,
        arch: Layer,
        shape: int | tuple[int, ...],
        width: int,
        *,
        seed: int = 0,
        weights: Structure = "iid",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        last = arch.steps[-1] if isinstance(arch, Serial) else None
        if not isinstance(arch, Serial) or not isinstance(last, Dense):
            raise ValueError(f"arch must end in Dense, as Dense() >> Relu() >> Dense() does, got {arch}")
        if width < 1:
            raise ValueError(f"width must be a positive number of units, got {width}")
        arch.gaussian(False)
        self.shape = torch.Size([shape] if isinstance(shape, int) else shape)
        self.arch, self.width, self.seed, self.weights = arch, width, seed, weights
        self.last = last
        hidden = _drawn(Serial(arch.steps[:-1]), self.shape, width, seed, weights)
        self._hidden = (hidden,)  # in a tuple: its weights are no parameters of the kernel

    def features(self, x: Tensor) -> Tensor:
        """phi (*b, n, T + 1) at x (*b, n, d); T columns where the last layer has no biases."""
        if x.shape[-1] != self.shape.numel():
            raise ValueError(
                f"inputs of shape {tuple(self.shape)} are rows of {self.shape.numel()} numbers, got {x.shape[-1]}"
            )
        hidden = self._hidden[0]
        weights = {name: value.to(x) for name, value in hidden.named_parameters()}
        rows = x.reshape(-1, *self.shape)
        h = functional_call(hidden, weights, (rows,)).unflatten(0, x.shape[:-1])
        phi = h * (self.last.w / h.shape[-1] ** 0.5)
        if not self.last.b:
            return phi
        return torch.cat([phi, torch.full_like(phi[..., :1], float(self.last.b))], -1)

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor | LinearOperator:
        same = coincide(x1, x2)
        first = self.features(x1)
        second = first if same else self.features(x2)
        if diag:
            return (first * second).sum(-1)
        if not same:
            return MatmulLinearOperator(first, second.mT)
        return (LowRankRootLinearOperator if first.shape[-1] < first.shape[-2] else RootLinearOperator)(first)


def _drawn(hidden: Serial, shape: torch.Size, width: int, seed: int, weights: Structure) -> nn.Module:
    """A finite network with weights from a seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        module, _ = hidden.module(shape[-1], width, width)
        with torch.no_grad():
            module(torch.zeros(1, *shape))  # some layers learn their sizes from an input
    module = redraw(module.double(), weights, generator=torch.Generator().manual_seed(seed))
    return module.requires_grad_(False)
