"""A solution on an even grid of points: what files hold and pictures show."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kernelfield.pde.problem import Problem, evaluate
from kernelfield.pde.solution import Solution


@dataclass(frozen=True, eq=False)
class Tabulated:
    """Values on a grid: `places` along each axis, each field (n_1, ..., n_d), NaN outside the domain.

    std : None where the solver has no variances. exact : None where it is not known.

    Units: those of the problem.
    """

    names: tuple[str, ...]
    places: tuple[np.ndarray, ...]
    mean: np.ndarray
    std: np.ndarray | None
    exact: np.ndarray | None

    @property
    def error(self) -> np.ndarray | None:
        """|mean - exact|."""
        return None if self.exact is None else np.abs(self.mean - self.exact)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is known by name, the axes' places among them."""
        fields = {"mean": self.mean, "std": self.std, "exact": self.exact}
        return dict(zip(self.names, self.places, strict=True)) | {k: v for k, v in fields.items() if v is not None}


def tabulate(
    solution: Solution, count: int, *, box: Sequence[tuple[float, float]] | None = None, spread: bool = True
) -> Tabulated:
    """A solution at `count` even places along each axis of a box, its ends included.

    box : None is the whole domain. spread : whether standard deviations, which cost most, are asked for.
    """
    problem = solution.problem
    places = tuple(torch.linspace(low, high, count, dtype=torch.double) for low, high in box or problem.domain)
    X = torch.stack(torch.meshgrid(*places, indexing="ij"), -1).reshape(-1, problem.dims)
    held = torch.ones(len(X), dtype=torch.bool) if problem.inside is None else problem.inside(X)

    def shaped(values: torch.Tensor) -> np.ndarray:
        whole = X.new_full((len(X),), torch.nan)
        whole[held] = values.detach().to(whole)
        return whole.reshape((count,) * problem.dims).numpy()

    std = _std(solution, X[held]) if spread else None
    return Tabulated(
        problem.names,
        tuple(place.numpy() for place in places),
        shaped(solution.mean(X[held])),
        None if std is None else shaped(std),
        None if problem.exact is None else shaped(_exact(problem, X[held])),
    )


def _std(solution: Solution, X: torch.Tensor) -> torch.Tensor | None:
    try:
        return solution.variance(X).sqrt()
    except NotImplementedError:  # what a solver without variances raises
        return None


def _exact(problem: Problem, X: torch.Tensor) -> torch.Tensor:
    assert problem.exact is not None
    return evaluate(problem.exact, X, what=f"the exact solution of {problem.name}")
