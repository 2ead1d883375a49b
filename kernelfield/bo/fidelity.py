"""Optimisation of what is watched as it goes: one process over parameters and steps, f(x, r).

Trials report values on their way (`Trial.report`). Optuna's pruner decides when a trial is stopped; the process
decides what is tried next, from all that trials have shown, those that were stopped and those that run
among them. With `SuccessiveHalvingPruner` this is the model-based asynchronous successive halving of
Klein et al., with `HyperbandPruner` its Hyperband; the process is one over all brackets.

    rungs      the steps at which the pruner decides, first * factor^k, and the longest step seen. Under another pruner,
               or none, they double from the first step. A value counts at the last rung that it has reached,
               the first value there only, so that a long curve gives a few rows and not thousands.
    r          the rung as a share of the longest
    f          `LearningCurve` of the kernel of x, where the surrogate is a process; others see r as one more input
    reference  the highest rung that any trial has reached. There expected improvement is sought, over the best
               that is expected of any trial, and trials that have not reached it are pending: taken to end
               as expected, what they have reported being data already. How early values compare with late ones is for
               the process to say: waiting until several trials are that far made searches a third longer in the
               geometric mean of sixty problems of `benchmarks/multi_fidelity.py`.

The value of a complete trial is its value at the last rung, whatever it reported there. Once all values stand on
one rung, this is optimisation without steps.

Sources: Klein, Tiao, Lienart, Archambeau & Seeger (2020), "Model-based Asynchronous Hyperparameter and Neural
Architecture Search" (MOBSTER); Li et al. (2020), "A System for Massively Parallel Hyperparameter Tuning".
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import torch
from gpytorch.kernels import Kernel
from optuna.pruners import BasePruner, HyperbandPruner, PatientPruner, SuccessiveHalvingPruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from kernelfield.bo.at_step import AtStep
from kernelfield.bo.fitting import Fitted, Record, cube, fit
from kernelfield.bo.history import Curves, History, closed, finite, history, limits, read, whole
from kernelfield.bo.space import Space
from kernelfield.core.contracts import Model
from kernelfield.estimators.scaling import Scaled
from kernelfield.kernels.learning_curve import LearningCurve, StepKernel
from kernelfield.kernels.named import named
from kernelfield.models.process import Process

AUTO = 100  # the pruner's own rule, where its first rung is "auto": this part of the longest complete run
WATCHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


def rungs(pruner: BasePruner, trials: Sequence[FrozenTrial]) -> np.ndarray:
    """The steps (k,) at which trials are looked at, ascending; none where no trial has reported.

    >>> from optuna.trial import create_trial
    >>> rungs(SuccessiveHalvingPruner(1, 3), [create_trial(value=0.0, intermediate_values={1: 0.5, 20: 0.0})])
    array([ 1,  3,  9, 20])
    """
    reported = [t for t in trials if t.intermediate_values]
    if not reported:
        return np.empty(0, dtype=int)
    top = max(max(t.intermediate_values) for t in reported)
    first, factor = _ladder(pruner, reported)
    steps = {top}
    while first < top:
        steps.add(first)
        first *= factor
    return np.array(sorted(steps))


def _ladder(pruner: BasePruner | None, reported: Sequence[FrozenTrial]) -> tuple[int, int]:
    """The first rung and the factor from each to the next."""
    match pruner:
        case PatientPruner():
            return _ladder(pruner._wrapped_pruner, reported)
        case HyperbandPruner():
            return pruner._min_resource, pruner._reduction_factor
        case SuccessiveHalvingPruner():
            least = pruner._min_resource
            if least is None:
                ended = [max(t.intermediate_values) for t in reported if t.state == TrialState.COMPLETE]
                least = max(1, max(ended, default=1) // AUTO)
            return least * pruner._reduction_factor**pruner._min_early_stopping_rate, pruner._reduction_factor
        case _:
            return max(1, min(min(t.intermediate_values) for t in reported)), 2


def progress(
    trials: Sequence[FrozenTrial],
    directions: Sequence[StudyDirection],
    space: Space,
    steps: np.ndarray,
    *,
    number: int | None = None,
    dead: Collection[int] = (),
) -> History:
    """What trials over a space have shown at these rungs (k,), but for the one of this number.

    dead : identities of trials whose process no longer answers; what they have shown counts, and they are not pending.

    Errors: those of `history`.
    """
    plain = history(trials, directions, space, number=number, dead=dead)
    told = {t.number: read(t) for t in trials if t.state == TrialState.RUNNING and t.number != number}
    found = [t for t in trials if t.state in WATCHED and t.number != number]
    points = [{**(kept.parameters if (kept := told.get(t.number)) else {}), **t.params} for t in found]
    inside = [i for i, point in enumerate(points) if whole(point, space)]
    found, X = [found[i] for i in inside], space.encode([points[i] for i in inside])
    sign = 1.0 if directions[0] == StudyDirection.MAXIMIZE else -1.0
    values = _at_rungs(found, steps, sign)
    seen = np.isfinite(values)
    counts, shown = seen.sum(0), seen.any(1)
    reference = max(np.flatnonzero(counts).tolist(), default=0)
    waits = np.array([t.state == TrialState.RUNNING and t._trial_id not in dead for t in found], dtype=bool)
    waits &= ~seen[:, reference:].any(1)
    last = values.shape[1] - 1 - seen[:, ::-1].argmax(1)
    heard = {found[i].number for i in np.flatnonzero(shown).tolist()}
    single = np.count_nonzero(counts) == 1
    return replace(
        plain,
        X=X[shown],
        Y=values[np.arange(len(found)), last][shown, None],
        C=limits(found)[shown],
        noise=None,
        pending=X[waits],
        closed=closed([t for t in trials if t.number not in heard], space),  # what others showed is data
        curves=None if single else Curves(steps / max(1, steps[-1]), values[shown], reference, len(found)),
    )


def _at_rungs(trials: Sequence[FrozenTrial], steps: np.ndarray, sign: float) -> np.ndarray:
    """The values (n, k) of trials at rungs, more is better, NaN where there is none.

    What is infinite, or not a number, counts as the extremes of its rung, the worst where it is not a number.
    """
    values = np.full((len(trials), len(steps)), np.nan)
    for row, trial in zip(values, trials, strict=True):
        passed = np.array(sorted(trial.intermediate_values), dtype=int)
        places, firsts = np.unique(np.searchsorted(steps, passed, side="right") - 1, return_index=True)
        shown = sign * np.array([trial.intermediate_values[s] for s in passed[firsts].tolist()], dtype=float)
        on = places >= 0
        row[places[on]] = np.where(np.isnan(shown), -np.inf, shown)[on]
        if trial.state == TrialState.COMPLETE:
            row[-1] = sign * trial.values[0]
    for column in values.T:
        seen = ~np.isnan(column)
        column[seen] = finite(column[seen, None])[:, 0] if np.isfinite(column).any() else np.nan
    return values


def fit_curves(
    model: Model, X: Tensor, curves: Curves, *, record: Record | None = None, generator: torch.Generator
) -> Fitted:
    """The surrogate, at the reference, of the curves of trials at points X (n, d) of the unit cube."""
    d = X.shape[1]
    values = torch.from_numpy(curves.values).to(X)
    trial, rung = values.isfinite().nonzero(as_tuple=True)
    shares = torch.from_numpy(curves.shares).to(X)
    x_map, joint = cube(X, d), cube(X, d + 1)
    if isinstance(model, Process):
        model = replace(model, kernel=_over_steps(model.kernel, X))
        joint.shift[-1], joint.scale[-1] = 0.0, 1.0  # such a kernel sees the share itself
    rows = torch.cat([X[trial], shares[rung, None]], -1)
    fitted = fit(model, rows, values[trial, rung], record=record, generator=generator, x_map=joint)
    step = (shares[curves.reference] - joint.shift[-1]) / joint.scale[-1]
    at = AtStep(fitted.surrogate.inner, step)
    return Fitted(Scaled(at, x_map, fitted.surrogate.to_model_y), fitted.record)


def _over_steps(kernel: Kernel | str | None, X: Tensor) -> StepKernel:
    """A kernel over (x, r), made from one of x unless it is one."""
    if isinstance(kernel, StepKernel):
        return kernel
    if not isinstance(kernel, Kernel):
        kernel = named("matern52" if kernel is None else kernel, torch.ones_like(X[0]), X.new_ones(()))
    return LearningCurve.of(kernel, inputs=X.shape[1])
