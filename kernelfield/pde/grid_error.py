"""How far a solution on a grid is from the truth: the error estimated on a finer grid, and noise in the source.

The error e = u - u_hat obeys an equation of which everything is known,

    L e = f - L u_hat,    e = g - u_hat on the boundary,

with L linearised at u_hat where the problem is nonlinear. Solved at the nodes, e would be zero. It is solved with twice
the nodes and bumps of half the widths, at half of whose points the residual was never used: this is defect correction,
and gives an e_hat whose own error is that of the finer grid. u_hat is left as it is, and e_hat is what the band
is made of. As a law it is e_hat moved by random shifts d ~ N(0, diag(tau^2)), folded back at the sides,

    Var u(x) = kappa^2 E e_hat(x + d)^2,    tau_j = SMOOTH |e_hat| / |d e_hat / d x_j|,

its local mean square, which does not vanish where e_hat happens to. kappa is such that LEVEL of e_hat lies within the
band of that level, times MARGIN for what the finer grid leaves. So a 95 % band is meant to hold 95 % of all points
of the domain or somewhat more, of this one problem; bands of other levels are not calibrated, and the variance of an
error that is bounded, as a wave is, is less than its mean square. It is no probability over problems, and as good as
e_hat: where halving the grid gains little, it is too narrow by as much.

With noise in the source, independent at each node, the solution is linear in it, u_hat = S(f + noise), and the law of
S noise is exact but for the number of draws; the error of the grid is then taken to be smaller.

Source: Stetter (1978), "The Defect Correction Principle and Discretization Methods".
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernelfield.pde.discretisation import Layout, given_values, mesh, terms_at
from kernelfield.pde.galerkin import Grid, LinearOperator, Terms, boundary_values
from kernelfield.pde.grid_law import GridLaw, at
from kernelfield.pde.problem import Nonlinear, Orders, Problem

DRAWS = 32  # shifts, or draws of noise: a standard deviation of those is known to an eighth of itself
SMOOTH = 2.0  # mean lengths of the error that squares are averaged over
LEVEL, NORMAL = 0.95, 1.959964  # of the band that is calibrated, and its half width in standard deviations
MARGIN = 1.1  # estimates of smooth errors were 0.93 to 1 of the truth in trials
PROBES = {1: 1024, 2: 64, 3: 20}  # points an axis at which the band is calibrated


@dataclass(frozen=True, eq=False)
class Band:
    """The estimated error (r_1, ..., r_d), its shifts (s, d) and kappa."""

    error: GridLaw
    domain: Sequence[tuple[float, float]]
    shifts: Tensor
    scale: float

    def root(self, X: Tensor, orders: Orders) -> Tensor:
        low, high = torch.tensor(self.domain).to(X).mT
        columns = []
        for shift in self.shifts:
            turn = (X + shift - low) % (2 * (high - low))
            back = turn > high - low
            folded = low + torch.where(back, 2 * (high - low) - turn, turn)
            odd = back & (torch.tensor(orders) % 2 == 1)
            columns.append(self.error.mean(folded, orders) * (1 - 2 * odd.to(X)).prod(1))
        return torch.stack(columns, 1) * (self.scale / len(columns) ** 0.5)


@dataclass(frozen=True, eq=False)
class Draws:
    """Errors as coefficients (r_1, ..., r_d, s) of the functions of a grid, each with weight one in the covariance."""

    grid: Grid
    coefficients: Tensor

    def root(self, X: Tensor, orders: Orders) -> Tensor:
        return at([axis.basis.at for axis in self.grid.axes], self.coefficients, X, orders)


def band(problem: Problem, law: GridLaw, layout: Layout, draws: int, generator: torch.Generator | None = None) -> Band:
    """The band about a solution; see the module docstring."""
    error = estimated_error(problem, law, layout)
    dims = problem.dims
    low, high = torch.tensor(problem.domain, dtype=torch.double).mT
    seed = int(torch.randint(2**31, (), generator=generator))
    sobol = torch.quasirandom.SobolEngine(dims, scramble=True, seed=seed)
    count = PROBES.get(dims, 8)
    probes = low + (high - low) * torch.rand(count, dims, generator=generator, dtype=torch.double)
    axes = [x.sort().values for x in probes.unbind(1)]
    values = error.on(axes, (0,) * dims)
    size = values.norm()
    slopes = [error.on(axes, tuple(int(k == j) for k in range(dims))).norm() for j in range(dims)]
    lengths = torch.stack([size / slope if slope > 0 else slope for slope in slopes])
    normal = torch.special.ndtri(sobol.draw(draws, dtype=torch.double).clamp(1e-9, 1 - 1e-9))
    spread = Band(error, problem.domain, SMOOTH * lengths * normal, 1.0)
    std = spread.root(mesh(axes), (0,) * dims).square().sum(1).sqrt()
    ratio = values.flatten().abs() / std.clamp_min(1e-300)
    return replace(spread, scale=MARGIN * float(ratio.quantile(LEVEL)) / NORMAL)


def estimated_error(problem: Problem, law: GridLaw, layout: Layout) -> GridLaw:
    """e_hat of the module docstring."""
    halves = tuple((peaks / 2, background / 2) for peaks, background in layout.widths)
    grid = Layout(tuple(2 * count - 1 for count in layout.counts), layout.found, halves).grid(problem)
    inner = [axis.inner_nodes for axis in grid.axes]
    X = mesh(inner)
    terms = [*terms_at(problem.operator, inner)]
    if problem.nonlinearity is not None:
        terms += slopes_of(problem.nonlinearity, X, [law.on(inner, orders) for orders in problem.nonlinearity.orders])
    residual = problem.residual(X, lambda orders: law.on(inner, orders).flatten()).reshape([len(x) for x in inner])
    given = given_values(problem, grid)

    def gap(j: int, i: int) -> Tensor:
        condition = grid.axes[j].conditions[i]
        points = [axis.basis.nodes for axis in grid.axes]
        points[j] = points[j][[0, -1]][condition.end : condition.end + 1]
        orders = tuple(condition.order if k == j else 0 for k in range(problem.dims))
        return given[j][i] - law.on(points, orders).squeeze(j)

    C, _ = LinearOperator.of(grid, terms).solve(-residual, boundary_values(grid, gap))
    return GridLaw(grid, C)


def slopes_of(nonlinear: Nonlinear, X: Tensor, values: Sequence[Tensor]) -> Terms:
    """The terms of dN, given the derivatives of u (n_1, ..., n_d) on a grid of points X."""
    _, found = nonlinear.linearised(X, [value.flatten() for value in values])
    return [(slope.reshape(values[0].shape), orders) for slope, orders in zip(found, nonlinear.orders, strict=True)]


def noise_draws(operator: LinearOperator, noise: float, draws: int, generator: torch.Generator | None = None) -> Draws:
    """What noise of this variance at the inner nodes, independent, does to a solution of linear equations."""
    grid = operator.grid
    shape = [len(axis.inner_nodes) for axis in grid.axes]
    like = grid.axes[0].test
    F = torch.randn(*shape, draws, generator=generator, dtype=like.dtype).to(like.device) * (noise / draws) ** 0.5
    R = grid.project(F)
    if operator.direct:
        Y, _ = operator.correct(R)
    else:  # one by one, as Krylov spaces of all together would not fit
        Y = torch.stack([operator.correct(r)[0] for r in R.unbind(-1)], -1)
    return Draws(grid, grid.free(Y))
