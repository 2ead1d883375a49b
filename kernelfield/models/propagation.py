"""Expectation propagation for two classes: the mean of latent values in place of their mode.

A posterior of latent values under labels leans away from zero: its mode is nearer to zero than
its mean, and Laplace's approximation lacks confidence. Here each label is replaced by a Gaussian
of precision tau_i and precision times mean nu_i, so chosen that the marginal law of f_i keeps its
mean and variance where that Gaussian gives way to the label again:

    S = (K^-1 + diag(tau))^-1,  mu = S nu,    V = L^-1 diag(tau)^1/2 K,  S = K - V' V
    cavity N(m, v):  1 / v = 1 / S_ii - tau_i,  m / v = mu_i / S_ii - nu_i
    tilted by the label:  Z_i = E[sigmoid(f)] for f ~ N(m, v), mean and variance of sigmoid(f) N(f) / Z_i

for labels of one, and with -f for those of zero. All terms move at once, from Laplace's Gaussian,
by steps that are cut where they swing.
The result has the form of Laplace's, with W = diag(tau) and a = K^-1 mu = nu - tau mu, and

    log q = sum log Z_i + 1/2 sum log(1 + tau_i v_i) - log |L|
            + 1/2 nu' mu - 1/2 sum (nu_i^2 v_i - tau_i m_i^2 + 2 nu_i m_i) / (1 + tau_i v_i).

Sources: Minka (2001), "Expectation Propagation for Approximate Bayesian Inference"; Rasmussen &
Williams (2006), section 3.6; Nickisch & Rasmussen (2008), "Approximations for Binary Gaussian
Process Classification", for what Laplace's approximation lacks.
"""

import math
import warnings

import torch
from torch import Tensor

from kernelfield.core.numerics import NotConverged, cholesky
from kernelfield.models.logistic import Logistic

SWEEPS = 200
STEP, LEAST_STEP = 0.8, 0.1  # of the way to the new terms: whole steps may swing
SHORTER = 0.6  # of the last one, that of a step after which the means move more than before it
THERE = 0.25  # power of the rounding of one: no mean moves any more by so many deviations, 1e-4 in double precision
LEAST = 1e-10  # of the prior's precision, that of a term whose label says nothing
REACH = 8.4  # half the width of an integral, in deviations of the cavity
COARSE = 0.8  # at most, between nodes in deviations, for errors of exp(-2 pi^2 / COARSE^2)
UNIT = 1.0  # at most, between nodes in f: errors of exp(-2 pi^2 / UNIT), as the sigmoid's poles are pi away
HALVINGS = 10  # of an interval of up to WIDE deviations around the peak of an integrand
WIDE = 20.0  # deviation from which nodes follow the corner of the sigmoid: theirs would be one apart
CORNER = 31.0  # from there the logistic density is below 1e-13


def propagated(local: Logistic, Y: Tensor) -> tuple[Logistic, Tensor]:
    """The Gaussian that expectation propagation reaches from Laplace's, and its log evidence in nats.

    Shapes: Y (n, 1), zeros and ones.
    Errors: NotConverged, a warning, where the terms still move at the end.
    """
    K, sign = local.K, 2 * Y[:, 0] - 1
    least = LEAST / K.diagonal().clamp_min(torch.finfo(K.dtype).tiny)
    tau = torch.maximum(local.root.square(), least)
    nu = tau * local.f[:, 0] + local.gradient[:, 0]
    step, before = STEP, math.inf
    for sweep in range(SWEEPS + 1):
        factor, mean, variance = _marginals(K, tau, nu)
        rest = torch.maximum(1 / variance - tau, least)
        m = (mean / variance - nu) / rest
        log_Z, centre, spread = tilted(sign * m, 1 / rest)
        centre = sign * centre
        moves = ((centre - mean).abs() / variance.sqrt()).max().item()
        if moves <= torch.finfo(K.dtype).eps ** THERE or sweep == SWEEPS:
            break
        if moves > before:  # many rows that say the same overshoot together
            step = max(SHORTER * step, LEAST_STEP)
        before = moves
        tau = torch.maximum(tau + step * (1 / spread - rest - tau), least)
        nu = nu + step * (centre / spread - m * rest - nu)
    if sweep == SWEEPS:
        warnings.warn(
            f"expectation propagation still moves a mean by {moves:.1g} deviations after {SWEEPS} sweeps; "
            "law='mode' needs none",
            NotConverged,
            stacklevel=2,
        )
    shared = (nu.square() / rest - tau * m.square() + 2 * nu * m) / (1 + tau / rest)
    log_q = log_Z.sum() + 0.5 * (torch.log1p(tau / rest) - shared).sum()
    log_q = log_q + 0.5 * torch.dot(nu, mean) - factor.diagonal().log().sum()
    weights = (nu - tau * mean)[:, None]
    return Logistic(K, mean[:, None], weights, tau.sqrt(), factor), log_q


