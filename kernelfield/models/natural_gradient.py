"""Natural-gradient steps for the normal law of coefficients, and the slope of the bound in what they multiply.

Each of m outputs is f(x) = centre + psi(x)' a + rest(x), psi = [phi, h] with the k whitened functions of an inducing
basis and the p of the mean, a = [v, b], v ~ N(0, I). Of v there is a law q(v) = N(mu, S), of b a best value. From sums
over the rows of a batch that stands for n / B times as many, the bound of the log evidence is

    F = sum E log p(y | f) - KL,    f ~ N(centre + psi' [mu, b], rest variance + phi' S phi),
    KL = 1/2 sum over outputs of (tr S + |mu|^2 - k - log |S|).

With alpha = dE/dm and beta = -2 dE/dv of each row and D = diag(1, 0), 1 for v and 0 for b, a step rho of the natural
gradient, which in the natural parameters of a normal law is the gradient in its moments, is

    Lambda <- (1 - rho) Lambda + rho (D + sum beta psi psi'),
    a      <- a + rho Lambda^-1 (sum alpha psi - D a),            S = (Lambda_vv)^-1.

Where beta does not depend on q, for Gaussian noise, a step of one over all rows is the best q, and F there the
collapsed bound of `models.collapsed`. Where log p is not concave, Lambda + rho Delta may lose its sign; then

    Lambda <- 1/2 [Lambda + (Lambda + rho Delta) Lambda^-1 (Lambda + rho Delta)],

the step on the manifold of positive matrices up to the third order in rho, keeps it. F's slope in phi is

    dF/dphi = sum over outputs of alpha mu - beta (S - I) phi.

Sources: Hoffman, Blei, Wang & Paisley (2013), "Stochastic Variational Inference"; Khan & Lin (2017), "Conjugate-
Computation Variational Inference"; Salimbeni, Eleftheriadis & Hensman (2018), "Natural Gradients in Practice"; Lin,
Schmidt & Khan (2020), "Handling the Positive-Definite Constraint in the Bayesian Learning Rule".
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.core.numerics import cholesky
from kernelfield.models.collapsed import RegressionSums
from kernelfield.models.likelihoods import Local


@dataclass(frozen=True, eq=False)
class Coefficients:
    """The law of the coefficients: a (K, m), Lambda (g, K, K), of which the first k have a prior.

    g is one where all outputs have one Lambda, else m.

    >>> Coefficients.of(torch.zeros(2, 1), torch.eye(2)[None], 2).divergence()  # the prior
    0.0
    """

    mean: Tensor
    precision: Tensor
    factor: Tensor  # of Lambda, lower; its leading block is that of Lambda_vv
    k: int

    @classmethod
    def of(cls, mean: Tensor, precision: Tensor, k: int) -> "Coefficients":
        """The law of a mean (K, m) and a precision (g, K, K).

        Errors: NotPositiveDefinite.
        """
        return cls(mean, precision, cholesky(precision), k)

    @classmethod
    def best(cls, moments: RegressionSums, noise: float, *, outputs: int, matrices: int) -> "Coefficients":
        """The best law for Gaussian noise, given the sums of `models.collapsed`."""
        G, C, V, k = moments.G / noise, moments.C / noise, moments.V / noise, len(moments.G)
        of_H, square = C[:, outputs:], V[outputs:]
        precision = torch.cat([torch.cat([G, of_H], 1), torch.cat([of_H.mT, square[:, outputs:]], 1)])
        precision.diagonal()[:k] += 1
        law = cls.of(C.new_zeros(len(precision), outputs), precision[None], k)
        mean = torch.cholesky_solve(torch.cat([C[:, :outputs], square[:, :outputs]]), law.factor[0])
        return cls(mean, precision.repeat(matrices, 1, 1), law.factor.repeat(matrices, 1, 1), k)

    @property
    def prior(self) -> Tensor:
        """The diagonal (K,) of D."""
        ones = torch.ones_like(self.mean[:, 0])
        ones[self.k :] = 0.0
        return ones

    @cached_property
    def spread(self) -> Tensor:
        """S (g, k, k)."""
        return torch.cholesky_inverse(self.factor[:, : self.k, : self.k])

    def divergence(self) -> float:
        """KL of the module docstring, in nats."""
        v, m, g = self.mean[: self.k], self.mean.shape[1], len(self.precision)
        trace = self.spread.diagonal(dim1=-2, dim2=-1).sum()
        logs = self.factor[:, : self.k, : self.k].diagonal(dim1=-2, dim2=-1).log().sum()
        return 0.5 * (v.square().sum() + (m // g) * (trace + 2 * logs) - m * self.k).item()

    def stepped(self, pull: Tensor, curvature: Tensor, rate: float, *, convex: bool) -> "Coefficients":
        """The law after a step rho = `rate`, for sum alpha psi (K, m) and sum beta psi psi' (g, K, K).

        convex : whether no beta is negative, so that a weighted mean of precisions is one.
        """
        D = self.prior
        precision = torch.lerp(self.precision, curvature + torch.diag(D), rate)
        if not convex:
            half = torch.linalg.solve_triangular(self.factor, precision, upper=False)
            precision = 0.5 * (self.precision + half.mT @ half)
        factor = cholesky(precision)
        slope = (pull - D[:, None] * self.mean).mT.unflatten(0, (len(factor), -1))  # (g, m / g, K)
        change = torch.cholesky_solve(slope.mT, factor).mT.flatten(0, 1).mT
        return Coefficients(self.mean + rate * change, precision, factor, self.k)

    def at(self, psi: Tensor, rest: Tensor) -> "Marginals":
        """The laws of f - centre where psi (K, B), with variances `rest` (B,) of their own."""
        phi = psi[: self.k]
        spread = self.spread @ phi  # (g, k, B)
        variance = rest[:, None] + (phi * spread).sum(-2).mT
        return Marginals(psi.mT @ self.mean, variance, spread)


@dataclass(frozen=True, eq=False)
class Marginals:
    """Means (B, m) and variances (B, g) of f, and S phi (g, k, B)."""

    mean: Tensor
    variance: Tensor
    spread: Tensor


def basis_slope(law: Coefficients, marginals: Marginals, local: Local, phi: Tensor) -> Tensor:
    """dF/dphi (k, B), of the rows of a batch that stand for themselves."""
    repeats = law.mean.shape[1] // len(law.precision)
    beta = repeats * local.curvature.mT[:, None, :]  # (g, 1, B)
    return law.mean[: law.k] @ local.pull.mT - (beta * (marginals.spread - phi)).sum(0)


def factor_slope(factor: Tensor, inner: Tensor) -> Tensor:
    """The slope (k, k), symmetric, in A = L L' of a function of phi = L^-1 c, for inner = sum of dF/dphi phi'.

    dL = -tril(L^-T inner), and dA = L^-T P(L' dL) L^-1 made symmetric, P the lower triangle with half its diagonal.
    """
    half = inner.tril()
    half.diagonal().mul_(0.5)
    both = torch.linalg.solve_triangular(factor.mT, half + half.mT, upper=True)
    return -0.5 * torch.linalg.solve_triangular(factor, both, upper=False, left=False)
