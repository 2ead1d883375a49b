import math

import torch
from torch.testing import assert_close

from kernelfield.models.neural.leapfrog import State, choose, energy, leapfrog


def quartic(q: torch.Tensor) -> torch.Tensor:
    return -(q**4).sum(-1) / 4 - q.prod(-1) ** 2 / 2


def test_a_state_has_the_slope_of_each_chain():
    q = torch.randn(3, 2)
    state = State.at(quartic, q)
    expected = -(q**3) - q * q.flip(-1).square()
    assert_close(state.slope, expected)
    assert_close(state.value, quartic(q))
    assert not state.slope.requires_grad and not state.value.requires_grad


def test_motion_is_reversible():
    state, r = State.at(quartic, torch.randn(4, 2)), torch.randn(4, 2)
    there, momentum = leapfrog(quartic, state, r, 0.1, 25)
    back, momentum = leapfrog(quartic, there, -momentum, 0.1, 25)
    assert_close(back.position, state.position)
    assert_close(momentum, -r)


def test_the_error_of_the_energy_falls_as_the_square_of_the_step():
    state, r = State.at(quartic, torch.tensor([[0.5, -1.0]])), torch.tensor([[1.0, 0.7]])
    errors = [
        (energy(*leapfrog(quartic, state, r, 1 / count, count)) - energy(state, r)).abs().item() for count in (40, 80)
    ]
    assert abs(math.log2(errors[0] / errors[1]) - 2) < 0.05


def test_motion_keeps_volume():
    def flow(z: torch.Tensor) -> torch.Tensor:
        # Three analytic steps, which autograd can follow.
        q, r = z[:2], z[2:]
        for _ in range(3):
            r = r + 0.15 * (-(q**3))
            q = q + 0.3 * r
            r = r + 0.15 * (-(q**3))
        return torch.cat([q, r])

    z = torch.randn(4)
    state, r = leapfrog(
        lambda q: -(q**4).sum(-1) / 4, State.at(lambda q: -(q**4).sum(-1) / 4, z[None, :2]), z[None, 2:], 0.3, 3
    )
    assert_close(torch.cat([state.position[0], r[0]]), flow(z))
    assert_close(torch.autograd.functional.jacobian(flow, z).det(), torch.tensor(1.0))


def test_an_energy_that_cannot_be_computed_is_infinite():
    state = State(torch.zeros(3, 1), torch.tensor([math.nan, -math.inf, 0.0]), torch.zeros(3, 1))
    assert energy(state, torch.zeros(3, 1)).tolist() == [math.inf, math.inf, 0.0]


def test_chains_are_chosen_one_by_one():
    one, other = State.at(quartic, torch.ones(2, 2)), State.at(quartic, torch.zeros(2, 2))
    mixed = choose(torch.tensor([True, False]), one, other)
    assert mixed.position.tolist() == [[1, 1], [0, 0]] and mixed.value.tolist() == [-1, 0]
    assert mixed.of(torch.tensor([1])).value.tolist() == [0]
