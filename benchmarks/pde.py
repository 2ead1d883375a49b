"""Equations on a line: ours on a grid and by collocation, beside physics-informed networks of the same time, and
Chebyshev and finite differences of the same number of unknowns.

    python benchmarks/pde.py [--problems P1 P2 P3 P4 P5 A1 A2] [--least 5.0]

Relative L2 error on 300 points at the end of each method, with its default settings, and CPU seconds, bands included.
Nothing is chosen by the error. The networks, three layers of 64 tanh units on the interval scaled to [-1, 1],
with or without 64 random Fourier features (frequencies of standard deviation half the Nyquist
frequency of the grid), are trained by Adam on as many collocation points, squared residual over the mean
square of the source plus 100 times the boundary error, for as much CPU time as the slower of ours took, at least
`least` seconds. Chebyshev and second-order finite differences solve the same equation at as many nodes,
by Newton's method where it is nonlinear.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from kernelfield.pde.benchmarks import benchmarks
from kernelfield.pde.problem import Problem
from kernelfield.pde.solution import Solution
from kernelfield.pde.solve import solve

Array = np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=["P1", "P2", "P3", "P4", "P5", "A1", "A2"])
    parser.add_argument("--least", type=float, default=5.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.problems:
        row = compare(benchmarks()[name].problem, options.least)
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        rows.append(row)
    print(json.dumps(rows))


def compare(problem: Problem, least: float) -> dict[str, object]:
    solution, seconds = timed(problem, "auto")
    (axis,) = solution.representation.grid.axes  # type: ignore[attr-defined]
    count = len(axis.basis.nodes)
    scattered, scattered_seconds = timed(problem, "newton" if problem.nonlinear else "collocation")
    budget = max(seconds, scattered_seconds, least)
    row: dict[str, object] = {"problem": problem.name, "nodes": count, "seconds": round(seconds, 1)}
    row["scattered_seconds"] = round(scattered_seconds, 1)
    errors = {
        "ours": solution.relative_l2(),
        "scattered": scattered.relative_l2(),
        "network": relative(problem, network(problem, count, budget, features=0)),
        "fourier_network": relative(problem, network(problem, count, budget, features=64)),
        "chebyshev": relative(problem, spectral(problem, count)),
        "differences": relative(problem, differences(problem, count)),
    }
    tests = problem.test_points()
    extra = {"coverage": solution.coverage(tests), "residual": solution.offset_residual}
    return row | {key: f"{value:.1e}" for key, value in (errors | extra).items()}


def timed(problem: Problem, solver: str) -> tuple[Solution, float]:
    """A solution with its bands at the test points, and the seconds of the processor for both."""
    began = time.process_time()
    solution = solve(problem, solver=solver)
    solution.coverage(problem.test_points())
    return solution, time.process_time() - began


def relative(problem: Problem, approximate: Callable[[Tensor], Tensor]) -> float:
    X = problem.test_points()
    assert problem.exact is not None
    exact = problem.exact(X)
    return float((approximate(X) - exact).norm() / exact.norm())


def network(problem: Problem, count: int, seconds: float, *, features: int) -> Callable[[Tensor], Tensor]:
    """A physics-informed network after `seconds` of CPU time."""
    torch.manual_seed(0)
    (low, high) = problem.domain[0]
    spread = torch.randn(1, features, dtype=torch.double) * (count / 4) * math.pi / 2
    width = 2 * features or 1
    sizes = [width, 64, 64, 64, 1]
    layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b).double(), nn.Tanh())][:-1]
    body = nn.Sequential(*layers)

    def u(X: Tensor) -> Tensor:
        z = 2 * (X - low) / (high - low) - 1
        z = torch.cat([(z @ spread).cos(), (z @ spread).sin()], 1) if features else z
        return body(z)[:, 0]

    X = torch.linspace(low, high, count, dtype=torch.double)[:, None].requires_grad_(True)
    ends = X.detach()[[0, -1]]
    source, values = problem.source(X.detach()), next(iter(problem.sides.values()))(ends)
    optimiser = torch.optim.Adam(body.parameters(), lr=1e-3)
    began = time.process_time()
    while time.process_time() - began < seconds:
        optimiser.zero_grad()
        value = u(X)

        def derivative(orders: tuple[int, ...], value: Tensor = value) -> Tensor:
            for _ in range(orders[0]):
                (value,) = torch.autograd.grad(value.sum(), X, create_graph=True)
                value = value[:, 0]
            return value

        residual = problem.residual(X, derivative)
        loss = residual.square().mean() / source.square().mean() + 100 * (u(ends) - values).square().mean()
        loss.backward()
        optimiser.step()
    return lambda at: u(at).detach()


def spectral(problem: Problem, count: int) -> Callable[[Tensor], Tensor]:
    """Chebyshev collocation (Trefethen 2000, "Spectral Methods in MATLAB", chapter 6), evaluated barycentrically."""
    (low, high) = problem.domain[0]
    theta = np.pi * np.arange(count) / (count - 1)
    z = np.cos(theta)
    weight = np.where((np.arange(count) == 0) | (np.arange(count) == count - 1), 2.0, 1.0) * (-1.0) ** np.arange(count)
    gap = z[:, None] - z + np.eye(count)
    D = np.outer(weight, 1 / weight) / gap
    D -= np.diag(D.sum(1))
    D *= 2 / (high - low)
    nodes = low + (z + 1) * (high - low) / 2
    values = nodal(problem, nodes, {0: np.eye(count), 1: D, 2: D @ D}, [0, count - 1])

    def at(X: Tensor) -> Tensor:
        x = 2 * (X[:, 0].numpy() - low) / (high - low) - 1
        apart = x[:, None] - z
        hit = np.abs(apart) < 1e-14
        share = (1 / weight) / np.where(hit, 1.0, apart)
        inner = (share * values).sum(1) / share.sum(1)
        return torch.from_numpy(np.where(hit.any(1), (hit * values).sum(1), inner))

    return at


def differences(problem: Problem, count: int) -> Callable[[Tensor], Tensor]:
    """Central differences of second order on equal spacing, interpolated linearly."""
    (low, high) = problem.domain[0]
    nodes, h = np.linspace(low, high, count, retstep=True)
    one = (np.eye(count, k=1) - np.eye(count, k=-1)) / (2 * h)
    two = (np.eye(count, k=1) - 2 * np.eye(count) + np.eye(count, k=-1)) / h**2
    values = nodal(problem, nodes, {0: np.eye(count), 1: one, 2: two}, [0, count - 1])
    return lambda X: torch.from_numpy(np.interp(X[:, 0].numpy(), nodes, values))


def nodal(problem: Problem, nodes: Array, matrices: dict[int, Array], ends: list[int]) -> Array:
    """Values at nodes by Newton's method from zero, with boundary values in the rows `ends`."""
    X = torch.from_numpy(nodes)[:, None]
    linear = sum(term.at(X).numpy()[:, None] * matrices[term.orders[0]] for term in problem.operator)
    source, fixed = problem.source(X).numpy(), next(iter(problem.sides.values()))(X).numpy()
    u = np.zeros(len(nodes))
    form = problem.nonlinearity
    for _ in range(20 if form else 1):
        A, b = linear.copy(), source - linear @ u
        if form is not None:
            parts = [torch.from_numpy(matrices[orders[0]] @ u) for orders in form.orders]
            value, slopes = form.linearised(X, parts)
            b = b - value.numpy()
            A = A + sum(s.numpy()[:, None] * matrices[o[0]] for s, o in zip(slopes, form.orders, strict=True))
        A[ends], b[ends] = np.eye(len(nodes))[ends], (fixed - u)[ends]
        u = u + np.linalg.solve(A, b)
    return u


if __name__ == "__main__":
    main()
