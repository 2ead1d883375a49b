"""Covariances of infinitely wide networks, with the network's scales as hyperparameters."""

import math
from typing import Any

import torch
from gpytorch.constraints import Interval
from gpytorch.kernels import Kernel
from gpytorch.priors import Prior
from torch import Tensor

from kernelfield.kernels.stationary import coincide
from kernelfield.nets.algebra import Layer
from kernelfield.nets.gram import KINDS, Kind, diagonal, gram
from kernelfield.nets.points import Points


class NetworkKernel(Kernel):
    """NNGP or NTK of an architecture, as a GPyTorch kernel.

    arch: the network; its positive float fields are the initial values of `scales`.
    kind: "nngp", the prior over functions of a Bayesian network, or "ntk", the kernel of its
        training by gradient descent.
    shape: for networks on images, sequences or graphs, the shape (*space, channels) of one
        input, which arrives as one flat row.
    scales_constraint: by default an interval that reaches far below and tenfold above the start.
    missing: the value that marks missing positions, in all of their channels.
    graph: whether each row holds, after its L nodes of `shape`, the L x L matrix that
        `GraphAggregate` multiplies them by.

    Shapes: x1 (*b, n, d), x2 (*b, k, d); returns (*b, n, k), or (*b, n) with diag=True.
    Units: inputs should be standardised, as their inner products are divided by d; the output
        is in squared units of y.
    Errors: ValueError for an unknown kind, for scales that are not positive, for rows that do
        not have the shape, and for architectures without closed form or with nothing to learn.
    Source: Lee et al. (2018); Jacot et al. (2018); see kernelfield.nets.algebra.

    >>> from kernelfield.nets.dense import Dense
    >>> from kernelfield.nets.rectifiers import Relu
    >>> kernel = NetworkKernel(Dense(w=2**0.5) >> Relu() >> Dense(w=2**0.5))
    >>> variance = kernel(torch.eye(2), diag=True)
    >>> [round(v, 4) for v in variance.tolist()]  # w**2 = 2 keeps the input's 2 x.x / d
    [1.0, 1.0]
    """

    def __init__(
        self,
        arch: Layer,
        kind: Kind = "nngp",
        *,
        shape: tuple[int, ...] | None = None,
        missing: float | None = None,
        graph: bool = False,
        scales_prior: Prior | None = None,
        scales_constraint: Interval | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if kind not in KINDS:
            raise ValueError(f"kind must be 'nngp' or 'ntk', got {kind!r}")
        if not isinstance(arch, Layer):
            raise ValueError(f"arch must be a network of layers such as Dense() >> Relu() >> Dense(), got {arch!r}")
        if graph and (shape is None or len(shape) != 2):
            raise ValueError(f"graph=True needs the shape (nodes, channels) of one input, got shape={shape}")
        arch.gaussian(False)
        start = torch.tensor(arch.scales()).expand(*self.batch_shape, -1)
        if not start.shape[-1]:
            raise ValueError(f"the architecture has no positive float field to learn: {arch}")
        self.arch, self.kind = arch, kind
        self.shape, self.missing, self.graph = shape, missing, graph
        self.register_parameter("raw_scales", torch.nn.Parameter(torch.zeros_like(start)))
        # Scales multiply along the depth: without an upper bound a long step of an optimiser makes a
        # matrix beyond double precision.
        reach = Interval(1e-6 * start.min(), 10 * start.max().clamp_min(1.0))
        self.register_constraint("raw_scales", scales_constraint or reach)
        if scales_prior is not None:
            self.register_prior("scales_prior", scales_prior, _get_scales, _set_scales)
        self.scales = start

    @property
    def scales(self) -> Tensor:
        """The architecture's scales in depth-first order, shape (*batch_shape, k)."""
        return self.raw_scales_constraint.transform(self.raw_scales)

    @scales.setter
    def scales(self, value: float | Tensor) -> None:
        value = torch.as_tensor(value).to(self.raw_scales)
        if not ((value > 0) & value.isfinite()).all():
            worst = value[~((value > 0) & value.isfinite())].flatten()[0].item()
            raise ValueError(f"scales must be positive and finite, got {worst:g}; give a value above zero")
        raw = self.raw_scales_constraint.inverse_transform(value)
        self.initialize(raw_scales=raw.expand_as(self.raw_scales))

    @property
    def fitted(self) -> Layer:
        """The architecture with the present scales, for finite networks of the same law."""
        return self.arch.rebuild(iter(self.scales.detach().flatten().tolist()))

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        first = self.points(x1)
        second = None if coincide(x1, x2) else self.points(x2)
        evaluate = diagonal if diag else gram
        return evaluate(self.arch, first, second, kind=self.kind, scales=self.scales)

    def points(self, x: Tensor) -> Points:
        """Rows (*b, n, d) as what the network reads."""
        if self.shape is None:
            return Points(x)
        size = math.prod(self.shape)
        nodes = self.shape[0] ** 2 if self.graph else 0
        if x.shape[-1] != size + nodes:
            extra = f" + {self.shape[0]}^2 of the graph" if self.graph else ""
            raise ValueError(
                f"inputs of shape {tuple(self.shape)} are rows of {size}{extra} numbers, got {x.shape[-1]}"
            )
        graph = x[..., size:].unflatten(-1, (self.shape[0], -1)) if self.graph else None
        x = x[..., :size].unflatten(-1, self.shape)
        present = None if self.missing is None else (x != self.missing).any(-1)
        return Points(x, len(self.shape) - 1, present, graph)


# Module-level, so that kernels with priors can be pickled.
def _get_scales(kernel: NetworkKernel) -> Tensor:
    return kernel.scales


def _set_scales(kernel: NetworkKernel, value: float | Tensor) -> None:
    kernel.scales = value
