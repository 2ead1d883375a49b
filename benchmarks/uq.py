"""Uncertainty reports, in time and memory: scores beside uncertainty-toolbox, and whole reports.

    python benchmarks/uq.py --part scores [--rows 200000] [--their-rows 20000] [--repeats 5]
    python benchmarks/uq.py --part report [--rows 1000000]

Gaussian predictions, right but for chance. `scores` times all scores with the calibration curve and
the PIT histogram, from arrays to numbers, and uncertainty-toolbox's `get_all_metrics` on the first of
the same rows; its seconds for all rows are those times the ratio of the rows, as its time grows in
proportion at least. Seconds are of the processor on one thread, ours the least of the repeats. The
largest gap between scores that both define is stated, on the rows that both had. It needs
uncertainty-toolbox, which kernelfield does not install:

    pip install --no-deps uncertainty-toolbox tqdm

`report` makes page, JSON and Markdown from arrays with two columns of numbers, one of text, times and rows
from elsewhere. Its seconds are of the processor on one thread, its memory the most that the process held beyond what it
had with the arrays that came in and a small report made, as a multiple of these arrays (resident pages, looked at every
3 ms; Linux alone tells them so).

Prints a table and one line of JSON.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from kernelfield.uq.arrays import law_from
from kernelfield.uq.calibration import curve, histogram
from kernelfield.uq.report import Report
from kernelfield.uq.rows import Rows
from kernelfield.uq.scores import evaluate

PARTS = ("scores", "report")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--their-rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    match options.part:
        case "scores":
            result = scores(options.rows, options.their_rows, options.repeats)
        case "report":
            result = report(options.rows)
    for name, value in result.items():
        print(f"{name:<28}{value:>14.6g}")
    print(json.dumps({options.part: result}))


def scores(rows: int, their_rows: int, repeats: int) -> dict[str, float]:
    try:
        from uncertainty_toolbox import get_all_metrics
    except ImportError:
        sys.exit("--part scores compares with uncertainty-toolbox: pip install --no-deps uncertainty-toolbox tqdm")
    y, mean, std = predictions(rows)
    own = min(seconds(lambda: ours(y, mean, std)) for _ in range(repeats))
    few = [column[:their_rows] for column in (y, mean, std)]
    rival: dict = {}
    theirs = seconds(lambda: rival.update(get_all_metrics(few[1], few[2], few[0], verbose=False)))
    mine = ours(*few)
    same = {
        "rmse": rival["accuracy"]["rmse"],
        "mae": rival["accuracy"]["mae"],
        "nll": rival["scoring_rule"]["nll"],
        "crps": rival["scoring_rule"]["crps"],
    }
    extrapolated = theirs * rows / len(few[0])
    return {
        "rows": rows,
        "seconds": own,
        "their_rows": len(few[0]),
        "their_seconds": theirs,
        "their_seconds_extrapolated": extrapolated,
        "times_faster": extrapolated / own,
        "largest_gap": max(abs(mine[name] - float(value)) for name, value in same.items()),
    }


def report(rows: int) -> dict[str, float]:
    arrays = predictions(rows)
    generator = np.random.default_rng(1)
    columns = {
        "age": generator.uniform(20, 80, rows),
        "load": generator.normal(size=rows),
        "site": generator.choice(["Bern", "Oslo", "Rome"], rows),
        "time": np.arange(rows, dtype=float),
    }
    outside = generator.uniform(1, 4, (rows // 10, 1))
    size = sum(array.nbytes for array in (*arrays, *columns.values(), outside))

    def made(few: int | None = None) -> int:
        some = {name: column[:few] for name, column in columns.items()}
        known = Rows(some, groups=["site"], time="time", outside=outside[:few])
        y, mean, std = (array[:few] for array in arrays)
        whole = Report.from_arrays(y, mean=mean, std=std, rows=known)
        return len(whole.to_html().encode()) + 0 * len(json.dumps(whole.to_dict()) + whole.to_markdown())

    made(2000)
    before, begun = resident(), time.process_time()
    with Watch() as watch:
        page = made()
    spent, peak = time.process_time() - begun, watch.most - before
    return {
        "rows": rows,
        "seconds": spent,
        "page_bytes": page,
        "input_bytes": size,
        "peak_bytes": peak,
        "peak_over_input": peak / size,
    }


def resident() -> int:
    """Bytes that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watch:
    """The most that the process holds while a block runs."""

    def __enter__(self) -> "Watch":
        self.most, self._done = resident(), threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.003):
            self.most = max(self.most, resident())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def predictions(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, means and deviations (rows,)."""
    generator = np.random.default_rng(0)
    mean, std = generator.normal(size=rows), generator.uniform(0.5, 2.0, rows)
    return mean + std * generator.normal(size=rows), mean, std


def ours(y: np.ndarray, mean: np.ndarray, std: np.ndarray) -> dict[str, float]:
    evaluation = evaluate(law_from(mean=mean, std=std), y)
    curve(evaluation), histogram(evaluation)
    return evaluation.scores()


def seconds(call: Callable[[], object]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun


if __name__ == "__main__":
    main()
