"""A kernel on the members of a pool, given by matrices: for graphs, strings, or anything compared in pairs.

An input is the number of a member, in one column. With the matrices G_h of the pool and shares w_h that sum
to one,

    K = sum_h w_h G_h,    k(i, j) = outputscale K_ij    or    outputscale K_ij / sqrt(K_ii K_jj),

the second where the kernel is normalised. The shares are a softmax, whose common shift means nothing.

A number that was standardised is no number of a member any more: use this kernel with `Process` and `Data`,
not with estimators that scale their inputs.
"""

from typing import Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor, nn

from kernelfield.kernels.stationary import coincide, logarithmic

ROUNDING = 1e-9  # of a matrix that should be symmetric and positive semi-definite, relative to its largest entry


class PoolKernel(Kernel):
    """Covariances of the members of a pool, by their numbers; see the module docstring.

    grams (h, N, N), or (N, N) for one: positive semi-definite.

    Shapes: x1 (*b, n, 1), x2 (*b, k, 1); returns (*b, n, k), or (*b, n) with diag=True.
    Units: the output scale in squared units of y.
    Errors: ValueError for matrices that are not square, symmetric and finite, or have a diagonal without
        positive entries where they are normalised; for inputs that are not numbers of members.

    >>> kernel = PoolKernel(torch.tensor([[4.0, 2.0], [2.0, 9.0]]))
    >>> round(kernel(torch.tensor([[0.0]]), torch.tensor([[1.0]])).to_dense().item(), 4)  # 2 / (2 * 3)
    0.3333
    """

    has_lengthscale = False

    def __init__(self, grams: Tensor, *, normalised: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        grams = grams if grams.ndim == 3 else grams[None]
        _check(grams, normalised)
        self.normalised = normalised
        self.register_buffer("grams", grams)
        self.register_parameter("raw_shares", nn.Parameter(torch.zeros(len(grams)).to(grams)))
        self.register_parameter("raw_outputscale", nn.Parameter(torch.zeros(()).to(grams)))
        self.register_constraint("raw_outputscale", logarithmic())

    @property
    def outputscale(self) -> Tensor:
        """The factor of the kernel; the variance of the process, where it is normalised."""
        return self.raw_outputscale_constraint.transform(self.raw_outputscale)

    @outputscale.setter
    def outputscale(self, value: float | Tensor) -> None:
        value = torch.as_tensor(value).to(self.raw_outputscale)
        if not value > 0 or not value.isfinite():
            raise ValueError(f"outputscale must be positive and finite, got {value.item():g}; give a value above zero")
        self.initialize(raw_outputscale=self.raw_outputscale_constraint.inverse_transform(value))

    @property
    def shares(self) -> Tensor:
        """The weights w (h,) of the matrices, which sum to one."""
        return self.raw_shares.softmax(-1)

    @property
    def members(self) -> int:
        """The number N of members."""
        return self.grams.shape[-1]

    def over(self, grams: Tensor) -> "PoolKernel":
        """The same kernel, with its parameters, over another pool, such as one that begins as this one does.

        A process fitted to this pool predicts for members of a longer one with
        `dataclasses.replace(fitted, kernel=fitted.kernel.over(longer))`.
        """
        other = PoolKernel(grams.to(self.grams), normalised=self.normalised)
        if len(other.grams) != len(self.grams):
            raise ValueError(
                f"the kernel has the shares of {len(self.grams)} matrices, got {len(other.grams)}; give as many"
            )
        parameters = {name: value for name, value in self.state_dict().items() if name != "grams"}
        other.load_state_dict(parameters, strict=False)
        for name, parameter in self.named_parameters():
            other.get_parameter(name).requires_grad_(parameter.requires_grad)
        return other

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        i = self._numbers(x1)
        j = i if coincide(x1, x2) else self._numbers(x2)
        scale, variances = self.outputscale, self.shares @ self.grams.diagonal(dim1=-2, dim2=-1)
        if diag and j is i and self.normalised:
            return scale.expand(i.shape)
        rows, columns = (i, j) if diag else (i[..., :, None], j[..., None, :])
        K = torch.einsum("h,h...->...", self.shares, self.grams[:, rows, columns])
        if not self.normalised:
            return scale * K
        return scale * K / (variances[rows] * variances[columns]).sqrt()

    def _numbers(self, x: Tensor) -> Tensor:
        """The members (*b, n) that inputs (*b, n, 1) name."""
        if x.shape[-1] != 1:
            raise ValueError(f"an input of a pool is the number of a member, one column; got {x.shape[-1]} columns")
        number = x[..., 0].long()
        strange = (number != x[..., 0]) | (number < 0) | (number >= self.members)
        if strange.any():
            raise ValueError(
                f"{x[..., 0][strange][0].item():g} is not the number of one of {self.members} members of the pool; "
                "where inputs are standardised, use Process with Data instead of an estimator"
            )
        return number


def _check(grams: Tensor, normalised: bool) -> None:
    if grams.ndim != 3 or grams.shape[-1] != grams.shape[-2] or not grams.is_floating_point():
        raise ValueError(f"need matrices (h, N, N) of real numbers, got {tuple(grams.shape)} of {grams.dtype}")
    if not grams.isfinite().all():
        raise ValueError("the matrices of a pool hold NaN or infinite values; check what made them")
    gap = (grams - grams.mT).abs().max().item()
    if gap > ROUNDING * grams.abs().max().item():
        raise ValueError(f"the matrices of a pool must be symmetric, and differ from their transposes by {gap:g}")
    least = grams.sum(0).diagonal().min().item()
    if normalised and not least > 0:
        raise ValueError(
            f"a kernel can be normalised where each member has a positive variance, the least is {least:g}; "
            "use normalised=False"
        )


def require_semidefinite(gram: Tensor) -> None:
    """Refuse a matrix (N, N) with an eigenvalue below zero by more than rounding.

    Errors: ValueError, with the eigenvalue and the remedy.
    """
    values = torch.linalg.eigvalsh(gram)
    if values[0] < -ROUNDING * values[-1].abs():
        raise ValueError(
            f"the matrix of a pool must be positive semi-definite, its smallest eigenvalue is {values[0].item():.3g}; "
            "use a kernel, or cut its spectrum at zero"
        )
