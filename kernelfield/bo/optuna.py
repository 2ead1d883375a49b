"""FieldSampler: any surrogate of the package as a sampler of Optuna.

It keeps nothing between calls. What it needs from one suggestion to the next, the hyperparameters from
which the next fit starts, and what other processes need of it, the parameters of trials that still run,
stands beside the trials in Optuna's storage. So any number of processes, started and stopped at any time,
work on one study, and two samplers with the same seed suggest the same from the same trials.
"""

import warnings
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from gpytorch.kernels import Kernel

from kernelfield.bo.fidelity import progress, rungs
from kernelfield.bo.fitting import recipe
from kernelfield.bo.history import History, Told, history, read, whole, write
from kernelfield.bo.search import Budget
from kernelfield.bo.space import Space
from kernelfield.bo.suggestion import Settings, scattered, suggest
from kernelfield.core.contracts import Model

try:
    from optuna import Study, logging
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.storages._heartbeat import is_heartbeat_enabled
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise ImportError("optimisation needs botorch and optuna; pip install 'kernelfield[bo]'") from error

ATTEMPTS = 4  # to find a point that no other process has just been told of
NEAR = 0.01  # of a side of the cube, within which two processes would do the same work

_logger = logging.get_logger(__name__)


class FieldSampler(BaseSampler):
    """Bayesian optimisation in Optuna with any surrogate.

    surrogate : a name that `kernelfield models` lists, or a model such as Process("matern32").
    kernel : with surrogate "gp", the kernel of the exact process: a name or any GPyTorch kernel.
    acquisition : "auto", or a name of `kernelfield.bo.acquisition`.
    space : where parameters are known beforehand, all of them, with conditions if some exist only beside
        certain values of others; None learns them from the trials, each with the range that it had last, and
        samples those that not every trial has independently of the others.
    startup_trials : trials at points of a quasi-random sequence before the surrogate is asked.
    reference : the point that hypervolume is measured from, one number an objective.
    most : trials that are fitted at most; of more, the best half of so many and a random rest.
    budget : how hard the acquisition function is searched.
    fidelity : "step" learns from what trials report on their way too, those that were pruned and those that run among
        them: with `SuccessiveHalvingPruner` or `HyperbandPruner`, which decide when a trial stops, this is
        model-based asynchronous Hyperband. See `kernelfield.bo.fidelity`. Known variances are not looked at.
    seed : of all randomness; None takes one from the operating system.

    Where every trial's value is known with a variance, say so by
    trial.set_user_attr("kernelfield:noise", variance). Constraints are those of `Trial.set_constraint`.

    Errors: ValueError for an unknown surrogate, acquisition or fidelity, fewer than one start-up trial, or a fidelity
        with several objectives.

    >>> import optuna
    >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
    >>> study = optuna.create_study(sampler=FieldSampler(startup_trials=5, seed=0))
    >>> study.optimize(lambda trial: (trial.suggest_float("x", -1, 1) - 0.3) ** 2, n_trials=12)
    >>> abs(study.best_params["x"] - 0.3) < 0.01
    True
    """

    def __init__(
        self,
        surrogate: str | Model = "gp",
        *,
        kernel: Kernel | str | None = None,
        acquisition: str = "auto",
        space: Space | Mapping[str, Any] | None = None,
        startup_trials: int = 10,
        reference: tuple[float, ...] | None = None,
        most: int = 2000,
        budget: Budget | None = None,
        device: str = "cpu",
        fidelity: Literal["step"] | None = None,
        seed: int | None = None,
        warn_independent_sampling: bool = True,
    ) -> None:
        if startup_trials < 1:
            raise ValueError(f"startup_trials must be at least 1, as a surrogate needs a trial, got {startup_trials}")
        if fidelity not in (None, "step"):
            raise ValueError(
                "fidelity must be 'step', to learn from the values that trials report on their way, or None, "
                f"got {fidelity!r}"
            )
        self._fidelity = fidelity
        self._settings = Settings(recipe(surrogate, kernel), acquisition, reference, most, budget, device)
        self._space = None if space is None else Space.of(space)
        self._startup_trials = startup_trials
        self._warn = warn_independent_sampling
        self._seed = _entropy() if seed is None else seed

    def reseed_rng(self) -> None:
        self._seed = _entropy()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if self._fidelity and len(study.directions) > 1:
            raise ValueError(
                f"fidelity={self._fidelity!r} is for one objective, as Optuna reports the steps of one, "
                f"got {len(study.directions)}; leave it out"
            )
        if self._space is not None:
            return dict(self._space.parameters)
        return {name: d for name, d in self._common(study).items() if not d.single()}

    def _common(self, study: Study) -> dict[str, BaseDistribution]:
        """The parameters that every trial has, as the latest had them.

        Optuna's intersection leaves out one whose range has changed. Here trials within the new range remain data.
        """
        states = (TrialState.COMPLETE, TrialState.PRUNED) if self._fidelity else (TrialState.COMPLETE,)
        trials = [t.distributions for t in study.get_trials(deepcopy=False, states=states)]
        names = set.intersection(*map(set, trials)) if trials else set[str]()
        return {name: trials[-1][name] for name in sorted(names)}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        space = self._space or Space(search_space)  # type: ignore[arg-type]
        if kept := read(trial):  # it is queued again, and stays the point that it was, however much was asked of it
            point = {name: v for name, v in {**kept.parameters, **trial.params}.items() if name in space.parameters}
            if whole(point, space):
                return point
        known = self._known(study, space, trial.number)
        if self._fidelity and known.curves is None and len(known.X) >= self._startup_trials:
            self._require_reports(study)
        for _ in range(ATTEMPTS):
            told = self._told(study, trial, space, known)
            write(study._storage, trial._trial_id, told)
            # Processes that suggest at the same moment do not see each other until both have written.
            if not told.records:
                break
            later = self._known(study, space, trial.number)
            if not _meets(space.encode([told.parameters]), known.pending, later.pending):
                break
            known = later
        return dict(told.parameters)

    def _told(self, study: Study, trial: FrozenTrial, space: Space, known: History) -> Told:
        """What to try next, by what is known."""
        if not space.columns or not len(known.X) or known.begun < self._startup_trials:
            told = scattered(space, trial.number, self._seed)
        else:
            signs = np.array([1.0 if d == StudyDirection.MAXIMIZE else -1.0 for d in study.directions])
            told = suggest(space, known, self._settings, signs, seed=self._derived(trial.number))
        # By Study.enqueue_trial, or what a trial that is queued again had asked for; nothing was said of that point.
        if fixed := {**trial.system_attrs.get("fixed_params", {}), **trial.params}:
            return Told({**told.parameters, **fixed})
        return told

    def _known(self, study: Study, space: Space, number: int) -> History:
        """What the other trials say."""
        dead = study._storage._get_stale_trial_ids(study._study_id) if is_heartbeat_enabled(study._storage) else ()  # type: ignore[attr-defined]
        if self._fidelity:
            # Under a Hyperband, the study would give the trials of one bracket alone.
            trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
            steps = rungs(study.pruner, trials)
            if len(steps):
                return progress(trials, study.directions, space, steps, number=number, dead=dead)
        return history(study.get_trials(deepcopy=False), study.directions, space, number=number, dead=dead)

    def _require_reports(self, study: Study) -> None:
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        if not len(rungs(study.pruner, trials)):
            warnings.warn(
                "fidelity='step' learns from what trials report, and none has reported anything: they are compared "
                "by their final values; call trial.report(value, step) in the objective, or leave fidelity out",
                stacklevel=3,
            )

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if self._warn and self._startup_trials <= sum(
            t.state == TrialState.COMPLETE for t in study.get_trials(deepcopy=False)
        ):
            why = self._why_alone(study, param_name, param_distribution)
            _logger.warning(f"{param_name!r} of trial {trial.number} is drawn at random, as {why}")
        space = Space({param_name: param_distribution})  # type: ignore[dict-item]
        seed = self._derived(trial.number, zlib.crc32(param_name.encode()))
        return space.decode(space.scattered(1, seed))[0][param_name]

    def _why_alone(self, study: Study, name: str, asked: BaseDistribution) -> str:
        """Why a parameter is not chosen by the surrogate."""
        common = self._common(study) if self._space is None else self._space.parameters
        if name in common:
            source = "trials before had" if self._space is None else "the space has"
            return f"the objective asks for it in {asked}, where {source} {common[name]}"
        if self._space is not None:
            return f"the space that FieldSampler was given lacks it; it has {', '.join(common)}"
        return (
            "not every trial has it; give FieldSampler the space, with its conditions, to have it chosen by the "
            "surrogate"
        )

    def _derived(self, *key: int) -> int:
        """A seed of its own for each trial, and each parameter of it."""
        return int(np.random.SeedSequence([self._seed, *key]).generate_state(1)[0]) % 2**31


def _meets(point: np.ndarray, before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a point that was pending after, and not before, is near this one."""
    new = [row for row in after if not (np.abs(before - row).max(1, initial=0.0) == 0).any()]
    return any(np.abs(point - row).max(initial=0.0) < NEAR for row in new)


def _entropy() -> int:
    return int(np.random.SeedSequence().generate_state(1)[0])
