"""Simulated time to a target: runs that are watched and stopped early, eight at once.

    OMP_NUM_THREADS=1 python benchmarks/multi_fidelity.py [--seeds 30] [--ways asha mobster] [-o runs.jsonl]

Every seed is another problem of five parameters: a loss that falls from step to step towards a level,

    loss(x, r) = level(x) + drop(x) exp(-(r / tau(x))^q) + excess(x) (r / 81)^2,

where level, the time tau of the fall, the cost of a step and the late rise depend on x in different directions, so that
what is best after a few steps is often not best after 81. A trial reports its loss with noise after each step.
The events of eight workers are simulated on a clock of their own with real studies of Optuna and its
SuccessiveHalvingPruner, factor 3, first rung 1; the clock stands while a sampler thinks. The target is the level that
one configuration in 500 keeps at step 81; it is reached when a trial's loss without noise is there.

    asha      RandomSampler                            mobster    FieldSampler(fidelity="step")
    tpe       TPESampler                               final      FieldSampler, which sees complete trials alone

Prints medians over seeds and a JSON line with the ratio of medians to asha, its interval by bootstrap over seeds, and
the rank correlations of early with late losses. Results are kept, one line a run, and not computed again.
"""

import argparse
import heapq
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from scipy.stats import spearmanr

from kernelfield.bo.optuna import FieldSampler

INPUTS, LONGEST, WORKERS, NOISE = 5, 81, 8, 0.01
SHARE = 1 / 500  # of configurations that reach the target
DEADLINE = 3000.0  # simulated seconds after which a run is given up; a step takes about one

WAYS: dict[str, Callable[[int], BaseSampler]] = {
    "asha": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
    "mobster": lambda seed: FieldSampler(fidelity="step", seed=seed),
    "final": lambda seed: FieldSampler(seed=seed),
}


class Problem:
    """Learning curves over the unit cube, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng([seed, 77])
        self.centre = random.uniform(0.2, 0.8, INPUTS)
        turn, _ = np.linalg.qr(random.normal(size=(INPUTS, INPUTS)))
        self.metric = turn * np.exp(random.uniform(np.log(0.5), np.log(6.0), INPUTS))  # columns scaled
        self.pace, self.price, self.excess, self.height = random.normal(size=(4, INPUTS)) / INPUTS**0.5
        self.waves = random.uniform(4, 9, INPUTS)
        late = self.loss(random.uniform(size=(20_000, INPUTS)), LONGEST)
        self.target = float(np.quantile(late, SHARE))

    def loss(self, x: np.ndarray, r: float) -> np.ndarray:
        """The loss (n,) of x (n, d) after r steps, without noise."""
        gap = x - self.centre
        bowl = ((gap @ self.metric) ** 2).sum(-1)
        level = 0.1 + 0.8 * bowl / (1 + bowl) + 0.03 * (1 - np.cos(self.waves * gap)).mean(-1)
        tau = 8 * np.exp(3.5 * (x - 0.5) @ self.pace)
        drop = 0.7 * np.exp(1.0 * (x - 0.5) @ self.height)
        excess = 0.1 * np.logaddexp(0, 6 * (x - 0.5) @ self.excess) / 2
        return level + drop * np.exp(-((r / tau) ** 0.7)) + excess * (r / LONGEST) ** 2

    def cost(self, x: np.ndarray) -> float:
        """The simulated seconds of a step."""
        return float(np.exp(2.0 * (x - 0.5) @ self.price))


def run(way: str, seed: int) -> dict[str, float | str]:
    """One optimisation until the target or the deadline."""
    problem, random = Problem(seed), np.random.default_rng([seed, 5])
    pruner = SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    study = optuna.create_study(sampler=WAYS[way](seed), pruner=pruner)
    thought = 0.0
    queue = [(0.0, worker, None, 0) for worker in range(WORKERS)]  # when, who, trial and point, steps that it has made
    reached, clock = DEADLINE, 0.0
    while clock < DEADLINE:
        clock, worker, work, step = heapq.heappop(queue)
        if work is not None:
            trial, x = work
            truth = float(problem.loss(x[None], step)[0])
            if truth <= problem.target:
                reached = clock
                break
            value = truth + NOISE * random.normal()
            trial.report(value, step)
            if step == LONGEST:
                study.tell(trial, value)
            elif trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
            else:
                heapq.heappush(queue, (clock + problem.cost(x), worker, work, step + 1))
                continue
        start = time.process_time()
        trial = study.ask()
        x = np.array([trial.suggest_float(f"x{i}", 0, 1) for i in range(INPUTS)])
        thought += time.process_time() - start
        heapq.heappush(queue, (clock + problem.cost(x), worker, (trial, x), 1))
    return {"way": way, "seed": seed, "time": reached, "trials": len(study.trials), "thought": thought}


def correlations(seeds: int) -> dict[int, float]:
    """The median over problems of the rank correlation of losses at each rung with the last."""
    rungs, found = (1, 3, 9, 27), []
    for seed in range(seeds):
        problem, x = Problem(seed), np.random.default_rng(seed).uniform(size=(1000, INPUTS))
        late = problem.loss(x, LONGEST)
        found.append([spearmanr(problem.loss(x, r), late).statistic for r in rungs])
    return dict(zip(rungs, np.median(found, axis=0).round(2).tolist(), strict=True))


def ratio(times: np.ndarray, base: np.ndarray) -> tuple[float, float, float]:
    """The ratio of medians of paired times (n,), and the ends of its 95% interval over seeds."""
    draws = np.random.default_rng(0).integers(len(times), size=(4000, len(times)))
    spread = np.median(times[draws], axis=1) / np.median(base[draws], axis=1)
    low, high = np.quantile(spread, [0.025, 0.975])
    return float(np.median(times) / np.median(base)), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["asha", "mobster", "tpe"])
    parser.add_argument("-o", "--out", type=Path, default=Path("multi_fidelity.jsonl"))
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    runs = {(one["way"], one["seed"]): one for one in map(json.loads, lines)}
    for seed in range(options.seeds):
        for way in options.ways:
            if (way, seed) not in runs:
                runs[way, seed] = run(way, seed)
                with options.out.open("a") as file:
                    file.write(json.dumps(runs[way, seed]) + "\n")
    table = {
        way: {
            key: np.array([runs[way, seed][key] for seed in range(options.seeds)])
            for key in ("time", "trials", "thought")
        }
        for way in options.ways
    }
    print(f"{'':>10}{'median time':>12}{'missed':>8}{'trials':>8}{'seconds a trial':>17}{'to asha':>9}   95%")
    for way, found in table.items():
        against = ratio(found["time"], table["asha"]["time"]) if "asha" in table else (np.nan,) * 3
        missed, each = int((found["time"] >= DEADLINE).sum()), float(found["thought"].sum() / found["trials"].sum())
        print(
            f"{way:>10}{np.median(found['time']):12.0f}{missed:8}{np.median(found['trials']):8.0f}{each:17.3f}"
            f"{against[0]:9.2f}   {against[1]:.2f} to {against[2]:.2f}"
        )
        line = {"way": way, "seeds": options.seeds, "median": float(np.median(found["time"])), "missed": missed}
        print(json.dumps({**line, "ratio": against[0], "low": against[1], "high": against[2]}), flush=True)
    print(json.dumps({"rank correlation with step 81": correlations(options.seeds)}))


if __name__ == "__main__":
    main()
