import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.models.neural.chains import DualAveraging, first_step, run, spread_of, windows
from kernelfield.models.neural.hamiltonian import hamiltonian_kernel
from kernelfield.models.neural.leapfrog import State
from tests.models.neural.posteriors import generator


def test_windows_double_and_the_last_takes_what_is_left():
    assert windows(1000) == [75, 100, 150, 250, 450, 950]
    assert windows(200) == [75, 100, 150] and windows(19) == []
    assert windows(100) == [15, 90]


def test_dual_averaging_finds_the_step_of_a_given_acceptance():
    tuned = DualAveraging(1.0, 0.7)
    for _ in range(2000):
        tuned.learn(torch.tensor([math.exp(-tuned.step)] * 3))
    assert_close(math.exp(-tuned.settled), 0.7, rtol=0.02, atol=0)


def test_spreads_are_those_within_chains_and_shrunk():
    draws = torch.randn(50, 4, 2) + torch.tensor([[100.0], [0.0], [-50.0], [7.0]])
    within = draws.var(0).mean(0)
    assert_close(spread_of(draws), ((200 * within + 0.005) / 205).sqrt())


@pytest.mark.parametrize("std", [1e-3, 1.0, 50.0])
def test_the_first_step_is_of_the_size_of_the_law(std):
    def density(q):
        return -(q / std).square().sum(-1) / 2

    state = State.at(density, std * torch.randn(20, 3))
    step = first_step(density, state, torch.ones(3), generator())
    assert 0.25 < step / std < 4


def test_spread_is_learned_and_held_and_warmup_is_not_kept():
    std = torch.tensor([0.1, 3.0])

    def density(q):
        return -(q / std).square().sum(-1) / 2

    settings = {"warmup": 300, "draws": 20, "thin": 2, "target": 0.8}
    kernel = hamiltonian_kernel(density, 1.5, 64)
    chains = run(kernel, density, torch.zeros(8, 2), generator=generator(), **settings)
    assert chains.draws.shape == (20, 8, 2) and chains.accepted.shape == (20, 8)
    assert_close(chains.spread / std, torch.ones(2), rtol=0.2, atol=0)
    plain = run(kernel, density, torch.zeros(8, 2), generator=generator(), adapt=False, **settings)
    assert plain.spread.tolist() == [1, 1] and plain.step < 0.5 * chains.step


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"warmup": -1}, "warmup must be at least 0, got -1"),
        ({"target": 1.0}, "between 0 and 1, got 1.0"),
        ({"start": torch.full((2, 1), math.nan)}, "not finite at the start of 2 of 2 chains"),
    ],
)
def test_bad_settings_are_refused(change, sentence):
    def density(q):
        return -q.square().sum(-1)

    settings = {"start": torch.zeros(2, 1), "warmup": 5, "draws": 5, "target": 0.8} | change
    with pytest.raises(ValueError, match=sentence):
        run(hamiltonian_kernel(density, 1.0, 8), density, generator=generator(), **settings)
