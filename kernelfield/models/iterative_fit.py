"""Fitting an exact process to many rows by iterations.

A sample of rows has an evidence that is exact and cheap: the starts race on it. Where that ends is near to where all
rows lead, and its Hessian a number observed is about theirs, so that a few slopes of the evidence of all rows
(`models.iterative_evidence`) are enough to get there (`models.slope_search`). They are most of the work, and what a
checkpoint keeps (`models.slope_record`).
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from gpytorch.kernels import Kernel

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import NotConverged, threads_for
from kernelfield.linalg.ranks import here
from kernelfield.models.evidence import Learning, Objective, Trend
from kernelfield.models.fit import Search
from kernelfield.models.iterative_evidence import PROBES, Ladder, StochasticEvidence
from kernelfield.models.iterative_process import FittedIterativeProcess, SolvePlan
from kernelfield.models.search import kernel_for, race, sample
from kernelfield.models.slope_record import SlopeRecord, request_of
from kernelfield.models.slope_search import Descent, Evaluation, descend, hessian_at
from kernelfield.models.solver_choice import Chosen, Solver, product_for, rank_for, single_fits

SAMPLE = 2048  # rows of which the evidence is exact before all rows count: some tenths of a second each
MIDDLE = 8192  # rows between these and many more: what they teach is cheap, and spares evaluations on all
FULL_STEPS = 12  # evaluations on all rows, at most
PRODUCTS = 60  # of one matrix that are expected in an evaluation


class Fitting(Learning, Protocol):
    """What an iterative fit reads of a `Process`."""

    kernel: Kernel | str | None
    checkpoint: str | None


def fit_iteratively(model: Fitting, data: Data, chosen: Chosen, generator: torch.Generator) -> "FittedIterativeProcess":
    """Fit by iterations; the settings have been checked."""
    kernel = kernel_for(model.kernel, data.X, data.Y.var(0, correction=0).mean().clamp_min(1e-12))
    trend, noise, mixing = Trend.of(model.mean, data.X), float(model.noise), model.mixing
    drawn = torch.randint(2**62, (1,), generator=generator)
    seed = int(here().broadcast(drawn) if chosen.solver == "distributed" else drawn)  # ranks draw the same numbers
    record = None if model.checkpoint is None else _record(model, data, chosen, seed)
    seed = seed if record is None else record.seed
    generator = torch.Generator().manual_seed(seed)
    searches, course, ladder = list[Search](), None, Ladder(chosen.solver, rank_for(len(data.X)), seed)
    with threads_for(len(data.X)):
        if model.steps:
            few = sample(data, SAMPLE, generator)
            form = Objective.of(model, kernel, few)
            theta, searches = _guess(model, kernel, form, few, generator)
            if theta is not None:
                if len(data.X) > 2 * MIDDLE and not (record is not None and record.begun):
                    some, first = sample(data, MIDDLE, generator), Ladder(chosen.solver, rank_for(MIDDLE), seed)
                    theta, _ = _climb(model, chosen.solver, some, form, theta, first)
                    # More rows leave a factor of low rank more to do: where it was not enough, it will not be.
                    ladder.factored = first.factored and single_fits(chosen.solver, len(data.X), data.X.device)
                theta, course = _climb(model, chosen.solver, data, form, theta, ladder, record)
                parameters, noise, mixing = form.split(theta)
                form.covariance.assign(parameters)
        kernel.requires_grad_(False)
        plan = SolvePlan(chosen.solver, chosen.reason, ladder.rank, seed, ladder.factored, course)
        return FittedIterativeProcess.of(kernel, noise, mixing, data, trend, plan, tuple(searches))


def _record(model: Fitting, data: Data, chosen: Chosen, seed: int) -> SlopeRecord:
    """The record of the search on all rows, begun or new."""
    names = ["kernel", "mean", "noise", "mixing", "restarts", "steps", "learn_noise", "learn_mixing"]
    names += ["noise_prior"] * (model.noise_prior is not None)
    request = request_of(data, **{name: getattr(model, name) for name in names}, solver=chosen.solver)
    return SlopeRecord.open(str(model.checkpoint), request, seed, here())


def _guess(
    model: Fitting, kernel: Kernel, form: Objective, few: Data, generator: torch.Generator
) -> tuple[np.ndarray | None, list[Search]]:
    """The best parameters for a sample of rows, or None where all are held."""
    if all(low == high for low, high in form.bounds()):
        return None, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConverged)  # what the sample leaves undone, all rows go on with
        return race(
            lambda part: form if part is few else Objective.of(model, kernel, part),
            few,
            restarts=model.restarts,
            steps=model.steps,
            generator=generator,
        )


def _climb(
    model: Fitting,
    solver: Solver,
    data: Data,
    form: Objective,
    theta: np.ndarray,
    ladder: Ladder,
    record: SlopeRecord | None = None,
) -> tuple[np.ndarray, Descent]:
    """Go on from theta on more rows, where the curvature is about that of the sample."""
    trend, n, bounds = Trend.of(model.mean, data.X), len(data.X), form.bounds()
    kernel = form.covariance.kernel
    evidence = StochasticEvidence(form, data, trend, lambda: product_for(solver, kernel, data.X, PRODUCTS), ladder)
    steps = min(FULL_STEPS, model.steps)
    hessian = hessian_at(form, theta, bounds)
    loss: Callable[[np.ndarray], Evaluation] = evidence
    if record is not None:
        theta, hessian = record.start(theta, hessian)
        loss = record.loss(evidence)
    # In nats a number observed: what the random vectors cost by themselves, see `models.iterative_evidence`.
    enough = len(theta) / (2 * PROBES) / evidence.Y.numel()
    best, course = descend(loss, theta, hessian, bounds, enough=enough, evaluations=steps, label=f"fit to {n} rows")
    ladder.held = None  # makes room
    return best, replace(course, gain=course.gain * evidence.Y.numel())
