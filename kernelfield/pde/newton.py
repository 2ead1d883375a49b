"""Nonlinear problems by damped Gauss-Newton steps, each a linear problem with derivative observations.

About an iterate v the equation L u + N(u, Du, ...) = f becomes a linear one with variable coefficients,

    L u + sum_o N_o(v) D^o u = f - N(v) + sum_o N_o(v) D^o v,    N_o = dN / d(D^o u) by autograd,

on whose rows the process is conditioned (`pde.collocation`). A step of length t moves the values that
the rows are conditioned on from those of v to the new ones, so that every iterate is a
posterior mean under one kernel. It is halved until the residual falls. The kernel is learned on the
equation about zero, and again about the solution, from where the iteration goes on.

When no step of at least LEAST reduces a residual that still matters, the iteration stops, keeps the
iterate with the least residual, and says so.

Source: Chen, Hosseini, Owhadi & Stuart (2021), "Solving and learning nonlinear PDEs with Gaussian
processes", for the Gauss-Newton iteration; Nocedal & Wright (2006), for damping.
"""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import NotConverged, NotPositiveDefinite, threads_for
from kernelfield.kernels.bumps import Bump
from kernelfield.pde.collocation import (
    GOOD,
    STEPS,
    Setting,
    bumps,
    describe,
    learn,
    name_of,
    representations,
    seeded,
    settle,
)
from kernelfield.pde.conditioned import Conditioned
from kernelfield.pde.likelihood import Kernel, System
from kernelfield.pde.problem import Nonlinear, Orders, Problem
from kernelfield.pde.rows import Part, Rows
from kernelfield.pde.solution import Solution

ITERATIONS = 30  # Gauss-Newton steps at most, under each kernel
LEAST = 1 / 128  # the shortest step before the iteration is given up
CLOSE = 1e-9  # relative change of u with which it has converged
SMALL = 1e-5  # a relative residual that a floor of noise may leave


@dataclass(frozen=True, eq=False)
class Path:
    """An iteration: where it ended, relative residuals step by step, and whether it converged."""

    system: System
    history: tuple[float, ...]
    converged: bool


def solve_newton(
    problem: Problem,
    *,
    kernel: str = "auto",
    grid: int | Sequence[int] | None = None,
    observations: Data | None = None,
    steps: int = STEPS,
    device: torch.device | str = "cpu",
) -> Solution:
    """Solve a nonlinear problem at points of a grid; arguments as for `solve_collocation`.

    Warns NotConverged, and returns the best iterate, where the iteration does not converge.
    """
    form = problem.nonlinearity
    if form is None:
        raise ValueError(f"{problem.name} is linear and needs no iteration; take solver='collocation'")
    began = time.perf_counter()
    setting = settle(problem, grid, observations, device)
    found: list[tuple[float, float, str, Path]] = []
    with threads_for(len(setting.points.interior)):
        for bump in bumps(problem, kernel):
            path = _attempt(setting, form, bump, steps)
            relative, weak = setting.residual(path.system)
            found.append((weak if path.converged else float("inf"), relative, name_of(bump), path))
            if path.converged and relative < GOOD:
                break
        _, relative, name, path = min(found, key=lambda one: one[:2])
        representation, learned, doubtful = representations(setting, path.system)
        condition = path.system.condition
    message = f"{len(path.history) - 1} Gauss-Newton steps"
    if not path.converged:
        message = (
            f"the Gauss-Newton iteration for {problem.name} stopped after {len(path.history) - 1} steps at a relative "
            f"residual of {min(path.history):.2g} and keeps the iterate with that; take a finer grid"
        )
        warnings.warn(message, NotConverged, stacklevel=2)
    return Solution(
        problem.settled(path.system.kernel.unknowns),
        representation,
        f"newton, {name}, {describe(setting)}",
        {"covariance": condition},
        time.perf_counter() - began,
        relative,
        path.history,
        path.converged,
        message + doubtful,
        learned,
    )


