"""Markov chains that move together: their states, their records, and their warm-up.

A log density takes positions of k chains at once, (k, p) to (k,), so that one backward pass gives
the slopes of all. Samplers give a kernel, the move of all chains for a given step and spread; the
momenta are standard normal and positions move at `spread` times them, which is a mass matrix
diag(spread)^-2. During warm-up

    step     follows dual averaging to a target acceptance, on the mean over the chains,
    spread   is set, at the end of windows of doubling length, to the standard deviations within
             chains, shrunk as Stan does: variance n / (n + 5) + 0.001 * 5 / (n + 5).

Both are shared by the chains and held afterwards, so that the draws kept are those of a Markov
chain.

Sources: Hoffman & Gelman (2014), "The No-U-Turn Sampler", algorithms 4 and 5; Carpenter et al.
(2017), "Stan: A Probabilistic Programming Language".
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.models.neural.leapfrog import LogDensity, Move, State, leapfrog, normals

FIRST, WINDOW, LAST = 75, 25, 50  # draws of warm-up before, in the first of, and after the windows
FAIR, HALVINGS = 0.8, 50  # of the acceptance at the first step, and the most of its doublings or halvings

_log = logging.getLogger("kernelfield.models.fit")


Kernel = Callable[[State, float, Tensor, torch.Generator], Move]  # with the step and the spread (p,)


@dataclass(frozen=True, eq=False)
class Chains:
    """The draws (s, k, p) of k chains after warm-up, and how they were made.

    step and spread (p,) as they were held; gradients counts the evaluations of a slope by one chain,
    those of warm-up included; accepted, energy and divergent (s, k) as in `Move`, None for samplers
    that reject nothing.
    """

    draws: Tensor
    step: float
    spread: Tensor
    gradients: int
    accepted: Tensor | None = None
    energy: Tensor | None = None
    divergent: Tensor | None = None


def run(
    kernel: Kernel,
    density: LogDensity,
    start: Tensor,
    *,
    warmup: int,
    draws: int,
    thin: int = 1,
    target: float,
    adapt: bool = True,
    generator: torch.Generator,
) -> Chains:
    """Warm up k chains from positions (k, p) and keep every `thin`-th of draws * thin moves.

    adapt: whether the spread is learned; otherwise it is one, and the step alone is.

    Errors: ValueError where the log density or its slope is not finite at the start, for counts
        below one (warmup: zero), and a target outside of (0, 1).
    """
    check_counts(warmup, draws, thin)
    if not 0 < target < 1:
        raise ValueError(f"the target acceptance must lie between 0 and 1, got {target}; 0.8 is usual")
    state = require_finite(State.at(density, start))
    spread = start.new_ones(start.shape[1])
    total, begun = warmup + draws * thin, time.monotonic()
    step = first_step(density, state, spread, generator)
    tuned, ends = DualAveraging(step, target), windows(warmup if adapt else 0)
    seen: list[Tensor] = []
    kept: list[Move] = []
    gradients = 0
    for number in range(total):
        move = kernel(state, tuned.step if number < warmup else tuned.settled, spread, generator)
        state, gradients = move.state, gradients + move.gradients
        if number < warmup:
            tuned.learn(move.accepted)
            if ends and ends[0] <= number < ends[-1]:
                seen.append(state.position)
            if number + 1 in ends[1:]:
                spread, seen = spread_of(torch.stack(seen)), []
                tuned = DualAveraging(first_step(density, state, spread, generator), target)
        elif (number - warmup + 1) % thin == 0:
            kept.append(move)
        begun = _report(number + 1, total, warmup, begun, move)
    return Chains(
        torch.stack([move.state.position for move in kept]),
        tuned.settled,
        spread,
        gradients // len(start),
        torch.stack([move.accepted for move in kept]),
        torch.stack([move.energy for move in kept]),
        torch.stack([move.divergent for move in kept]),
    )


def check_counts(warmup: int, draws: int, thin: int) -> None:
    """Refuse counts of moves that make no chain.

    Errors: ValueError, with the count.
    """
    for name, value, least in (("warmup", warmup, 0), ("draws", draws, 1), ("thin", thin, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def require_finite(state: State) -> State:
    """Refuse a start from which no chain can move.

    Errors: ValueError, with the number of chains.
    """
    bad = ~(state.value.isfinite() & state.slope.isfinite().all(-1))
    if bad.any():
        raise ValueError(
            f"the log density or its slope is not finite at the start of {int(bad.sum())} of {len(bad)} chains; "
            "start elsewhere, or scale the inputs and targets"
        )
    return state


def _report(number: int, total: int, warmup: int, last: float, move: Move) -> float:
    now = time.monotonic()
    if now - last < 0.5 and number < total:
        return last
    stage = "warm-up" if number <= warmup else "sampling"
    _log.info("%s, move %d of %d, log density %.4g", stage, number, total, move.state.value.mean().item())
    return now


def windows(warmup: int) -> list[int]:
    """Where the windows begin and end, [begin, end, end, ...], as counts of moves; empty if there are too few.

    >>> windows(1000)
    [75, 100, 150, 250, 450, 950]
    """
    if warmup < 20:
        return []
    first, window, last = FIRST, WINDOW, LAST
    if warmup < first + window + last:
        first, last = int(0.15 * warmup), int(0.1 * warmup)
        window = warmup - first - last
    ends = [first]
    while ends[-1] < warmup - last:
        end = ends[-1] + window
        # A window after which the next, of double length, would not fit takes all that is left.
        ends.append(end if end + 2 * window <= warmup - last else warmup - last)
        window *= 2
    return ends


def spread_of(draws: Tensor) -> Tensor:
    """Standard deviations (p,) within the chains of draws (s, k, p), shrunk."""
    s, k, _ = draws.shape
    variance = draws.var(0, correction=0).mean(0) * s / max(s - 1, 1)
    count = s * k
    return ((count * variance + 5e-3) / (count + 5)).sqrt()


def first_step(density: LogDensity, state: State, spread: Tensor, generator: torch.Generator) -> float:
    """A step, from doublings or halvings of one, whose single use the middle chain accepts with about 0.8."""

    def acceptance(step: float) -> float:
        momentum = normals(state.position, generator)
        moved, after = leapfrog(density, state, momentum, step * spread, 1)
        change = moved.value - state.value + (momentum.square() - after.square()).sum(-1) / 2
        return change.nan_to_num(-math.inf).clamp_max(0).exp().median().item()

    step = 1.0
    growing = acceptance(step) > FAIR
    for _ in range(HALVINGS):
        following = step * 2 if growing else step / 2
        if (acceptance(following) > FAIR) != growing:
            return step if growing else following
        step = following
    raise ValueError(f"no step between 1 and {step:.1g} keeps the energy; check the log density")


class DualAveraging:
    """The step size, as a sequence that learns from acceptances; the one object here that changes."""

    def __init__(self, step: float, target: float) -> None:
        self.centre, self.target = math.log(10 * step), target
        self.count, self.gap = 0, 0.0
        self.log_step = self.log_settled = math.log(step)

    def learn(self, accepted: Tensor) -> None:
        """Take in the acceptances (k,) of a move."""
        self.count += 1
        mean = accepted.double().mean().item()
        weight = 1 / (self.count + 10)
        self.gap = (1 - weight) * self.gap + weight * (self.target - mean)
        self.log_step = self.centre - math.sqrt(self.count) / 0.05 * self.gap
        share = self.count**-0.75
        self.log_settled = share * self.log_step + (1 - share) * self.log_settled

    @property
    def step(self) -> float:
        """What to try next."""
        return math.exp(self.log_step)

    @property
    def settled(self) -> float:
        """The average to go on with."""
        return math.exp(self.log_settled)
