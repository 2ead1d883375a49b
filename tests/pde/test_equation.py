"""Files with equations give the problems they describe, and say in a sentence what is wrong with them."""

import re
from pathlib import Path

import pytest
import torch

from kernelfield.pde.benchmarks import benchmarks, manufactured
from kernelfield.pde.equation import read_equation, written
from kernelfield.pde.problem import Nonlinear, Problem, Term
from kernelfield.pde.solve import solve

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))

SQUARE = """
exact = "sin(2*x) * exp(-y*x)"
nonlinear = "u*u_x - u_xy**2 + x*u_yx"
[domain]
x = [-1, 1]
y = [0, "pi/2"]
[operator]
u_xxy = "1 + x**2"
u_yy = -2.5
u = "cos(y)"
"""
WAVE = """
source = "-sin(x)"
boundary = "sin(x)"
[domain]
x = [0, "pi/2"]
[operator]
u_xx = 1
"""


@pytest.fixture
def read(tmp_path):
    def one(text: str) -> Problem:
        (tmp_path / "own.toml").write_text(text)
        return read_equation(tmp_path / "own.toml")

    return one


def points(problem: Problem) -> torch.Tensor:
    low, high = torch.tensor(problem.domain).unbind(1)
    return low + (high - low) * torch.rand(50, problem.dims)


