"""Kernels of one finite network: as a GPyTorch kernel, and its NTK as a linear operator.

    k(x, x') = outputscale * mean_k NTK(x, x')_kk    or    outputscale * f(x) . f(x') / o

at the network's present parameters, which stay as they are: a kernel fits its output scale
alone. A Gaussian process with the NTK is the posterior of the network linearised in its
parameters; `nets.empirical` has the matrices.

The operator is the NTK of all outputs, (n1 o, n2 o) in point-major order, and never forms it: a
product is a backward and then a forward derivative of the network.

Source: Maddox et al. (2021), "Fast Adaptation with Linearized Neural Networks", section 3.
"""

from collections.abc import Callable
from typing import Any

import torch
from gpytorch.constraints import Interval
from gpytorch.kernels import Kernel
from gpytorch.priors import Prior
from linear_operator import to_linear_operator
from linear_operator.operators import LinearOperator
from torch import Tensor, nn

from kernelfield.kernels.stationary import logarithmic
from kernelfield.nets.empirical import empirical_diagonal, empirical_gram, full_diagonal, full_ntk, ntk_product
from kernelfield.nets.gram import KINDS, Kind


class EmpiricalKernel(Kernel):
    """The NTK or NNGP of a finite network.

    module: takes (n, d), or (n, *shape) where `shape` says how to unfold the d inputs of a point.
    It is in no list of the kernel's parameters or submodules, so that a fit leaves it alone.

    Shapes: x1 (*b, n1, d), x2 (*b, n2, d); returns (*b, n1, n2), or (*b, n1) with diag=True.
    Units: the output scale in squared units of y per unit of the network's kernel.
    Errors: ValueError for an unknown kind, an output scale that is not positive, and as
        `empirical_ntk`.
    """

    has_lengthscale = False

    def __init__(
        self,
        module: nn.Module,
        *,
        kind: Kind = "ntk",
        shape: tuple[int, ...] | None = None,
        outputscale_prior: Prior | None = None,
        outputscale_constraint: Interval | None = None,
        **kwargs: Any,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be 'nngp' or 'ntk', got {kind!r}")
        super().__init__(**kwargs)
        self.kind, self.shape, self._network = kind, shape, (module,)
        self.register_parameter("raw_outputscale", nn.Parameter(torch.zeros(self.batch_shape)))
        self.register_constraint("raw_outputscale", outputscale_constraint or logarithmic())
        if outputscale_prior is not None:
            self.register_prior("outputscale_prior", outputscale_prior, _get_outputscale, _set_outputscale)

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self._network[0]

    @property
    def outputscale(self) -> Tensor:
        """The factor of the network's kernel, shape (*batch_shape,)."""
        return self.raw_outputscale_constraint.transform(self.raw_outputscale)

    @outputscale.setter
    def outputscale(self, value: float | Tensor) -> None:
        value = torch.as_tensor(value).to(self.raw_outputscale)
        if not (value > 0).all() or not value.isfinite().all():
            raise ValueError(f"outputscale must be positive and finite, got {value.tolist()}; give a value above zero")
        self.initialize(raw_outputscale=self.raw_outputscale_constraint.inverse_transform(value))

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        same = x1 is x2 or (not x2.requires_grad and x1.shape == x2.shape and torch.equal(x1, x2))
        if diag and same:
            return self.outputscale[..., None] * self._batched(self._diagonal, x1)
        K = self._batched(self._square, x1) if same else self._batched(self._rectangle, x1, x2)
        K = self.outputscale[..., None, None] * K
        return K.diagonal(dim1=-2, dim2=-1) if diag else K

    def _batched(self, evaluate: Callable[..., Tensor], *xs: Tensor) -> Tensor:
        """A function of matrices, for each element of their batch."""
        batch = torch.broadcast_shapes(*(x.shape[:-2] for x in xs))
        flat = [x.expand(*batch, *x.shape[-2:]).reshape(-1, *x.shape[-2:]) for x in xs]
        parts = torch.stack([evaluate(*(self._unfolded(x) for x in one)) for one in zip(*flat, strict=True)])
        return parts.reshape(*batch, *parts.shape[1:])

    def _square(self, x: Tensor) -> Tensor:
        return empirical_gram(self.module, x, kind=self.kind)

    def _rectangle(self, x1: Tensor, x2: Tensor) -> Tensor:
        return empirical_gram(self.module, x1, x2, kind=self.kind)

    def _diagonal(self, x: Tensor) -> Tensor:
        return empirical_diagonal(self.module, x, kind=self.kind)

    def _unfolded(self, x: Tensor) -> Tensor:
        return x if self.shape is None else x.unflatten(-1, self.shape)


class EmpiricalNTK(LinearOperator):
    """The NTK of all outputs, (n1 o, n2 o), by its products with vectors.

    Shapes: x1 (n1, ...) and x2 (n2, ...), batches as the module takes them; x2=None stands for x1.

    >>> operator = EmpiricalNTK(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), module=nn.Linear(2, 1))
    >>> operator @ torch.ones(2)
    tensor([9., 5.])
    """

    def __init__(self, x1: Tensor, x2: Tensor | None = None, *, module: nn.Module) -> None:
        x2 = x1 if x2 is None else x2
        super().__init__(x1, x2, module=module)
        self.x1, self.x2, self.module = x1, x2, module
        with torch.no_grad():
            self.outputs = module(x1[:1]).numel()

    @property
    def dtype(self) -> torch.dtype:
        return self.x1.dtype

    def _size(self) -> torch.Size:
        return torch.Size([len(self.x1) * self.outputs, len(self.x2) * self.outputs])

    def _transpose_nonbatch(self) -> "EmpiricalNTK":
        return EmpiricalNTK(self.x2, self.x1, module=self.module)

    def _matmul(self, rhs: Tensor) -> Tensor:
        columns = rhs.reshape(len(self.x2), self.outputs, -1)
        return ntk_product(self.module, self.x1, self.x2, columns).reshape(-1, *rhs.shape[1:])

    def _diagonal(self) -> Tensor:
        if self.x1 is self.x2:
            return full_diagonal(self.module, self.x1).flatten()
        return self.to_dense().diagonal()

    def _getitem(self, row_index: Any, col_index: Any, *batch_indices: Any) -> LinearOperator:
        rows, columns = (
            torch.arange(n, device=self.device)[at] for n, at in zip(self.shape, (row_index, col_index), strict=True)
        )
        return to_linear_operator(self._entries(rows[:, None], columns))

    def _get_indices(self, row_index: Tensor, col_index: Tensor, *batch_indices: Tensor) -> Tensor:
        return self._entries(row_index, col_index)

    def _entries(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Single entries, from the inputs that they belong to."""
        i, to_i = (rows // self.outputs).unique(return_inverse=True)
        j, to_j = (columns // self.outputs).unique(return_inverse=True)
        K = full_ntk(self.module, self.x1[i], self.x2[j])
        return K[to_i, to_j, rows % self.outputs, columns % self.outputs]

    def to_dense(self) -> Tensor:
        K = full_ntk(self.module, self.x1, None if self.x1 is self.x2 else self.x2)
        return K.transpose(1, 2).flatten(2, 3).flatten(0, 1)


# Module-level, so that kernels with priors can be pickled.
def _get_outputscale(kernel: EmpiricalKernel) -> Tensor:
    return kernel.outputscale


def _set_outputscale(kernel: EmpiricalKernel, value: float | Tensor) -> None:
    kernel.outputscale = value
