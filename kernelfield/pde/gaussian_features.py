"""Linear problems solved by Gaussian bumps whose centres and widths are trained, their weights in closed form.

u(x) = sum_j a_j phi_j(x),    phi_j(x) = exp(-1/2 sum_d z_jd^2),    z_jd = (x_d - c_jd) / s_jd,

with derivatives in closed form through the (probabilists') Hermite polynomials,

    D^o phi_j = phi_j prod_d (-1 / s_jd)^(o_d) He_(o_d)(z_jd).

The equation at collocation points and the boundary values at points of the sides, each divided by the root mean
square of its rows, are linear in a: A a = b. For given centres and widths the best weights are those of
ridge regression, so that what is left to be minimised is a function of these alone,

    min_a |A a - b|^2 + ridge |a|^2,

whose slope is that of the sum of squares with the best a held (variable projection): no derivative of a
factorisation is needed. L-BFGS minimises it. With Gaussian noise of the variance of the residuals, the
same a has a posterior covariance, and so has u.

Sources: Kang, Oh, Hong & Park (2025), "PIG: Physics-Informed Gaussians as Adaptive Parametric Mesh Representations",
whose weights are trained along and may pass through a network; Golub & Pereyra (1973), "The Differentiation
of Pseudo-Inverses and Nonlinear Least Squares Problems Whose Variables Separate".
"""

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.numerics import NotConverged, threads_for
from kernelfield.core.posterior import Elliptical
from kernelfield.models.fit import minimise
from kernelfield.pde.points import Points, place
from kernelfield.pde.problem import Orders, Problem, evaluate, require_orders
from kernelfield.pde.solution import Solution

RIDGE = 1e-11  # of the mean square of a column of A: rounding alone, as bumps overlap
WIDTH = 1.0  # of a bump at the start, in mean distances between centres
REACH = 0.25  # of the extent: how far outside of the domain a centre may go
WIDTHS = (0.05, 20.0)  # bounds of widths, in mean distances between centres
ROUND = 100  # steps of L-BFGS between two changes of the unit of the sum of squares
STALLED = 1e-3  # relative decrease of a round below which training ends
BOUNDARY = 10.0  # weight of a boundary value against the equation, both in units of their size


@dataclass(frozen=True, eq=False)
class GaussianFeatures:
    """Gaussian bumps with axes of their own widths.

    Shapes: centres and widths (k, d).

    >>> bump = GaussianFeatures(torch.zeros(1, 1), torch.full((1, 1), 2.0))
    >>> bump(torch.tensor([[0.0]]), (2,)).item()  # -1 / width^2
    -0.25
    """

    centres: Tensor
    widths: Tensor

    def __call__(self, X: Tensor, orders: Orders | None = None) -> Tensor:
        """D^orders phi (n, k) at X (n, d)."""
        if orders is not None:
            require_orders(orders)
        scaled = (X[:, None] - self.centres) / self.widths
        values = (-0.5 * scaled.square().sum(-1)).exp()
        for d, order in enumerate(orders or ()):
            if order:
                values = values * _hermite(scaled[..., d], order) * (-1 / self.widths[:, d]) ** order
        return values


def _hermite(z: Tensor, order: int) -> Tensor:
    """He_order(z)."""
    before, value = torch.ones_like(z), z
    for k in range(1, order):
        before, value = value, z * value - k * before
    return value


@dataclass(frozen=True, eq=False)
class FeatureLaw:
    """Weights a ~ N(mean, factor^-T factor^-1 noise) of features: a `solution.Representation`."""

    features: GaussianFeatures
    weights: Tensor
    factor: Tensor
    noise: float

    def mean(self, X: Tensor, orders: Orders) -> Tensor:
        return self.features(X, orders) @ self.weights

    def posterior(self, X: Tensor, orders: Orders) -> Elliptical:
        phi = self.features(X, orders)
        half = self.noise**0.5 * torch.linalg.solve_triangular(self.factor, phi.mT, upper=False).mT
        return Elliptical((phi @ self.weights)[:, None], _Root(half))


@dataclass(frozen=True, eq=False)
class _Root:
    """half half' (n, n), whose diagonal needs no matrix."""

    half: Tensor

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        return self.half.square().sum(-1)

    def to_dense(self) -> Tensor:
        return self.half @ self.half.mT


