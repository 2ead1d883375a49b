"""How far an input may move before a kernel machine of a two-layer network changes its decision.

The NTK of f(x) = v' relu(W x / sqrt(d)) / sqrt(N), both layers trained, is

    T(x, x') = |x| |x'| h(u) / (2 pi d),    h(u) = 2 u (pi - arccos u) + sqrt(1 - u^2),

with u the cosine between x and x'. Over all points z with |z_k - x_k| <= delta the norm |z| lies
between the roots of sum max(|x_k| - delta, 0)^2 and sum (|x_k| + delta)^2, and x'.z within
x'.x -+ delta |x'|_1. That bounds T; the sign of each coefficient says which bound is the worse.
The bounds widen with delta, so that the radius where the decision is safe is found by bisection.

Source: Chen, Huang, Nguyen & Weng (2021), "On the Equivalence between Neural Network and Support
Vector Machine", theorem 5.1; the bounds of T given those of |z| and x'.z are the
attained ones here, and never wider.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_COSINE = -0.7940998648103225  # where h'(u) = 2 (pi - arccos u) + u / sqrt(1 - u^2) is zero
HALVINGS = 50  # of the bracket of a radius


@dataclass(frozen=True, eq=False)
class TwoLayerMachine:
    """g(z) = sum_i a_i T(x_i, z) + offset, whose sign is the decision.

    support (n, d) the x_i, coefficients (n,) the a_i.
    """

    support: Tensor
    coefficients: Tensor
    offset: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """g (q,) at x (q, d)."""
        value = _value(_length(x)[:, None] * _length(self.support), x @ self.support.mT)
        return value @ self.coefficients / (2 * math.pi * x.shape[-1]) + self.offset

    def margin(self, x: Tensor, delta: float | Tensor) -> Tensor:
        """A lower bound (q,) of sign(g(x)) g(z) over all z with |z_k - x_k| <= delta (q,)."""
        sign = self(x).sign()
        low, high = self._bounds(x, torch.as_tensor(delta).to(x).expand(len(x))[:, None])
        toward = sign[:, None] * self.coefficients
        worst = (toward * torch.where(toward > 0, low, high)).sum(-1)
        return worst / (2 * math.pi * x.shape[-1]) + sign * self.offset

    def radius(self, x: Tensor) -> Tensor:
        """The delta (q,) up to which the margin is positive: no z in that box changes the decision."""
        low, high = x.new_zeros(len(x)), x.new_ones(len(x))
        for _ in range(HALVINGS):
            high = torch.where(self.margin(x, high) > 0, 2 * high, high)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            safe = self.margin(x, middle) > 0
            low, high = torch.where(safe, middle, low), torch.where(safe, high, middle)
        return low

    def _bounds(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest (q, n) of p h(c / p) for p = |x_i| |z|, c = x_i.z, and delta (q, 1).

        In (p, c) the box lies in a rectangle, cut by |c| <= p. There are no stationary points: at
        a fixed p the function falls up to the least cosine and then rises, at a fixed c up to a
        cosine of 1 / sqrt(2) on either side. So the least value is on an edge, the largest at a corner.
        """
        lengths = _length(self.support)
        near, far = _length((x.abs() - delta).clamp_min(0))[:, None], _length(x.abs() + delta)[:, None]
        reach, product = delta * self.support.abs().sum(-1), x @ self.support.mT
        most = far * lengths
        left, right = (product - reach).clamp_min(-most), (product + reach).minimum(most)
        least = (near * lengths).maximum(left).maximum(-right)  # of p

        def across(p: Tensor) -> Tensor:
            return _value(p, (LEAST_COSINE * p).maximum(left).minimum(right))

        def along(c: Tensor) -> Tensor:
            return _value((2**0.5 * c.abs()).maximum(least).minimum(most), c)

        low = across(least).minimum(across(most)).minimum(along(left)).minimum(along(right))
        corners = [_value(p, c) for c in (left, right) for p in (least.maximum(c.abs()), most)]
        return low, torch.stack(corners).amax(0)


def _value(p: Tensor, c: Tensor) -> Tensor:
    return p * profile((c / torch.where(p > 0, p, 1)).clamp(-1, 1))


def profile(u: Tensor) -> Tensor:
    """h(u) for cosines u.

    >>> [round(v, 4) for v in profile(torch.tensor([-1.0, 0.0, 1.0])).tolist()]
    [0.0, 1.0, 6.2832]
    """
    return 2 * u * (math.pi - u.arccos()) + (1 - u.square()).clamp_min(0).sqrt()


def _length(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)
