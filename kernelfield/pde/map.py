"""The published method for high frequencies: the most probable grid values and kernels, by gradient ascent.

u is a Gaussian process on a grid whose kernel is a product over the axes of mixtures

    k_j(r) = sum_q w_q g(a_q r) cos(2 pi mu_q r),    g Matern-5/2 in a r (Student-t bumps) or exp(-a r^2) (Gaussian).

The unknowns are the grid values U, log w, log a, mu of each axis, and the logarithms of two precisions, tau of the
boundary values and v of the equation. Maximised by Adam is

    log N(vec U | 0, C) + b [Nb/2 log tau - tau/2 |u_b - g|^2] + Nc/2 log v - v/2 |R(U)|^2,    C = C_1 x ... x C_d,

C_j = K_j + jitter, R the equation's residual at all nodes with derivatives by conditional means, K_j^(p) C_j^-1 along
axis j. With no prior on log w the density of w is 1 / w, which sends weights of unused frequencies to zero. Axes are
evenly spaced, so that K_j^(p) is its first column; derivatives of envelopes are those of `kernels.bumps`.

It gives no variance, and takes 10^5 to 10^6 steps to converge: it is here to compare with. `separable` and
`collocation` solve the same problems directly.

Source: Fang et al. (2024), "Solving High Frequency and Multi-Scale PDEs with Gaussian Processes".
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kernelfield.core.numerics import cholesky
from kernelfield.core.posterior import Elliptical
from kernelfield.kernels.bumps import Bump, GaussianBump, StudentBump
from kernelfield.linalg.kronecker import contract
from kernelfield.pde.discretisation import mesh
from kernelfield.pde.grid_law import Functions, at
from kernelfield.pde.grid_seeds import choose_nodes, highest_frequencies, warn_above_nyquist
from kernelfield.pde.problem import Orders, Problem, evaluate
from kernelfield.pde.solution import Solution

COMPONENTS = 30
RATE = 1e-2  # of Adam
JITTER = 1e-6  # of a kernel that is one at zero, as published
BOUNDARY = 200.0  # the weight b of the boundary values
HEADROOM = 1.25  # frequencies start evenly up to this multiple of the highest in the data


def solve_map(
    problem: Problem,
    *,
    nodes: int | Sequence[int] | None = None,
    frequency: float | None = None,
    steps: int = 2000,
    components: int = COMPONENTS,
    density: Literal["student_t", "gaussian"] = "student_t",
    boundary_weight: float = BOUNDARY,
) -> Solution:
    """Solve a problem on a box by the method of the module docstring.

    nodes : how many along each axis. frequency : the highest that the mixtures start with, in cycles per unit; by
    default a little above the highest in the data, and at most Nyquist's. `history` holds the losses, one before
    each step; its `posterior` raises NotImplementedError, as the method has no variances.

    Errors: ValueError for a domain that is no box, slopes at the boundary, unknown coefficients. Warns AboveNyquist.

    >>> from kernelfield.pde.problem import Term
    >>> problem = Problem(
    ...     "wave", ((0.0, 1.0),), (Term(1.0, (2,)),),
    ...     source=lambda X: -25 * (5 * X[:, 0]).sin(), boundary=lambda X: (5 * X[:, 0]).sin(),
    ... )
    >>> solution = solve_map(problem, nodes=32, steps=50)
    >>> solution.history[0] > solution.history[-1]
    True
    """
    start = time.perf_counter()
    _check(problem, steps, components)
    counts = [nodes] * problem.dims if isinstance(nodes, int) else list(nodes or choose_nodes(problem))
    warn_above_nyquist(problem, counts)
    state = _State.of(problem, counts, frequency, components, density)
    loss = _Loss.of(problem, state, boundary_weight)
    optimiser = torch.optim.Adam(state.parameters(), lr=RATE)
    history = []
    for _ in range(steps):
        optimiser.zero_grad()
        value = loss(state)
        value.backward()
        optimiser.step()
        history.append(float(value.detach()))
    law = _Law.of(state)
    between = mesh([(x[1:] + x[:-1]) / 2 for x in state.nodes])
    residual = problem.residual(between, lambda orders: law.mean(between, orders))
    size = problem.source(between).norm()
    return Solution(
        problem,
        law,
        f"most probable values on a grid of {' x '.join(map(str, counts))} nodes, {steps} steps of Adam",
        law.condition,
        time.perf_counter() - start,
        float(residual.norm() / size) if size > 0 else float(residual.norm()),
        tuple(history),
        False,
        "The method has no criterion of convergence; it was run for the steps asked for.",
    )


def _check(problem: Problem, steps: int, components: int) -> None:
    if problem.inside is not None or problem.slopes or problem.unknowns:
        raise ValueError(
            f"solver 'map' takes a box, values at its boundary and known coefficients, and {problem.name} has others; "
            "use collocation"
        )
    for name, value in (("steps", steps), ("components", components)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, eq=False)
class _Mixture:
    """The kernel of one axis, by logarithms of weights and rates and by frequencies, each (Q,)."""

    bump: Bump
    log_weights: Tensor
    log_rates: Tensor
    frequencies: Tensor

    @classmethod
    def of(cls, components: int, top: float, density: str) -> "_Mixture":
        """Equal weights, rates of one and frequencies evenly from zero to the top."""
        bump = StudentBump(2.5) if density == "student_t" else GaussianBump()
        flat = torch.full((components,), -math.log(components), dtype=torch.double)
        values = flat, torch.zeros_like(flat), torch.linspace(0, top, components, dtype=torch.double)
        return cls(bump, *(value.requires_grad_(True) for value in values))

    def __call__(self, r: Tensor, order: int) -> Tensor:
        """The derivative of the kernel at differences r, any shape; the rates are 1 / l, or 1 / 2 l^2 for Gaussians."""
        lengths = (
            (-self.log_rates).exp() if isinstance(self.bump, StudentBump) else (-self.log_rates).exp().div(2).sqrt()
        )
        omega = 2 * math.pi * self.frequencies
        phase = r[..., None] * omega
        total = torch.zeros_like(phase)
        for i in range(order + 1):
            rest = order - i
            envelope = self.bump.derivative(r[..., None], lengths, i)
            total = total + math.comb(order, i) * envelope * omega**rest * (phase + rest * math.pi / 2).cos()
        return total @ self.log_weights.exp()

    def toeplitz(self, x: Tensor, order: int) -> Tensor:
        """The matrix (m, m) of the derivative in its first argument, on evenly spaced x (m,)."""
        column = self(x - x[0], order)
        index = torch.arange(len(x))
        gap = index[:, None] - index
        matrix = column[gap.abs()]
        return matrix * gap.sign() if order % 2 else matrix


@dataclass(frozen=True, eq=False)
class _State:
    """What is learned."""

    nodes: tuple[Tensor, ...]
    mixtures: tuple[_Mixture, ...]
    values: Tensor
    log_tau: Tensor
    log_v: Tensor

    @classmethod
    def of(
        cls, problem: Problem, counts: Sequence[int], frequency: float | None, components: int, density: str
    ) -> "_State":
        """Zero everywhere."""
        mixtures, nodes = [], []
        for (low, high), count, top in zip(problem.domain, counts, highest_frequencies(problem), strict=True):
            nyquist = (count - 1) / (2 * (high - low))
            nodes.append(torch.linspace(low, high, count, dtype=torch.double))
            mixtures.append(_Mixture.of(components, frequency or min(HEADROOM * top, nyquist), density))
        zero = torch.zeros((), dtype=torch.double)
        values = torch.zeros(*counts, dtype=torch.double, requires_grad=True)
        tau, v = zero.clone().requires_grad_(True), zero.clone().requires_grad_(True)
        return cls(tuple(nodes), tuple(mixtures), values, tau, v)

    def parameters(self) -> list[Tensor]:
        """All of them, for the optimiser."""
        kernels = [p for m in self.mixtures for p in (m.log_weights, m.log_rates, m.frequencies)]
        return [self.values, *kernels, self.log_tau, self.log_v]

    def factors(self) -> list[Tensor]:
        """The Cholesky factors of C_j."""
        found = []
        for mixture, x in zip(self.mixtures, self.nodes, strict=True):
            K = mixture.toeplitz(x, 0)
            found.append(cholesky(K + JITTER * torch.eye(len(x)).to(K)))
        return found


@dataclass(frozen=True, eq=False)
class _Loss:
    """Minus the log density of the module docstring, but for constants."""

    problem: Problem
    points: Tensor
    source: Tensor
    edges: tuple[tuple[int, int, Tensor], ...]  # axis, index and values of each side
    boundary_weight: float

    @classmethod
    def of(cls, problem: Problem, state: _State, boundary_weight: float) -> "_Loss":
        """The loss on the nodes of a state."""
        points = mesh(state.nodes)
        edges = []
        for name, function in problem.sides.items():
            axis, place = problem.side(name)
            ends = [x if j != axis else x.new_tensor([place]) for j, x in enumerate(state.nodes)]
            values = evaluate(function, mesh(ends), what=f"the boundary value of {name}")
            shape = [len(x) for j, x in enumerate(ends) if j != axis]
            edges.append((axis, 0 if name.endswith("-") else -1, values.reshape(shape)))
        return cls(problem, points, evaluate(problem.source, points, what="the source"), tuple(edges), boundary_weight)

    def __call__(self, state: _State) -> Tensor:
        factors, U = state.factors(), state.values
        solved: dict[tuple[bool, ...], Tensor] = {}

        def conditioned(used: tuple[bool, ...]) -> Tensor:
            """U with C_j^-1 along the axes that are used."""
            if used not in solved:
                value = U
                for j, (L, yes) in enumerate(zip(factors, used, strict=True)):
                    if yes:
                        rows = value.movedim(j, 0)
                        value = torch.cholesky_solve(rows.reshape(len(L), -1), L).reshape(rows.shape).movedim(0, j)
                solved[used] = value
            return solved[used]

        def derivative(orders: Orders) -> Tensor:
            pairs = list(zip(state.mixtures, state.nodes, orders, strict=True))
            matrices = [mixture.toeplitz(x, order) if order else None for mixture, x, order in pairs]
            return contract(matrices, conditioned(tuple(order > 0 for order in orders))).flatten()

        everything = conditioned((True,) * len(factors))
        logdet = sum(2 * L.diagonal().log().sum() * (U.numel() / len(L)) for L in factors)
        prior = -0.5 * logdet - 0.5 * (U * everything).sum()
        residual = self._residual(derivative)
        gaps = [U.select(axis, index) - values for axis, index, values in self.edges]
        count = sum(gap.numel() for gap in gaps)
        square = sum((gap.square().sum() for gap in gaps), U.new_zeros(()))
        edge = 0.5 * count * state.log_tau - 0.5 * state.log_tau.exp() * square
        equation = 0.5 * U.numel() * state.log_v - 0.5 * state.log_v.exp() * residual.square().sum()
        return -(prior + self.boundary_weight * edge + equation)

    def _residual(self, derivative: Callable[[Orders], Tensor]) -> Tensor:
        value = -self.source
        for term in self.problem.operator:
            value = value + term.at(self.points) * derivative(term.orders)
        part = self.problem.nonlinearity
        if part is not None:
            value = value + part.at(self.points, [derivative(orders) for orders in part.orders])
        return value


@dataclass(frozen=True, eq=False)
class _Law:
    """The conditional mean given the grid values."""

    state: _State
    weights: Tensor
    condition: dict[str, float]

    @classmethod
    def of(cls, state: _State) -> "_Law":
        """The law of a state that is learned no further."""
        with torch.no_grad():
            factors = state.factors()
            weights = state.values
            for j, L in enumerate(factors):
                rows = weights.movedim(j, 0)
                weights = torch.cholesky_solve(rows.reshape(len(L), -1), L).reshape(rows.shape).movedim(0, j)
            condition = {f"kernel {j + 1}": float(torch.linalg.cond(L) ** 2) for j, L in enumerate(factors)}
            return cls(state, weights, condition)

    def mean(self, X: Tensor, orders: Orders) -> Tensor:
        def cross(j: int) -> Functions:
            return lambda x, order: self.state.mixtures[j](x[:, None] - self.state.nodes[j], order)

        with torch.no_grad():
            return at([cross(j) for j in range(len(orders))], self.weights, X, orders)

    def posterior(self, X: Tensor, orders: Orders) -> Elliptical:
        raise NotImplementedError(
            "solver 'map' finds the most probable values and has no variances; use solve_on_grid or collocation"
        )
