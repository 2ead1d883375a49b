"""Medians, intervals and ranks of benchmarks, against SciPy, closed forms and counting."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from kernelfield.bo.bench import Case, Run
from kernelfield.bo.contestants import Protocol
from kernelfield.bo.standings import interval, resamples, standings, worth

TRIALS = 8
PROTOCOL = Protocol("fixed", 2, 1, TRIALS)


def single(sampler: str, seed: int, last: float, *, problem: str = "p", optimum: float | None = 0.0) -> Run:
    """A run whose best value is 10 after its design and `last` at its end."""
    values = [[12.0], [10.0], [11.0], [10.5], [max(last, 5.0)], [11.0], [11.0], [last]]
    case = Case(problem, sampler, PROTOCOL, seed)
    return Run(case, ("minimize",), values, [[]] * TRIALS, [0.0, 0.0] + [2.0] * 6, optimum)


def trial_run(values: list, constraints: list, directions: tuple[str, ...] = ("minimize",), **known: object) -> Run:
    case = Case("p", "gp", Protocol("fixed", 1, 1, len(values)), 0)
    return Run(case, directions, values, constraints, [0.0] * len(values), **known)  # type: ignore[arg-type]


def test_only_feasible_numbers_count_and_maximisation_is_turned() -> None:
    one = trial_run([[3.0], [1.0], None, [2.0]], [[-1.0], [0.1], [], [0.0]])
    assert worth(one).tolist() == [3.0, 3.0, 3.0, 2.0]
    assert worth(trial_run([[3.0], [1.0], [4.0]], [[1.0], [-1.0], [-1.0]], ("maximize",))).tolist() == [
        math.inf,
        -1.0,
        -4.0,
    ]


def test_hypervolume_is_the_share_of_random_points_that_are_dominated() -> None:
    rng = np.random.default_rng(0)
    values, constraints = rng.uniform(size=(12, 3)), rng.normal(size=(12, 1))
    directions = ("minimize", "maximize", "minimize")
    one = trial_run(values.tolist(), constraints.tolist(), directions, reference=(1.0, 0.0, 1.0))
    turned = np.stack([1 - values[:, 0], values[:, 1], 1 - values[:, 2]], 1)
    z = rng.uniform(size=(200_000, 3))
    for count in (1, 5, 12):
        kept = turned[:count][constraints[:count, 0] <= 0]
        share = (z[:, None] <= kept).all(-1).any(-1).mean() if len(kept) else 0.0
        assert -worth(one)[count - 1] == pytest.approx(share, abs=6 * math.sqrt(0.25 / len(z)))


def test_interval_of_the_median_has_the_exact_quantiles_of_the_bootstrap() -> None:
    """For n odd, P(median* <= x_k) = P(Binomial(n, k / n) >= (n + 1) / 2)."""
    n = 11
    values = np.random.default_rng(1).normal(size=n)
    found = interval(np.median, values, resamples(n))
    below = stats.binom.sf((n + 1) // 2 - 1, n, np.arange(1, n + 1) / n)
    order = np.sort(values)
    assert found.value == np.median(values)
    assert found.low == order[np.searchsorted(below, 0.025)]
    assert found.high == order[np.searchsorted(below, 0.975)]


def test_interval_of_the_mean_is_that_of_all_resamples() -> None:
    values = np.array([0.0, 1.0, 5.0, 2.0])
    every = [np.mean(one) for one in itertools.product(values, repeat=4)]
    found = interval(np.mean, values, resamples(4))
    assert found.low == pytest.approx(np.quantile(every, 0.025, method="inverted_cdf"), abs=0.26)
    assert found.high == pytest.approx(np.quantile(every, 0.975, method="inverted_cdf"), abs=0.26)


def test_interval_of_the_mean_covers_as_often_as_it_says() -> None:
    rng, drawn, hits = np.random.default_rng(2), resamples(40, draws=1000), 0
    for _ in range(300):
        found = interval(np.mean, rng.normal(size=40), drawn)
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / 300 <= 0.99  # 0.94 +- six standard errors, and a little below 0.95 at n = 40


def test_an_interval_takes_infinite_regrets() -> None:
    found = interval(np.median, np.array([1.0, 2.0, math.inf]), resamples(3))
    assert (found.value, found.low, found.high) == (2.0, 1.0, math.inf)


def test_ranks_pairs_and_leads_are_those_of_counting() -> None:
    finals = {
        "a": [1.0, 2.0, 3.0, 1.0, 1.0, 2.0],
        "b": [2.0, 1.0, 3.0, 4.0, 5.0, 6.0],
        "c": [9.0, 9.0, 9.0, 9.0, 9.0, 9.0],
    }
    [table] = standings([single(name, i, x) for name, row in finals.items() for i, x in enumerate(row)]).tables
    by_name = {one.sampler: one for one in table.standings}
    ranks = stats.rankdata(np.array(list(finals.values())), axis=0).mean(1)
    assert [by_name[name].rank.value for name in finals] == pytest.approx(ranks.tolist())
    assert [one.sampler for one in table.standings] == ["a", "b", "c"]
    assert by_name["a"].regret.value == np.median(finals["a"])
    [pair] = [one for one in table.pairs if (one.sampler, one.other) == ("a", "b")]
    assert (pair.wins, pair.losses, pair.ties) == (4, 1, 1)
    assert pair.p == pytest.approx(stats.binomtest(4, 5).pvalue)
    assert pair.difference.value == np.median(np.subtract(finals["a"], finals["b"]))
    assert [by_name[name].leads for name in finals] == [True, False, False]


def test_differences_below_a_millionth_of_the_design_s_regret_are_ties() -> None:
    runs = [single("a", seed, 1e-9) for seed in range(4)] + [single("b", seed, 2e-6) for seed in range(4)]
    [table] = standings(runs).tables
    assert table.tie == pytest.approx(1e-5)
    assert table.pairs[0].ties == 4
    assert all(one.leads for one in table.standings)


def test_regrets_are_read_at_shares_of_trials_and_at_seconds() -> None:
    [table] = standings([single("a", 0, 1.0)]).tables
    assert table.standings[0].by_share == {0.25: 10.0, 0.5: 10.0, 1.0: 1.0}
    assert table.standings[0].by_seconds == {1.0: 10.0, 10.0: 5.0, 100.0: 1.0}  # 2 s each: five suggestions in 10 s
    assert table.standings[0].seconds == 2.0


def test_seeds_that_a_sampler_lacks_are_left_out_for_all() -> None:
    runs = [single("a", seed, float(seed)) for seed in range(4)] + [single("b", seed, 1.0) for seed in (1, 3)]
    [table] = standings(runs).tables
    assert list(table.seeds) == [1, 3]
    assert "2 of 4 seeds are left out" in table.notes[0]
    with pytest.raises(ValueError, match="no seed in common"):
        standings([single("a", 0, 1.0), single("b", 1, 1.0)])


def test_an_unknown_optimum_is_the_best_of_all_runs() -> None:
    runs = [single(name, 0, last, optimum=None) for name, last in (("a", 3.0), ("b", 4.5))]
    [table] = standings(runs).tables
    assert [one.regret.value for one in table.standings] == [0.0, 1.5]
    assert "3" in table.notes[0]


def test_overall_ranks_are_means_over_problems_and_the_record_is_strict_json() -> None:
    runs = [single("a", s, 1.0, problem="p") for s in range(3)] + [single("b", s, 2.0, problem="p") for s in range(3)]
    runs += [single("a", s, 4.0, problem="q") for s in range(3)] + [single("b", s, 3.0, problem="q") for s in range(3)]
    found = standings(runs)
    assert {name: one.value for name, one in found.overall.items()} == {"a": 1.5, "b": 1.5}
    assert found.led("a") == ["p"]
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["tables"][1]["standings"][0]["sampler"] == "b"
    with pytest.raises(ValueError, match="no runs"):
        standings([])
