"""The mode of a latent posterior, for likelihoods that are log-concave.

Laplace's approximation to the posterior of latent values f (n, m) with prior covariance K, the
same for each column, and labels Y is the Gaussian around its mode,

    psi(f) = log p(Y | f) - tr(f' K^-1 f) / 2 = max,    f = K a,    a = d log p / df at the mode.

`climb` finds it by Newton's method on a, which never needs K^-1, with halved steps where a full
one would overshoot. A `Curvature` is what a likelihood looks like around one f.

Source: Rasmussen & Williams (2006), section 3.4 and algorithms 3.1 and 3.3.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from kernelfield.core.numerics import NotPositiveDefinite

CLOSE = 1e-2  # promised rise of psi, in nats a row, below which the curvature at hand will do for the next steps
THERE = 1e-15  # below which it is the mode
STEPS = 100  # the distance from the mode is squared by each, so that this many mean failure
HALVINGS = 40


class Curvature(ABC):
    """The second-order expansion of a posterior around the latent values f (n, m)."""

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

    @abstractmethod
    def newton(self, f: Tensor, gradient: Tensor) -> Tensor:
        """The weights a (n, m) of the maximum of an expansion with this W, and with `gradient` at f."""

    @staticmethod
    @abstractmethod
    def gradient_at(Y: Tensor, f: Tensor) -> Tensor:
        """The gradient (n, m) of the log likelihood in f."""

    @abstractmethod
    def half_logdet(self) -> Tensor:
        """log |I + K W| / 2, with W minus the Hessian of the log likelihood."""

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


def climb(kind: type[Curvature], K: Tensor, Y: Tensor, start: Tensor) -> tuple[Curvature, Tensor]:
    """The curvature at the mode and log q(Y), Laplace's approximation to the evidence, in nats.

    K (n, n) whole and symmetric; start (n, m), weights a to begin from.

    Errors: NotPositiveDefinite where no mode is found, as happens for values that overflow.
    """
    n = len(K)
    a, f, psi = _begin(kind, K, Y, start)
    for _ in range(STEPS):
        local = kind.at(K, Y, f)
        step, rise, expected = _step(local, a, f, local.gradient)
        if expected <= THERE * n:
            return local, psi - local.half_logdet()
        a, f, psi = _ascended(kind, Y, (a, f, psi), step, rise)
        if expected <= CLOSE * n:
            a, f = _polished(local, Y, a, f, expected)
            psi = _psi(kind, Y, a, f)
    raise NotPositiveDefinite(f"the mode of {n} latent values was not found in {STEPS} steps; lower the output scale")


def _step(local: Curvature, a: Tensor, f: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, float]:
    """The step in a and in f to the maximum of the expansion, and the rise of psi that it promises."""
    step = local.newton(f, gradient) - a
    rise = local.K @ step
    return step, rise, abs(0.5 * ((gradient - a) * rise).sum().item())


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


def _polished(local: Curvature, Y: Tensor, a: Tensor, f: Tensor, expected: float) -> tuple[Tensor, Tensor]:
    """Steps on with the factors at hand, which cost a square where new ones cost a cube, while they help."""
    for _ in range(STEPS):
        step, rise, promised = _step(local, a, f, local.gradient_at(Y, f))
        if promised > expected / 4:
            return a, f
        a, f, expected = a + step, f + rise, promised
        if expected <= THERE * len(f) / 100:
            return a, f
    return a, f


def _begin(kind: type[Curvature], K: Tensor, Y: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The better of the given weights and zeros, with their f and psi."""
    f, zero = K @ start, torch.zeros_like(start)
    given, plain = _psi(kind, Y, start, f), kind.log_likelihood(Y, zero)
    return (start, f, given) if given > plain else (zero, zero, plain)


def _psi(kind: type[Curvature], Y: Tensor, a: Tensor, f: Tensor) -> Tensor:
    return kind.log_likelihood(Y, f) - 0.5 * (a * f).sum()
