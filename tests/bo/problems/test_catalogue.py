"""The table of problems, and what is true of each."""

import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest

from kernelfield.bo.problems.catalogue import FAMILIES, PROBLEMS, Outcome, Problem, problem

SLOW = ("distillation", "lunar-lander", "brusselator", "penicillin")
QUICK = [name for name in PROBLEMS if name not in SLOW]
SOLVED = [name for name in QUICK if name not in FAMILIES["objectives"] and name not in ("network", "pest-control")]
ACTIVE = 1e-9  # how far a constraint that holds with equality at the optimum may be off, relative to its terms


@pytest.mark.parametrize("family", FAMILIES)
def test_the_names_of_a_family_are_those_it_makes(family: str) -> None:
    assert tuple(import_module(f"kernelfield.bo.problems.{family}").MAKERS) == FAMILIES[family]


@pytest.mark.parametrize("name", QUICK)
def test_a_problem_answers_what_it_promises_and_the_same_again(name: str) -> None:
    one = PROBLEMS[name]
    assert one.name == name
    for parameters in one.space.decode(one.space.scattered(4, seed=1)):
        outcome = one(parameters)
        assert len(outcome.values) == len(one.directions)
        assert len(outcome.constraints) == one.constraints
        assert np.isfinite(outcome.values).all()
        assert problem(name)(parameters) == outcome


@pytest.mark.parametrize("name", SOLVED)
def test_the_optimum_is_taken_at_the_solution_and_nothing_near_it_is_better(name: str) -> None:
    one = PROBLEMS[name]
    sign = 1.0 if one.directions[0] == "minimize" else -1.0
    found = one(one.solution)
    assert found.values[0] == pytest.approx(one.optimum, rel=1e-7, abs=1e-12)
    assert max(found.constraints, default=0.0) <= ACTIVE
    generator = np.random.default_rng(0)
    centre = one.space.encode([one.solution])
    near = (
        centre + 10.0 ** generator.uniform(-4, -0.5, (100, 1)) * generator.standard_normal((100, centre.shape[1]))
    ).clip(0, 1)
    for parameters in one.space.decode(np.concatenate([near, one.space.scattered(64, seed=0)])):
        outcome = one(parameters)
        assert not outcome.feasible or sign * outcome.values[0] >= sign * one.optimum - 1e-7 * max(1, abs(one.optimum))


def test_parameters_that_are_not_of_the_space_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 are missing \['x1'\], 1 are not of it \['z'\]"):
        problem("branin")({"x0": 0.0, "z": 1.0})
    with pytest.raises(ValueError, match="do not lie within"):
        problem("branin")({"x0": 0.0, "x1": 16.0})


def test_unknown_names_and_settings_are_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="did you mean .*hartmann6"):
        problem("hartman6")
    with pytest.raises(ValueError, match="polynomial does not take the settings .*dimensions, seed"):
        problem("polynomial", size=3)
    with pytest.raises(KeyError):
        PROBLEMS["hartman6"]
    assert "hartman6" not in PROBLEMS
    assert PROBLEMS["branin"] is PROBLEMS["branin"]


def test_an_outcome_is_feasible_up_to_zero() -> None:
    assert Outcome((1.0,)).feasible
    assert Outcome((1.0,), (0.0, -1.0)).feasible
    assert not Outcome((1.0,), (1e-12,)).feasible


def test_listing_the_problems_imports_none_of_them() -> None:
    code = "import sys, kernelfield.bo.problems.catalogue as p; list(p.PROBLEMS); print('botorch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_every_problem_is_described() -> None:
    for name in QUICK:
        one = PROBLEMS[name]
        assert isinstance(one, Problem)
        assert one.summary
        assert "\n" not in one.summary
        assert one.source
