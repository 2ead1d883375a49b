import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kernelfield.bo.improvement import Differentiable
from kernelfield.bo.search import CLOSE, REACH, Budget, _Surface, maximise
from kernelfield.bo.space import Space


def test_the_peak_of_a_smooth_function_is_found_to_five_digits() -> None:
    peak = torch.tensor([0.31, 0.72, 0.05, 1.0])  # one of them on the boundary
    space = Space.of({f"x{i}": (0.0, 1.0) for i in range(4)})
    found = maximise(Differentiable(lambda X: -(X - peak).square().sum(-1)), space, near=np.empty((0, 4)), seed=0)
    assert found.points[0] == pytest.approx(peak.numpy(), abs=1e-4)
    assert (np.diff(found.values) <= 0).all()


def test_the_best_of_many_peaks_is_found() -> None:
    def peaks(X: Tensor) -> Tensor:
        return torch.cos(25 * X).sum(-1) - 4 * (X - 0.6).square().sum(-1)

    space = Space.of({"a": (0.0, 1.0), "b": (0.0, 1.0)})
    grid = torch.linspace(0, 1, 1001)
    exact = peaks(torch.cartesian_prod(grid, grid)).max().item()
    found = maximise(Differentiable(peaks), space, near=np.empty((0, 2)), seed=0)
    assert found.values[0] >= exact - 1e-6


def mixed(X: Tensor) -> Tensor:
    """Of a number, five levels and three choices; the best level of each choice differs."""
    best = X[:, 2:] @ torch.tensor([0.25, 1.0, 0.5])
    gain = X[:, 2:] @ torch.tensor([0.0, 0.3, 0.1])
    return gain - (X[:, 1] - best).square() - (X[:, 0] - 0.4 - 0.2 * X[:, 1]).square()


@pytest.mark.parametrize("seed", range(4))
def test_discrete_parameters_are_searched_with_the_others(seed: int) -> None:
    space = Space.of({"x": (0.0, 1.0), "level": (1, 5), "kind": ["a", "b", "c"]})
    found = maximise(Differentiable(mixed), space, near=np.empty((0, 5)), seed=seed, budget=Budget(raw=16, starts=3))
    assert space.decode(found.points[:1])[0] == pytest.approx({"x": 0.6, "level": 5, "kind": "b"}, abs=1e-3)


def test_every_end_is_a_point_that_parameters_can_have() -> None:
    space = Space.of({"x": (0.0, 1.0), "level": (1, 5), "kind": ["a", "b", "c"]})
    near = space.scattered(3, 5)
    found = maximise(Differentiable(mixed), space, near=near, seed=1)
    assert np.array_equal(found.points, space.nearest(found.points))


def test_the_same_seed_searches_the_same() -> None:
    space = Space.of({"x": (0.0, 1.0), "y": (0.0, 1.0)})
    rough = Differentiable(lambda X: torch.sin(40 * X).prod(-1))
    first, again, other = (maximise(rough, space, near=space.scattered(2, 0), seed=s) for s in (7, 7, 8))
    assert np.array_equal(first.points, again.points)
    assert not np.array_equal(first.points, other.points)


def test_values_that_are_no_numbers_are_passed_over() -> None:
    space = Space.of({"x": (0.0, 1.0)})
    holes = Differentiable(lambda X: torch.where(X[:, 0] > 0.5, torch.nan, X[:, 0]))
    found = maximise(holes, space, near=np.empty((0, 1)), seed=0)
    assert 0.45 < found.points[0, 0] <= 0.5


def valley(X: Tensor) -> Tensor:
    """Rosenbrock's, where searches crawl for long; its peak is at 3/4."""
    U = 4 * X - 2
    return -(100 * (U[:, 1:] - U[:, :-1].square()).square() + (1 - U[:, :-1]).square()).sum(-1).log1p()


@pytest.mark.parametrize(("rule", "on", "off", "share"), [("REACH", REACH, math.inf, 0.8), ("CLOSE", CLOSE, 0.0, 0.95)])
def test_a_search_that_is_behind_ends_early_and_costs_the_best_one_nothing(
    rule: str, on: float, off: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernelfield.bo.search.CLOSE", 0.0)  # one rule at a time
    monkeypatch.setattr("kernelfield.bo.search.REACH", math.inf)

    def found(value: float) -> tuple[int, float]:
        sizes = []

        def counted(X: Tensor) -> Tensor:
            sizes.append(len(X) * X.requires_grad)
            return valley(X)

        monkeypatch.setattr(f"kernelfield.bo.search.{rule}", value)
        space = Space.of({f"x{i}": (0.0, 1.0) for i in range(5)})
        ends = maximise(Differentiable(counted), space, near=np.empty((0, 5)), seed=0)
        return sum(sizes), ends.values[0]

    (steps, best), (all_steps, best_of_all) = found(on), found(off)
    assert steps < share * all_steps
    assert best == pytest.approx(best_of_all, abs=1e-4)


def test_searches_at_different_held_values_do_not_end_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernelfield.bo.search.REACH", math.inf)
    surface = _Surface(Differentiable(lambda X: valley(X[:, :2]) - 1e-3 * X[:, 2]), torch.device("cpu"))
    starts = np.array([[0.3, 0.6, 0.0], [0.3, 0.6, 1.0]])
    ends = surface.climb(starts, np.array([0, 1]), 100)
    assert ends[:, :2] == pytest.approx(0.75, abs=1e-3)
    assert np.array_equal(ends[:, 2], starts[:, 2])


def test_of_searches_near_each_other_that_hold_the_same_the_one_behind_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernelfield.bo.search.REACH", math.inf)
    sizes: list[int] = []

    def counted(X: Tensor) -> Tensor:
        sizes.append(len(X))
        return valley(X[:, :2]) - 1e-3 * X[:, 2]

    surface = _Surface(Differentiable(counted), torch.device("cpu"))
    ends = surface.climb(np.array([[0.3, 0.6, 0.5], [0.31, 0.6, 0.5]]), np.array([0, 1]), 100)
    assert np.abs(ends[:, :2] - 0.75).max(1).min() < 1e-3
    assert sizes.count(2) < sizes.count(1)


def test_many_discrete_columns_are_climbed_value_by_value() -> None:
    target = torch.from_numpy(np.random.default_rng(0).integers(0, 2, 40).astype(float))
    space = Space.of({f"x{i}": [0, 1] for i in range(40)})
    near = space.scattered(1, 0)
    distance = Differentiable(lambda X: -(X - target).abs().sum(-1))
    found = maximise(distance, space, near=near, seed=0)
    assert found.values[0] == 0
