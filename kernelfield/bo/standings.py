"""What the runs of a benchmark amount to: regrets, their medians with intervals, ranks, and who beats whom.

The regret of a run after each trial is what the best feasible value so far lacks to the optimum; of
several objectives, what the hypervolume lacks to the best one. Where the optimum of a problem is not known
the best that any run of it found stands in for it. Without a feasible value the regret is infinite.

Runs of one problem are paired by their seeds, which share a design. A seed that a sampler lacks is left
out for all. Bootstrap intervals resample seeds, the same for all samplers, and are the central 95% of the
statistic (percentile method), with ends that were drawn, so that infinite regrets have their place:

    median    of the regret at the end,
    rank      the mean over seeds of the rank among the samplers, 1 the best, ties in the middle,
    pairs     the median of the paired differences; and how often each is ahead, with the sign test's p.

A sampler leads if its median is the least, or within the interval of the least. Regrets that differ by
less than a millionth of the median regret of the designs are a tie.

Sources: Efron & Tibshirani (1993), "An Introduction to the Bootstrap"; Dixon & Mood (1946), "The Statistical
Sign Test".
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from botorch.utils.multi_objective.hypervolume import Hypervolume
from botorch.utils.multi_objective.pareto import is_non_dominated
from scipy.stats import binomtest, rankdata

from kernelfield.bo.bench import Run
from kernelfield.bo.contestants import Protocol

DRAWS = 4000  # of the bootstrap
LEVEL = 0.95
TIE = 1e-6
SHARES = (0.25, 0.5, 1.0)  # of the trials, at which regrets are shown
SECONDS = (1.0, 10.0, 100.0)  # of the processor spent on suggestions, likewise


@dataclass(frozen=True)
class Interval:
    """An estimate, and the ends of its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Standing:
    """Where a sampler stands on a problem.

    regret       the median at the end
    rank         the mean
    leads        whether its median is the least, or within the interval of the least
    by_share     medians after shares of the trials
    by_seconds   medians after seconds of suggesting; of a run that took less, at its end
    seconds      the median over runs of the mean seconds of a suggestion
    """

    sampler: str
    regret: Interval
    rank: Interval
    leads: bool
    by_share: dict[float, float]
    by_seconds: dict[float, float]
    seconds: float


@dataclass(frozen=True)
class Pair:
    """How one sampler does beside another on a problem: seeds it wins, loses and ties, and by how much.

    difference   the median over seeds of its regret less the other's; below 0 it is ahead
    p            of the two-sided sign test, without ties
    """

    sampler: str
    other: str
    wins: int
    losses: int
    ties: int
    difference: Interval
    p: float


@dataclass(frozen=True, eq=False)
class Table:
    """The runs of one problem under one protocol.

    Shapes: regrets (samplers, seeds, trials), seconds (samplers, seeds, trials). Seeds are those that all have.
    """

    problem: str
    protocol: Protocol
    samplers: Sequence[str]
    seeds: Sequence[int]
    regrets: np.ndarray
    seconds: np.ndarray
    notes: Sequence[str] = ()

    @property
    def final(self) -> np.ndarray:
        """Regrets (samplers, seeds) at the end."""
        return self.regrets[:, :, -1]

    @cached_property
    def tie(self) -> float:
        """The difference of regrets from which they differ."""
        designed = self.regrets[:, :, self.protocol.design - 1]
        finite = designed[np.isfinite(designed)]
        return TIE * float(np.median(np.abs(finite))) if len(finite) else 0.0

    @cached_property
    def ranks(self) -> np.ndarray:
        """Ranks (samplers, seeds) by the regret at the end."""
        return rankdata(_rounded(self.final, self.tie), axis=0)

    @cached_property
    def standings(self) -> list[Standing]:
        """The samplers, the least median first."""
        drawn = resamples(len(self.seeds))
        medians = [interval(np.median, row, drawn) for row in self.final]
        ranks = [interval(np.mean, row, drawn) for row in self.ranks]
        best = min(medians, key=lambda one: one.value)
        found = [
            Standing(
                name,
                medians[i],
                ranks[i],
                medians[i].value <= best.high + self.tie,
                {share: float(np.median(self.regrets[i, :, self._trial(share)])) for share in SHARES},
                {limit: float(np.median(self._after(i, limit))) for limit in SECONDS},
                float(np.median(self.seconds[i].sum(1)) / (self.protocol.trials - self.protocol.design)),
            )
            for i, name in enumerate(self.samplers)
        ]
        return sorted(found, key=lambda one: (one.regret.value, one.rank.value))

    @cached_property
    def pairs(self) -> list[Pair]:
        """Each two samplers, in the order of their standings."""
        order = [list(self.samplers).index(one.sampler) for one in self.standings]
        return [self._pair(a, b) for place, a in enumerate(order) for b in order[place + 1 :]]

    def _pair(self, a: int, b: int) -> Pair:
        one, other = _rounded(self.final[[a, b]], self.tie)
        wins, losses = int((one < other).sum()), int((one > other).sum())
        with np.errstate(invalid="ignore"):
            gap = np.where(one == other, 0.0, self.final[a] - self.final[b])
        return Pair(
            self.samplers[a],
            self.samplers[b],
            wins,
            losses,
            len(self.seeds) - wins - losses,
            interval(np.median, gap, resamples(len(self.seeds))),
            float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0,
        )

    def _trial(self, share: float) -> int:
        return max(0, math.ceil(share * self.protocol.trials) - 1)

    def _after(self, index: int, limit: float) -> np.ndarray:
        """Regrets (seeds,) of a sampler when its suggestions have taken so many seconds."""
        spent = self.seconds[index].cumsum(1)
        last = np.maximum((spent <= limit).sum(1) - 1, 0)
        return self.regrets[index, np.arange(len(last)), last]


