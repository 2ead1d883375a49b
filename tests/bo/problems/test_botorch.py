"""BoTorch's functions as problems."""

import pickle

import pytest
import torch
from botorch.test_functions import ConstrainedBraninCurrin, PressureVessel
from optuna.distributions import FloatDistribution, IntDistribution

from kernelfield.bo.problems.botorch import from_botorch
from kernelfield.bo.problems.catalogue import problem


def test_values_are_botorchs_and_constraints_its_slacks_turned_round() -> None:
    function = ConstrainedBraninCurrin()
    one = from_botorch(function, "both", "two", "BoTorch", names=("left", "right"))
    X = torch.tensor([[0.2, 0.9]])
    outcome = one({"right": 0.9, "left": 0.2})
    assert outcome.values == pytest.approx(function(X)[0].tolist())
    assert outcome.constraints == pytest.approx((-function.evaluate_slack(X)[0]).tolist())
    assert one.reference == (80.0, 12.0)
    assert one.directions == ("minimize", "minimize")


def test_whole_inputs_are_whole_and_finer_distributions_take_the_place_of_bounds() -> None:
    assert problem("labs").space.parameters["x0"] == IntDistribution(0, 1)
    assert problem("labs").directions == ("maximize",)
    step = FloatDistribution(0.0, 10.0, step=0.5)
    one = from_botorch(PressureVessel(), "p", "s", "BoTorch", finer={"x0": step})
    assert one.space.parameters["x0"] == step
    assert one.constraints == 4


def test_problems_of_botorch_travel_to_other_processes() -> None:
    one = problem("constrained-hartmann6")
    again = pickle.loads(pickle.dumps(one))
    assert again(one.solution) == one(one.solution)
