"""Hamiltonian Monte Carlo with several chains that move together.

A trajectory takes L = ceil(2 u path / step) leapfrog steps, u uniform in (0, 1) and drawn anew for
each move, all chains the same: a fixed length would return some oscillations to where they began.
Its end is accepted with probability min(1, exp(energy before - energy after)).

Sources: Neal (2011), "MCMC Using Hamiltonian Dynamics"; `kernelfield.models.neural.chains` for the
warm-up.
"""

import math

import torch
from torch import Tensor

from kernelfield.models.neural.chains import Chains, Kernel, run
from kernelfield.models.neural.leapfrog import DIVERGENT, LogDensity, Move, State, choose, energy, leapfrog, normals


def hmc(
    density: LogDensity,
    start: Tensor,
    *,
    generator: torch.Generator,
    warmup: int = 500,
    draws: int = 500,
    thin: int = 1,
    path: float = math.pi / 2,
    longest: int = 256,
    target: float = 0.8,
    adapt: bool = True,
) -> Chains:
    """Draws (s, k, p) of k chains that start at positions (k, p).

    path: the mean length of a trajectory in units of the spread, of which a quarter of a period of
        a Gaussian's oscillation is pi / 2.
    longest: the most leapfrog steps of a trajectory.
    target: the acceptance that the step is tuned to.
    adapt: whether warm-up learns the spreads of the parameters; otherwise they are one.

    Errors: ValueError for a path or `longest` that is not positive, and those of `run`.

    >>> generator = torch.Generator().manual_seed(0)
    >>> chains = hmc(lambda q: -q.square().sum(-1) / 2, torch.zeros(4, 2), generator=generator, warmup=50, draws=20)
    >>> chains.draws.shape
    torch.Size([20, 4, 2])
    """
    if not (path > 0 and longest >= 1):
        raise ValueError(f"path and longest must be positive, got {path} and {longest}")
    kernel = hamiltonian_kernel(density, path, longest)
    return run(
        kernel, density, start, warmup=warmup, draws=draws, thin=thin, target=target, adapt=adapt, generator=generator
    )


def hamiltonian_kernel(density: LogDensity, path: float, longest: int) -> Kernel:
    """A move of Hamiltonian Monte Carlo with trajectories of a given mean length."""

    def move(state: State, step: float, spread: Tensor, generator: torch.Generator) -> Move:
        momentum = normals(state.position, generator)
        share, level = torch.rand((), generator=generator).item(), torch.rand(len(momentum), generator=generator)
        count = min(max(1, math.ceil(2 * share * path / step)), longest)
        before = energy(state, momentum)
        ended, after = leapfrog(density, state, momentum, step * spread, count)
        gain = before - energy(ended, after)
        accepted = gain.clamp_max(0).exp()
        chosen = level.to(accepted) < accepted
        return Move(choose(chosen, ended, state), accepted, before, gain < -DIVERGENT, count * len(momentum))

    return move
