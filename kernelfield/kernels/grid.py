"""Product kernels: one kernel for each axis of a grid, and one output scale outside the product.

    k(x, x') = outputscale * prod_a k_a(x_a, x'_a),    x_a the columns of axis a

On the product X_1 x ... x X_d of point sets, rows ordered with the last axis fastest, its matrix is
outputscale * K_1 (x) ... (x) K_d. Off the grid it is the same function, so that the matrix of any points,
on and off the grid together, is positive semi-definite.

A radial kernel of several axes, such as Matern with one lengthscale an input, is another object: a function of
sqrt(sum_d r_d^2), which is not a product (the RBF alone is both). Treating one as the other on the
grid only gives joint matrices with negative eigenvalues, so a kernel of an axis that asks for more columns
than its axis has is refused. What scales the kernels of the axes only counts as one product;
it is moved into `outputscale`, and theirs are held at one.

Source: Saatci (2011), "Scalable Inference for Structured Gaussian Process Models", chapter 5.
"""

import copy
import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from gpytorch.constraints import Interval
from gpytorch.kernels import Kernel, ScaleKernel
from gpytorch.priors import Prior
from torch import Tensor, nn

from kernelfield.kernels.spectral import SpectralKernel, SpectralProduct
from kernelfield.kernels.stationary import Stationary, logarithmic

Columns = tuple[tuple[int, ...], ...]

DIFFERENT = (
    "a radial kernel of several axes is a function of one distance and no product over them, so that a grid gives "
    "its matrix no structure"
)


