"""A problem of one's own from a TOML file.

    name = "heat"                            # optional
    source = 0                               # the right-hand side; follows from `exact` where it is left out
    nonlinear = "u**3 - u"                   # optional, added to the left-hand side
    exact = "sin(pi*x) * exp(-pi**2*t/10)"   # optional, to measure the error with

    [domain]                                 # axes, of x, y, z and t, in this order
    x = [0, 1]
    t = [0, "1/2"]

    [operator]                               # derivative of u = its coefficient
    u_t = 1
    u_xx = -0.1

    [boundary]                               # values of u on sides; or boundary = "one expression for all",
    "t-" = "sin(pi*x)"                       # or boundary = ["x-", ...], the sides that take the values of `exact`
    "x-" = 0
    "x+" = 0

    [slopes]                                 # optional: derivatives of u across sides

Values are numbers or expressions in the axes, of the functions and constants in `expression`; the
nonlinear one also in u, u_x, u_xx and so on. Nothing in a file is executed.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import Tensor

from kernelfield.pde.expression import Kink, near, parse, symbol, values
from kernelfield.pde.problem import HIGHEST, Field, Nonlinear, Orders, Problem, Term, Unknown, evaluate

KEYS = ("name", "domain", "operator", "nonlinear", "source", "boundary", "slopes", "exact")
LETTERS = ("x", "y", "z", "t")
AGREES = 1e-6  # of the size of the terms: an exact solution that is further off solves another equation
CHECKED = 64  # points at which that is looked at


def read_equation(path: str | Path) -> Problem:
    """The problem that a file describes; see the module docstring.

    Errors: OSError if the file cannot be read, ValueError for what is wrong in it: the file, the key and the remedy.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}; docs/equations.md shows what a file looks like") from error
    try:
        return _problem(content, default_name=Path(path).stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def written(problem: Problem) -> str:
    """The equation of a problem in one line; N stands for what is not linear, c for a coefficient that varies.

    >>> def zero(X):
    ...     return X.new_zeros(len(X))
    >>> box = ((0.0, 1.0), (0.0, 1.0))
    >>> written(Problem("heat", box, (Term(1.0, (0, 1)), Term(-0.1, (2, 0))), zero, zero, axes=("x", "t")))
    'u_t - 0.1 u_xx = f'
    """
    parts = [_written_term(term, problem.names) for term in problem.operator]
    if problem.nonlinearity is not None:
        parts.append(f"+ N({', '.join(derivative_name(o, problem.names) for o in problem.nonlinearity.orders)})")
    return re.sub(r"^- ", "-", " ".join(parts).removeprefix("+ ")) + " = f"


def _written_term(term: Term, names: Sequence[str]) -> str:
    what = derivative_name(term.orders, names)
    match term.coefficient:
        case int() | float() as number:
            size = "" if abs(number) == 1 else f"{abs(number):g} "
            return f"{'-' if number < 0 else '+'} {size}{what}"
        case Unknown(name=name):
            return f"+ {name} {what}"
    return f"+ c({', '.join(names)}) {what}"


def derivative_name(orders: Orders, names: Sequence[str]) -> str:
    """The derivative of u of these orders, as a file names it.

    >>> derivative_name((2, 1), ("x", "t"))
    'u_xxt'
    """
    letters = "".join(name * order for name, order in zip(names, orders, strict=True))
    return f"u_{letters}" if letters else "u"


@dataclass(frozen=True)
class _Reaction:
    """The nonlinear term, and the names it gives to derivatives of u."""

    expression: sympy.Expr
    names: Mapping[str, Orders]

    def term(self, axes: Sequence[str]) -> Nonlinear:
        orders = tuple(dict.fromkeys(self.names.values()))

        def function(X: Tensor, *derivatives: Tensor) -> Tensor:
            given = dict(zip(axes, X.unbind(-1), strict=True))
            given |= {name: derivatives[orders.index(wanted)] for name, wanted in self.names.items()}
            return values(self.expression, given, derivatives[0])

        return Nonlinear(function, orders)


def _problem(content: Mapping[str, Any], *, default_name: str) -> Problem:
    for key in content:
        if key not in KEYS:
            raise ValueError(f"unknown key {key!r}{near(key, KEYS)}")
    domain = _domain(content)
    axes = tuple(domain)
    coefficients = _operator(content.get("operator", {}), axes)
    reaction = _reaction(content["nonlinear"], axes) if "nonlinear" in content else None
    if not coefficients and reaction is None:
        raise ValueError("the table [operator] is missing; write one line for each term, such as u_xx = 1")
    exact = _parsed(content, "exact", axes)
    source = _source(content, axes, coefficients, reaction, exact)
    slopes = _table(content, "slopes", "x- = 0")
    problem = Problem(
        name=_name(content, default_name),
        domain=tuple(domain.values()),
        operator=tuple(Term(_coefficient(c, axes), _orders(name, axes)) for name, c in coefficients.items()),
        source=_field(source, axes),
        boundary=_boundary(content, axes, exact),
        nonlinear=None if reaction is None else reaction.term(axes),
        exact=None if exact is None else _field(exact, axes),
        axes=axes,
        slopes={side: _field(_expression(f"slopes.{side}", value, axes), axes) for side, value in slopes.items()},
    )
    _check_exact(problem, axes, coefficients, reaction, exact)
    return problem


def _name(content: Mapping[str, Any], default: str) -> str:
    name = content.get("name", default)
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f'name must be a text such as "heat", got {name!r}')
    return name