def solve_by_features(
    problem: Problem,
    *,
    features: int | GaussianFeatures = 100,
    points: int | Sequence[int] | None = None,
    steps: int = 200,
    generator: torch.Generator | None = None,
) -> Solution:
    """Solve a linear problem by bumps; see the module docstring.

    features : how many, spread over the domain, or the ones to start from.
    points : along each axis; None takes twice as many rows of the equation as there are parameters.
    steps : the most iterations of L-BFGS; 0 keeps the centres and widths.
    generator : of the centres; None is one of seed 0.

    Errors: ValueError for a nonlinear problem, unknown coefficients, a count below one.
    """
    began = time.perf_counter()
    if problem.nonlinear is not None or problem.unknowns:
        what = "nonlinear" if problem.nonlinear is not None else "one with unknown coefficients"
        raise ValueError(f"features solve linear problems, and {problem.name} is {what}; take kernelfield.pde.solve")
    if steps < 0 or (isinstance(features, int) and features < 1):
        raise ValueError(f"features must be at least 1 and steps at least 0, got {features} and {steps}")
    generator = generator or torch.Generator().manual_seed(0)
    start = spread(problem, features, generator) if isinstance(features, int) else features
    placed = place(problem, _counts(problem, points, len(start.centres)), start.centres.device)
    fit = _Fit.of(problem, placed, start)
    with threads_for(len(start.centres)):
        theta, history, message = _trained(fit, start, steps)
        law, condition = fit.law(theta)
    residual = problem.residual(fit.points.offset, lambda orders: law.mean(fit.points.offset, orders))
    return Solution(
        problem,
        law,
        f"{len(start.centres)} Gaussian features, {len(fit.points.interior)} points",
        {"normal equations": condition},
        time.perf_counter() - began,
        _rms(residual) / fit.size,
        history,
        message=message,
    )


def spread(problem: Problem, count: int, generator: torch.Generator) -> GaussianFeatures:
    """Bumps at places of the domain's box that fill it evenly (a Sobol sequence), as wide as their mean distance."""
    low, high = torch.tensor(problem.domain, dtype=torch.double).unbind(-1)
    seed = int(torch.randint(2**31, (), generator=generator))
    places = torch.quasirandom.SobolEngine(problem.dims, scramble=True, seed=seed).draw(count, dtype=torch.double)
    centres = low + (high - low) * places
    return GaussianFeatures(centres, (WIDTH * _gap(problem, count)).expand(count, -1).contiguous())


def _gap(problem: Problem, count: int) -> Tensor:
    """The mean distance (d,) between so many points of the box, along each axis."""
    low, high = torch.tensor(problem.domain, dtype=torch.double).unbind(-1)
    return (high - low) / count ** (1 / problem.dims)


def _counts(problem: Problem, points: int | Sequence[int] | None, features: int) -> tuple[int, ...]:
    if points is None:
        points = max(4, math.ceil((2 * features * (2 * problem.dims + 1)) ** (1 / problem.dims)))
    return (points,) * problem.dims if isinstance(points, int) else tuple(points)


