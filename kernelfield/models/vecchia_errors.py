"""The joint law of the errors of nearest-neighbour predictions; see `kernelfield.models.vecchia` for its formula."""

from dataclasses import dataclass

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.linalg.sparse_factor import CHUNK
from kernelfield.models.covariance import matrix


@dataclass(frozen=True, eq=False)
class Errors:
    """The covariance of the errors of local predictions at X (*b, q, d) with a known mean, formed when asked for.

    known (n, d) and spread (n,): all rows, and the variances of their noise; near, weights (*b, q, k): those that each
    point leans on, and b; variance (*b, q).
    """

    kernel: Kernel
    known: Tensor
    spread: Tensor
    X: Tensor
    near: Tensor
    weights: Tensor
    variance: Tensor

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        return self.variance

    def to_dense(self) -> Tensor:
        if not self.variance.numel():
            return self.variance.new_zeros(*self.X.shape[:-1], self.X.shape[-2])
        if self.X.ndim == 2:
            return self._joint(self.X, self.near, self.weights, self.variance)
        parts = zip(*(part.flatten(0, self.X.ndim - 3) for part in self._parts), strict=True)
        return torch.stack([self._joint(*part) for part in parts]).unflatten(0, self.X.shape[:-2])

    @property
    def _parts(self) -> tuple[Tensor, ...]:
        return self.X, self.near, self.weights, self.variance

    def _joint(self, X: Tensor, near: Tensor, weights: Tensor, variance: Tensor) -> Tensor:
        """The matrix (q, q), of which no more than a few columns of the rows' covariance are held at once."""
        q = len(X)
        rows, place = near.unique(return_inverse=True)
        points = torch.arange(q, device=X.device)[:, None].expand_as(place)
        B = torch.sparse_coo_tensor(
            torch.stack([points.flatten(), place.flatten()]), weights.flatten(), (q, len(rows)), check_invariants=False
        )
        known = self.known[rows]
        mixed = torch.sparse.mm(B, matrix(self.kernel, known, X))
        joint = matrix(self.kernel, X, X) - mixed - mixed.mT
        for some in torch.arange(len(rows), device=X.device).split(max(1, 8 * CHUNK // len(rows))):
            K = matrix(self.kernel, known, known[some])
            K = K.index_put((some, some - some[0]), self.spread[rows[some]], accumulate=True)
            inside = (place >= some[0]) & (place <= some[-1])
            own = X.new_zeros(len(some), q).index_put(
                (place[inside] - some[0], points[inside]), weights[inside], accumulate=True
            )
            joint = joint + torch.sparse.mm(B, K) @ own
        joint = 0.5 * (joint + joint.mT)  # rounding of two orders of summation
        return joint + torch.diag_embed(variance - joint.diagonal())
