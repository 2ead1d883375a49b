"""What a problem refuses, and what it says of itself."""

import math

import pytest
import torch

from kernelfield.pde.problem import Nonlinear, Problem, Term, Unknown

SECOND = (Term(1.0, (2,)),)
PLANE = (Term(1.0, (2, 0)), Term(1.0, (0, 2)))
UNIT = ((0.0, 1.0),)


def sine(X):
    return X[:, 0].sin()


def make(**changes):
    given = {"name": "p", "domain": UNIT, "operator": SECOND, "source": sine, "boundary": sine} | changes
    return Problem(**given)


BAD = {
    "empty interval": ({"domain": ((1.0, 1.0),)}, r"low < high for each axis, got \(\(1.0, 1.0\),\)"),
    "infinite": ({"domain": ((0.0, math.inf),)}, "domain must be finite"),
    "orders": ({"domain": UNIT * 2}, r"one number for each of 2 axes, got \(2,\)"),
    "nothing": ({"operator": ()}, "at least one Term"),
    "side": ({"boundary": {"left": sine}}, "unknown side 'left'; the sides of p are x-, x\\+"),
    "slope side": ({"slopes": {"y-": sine}}, "unknown side 'y-'"),
    "axes": ({"axes": ("x", "y")}, "1 different names"),
    "shape": ({"source": lambda X: X}, r"one value a point, shape \(1,\), got \(1, 1\)"),
    "precision": ({"source": lambda X: sine(X).float()}, "keep the precision of its points, torch.float64"),
    "not finite": ({"source": lambda X: X[:, 0] / 0}, r"not finite at \[0.5\]"),
    "mask": ({"inside": lambda X: X[:, 0] < 0.5, "boundary": {"x-": sine}}, "edges that are no sides"),
    "slope and value": ({"slopes": {"x-": sine}}, "'x-' has a slope and a value"),
    "corner": (
        {
            "domain": UNIT * 2,
            "operator": PLANE,
            "boundary": {"x-": lambda X: X[:, 1], "y+": lambda X: X[:, 0] + 2},
        },
        r"sides x- and y\+ contradict each other at the corner \(0.0, 1.0\): 1 and 2",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_mistakes_are_refused_with_their_value(case):
    changes, sentence = case
    with pytest.raises(ValueError, match=sentence):
        make(**changes)


@pytest.mark.parametrize("orders", [(5,), (-1,), [2], (1.0,)])
def test_orders_are_integers_up_to_four(orders):
    with pytest.raises(ValueError, match="integers from 0 to 4"):
        Term(1.0, orders)


def test_an_unknown_starts_within_its_bounds():
    with pytest.raises(ValueError, match=r"'k' must lie in \[0, 1\], got 2"):
        Unknown("k", 2.0, 0.0, 1.0)


def test_values_that_agree_but_for_rounding_are_no_contradiction():
    square = ((-1.0, 1.0), (0.0, 1.0))
    sides = {"y-": lambda X: (math.pi * X[:, 0]).sin(), "x-": lambda X: 0 * X[:, 0], "x+": lambda X: 0 * X[:, 0]}
    assert set(make(domain=square, operator=PLANE, boundary=sides).sides) == set(sides)


def test_the_residual_of_the_solution_is_zero_also_with_products_of_derivatives():
    form = Nonlinear(lambda X, u, u_x: X[:, 0] * u * u_x, ((0,), (1,)))

    def source(X):
        x = X[:, 0]
        return -x.sin() + x * x.sin() * x.cos()

    problem = make(source=source, nonlinear=form)
    X = torch.rand(7, 1)
    derivatives = {(0,): X[:, 0].sin(), (1,): X[:, 0].cos(), (2,): -X[:, 0].sin()}
    assert problem.residual(X, derivatives.__getitem__).abs().max() < 1e-15
    value, (by_u, by_slope) = form.linearised(X, [derivatives[0,], derivatives[1,]])
    assert torch.allclose(value, X[:, 0] * X[:, 0].sin() * X[:, 0].cos())
    assert torch.allclose(by_u, X[:, 0] * X[:, 0].cos())
    assert torch.allclose(by_slope, X[:, 0] * X[:, 0].sin())


def test_unknowns_are_named_once_and_settled_by_name():
    k = Unknown("k", 1.0)
    problem = make(operator=(Term(1.0, (2,)), Term(k, (1,)), Term(k, (0,))))
    assert problem.unknowns == (k,)
    assert [term.coefficient for term in problem.settled({"k": 3.0}).operator] == [1.0, 3.0, 3.0]


def test_residuals_have_a_size_where_all_terms_vanish():
    terms = (Term(1.0, (2, 0)), Term(-3.0, (0, 2)))
    problem = make(domain=((0.0, 1.0), (0.0, 2.0)), operator=terms, source=lambda X: 0 * sine(X))
    X = torch.ones(4, 2, dtype=torch.double)

    def size(slope):
        return problem.size(X, lambda orders: torch.full((4,), slope if sum(orders) else 5.0))

    assert size(0.0) == pytest.approx(0.1 * 5.0)  # of u_xx; that of u_yy is 0.1 * 3 * 5 / 2^2
    assert size(2.0) == pytest.approx(3 * 2.0)
