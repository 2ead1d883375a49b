"""Adaptive intervals keep their share of misses whatever the data do, and are those of the written recursions."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.posterior import Draws
from kernelfield.uq.conformal.adaptive import Adaptive
from kernelfield.uq.conformal.conformity import Absolute, Quantiles
from kernelfield.uq.conformal.split import Split
from tests.uq.conformal.simulated import gaussian, heteroscedastic


def standard(n: int) -> Draws:
    return gaussian(torch.zeros(n, 1), torch.ones(1))


def misses(law: Draws, y: torch.Tensor, choice: Adaptive) -> torch.Tensor:
    low, high, _ = choice.fit(standard(1), y[:1]).run(law, y)
    return ((y < low) | (y > high)).double().flatten()


def hostile(kind: str, n: int) -> torch.Tensor:
    """Series that no exchangeable calibration covers."""
    noise = torch.randn(n, 1, generator=torch.Generator().manual_seed(0))
    t = torch.arange(n)[:, None] / n
    return {
        "growing": torch.exp(8 * t) * noise,
        "shrinking": torch.exp(-8 * t) * noise,
        "jump": torch.where(t < 0.5, 1.0, 30.0) * noise,
        "waves": (1 + 10 * torch.sin(20 * t).square()) * noise,
        "records": 1 + torch.arange(n)[:, None].double(),  # each row is further out than all before it
    }[kind]


@pytest.mark.parametrize("kind", ["growing", "shrinking", "jump", "waves", "records"])
@pytest.mark.parametrize("step", [0.005, 0.05, 0.5])
def test_the_share_of_misses_obeys_the_bound_of_gibbs_and_candes(kind, step):
    n, alpha = 1500, 0.1
    choice = Adaptive(1 - alpha, (step,), memory=300)
    y = hostile(kind, n)
    state = choice.fit(standard(n), y)
    bound = (max(alpha, 1 - alpha) + step) / (n * step)
    assert abs(state.misses[0] / n - alpha) <= bound
    assert -step <= state.rates.min() and state.rates.max() <= 1 + step


def test_one_step_is_the_recursion_of_the_paper():
    """Written out with NumPy, one row at a time and without any shortcut."""
    n, alpha, step, memory = 400, 0.2, 0.03, 50
    y = hostile("jump", n)
    scores, rate, bounds = [], alpha, []
    for value in y.abs().flatten().tolist():
        latest = sorted(scores[-memory:])
        rank = math.ceil((len(latest) + 1) * (1 - rate) - 1e-9)
        bounds.append(math.inf if rank > len(latest) else -math.inf if rank < 1 else latest[rank - 1])
        rate += step * (alpha - (value > bounds[-1]))
        scores.append(value)
    choice = Adaptive(1 - alpha, (step,), Absolute(), memory)
    start = choice.fit(standard(1), y[:1])
    _, high, state = start.run(standard(n - 1), y[1:])
    assert_close(high.flatten(), torch.tensor(bounds[1:]))
    assert state.rates.item() == pytest.approx(rate, abs=1e-12)
    assert state.rows == n


def test_several_steps_are_the_recursion_of_the_paper():
    n, alpha, steps, horizon = 300, 0.1, (0.005, 0.05, 0.2), 100
    y = hostile("waves", n)
    share = 1 / (2 * horizon)
    moments = (1 - alpha) ** 2 * alpha**3 + alpha**2 * (1 - alpha) ** 3
    eta = math.sqrt(3 / horizon) * math.sqrt((math.log(3 * horizon) + 2) / moments)
    rates, weights, seen = np.full(3, alpha), np.full(3, 1 / 3), np.array([])
    for value in y.abs().flatten().numpy():
        beta = 1 - (seen < value).sum() / (len(seen) + 1)
        loss = np.where(beta > rates, alpha * (beta - rates), (1 - alpha) * (rates - beta))  # the quantile loss
        new = weights * np.exp(-eta * loss)
        rates = rates + np.array(steps) * (alpha - (rates >= beta - 1e-12))
        weights = (1 - share) * new / new.sum() + share / 3
        seen = np.append(seen, value)
    state = Adaptive(1 - alpha, steps, Absolute(), horizon=horizon).fit(standard(n), y)
    assert_close(state.rates.flatten(), torch.from_numpy(rates))
    assert_close(state.weights.flatten(), torch.from_numpy(weights))


def test_several_steps_keep_the_level_through_jumps_and_waves():
    for kind in ("jump", "waves", "growing"):
        missed = misses(standard(4000), hostile(kind, 4000), Adaptive(0.9))
        assert abs(missed.mean() - 0.1) < 0.03
        assert missed[-1000:].mean() < 0.17
    plain = Split().fit(standard(400), hostile("growing", 4000)[:400]).interval(standard(3600), 0.9)
    assert (hostile("growing", 4000)[400:] > plain[1]).double().mean() > 0.3


def test_rows_may_come_one_by_one_or_together():
    law, y, _ = heteroscedastic(200, 2, 0)
    choice = Adaptive(0.8, memory=60)
    whole = choice.fit(law, y)
    state = choice.fit(Draws(law.values[:, :50], law.weights, law.noise[:50]), y[:50])
    for i in range(50, 200):
        row = Draws(law.values[:, i : i + 1], law.weights, law.noise[i : i + 1])
        low, high = state.interval(row)
        again_low, again_high, state = state.run(row, y[i : i + 1])
        assert_close((low, high), (again_low, again_high))
    assert_close(state.rates, whole.rates)
    assert_close(state.weights, whole.weights)
    assert_close(state.scores, whole.scores)
    assert state.misses == whole.misses and state.rows == whole.rows == 200


def test_exchangeable_rows_get_the_intervals_of_split_calibration():
    law, y, _ = heteroscedastic(1000, 1, 1)
    adapted = Adaptive(0.9, (1e-9,)).fit(law, y).interval(law)
    assert_close(adapted, Split().fit(law, y).interval(law, 0.9), rtol=0.02, atol=0.02)


def test_the_first_rows_have_the_whole_line_and_a_rate_above_one_nothing():
    low, high, _ = Adaptive(0.9, (0.01,)).fit(standard(1), torch.zeros(1, 1)).run(standard(7), torch.zeros(7, 1))
    assert (low == -torch.inf).all() and (high == torch.inf).all()
    state = Adaptive(0.5, (30.0,)).fit(standard(3), torch.zeros(3, 1))  # never missed so far: the rate is above one
    low, high = state.interval(standard(2))
    assert (low == torch.inf).all() and (high == -torch.inf).all()


def test_notes_and_numbers_tell_the_share_of_misses():
    state = Adaptive(0.9).fit(standard(500), torch.randn(500, 1))
    assert state.hyperparameters()["share of misses"] == [state.misses[0] / 500]
    assert "Intervals of 90% were adapted over 500 rows" in state.notes()[0]


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        (Adaptive(90), "between 0 and 1, got 90"),
        (Adaptive(steps=()), r"steps must be positive numbers, at least one, got \(\)"),
        (Adaptive(steps=(-0.1,)), r"at least one, got \(-0.1,\)"),
        (Adaptive(memory=0), "memory and horizon must be at least 1, got 0"),
        (Adaptive(score=Quantiles()), "a score with one side"),
    ],
    ids=["level", "none", "negative", "memory", "sides"],
)
def test_bad_choices_are_refused(choice, complaint):
    with pytest.raises(ValueError, match=complaint):
        choice.fit(standard(5), torch.zeros(5, 1))


def test_a_state_has_one_level_and_one_number_of_outputs():
    state = Adaptive(0.9, score=Quantiles((0.9,), symmetric=True)).fit(standard(50), torch.randn(50, 1))
    state.interval(standard(1), 0.9)
    with pytest.raises(ValueError, match="adapted to the level 0.9, got 0.8"):
        state.interval(standard(1), 0.8)
    with pytest.raises(ValueError, match="calibrated for 1 outputs, got a law of 2"):
        state.update(heteroscedastic(5, 2, 0)[0], torch.zeros(5, 2))
