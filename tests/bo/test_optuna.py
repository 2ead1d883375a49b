import pickle
import re

import numpy as np
import optuna
import pytest
from optuna import create_trial
from optuna.distributions import CategoricalDistribution
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
)
from optuna.trial import TrialState

from kernelfield.bo.history import Told, read, write
from kernelfield.bo.optuna import FieldSampler
from kernelfield.bo.search import Budget
from kernelfield.bo.space import Condition, Space
from kernelfield.bo.storage import give_up
from kernelfield.core.contracts import Model
from kernelfield.kernels.stationary import Matern
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.train import Training
from kernelfield.models.process import Process

optuna.logging.set_verbosity(optuna.logging.ERROR)
QUICK = Budget(raw=32, starts=2, steps=10)
SURROGATES: dict[str, str | Model] = {
    "gp": Process(restarts=1, steps=10),
    "nngp": Process("nngp", restarts=1, steps=3),
    "ensemble": Ensemble(members=3, training=Training(steps=20)),
}
# Optuna's suites try every sampler at a hundred sizes and kinds of space: the slow ones for networks.
CHOSEN = ["gp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nngp", "ensemble"))]


class _Suite:
    """What the suites ask of, for each surrogate."""

    @pytest.fixture(params=CHOSEN)
    def sampler(self, request: pytest.FixtureRequest):
        surrogate = SURROGATES[request.param]
        return lambda: FieldSampler(surrogate, startup_trials=3, budget=QUICK, warn_independent_sampling=False)


class TestBasic(_Suite, BasicSamplerTestCase):
    """Optuna's own tests of any sampler."""


class TestRelative(_Suite, RelativeSamplerTestCase):
    """Optuna's own tests of samplers of several parameters at once."""


class TestMultiObjective(_Suite, MultiObjectiveSamplerTestCase):
    """Optuna's own tests of samplers for several objectives."""


def bowl(trial: optuna.Trial) -> float:
    return (trial.suggest_float("x", -3, 3) - 1) ** 2 + (trial.suggest_float("y", 0.01, 100, log=True) - 1) ** 2 / 50


def sampler(seed: int | None = 0, **settings: object) -> FieldSampler:
    return FieldSampler(**{"startup_trials": 5, "budget": QUICK, "seed": seed, **settings})  # type: ignore[arg-type]


def test_a_bowl_is_minimised_within_a_few_trials() -> None:
    study = optuna.create_study(sampler=sampler(budget=None))
    study.optimize(bowl, n_trials=18)
    assert study.best_value < 0.01


def test_two_fresh_samplers_suggest_the_same_from_the_same_history() -> None:
    study = optuna.create_study(sampler=sampler())
    study.optimize(bowl, n_trials=9)
    twins = []
    for _ in range(2):
        twin = optuna.create_study(sampler=sampler())
        twin.add_trials(study.trials)
        trial = twin.ask()
        bowl(trial)
        twins.append(trial.params)
    assert twins[0] == twins[1]
    assert twins[0] != study.trials[-1].params


def test_a_sampler_may_be_replaced_between_trials() -> None:
    whole = optuna.create_study(sampler=sampler())
    whole.optimize(bowl, n_trials=10)
    parts = optuna.create_study(sampler=sampler())
    for _ in range(10):
        parts.sampler = pickle.loads(pickle.dumps(sampler()))
        parts.optimize(bowl, n_trials=1)
    assert [t.params for t in parts.trials] == [t.params for t in whole.trials]


def test_other_seeds_search_otherwise() -> None:
    points = []
    for seed in (0, 1, None, None):
        study = optuna.create_study(sampler=sampler(seed))
        study.optimize(bowl, n_trials=2)
        points.append(study.trials[0].params["x"])
    assert len(set(points)) == 4


def test_parallel_suggestions_differ() -> None:
    study = optuna.create_study(sampler=sampler())
    study.optimize(bowl, n_trials=6)
    asked = [study.ask() for _ in range(5)]
    for trial in asked:
        bowl(trial)
    points = np.array([[t.params["x"], np.log(t.params["y"])] for t in asked])
    gaps = np.abs(points[:, None] - points).max(-1) + np.eye(5)
    assert gaps.min() > 1e-4


def test_suggestions_carry_what_was_expected_of_them() -> None:
    study = optuna.create_study(directions=["maximize"], sampler=sampler())
    study.optimize(lambda trial: 5 - bowl(trial), n_trials=12)
    told = [read(trial) for trial in study.trials]
    assert told[0] is None  # nobody knew the space before the first trial
    assert not any(one.mean for one in told[1:5])
    for one, trial in zip(told[8:], study.trials[8:], strict=True):
        assert abs(one.mean[0] - trial.value) < 5 * one.std[0] + 0.5
        assert one.parameters == trial.params


