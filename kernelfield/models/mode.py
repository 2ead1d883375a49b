"""The mode of a latent posterior, for likelihoods that are log-concave.

Laplace's approximation to the posterior of latent values f (n, m) with prior covariance K, the
same for each column, and labels Y is the Gaussian around its mode,

    psi(f) = log p(Y | f) - tr(f' K^-1 f) / 2 = max,    f = K a,    a = d log p / df at the mode.

`climb` finds it by Newton's method on a, which never needs K^-1. With r = d log p / df - a, what
is left of the gradient, W minus the Hessian of the log likelihood and R = (K + W^-1)^-1, a step is

    da = r - R K r,    df = K da,    promised rise of psi r' df / 2.

Factors are what costs. Hence the search begins at the best combination of the modes of similar
matrices, a problem of as many numbers as there are modes, and each factor is used for as long as
its steps contract.

Source: Rasmussen & Williams (2006), chapter 3.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from kernelfield.core.numerics import NotPositiveDefinite, cholesky

THERE = 1e-2  # promised rise of psi, in rounding errors of a nat a row, below which it is the mode
FLOOR = 1e5  # and this many times that where new factors no longer lower it, which is rounding
SURE = 1e-4  # share of it to which cheap steps go on: log |I + K W| feels f at first order
ROUGH = 1e-3  # below which a better combination of old modes is not worth its while
COARSE = 0.1  # share of the rise that a first, rough step by conjugate gradients may leave
STEPS = 100  # the distance from the mode is squared by each, so that this many mean failure
HALVINGS = 40
ROUNDS = 10  # of the search among combinations


class Curvature(ABC):
    """The second-order expansion of a posterior around the latent values f (n, m)."""

    iterations: ClassVar[float]  # of conjugate gradients, in units of n, that are cheaper than factors
    K: Tensor
    f: Tensor
    gradient: Tensor  # of the log likelihood in f (n, m)

    @classmethod
    @abstractmethod
    def at(cls, K: Tensor, Y: Tensor, f: Tensor) -> "Curvature":
        """Expand around f."""

    @staticmethod
    @abstractmethod
    def log_likelihood(Y: Tensor, f: Tensor) -> Tensor:
        """log p(Y | f), a scalar in nats."""

    @staticmethod
    @abstractmethod
    def gradient_at(Y: Tensor, f: Tensor) -> Tensor:
        """The gradient (n, m) of the log likelihood in f."""

    @staticmethod
    @abstractmethod
    def curved(f: Tensor, V: Tensor) -> Tensor:
        """W V for V (n, m, p), with the W of f."""

    @abstractmethod
    def solve(self, B: Tensor) -> Tensor:
        """R B for B (n, m)."""

    @abstractmethod
    def half_logdet(self) -> Tensor:
        """log |I + K W| / 2."""

    @abstractmethod
    def slope(self) -> Tensor:
        """The G (n, n) with d log q = sum(G o dK), symmetric, where f is the mode.

        It includes the way in which the mode, and W with it, moves with K.
        """

    @abstractmethod
    def explained(self, cross: Tensor) -> tuple[Tensor, Tensor]:
        """What the labels take away and give back at q points, for their covariance cross (n, q).

        own (m, n, q) and shared (m, p, q): the posterior covariance of the functions c and d is
        1[c = d] (prior - own_c' own_c) + shared_c' shared_d.
        """


def climb(kind: type[Curvature], K: Tensor, Y: Tensor, modes: Sequence[Tensor] = ()) -> tuple[Curvature, Tensor]:
    """The curvature at the mode and log q(Y), Laplace's approximation to the evidence, in nats.

    K (n, n) whole and symmetric; modes the weights a (n, m) of similar matrices.

    Errors: NotPositiveDefinite where no mode is found, as happens for values that overflow.
    """
    n, there, last = len(K), _there(K), math.inf
    a, f, psi = _approached(kind, K, Y, _begin(kind, K, Y, modes))
    for _ in range(STEPS):
        local = kind.at(K, Y, f)
        step, rise, promised = _step(local, a, local.gradient)
        if promised <= there or FLOOR * there >= promised > last / 4:
            return local, psi - local.half_logdet()
        last = promised
        a, f, psi = _ascended(kind, Y, (a, f, psi), step, rise)
        a, f, psi = _polished(local, Y, (a, f, psi), promised)
    raise NotPositiveDefinite(f"the mode of {n} latent values was not found in {STEPS} steps; lower the output scale")


def _there(values: Tensor) -> float:
    return THERE * torch.finfo(values.dtype).eps * len(values)


def _begin(kind: type[Curvature], K: Tensor, Y: Tensor, modes: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The best combination of the modes, or nearly so: its weights, f and psi."""
    a = f = torch.zeros_like(Y)
    psi = kind.log_likelihood(Y, f)
    if not modes:
        return a, f, psi
    basis = torch.linalg.qr(torch.stack([mode.flatten() for mode in modes], -1))[0].contiguous()  # (n * m, p)
    image = (K @ basis.view(len(K), -1)).view_as(basis)
    gram = basis.mT @ image
    for _ in range(ROUNDS):
        slope = image.mT @ (kind.gradient_at(Y, f) - a).view(-1, 1)
        curved = kind.curved(f, image.view(*f.shape, -1)).view_as(image)
        c = torch.cholesky_solve(slope, cholesky(gram + image.mT @ curved))
        before = psi
        a, f, psi = _ascended(kind, Y, (a, f, psi), (basis @ c).view_as(a), (image @ c).view_as(f))
        if not psi - before > ROUGH * len(K):
            break
    return a, f, psi


def _approached(
    kind: type[Curvature], K: Tensor, Y: Tensor, where: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Newton steps by conjugate gradients, without factors, for as many products with K as are cheaper."""
    a, f, psi = where
    left, share = int(kind.iterations * len(K)), COARSE
    while left > 0:
        residual = kind.gradient_at(Y, f) - a
        step, rise, promised, left = _conjugate(kind, K, f, residual, share, left)
        a, f, psi = _ascended(kind, Y, (a, f, psi), step, rise)
        share = min(COARSE, promised / len(K))  # ever finer solves keep Newton's convergence
        if promised <= SURE * _there(K):
            break
    return a, f, psi


def _conjugate(
    kind: type[Curvature], K: Tensor, f: Tensor, residual: Tensor, share: float, left: int
) -> tuple[Tensor, Tensor, float, int]:
    """The step of (I + W K) da = residual, and df; the rise of psi it promises; the iterations left.

    I + W K is self-adjoint and positive in the inner product x' K y, and each iteration adds to
    the promise. It ends where the last addition, times their number, is a small share of all.
    """
    step, rise = torch.zeros_like(f), torch.zeros_like(f)
    direction, ahead = residual, K @ residual
    size, promised, count = torch.dot(residual.flatten(), ahead.flatten()).item(), 0.0, 0
    while left > 0 and size > 0:
        curved = direction + kind.curved(f, ahead[..., None])[..., 0]
        length = size / torch.dot(curved.flatten(), ahead.flatten()).item()
        step, rise = step + length * direction, rise + length * ahead
        promised, count, left = promised + 0.5 * length * size, count + 1, left - 1
        if count * 0.5 * length * size <= share * promised:
            break
        residual = residual - length * curved
        image = K @ residual
        before, size = size, torch.dot(residual.flatten(), image.flatten()).item()
        direction, ahead = residual + size / before * direction, image + size / before * ahead
    return step, rise, promised, left


def _step(local: Curvature, a: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, float]:
    """The step in a and in f to the maximum of the expansion, and the rise of psi that it promises."""
    left = gradient - a
    step = left - local.solve(local.K @ left)
    rise = local.K @ step
    return step, rise, abs(0.5 * torch.dot(left.flatten(), rise.flatten()).item())


def _ascended(
    kind: type[Curvature], Y: Tensor, where: tuple[Tensor, Tensor, Tensor], step: Tensor, rise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The step, or the first of its halves that raises psi."""
    a, f, psi = where
    for halving in range(HALVINGS):
        ahead = a + 0.5**halving * step, f + 0.5**halving * rise
        tried = _psi(kind, Y, *ahead)
        if tried > psi:
            break
    return *ahead, tried  # so near the mode that psi is flat to rounding, where it does not matter


def _polished(
    local: Curvature, Y: Tensor, where: tuple[Tensor, Tensor, Tensor], promised: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps on with the factors at hand, which cost a square where new ones cost a cube, while they help."""
    a, f, psi = where
    for _ in range(STEPS):
        step, rise, expected = _step(local, a, local.gradient_at(Y, f))
        if not expected <= promised / 4:
            break
        a, f, promised = a + step, f + rise, expected
        if promised <= SURE * _there(f):
            break
    reached = _psi(type(local), Y, a, f)
    # Where psi is flat to rounding the steps are still good.
    return (a, f, reached) if reached > psi or promised <= ROUGH * len(f) else where


def _psi(kind: type[Curvature], Y: Tensor, a: Tensor, f: Tensor) -> Tensor:
    return kind.log_likelihood(Y, f) - 0.5 * torch.dot(a.flatten(), f.flatten())
