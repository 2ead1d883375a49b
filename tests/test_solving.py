"""Records of solutions hold what the solution says, in JSON, whatever is not known."""

import json
import math

import pytest

from kernelfield.pde.benchmarks import benchmarks
from kernelfield.pde.equation import read_equation
from kernelfield.pde.problem import Problem, Term
from kernelfield.pde.solution import Solution
from kernelfield.pde.tabulated import tabulate
from kernelfield.solving import caption, domain, listing, posed, record, run


def sine(exact: bool = True) -> Problem:
    def wave(X):
        return X[:, 0].sin()

    return Problem(
        "sine", ((0.0, math.pi),), (Term(1.0, (2,)),), lambda X: -wave(X), wave, exact=wave if exact else None
    )


class _Flat:
    """A mean of zero everywhere, and no variances."""

    def mean(self, X, orders):
        return X.new_zeros(len(X))

    def posterior(self, X, orders):
        raise NotImplementedError


def flat(problem: Problem, condition: dict[str, float], residual: float) -> dict:
    solution = Solution(problem, _Flat(), "by hand", condition, 1.5, residual, converged=False)
    return json.loads(json.dumps(record(solution, tabulate(solution, 9)), allow_nan=False))


def test_a_record_has_the_figures_of_the_solution():
    content = flat(sine(), {"K": 10.0, "L": 20.0}, 0.25)
    assert content["relative_l2"] == 1  # of a mean of zero
    assert content["coverage95"] is None
    assert content["offset_residual"] == 0.25
    assert content["condition"] == 20
    assert content["conditions"] == {"K": 10, "L": 20}
    assert content["seconds"] == 1.5
    assert content["domain"] == {"x": [0, math.pi]}
    assert not content["converged"]
    assert caption(content) == "relative error 1.0e+00, residual between the nodes 2.5e-01"


def test_what_is_not_known_is_null():
    content = flat(sine(exact=False), {"K": math.inf}, math.nan)
    for key in ("relative_l2", "coverage95", "offset_residual", "condition"):
        assert content[key] is None
    assert flat(sine(), {}, 0.0)["condition"] is None


def test_a_problem_has_a_name_or_a_file(tmp_path):
    assert posed("heat").name == "heat"
    with pytest.raises(ValueError, match="there is no problem 'haet'; did you mean 'heat'"):
        posed("haet")
    (tmp_path / "a.toml").write_text('source = 0\nboundary = "x"\n[domain]\nx = [0, 1]\n[operator]\nu_xx = 1\n')
    assert posed(None, tmp_path / "a.toml").domain == read_equation(tmp_path / "a.toml").domain


def test_every_named_problem_is_listed_with_its_domain():
    rows = {name: (equation, box) for name, equation, box, _ in listing()}
    assert set(rows) == set(benchmarks())
    assert rows["P6"] == ("u_xx + u_yy = f", "x, y in [0, 2π]")
    assert rows["heat"][1] == "x in [0, 1]; t in [0, 0.5]"
    assert domain(benchmarks()["L-shape"].problem) == "part of x, y in [-1, 1]"


def test_nodes_are_given_once_or_for_each_axis(tmp_path):
    with pytest.raises(ValueError, match="once, or for each of the axes x, t, got 3 numbers"):
        run(posed("heat"), tmp_path / "o", nodes=[4, 4, 4], picture=False)
    content, _ = run(posed("heat"), tmp_path / "o", nodes=[30, 20], picture=False)
    assert "30 x 20" in content["method"]