@dataclass(frozen=True, eq=False)
class Standings:
    """A benchmark as a whole."""

    tables: Sequence[Table]

    @cached_property
    def overall(self) -> dict[str, Interval]:
        """The mean over problems of the mean rank, of samplers that ran on all of them; the best first.

        Seeds are resampled within each problem.
        """
        names = [name for name in self.tables[0].samplers if all(name in table.samplers for table in self.tables)]
        parts = []
        for index, table in enumerate(self.tables):
            rows = [list(table.samplers).index(name) for name in names]
            drawn = resamples(len(table.seeds), seed=index)
            ranks = rankdata(_rounded(table.final[rows], table.tie), axis=0) if names else np.empty((0, 1))
            parts.append((ranks.mean(1), ranks[:, drawn].mean(-1) if names else ranks))
        values = np.mean([mean for mean, _ in parts], axis=0)
        draws = np.mean([draw for _, draw in parts], axis=0)
        found = {name: Interval(float(values[i]), *_ends(draws[i])) for i, name in enumerate(names)}
        return dict(sorted(found.items(), key=lambda item: item[1].value))

    def led(self, sampler: str) -> list[str]:
        """The problems on which a sampler leads."""
        return [t.problem for t in self.tables for one in t.standings if one.sampler == sampler and one.leads]

    def to_dict(self) -> dict[str, Any]:
        """The content in plain numbers, lists and text; None stands for what is not finite."""
        tables = [
            {
                "problem": one.problem,
                "protocol": asdict(one.protocol),
                "seeds": list(one.seeds),
                "standings": [asdict(row) for row in one.standings],
                "pairs": [asdict(row) for row in one.pairs],
                "notes": list(one.notes),
            }
            for one in self.tables
        ]
        overall = {name: asdict(one) for name, one in self.overall.items()}
        content: dict[str, Any] = _plain({"tables": tables, "mean_rank": overall})
        return content


def standings(runs: Sequence[Run]) -> Standings:
    """Where samplers stand, of their runs.

    Errors: ValueError without runs, or where the samplers of a problem have no seed in common.
    """
    if not runs:
        raise ValueError("there are no runs to compare; run the benchmark first")
    groups: dict[tuple[str, Protocol], list[Run]] = {}
    for one in runs:
        groups.setdefault((one.case.problem, one.case.protocol), []).append(one)
    return Standings([_table(problem, protocol, group) for (problem, protocol), group in groups.items()])


