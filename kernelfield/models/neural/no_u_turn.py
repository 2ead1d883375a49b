"""The no-U-turn sampler with several chains that move together.

A trajectory doubles, forwards or backwards in time at random, until its two ends would approach each
other: with r the momenta at its ends and s the sum of all momenta less half of those, it turns where
r . s <= 0 at either end. All chains double together, and those that have turned wait, at no cost.

A doubling is a loop, not a recursion. Leaf n of it is compared with the leaves from which balanced
subtrees end at n: one for each trailing one in the binary digits of n. Of those only the last in
each depth has to be kept, at the place given by the number of ones in n without its last digit.

Within a doubling a state is drawn by its weight exp(-energy); between the old part and a doubling
the new one is preferred, with probability min(1, weight new / weight old).

Sources: Hoffman & Gelman (2014), "The No-U-Turn Sampler"; Betancourt (2017), "A Conceptual
Introduction to Hamiltonian Monte Carlo", appendix A, for the weights; Phan, Pradhan & Jankowiak
(2019), "Composable Effects for Flexible and Accelerated Probabilistic Programming in NumPyro", for
the loop.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.models.neural.chains import Chains, Kernel, run
from kernelfield.models.neural.leapfrog import DIVERGENT, LogDensity, Move, State, choose, energy, leapfrog, normals


def nuts(
    density: LogDensity,
    start: Tensor,
    *,
    generator: torch.Generator,
    warmup: int = 500,
    draws: int = 500,
    thin: int = 1,
    depth: int = 10,
    target: float = 0.8,
    adapt: bool = True,
) -> Chains:
    """Draws (s, k, p) of k chains that start at positions (k, p).

    depth: the most doublings of a trajectory, which has at most 2^depth - 1 steps.
    target: the acceptance, on the mean of a trajectory, that the step is tuned to.
    adapt: whether warm-up learns the spreads of the parameters; otherwise they are one.

    Errors: ValueError for a depth below one, and those of `run`.

    >>> generator = torch.Generator().manual_seed(0)
    >>> chains = nuts(lambda q: -q.square().sum(-1) / 2, torch.zeros(4, 2), generator=generator, warmup=30, draws=20)
    >>> chains.draws.shape
    torch.Size([20, 4, 2])
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}; 10 is usual")
    kernel = no_u_turn_kernel(density, depth)
    return run(
        kernel, density, start, warmup=warmup, draws=draws, thin=thin, target=target, adapt=adapt, generator=generator
    )


@dataclass(frozen=True, eq=False)
class _Branch:
    """Consecutive states of some chains, numbered by `rows` (a,).

    end: the state last reached, with its momenta (a, p); total (a, p): the sum of all momenta;
    log_weight (a,) of the states; chosen: one of them drawn by its weight.
    """

    rows: Tensor
    end: State
    momentum: Tensor
    total: Tensor
    log_weight: Tensor
    chosen: State

    def of(self, mask: Tensor) -> "_Branch":
        return _Branch(
            self.rows[mask],
            self.end.of(mask),
            self.momentum[mask],
            self.total[mask],
            self.log_weight[mask],
            self.chosen.of(mask),
        )


