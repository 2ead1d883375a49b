from dataclasses import replace

import numpy as np
import pytest
import torch
from botorch.acquisition.multi_objective import logei

from kernelfield.bo.acquisition import GAINS, NAMES, SEVERAL, Situation, acquisition, check_name
from kernelfield.bo.fitting import fit, recipe
from kernelfield.bo.history import History
from kernelfield.bo.search import Budget
from kernelfield.bo.space import Space
from kernelfield.bo.suggestion import Settings, _leaders, scattered, suggest
from kernelfield.models.process import Process

SPACE = Space.of({"a": (0.0, 1.0), "b": (0.0, 1.0)})
QUICK = Budget(raw=64, starts=3, steps=40)
UP = np.ones(1)
OF_NETWORKS = ("go_ucb", "ntk_ucb")  # see test_optimistic


def past(n: int = 15, *, outputs: int = 1, limits: int = 0, pending: int = 0) -> History:
    X = SPACE.scattered(n + pending, 3)
    values = [-((X[:n] - centre) ** 2).sum(1) for centre in (0.3, 0.8)][:outputs]
    C = np.stack([X[:n, 0] - 0.5 for _ in range(limits)], 1) if limits else np.empty((n, 0))
    return History(X[:n], np.stack(values, 1), C, None, X[n:], None)


def settings(**changes: object) -> Settings:
    return Settings(**{"model": Process(restarts=2), "budget": QUICK, **changes})  # type: ignore[arg-type]


def at(told: object) -> np.ndarray:
    return np.array([told.parameters["a"], told.parameters["b"]])  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*SEVERAL, *OF_NETWORKS)])
def test_every_acquisition_of_one_objective_goes_where_the_values_are_best(name: str) -> None:
    told = suggest(SPACE, past(), settings(acquisition=name), UP, seed=1)
    assert np.abs(at(told) - 0.3).max() < 0.25
    assert len(told.mean) == len(told.std) == 1
    assert np.isfinite(told.value)


@pytest.mark.parametrize("name", ["auto", *SEVERAL, "thompson"])
def test_every_acquisition_of_two_objectives_goes_between_their_peaks(name: str) -> None:
    told = suggest(SPACE, past(outputs=2), settings(acquisition=name), np.ones(2), seed=1)
    assert ((0.1 < at(told)) & (at(told) < 0.95)).all()
    assert len(told.mean) == 2


def test_two_objectives_compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logei, "_load_attempted", False)
    monkeypatch.setattr("torch.utils.cpp_extension.load", lambda **_: pytest.fail("it compiles"))
    suggest(SPACE, past(outputs=2), settings(), np.ones(2), seed=1)
    assert not logei._load_attempted  # another's use of BoTorch is left as it was


@pytest.mark.parametrize("name", ["log_ei", "qlog_nei", "thompson"])
def test_constraints_are_kept(name: str) -> None:
    known = past(20, limits=1)
    known = History(known.X, -known.X[:, :1] * -1.0, known.C, None, known.pending, None)  # more is better to the right
    told = suggest(SPACE, known, settings(acquisition=name), UP, seed=2)
    assert 0.3 < told.parameters["a"] < 0.6


def test_histograms_keep_constraints() -> None:
    known = past(20, limits=1)
    known = replace(known, Y=known.X[:, :1])
    small = Budget(raw=32, starts=2, steps=20)
    told = suggest(SPACE, known, settings(model=recipe("prior-fitted"), budget=small), UP, seed=2)
    assert 0.3 < told.parameters["a"] < 0.6


def test_without_a_feasible_trial_the_search_is_for_one() -> None:
    known = past(12, limits=1)
    X = known.X.copy()
    X[:, 0] = 0.6 + 0.4 * X[:, 0]
    known = History(X, known.Y, X[:, :1] - 0.5, None, known.pending, None)
    told = suggest(SPACE, known, settings(), UP, seed=0)
    assert told.parameters["a"] < 0.5
    assert told.value is None  # no gain is known, which a run could take for a small one


def unsaid(C: np.ndarray, where: np.ndarray) -> History:
    """Values that grow to the right, and a constraint not told where so marked."""
    known = past(20)
    return replace(known, Y=known.X[:, :1], C=np.where(where, np.nan, C)[:, None])


@pytest.mark.parametrize("name", ["log_ei", "qlog_nei"])
def test_a_constraint_that_few_trials_tell_is_kept(name: str) -> None:
    """The best trials, which have not told, break it; taken at their word they would leave nothing to be gained."""
    limit = past(20).X[:, 0] - 0.5
    told = suggest(SPACE, unsaid(limit, limit > 0.1), settings(acquisition=name), UP, seed=2)
    assert 0.3 < told.parameters["a"] < 0.65


@pytest.mark.parametrize("known", [0, 1])
@pytest.mark.parametrize("name", ["log_ei", "qlog_nei", "thompson"])
def test_a_constraint_of_which_next_to_nothing_is_known_stops_nothing(name: str, known: int) -> None:
    told = suggest(SPACE, unsaid(np.full(20, -1.0), np.arange(20) >= known), settings(acquisition=name), UP, seed=2)
    assert told.parameters["a"] > 0.8
    assert len(told.records) == 1 + known


@pytest.mark.parametrize("name", ["log_ei", "qlog_nei"])
def test_a_pending_trial_is_not_suggested_again(name: str) -> None:
    known = past()
    Y = np.sin(9 * known.X).sum(1, keepdims=True)  # four peaks, of which 15 trials say little
    rough = History(known.X, Y, known.C, None, known.pending, None)
    alone = suggest(SPACE, rough, settings(acquisition=name), UP, seed=1)
    waiting = History(known.X, Y, known.C, None, at(alone)[None], None)
    other = suggest(SPACE, waiting, settings(acquisition=name), UP, seed=1)
    assert np.abs(at(other) - at(alone)).max() > 0.01


