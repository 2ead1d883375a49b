"""Layers of Gram matrices: what a deep kernel machine is made of.

A layer sees the inner products of n points through those of M inducing points, as

    inducing G_ii (M, M),    cross G_it (M, n),    own, the diagonal (n,) of G_tt or all of it.

With K = kernel(G), K_ii = F F' and psi = F^-1 K_it, the features behind it are Gaussian with a
matrix G'_ii of their own, which is a parameter, G'_ii = F V V' F' with V lower triangular, and the
points between the inducing ones have what those say of them, and the rest of the prior:

    G'_it = F V V' psi,    G'_tt = K_tt - psi' psi + psi' V V' psi.

V = I gives the infinitely wide network. The divergence of N(0, G'_ii) from the prior N(0, K_ii) is

    KL = (|V|^2 - M - 2 sum log V_jj) / 2.

Source: Yang, Robeyns, Milsom, Anson, Schoots & Aitchison (2023), "A Theory of Representation Learning
Gives a Deep Generalisation of Kernel Methods".
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.core.numerics import cholesky
from kernelfield.nets.activation import Activation
from kernelfield.nets.state import CovState, Side, haversine_of

NUGGET = 1e-6  # added to K_ii, in units of its diagonal: inducing points may move onto each other
ROOT = 1e-12  # variances below are lengths of zero, whose root has no slope


@dataclass(frozen=True, eq=False)
class Gram:
    """Inner products: see the module docstring.

    Shapes: inducing (M, M), cross (M, n), own (n,); joint (*b, q, q), the products of all pairs of
    the n points in batches of q, or None.
    """

    inducing: Tensor
    cross: Tensor
    own: Tensor
    joint: Tensor | None = None

    @classmethod
    def of_inputs(cls, Z: Tensor, X: Tensor, weights: Tensor, *, joint: bool = False) -> "Gram":
        """x' diag(weights) x / d for inducing inputs Z (M, d) and X (*b, q, d)."""
        root = (weights / X.shape[-1]).sqrt()
        Z, X = Z * root, X * root
        flat = X.reshape(-1, X.shape[-1])
        return cls(Z @ Z.mT, Z @ flat.mT, flat.square().sum(-1), X @ X.mT if joint else None)

    def through(self, kernel: "Kernel") -> "Gram":
        """The kernel of all pairs."""
        diagonal = self.inducing.diagonal()
        joint = self.joint
        if joint is not None:
            own = joint.diagonal(dim1=-2, dim2=-1)
            joint = kernel(joint, own[..., :, None], own[..., None, :])
        return Gram(
            kernel(self.inducing, diagonal[:, None], diagonal),
            kernel(self.cross, diagonal[:, None], self.own),
            kernel(self.own, self.own, self.own),
            joint,
        )


Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]  # of inner products and the squared lengths of both sides


@dataclass(frozen=True, eq=False)
class Whitened:
    """A kernel at inducing points, factored, and other points as these see them.

    Shapes: factor F (M, M), psi (M, n), own (n,) the kernel's diagonal, joint (*b, q, q) or None.
    """

    factor: Tensor
    psi: Tensor
    own: Tensor
    joint: Tensor | None

    @classmethod
    def of(cls, K: Gram, nugget: float) -> "Whitened":
        """nugget: what is added to the inducing diagonal, as a share of it."""
        factor = cholesky(K.inducing + torch.diag_embed(nugget * K.inducing.diagonal()))
        return cls(factor, torch.linalg.solve_triangular(factor, K.cross, upper=False), K.own, K.joint)

    def learned(self, V: Tensor) -> Gram:
        """The Gram matrices of features with G_ii = F V V' F'."""
        half = self.factor @ V
        seen = V.mT @ self.psi
        own = self.own - self.psi.square().sum(0) + seen.square().sum(0)
        joint = self.joint
        if joint is not None:
            psi, known = (by_batch(t, joint) for t in (self.psi, seen))
            joint = joint - psi.mT @ psi + known.mT @ known
        return Gram(half @ half.mT, half @ seen, own.clamp_min(0), joint)


def by_batch(columns: Tensor, joint: Tensor) -> Tensor:
    """Columns (k, n) of points in the batches of joint (*b, q, q), (*b, k, q)."""
    return columns.unflatten(-1, joint.shape[:-1]).movedim(0, -2)


def divergence(V: Tensor) -> Tensor:
    """KL of N(0, F V V' F') from N(0, F F'), in nats; see the module docstring."""
    return 0.5 * (V.square().sum() - len(V)) - V.diagonal().log().sum()


def linear(G: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The kernel that leaves inner products as they are."""
    return G


def squared_exponential(G: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """exp(-|u - v|^2 / 2), from inner products and squared lengths.

    >>> squared_exponential(*(torch.tensor(v) for v in (0.0, 1.0, 1.0))).item()
    0.3678794503211975
    """
    return (G - 0.5 * (first + second)).clamp_max(0).exp()


def dual(activation: Activation) -> Kernel:
    """E[phi(u) phi(v)] over Gaussian u and v with these moments, in units of E[phi(z)^2].

    The unit keeps points of length one at length one; for a rectifier it is the arc-cosine kernel.
    """
    one = torch.ones(1, 1, dtype=torch.double)
    unit = _second_moment(activation, one, one, one).item()

    def kernel(G: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return _second_moment(activation, G, first, second) / unit

    return kernel


def _second_moment(activation: Activation, G: Tensor, first: Tensor, second: Tensor) -> Tensor:
    std1, std2 = (v.clamp_min(ROOT).sqrt() for v in (first, second))
    distance = (0.5 * (first + second) - G).clamp_min(0)
    state = CovState(haversine_of(distance, std1, std2), None, Side(std1), Side(std2))
    return activation.rule(state).covariance