def test_the_source_of_an_exact_solution_is_that_of_automatic_differentiation(read):
    problem = read(SQUARE)
    oracle = manufactured(
        "oracle",
        lambda X: (2 * X[:, 0]).sin() * (-X[:, 1] * X[:, 0]).exp(),
        ((-1.0, 1.0), (0.0, torch.pi / 2)),
        [Term(lambda X: 1 + X[:, 0] ** 2, (2, 1)), Term(-2.5, (0, 2)), Term(lambda X: X[:, 1].cos(), (0, 0))],
        nonlinear=Nonlinear(lambda X, u, u_x, u_xy: u * u_x - u_xy**2 + X[:, 0] * u_xy, ((0, 0), (1, 0), (1, 1))),
    )
    X = points(oracle)
    assert problem.domain == oracle.domain
    assert [term.orders for term in problem.operator] == [term.orders for term in oracle.operator]
    torch.testing.assert_close(problem.source(X), oracle.source(X), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(problem.exact(X), oracle.exact(X))
    # The nonlinear term as a solver sees it: values and slopes at arbitrary derivatives of u.
    given = [torch.randn(50) for _ in range(3)]
    assert problem.nonlinearity.orders == oracle.nonlinearity.orders
    for mine, theirs in zip(*(p.nonlinearity.linearised(X, given) for p in (problem, oracle)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_file_of_heat_is_the_benchmark_of_its_name(read):
    mine, theirs = read_equation(ROOT / "examples" / "heat.toml"), benchmarks()["heat"].problem
    assert (mine.axes, mine.domain) == (theirs.axes, theirs.domain)
    assert {(t.coefficient, t.orders) for t in mine.operator} == {(t.coefficient, t.orders) for t in theirs.operator}
    assert set(mine.sides) == set(theirs.sides) == {"x-", "x+", "t-"}
    assert written(mine) == written(theirs) == "u_t - 0.1 u_xx = f"


def test_boundary_values_come_whole_by_side_or_from_the_exact_solution(read):
    assert set(read(WAVE).sides) == {"x-", "x+"}
    assert set(read(WAVE.replace('boundary = "sin(x)"', 'exact = "sin(x)"')).sides) == {"x-", "x+"}
    one = read(WAVE.replace('boundary = "sin(x)"', 'exact = "sin(x)"\nboundary = ["x+"]'))
    X = torch.tensor([[torch.pi / 2]])
    assert set(one.sides) == {"x+"}
    assert one.sides["x+"](X).item() == pytest.approx(1.0)
    in_time = "[domain]\nx = [0, 1]\nt = [0, 1]\n[operator]\nu_t = 1\nu_xx = -1\n"
    assert set(read('exact = "exp(-t)*sin(x)"\n' + in_time).sides) == {"x-", "x+", "t-"}


def test_slopes_at_a_side_are_met_by_the_solution(read):
    by_side = WAVE.replace('boundary = "sin(x)"\n', "")
    problem = read(by_side + '[boundary]\n"x-" = 0\n[slopes]\n"x-" = 1\n')  # an initial value problem
    X = torch.linspace(0, torch.pi / 2, 30)[:, None]
    assert (solve(problem).mean(X) - X[:, 0].sin()).abs().max() < 1e-5


def test_a_name_is_that_of_the_file_unless_given(read):
    assert read(WAVE).name == "own"
    assert read('name = "wave"' + WAVE).name == "wave"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_on_the_page_and_is_solved(path):
    page = (ROOT / "docs" / "equations.md").read_text()
    assert path.read_text() in re.findall(r"^```toml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    problem = read_equation(path)
    solution = solve(problem)
    assert solution.converged
    if problem.exact is not None:
        assert solution.relative_l2() < 1e-5
    else:  # Burgers, whose solution vanishes in the middle and is odd
        X = problem.test_points(21)
        assert solution.offset_residual < 1e-2
        mirrored = X * torch.tensor([-1.0, 1.0])
        assert (solution.mean(X) + solution.mean(mirrored)).abs().max() < 1e-3


def test_the_page_shows_every_example():
    page = (ROOT / "docs" / "equations.md").read_text()
    assert len(EXAMPLES) == page.count("```toml") == 3


def changed(old: str, new: str, text: str = WAVE) -> str:
    assert old in text
    return text.replace(old, new)


SIDES = '[boundary]\n"x-" = 0\n"x+" = 1\n"y-" = 0\n"y+" = 5\n'
PLANE = "source = 0\n[domain]\nx = [0, 1]\ny = [0, 1]\n[operator]\nu_xx = 1\nu_yy = 1\n"
BAD = {
    "no TOML": ("x = ", "is not TOML: .* docs/equations.md"),
    "an unknown key": ("sorce = 0" + WAVE, "unknown key 'sorce'; did you mean 'source'"),
    "no domain": ("source = 0", r"\[domain\] is missing"),
    "a domain that is no table": ("domain = 3", r"domain must be a table, \[domain\]"),
    "an unknown axis": ("[domain]\nr = [0, 1]", r"domain.r: unknown axis 'r'; axes are called x, y, z, t"),
    "one end": (changed('[0, "pi/2"]', "[0]"), r"domain.x must be two ends such as \[0, 1\], got \[0\]"),
    "ends the wrong way": (changed('[0, "pi/2"]', "[2, 1]"), r"domain.x must have its lower end first, got \[2, 1\]"),
    "an end that varies": (changed('"pi/2"', '"x"'), "domain.x: 'x' holds the unknown name 'x'"),
    "no operator": (changed("u_xx = 1", ""), r"\[operator\] is missing"),
    "no derivative": (changed("u_xx", "v_xx"), "operator.v_xx: 'v_xx' is no derivative of u; write u, u_x, u_xx"),
    "another axis": (changed("u_xx", "u_xy"), "operator.u_xy: 'u_xy' derives along 'y', but the axes are x"),
    "too many orders": (changed("u_xx", "u_xxxxx"), "derives 5 times along an axis; at most 4"),
    "a bad coefficient": (changed("u_xx = 1", 'u_xx = "2x"'), "operator.u_xx: '2x' is no expression"),
    "no source": (changed('source = "-sin(x)"', ""), "key 'source' is missing; write source = 0"),
    "an unknown name": (changed("-sin(x)", "-sin(y)"), "source: '-sin.y.' holds the unknown name 'y'"),
    "an attack": (changed("-sin(x)", "__import__('os').system('x')"), "source: .* only numbers, names"),
    "no boundary": (changed('boundary = "sin(x)"', ""), "key 'boundary' is missing"),
    "an unknown side": (PLANE + '[boundary]\n"z-" = 0', "boundary: unknown side 'z-'; .*x-, x.*y-, y"),
    "sides of nothing": (changed('"sin(x)"', '["x-"]'), "boundary: a list of sides takes the values of exact"),
    "sides that contradict": (
        PLANE + SIDES,
        r"sides x- and y\+ contradict each other at the corner \(0.0, 1.0\): 0 and 5",
    ),
    "a slope of no side": (WAVE + '[slopes]\n"y-" = 1', "unknown side 'y-'"),
    "a nonlinear term without u": ('nonlinear = "x"' + WAVE, "nonlinear: 'x' does not hold u; .* belongs to source"),
    "a nonlinear term of another axis": ('nonlinear = "u*u_t"' + WAVE, "nonlinear: 'u_t' derives along 't'"),
    "an unknown function": ('nonlinear = "sine(u)"' + WAVE, "nonlinear: .*'sine' is no function here"),
    "an exact solution of another equation": ('exact = "sin(x) + x**3/9"' + WAVE, "exact: the .* where the exact"),
    "a wrong source": ('exact = "sin(x)"' + changed("-sin(x)", "sin(x)"), "exact: the source is .*correct one of them"),
    "a kink": (
        'exact = "abs(x - 1)"' + changed('source = "-sin(x)"', ""),
        "no source follows from .* give source",
    ),
    "no name": ('name = ""' + WAVE, "name must be a text"),
    "a source without values": (changed("-sin(x)", "1/(x - pi/4)"), "is not finite at"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_in_a_file_is_said_in_one_sentence_with_its_name(read, what):
    text, sentence = BAD[what]
    with pytest.raises(ValueError, match=sentence) as error:
        read(text)
    assert "own.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_weak_solution_may_be_given_beside_its_source(read):
    text = 'exact = "abs(x - 1)"' + changed('boundary = "sin(x)"', "")
    assert read(text).exact(torch.tensor([[0.5]])).item() == 0.5


def test_equations_are_written_in_one_line():
    lines = {name: written(one.problem) for name, one in benchmarks().items()}
    assert lines["T1"] == "200 u_x + u_y = f"
    assert lines["A3"] == "u_xx + u_yy + N(u) = f"
    assert lines["burgers"] == "u_t - 0.02 u_xx + N(u, u_x) = f"
