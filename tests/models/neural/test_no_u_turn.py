import pytest
import torch
from torch.testing import assert_close

from kernelfield.models.neural.leapfrog import State
from kernelfield.models.neural.no_u_turn import no_u_turn_kernel, nuts, turning
from tests.models.neural.posteriors import agrees_with_quadrature, generator, has_the_law_of_a_gaussian


@pytest.mark.slow
def test_the_variance_of_a_quadratic_is_right_to_one_per_cent():
    has_the_law_of_a_gaussian(nuts, chains=4000, draws=60)


def test_a_network_agrees_with_quadrature():
    agrees_with_quadrature(nuts)


def test_a_trajectory_turns_after_half_a_period():
    # Momenta cos(t) of an oscillation that began with all of its energy in motion.
    for reach, turned in ((1.0, False), (1.5, False), (1.7, True), (3.0, True)):
        r = torch.cos(torch.linspace(0, reach, 400))[:, None]
        assert turning(r[:1], r[-1:], r.sum(0)[None]).item() == turned


def test_trajectories_end_at_their_depth_and_not_before_they_must():
    def plain(q):
        return -1e-8 * q.square().sum(-1)

    kernel = no_u_turn_kernel(plain, 3)
    move = kernel(State.at(plain, torch.zeros(4, 1)), 0.1, torch.ones(1), generator())
    assert move.gradients == 4 * 7  # all doublings: nothing turns on a plain
    assert_close(move.accepted, torch.ones(4))


def test_a_seed_repeats_the_draws():
    runs = [
        nuts(lambda q: -q.square().sum(-1) / 2, torch.zeros(2, 2), generator=generator(s), warmup=20, draws=10)
        for s in (0, 0, 1)
    ]
    assert torch.equal(runs[0].draws, runs[1].draws) and not torch.equal(runs[0].draws, runs[2].draws)


def test_a_depth_of_nothing_is_refused():
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        nuts(lambda q: -q.square().sum(-1), torch.zeros(1, 1), generator=generator(), depth=0)
