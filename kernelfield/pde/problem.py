"""What is to be solved: an equation, its domain and its boundary values.

A problem is an equation on a box, or on the part of one that `inside` tells,

    sum_j c_j(x) D^(o_j) u + N(x, u, D u, ...) = f(x),    D^o = d^(o_1)/dx_1^(o_1) ... d^(o_d)/dx_d^(o_d),

with values of u on sides of the box (time is an axis, whose lower side holds the initial value), or
slopes of u across a side. The derivative of N is found by automatic differentiation. Solvers are in
`collocation` (scattered points), `separable` and others (grids); `kernelfield.pde.solve` chooses.

Points are tensors (n, d) in double precision, functions of them return (n,): second and fourth
derivatives of a kernel spread over more digits than single precision has.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

Field = Callable[[Tensor], Tensor]  # points (n, d) -> values (n,)
Orders = tuple[int, ...]  # of differentiation along each axis

HIGHEST = 4  # order along one axis in one term, twice of which a smooth kernel must give
AXES = (("x",), ("x", "y"), ("x", "y", "z"))
CORNER = 1e-6  # of the largest boundary value: boundary values further apart contradict each other
SLOW = 0.1  # of U / length^order: terms below vanish but for rounding, or next to it
TEST_POINTS = {1: 300, 2: 300, 3: 40}  # along each axis, where errors are measured


@dataclass(frozen=True)
class Unknown:
    """A scalar coefficient to be learned from observations of the solution, searched from `start`.

    Terms that hold unknowns of one name share its value. low and high bound the search.
    """

    name: str
    start: float
    low: float = -float("inf")
    high: float = float("inf")

    def __post_init__(self) -> None:
        if not self.low <= self.start <= self.high:
            reach = f"[{self.low:g}, {self.high:g}]"
            raise ValueError(f"the start of {self.name!r} must lie in {reach}, got {self.start:g}")


@dataclass(frozen=True)
class Term:
    """coefficient * D^orders u, the coefficient a number, a function of the points or an Unknown.

    >>> Term(-1.0, (0, 2)).total
    2
    """

    coefficient: float | Field | Unknown
    orders: Orders

    def __post_init__(self) -> None:
        require_orders(self.orders)

    @property
    def total(self) -> int:
        """The order of differentiation over all axes."""
        return sum(self.orders)

    def at(self, X: Tensor) -> Tensor:
        """The coefficient (n,) at X (n, d); an Unknown stands at its start."""
        match self.coefficient:
            case Unknown(start=start):
                return X.new_full(X.shape[:1], start)
            case float() | int() as value:
                return X.new_full(X.shape[:1], value)
            case function:
                return evaluate(function, X, what=f"the coefficient of the term of orders {self.orders}")


@dataclass(frozen=True)
class Nonlinear:
    """N(x, u, ...) as function(X, *values) -> (n,): values (n,) are the derivatives of u of these orders.

    Burgers' u u_x with axes (x, t) is Nonlinear(lambda X, u, u_x: u * u_x, ((0, 0), (1, 0))).
    The function acts point by point and consists of differentiable torch operations.
    """

    function: Callable[..., Tensor]
    orders: tuple[Orders, ...]

    def __post_init__(self) -> None:
        for orders in self.orders:
            require_orders(orders)
        if not self.orders:
            raise ValueError("a nonlinear term needs the orders of at least one derivative of u, got none")

    def at(self, X: Tensor, values: Sequence[Tensor]) -> Tensor:
        """N (n,) at X (n, d) for the derivatives of u, each (n,)."""
        return self.function(X, *values)

    def linearised(self, X: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """N (n,) and its slopes in each of the derivatives, each (n,)."""
        inputs = [value.detach().requires_grad_(True) for value in values]
        with torch.enable_grad():
            result = self.function(X, *inputs)
            slopes = torch.autograd.grad(result.sum(), inputs, allow_unused=True)
        filled = tuple(torch.zeros_like(v) if s is None else s for v, s in zip(values, slopes, strict=True))
        return result.detach(), filled


@dataclass(frozen=True, eq=False)
class Problem:
    """An equation with its domain and its boundary values; see the module docstring.

    name : what tables and messages call it.
    domain : (low, high) along each axis.
    operator : the linear terms.
    source : f, the right-hand side.
    boundary : values of u, one function for every side (and every edge of `inside`), or one for each
        of the sides that have any: "x-" is where x is lowest, "y+" where y is highest, "t-" the start.
    nonlinear : a function of u alone, point by point, or a `Nonlinear`; added to the linear terms.
    exact : the solution where it is known; used to measure errors, never to solve.
    axes : the names of the axes; x, y, z unless given.
    inside : tells which points (n, d) of the box belong to the domain, bool (n,); None is all.
    slopes : values of the derivative of u along a side's own axis (du/dx on "x-" and on "x+").

    Errors: ValueError for a domain, orders, axes or functions that do not fit each other, an
    unknown side, or boundary values of two sides that contradict each other at a corner.

    >>> wave = Problem("wave", ((0.0, 1.0),), (Term(1.0, (2,)),), lambda X: -X[:, 0].sin(), lambda X: X[:, 0].sin())
    >>> wave.dims, sorted(wave.sides)
    (1, ['x+', 'x-'])
    """

    name: str
    domain: tuple[tuple[float, float], ...]
    operator: tuple[Term, ...]
    source: Field
    boundary: Field | Mapping[str, Field]
    nonlinear: Callable[[Tensor], Tensor] | Nonlinear | None = None
    exact: Field | None = None
    axes: tuple[str, ...] = ()
    inside: Callable[[Tensor], Tensor] | None = None
    slopes: Mapping[str, Field] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_box()
        self._check_orders()
        self._check_sides()
        middle = torch.tensor([[(low + high) / 2 for low, high in self.domain]], dtype=torch.double)
        evaluate(self.source, middle, what=f"the source of {self.name}")
        self._check_corners()

    @property
    def dims(self) -> int:
        """The number d of axes."""
        return len(self.domain)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the axes."""
        return self.axes or AXES[self.dims - 1]

    @property
    def all_sides(self) -> tuple[str, ...]:
        """The names of all 2 d sides of the box."""
        return tuple(f"{name}{end}" for name in self.names for end in "-+")

    @cached_property
    def sides(self) -> dict[str, Field]:
        """The boundary values by side, for the sides that have any."""
        if isinstance(self.boundary, Mapping):
            return dict(self.boundary)
        return dict.fromkeys(self.all_sides, self.boundary)

    @cached_property
    def nonlinearity(self) -> Nonlinear | None:
        """The nonlinear part in its general form."""
        if self.nonlinear is None or isinstance(self.nonlinear, Nonlinear):
            return self.nonlinear
        alone = self.nonlinear
        return Nonlinear(lambda X, u: alone(u), ((0,) * self.dims,))

    @property
    def unknowns(self) -> tuple[Unknown, ...]:
        """The unknown coefficients, each name once."""
        found = {t.coefficient.name: t.coefficient for t in self.operator if isinstance(t.coefficient, Unknown)}
        return tuple(found.values())

    def settled(self, values: Mapping[str, float]) -> "Problem":
        """The problem with numbers in the place of unknown coefficients, by their names."""
        terms = (
            replace(t, coefficient=values[t.coefficient.name]) if isinstance(t.coefficient, Unknown) else t
            for t in self.operator
        )
        return replace(self, operator=tuple(terms))

    def side(self, name: str) -> tuple[int, float]:
        """The axis of a side and its place on that axis."""
        number = self.all_sides.index(name)
        return number // 2, self.domain[number // 2][number % 2]

    def residual(self, X: Tensor, derivative: Callable[[Orders], Tensor]) -> Tensor:
        """Left-hand side less f (n,) at X (n, d), given the derivatives of u there by their orders."""
        value = sum((t.at(X) * derivative(t.orders) for t in self.operator), -self.source(X))
        if self.nonlinearity is not None:
            value = value + self.nonlinearity.at(X, [derivative(orders) for orders in self.nonlinearity.orders])
        return value

    def size(self, X: Tensor, derivative: Callable[[Orders], Tensor]) -> float:
        """What a residual is small or large against: the root mean square of the source or the largest term at X.

        It is at least SLOW of the term that a u of the same size has if it changes once along an axis. A plane solves
        Laplace's equation with terms that are rounding, and the residual is of their size.
        """
        u, found = _rms(derivative((0,) * self.dims)), _rms(self.source(X))
        for term in self.operator:
            c = term.at(X)
            extent = math.prod((high - low) ** o for (low, high), o in zip(self.domain, term.orders, strict=True))
            found = max(found, _rms(c * derivative(term.orders)), SLOW * _rms(c) * u / extent)
        return found

    def test_points(self, count: int | None = None) -> Tensor:
        """A grid (n, d) of `count` evenly spaced points along each axis, ends included, inside the domain."""
        count = count or TEST_POINTS.get(self.dims, 10)
        axes = [torch.linspace(low, high, count, dtype=torch.double) for low, high in self.domain]
        X = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, self.dims)
        return X if self.inside is None else X[self.inside(X)]

    def _check_box(self) -> None:
        if not self.domain or any(len(ends) != 2 or not ends[0] < ends[1] for ends in self.domain):
            raise ValueError(f"domain must hold one (low, high) with low < high for each axis, got {self.domain}")
        if not torch.tensor(self.domain).isfinite().all():
            raise ValueError(f"domain must be finite, got {self.domain}; cut it where the solution is known")
        if not self.axes and self.dims > len(AXES):
            raise ValueError(f"a domain of {self.dims} axes needs their names, such as axes=('x', 'y', 'z', 't')")
        if len(self.names) != self.dims or len(set(self.names)) != self.dims:
            raise ValueError(f"axes must be {self.dims} different names, one for each axis, got {self.axes}")

    def _check_orders(self) -> None:
        parts = [term.orders for term in self.operator]
        if not parts and self.nonlinear is None:
            raise ValueError("operator must hold at least one Term, got none")
        parts += self.nonlinearity.orders if self.nonlinearity else ()
        for orders in parts:
            if len(orders) != self.dims:
                raise ValueError(f"orders must hold one number for each of {self.dims} axes, got {orders}")

    def _check_sides(self) -> None:
        for given in (self.sides, self.slopes):
            for name in given:
                if name not in self.all_sides:
                    raise ValueError(f"unknown side {name!r}; the sides of {self.name} are {', '.join(self.all_sides)}")
        if self.inside is not None and isinstance(self.boundary, Mapping):
            raise ValueError("a domain with inside= has edges that are no sides; give boundary as one function of all")
        doubled = sorted(set(self.slopes) & set(self.sides))
        if doubled and not isinstance(self.boundary, Mapping):
            raise ValueError(
                f"the side {doubled[0]!r} has a slope and a value; give boundary as a mapping of the sides with values"
            )

    def _check_corners(self) -> None:
        if not isinstance(self.boundary, Mapping):
            return
        corners = torch.tensor(list(itertools.product(*self.domain)), dtype=torch.double)
        spread = (torch.arange(1, 17)[:, None] * torch.tensor(self.domain).diff(dim=1).mT * 0.0603).double() + corners[
            0
        ]
        meeting: dict[str, Tensor] = {}
        largest = 0.0
        for name, value in self.sides.items():
            axis, place = self.side(name)
            what = f"the boundary value of side {name}"
            meeting[name] = torch.where(corners[:, axis] == place, evaluate(value, corners, what=what), torch.nan)
            face = spread.clone()
            face[:, axis] = place
            largest = max(largest, float(evaluate(value, face, what=what).abs().max()))
            largest = max(largest, float(meeting[name].nan_to_num().abs().max()))
        for one, two in itertools.combinations(meeting, 2):
            gap = (meeting[one] - meeting[two]).abs()
            wrong = (gap > CORNER * largest).nonzero()
            if len(wrong):
                at = int(wrong[0])
                raise ValueError(
                    f"the boundary values of sides {one} and {two} contradict each other at the corner "
                    f"{tuple(corners[at].tolist())}: {meeting[one][at]:g} and {meeting[two][at]:g}"
                )


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def evaluate(function: Field, X: Tensor, *, what: str) -> Tensor:
    """function(X), if it is what it should be.

    Errors: ValueError for another shape, another precision than the points', or values that are not finite.
    """
    values = function(X)
    if not isinstance(values, Tensor) or values.shape != X.shape[:1]:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{what} must give a tensor of one value a point, shape ({len(X)},), got {got}")
    if values.dtype != X.dtype:
        raise ValueError(f"{what} must keep the precision of its points, {X.dtype}, got {values.dtype}")
    if not values.isfinite().all():
        at = X[~values.isfinite()][0].tolist()
        raise ValueError(f"{what} is not finite at {at}; move the domain away from there")
    return values


def require_orders(orders: Orders) -> None:
    """Refuse orders of differentiation that are no tuple of integers from 0 to four."""
    if not isinstance(orders, tuple) or any(not isinstance(o, int) or not 0 <= o <= HIGHEST for o in orders):
        raise ValueError(f"orders must be a tuple of integers from 0 to {HIGHEST}, one for each axis, got {orders!r}")