def worth(run: Run) -> np.ndarray:
    """What has been reached after each trial (n,), less being better: the best feasible value, turned to be
    minimised, or minus the hypervolume of the feasible ones; infinite before a first feasible value.

    Errors: ValueError for several objectives without a reference point.
    """
    sign = np.array([1.0 if direction == "minimize" else -1.0 for direction in run.directions])
    m = len(sign)
    values = sign * np.array([[math.inf] * m if one is None else one for one in run.values], dtype=float)
    values[np.isnan(values)] = math.inf
    feasible = np.array([one is not None for one in run.values])
    feasible &= np.array([all(limit <= 0 for limit in one) for one in run.constraints], dtype=bool)
    if m == 1:
        return np.minimum.accumulate(np.where(feasible, values[:, 0], math.inf))
    if run.reference is None:
        raise ValueError(f"{run.case.problem} has {m} objectives and no reference point to measure hypervolume from")
    return -_hypervolumes(-values, feasible, -sign * np.array(run.reference))


def interval(statistic: Any, values: np.ndarray, drawn: np.ndarray) -> Interval:
    """A statistic of values (n,), with its bootstrap interval over resamples (draws, n).

    >>> round(interval(np.mean, np.array([1.0, 2.0, 6.0]), resamples(3)).value, 6)
    3.0
    """
    return Interval(float(statistic(values)), *_ends(statistic(values[drawn], axis=-1)))


def resamples(n: int, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Positions (draws, n), each row drawn from 0, ..., n - 1 with replacement."""
    return np.random.default_rng(seed).integers(n, size=(draws, n))


def _table(problem: str, protocol: Protocol, runs: Sequence[Run]) -> Table:
    names = list(dict.fromkeys(one.case.sampler for one in runs))
    found = {(one.case.sampler, one.case.seed): one for one in runs}
    every = sorted({one.case.seed for one in runs})
    seeds = [seed for seed in every if all((name, seed) in found for name in names)]
    if not seeds:
        raise ValueError(f"the samplers of {problem}, {', '.join(names)}, have no seed in common; run more of them")
    reached = np.array([[worth(found[name, seed]) for seed in seeds] for name in names])
    target, notes = _target(runs, reached)
    if len(seeds) < len(every):
        notes.append(f"{len(every) - len(seeds)} of {len(every)} seeds are left out, as not every sampler has them")
    versions = {tuple(sorted(one.versions.items())) for one in runs}
    if len(versions) > 1:
        notes.append(f"the runs were made with {len(versions)} sets of versions of the packages")
    seconds = np.array([[found[name, seed].seconds for seed in seeds] for name in names])
    return Table(problem, protocol, names, seeds, reached - target, seconds, notes)


def _target(runs: Sequence[Run], reached: np.ndarray) -> tuple[float, list[str]]:
    """What could be reached at best, in the units of `worth`, and a note where that is not known."""
    one = runs[0]
    if len(one.directions) > 1 and one.best_hypervolume is not None:
        return -one.best_hypervolume, []
    if len(one.directions) == 1 and one.optimum is not None:
        return one.optimum if one.directions[0] == "minimize" else -one.optimum, []
    finite = reached[np.isfinite(reached)]
    best = float(finite.min()) if len(finite) else 0.0
    shown = best if one.directions == ("minimize",) else -best
    return best, [f"the optimum is not known; the best of these runs, {shown:.6g}, stands in for it"]


def _hypervolumes(values: np.ndarray, feasible: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The hypervolume (n,) of the first feasible values (n, m), more being better, after each of them."""
    measure = Hypervolume(torch.from_numpy(reference))
    front, after, latest = torch.empty(0, len(reference), dtype=torch.double), np.empty(len(values)), 0.0
    for place, point in enumerate(torch.from_numpy(values)):
        if feasible[place] and bool((point > measure.ref_point).all()) and not bool((front >= point).all(1).any()):
            front = torch.cat([front, point[None]])
            front = front[is_non_dominated(front)]
            latest = measure.compute(front)
        after[place] = latest
    return after


def _rounded(values: np.ndarray, unit: float) -> np.ndarray:
    """Values as multiples of a unit, so that those that differ by far less are equal."""
    return np.round(values / unit) if unit > 0 else values


def _ends(draws: np.ndarray) -> tuple[float, float]:
    tail = (1 - LEVEL) / 2
    return float(np.quantile(draws, tail, method="lower")), float(np.quantile(draws, 1 - tail, method="higher"))


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