class GridKernel(Kernel):
    """A product of one kernel an axis with an output scale of its own; see the module docstring.

    axes : the kernels, which are copied and never modified.
    columns : the columns of the inputs that make each axis; None is one each, in order.

    Shapes: x1 (*b, n, d), x2 (*b, k, d); returns (*b, n, k), or (*b, n) with diag=True.
    Units: the output scale in squared units of y.
    Errors: ValueError for a radial kernel of several axes, columns that do not fit, an output scale of an
        axis with a prior of its own, no axis.

    >>> from kernelfield.kernels.stationary import RBF, Matern
    >>> kernel = GridKernel([RBF(), Matern(0.5)])
    >>> kernel.outputscale = 2.0
    >>> round(kernel(torch.tensor([[0.0, 0.0], [1.0, 1.0]])).to_dense()[0, 1].item(), 4)  # 2 exp(-1/2) exp(-1)
    0.4463
    """

    def __init__(
        self,
        axes: Sequence[Kernel],
        *,
        columns: Sequence[Sequence[int]] | None = None,
        outputscale_prior: Prior | None = None,
        outputscale_constraint: Interval | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(axes, Kernel):
            raise ValueError(
                f"a GridKernel takes a list of one kernel an axis, got one {type(axes).__name__}: {DIFFERENT}; "
                f"write one kernel an axis, such as [Matern(), Matern()]"
            )
        if not len(axes):
            raise ValueError("a GridKernel needs at least one axis, got none")
        self.columns = checked_columns([[i] for i in range(len(axes))] if columns is None else columns)
        if len(self.columns) != len(axes):
            raise ValueError(f"got {len(axes)} kernels for {len(self.columns)} axes; give one kernel an axis")
        for place, (kernel, own) in enumerate(zip(axes, self.columns, strict=True)):
            _require_columns(kernel, len(own), place)
        parts = [_without_scale(copy.deepcopy(kernel), place) for place, kernel in enumerate(axes)]
        self.axes = nn.ModuleList([kernel for kernel, _ in parts])
        scales = [scale for _, scale in parts]
        self.raw_outputscale = nn.Parameter(torch.zeros(self.batch_shape).to(scales[0]))
        self.register_constraint("raw_outputscale", outputscale_constraint or logarithmic())
        if outputscale_prior is not None:
            self.register_prior("outputscale_prior", outputscale_prior, _get_outputscale, _set_outputscale)
        self.outputscale = math.prod(scales, start=torch.ones(()).to(scales[0]))

    @classmethod
    def of(cls, product: SpectralProduct) -> "GridKernel":
        """A SpectralProduct of d inputs as a product of d kernels, one column an axis.

        >>> GridKernel.of(SpectralProduct(4, dims=3)).columns
        ((0,), (1,), (2,))
        """
        if product.batch_shape:
            raise ValueError(f"a product of axes needs one kernel, got a batch of shape {tuple(product.batch_shape)}")
        axes = []
        for d in range(product.dims):
            one = SpectralProduct(
                product.components,
                density=product.density,
                nu=product.nu,
                log_weights=product.log_weights,
                weights_constraint=copy.deepcopy(product.raw_weights_constraint),
                lengthscales_constraint=copy.deepcopy(product.raw_lengthscales_constraint),
            ).to(product.raw_weights)
            for name in ("raw_weights", "raw_lengthscales", "raw_frequencies"):
                source = getattr(product, name)
                getattr(one, name).data.copy_(source.detach()[..., d : d + 1])
                getattr(one, name).requires_grad_(source.requires_grad)
            axes.append(one)
        made = cls(axes, outputscale_constraint=copy.deepcopy(product.raw_outputscale_constraint))
        made.raw_outputscale.data.copy_(product.raw_outputscale.detach())
        made.raw_outputscale.requires_grad_(product.raw_outputscale.requires_grad)
        return made

    @property
    def outputscale(self) -> Tensor:
        """The variance of the process where the kernels of the axes are one at distance zero, (*batch_shape,)."""
        return self.raw_outputscale_constraint.transform(self.raw_outputscale)

    @outputscale.setter
    def outputscale(self, value: float | Tensor) -> None:
        given = torch.as_tensor(value).to(self.raw_outputscale)
        if not (given > 0).all() or not given.isfinite().all():
            raise ValueError(f"outputscale must be positive and finite, got {given.flatten()[0].item():g}")
        raw = self.raw_outputscale_constraint.inverse_transform(given)
        self.initialize(raw_outputscale=raw.expand_as(self.raw_outputscale))

    def slices(self, X: Tensor) -> list[Tensor]:
        """The columns (*b, n, c_a) of each axis in X (*b, n, d)."""
        need = 1 + max(max(own) for own in self.columns)
        if X.shape[-1] < need:
            raise ValueError(
                f"the axes of this GridKernel are columns {self.columns}, and the inputs have {X.shape[-1]} columns"
            )
        return [X[..., list(own)] for own in self.columns]

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        pairs = zip(self.axes, self.slices(x1), self.slices(x2), strict=True)
        if diag:
            return self.outputscale[..., None] * math.prod(k(a, b, diag=True) for k, a, b in pairs)
        return self.outputscale[..., None, None] * math.prod(k(a, b).to_dense() for k, a, b in pairs)


def checked_columns(columns: Sequence[int | Sequence[int]]) -> Columns:
    """The columns of each axis as tuples.

    Errors: ValueError for an axis without columns, a negative column, or one in two axes.
    """
    axes = tuple((own,) if isinstance(own, int) else tuple(int(c) for c in own) for own in columns)
    flat = [c for own in axes for c in own]
    if not all(axes) or any(c < 0 for c in flat) or len(set(flat)) < len(flat):
        raise ValueError(f"axes must be disjoint sets of columns, from 0, such as [(0, 1), (2,)], got {list(columns)}")
    return axes


def in_turn(widths: Sequence[int]) -> Columns:
    """The columns of axes of so many columns each, one axis after the other.

    >>> in_turn([2, 1])
    ((0, 1), (2,))
    """
    ends = accumulate(widths, initial=0)
    return tuple(tuple(range(start, end)) for start, end in pairwise(ends))


def _require_columns(kernel: Kernel, count: int, place: int) -> None:
    """Refuse a kernel that is made for more columns than its axis has, or selects its own."""
    for module in kernel.modules():
        if not isinstance(module, Kernel):
            continue
        name = type(module).__name__
        if module.active_dims is not None and int(module.active_dims.max()) >= count:
            raise ValueError(
                f"active_dims of {name} on axis {place} names column {int(module.active_dims.max())} of "
                f"{count}; the kernel of an axis sees the columns of its axis alone, counted from 0"
            )
        own = count if module.active_dims is None else len(module.active_dims)
        found = module.dims if isinstance(module, SpectralKernel) else module.ard_num_dims
        if found is not None and found != own:
            raise ValueError(
                f"{name} on axis {place} is made for {found} columns and the axis has {own}: {DIFFERENT}; give one "
                "kernel an axis, or make the columns one axis by columns= (axes= of a model)"
            )


def _without_scale(kernel: Kernel, place: int) -> tuple[Kernel, Tensor]:
    """A kernel with its output scale held at one, and that scale."""
    if not isinstance(kernel, Stationary | SpectralProduct | ScaleKernel):
        return kernel, torch.ones(()).to(next(kernel.parameters(), torch.ones(())))
    if "outputscale_prior" in kernel._priors:
        raise ValueError(
            f"the {type(kernel).__name__} of axis {place} has a prior on its output scale, which is one with those of "
            "the other axes; give it to GridKernel as outputscale_prior"
        )
    scale = kernel.outputscale.detach().clone()
    if isinstance(kernel, ScaleKernel):
        inside, more = _without_scale(kernel.base_kernel, place)
        return inside, scale * more
    kernel.outputscale = torch.ones_like(scale)
    kernel.raw_outputscale.requires_grad_(False)
    return kernel, scale


# Module-level, so that kernels with priors can be pickled.
def _get_outputscale(kernel: GridKernel) -> Tensor:
    return kernel.outputscale


def _set_outputscale(kernel: GridKernel, value: float | Tensor) -> None:
    kernel.outputscale = value