@dataclass(frozen=True, eq=False)
class _Fit:
    """The rows of a problem: all that is asked of the weights.

    coefficients : of the equation's terms, over the size of the source.
    boundary : weight, points, orders and targets of the rows at the boundary.
    """

    problem: Problem
    points: Points
    coefficients: tuple[tuple[Tensor, Orders], ...]
    boundary: tuple[tuple[float, Tensor, Orders, Tensor], ...]
    targets: Tensor
    size: float

    @classmethod
    def of(cls, problem: Problem, points: Points, start: GaussianFeatures) -> "_Fit":
        X = points.interior
        size = _rms(problem.source(X)) or 1.0
        share = 1 / (size * len(X) ** 0.5)
        terms = tuple((share * term.at(X), term.orders) for term in problem.operator)
        source = share * evaluate(problem.source, X, what=f"the source of {problem.name}")
        # Where boundary values are zero, the size of u is what the source makes of bumps like those at the start.
        moved = _applied([(term.at(X), term.orders) for term in problem.operator], start, X)
        reach = size * _rms(start(X)) / (_rms(moved) or 1.0)
        X, fixed = points.values
        count = len(X) + sum(len(targets) for _, _, targets in points.slopes)
        weight = BOUNDARY / (max(_rms(fixed), reach) * max(1, count) ** 0.5)
        rows = [(weight, X, (0,) * problem.dims, fixed)]
        for X, axis, fixed in points.slopes:
            orders = tuple(int(d == axis) for d in range(problem.dims))
            rows.append((weight * float(_gap(problem, len(start.centres))[axis]), X, orders, fixed))
        return cls(
            problem, points, terms, tuple(rows), torch.cat([source, *(w * fixed for w, _, _, fixed in rows)]), size
        )

    def rows(self, features: GaussianFeatures) -> Tensor:
        """A (n, k)."""
        equation = _applied(self.coefficients, features, self.points.interior)
        return torch.cat([equation, *(w * features(X, orders) for w, X, orders, _ in self.boundary)])

    def split(self, theta: Tensor) -> GaussianFeatures:
        """Features of parameters: centres in extents of the domain, logarithms of widths in gaps."""
        low, high = theta.new_tensor(self.problem.domain).unbind(-1)
        centres, widths = theta.reshape(2, -1, self.problem.dims)
        gap = _gap(self.problem, len(centres)).to(theta)
        return GaussianFeatures(low + (high - low) * centres, gap * widths.exp())

    def joined(self, features: GaussianFeatures) -> Tensor:
        low, high = features.centres.new_tensor(self.problem.domain).unbind(-1)
        gap = _gap(self.problem, len(features.centres)).to(features.centres)
        return torch.cat([((features.centres - low) / (high - low)).flatten(), (features.widths / gap).log().flatten()])

    def solved(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """The best weights (k,), and R' of the rows with the ridge below them: A'A + ridge = R'R."""
        k = A.shape[1]
        ridge = (RIDGE * A.square().sum() / k).sqrt()
        Q, R = torch.linalg.qr(torch.cat([A, ridge * torch.eye(k).to(A)]))
        weights = torch.linalg.solve_triangular(R, (Q[: len(A)].mT @ self.targets)[:, None], upper=True)[:, 0]
        return weights, R.mT

    def objective(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """The least sum of squares and its slope."""
        with torch.enable_grad():
            at = torch.tensor(theta).to(self.targets).requires_grad_()
            A = self.rows(self.split(at))
            weights, _ = self.solved(A.detach())
            ridge = RIDGE * A.detach().square().sum() / A.shape[1]
            squares = (A @ weights - self.targets).square().sum() + ridge * weights.square().sum()
            (slope,) = torch.autograd.grad(squares, at)
        return squares.item(), slope.cpu().numpy()

    def law(self, theta: Tensor) -> tuple[FeatureLaw, float]:
        """The weights' law, and the condition number of what they solve."""
        features = self.split(theta)
        A = self.rows(features)
        weights, factor = self.solved(A)
        noise = float((A @ weights - self.targets).square().mean())
        diagonal = factor.diagonal().abs()
        return FeatureLaw(features, weights, factor, noise), float((diagonal.max() / diagonal.min()) ** 2)


def _trained(fit: _Fit, start: GaussianFeatures, steps: int) -> tuple[Tensor, tuple[float, ...], str]:
    """The parameters after rounds of L-BFGS, the sums of squares between them, and how it went.

    Each round minimises the sum over its value at the start: a search that is stopped by a relative decrease, and
    knows one curvature, cannot follow a sum of squares over ten orders of magnitude.
    """
    theta = fit.joined(start)
    if not steps:
        return theta, (), ""
    count = theta.numel() // 2
    bounds = [(-REACH, 1 + REACH)] * count + [(math.log(WIDTHS[0]), math.log(WIDTHS[1]))] * count
    label, history = f"features of {fit.problem.name}", [fit.objective(theta.cpu().numpy())[0]]
    at, left, reason = theta.cpu().numpy(), steps, "no steps left"
    with warnings.catch_warnings():
        # Rounds end where they end; the solution's message tells how the last one did.
        warnings.simplefilter("ignore", NotConverged)
        while left > 0:
            size = history[-1] or 1.0

            def relative(theta: np.ndarray, size: float = size) -> tuple[float, np.ndarray]:
                value, slope = fit.objective(theta)
                return value / size, slope / size

            at, (search,) = minimise(relative, [at], bounds, min(left, ROUND), label=label)
            left -= max(1, search.steps)
            history.append(search.last * size)
            reason = search.reason
            if search.last > 1 - STALLED:
                break
    done = f"sum of squares {history[-1]:.2g} after {steps - max(left, 0)} steps: {reason}"
    return torch.tensor(at).to(theta), tuple(history), done


def _applied(terms: Sequence[tuple[Tensor, Orders]], features: GaussianFeatures, X: Tensor) -> Tensor:
    """The operator of these terms on the features at X, (n, k)."""
    return torch.stack([c[:, None] * features(X, orders) for c, orders in terms]).sum(0)


def _rms(values: Tensor) -> float:
    """The root mean square, zero of nothing."""
    return float(values.square().mean().sqrt()) if values.numel() else 0.0
