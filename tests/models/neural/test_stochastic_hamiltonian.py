import itertools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from torch import Tensor
from torch.testing import assert_close

from kernelfield.models.neural.stochastic_hamiltonian import sghmc, underdamped_step


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quadratic(q: Tensor, rows: Tensor | None) -> Tensor:
    return -q.square().sum(-1) / 2


def step_as_matrix(density, step: float, friction: float) -> tuple[np.ndarray, np.ndarray]:
    """One step on (q, r, slope, 1), which is affine for a quadratic density: a matrix, and what noise adds."""
    # The image of zero, of the unit vectors, and of a unit of noise, as five chains of one parameter.
    q, r, slope, noise = torch.eye(5)[1:].unsqueeze(-1)
    ends = torch.cat(underdamped_step(density, q, r, slope, None, noise, step, friction, torch.ones(1)), -1).numpy()
    linear = ends[1:] - ends[0]
    matrix = np.zeros((4, 4))
    matrix[:3, :3], matrix[:3, 3], matrix[3, 3] = linear[:3].T, ends[0], 1
    return matrix, np.append(linear[3], 0)


@pytest.mark.parametrize("friction", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("step", [0.1, 0.5, 1.0])
def test_the_stationary_variance_of_a_quadratic_is_known(step, friction):
    matrix, noise = step_as_matrix(quadratic, step, friction)
    # The slope is -q: what is left is a map of (q, r).
    reduced = matrix[:2, :2] - np.outer(matrix[:2, 2], [1, 0])
    covariance = solve_discrete_lyapunov(reduced, np.outer(noise[:2], noise[:2]))
    assert_close(covariance[0, 0], 1 / (1 - step**2 / 4), rtol=1e-10, atol=0)
    assert_close(covariance[0, 1], 0.0, rtol=0, atol=1e-10)


def stationary_moments(step: float) -> tuple[float, float]:
    """Mean and variance of q under three unequal batches in an order drawn anew for each pass, without simulation."""
    parts = [(0.2, 1.5), (0.5, -1.0), (0.3, 0.4)]  # curvature and centre of each, which sum to one and -0.08

    def batch(curvature: float, centre: float):
        return lambda q, rows: -3 * curvature * (q - centre).square().sum(-1) / 2

    steps = [step_as_matrix(batch(*part), step, 1.0) for part in parts]
    orders = list(itertools.permutations(steps))
    carry, added = np.zeros((16, 16)), np.zeros((4, 4))
    for order in orders:
        whole, own = np.eye(4), np.zeros((4, 4))
        for matrix, noise in order:
            whole, own = matrix @ whole, matrix @ own @ matrix.T + np.outer(noise, noise)
        carry, added = carry + np.kron(whole, whole) / len(orders), added + own / len(orders)
    # Second moments S = sum M S M' + N, with the last entry of S, that of the one, held at one.
    system, side = np.eye(16) - carry, added.flatten()
    system[-1], side[-1] = np.eye(16)[-1], 1
    S = np.linalg.solve(system, side).reshape(4, 4)
    return S[0, 3], S[0, 0] - S[0, 3] ** 2


def test_the_bias_of_shuffled_batches_falls_as_the_square_of_the_step():
    steps = np.array([0.02, 0.01, 0.005])
    centre = 0.2 * 1.5 - 0.5 * 1.0 + 0.3 * 0.4
    moments = np.array([stationary_moments(step) for step in steps])
    for errors in (np.abs(moments[:, 0] - centre), np.abs(moments[:, 1] - 1)):
        slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
        assert abs(slope - 2) < 0.1


def test_chains_have_the_variance_that_their_step_gives_them():
    step = 1.0
    chains = sghmc(
        quadratic,
        torch.randn(2000, 2),
        generator=generator(),
        rows=1,
        step=step,
        warmup=50,
        draws=50,
        thin=4,
        adapt=False,
    )
    variance = chains.draws.var((0, 1))
    count = 2000 * 50 / 3  # effective: the draws of a chain are four steps apart
    assert (variance - 1 / (1 - step**2 / 4)).abs().max() < 6 * math.sqrt(2 / count) * 4 / 3


def test_masses_make_all_scales_alike():
    std = torch.tensor([0.01, 0.1, 1.0])
    chains = sghmc(
        lambda q, rows: -(q / std).square().sum(-1) / 2,
        torch.zeros(64, 3),
        generator=generator(),
        rows=1,
        step=0.3,
        warmup=1000,
        draws=200,
        thin=10,
    )
    assert_close(chains.spread / std, torch.ones(3), rtol=0.15, atol=0)
    assert_close(chains.draws.var((0, 1)) / std**2, torch.ones(3), rtol=0.08, atol=0)


def test_every_chain_sees_each_row_once_a_pass_in_an_order_of_its_own():
    seen = []

    def density(q, rows):
        seen.append(rows)
        return quadratic(q, rows)

    sghmc(density, torch.zeros(3, 1), generator=generator(), rows=10, batch=5, warmup=0, draws=3, thin=1)
    passes = [torch.cat(seen[i : i + 2], 1) for i in (0, 2)]
    assert all((rows.sort(-1).values == torch.arange(10)).all() for rows in passes)
    assert not torch.equal(passes[0][0], passes[0][1]) and not torch.equal(passes[0], passes[1])


def test_a_cycle_ends_in_small_steps_and_takes_away_the_bias():
    settings = {"generator": generator(), "rows": 1, "step": 0.9, "warmup": 40, "draws": 40, "adapt": False}
    start = torch.randn(2000, 1)
    constant = sghmc(quadratic, start, thin=12, **settings).draws.var()
    cyclic = sghmc(quadratic, start, thin=40, schedule="cyclic", **settings).draws.var()
    assert abs(constant - 1 / (1 - 0.81 / 4)) < 0.05
    assert abs(cyclic - 1) < 0.05


def test_a_seed_repeats_the_draws():
    runs = [sghmc(quadratic, torch.zeros(2, 3), generator=generator(s), rows=1, warmup=5, draws=4) for s in (0, 0, 1)]
    assert torch.equal(runs[0].draws, runs[1].draws) and not torch.equal(runs[0].draws, runs[2].draws)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"step": 0.0}, "step must be positive"),
        ({"friction": -1.0}, "friction must be positive"),
        ({"batch": 0}, "batch must be at least 1 row, got 0"),
        ({"schedule": "linear"}, "got 'linear'"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"step": 1e200, "warmup": 0}, "take a smaller step"),
    ],
)
def test_bad_settings_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        sghmc(quadratic, torch.ones(1, 1), **({"generator": generator(), "rows": 1, "adapt": False} | change))
