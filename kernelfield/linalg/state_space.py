"""Matern processes on a line as Markov processes: every question about n points in O(n).

A Matern process of order p + 1/2 and its p derivatives, in units of the rate lambda =
sqrt(2 nu) / lengthscale, are a state x (s = p + 1 numbers) that obeys

    x_k = A_k x_{k-1} + noise of covariance Q_k,    A_k = exp(G lambda dt),    y_k = x_k[0] + noise,

with (G + 1)^s = 0. The Kalman filter is the Cholesky factor of K + noise: its standardised
innovations are L^-1 y, and the adjoint of its recursion is L^-T. Filter and adjoint are prefix sums
of an associative operation, computed for all points at once in log2(n) rounds of halving
length, so that a long record is a few dozen tensor operations, differentiable and on any device.

Sources: Hartikainen & Sarkka (2010), "Kalman Filtering and Smoothing Solutions to Temporal
Gaussian Process Regression Models"; Sarkka & Garcia-Fernandez (2021), "Temporal Parallelization
of Bayesian Smoothers"; de Jong (1989), "Smoothing and Interpolation with the State-Space Model".
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Element = tuple[Tensor, ...]  # each (n, ...), one entry a point
Combine = Callable[[Element, Element], Element]  # of earlier and later ones

# The state's covariance in units of the output scale, by the number of its entries.
STATIONARY = {
    1: ((1.0,),),
    2: ((1.0, 0.0), (0.0, 1.0)),
    3: ((1.0, 0.0, -1 / 3), (0.0, 1 / 3, 0.0), (-1 / 3, 0.0, 1.0)),
}


def scan(combine: Combine, elements: Element) -> Element:
    """All prefix sums e_1, e_1 o e_2, ... of an associative operation, in O(n) operations of it."""
    n = len(elements[0])
    if n == 1:
        return elements
    pairs = combine(_every(elements, 0, n // 2), _every(elements, 1, n // 2))
    second = scan(combine, pairs)  # the sums up to every second point
    rest = (n - 1) // 2
    others = combine(tuple(e[:rest] for e in second), _every(elements, 2, rest))
    return tuple(_woven(e[:1], a, b, n) for e, a, b in zip(elements, second, others, strict=True))


def _every(elements: Element, start: int, count: int) -> Element:
    return tuple(e[start::2][:count] for e in elements)


def _woven(first: Tensor, odd: Tensor, even: Tensor, n: int) -> Tensor:
    """first, odd[0], even[0], odd[1], ... of n entries."""
    result = torch.empty(n, *odd.shape[1:]).to(odd)
    result[:1], result[1::2], result[2::2] = first, odd, even
    return result


def affine(i: Element, j: Element) -> Element:
    """x -> F x + b, first i and then j."""
    (F, b), (G, c) = i, j
    return G @ F, G @ b + c


def information(i: Element, j: Element) -> Element:
    """What later innovations tell of a state, gathered backwards: N -> F' N F + M."""
    (F, M), (G, N) = i, j
    return G @ F, symmetric(G @ M @ G.mT) + N


def filtered(i: Element, j: Element) -> Element:
    """The law of a state given the earlier one and the data between, without its mean."""
    (A, C, J), (B, D, H) = i, j
    size = A.shape[-1]
    eye = torch.eye(size).to(A)
    reached = torch.linalg.solve(eye + C @ H, torch.cat([A, C], -1))
    through, spread = reached[..., :size], reached[..., size:]
    return B @ through, symmetric(B @ spread @ B.mT) + D, symmetric(A.mT @ H @ through) + J


def symmetric(C: Tensor) -> Tensor:
    return (C + C.mT) / 2


