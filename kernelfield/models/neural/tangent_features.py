"""The tangent kernel of a trained network through inducing rows, in its eigenbasis.

    K_c(x, x') = J(x)_c . J(x')_c,    K_c(Z, Z) = U_c diag(lambda_c) U_c',
    psi_c(x) = diag(lambda_c)^-1/2 U_c' K_c(Z, x),

each output c for itself. Directions with lambda below the rounding error of the matrix are left out,
so that |psi_c(x)|^2 <= K_c(x, x), with equality where J(x)_c lies in the span of those of Z.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from kernelfield.core.contracts import Data
from kernelfield.models.neural.network import Network
from kernelfield.nets.empirical import LIMIT, empirical_ntk, full_diagonal
from kernelfield.nets.jacobian import Share, assemble

POOL = 4  # rows to choose each inducing row from
Selection = Literal["variance", "random"]


@dataclass(frozen=True, eq=False)
class TangentFeatures:
    """See the module docstring.

    Shapes: parameters (p,), Z (M, d), basis (m, M, M) with psi_c = basis_c' K_c(Z, x); columns of
    directions that are left out are zero.
    """

    network: Network
    parameters: Tensor
    Z: Tensor
    basis: Tensor

    @classmethod
    def of(cls, network: Network, parameters: Tensor, Z: Tensor) -> "TangentFeatures":
        """The features of inducing rows Z."""
        K = own_kernel(network.module(parameters), Z, Z)
        values, vectors = torch.linalg.eigh((K + K.mT) / 2)
        kept = values > len(Z) * torch.finfo(values.dtype).eps * values.amax(-1, keepdim=True)
        root = torch.where(kept, torch.where(kept, values, 1).rsqrt(), 0)
        return cls(network, parameters, Z, vectors * root[:, None, :])

    @cached_property
    def module(self) -> nn.Module:
        """The trained network."""
        return self.network.module(self.parameters)

    def values(self, X: Tensor) -> Tensor:
        """The outputs f (n, m) at X (n, d)."""
        return self.network.call(self.parameters, X)

    def __call__(self, X: Tensor) -> Tensor:
        """psi (m, M, n) at X (n, d)."""
        return self.basis.mT @ own_kernel(self.module, self.Z, X)

    def prior(self, X: Tensor) -> Tensor:
        """K_c(x, x), (n, m)."""
        return full_diagonal(self.module, X)


def own_kernel(module: nn.Module, x1: Tensor, x2: Tensor) -> Tensor:
    """The tangent kernel of each output with itself, (m, n1, n2)."""
    return assemble(module, x1, x2, LIMIT, _own_product).movedim(-1, 0)


def _own_product(first: Share, second: Share) -> Tensor:
    """The products of equal outputs, (n1, n2, m)."""
    return torch.einsum("ikw,jkw->ijk", first.slopes, second.slopes) * (first.h @ second.h.mT)[..., None]


@dataclass(frozen=True, eq=False)
class TangentPrior:
    """K_c / delta of one output at X (*b, q, d), formed when it is asked for; own (*b, q) is its diagonal."""

    features: TangentFeatures
    X: Tensor
    own: Tensor
    output: int
    delta: float

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        return self.own

    def to_dense(self) -> Tensor:
        blocks = self.X.reshape(-1, *self.X.shape[-2:])
        dense = torch.stack([own_kernel(self.features.module, x, x)[self.output] for x in blocks])
        return dense.unflatten(0, self.X.shape[:-2]) / self.delta if self.X.ndim > 2 else dense[0] / self.delta


def inducing_rows(
    network: Network, parameters: Tensor, data: Data, count: int, selection: Selection, generator: torch.Generator
) -> Tensor:
    """Inputs Z (min(n, count), d) among the rows: all of them, random ones, or those that vary most.

    "variance" takes the row of the largest variance given those taken before, with the mean tangent
    kernel over outputs (the pivots of its Cholesky factor), among a few random rows for each.
    """
    order = torch.randperm(len(data.X), generator=generator).to(data.X.device)
    if len(data.X) <= count:
        return data.X
    if selection == "random":
        return data.X[order[:count]]
    pool = data.X[order[: POOL * count]]
    return pool[pivots(empirical_ntk(network.module(parameters), pool), count)]


def rows_of(data: Data, rows: Tensor) -> Data:
    """Some rows of the data."""
    return Data(data.X[rows], data.Y[rows], None if data.weight is None else data.weight[rows])


def pivots(K: Tensor, count: int) -> Tensor:
    """The first pivots of the Cholesky factor of K (n, n), largest remaining variance first."""
    left, factor, taken = K.diagonal().clone(), K.new_zeros(count, len(K)), []
    for i in range(count):
        best = int(left.argmax())
        taken.append(best)
        size = left[best]
        if not size > len(K) * torch.finfo(K.dtype).eps * K.diagonal()[best]:
            break
        factor[i] = (K[best] - factor[:i, best] @ factor[:i]) / size.sqrt()
        left = (left - factor[i].square()).clamp_min(0)
        left[best] = 0
    return torch.tensor(taken, device=K.device)
