"""Optimizer: an optimisation that is asked for points and told their values, or that runs a function itself.

What it knows is an Optuna study in one of Optuna's storages, which any of Optuna's tools opens; a run that is
interrupted, and any number of processes that share the storage, go on from what is there.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from gpytorch.kernels import Kernel
from numpy.typing import ArrayLike

from kernelfield.bo.acquisition import GAINS, check_objectives
from kernelfield.bo.evaluation import Command, Failure, Function, Outcome, outcome, shortened
from kernelfield.bo.fitting import fit, recipe
from kernelfield.bo.history import NOISE, history
from kernelfield.bo.moments import moments
from kernelfield.bo.optuna import FieldSampler
from kernelfield.bo.running import Limits, Run, Suggestion, Watch
from kernelfield.bo.search import Budget
from kernelfield.bo.space import Distribution, Parameters, Space
from kernelfield.bo.storage import FAILURE, open_storage, open_study, without_advice
from kernelfield.bo.workers import pool
from kernelfield.core.contracts import Model

try:
    from botorch.utils.multi_objective.hypervolume import Hypervolume
    from botorch.utils.multi_objective.pareto import is_non_dominated
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
    from optuna.storages import BaseStorage
    from optuna.study import StudyDirection
    from optuna.trial import FrozenTrial, Trial, TrialState
except ImportError as error:
    raise ImportError("optimisation needs botorch and optuna; pip install 'kernelfield[bo]'") from error

DIRECTIONS = ("minimize", "maximize")
TOGETHER = 1024  # points predicted at a time


class FailedTrial(UserWarning):
    """A trial came to nothing; the optimisation goes on."""


class Optimizer:
    """Bayesian optimisation of a function of named parameters.

    space : a Space, or a mapping from names to (low, high), (low, high, "log") or a list of choices.
    surrogate : a name that `kernelfield models` lists, or a model such as Process("matern32").
    acquisition : "auto", or a name of `kernelfield.bo.acquisition`.
    directions : "minimize" or "maximize", one an objective.
    storage : None for memory, or an address; see `kernelfield.bo.storage`.
    name : of the study in its storage. One that is there already is taken up again.
    fidelity, pruner : "step" learns from what `report` is told on the way, and the pruner, Optuna's asynchronous
        successive halving unless another is given, says which trials to stop; see `kernelfield.bo.fidelity`.
    settings : the others of `kernelfield.bo.optuna.FieldSampler`: kernel, startup_trials, reference, most, budget,
        device.

    Errors: ValueError for a space, name or direction that is none, a storage that cannot be reached, or a study
    of this name with other directions or parameters.

    >>> import optuna
    >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
    >>> optimizer = Optimizer({"x": (-1.0, 1.0)}, startup_trials=5, seed=0)
    >>> for _ in range(12):
    ...     [point] = optimizer.ask()
    ...     optimizer.tell(point, (point.parameters["x"] - 0.3) ** 2)
    >>> abs(optimizer.best.params["x"] - 0.3) < 0.01
    True
    """

    def __init__(
        self,
        space: Space | Mapping[str, Any],
        surrogate: str | Model = "gp",
        acquisition: str = "auto",
        *,
        directions: Sequence[str] = ("minimize",),
        storage: str | BaseStorage | None = None,
        name: str = "kernelfield",
        seed: int | None = None,
        kernel: Kernel | str | None = None,
        startup_trials: int = 10,
        reference: tuple[float, ...] | None = None,
        most: int = 2000,
        budget: Budget | None = None,
        device: str = "cpu",
        fidelity: Literal["step"] | None = None,
        pruner: BasePruner | None = None,
    ) -> None:
        directions = (directions,) if isinstance(directions, str) else tuple(directions)
        for one in directions:
            if one not in DIRECTIONS:
                raise ValueError(f"a direction must be 'minimize' or 'maximize', got {one!r}")
        if not directions:
            raise ValueError("directions must name at least one objective's, got none")
        if reference is not None and len(reference) != len(directions):
            raise ValueError(f"reference must have {len(directions)} numbers, one an objective, got {reference}")
        check_objectives(acquisition, len(directions))
        if len(directions) > 1 and (fidelity or pruner):
            raise ValueError(f"fidelity and pruner are for one objective, got {len(directions)}; leave them out")
        self.space = Space.of(space)
        self.acquisition = acquisition
        sampler = FieldSampler(
            surrogate,
            kernel=kernel,
            acquisition=acquisition,
            space=self.space,
            startup_trials=startup_trials,
            reference=reference,
            most=most,
            budget=budget,
            device=device,
            fidelity=fidelity,
            seed=seed,
            warn_independent_sampling=False,
        )
        self.surrogate = surrogate if isinstance(surrogate, str) else type(surrogate).__name__
        self.model = recipe(surrogate, kernel)
        opened = storage if isinstance(storage, BaseStorage) else open_storage(storage)
        self.study = open_study(opened, name, directions, self.space.parameters, sampler)
        self.study.pruner = pruner or (SuccessiveHalvingPruner() if fidelity else NopPruner())
        self._asked: dict[int, Trial] = {}

    def ask(self, n: int = 1) -> list[Suggestion]:
        """Points to evaluate next, each chosen with those before it in mind."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        return [self._ask() for _ in range(n)]

    def tell(
        self,
        trial: Suggestion | int,
        values: Any = None,
        constraints: Mapping[str, float] | Sequence[float] | None = None,
        noise: ArrayLike | None = None,
        *,
        failure: str | None = None,
    ) -> None:
        """What a suggestion came to: its value, or one an objective; or why it came to nothing.

        Values that are not finite, or too many or too few, mark the trial as failed, with a warning.

        constraints : kept where at most 0. One that is not told is unknown; or kept, if all that are told are broken.
        noise : the variance of each value, where it is known: it counts once every trial has one.

        Errors: ValueError for a trial that is not there or has ended.
        """
        number = trial.number if isinstance(trial, Suggestion) else trial
        result: Outcome | Failure
        if failure is not None:
            result = Failure(shortened(failure))
        else:
            try:
                content = {"values": values, "constraints": constraints, "noise": noise}
                result = outcome(content, len(self.study.directions))
            except ValueError as error:
                result = Failure(str(error))
        if not self._settle(number, result):
            raise ValueError(f"trial {number} has ended already; a trial is told once")

    def report(self, trial: Suggestion | int, value: float, step: int) -> bool:
        """Tell what a trial has come to on its way, after so many steps, and learn whether it is worth no more of them.

        Errors: ValueError for a value that is no number, a negative step, several objectives, or a trial that is not
            there or has ended.
        """
        running = self._running(trial, "reports")
        if len(self.study.directions) > 1:
            raise ValueError(f"reports are of one objective, got {len(self.study.directions)}; tell values at the end")
        try:
            running.report(value, step)
        except TypeError as error:
            raise ValueError(f"value must be a number and step a whole one, got {value!r} and {step!r}") from error
        return running.should_prune()

    def stop(self, trial: Suggestion | int) -> None:
        """End a trial before its time; with a fidelity, what it has reported counts.

        Errors: ValueError for a trial that is not there or has ended.
        """
        running = self._running(trial, "is stopped")
        self._asked.pop(running.number, None)
        self.study.tell(running.number, state=TrialState.PRUNED)

    def enqueue(self, parameters: Parameters) -> None:
        """Have a point evaluated before any other; what it leaves open is chosen when its turn comes.

        Errors: ValueError for a name or a value that the space lacks.
        """
        for name, value in parameters.items():
            distribution = self.space.parameters.get(name)
            if distribution is None:
                raise ValueError(f"the space has no parameter {name!r}; it has {', '.join(self.space.parameters)}")
            if not _holds(distribution, value):
                raise ValueError(f"{name!r} cannot be {value!r} in {distribution}")
        self.study.enqueue_trial(dict(parameters))

    def run(
        self,
        function: Function | Command,
        trials: int = 100,
        *,
        workers: int = 1,
        batch: int = 1,
        seconds: float | None = None,
        gain: float | None = None,
        callback: Watch | None = None,
    ) -> None:
        """Evaluate a function until the study has so many trials, those of earlier runs included.

        A failure ends its own trial alone. Ctrl-C stops evaluations, queues their points for the next run, and
        raises KeyboardInterrupt.

        function : of a dictionary of parameters; what it may give back: `kernelfield.bo.evaluation`. Or a Command.
        workers : evaluations at a time; above 1 each in a process of its own, for which the function must stand
            at the top of a module.
        batch : points asked for together, whenever none is left.
        seconds : after which no evaluation is begun.
        gain : in units of the objective (several: of hypervolume). Nothing is begun after a point whose
            expected improvement is smaller.
        callback : is told each trial when it begins and when it ends.

        Errors: ValueError for limits that are none, an acquisition that tells no gain, or a function that cannot
        be sent to workers; those of the storage.
        """
        limits = Limits(trials, batch, seconds, gain)
        if gain is not None and self.acquisition not in GAINS:
            raise ValueError(f"acquisition {self.acquisition!r} tells no gain to stop by; use {', '.join(GAINS)}")
        if isinstance(function, Command):
            function.check(self.space.parameters)
        places = pool(function, len(self.study.directions), workers)
        Run(self.study, self._ask, self._settle, places, limits, callback or _unwatched)()

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, as Optuna holds them."""
        return self.study.get_trials(deepcopy=False)

    @property
    def best(self) -> FrozenTrial | None:
        """The best complete trial that keeps its constraints, the earliest of equals.

        Errors: ValueError with several objectives.
        """
        if len(self.study.directions) > 1:
            raise ValueError(f"{len(self.study.directions)} objectives have no best trial but a front; use .front")
        front = self.front
        return front[0] if front else None

    @property
    def front(self) -> list[FrozenTrial]:
        """The complete trials that keep their constraints and that no other dominates."""
        counted = [
            t
            for t in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if all(value <= 0 for value in t.constraints.values())
        ]
        if not counted:
            return []
        return [t for t, first in zip(counted, is_non_dominated(self._gains(counted)).tolist(), strict=True) if first]

    def hypervolume(self, reference: Sequence[float]) -> float:
        """The volume between the front and a point, one number an objective in its own units.

        Errors: ValueError for another number of them.
        """
        signs = self._signs()
        if len(reference) != len(signs):
            raise ValueError(f"reference must have {len(signs)} numbers, one an objective, got {len(reference)}")
        front = self.front
        corner = signs * torch.tensor(reference, dtype=torch.double)
        return float(Hypervolume(corner).compute(self._gains(front))) if front else 0.0

    def predict(self, points: Sequence[Parameters]) -> tuple[np.ndarray, np.ndarray]:
        """What a surrogate of all complete trials believes of the objectives: means and standard deviations (n, m).

        Errors: ValueError before the first complete trial, for a point without a parameter of the space, and for a
            space of which every parameter has one value.
        """
        self._require_whole(points)
        known = history(self.trials, self.study.directions, self.space)
        if not len(known.X):
            raise ValueError("no trial is complete, and nothing is known yet; tell the value of one first")
        X, at = torch.from_numpy(known.X), torch.from_numpy(self.space.encode(points))
        records = known.told.records if known.told else ()
        laws = []
        for j, (column, sign) in enumerate(zip(known.Y.T, self._signs().tolist(), strict=True)):
            noise = None if known.noise is None else torch.from_numpy(np.ascontiguousarray(known.noise[:, j]))
            y = torch.from_numpy(np.ascontiguousarray(column))
            record, generator = records[j] if j < len(records) else None, torch.Generator().manual_seed(j)
            belief = moments(fit(self.model, X, y, noise=noise, record=record, generator=generator).surrogate)
            parts = [belief.values(part) for part in at.split(TOGETHER)]
            laws.append((torch.cat([sign * mean for mean, _ in parts]), torch.cat([std for _, std in parts])))
        mean, std = (torch.stack(columns, -1).detach().numpy() for columns in zip(*laws, strict=True))
        return mean, std

    def _require_whole(self, points: Sequence[Parameters]) -> None:
        if not self.space.columns:
            raise ValueError("every parameter of the space has a single value, so that there is nothing to predict")
        for point in points:
            if lacking := self.space.lacking(point):
                raise ValueError(f"the point {dict(point)} lacks {lacking[0]!r}; give it a value of the space")

    def _signs(self) -> torch.Tensor:
        up = [1.0 if one == StudyDirection.MAXIMIZE else -1.0 for one in self.study.directions]
        return torch.tensor(up, dtype=torch.double)

    def _gains(self, trials: Sequence[FrozenTrial]) -> torch.Tensor:
        """Values (n, m), more is better."""
        return self._signs() * torch.tensor([t.values for t in trials], dtype=torch.double)

    def _ask(self) -> Suggestion:
        with without_advice():
            trial = self.study.ask()
        conditions = self.space.conditions
        parameters: dict[str, Any] = {}
        for name in sorted(self.space.parameters, key=lambda name: name in conditions):  # parents first
            if self.space.exists(name, parameters):
                parameters[name] = _suggest(trial, name, self.space.parameters[name])
        self._asked[trial.number] = trial
        return Suggestion(
            trial.number, {name: parameters[name] for name in self.space.parameters if name in parameters}
        )

    def _identity(self, number: int) -> int:
        try:
            return self.study._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        except KeyError:
            raise ValueError(f"there is no trial {number}; tell what ask gave") from None

    def _running(self, trial: Suggestion | int, what: str) -> Trial:
        """A trial that has not ended."""
        number = trial.number if isinstance(trial, Suggestion) else trial
        identity = self._identity(number)
        if self.study._storage.get_trial(identity).state != TrialState.RUNNING:
            raise ValueError(f"trial {number} has ended already; a trial {what} while it runs")
        return self._asked.get(number) or Trial(self.study, identity)

    def _settle(self, number: int, result: Outcome | Failure) -> bool:
        """Store what a trial came to; False if it has ended already."""
        storage, identity = self.study._storage, self._identity(number)
        trial = self._asked.pop(number, None)
        if storage.get_trial(identity).state != TrialState.RUNNING:
            return False
        if isinstance(result, Failure):
            storage.set_trial_user_attr(identity, FAILURE, result.message)
            self.study.tell(number, state=TrialState.FAIL)
            warnings.warn(f"trial {number} failed: {result.message}", FailedTrial, stacklevel=3)
            return True
        if result.constraints:
            trial = trial or Trial(self.study, identity)
            for name, value in result.constraints.items():
                trial.set_constraint(name, value)
        if result.noise is not None:
            storage.set_trial_user_attr(identity, NOISE, list(result.noise))
        self.study.tell(number, list(result.values))
        return True


def _suggest(trial: Trial, name: str, distribution: Distribution) -> Any:
    match distribution:
        case FloatDistribution():
            low, high = distribution.low, distribution.high
            return trial.suggest_float(name, low, high, step=distribution.step, log=distribution.log)
        case IntDistribution():
            low, high = distribution.low, distribution.high
            return trial.suggest_int(name, low, high, step=distribution.step, log=distribution.log)
        case CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)


def _holds(distribution: Distribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and bool(distribution._contains(distribution.to_internal_repr(value)))


def _unwatched(trial: FrozenTrial) -> None:
    """A watch that looks away."""
