"""BoTorch's test functions as problems: names for their inputs, whole numbers where they are whole.

BoTorch's constraints are slacks, feasible at 0 or more; a problem's are their negatives. Single objectives are
minimised or maximised as BoTorch's classes say; several objectives are all minimised.
"""

from collections.abc import Mapping, Sequence

import torch
from botorch.test_functions.base import BaseTestProblem, ConstrainedBaseTestProblem, MultiObjectiveTestProblem
from botorch.test_functions.synthetic import SyntheticTestFunction
from optuna.distributions import FloatDistribution, IntDistribution

from kernelfield.bo.problems.catalogue import Direction, Outcome, Parameters, Problem
from kernelfield.bo.space import Distribution, Space


def from_botorch(
    function: BaseTestProblem,
    name: str,
    summary: str,
    source: str,
    *,
    names: Sequence[str] | None = None,
    finer: Mapping[str, Distribution] | None = None,
    optimum: float | None = None,
    at: Sequence[float] | None = None,
    best_hypervolume: float | None = None,
) -> Problem:
    """A problem of one of BoTorch's functions.

    names : of its inputs; None is x0, x1, ...
    finer : distributions in place of those that follow from the bounds.
    optimum, at, best_hypervolume : where they are known better than BoTorch has them.
    """
    labels = list(names) if names is not None else [f"x{i}" for i in range(function.dim)]
    whole = {labels[i] for i in function.discrete_inds}
    space: dict[str, Distribution] = {
        label: IntDistribution(int(low), int(high)) if label in whole else FloatDistribution(low, high)
        for label, (low, high) in zip(labels, function._bounds, strict=True)
    }
    space.update(finer or {})
    hypervolume = function._max_hv if isinstance(function, MultiObjectiveTestProblem) else None
    if isinstance(function, SyntheticTestFunction):
        optimum = function._optimal_value if optimum is None else optimum
        at = function._optimizers[0] if at is None and function._optimizers else at
    return Problem(
        name,
        summary,
        Space(space),
        _directions(function),
        _function(function, labels),
        source,
        constraints=function.num_constraints if isinstance(function, ConstrainedBaseTestProblem) else 0,
        optimum=optimum,
        solution=None if at is None else _typed(at, labels, space),
        reference=tuple(function._ref_point) if isinstance(function, MultiObjectiveTestProblem) else None,
        best_hypervolume=hypervolume if best_hypervolume is None else best_hypervolume,
    )


def unit_cube(dimensions: int) -> Space:
    """So many numbers from 0 to 1: x0, x1, ..."""
    return Space({f"x{i}": FloatDistribution(0.0, 1.0) for i in range(dimensions)})


def _directions(function: BaseTestProblem) -> tuple[Direction, ...]:
    least: Direction = "minimize" if function._is_minimization_by_default else "maximize"
    return (least,) * (function.num_objectives if isinstance(function, MultiObjectiveTestProblem) else 1)


class _function:
    """A BoTorch function of named parameters; a class, so that problems can be pickled for other processes."""

    def __init__(self, function: BaseTestProblem, labels: Sequence[str]) -> None:
        self.function, self.labels = function, tuple(labels)

    def __call__(self, parameters: Parameters) -> Outcome:
        X = torch.tensor([[float(parameters[label]) for label in self.labels]], dtype=torch.double)
        values = self.function.evaluate_true(X).reshape(-1).tolist()
        if not isinstance(self.function, ConstrainedBaseTestProblem):
            return Outcome(tuple(values))
        slack = self.function.evaluate_slack_true(X).reshape(-1).tolist()
        return Outcome(tuple(values), tuple(-one for one in slack))


def _typed(at: Sequence[float], labels: Sequence[str], space: Mapping[str, Distribution]) -> dict[str, float | int]:
    return {
        label: int(value) if isinstance(space[label], IntDistribution) else float(value)
        for label, value in zip(labels, at, strict=True)
    }