def test_conditional_parameters_are_chosen_together() -> None:
    space = Space.of({"kind": ["line", "wave"], "height": (0.0, 1.0), "speed": (0.0, 1.0)})
    space = Space(space.parameters, {"height": Condition("kind", ("line",)), "speed": Condition("kind", ("wave",))})

    def objective(trial: optuna.Trial) -> float:
        if trial.suggest_categorical("kind", ["line", "wave"]) == "line":
            return 1 + (trial.suggest_float("height", 0, 1) - 0.2) ** 2
        return (trial.suggest_float("speed", 0, 1) - 0.7) ** 2

    study = optuna.create_study(sampler=sampler(space=space, budget=None))
    study.optimize(objective, n_trials=20)
    assert study.best_params["kind"] == "wave"
    assert study.best_params["speed"] == pytest.approx(0.7, abs=0.05)


def test_constraints_of_trials_are_kept() -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        trial.set_constraint("left", x - 0.4)
        return -x

    study = optuna.create_study(sampler=sampler(budget=None))
    study.optimize(objective, n_trials=15)
    points = np.array([t.params["x"] for t in study.trials])
    assert points[points <= 0.4].max() > 0.39
    assert np.median(points[8:]) == pytest.approx(0.4, abs=0.01)  # the limit is felt for, not passed by


def test_a_space_of_one_point_is_tried_again_and_again() -> None:
    study = optuna.create_study(sampler=sampler(space={"x": ["only"]}, startup_trials=2))
    study.optimize(lambda trial: len(trial.suggest_categorical("x", ["only"])), n_trials=4)
    assert study.best_params == {"x": "only"}


