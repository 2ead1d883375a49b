"""Learning from steps: which values count, that nothing is kept between calls, and what it is worth."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from botorch.test_functions import Hartmann
from optuna.distributions import FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, PatientPruner, SuccessiveHalvingPruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from kernelfield.bo.fidelity import fit_curves, progress, rungs
from kernelfield.bo.history import Curves
from kernelfield.bo.optuna import FieldSampler
from kernelfield.bo.search import Budget
from kernelfield.bo.space import Space
from kernelfield.kernels.learning_curve import IndependentRungs, LearningCurve
from kernelfield.kernels.stationary import Matern
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.train import Training
from kernelfield.models.process import Process

UNIT = FloatDistribution(0.0, 1.0)
SPACE = Space({"x": UNIT})
MINIMISED = [StudyDirection.MINIMIZE]
QUICK = Budget(raw=64, starts=2, steps=30)
NAN, INF = float("nan"), float("inf")


def trial(
    number: int, steps: dict[int, float], state: TrialState = TrialState.PRUNED, value: float | None = None
) -> FrozenTrial:
    made = create_trial(
        state=state,
        value=value,
        params={"x": number / 10},
        distributions={"x": UNIT},
        intermediate_values=steps,
    )
    made.number = made._trial_id = number
    return made


def whole(number: int, steps: dict[int, float], value: float) -> FrozenTrial:
    return trial(number, steps, TrialState.COMPLETE, value)


LADDERS = [
    (SuccessiveHalvingPruner(2, 3), [2, 6, 18, 30]),
    (SuccessiveHalvingPruner(1, 4, 1), [4, 16, 30]),
    (SuccessiveHalvingPruner("auto", 4), [1, 4, 16, 30]),
    (HyperbandPruner(3, reduction_factor=3), [3, 9, 27, 30]),
    (MedianPruner(), [1, 2, 4, 8, 16, 30]),
    (NopPruner(), [1, 2, 4, 8, 16, 30]),
]


@pytest.mark.parametrize(("pruner", "steps"), LADDERS, ids=[type(p).__name__ + str(s[0]) for p, s in LADDERS])
def test_rungs_are_those_at_which_the_pruner_decides(pruner: BasePruner, steps: list[int]) -> None:
    trials = [whole(0, {0: 1.0, 1: 0.9, 30: 0.2}, 0.2), trial(1, {1: 0.7, 3: 0.6})]
    assert rungs(pruner, trials).tolist() == steps


def test_a_patient_pruner_has_the_rungs_of_the_one_it_wraps() -> None:
    with pytest.warns(ExperimentalWarning):
        pruner = PatientPruner(SuccessiveHalvingPruner(10, 3), patience=2)
    assert rungs(pruner, [trial(1, {30: 0.1})]).tolist() == [10, 30]


def test_long_curves_give_a_few_rungs() -> None:
    long = trial(0, dict.fromkeys(range(1, 100_000), 0.5))
    assert len(rungs(NopPruner(), [long])) < 20
    assert not len(rungs(NopPruner(), [whole(0, {}, 0.3)]))


def known(trials: list[FrozenTrial], steps: list[int], **settings: object):
    return progress(trials, MINIMISED, SPACE, np.array(steps), **settings)  # type: ignore[arg-type]


def test_a_value_counts_at_the_last_rung_it_has_reached() -> None:
    """Reports every two steps: that of step 4 is the first after the rung 3, and step 0 is on no rung."""
    past = known([trial(1, {0: 9.0, 2: 0.8, 4: 0.6, 6: 0.5, 8: 0.4, 10: 0.3})], [1, 3, 9])
    assert past.curves.values.tolist() == [[-0.8, -0.6, -0.3]]
    assert past.Y.tolist() == [[-0.3]]
    assert np.allclose(past.curves.shares, [1 / 9, 1 / 3, 1])


def test_the_value_of_a_complete_trial_is_its_value_at_the_last_rung() -> None:
    past = known([whole(1, {1: 0.8, 3: 0.5}, 0.1), trial(2, {1: 0.7})], [1, 3, 9])
    assert np.array_equal(past.curves.values, [[-0.8, -0.5, -0.1], [-0.7, NAN, NAN]], equal_nan=True)


def test_directions_are_kept() -> None:
    past = progress([trial(1, {1: 0.8, 3: 0.9})], [StudyDirection.MAXIMIZE], SPACE, np.array([1, 3]))
    assert past.curves is not None
    assert past.curves.values.tolist() == [[0.8, 0.9]]


def test_what_is_no_number_counts_as_the_worst_of_its_rung() -> None:
    steps = [{1: 0.5, 3: 0.4}, {1: 0.9, 3: NAN}, {1: NAN}, {1: INF}]
    past = known([trial(i, one) for i, one in enumerate(steps, 1)], [1, 3, 9])
    assert past.curves.values[:, 0].tolist() == [-0.5, -0.9, -0.9, -0.9]
    assert past.curves.values[:2, 1].tolist() == [-0.4, -0.4]
    assert not len(known([trial(1, {1: NAN})], [1, 3]).X)  # of a rung without any number nothing is known


def test_trials_are_compared_at_the_highest_rung_that_one_has_reached() -> None:
    trials = [trial(i, {1: 0.5, 3: 0.4}) for i in range(1, 5)]
    assert known(trials, [1, 3]).curves.reference == 1
    assert known([*trials, trial(6, {1: 0.5, 3: 0.4, 9: 0.3})], [1, 3, 9]).curves.reference == 2


def test_trials_that_run_are_pending_until_the_reference_and_what_they_showed_is_data() -> None:
    done = [whole(i, {1: 0.5, 3: 0.4}, 0.3) for i in range(1, 5)]
    running = [trial(5, {1: 0.6}, TrialState.RUNNING), trial(6, {1: 0.6, 9: 0.2}, TrialState.RUNNING)]
    fresh = trial(7, {}, TrialState.RUNNING)
    past = known([*done, *running, fresh, trial(8, {}, TrialState.RUNNING)], [1, 3, 9], number=8)
    assert past.X[:, 0].tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert past.pending[:, 0].tolist() == [0.5, 0.7]
    assert past.begun == 7
    silent = known([*done, *running, fresh], [1, 3, 9], dead=[5, 7])
    assert len(silent.X) == 6
    assert not len(silent.pending)


def test_what_a_pruned_trial_showed_is_data_and_no_more() -> None:
    """Taken to end as expected as well, it would leave nothing to be learned at its point at the reference."""
    lost = [trial(3, {1: 0.7}, TrialState.FAIL), trial(4, {})]
    past = known([whole(1, {1: 0.5}, 0.3), trial(2, {1: 0.6}), *lost], [1, 3])
    assert past.X[:, 0].tolist() == [0.1, 0.2]
    assert past.closed[:, 0].tolist() == [0.3, 0.4]


def test_constraints_of_trials_that_have_not_said_are_unknown() -> None:
    done = create_trial(
        value=0.3, params={"x": 0.1}, distributions={"x": UNIT}, intermediate_values={1: 0.5}, constraints={"c": -1.0}
    )
    past = known([done, trial(2, {1: 0.4})], [1, 3])
    assert np.array_equal(past.C, [[-1.0], [NAN]], equal_nan=True)


def curves(n: int = 30) -> tuple[torch.Tensor, Curves]:
    """Ten whole curves and twenty that end at a ninth, of y = -(x - 0.3)^2 - 0.5 exp(-8 r)."""
    X = torch.rand(n, 2, generator=torch.Generator().manual_seed(0))
    shares = np.array([1 / 27, 1 / 9, 1 / 3, 1.0])
    values = -((X[:, :1].numpy() - 0.3) ** 2) - 0.5 * np.exp(-8 * shares)
    values[10:, 2:] = NAN
    return X, Curves(shares, values, 3, n)


def test_curves_of_a_network_are_not_taken_for_noise() -> None:
    """Twelve values at a first step and three at the last: of the evidence alone the noise is above their variance."""
    X = torch.from_numpy(np.random.default_rng(0).uniform(size=(15, 6)))
    values = np.where(np.arange(15)[:, None] // 12 == np.arange(2), Hartmann()(X).numpy()[:, None], NAN)
    shown = Curves(np.array([0.3, 1.0]), values, 1, 15)
    found = fit_curves(Process("nngp"), X, shown, generator=torch.Generator().manual_seed(0))
    assert found.record is not None and found.record.noise < 0.1


MODELS = {
    "gp": (Process(), LearningCurve),
    "kernel by name": (Process("rbf"), LearningCurve),
    "kernel of x": (Process(Matern(1.5)), LearningCurve),
    "kernel over steps": (
        Process(IndependentRungs(Matern(), [1 / 27, 1 / 9, 1 / 3, 1.0]), restarts=1, steps=60),
        IndependentRungs,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_any_kernel_is_fitted_over_the_steps(name: str) -> None:
    model, kind = MODELS[name]
    X, past = curves()
    fitted = fit_curves(model, X, past, generator=torch.Generator().manual_seed(0))
    inner = fitted.surrogate.inner.inner  # type: ignore[attr-defined]
    assert isinstance(inner, FittedProcess)
    assert isinstance(inner.kernel, kind)
    law = fitted.surrogate.posterior(X[:10])
    assert torch.allclose(law.mean[:, 0], torch.from_numpy(past.values[:10, 3]), atol=0.02)
    again = fit_curves(model, X, past, record=fitted.record, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(again.surrogate.posterior(X[:10]).mean, law.mean, atol=0.01)


def test_ends_of_stopped_curves_are_foretold() -> None:
    X, past = curves()
    law = fit_curves(Process(), X, past, generator=torch.Generator().manual_seed(0)).surrogate.posterior(X[10:])
    ends = -((X[10:, 0] - 0.3) ** 2) - 0.5 * np.exp(-8)
    assert (law.mean[:, 0] - ends).abs().max() < 0.05


def test_a_surrogate_that_is_no_process_sees_the_step_as_one_more_input() -> None:
    X, past = curves()
    small = Ensemble(members=2, training=Training(steps=10))
    fitted = fit_curves(small, X, past, generator=torch.Generator().manual_seed(0))
    late, early = (
        fit_curves(small, X, Curves(past.shares, past.values, k, 30), generator=torch.Generator().manual_seed(0))
        for k in (3, 0)
    )
    assert fitted.surrogate.posterior(X).mean.isfinite().all()
    assert not torch.allclose(late.surrogate.posterior(X).mean, early.surrogate.posterior(X).mean)


def sampler(seed: int = 0, **settings: object) -> FieldSampler:
    return FieldSampler(
        Process(restarts=1, steps=40), **{"startup_trials": 6, "budget": QUICK, "seed": seed, **settings}
    )  # type: ignore[arg-type]


def curve(trial: optuna.Trial) -> float:
    x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
    for step in range(1, 10):
        value = (x - 0.3) ** 2 + (y - 0.6) ** 2 + (1 + x) * float(np.exp(-step / (1 + 3 * y)))
        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return value


def studied(n: int, pruner: BasePruner, seed: int = 0) -> optuna.Study:
    study = optuna.create_study(sampler=sampler(seed, fidelity="step"), pruner=pruner, study_name="s")
    study.optimize(curve, n_trials=n)
    return study


PRUNERS = {"halving": SuccessiveHalvingPruner(1, 3), "hyperband": HyperbandPruner(1, 9, 3), "none": NopPruner()}


@pytest.mark.parametrize("pruner", PRUNERS.values(), ids=PRUNERS)
def test_curves_are_minimised_under_every_pruner(pruner: BasePruner) -> None:
    study = studied(22, pruner)
    assert study.best_value < 0.16  # the least is 0.135 at y = 0.55, and the median of random points is 0.38
    if not isinstance(pruner, NopPruner):
        assert any(t.state == TrialState.PRUNED for t in study.trials)


def test_the_same_history_and_seed_suggest_the_same() -> None:
    study = studied(12, SuccessiveHalvingPruner(1, 3))
    found = []
    for _ in range(2):
        twin = optuna.create_study(sampler=sampler(3, fidelity="step"), pruner=SuccessiveHalvingPruner(1, 3))
        twin.add_trials(study.trials)
        asked = twin.ask()
        found.append([asked.suggest_float(name, 0, 1) for name in ("x", "y")])
    assert found[0] == found[1]


def test_with_one_rung_suggestions_are_those_without_steps() -> None:
    def objective(trial: optuna.Trial) -> float:
        value = (trial.suggest_float("x", 0, 1) - 0.3) ** 2 + trial.suggest_float("y", 0, 1)
        trial.report(value, 1)
        return value

    found = []
    for fidelity in (None, "step"):
        study = optuna.create_study(sampler=sampler(fidelity=fidelity), pruner=SuccessiveHalvingPruner(1, 3))
        study.optimize(objective, n_trials=14)
        found.append([t.params for t in study.trials])
    assert found[0] == found[1]


def test_without_reports_it_says_so_and_does_as_without_steps() -> None:
    found = []
    for fidelity in (None, "step"):
        study = optuna.create_study(sampler=sampler(fidelity=fidelity))
        study.optimize(lambda t: (t.suggest_float("x", 0, 1) - 0.3) ** 2, n_trials=6)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("default")
            study.optimize(lambda t: (t.suggest_float("x", 0, 1) - 0.3) ** 2, n_trials=3)
        assert len([w for w in said if "trial.report" in str(w.message)]) == (fidelity is not None)
        found.append([t.params for t in study.trials])
    assert found[0] == found[1]


def test_an_unknown_fidelity_and_several_objectives_are_refused() -> None:
    with pytest.raises(ValueError, match="fidelity must be 'step'.*got 'epoch'"):
        FieldSampler(fidelity="epoch")  # type: ignore[arg-type]
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler(fidelity="step"))
    with pytest.raises(ValueError, match="is for one objective.*got 2"):
        study.ask().suggest_float("x", 0, 1)


@pytest.mark.slow
def test_a_target_is_reached_sooner_than_by_random_search_with_the_same_pruner() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "multi_fidelity.py"
    spec = importlib.util.spec_from_file_location("multi_fidelity", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    times = {way: [module.run(way, seed)["time"] for seed in range(3)] for way in ("asha", "mobster")}
    assert np.median(times["mobster"]) <= 0.7 * np.median(times["asha"])
