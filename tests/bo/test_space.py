import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from kernelfield.bo.space import Condition, Space, contains

MIXED = Space.of(
    {
        "rate": (1e-4, 1.0, "log"),
        "depth": (1, 5),
        "loss": ["l1", "l2", "huber"],
        "bias": [True, False],
        "share": FloatDistribution(0.0, 1.0, step=0.25),
        "fixed": ["only"],
    }
)
NESTED = Space(
    {
        "kernel": CategoricalDistribution(["linear", "rbf", "poly"]),
        "gamma": FloatDistribution(0.1, 10.0, log=True),
        "degree": IntDistribution(2, 5),
        "wide": CategoricalDistribution(["a", "b", "c"]),
    },
    {
        "gamma": Condition("kernel", ("rbf", "poly")),
        "degree": Condition("kernel", ("poly",)),
        "wide": Condition("kernel", ("rbf",)),
    },
)


def test_columns_are_linear_in_numbers_and_logarithms_and_one_a_choice() -> None:
    assert MIXED.columns == 1 + 1 + 3 + 1 + 1
    row = {"rate": 0.01, "depth": 2, "loss": "l2", "bias": False, "share": 0.75, "fixed": "only"}
    assert MIXED.encode([row])[0] == pytest.approx([0.5, 0.25, 0, 1, 0, 1, 0.75])


@pytest.mark.parametrize("space", [MIXED, NESTED], ids=["mixed", "nested"])
def test_decoding_undoes_encoding_with_plain_python_values_within_bounds(space: Space) -> None:
    X = np.random.default_rng(0).random((200, space.columns))
    rows = space.decode(X)
    for row, again in zip(rows, space.decode(space.encode(rows)), strict=True):
        assert again == pytest.approx(row)
    for row in rows:
        for name, value in row.items():
            assert type(value) in (int, float, str, bool)
            assert space.parameters[name]._contains(space.parameters[name].to_internal_repr(value))


def test_a_parameter_exists_where_its_condition_holds_and_is_neutral_elsewhere() -> None:
    rows = NESTED.decode(np.random.default_rng(1).random((300, NESTED.columns)))
    for row in rows:
        assert ("gamma" in row) == (row["kernel"] != "linear")
        assert ("degree" in row) == (row["kernel"] == "poly")
    X = NESTED.encode([{"kernel": "linear"}, {"kernel": "linear", "gamma": 3.0, "degree": 4}])
    assert (X[0] == X[1]).all()
    assert X[0].tolist() == [1, 0, 0, 0.5, 0.5, 0, 0, 0]


def test_a_point_is_moved_to_the_nearest_that_can_be() -> None:
    X = MIXED.nearest(np.array([[0.3, 0.3, 0.2, 0.9, 0.1, 0.7, 0.6]]))
    assert X[0] == pytest.approx([0.3, 0.25, 0, 1, 0, 1, 0.5])


def test_scattered_points_give_every_value_its_equal_part_and_depend_on_the_seed_alone() -> None:
    X = MIXED.scattered(1024, 3)
    assert (X == MIXED.scattered(1024, 3)).all()
    assert not (X == MIXED.scattered(1024, 4)).all()
    losses = [row["loss"] for row in MIXED.decode(X)]
    assert all(abs(losses.count(name) - 1024 / 3) < 3 for name in ("l1", "l2", "huber"))
    depths = [row["depth"] for row in MIXED.decode(X)]
    assert all(abs(depths.count(value) - 1024 / 5) < 3 for value in range(1, 6))


def test_the_first_points_of_a_sequence_do_not_depend_on_how_many_are_asked_for() -> None:
    assert np.array_equal(MIXED.scattered(5, 0), MIXED.scattered(64, 0)[:5])


def test_whole_numbers_in_logarithms_keep_to_their_bounds() -> None:
    space = Space({"width": IntDistribution(1, 1000, log=True)})
    values = [row["width"] for row in space.decode(space.scattered(512, 0))]
    assert min(values) == 1
    assert 990 <= max(values) <= 1000


def test_discrete_parameters_are_listed_with_their_values() -> None:
    names = [one.name for one in MIXED.discrete]
    assert names == ["depth", "loss", "bias", "share"]
    assert MIXED.discrete[0].levels[:, 0] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert MIXED.continuous.tolist() == [0]
    assert [one.parent for one in NESTED.discrete] == [True, False, False]
    assert Space({"many": IntDistribution(0, 10**6)}).continuous.tolist() == [0]


def test_a_space_that_is_finite_has_a_number_of_points() -> None:
    assert Space.of({"a": (1, 3), "b": ["x", "y"]}).volume() == 6
    assert MIXED.volume() == float("inf")


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "at least one parameter"),
        ({"x": (1.0, 0.0)}, "the lower one first, got 1 and 0"),
        ({"x": (0.0, float("inf"))}, "finite"),
        ({"x": (0.0, 1.0, "log")}, "lower bound above 0, got 0"),
        ({"x": (-1.7e308, 1.7e308)}, "their distance must be finite"),
        ({"x": ["a", "b", "a"]}, "the choices of 'x' must differ, got 'a' again"),
        ({"x": [1, True]}, "got True again"),
        ({"x": []}, "choices of 'x' are empty"),
        ({"x": "wide"}, "must be .low, high., .* got 'wide'"),
        ({"x": (0.0, 1.0, "lgo")}, "got .0.0, 1.0, 'lgo'."),
        ([1, 2], "mapping"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_with_its_value(space: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Space.of(space)  # type: ignore[arg-type]


def test_bounds_may_be_numbers_of_numpy() -> None:
    space = Space.of({"n": (np.int64(1), np.int32(5)), "x": (np.float32(0), np.float64(1))})
    assert space.parameters == {"n": IntDistribution(1, 5), "x": FloatDistribution(0.0, 1.0)}


def test_conditions_join_parameters_of_the_space() -> None:
    box = {"a": CategoricalDistribution(["x", "y"]), "b": FloatDistribution(0, 1), "c": FloatDistribution(0, 1)}
    with pytest.raises(ValueError, match="must join two parameters"):
        Space(box, {"b": Condition("z", ("x",))})
    with pytest.raises(ValueError, match="without a condition of its own"):
        Space(box, {"b": Condition("a", ("x",)), "c": Condition("b", (0.5,))})
    with pytest.raises(ValueError, match="which it never is"):
        Space(box, {"b": Condition("a", ("z",))})


def test_values_outside_of_their_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="2 to 2 do not lie within"):
        Space.of({"x": (0.0, 1.0)}).encode([{"x": 2.0}])


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution should be")
def test_a_parameter_can_have_its_choices_and_what_lies_within_its_bounds() -> None:
    choices = CategoricalDistribution([None, float("nan"), (1, 2)])
    assert all(contains(choices, value) for value in (None, float("nan"), (1, 2)))
    assert not contains(choices, 1)
    assert contains(IntDistribution(2, 5), 5)
    assert not any(contains(IntDistribution(2, 5), value) for value in (6, "five"))