def test_the_same_history_and_seed_suggest_the_same() -> None:
    first, again = (suggest(SPACE, past(), settings(), UP, seed=5) for _ in range(2))
    assert first == again


def test_expectations_are_in_the_direction_of_the_user() -> None:
    known = past()
    up = suggest(SPACE, known, settings(), UP, seed=5)
    down = suggest(SPACE, known, settings(), -UP, seed=5)
    assert up.mean[0] == pytest.approx(-down.mean[0])
    assert up.std == down.std


def test_a_used_up_space_is_measured_again_where_it_is_best() -> None:
    space = Space.of({"k": (1, 4)})
    X = space.encode([{"k": k} for k in (1, 2, 3, 4)])
    known = History(X, np.array([[0.0], [1.0], [5.0], [1.0]]), np.empty((4, 0)), None, np.empty((0, 1)), None)
    assert suggest(space, known, settings(), UP, seed=0).parameters["k"] in (1, 2, 3, 4)
    fewer = History(X[:3], known.Y[:3], known.C[:3], None, known.pending, None)
    assert suggest(space, fewer, settings(), UP, seed=0).parameters == {"k": 4}


def test_of_many_trials_the_best_are_kept() -> None:
    known = past(60)
    told = suggest(SPACE, known, settings(most=12), UP, seed=0)
    assert told.records[0].rows == 12
    assert np.abs(at(told) - 0.3).max() < 0.2


def test_noisy_values_are_weighed_by_their_noise() -> None:
    known = past(12)
    noise = np.full((12, 1), 1e-4)
    wild = known.Y.copy()
    wild[5] += 50.0
    noise[5] = 1e4
    told = suggest(SPACE, History(known.X, wild, known.C, noise, known.pending, None), settings(), UP, seed=0)
    assert np.abs(at(told) - 0.3).max() < 0.3


@pytest.mark.parametrize("size", [2.0**-600, 2.0**-20, 2.0**600])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in OF_NETWORKS])
def test_the_unit_of_values_makes_no_difference(name: str, size: float) -> None:
    """Squares overflow and vanish at its ends, and the smooth maxima of BoTorch know no units."""
    known = past(outputs=2 if name in SEVERAL else 1)
    unit = np.array([size, 1.0])[: known.Y.shape[1]]
    reference = (-1.0, -1.0) if name in SEVERAL else None
    first = suggest(SPACE, known, settings(acquisition=name, reference=reference), UP.repeat(len(unit)), seed=1)
    reference = (-size, -1.0) if name in SEVERAL else None
    changed = replace(known, Y=known.Y * unit)
    told = suggest(SPACE, changed, settings(acquisition=name, reference=reference), UP.repeat(len(unit)), seed=1)
    assert at(told) == pytest.approx(at(first), abs=1e-3)
    assert np.array(told.mean) / unit == pytest.approx(first.mean, abs=1e-4)
    assert np.array(told.std) / unit == pytest.approx(first.std, rel=1e-3)
    if name in GAINS and first.value is not None:
        assert told.value == pytest.approx(first.value + np.log(size), abs=1e-2)


def test_enormous_values_are_ranked_like_any() -> None:
    known = past(20)
    leaders = _leaders(known)
    large = replace(known, Y=known.Y / np.abs(known.Y).max() * 1.7e308)
    assert np.array_equal(_leaders(large), leaders)


def test_a_quasi_random_start_is_a_matter_of_seed_and_number() -> None:
    points = np.array([at(scattered(SPACE, i, 0)) for i in range(16)])
    assert np.array_equal(points, SPACE.scattered(16, 0))


@pytest.mark.parametrize("name", ["student-t", "gp-matern32"])
def test_other_laws_have_their_expected_improvement(name: str) -> None:
    told = suggest(SPACE, past(), Settings(recipe(name), budget=Budget(raw=32, starts=2, steps=10)), UP, seed=0)
    assert np.abs(at(told) - 0.3).max() < 0.3


def test_the_expected_improvement_of_a_histogram_is_that_of_its_draws() -> None:
    known, model = past(), recipe("prior-fitted")
    told = suggest(SPACE, known, Settings(model, budget=Budget(raw=32, starts=2, steps=10)), UP, seed=0)
    surrogate = fit(model, torch.from_numpy(known.X), torch.from_numpy(known.Y[:, 0]), generator=torch.Generator())
    law = surrogate.surrogate.posterior(torch.from_numpy(at(told)[None]))
    best = surrogate.surrogate.posterior(torch.from_numpy(known.X)).mean.max()
    draws = law.rsample((200_000,), torch.Generator().manual_seed(0)).flatten()
    gain = (draws - best).clamp_min(0)
    assert np.exp(told.value) == pytest.approx(gain.mean().item(), abs=6 * gain.std().item() / 200_000**0.5)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean log_ei"):
        check_name("log_eii")
    with pytest.raises(ValueError, match="at least 10, got 3"):
        settings(most=3)
    known = past(outputs=2)
    fits = suggest(SPACE, known, settings(), np.ones(2), seed=0)
    assert fits.parameters
    nothing = torch.empty(0, 2)
    with pytest.raises(ValueError, match="'log_ei' is not for 2 objectives"):
        acquisition("log_ei", Situation([None, None], [], nothing, nothing, nothing, nothing))  # type: ignore[list-item]
