"""BoTorch's default and the paper's protocol as functions of a history: valid, seeded, and better than chance."""

from functools import partial

import numpy as np
import pytest

from kernelfield.bo.bench import cases, run
from kernelfield.bo.history import History
from kernelfield.bo.rivals import Ordinal, default, joint
from kernelfield.bo.space import Space
from kernelfield.bo.standings import worth
from kernelfield.models.process import Process

MIXED = Space.of({"c": ["a", "b", "c"], "x": (0.0, 1.0), "k": (1, 4), "on": [False, True]})


def told(space: Space, Y: np.ndarray, C: np.ndarray | None = None) -> History:
    X = space.scattered(len(Y), 0)
    return History(X, Y, np.empty((len(Y), 0)) if C is None else C, None, X[:0], None)


def test_one_column_a_parameter_and_back() -> None:
    X = MIXED.scattered(32, 1)
    ordinal = Ordinal(MIXED)
    columns = ordinal.gather(X)
    assert columns.shape == (32, 4)
    np.testing.assert_array_equal(ordinal.scatter(columns), X)
    assert [MIXED.parameters["c"].choices[int(i)] for i in columns[:, 0]] == [p["c"] for p in MIXED.decode(X)]
    assert ordinal.choices == [0]
    assert ordinal.bounds[1].tolist() == [2.0, 1.0, 1.0, 1.0]
    assert ordinal.levels[2] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_the_default_finds_the_maximum_of_a_parabola() -> None:
    space = Space.of({"x": (0.0, 1.0)})
    known = told(space, np.empty((8, 1)))
    known = told(space, -((known.X - 0.3) ** 2))
    [[point]] = default(space, known, 1, seed=0)
    assert point == pytest.approx(0.3, abs=0.02)


def test_the_default_keeps_off_what_a_constraint_forbids() -> None:
    space = Space.of({"x": (0.0, 1.0)})
    X = space.scattered(10, 0)
    [[point]] = default(space, told(space, X, X - 0.5), 1, seed=0)  # climbs to the right, feasible up to 1/2
    assert 0.4 < point < 0.55


@pytest.mark.slow
def test_the_default_answers_with_points_of_a_mixed_space() -> None:
    Y = MIXED.scattered(12, 0).sum(1, keepdims=True)
    point = default(MIXED, told(MIXED, Y), 1, seed=0)
    np.testing.assert_allclose(MIXED.nearest(point), point, atol=1e-9)


@pytest.mark.parametrize("make", [None, Process], ids=["botorch", "gp"])
def test_the_paper_chooses_a_batch_at_once(make: type[Process] | None) -> None:
    space = Space.of({"x": (0.0, 1.0), "y": (0.0, 1.0)})
    X = space.scattered(10, 0)
    Y = -((X - 0.3) ** 2).sum(1, keepdims=True)
    points = joint(make, space, told(space, Y), 3, seed=0)
    assert points.shape == (3, 2)
    assert len(np.unique(points, axis=0)) == 3
    with pytest.raises(ValueError, match="has no constraints, and the trials have 1"):
        joint(make, space, told(space, Y, Y), 3, seed=0)


def test_hypervolume_needs_a_reference() -> None:
    space = Space.of({"x": (0.0, 1.0)})
    X = space.scattered(6, 0)
    known = told(space, np.concatenate([X, -(X**2)], 1))
    for propose in (default, partial(joint, Process)):
        with pytest.raises(ValueError, match="needs a reference"):
            propose(space, known, 1, seed=0)
        assert propose(space, known, 1, seed=0, reference=(0.0, -1.0)).shape == (1, 1)


def test_a_run_of_the_paper_goes_in_batches_and_repeats() -> None:
    [case] = cases(["branin"], ["gp"], seeds=[0], protocol="paper", trials=24)
    first, again = run(case), run(case)
    assert first.values == again.values
    assert first.seconds[10:20] == [first.seconds[10]] * 10  # one proposal of ten
    assert first.seconds[20] != first.seconds[10]
    assert worth(first)[-1] < worth(first)[9]
