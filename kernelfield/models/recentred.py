"""The mean of the latent values of several classes in place of their mode.

As for two classes (`propagation`), the mode under a softmax likelihood is nearer to zero than the
mean, and probabilities around it lack confidence. Of all Gaussians N(K a, S), the one nearest to
the posterior in Kullback-Leibler divergence has the mean

    a = Y - E[softmax(f)],    f ~ N(K a, S),

which is the equation of the mode but for the average. Here it is solved with Laplace's S, by
Newton's steps with Laplace's curvature, that are cut where they swing.

Source: Opper & Archambeau (2009), "The Variational Gaussian Approximation Revisited".
"""

import math
import warnings
from dataclasses import replace

import torch
from torch import Tensor

from kernelfield.core.mixing import Unit
from kernelfield.core.numerics import NotConverged
from kernelfield.models.classify import softmax_average
from kernelfield.models.softmax import Softmax

ROUNDS = 100
STEP, LEAST_STEP, SHORTER = 0.8, 0.05, 0.6  # of Newton's; the mode has less curvature than the average
THERE = 1e-2  # of a deviation, by which no mean moves any more: the averages are no better


def recentred(local: Softmax, Y: Tensor) -> Softmax:
    """The Gaussian of Laplace's covariance around the mean, from the one around the mode.

    Shapes: Y (n, k) one-hot.
    Errors: NotConverged, a warning, where the mean still moves at the end.
    """
    K, a = local.K, local.gradient
    own, shared = local.explained(K)
    left = (K.diagonal() - own.square().sum(-2)).clamp_min(torch.finfo(K.dtype).eps * K.diagonal())
    S = torch.diag_embed(left.mT) + torch.einsum("cpq,dpq->qcd", shared, shared)
    deviation = S.diagonal(dim1=-2, dim2=-1).sqrt()
    length, before = STEP, math.inf
    for _ in range(ROUNDS):
        rest = Y - softmax_average(K @ a, S, Unit()) - a
        step = rest - local.solve(K @ rest)
        rise = K @ step
        moves = (rise.abs() / deviation).max().item()
        if moves <= THERE:
            break
        if moves > before:
            length = max(SHORTER * length, LEAST_STEP)
        a, before = a + length * step, moves
    else:
        warnings.warn(
            f"the mean of the latent values still moves by {moves:.1g} deviations after {ROUNDS} rounds; "
            "law='mode' needs none",
            NotConverged,
            stacklevel=2,
        )
    return replace(local, f=K @ a, gradient=a)