class _Trajectory:
    """What a move counts while its trajectories grow."""

    def __init__(self, density: LogDensity, before: Tensor, generator: torch.Generator) -> None:
        self.density, self.before, self.generator = density, before, generator
        self.accepted, self.count = torch.zeros_like(before), torch.zeros_like(before)
        self.divergent = torch.zeros_like(before, dtype=torch.bool)

    def uniforms(self, count: int) -> Tensor:
        return torch.rand(count, generator=self.generator, dtype=self.before.dtype).to(self.before.device)

    def double(self, rows: Tensor, start: State, momentum: Tensor, step: Tensor, size: int) -> _Branch:
        """`size` more states, step (a, p) apart, of those chains that neither turn nor diverge on the way."""
        branch = _Branch(
            rows, start, momentum, torch.zeros_like(momentum), start.value.new_full((len(rows),), -torch.inf), start
        )
        kept: dict[int, tuple[Tensor, Tensor]] = {}
        for leaf in range(size):
            end, momentum = leapfrog(self.density, branch.end, branch.momentum, step, 1)
            gain = self.before[branch.rows] - energy(end, momentum)
            self.accepted[branch.rows] += gain.clamp_max(0).exp()
            self.count[branch.rows] += 1
            weight = torch.logaddexp(branch.log_weight, gain)
            taken = self.uniforms(len(gain)).log() < gain - weight
            total = branch.total + momentum
            branch = _Branch(branch.rows, end, momentum, total, weight, choose(taken, end, branch.chosen))
            failed = gain < -DIVERGENT
            self.divergent[branch.rows] |= failed
            slots = (leaf >> 1).bit_count()
            if leaf % 2 == 0:
                kept[slots] = (momentum, total)
            else:
                for slot in range(slots - _trailing_ones(leaf) + 1, slots + 1):
                    first, sum_at_first = kept[slot]
                    failed = failed | turning(first, momentum, total - sum_at_first + first)
            if failed.any():
                alive = ~failed
                branch, step = branch.of(alive), step[alive]
                kept = {slot: (first[alive], total[alive]) for slot, (first, total) in kept.items()}
                if not len(branch.rows):
                    break
        return branch


def no_u_turn_kernel(density: LogDensity, depth: int) -> Kernel:
    """A move of the no-U-turn sampler with at most `depth` doublings."""

    def move(state: State, step: float, spread: Tensor, generator: torch.Generator) -> Move:
        momentum = normals(state.position, generator)
        before = energy(state, momentum)
        grown = _Trajectory(density, before, generator)
        chosen, total, weight = state, momentum, torch.zeros_like(before)
        early, late = (state, momentum), (state, momentum)
        rows = torch.arange(len(before), device=before.device)
        for level in range(depth):
            ahead = torch.ones_like(weight, dtype=torch.bool)
            ahead[rows] = grown.uniforms(len(rows)) < 0.5
            ends, momenta = choose(ahead, late[0], early[0]), torch.where(ahead[:, None], late[1], early[1])
            signed = torch.where(ahead[rows, None], step * spread, -step * spread)
            branch = grown.double(rows, ends.of(rows), momenta[rows], signed, 2**level)
            rows = branch.rows
            if not len(rows):
                break
            taken = grown.uniforms(len(rows)).log() < branch.log_weight - weight[rows]
            chosen = _placed(chosen, rows[taken], branch.chosen.of(taken))
            weight = weight.index_copy(0, rows, torch.logaddexp(weight[rows], branch.log_weight))
            total = total.index_add(0, rows, branch.total)
            forwards = ahead[rows]
            late = _extended(late, rows[forwards], branch, forwards)
            early = _extended(early, rows[~forwards], branch, ~forwards)
            rows = rows[~turning(early[1][rows], late[1][rows], total[rows])]
            if not len(rows):
                break
        accepted = grown.accepted / grown.count
        return Move(chosen, accepted, before, grown.divergent, int(grown.count.sum()))

    return move


def turning(first: Tensor, last: Tensor, total: Tensor) -> Tensor:
    """Whether (a,) trajectories with momenta (a, p) at their ends, and this sum of all, turn back."""
    middle = total - (first + last) / 2
    return ((first * middle).sum(-1) <= 0) | ((last * middle).sum(-1) <= 0)


def _extended(end: tuple[State, Tensor], rows: Tensor, branch: _Branch, mask: Tensor) -> tuple[State, Tensor]:
    return _placed(end[0], rows, branch.end.of(mask)), end[1].index_copy(0, rows, branch.momentum[mask])


def _placed(state: State, rows: Tensor, new: State) -> State:
    """The states with those of some chains replaced."""
    return State(
        state.position.index_copy(0, rows, new.position),
        state.value.index_copy(0, rows, new.value),
        state.slope.index_copy(0, rows, new.slope),
    )


def _trailing_ones(number: int) -> int:
    """How many ones the binary digits of a number end in."""
    return (~number & (number + 1)).bit_length() - 1
