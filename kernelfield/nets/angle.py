"""Networks without biases as polynomials in an angle.

The kernel of a stack of dense layers and rectifiers without biases is

    K(x, x') = s s' f(theta),    s, s' the standard deviations after the last layer, theta the angle of x and x',

and f is analytic on [0, pi]: with t = 2 theta / pi - 1, its Chebyshev coefficients fall by a factor of about three a
degree, so that a few powers of t say all that floats can hold, whatever the depth. The angle of unit vectors is best
had as theta = 2 atan2(|u - v|, |u + v|), which is as accurate for nearly parallel ones as for others.

f is computed exactly at Chebyshev's points, by the rules of `stack`; their interpolation is linear, and is
differentiated with the slopes of learned rectifiers.

Source: Trefethen (2013), Approximation Theory and Approximation Practice, chapters 3 and 8.
"""

import math

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

DEGREES = (16, 24, 32)  # few, so that few formulas are ever compiled; powers of t lose digits beyond


def profile(theta: Tensor, program: tuple[str, ...], kappas: Tensor, *, tangent: bool) -> Tensor:
    """f at angles strictly between 0 and pi, of any shape; program and kappas are those of a `stack.Stack`."""
    e = torch.sin(theta / 2).square()
    N, folds = torch.zeros_like(e), iter(kappas)
    for step in program:
        if step == "turn":
            raise ValueError("a network with biases is no function of the angle alone; leave them out, or b=None")
        if step == "copy":
            N = N + 1 - 2 * e
            continue
        kappa, half = next(folds), e.sqrt().asin()
        sine = (e - e.square()).sqrt()
        e, N = e + kappa * (half * (1 - 2 * e) - sine), N * (1 - 2 * kappa * half)
    return N if tangent else 1 - 2 * e


def powers(program: tuple[str, ...], kappas: Tensor, *, tangent: bool) -> Tensor:
    """The coefficients (k,) of f in powers of t, the constant first, of a polynomial exact to rounding.

    Errors: ValueError for biases, and for a network so deep that no degree of `DEGREES` is enough.

    >>> ones = torch.full((1,), 1 / math.pi, dtype=torch.float64)  # of a ReLU
    >>> c = powers(("copy", "fold", "copy"), ones, tangent=False)
    >>> round(sum((-1) ** k * v for k, v in enumerate(c.tolist())), 6)  # at theta = 0
    1.0
    """
    like = kappas.double()
    probe = torch.linspace(0.001, 0.999, 57, dtype=torch.double, device=kappas.device) * math.pi
    wanted = profile(probe, program, like.detach(), tangent=tangent)
    accuracy = torch.finfo(kappas.dtype).eps ** 0.8 * wanted.abs().max()
    error = torch.inf
    for degree in DEGREES:
        nodes = torch.from_numpy(chebyshev.chebpts1(degree + 1)).to(probe)
        values = profile((nodes + 1) * (math.pi / 2), program, like, tangent=tangent)
        # Step by step: the matrices' product would lose what their large entries cancel.
        to_chebyshev, to_powers = (torch.from_numpy(matrix).to(probe) for matrix in _interpolation(degree))
        coefficients = to_powers @ (to_chebyshev @ values)
        t = probe * (2 / math.pi) - 1
        found = torch.linalg.vander(t, N=degree + 1) @ coefficients.detach()
        error = (found - wanted).abs().max().item()
        if error <= accuracy:
            return coefficients.to(kappas)
    raise ValueError(
        f"a polynomial of degree {DEGREES[-1]} in the angle misses this network of {len(kappas)} rectifiers by "
        f"{error:.1g}; use method='tiled' for so deep a network"
    )


def _interpolation(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """The matrices from values at Chebyshev's points to his coefficients, and from these to powers."""
    nodes = chebyshev.chebpts1(degree + 1)
    to_chebyshev = chebyshev.chebvander(nodes, degree).T * (2 / (degree + 1))
    to_chebyshev[0] /= 2
    to_powers = np.zeros((degree + 1, degree + 1))
    for k in range(degree + 1):
        to_powers[: k + 1, k] = chebyshev.cheb2poly(np.eye(degree + 1)[k])[: k + 1]
    return to_chebyshev, to_powers