@dataclass(frozen=True, eq=False)
class StateSpace:
    """The system A = K + diag(noise) at n points of a line, in O(n) time and memory.

    It answers as `linalg.dense.Dense` does, rows in the order of the points as they were given;
    what is whitened is in the order of the line. Points with infinite noise are not observed: they
    count for nothing and `smooth` tells of them.

    Shapes: order (n,) sorts the points; A, Q, covariance (n, s, s), covariance that of the
    filtered states; noise (n,) in the order of the line.
    """

    order: Tensor
    A: Tensor
    Q: Tensor
    covariance: Tensor
    noise: Tensor

    @classmethod
    def of(cls, times: Tensor, size: int, lengthscale: Tensor, outputscale: Tensor, noise: Tensor) -> "StateSpace":
        """For a Matern kernel of order size - 1/2 at times (n,), with noise variances (n,).

        Errors: ValueError for another size than 1, 2 or 3.

        >>> system = StateSpace.of(torch.tensor([1.0, 0.0]), 1, torch.tensor(1.0), torch.tensor(2.0), torch.ones(2))
        >>> round(system.logdet().exp().item(), 4)  # 3 * 3 - (2 / e)^2
        8.4587
        """
        order = torch.argsort(times, stable=True)
        A, Q = dynamics(times[order], size, lengthscale, outputscale)
        sorted_noise = noise[order]
        gain = Q[..., 0] / (Q[:, 0, 0] + sorted_noise)[:, None]
        weight = 1 / (Q[:, 0, 0] + sorted_noise)
        first = torch.arange(len(A)).to(order.device) == 0
        forget = torch.where(first[:, None, None], 0.0, A)  # nothing is before the first point
        seen = forget[:, 0]
        elements = (
            forget - gain[:, :, None] * seen[:, None, :],
            symmetric(Q - gain[:, :, None] * Q[:, None, 0]),
            weight[:, None, None] * seen[:, :, None] * seen[:, None, :],
        )
        return cls(order, A, Q, scan(filtered, elements)[1], sorted_noise)

    @cached_property
    def _predicted(self) -> tuple[Tensor, Tensor]:
        """The variance (n,) of each observation given those before it, and the gain (n, s)."""
        before = torch.cat([torch.zeros_like(self.covariance[:1]), self.covariance[:-1]])
        P = symmetric(self.A @ before @ self.A.mT) + self.Q
        S = P[:, 0, 0] + self.noise
        return S, P[..., 0] / S[:, None]

    @cached_property
    def _forget(self) -> Tensor:
        """The map (n, s, s) of a filtered state to the next one, without what is observed there."""
        _, gain = self._predicted
        return self.A - gain[:, :, None] * self.A[:, 0, None]

    def logdet(self) -> Tensor:
        S, _ = self._predicted
        return S[self.noise.isfinite()].log().sum()

    def whiten(self, B: Tensor) -> Tensor:
        """L^-1 B for B (n, k)."""
        S, _ = self._predicted
        return (B[self.order] - self._ahead(self._means(B))) / S.sqrt()[:, None]

    def _means(self, B: Tensor) -> Tensor:
        """The filtered states (n, s, k) of data B (n, k)."""
        _, gain = self._predicted
        return scan(affine, (self._forget, gain[:, :, None] * B[self.order][:, None]))[1]

    def _ahead(self, means: Tensor) -> Tensor:
        """What the filtered states before each point say of its observation, (n, k)."""
        before = torch.cat([torch.zeros_like(means[:1]), means[:-1]])
        return (self.A[:, 0, :, None] * before).sum(1)

    def unwhiten(self, W: Tensor) -> Tensor:
        """L^-T W for W (n, k), so that unwhiten(whiten(B)) = solve(B)."""
        S, gain = self._predicted
        scaled = W / S.sqrt()[:, None]
        return self._unsorted(scaled - (gain[:, :, None] * self._told(scaled)).sum(1))

    def _told(self, scaled: Tensor) -> Tensor:
        """What the innovations after each point, over their variances (n, k), tell of its state (n, s, k)."""
        offsets = self.A[:, 0, :, None] * scaled[:, None]
        return self._from_the_end(affine, offsets)

    @cached_property
    def _knowledge(self) -> Tensor:
        """The information (n, s, s) of the innovations after each point about its state."""
        S, _ = self._predicted
        row = self.A[:, 0]
        return self._from_the_end(information, row[:, :, None] * row[:, None] / S[:, None, None])

    def _from_the_end(self, combine: Combine, offsets: Tensor) -> Tensor:
        if len(offsets) == 1:
            return torch.zeros_like(offsets)
        later = scan(combine, (self._forget.mT[1:].flip(0), offsets[1:].flip(0)))[1].flip(0)
        return torch.cat([later, torch.zeros_like(offsets[:1])])

    def solve(self, B: Tensor) -> Tensor:
        return self.unwhiten(self.whiten(B))

    def inverse_diagonal(self) -> Tensor:
        """The diagonal (n,) of A^-1."""
        S, gain = self._predicted
        value = 1 / S + torch.einsum("ni,nij,nj->n", gain, self._knowledge, gain)
        return self._unsorted(value)

    def smooth(self, B: Tensor) -> tuple[Tensor, Tensor]:
        """K A^-1 B (n, k), and the variances (n,) of the process given the observed points."""
        S, _ = self._predicted
        means = self._means(B)
        told = self._told((B[self.order] - self._ahead(means)) / S[:, None])
        known = self.covariance[:, 0]
        variance = known[:, 0] - torch.einsum("ni,nij,nj->n", known, self._knowledge, known)
        return self._unsorted(means[:, 0] + (known[:, :, None] * told).sum(1)), self._unsorted(variance)

    def _unsorted(self, values: Tensor) -> Tensor:
        return torch.empty_like(values).index_copy(0, self.order, values)


def dynamics(times: Tensor, size: int, lengthscale: Tensor, outputscale: Tensor) -> tuple[Tensor, Tensor]:
    """A and Q (n, s, s) of a Matern process at sorted times (n,); the first Q is that of the stationary state.

    Errors: ValueError for another size than 1, 2 or 3.
    """
    if size not in STATIONARY:
        raise ValueError(f"a Matern process has a state of 1, 2 or 3 numbers here, got {size}")
    tau = math.sqrt(2 * size - 1) / lengthscale * times.diff(prepend=times[:1])
    A = transitions(tau, size)
    stationary = outputscale * torch.tensor(STATIONARY[size]).to(times)
    Q = symmetric(stationary - A @ stationary @ A.mT)
    return A, torch.cat([stationary[None], Q[1:]])


def transitions(tau: Tensor, size: int) -> Tensor:
    """exp(G tau) (n, s, s), by the series in the nilpotent G + 1, for tau (n,)."""
    binomials = [-math.comb(size, k) for k in range(size)]  # the last row of G: minus those of (1 + x)^s
    rows = [[float(j == i + 1) for j in range(size)] for i in range(size - 1)] + [[float(b) for b in binomials]]
    nilpotent = torch.tensor(rows).to(tau) + torch.eye(size).to(tau)
    power, total = torch.eye(size).to(tau), torch.zeros(len(tau), size, size).to(tau)
    for k in range(size):
        total = total + (tau**k / math.factorial(k))[:, None, None] * power
        power = power @ nilpotent
    return (-tau).exp()[:, None, None] * total