def _attempt(setting: Setting, form: Nonlinear, bump: Bump, steps: int) -> Path:
    """The iteration under the kernel learned about zero, then under the one learned about its end."""
    zeros = [torch.zeros_like(setting.points.interior[:, 0])] * len(form.orders)
    rows = setting.rows(_linearised(setting, form, zeros))
    kernel = _learned(setting, rows, seeded(setting, rows, bump), steps)
    path = _iterate(setting, form, kernel, None)
    if not steps:
        return path
    for _ in range(3 if setting.problem.unknowns else 1):
        try:
            kernel = _learned(setting, path.system.rows, path.system.kernel, steps)
            again = _iterate(setting, form, kernel, path.system)
        except NotPositiveDefinite:
            return path
        better = setting.residual(again.system) < setting.residual(path.system)
        again = replace(again, history=path.history + again.history[1:])
        path = again if better or setting.problem.unknowns or not path.converged else path
    return path


def _learned(setting: Setting, rows: tuple[Rows, ...], kernel: Kernel, steps: int) -> Kernel:
    return learn(setting, rows, kernel, steps)[0] if steps else kernel


def _iterate(setting: Setting, form: Nonlinear, kernel: Kernel, begin: System | None) -> Path:
    """Damped Gauss-Newton steps from an earlier solution, or from zero, under one kernel."""
    system, now = begin, _state(setting, form, kernel, begin)
    history = [now.relative]
    for _ in range(ITERATIONS):
        rows = setting.rows(_linearised(setting, form, now.values))
        full = System.of(kernel, rows)
        target = torch.cat([group.targets for group in rows])
        old = _row_values(system, rows)
        length = 1.0
        while True:
            trial = full if length == 1 else full.with_targets(old + length * (target - old))
            new = _state(setting, form, kernel, trial)
            if new.relative < now.relative * (1 - 1e-3 * length) or length < LEAST:
                break
            length /= 2
        if not new.relative < now.relative:
            # Under the floor of the noise no step helps any more.
            settled = system is not None and now.relative < SMALL
            return Path(system or full, tuple(history), settled)
        moved = float((new.u - now.u).norm()) / max(float(new.u.norm()), 1e-300)
        system, now = trial, new
        history.append(now.relative)
        if moved < CLOSE:
            return Path(system, tuple(history), True)
    return Path(system or full, tuple(history), now.relative < SMALL)


@dataclass(frozen=True, eq=False)
class _State:
    """An iterate at the points of the equation: u, the derivatives in N, and its relative residual."""

    u: Tensor
    values: list[Tensor]
    relative: float


def _state(setting: Setting, form: Nonlinear, kernel: Kernel, system: System | None) -> _State:
    X, problem = setting.points.interior, setting.problem.settled(kernel.unknowns)
    known: dict[Orders, Tensor] = {}

    def derivative(orders: Orders) -> Tensor:
        if orders not in known:
            known[orders] = X.new_zeros(len(X)) if system is None else Conditioned(system).mean(X, orders)
        return known[orders]

    residual = problem.residual(X, derivative)
    parts = [problem.source(X), form.at(X, [derivative(orders) for orders in form.orders])]
    parts += [term.at(X) * derivative(term.orders) for term in problem.operator]
    # From zero everything is residual, the boundary values included, whatever the source.
    scale = max(float(part.norm()) for part in parts)
    relative = 1.0 if system is None else float(residual.norm()) / (scale or 1.0)
    relative = relative if relative == relative else float("inf")
    return _State(derivative(setting.zero), [derivative(orders) for orders in form.orders], relative)


def _linearised(setting: Setting, form: Nonlinear, values: Sequence[Tensor]) -> Rows:
    """The equation about an iterate with these derivatives."""
    linear, X = setting.equation(), setting.points.interior
    value, slopes = form.linearised(X, values)
    parts = tuple(Part(slope, orders) for slope, orders in zip(slopes, form.orders, strict=True))
    shift = sum((slope * v for slope, v in zip(slopes, values, strict=True)), -value)
    return replace(linear, parts=linear.parts + parts, targets=linear.targets + shift)


def _row_values(system: System | None, rows: tuple[Rows, ...]) -> Tensor:
    """What an iterate gives for each row."""
    if system is None:
        return torch.cat([torch.zeros_like(group.targets) for group in rows])
    given, values = Conditioned(system), []
    for group in rows:
        total = torch.zeros_like(group.targets)
        for part in group.parts:
            factor = 1.0 if part.unknown is None else system.kernel.unknowns[part.unknown]
            total = total + factor * part.coefficient * given.mean(group.X, part.orders)
        values.append(total)
    return torch.cat(values)
