"""Hamiltonian motion of k chains at once, by the leapfrog integrator.

With a log density l, positions q (k, p) and standard normal momenta r, a step of size e is

    r <- r + e/2 grad l(q),    q <- q + e r,    r <- r + e/2 grad l(q),

which keeps volume, runs backwards when r is turned round, and keeps the energy |r|^2 / 2 - l(q) to
order e^2. Neighbouring half steps of r are one: a slope is evaluated once a step. e may be a number
a chain or a parameter; that of a parameter is the step times its spread.

Source: Neal (2011), "MCMC Using Hamiltonian Dynamics", sections 2 and 5.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]  # (k, p) to (k,), in nats, up to a constant

DIVERGENT = 1000.0  # nats of energy that a trajectory may lose; beyond it the integrator has failed


@dataclass(frozen=True, eq=False)
class State:
    """Positions (k, p), their log densities (k,) and the slopes (k, p) of those."""

    position: Tensor
    value: Tensor
    slope: Tensor

    @classmethod
    def at(cls, density: LogDensity, position: Tensor) -> "State":
        """The state at positions (k, p): one evaluation and one backward pass for all chains."""
        with torch.enable_grad():
            moved = position.detach().requires_grad_()
            value = density(moved)
            (slope,) = torch.autograd.grad(value.sum(), moved)
        return cls(position.detach(), value.detach(), slope)

    def of(self, rows: Tensor) -> "State":
        """The states of some of the chains, by their numbers or by a mask."""
        return State(self.position[rows], self.value[rows], self.slope[rows])


def choose(chosen: Tensor, one: State, other: State) -> State:
    """The states of the chains that are chosen (k,) from the one, of the rest from the other."""
    each = chosen[:, None]
    return State(
        torch.where(each, one.position, other.position),
        torch.where(chosen, one.value, other.value),
        torch.where(each, one.slope, other.slope),
    )


@dataclass(frozen=True, eq=False)
class Move:
    """One move of all chains: where to, how willingly, and from what energy.

    accepted (k,): the probability of acceptance, for the choice of the step; energy (k,) after the
    momenta were drawn; divergent (k,); gradients: how many slopes, of all chains together.
    """

    state: State
    accepted: Tensor
    energy: Tensor
    divergent: Tensor
    gradients: int


def leapfrog(
    density: LogDensity, state: State, momentum: Tensor, step: float | Tensor, count: int
) -> tuple[State, Tensor]:
    """States and momenta (k, p) after `count` steps."""
    momentum = momentum + step / 2 * state.slope
    for number in range(1, count + 1):
        state = State.at(density, state.position + step * momentum)
        momentum = momentum + (step if number < count else step / 2) * state.slope
    return state, momentum


def energy(state: State, momentum: Tensor) -> Tensor:
    """The energies (k,); infinite where they cannot be computed."""
    return (momentum.square().sum(-1) / 2 - state.value).nan_to_num(torch.inf, posinf=torch.inf, neginf=torch.inf)


def normals(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers of the shape and type of a tensor; the generator is one of the CPU."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
