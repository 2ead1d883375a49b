"""Several Matern processes on a line that are observed together, in O(n).

r independent processes u_1, ..., u_r with states of s numbers each, side by side a state of r s numbers with

    x_k = A_k x_{k-1} + noise of covariance Q_k,    u_k = H x_k,

are told of by Gaussian terms, one a time, that couple them:

    exp(-1/2 u_k' L_k u_k + h_k' u_k),

a precision L_k that may be singular (or zero, where nothing was seen) and a linear term h_k. These are the
messages that a factor of a tensor gets from its data. With P_k the covariance of x_k before its term,
S = H P H' and G = L (I + S L)^-1, the filter is

    covariance  C = P - P H' G H P,    mean  m = (I - P H' G H) A m_{k-1} + C H' h,

and what later terms tell of x_k is gathered backwards by the adjoint of the mean's recursion. All are
prefix sums (`state_space.scan`), that of the covariance over elements

    (I - Q H' G H) A,    Q - Q H' G H Q,    A' H' G H A,    with S = H Q H' here.

Sources: as for `state_space`; Fang et al. (2024), "Functional Bayesian Tucker Decomposition for Continuous-indexed
Tensor Data", whose filters run one time after the other.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.linalg.state_space import Combine, Element, affine, dynamics, filtered, information, scan, symmetric


@dataclass(frozen=True, eq=False)
class VectorStateSpace:
    """r processes at n sorted times, given terms of these precisions.

    Shapes: A, Q, covariance (n, r s, r s), covariance that of the filtered states; precision (n, r, r); the
    state of a process stands before that of the next one.
    """

    A: Tensor
    Q: Tensor
    precision: Tensor
    covariance: Tensor

    @classmethod
    def of(
        cls, times: Tensor, size: int, lengthscales: Tensor, outputscales: Tensor, precision: Tensor
    ) -> "VectorStateSpace":
        """For Matern processes of order size - 1/2 with these scales (r,), at sorted times (n,).

        Errors: ValueError for another size than 1, 2 or 3.

        >>> twins = VectorStateSpace.of(torch.zeros(1), 1, torch.ones(2), torch.ones(2), torch.ones(1, 2, 2))
        >>> round(twins.logdet().exp().item(), 4)  # |I + 1 1'| = 1 + 2
        3.0
        """
        each = [dynamics(times, size, *scales) for scales in zip(lengthscales, outputscales, strict=True)]
        A, Q = (_side_by_side(parts) for parts in zip(*each, strict=True))
        forget = torch.cat([torch.zeros_like(A[:1]), A[1:]])  # nothing is before the first time
        QH, H = Q[..., ::size], forget[:, ::size]
        G = _reached(Q[:, ::size, ::size], precision)[1]
        told = QH @ G
        elements = (forget - told @ H, symmetric(Q - told @ QH.mT), symmetric(H.mT @ G @ H))
        return cls(A, Q, precision, scan(filtered, elements)[1])

    @property
    def _size(self) -> int:
        return self.A.shape[-1] // self.precision.shape[-1]

    @cached_property
    def _predicted(self) -> tuple[Tensor, Tensor, Tensor]:
        """P (n, r s, r s), I + L S and G (n, r, r) of each time."""
        before = torch.cat([torch.zeros_like(self.covariance[:1]), self.covariance[:-1]])
        P = symmetric(self.A @ before @ self.A.mT) + self.Q
        return P, *_reached(P[:, :: self._size, :: self._size], self.precision)

    @cached_property
    def _forget(self) -> Tensor:
        """The map (n, r s, r s) of a filtered state to the next one, without what is told there."""
        P, _, G = self._predicted
        return self.A - P[..., :: self._size] @ (G @ self.A[:, :: self._size])

    def logdet(self) -> Tensor:
        """log |I + K L| over all times and processes."""
        return torch.linalg.slogdet(self._predicted[1])[1].sum()

    def log_normaliser(self, linear: Tensor) -> Tensor:
        """The logarithm of the prior's expectation of all terms, for linear terms (n, r)."""
        P, M, _ = self._predicted
        mean = self._ahead(self._means(linear[..., None]))
        gap = linear[..., None] - self.precision @ mean
        S = P[:, :: self._size, :: self._size]
        quadratic = (mean * (linear[..., None] + gap)).sum() + (gap * (S @ torch.linalg.solve(M, gap))).sum()
        return 0.5 * (quadratic - self.logdet())

    def means(self, linear: Tensor) -> Tensor:
        """(K^-1 + L)^-1 h (n, r, c): the processes given everything, for linear terms h (n, r, c)."""
        _, M, _ = self._predicted
        size = self._size
        found = self._means(linear)
        gap = torch.linalg.solve(M, linear - self.precision @ self._ahead(found))
        told = self._from_the_end(affine, self.A[:, ::size].mT @ gap)
        return found[:, ::size] + self.covariance[:, ::size] @ told

    @cached_property
    def covariances(self) -> Tensor:
        """The covariance (n, r, r) of the processes at each time, given everything."""
        _, _, G = self._predicted
        size = self._size
        H = self.A[:, ::size]
        known = self._from_the_end(information, symmetric(H.mT @ G @ H))
        C = self.covariance[:, ::size]
        return symmetric(C[..., ::size] - C @ known @ C.mT)

    def prior(self, z: Tensor) -> Tensor:
        """Draws (n, r, c) of the processes before any term, from standard normals (n, r s, c)."""
        size, n = self._size, len(z)
        blocks = self.Q.unflatten(2, (-1, size)).unflatten(1, (-1, size)).diagonal(dim1=1, dim2=3).movedim(-1, 1)
        values, vectors = torch.linalg.eigh(blocks)  # close times leave next to no noise: no Cholesky factor
        half = vectors * values.clamp_min(0).sqrt()[..., None, :]
        noise = half @ z.unflatten(1, (-1, size))
        return scan(affine, (self.A, noise.reshape(n, -1, z.shape[-1])))[1][:, ::size]

    def draw(self, linear: Tensor, z: Tensor) -> Tensor:
        """Draws (n, r, c) of the processes given everything, from standard normals (n, r s + r, c).

        A draw of the prior, corrected by the means of what it lacks: for noise e of covariance L, the law of
        u + (K^-1 + L)^-1 (h - L u - e) is that of the processes given the terms.
        """
        states = self.A.shape[-1]
        u = self.prior(z[:, :states])
        values, vectors = torch.linalg.eigh(self.precision)
        half = vectors * values.clamp_min(0).sqrt()[..., None, :]
        return u + self.means(linear[..., None] - self.precision @ u - half @ z[:, states:])

    def _means(self, linear: Tensor) -> Tensor:
        """The filtered states (n, r s, c)."""
        return scan(affine, (self._forget, self.covariance[..., :: self._size] @ linear))[1]

    def _ahead(self, means: Tensor) -> Tensor:
        """What the filtered states before each time say of the processes there, (n, r, c)."""
        before = torch.cat([torch.zeros_like(means[:1]), means[:-1]])
        return self.A[:, :: self._size] @ before

    def _from_the_end(self, combine: Combine, offsets: Tensor) -> Tensor:
        nothing = torch.zeros_like(offsets[:1])
        if len(offsets) == 1:
            return nothing
        later: Element = (self._forget.mT[1:].flip(0), offsets[1:].flip(0))
        return torch.cat([scan(combine, later)[1].flip(0), nothing])


def _reached(S: Tensor, L: Tensor) -> tuple[Tensor, Tensor]:
    """I + L S and G = (I + L S)^-1 L."""
    M = torch.eye(L.shape[-1]).to(L) + L @ S
    return M, symmetric(torch.linalg.solve(M, L))


def _side_by_side(parts: tuple[Tensor, ...]) -> Tensor:
    """Blocks (n, s, s) along the diagonal of (n, r s, r s)."""
    blocks = torch.stack(parts, 1)
    n, r, s, _ = blocks.shape
    whole = blocks.new_zeros(n, r, s, r, s)
    each = torch.arange(r).to(blocks.device)
    whole[:, each, :, each] = blocks.movedim(1, 0)
    return whole.reshape(n, r * s, r * s)