def test_any_kernel_can_be_given() -> None:
    study = optuna.create_study(sampler=sampler(kernel=Matern(1.5, ard_num_dims=2)))
    study.optimize(bowl, n_trials=8)
    assert len(study.trials) == 8


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"surrogate": "ggp"}, "did you mean gp"),
        ({"acquisition": "logei"}, "did you mean log_ei"),
        ({"startup_trials": 0}, "at least 1, as a surrogate needs a trial, got 0"),
        ({"surrogate": "nngp", "kernel": "rbf"}, "got 'nngp'"),
        ({"space": {"x": (1.0, 0.0)}}, "the lower one first"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(settings: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=words):
        FieldSampler(**settings)


@pytest.mark.parametrize("ended", [3, 12])
def test_a_trial_that_died_between_two_of_its_parameters_is_tried_again_at_its_own_point(ended: int) -> None:
    space = Space.of({"x": (0.0, 1.0), "y": (0.0, 1.0), "k": ["a", "b"]})
    study = optuna.create_study(sampler=FieldSampler(space=space, startup_trials=5, budget=QUICK, seed=0))
    study.optimize(lambda trial: (suggested(trial)["x"] - 0.3) ** 2, n_trials=ended)
    trial = study.ask()
    x, told = trial.suggest_float("x", 0, 1), read(study.trials[-1])
    study.optimize(lambda trial: suggested(trial)["y"], n_trials=2)  # so that anything suggested anew would be other
    assert give_up(study, trial._trial_id, "gone")
    again = study.ask()
    assert told is not None and suggested(again) == told.parameters and again.params["x"] == x
    # Without a word of the whole point, what had been asked for stays, and others are told of the point as it will be.
    storage = study._storage
    kept = create_trial(
        state=TrialState.WAITING, params={"x": 0.9}, distributions={"x": space.parameters["x"]}, system_attrs={}
    )
    storage.create_new_trial(study._study_id, kept)
    again = study.ask()
    point, told = suggested(again), read(study.trials[again.number])
    assert told is not None and point == told.parameters and point["x"] == 0.9


@pytest.mark.parametrize("state", ["fails", "is pruned"])
def test_where_a_trial_came_to_nothing_is_not_tried_again(state: str) -> None:
    """The values alone point to where none is to be had; nothing would be learned there, and all trials lost."""

    def objective(trial: optuna.Trial) -> float:
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        if x > 0.7 and trial.number >= 6:
            if state == "is pruned":
                raise optuna.TrialPruned
            return float("nan")
        return -x - y

    study = optuna.create_study(sampler=sampler(startup_trials=6))
    study.optimize(objective, n_trials=24)
    lost = np.array([[t.params["x"], t.params["y"]] for t in study.trials if t.state != TrialState.COMPLETE])
    assert len(np.unique(lost.round(2), axis=0)) == len(lost)
    assert sum(t.state == TrialState.COMPLETE for t in study.trials[6:]) >= 3


def suggested(trial: optuna.Trial) -> dict[str, object]:
    return {
        "x": trial.suggest_float("x", 0, 1),
        "y": trial.suggest_float("y", 0, 1),
        "k": trial.suggest_categorical("k", ["a", "b"]),
    }


def test_processes_that_ask_at_the_same_moment_go_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that saw the same trials has written where it goes before this one has."""
    study = optuna.create_study(sampler=sampler())
    study.optimize(bowl, n_trials=8)
    other = study._storage.create_new_trial(study._study_id)
    written: list[Told] = []

    def both(storage: optuna.storages.BaseStorage, trial_id: int, told: Told) -> None:
        write(storage, trial_id, told)
        if not written:
            write(storage, other, told)
        written.append(told)

    monkeypatch.setattr("kernelfield.bo.optuna.write", both)
    bowl(study.ask())
    assert len(written) == 2
    space = Space(study.trials[0].distributions)  # type: ignore[arg-type]
    first, second = space.encode([told.parameters for told in written])
    assert np.abs(first - second).max() > 0.01


def test_a_constraint_that_is_told_only_where_it_is_broken_is_found_and_kept() -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        if x > 0.6:
            trial.set_constraint("size", 1e6)
        return -x

    study = optuna.create_study(sampler=FieldSampler(startup_trials=5, budget=QUICK, seed=0))
    study.optimize(objective, n_trials=15)
    assert 0.57 < study.best_params["x"] <= 0.6


def ranged(ranges: dict[int, tuple[float, float]], space: Space | None = None) -> optuna.Study:
    """A study of a parameter whose range is another one from trials of these numbers on."""

    def objective(trial: optuna.Trial) -> float:
        low, high = ranges[max(first for first in ranges if first <= trial.number)]
        return (trial.suggest_float("x", low, high) - 1.5) ** 2 + trial.suggest_float("y", 0.0, 1.0)

    study = optuna.create_study(sampler=FieldSampler(space=space, startup_trials=5, budget=QUICK, seed=0))
    study.optimize(objective, n_trials=14)
    return study


def test_a_range_that_grows_is_searched_and_earlier_trials_remain_data() -> None:
    study = ranged({0: (0.0, 1.0), 8: (0.0, 2.0)})
    assert study.best_value < 0.01
    seen = study.sampler._known(study, Space(study.trials[-1].distributions), 99)  # type: ignore[attr-defined]
    assert len(seen.X) == 14


def test_a_range_that_shrinks_keeps_the_trials_within_it() -> None:
    study = ranged({0: (0.0, 3.0), 8: (1.0, 1.4)})
    inside = [t for t in study.trials if 1.0 <= t.params["x"] <= 1.4]
    seen = study.sampler._known(study, Space(study.trials[-1].distributions), 99)  # type: ignore[attr-defined]
    assert len(seen.X) == len(inside) < 14
    assert study.best_value < 0.03


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (None, r"the objective asks for it in .*low=5\.0.*, where trials before had .*low=0\.0"),
        (Space.of({"x": (0.0, 1.0), "y": (0.0, 1.0)}), r"the objective asks for it in .*low=5.*, where the space has"),
        (Space.of({"y": (0.0, 1.0)}), "the space that FieldSampler was given lacks it; it has y"),
    ],
)
def test_what_is_drawn_at_random_is_said_with_its_reason(
    space: Space | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("kernelfield.bo.optuna._logger.warning", said.append)
    study = ranged({0: (0.0, 1.0), 8: (5.0, 6.0)}, space)
    found = [one for one in said if "trial 8 is drawn" in one]
    assert len(found) == 1 and re.search(sentence, found[0])
    assert len(said) == 1 or space is not None  # its range is known from then on
    assert all(5.0 <= t.params["x"] <= 6.0 for t in study.trials[8:])


@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution should be")
def test_choices_that_json_has_not_are_suggested_beside_running_trials() -> None:
    choices = {"layers": CategoricalDistribution([(64, 64), (128,)]), "make": CategoricalDistribution([np.sin, np.cos])}
    study = optuna.create_study(sampler=FieldSampler(startup_trials=3, budget=QUICK, seed=0))
    for _ in range(8):
        first, second = study.ask(choices), study.ask(choices)
        study.tell(second, float(len(second.params["layers"])))
        study.tell(first, float(len(first.params["layers"])))
    assert study.best_params["layers"] == (128,)
    left = study.ask()  # told, and not yet asked by its objective
    assert study.ask(choices).params.keys() == choices.keys()
    assert left.suggest_categorical("layers", choices["layers"].choices) in choices["layers"].choices
