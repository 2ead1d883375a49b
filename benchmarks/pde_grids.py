"""Equations in the plane: ours on a grid beside finite differences of the same number of unknowns.

    python benchmarks/pde_grids.py [--problems P6 P7 A3 T1 helmholtz heat burgers] [--markdown FILE]

Relative L2 error on 300 x 300 points with default settings, relative residual between the nodes, share of those
points within the 95 % band, CPU seconds of one thread for the solution and for its bands. The differences are central,
of second order (one-sided at an end that has no condition), on as many nodes as ours ended with, solved by sparse LU,
by Newton's method where the equation is nonlinear, and interpolated linearly.
"""

import argparse
import json
import time

import numpy as np
import scipy.sparse as sparse
import torch
from scipy.interpolate import RegularGridInterpolator
from scipy.sparse.linalg import splu

from kernelfield.pde.benchmarks import benchmarks
from kernelfield.pde.discretisation import conditions
from kernelfield.pde.problem import Problem
from kernelfield.pde.solve import solve

NAMES = ["P6", "P7", "A3", "T1", "helmholtz", "heat", "burgers"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=NAMES)
    parser.add_argument("--markdown")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.problems:
        rows.append(compare(benchmarks()[name].problem))
        print(" ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    print(json.dumps(rows))
    if options.markdown:
        head = list(rows[0])
        lines = [head, ["---"] * len(head), *([str(value) for value in row.values()] for row in rows)]
        with open(options.markdown, "w") as file:
            file.writelines("| " + " | ".join(line) + " |\n" for line in lines)


def compare(problem: Problem) -> dict[str, object]:
    began = time.process_time()
    solution = solve(problem)
    seconds = time.process_time() - began
    X = problem.test_points()
    began = time.process_time()
    coverage = solution.coverage(X)
    bands = time.process_time() - began
    counts = tuple(len(axis.basis.nodes) for axis in solution.representation.grid.axes)  # type: ignore[attr-defined]
    began = time.process_time()
    error = differences(problem, counts)
    return {
        "problem": problem.name,
        "nodes": " x ".join(map(str, counts)),
        "relative L2": f"{solution.relative_l2(X):.1e}",
        "residual": f"{solution.offset_residual:.1e}",
        "coverage": f"{coverage:.3f}",
        "seconds": f"{seconds:.1f}",
        "seconds of bands": f"{bands:.1f}",
        "differences": f"{error:.1e}",
        "their seconds": f"{time.process_time() - began:.1f}",
    }


def line(count: int, length: float, order: int) -> sparse.csr_matrix:
    """Differences along an axis, its end rows one-sided."""
    if not order:
        return sparse.identity(count, format="csr")
    h = length / (count - 1)
    stencil, ends = ([-0.5, 0.0, 0.5], [-1.5, 2.0, -0.5]) if order == 1 else ([1.0, -2.0, 1.0], [1.0, -2.0, 1.0])
    D = sparse.diags(stencil, [-1, 0, 1], shape=(count, count), format="lil")
    D[0, :3] = ends
    D[-1, -3:] = [-ends[2], -ends[1], -ends[0]] if order == 1 else ends
    return D.tocsr() / h**order


def differences(problem: Problem, counts: tuple[int, ...]) -> float:
    """The relative error of finite differences."""
    lengths = [high - low for low, high in problem.domain]
    axes = [np.linspace(low, high, count) for (low, high), count in zip(problem.domain, counts, strict=True)]
    X = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2))

    def matrix(orders: tuple[int, ...]) -> sparse.csr_matrix:
        return sparse.kron(*(line(c, length, o) for c, length, o in zip(counts, lengths, orders, strict=True))).tocsr()

    linear = sum(sparse.diags(term.at(X).numpy()) @ matrix(term.orders) for term in problem.operator)
    source, fixed, values = problem.source(X).numpy(), np.zeros(len(X), bool), np.zeros(len(X))
    for condition in (c for axis in conditions(problem) for c in axis):
        axis, place = problem.side(condition.side)
        there = X[:, axis].numpy() == place
        values[there], fixed[there] = problem.sides[condition.side](X[there]).numpy(), True
    inner = sparse.diags((~fixed).astype(float))
    ends = sparse.diags(fixed.astype(float))
    u, form = np.zeros(len(X)), problem.nonlinearity
    parts = [matrix(orders) for orders in form.orders] if form else []
    for _ in range(12 if form else 1):
        A, b = linear, source - linear @ u
        if form:
            value, slopes = form.linearised(X, [torch.from_numpy(part @ u) for part in parts])
            b = b - value.numpy()
            A = A + sum(sparse.diags(s.numpy()) @ part for s, part in zip(slopes, parts, strict=True))
        step = splu((inner @ A + ends).tocsc()).solve(np.where(fixed, values - u, b))
        u = u + step
        if np.linalg.norm(step) <= 1e-10 * np.linalg.norm(u):
            break
    tests = problem.test_points()
    assert problem.exact is not None
    exact = problem.exact(tests).numpy()
    found = RegularGridInterpolator(axes, u.reshape(counts))(tests.numpy())
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


if __name__ == "__main__":
    main()
