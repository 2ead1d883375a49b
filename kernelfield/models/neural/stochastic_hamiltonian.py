"""Stochastic-gradient Hamiltonian Monte Carlo: motion with friction, on mini-batches, without rejection.

    dq = r dt,    dr = grad l(q) dt - c r dt + sqrt(2 c) dw

is split into parts that are each solved exactly: friction with noise, an Ornstein-Uhlenbeck process
over a step e, r <- exp(-c e) r + sqrt(1 - exp(-2 c e)) xi, and around it a leapfrog step, half a
kick, a drift and half a kick. The next half kick is made at the same place, so that a step needs one
slope. With all rows and a Gaussian of unit variance the stationary variance is 1 / (1 - e^2 / 4).

With mini-batches the log density is a sum of parts, one a batch, whose kicks follow each other in an
order drawn anew for each pass over the rows, all before any a second time: a splitting of its own,
with an error of e^2 however the batches are drawn. Every chain has its own order.

During warm-up the mass of a parameter becomes the running mean square of its slope, as in Adam, at
least the one that a standard normal prior alone would give it. It is held afterwards.

Sources: Chen, Fox & Guestrin (2014), "Stochastic Gradient Hamiltonian Monte Carlo"; Franzese,
Milios, Filippone & Michiardi, "Revisiting the Effects of Stochasticity for Hamiltonian Samplers";
Springenberg, Klein, Falkner & Hutter (2016), "Bayesian Optimization with Robust Bayesian Neural
Networks", for the mass; Zhang, Li, Zhang, Chen & Wilson (2020), "Cyclical Stochastic Gradient MCMC".
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from kernelfield.models.neural.chains import Chains, check_counts, require_finite
from kernelfield.models.neural.leapfrog import State, normals

BatchDensity = Callable[[Tensor, Tensor | None], Tensor]  # (k, p) and rows (k, b), None for all, to (k,)

MEMORY = 0.99  # of the running mean square of slopes
LEAST = 1e-2  # of the step, at the end of a cycle
PAUSE = 0.5  # seconds between two messages

_log = logging.getLogger("kernelfield.models.fit")


def sghmc(
    density: BatchDensity,
    start: Tensor,
    *,
    generator: torch.Generator,
    rows: int,
    batch: int | None = None,
    step: float = 0.1,
    friction: float = 1.0,
    warmup: int = 1000,
    draws: int = 100,
    thin: int = 20,
    schedule: Literal["constant", "cyclic"] = "constant",
    adapt: bool = True,
) -> Chains:
    """Draws (s, k, p) of k chains that start at positions (k, p), a draw after each `thin` steps.

    density: the log density of positions given rows (k, b), which stand for all `rows` of the data.
    batch: rows of a mini-batch; None is all of them.
    schedule: "cyclic" lets the step fall from twice its size to nearly zero before each draw.
    adapt: whether warm-up learns the masses; otherwise they are one.

    Errors: ValueError for counts, a step or a friction that are not positive, an unknown schedule,
        a start without a finite log density, and a chain that leaves the finite numbers.

    >>> generator = torch.Generator().manual_seed(0)
    >>> density = lambda q, rows: -q.square().sum(-1) / 2
    >>> sghmc(density, torch.zeros(4, 2), generator=generator, rows=1).draws.shape
    torch.Size([100, 4, 2])
    """
    _check(step, friction, batch, schedule)
    check_counts(warmup, draws, thin)
    order = _batches(rows, batch, len(start), generator)
    first = next(order)
    state = require_finite(State.at(lambda q: density(q, first), start))
    slope, position = state.slope, state.position
    momentum, spread = normals(position, generator), torch.ones_like(position[0])
    square, weight = torch.zeros_like(spread), 0.0
    kept, begun = [], time.monotonic()
    for number in range(warmup + draws * thin):
        size = step if schedule == "constant" or number < warmup else _cyclic(step, (number - warmup) % thin, thin)
        if adapt and number < warmup:
            square = MEMORY * square + (1 - MEMORY) * slope.square().mean(0)
            weight = MEMORY * weight + 1 - MEMORY
            spread = (square / weight).clamp_min(1.0).rsqrt()
        position, momentum, slope = underdamped_step(
            density, position, momentum, slope, next(order), normals(position, generator), size, friction, spread
        )
        if number >= warmup and (number - warmup + 1) % thin == 0:
            kept.append(_finite(position, number, step))
        if time.monotonic() - begun > PAUSE:
            begun = time.monotonic()
            _log.info("step %d of %d", number + 1, warmup + draws * thin)
    return Chains(torch.stack(kept), step, spread, warmup + draws * thin + 1)


def underdamped_step(
    density: BatchDensity,
    position: Tensor,
    momentum: Tensor,
    slope: Tensor,
    rows: Tensor | None,
    noise: Tensor,
    step: float,
    friction: float,
    spread: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Position, momentum and slope (k, p) after friction with its noise and a leapfrog step.

    slope: of the log density at the position, for the first half kick; the second has that of `rows`.
    """
    kept = math.exp(-friction * step)
    momentum = kept * momentum + math.sqrt(-math.expm1(-2 * friction * step)) * noise
    momentum = momentum + step / 2 * spread * slope
    slope, position = _slope(density, position + step * spread * momentum, rows)
    return position, momentum + step / 2 * spread * slope, slope


def _slope(density: BatchDensity, position: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    state = State.at(lambda q: density(q, rows), position)
    return state.slope, state.position


def _check(step: float, friction: float, batch: int | None, schedule: str) -> None:
    for name, value in (("step", step), ("friction", friction)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    if batch is not None and batch < 1:
        raise ValueError(f"batch must be at least 1 row, got {batch}; None takes all rows")
    if schedule not in ("constant", "cyclic"):
        raise ValueError(f"schedule must be 'constant' or 'cyclic', got {schedule!r}")


def _batches(rows: int, batch: int | None, chains: int, generator: torch.Generator) -> Iterator[Tensor | None]:
    """Endless mini-batches (k, b), in an order of its own for each chain and pass; the rest of a pass is left out."""
    while batch is None or batch >= rows:
        yield None
    while True:
        order = torch.stack([torch.randperm(rows, generator=generator) for _ in range(chains)])
        yield from order[:, : rows // batch * batch].split(batch, 1)


def _cyclic(step: float, number: int, length: int) -> float:
    """The step at one of the places of a cycle: a cosine from twice `step` to nearly zero."""
    return step * max(LEAST, 1 + math.cos(math.pi * (number + 1) / length))


def _finite(position: Tensor, number: int, step: float) -> Tensor:
    if not position.isfinite().all():
        raise ValueError(f"a chain is not finite at step {number + 1} with step={step:g}; take a smaller step")
    return position