def _marginals(K: Tensor, tau: Tensor, nu: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L (n, n), and the means and variances (n,) of the latent values."""
    root = tau.sqrt()
    B = (K * root).mul_(root[:, None])
    B.diagonal().add_(1)
    factor = cholesky(B)
    V = torch.linalg.solve_triangular(factor, root[:, None] * K, upper=False)
    variance = K.diagonal() - V.square().sum(0)
    floor = torch.finfo(K.dtype).eps * K.diagonal().clamp_min(torch.finfo(K.dtype).tiny)
    return factor, K @ nu - V.mT @ (V @ nu), torch.maximum(variance, floor)


def tilted(m: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log Z, mean and variance of sigmoid(f) N(f; m, v) / Z, for m and v (n,), to 1e-8.

    >>> [round(t.item(), 4) for t in tilted(torch.tensor([0.0]), torch.tensor([4.0]))]
    [-0.6931, 1.2114, 2.5325]
    """
    wide = v >= WIDE**2
    terms = torch.empty_like(m), torch.empty_like(m), torch.empty_like(m)
    for part, formula in ((~wide, _over_the_cavity), (wide, _over_the_corner)):
        for whole, piece in zip(terms, formula(m[part], v[part]), strict=True):
            whole[part] = piece
    return terms


def _over_the_cavity(m: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By the trapezoid rule around the peak, m < f < m + v, where f = m + v sigmoid(-f)."""
    low, high = m, m + v
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        beyond = middle > m + v * torch.sigmoid(-middle)
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
    std = v.sqrt()[:, None]
    step = min([COARSE, *(UNIT / std).flatten().tolist()])
    z = step * torch.arange(-math.ceil(REACH / step), math.ceil(REACH / step) + 1).to(m)
    f = (low + high)[:, None] / 2 + std * z
    away = (f - m[:, None]) / std
    logs = torch.nn.functional.logsigmoid(f) - 0.5 * away.square()
    total = logs.logsumexp(-1)
    weights = (logs - total[:, None]).exp()
    shift = (weights * away).sum(-1)
    spread = (weights * (away - shift[:, None]).square()).sum(-1)
    return total + math.log(step / math.sqrt(2 * math.pi)), m + std[:, 0] * shift, v * spread


def _over_the_corner(m: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As a mixture of the normal laws cut off below l, for l of the logistic law."""
    level = torch.arange(-CORNER, CORNER + 0.25, 0.5).to(m)
    density = torch.nn.functional.logsigmoid(level) + torch.nn.functional.logsigmoid(-level)
    cut = (level - m[:, None]) / v.sqrt()[:, None]
    above = torch.special.log_ndtr(-cut)
    logs = density.log_softmax(-1) + above
    total = logs.logsumexp(-1)
    weights = (logs - total[:, None]).exp()
    hazard = (-0.5 * cut.square() - 0.5 * math.log(2 * math.pi) - above).exp()
    shift = (weights * hazard).sum(-1)
    return total, m + v.sqrt() * shift, v * (1 + (weights * cut * hazard).sum(-1) - shift.square())