def _table(content: Mapping[str, Any], key: str, line: str) -> Mapping[str, Any]:
    table = content.get(key, {})
    if not isinstance(table, Mapping):
        raise ValueError(f"{key} must be a table, [{key}] with lines such as {line}, got {table!r}")
    return table


def _domain(content: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    table = _table(content, "domain", "x = [0, 1]")
    if not table:
        raise ValueError("the table [domain] is missing; write one line for each axis, such as x = [0, 1]")
    domain = {}
    for axis, ends in table.items():
        if axis not in LETTERS:
            raise ValueError(f"domain.{axis}: unknown axis {axis!r}; axes are called {', '.join(LETTERS)}")
        if not isinstance(ends, list) or len(ends) != 2:
            raise ValueError(f"domain.{axis} must be two ends such as [0, 1], got {ends!r}")
        low, high = (_number(_expression(f"domain.{axis}", end, ())) for end in ends)
        if not low < high:
            raise ValueError(f"domain.{axis} must have its lower end first, got {ends!r}")
        domain[axis] = (low, high)
    return domain


def _operator(table: Any, axes: Sequence[str]) -> dict[str, sympy.Expr]:
    """The coefficients by the derivatives that they multiply."""
    terms = _table({"operator": table}, "operator", "u_xx = 1")
    for name in terms:
        _orders(name, axes, key=f"operator.{name}: ")
    return {name: _expression(f"operator.{name}", coefficient, axes) for name, coefficient in terms.items()}


def _orders(name: str, axes: Sequence[str], key: str = "") -> Orders:
    if name != "u" and not re.fullmatch("u_[a-z]+", name):
        raise ValueError(f"{key}{name!r} is no derivative of u; write u, u_{axes[0]}, u_{axes[0] * 2} and so on")
    letters = name[2:]
    for letter in letters:
        if letter not in axes:
            raise ValueError(f"{key}{name!r} derives along {letter!r}, but the axes are {', '.join(axes)}")
    orders = tuple(letters.count(axis) for axis in axes)
    if max(orders) > HIGHEST:
        raise ValueError(f"{key}{name!r} derives {max(orders)} times along an axis; at most {HIGHEST} are possible")
    return orders


def _reaction(text: Any, axes: Sequence[str]) -> _Reaction:
    found = dict.fromkeys(re.findall(r"\bu(?:_[a-z]+)?\b", str(text)))
    names = {name: _orders(name, axes, key="nonlinear: ") for name in found}
    if not names:
        raise ValueError(f"nonlinear: {text!r} does not hold u; what depends on the axes alone belongs to source")
    return _Reaction(_expression("nonlinear", text, (*axes, *names)), names)


def _source(
    content: Mapping[str, Any],
    axes: Sequence[str],
    coefficients: Mapping[str, sympy.Expr],
    reaction: _Reaction | None,
    exact: sympy.Expr | None,
) -> sympy.Expr:
    given = _parsed(content, "source", axes)
    if given is not None:
        return given
    if exact is None:
        raise ValueError("the key 'source' is missing; write source = 0, or give the exact solution, which tells it")
    try:
        return _left_side(axes, coefficients, reaction, exact)
    except Kink as error:
        raise ValueError(f"exact: no source follows from {content['exact']!r}, as {error}; give source") from error


def _left_side(
    axes: Sequence[str], coefficients: Mapping[str, sympy.Expr], reaction: _Reaction | None, exact: sympy.Expr
) -> sympy.Expr:
    """What the operator makes of the exact solution, in symbols."""

    def derived(orders: Orders) -> sympy.Expr:
        result = exact
        for axis, order in zip(axes, orders, strict=True):
            for _ in range(order):
                result = result.diff(symbol(axis))
        if result.has(sympy.DiracDelta, sympy.Derivative, sympy.Subs):
            raise Kink("its derivative is no function")
        return result

    total = sum((c * derived(_orders(name, axes)) for name, c in coefficients.items()), sympy.S.Zero)
    if reaction is None:
        return total
    return total + reaction.expression.xreplace({symbol(n): derived(o) for n, o in reaction.names.items()})


def _boundary(content: Mapping[str, Any], axes: Sequence[str], exact: sympy.Expr | None) -> Field | dict[str, Field]:
    given = content.get("boundary")
    if given is None:
        given = [side for side in _sides(axes) if side != "t+"]
        if exact is None:
            raise ValueError("the key 'boundary' is missing; write [boundary] with a value for each side that has one")
    if isinstance(given, list):
        if exact is None:
            raise ValueError("boundary: a list of sides takes the values of exact, which is missing; write exact")
        given = dict.fromkeys(map(str, given), exact)
    if not isinstance(given, Mapping):
        return _field(_expression("boundary", given, axes), axes)
    fields = {}
    for side, value in given.items():
        if side not in _sides(axes):
            raise ValueError(f"boundary: unknown side {side!r}{near(side, _sides(axes))}")
        expression = value if isinstance(value, sympy.Expr) else _expression(f"boundary.{side}", value, axes)
        fields[side] = _field(expression, axes)
    return fields


def _sides(axes: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{axis}{end}" for axis in axes for end in "-+")


def _parsed(content: Mapping[str, Any], key: str, axes: Sequence[str]) -> sympy.Expr | None:
    return _expression(key, content[key], axes) if key in content else None


def _expression(key: str, value: Any, names: Sequence[str]) -> sympy.Expr:
    try:
        return parse(value, names)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _coefficient(expression: sympy.Expr, axes: Sequence[str]) -> float | Field:
    return _field(expression, axes) if expression.free_symbols else _number(expression)


def _number(expression: sympy.Expr) -> float:
    return values(expression, {}, torch.zeros((), dtype=torch.double)).item()


def _field(expression: sympy.Expr, axes: Sequence[str]) -> Field:
    def field(X: Tensor) -> Tensor:
        return values(expression, dict(zip(axes, X.unbind(-1), strict=True)), X[:, 0])

    return field


def _check_exact(
    problem: Problem,
    axes: Sequence[str],
    coefficients: Mapping[str, sympy.Expr],
    reaction: _Reaction | None,
    exact: sympy.Expr | None,
) -> None:
    """Refuse an exact solution that solves another equation, or has other values on a side."""
    if exact is None or problem.exact is None:
        return
    low, high = torch.tensor(problem.domain, dtype=torch.double).unbind(1)
    X = low + (high - low) * torch.rand(CHECKED, problem.dims, generator=torch.Generator().manual_seed(0)).double()
    for side, value in problem.sides.items():
        axis, place = problem.side(side)
        face = X.clone()
        face[:, axis] = place
        _agree(f"the boundary value of side {side}", value, problem.exact, face)
    try:
        left = _field(_left_side(axes, coefficients, reaction, exact), axes)
    except Kink:  # a weak solution, which cannot be looked at point by point
        return
    _agree("the source", problem.source, left, X)


def _agree(what: str, given: Field, expected: Field, X: Tensor) -> None:
    one, two = evaluate(given, X, what=what), evaluate(expected, X, what=f"{what}, from exact,")
    worst = int((one - two).abs().argmax())
    if (one - two).abs()[worst] > AGREES * max(1.0, float(two.abs().max())):
        raise ValueError(
            f"exact: {what} is {one[worst]:g} at {[round(x, 4) for x in X[worst].tolist()]}, "
            f"where the exact solution asks for {two[worst]:g}; correct one of them"
        )
