"""Streaming: rows a second of random-feature regression over Parquet files, and the memory that it takes.

    python benchmarks/streaming.py                       1M and 5M rows
    python benchmarks/streaming.py --rows 1 20           1M and 20M rows, about 1.5 GB of files

Makes the files (eight inputs, a smooth function with noise), fits them by `fit_stream` in a process of its own with
one thread, and prints a table and one JSON line: seconds of each stage, rows a second of one core, peak memory, and
how far the pass of the sums is from its floor. Of k features a row costs k^2 multiplications for the triangle of the
sums' matrix, which are k^2 times two operations in all over two, and the floor is their number over the speed of a
matrix product of this size on this machine, measured before and after. The features themselves, k sines and cosines,
and reading the files come on top.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch

from kernelfield.data.streams import TableStream
from kernelfield.estimators.streaming import Progress
from kernelfield.models.random_features import RandomFeatureProcess
from kernelfield.streaming import fit_stream

INPUTS, FEATURES = 8, 512
FILE, GROUP = 1_000_000, 100_000  # rows of a file and of a group in it
MILLION = 1_000_000


def write(folder: Path, rows: int) -> None:
    """Files of at most a million rows."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(INPUTS, 4))
    for number, first in enumerate(range(0, rows, FILE)):
        writer = None
        for start in range(first, min(rows, first + FILE), GROUP):
            X = rng.uniform(-1, 1, size=(min(GROUP, rows - start), INPUTS))
            y = np.sin(X @ weights).sum(1) + 0.3 * rng.normal(size=len(X))
            columns = {**{f"x{j}": X[:, j] for j in range(INPUTS)}, "y": y}
            table = pa.table(columns)
            writer = writer or parquet.ParquetWriter(folder / f"{number:04d}.parquet", table.schema)
            writer.write_table(table, row_group_size=GROUP)
        if writer is not None:
            writer.close()


def product_rate(n: int = 512) -> float:
    """Operations a second of (k, n) @ (n, k) in double precision on one core."""
    A = torch.randn(FEATURES, n, dtype=torch.float64)
    A @ A.mT
    start, repeats = time.process_time(), 100
    for _ in range(repeats):
        A @ A.mT
    return 2 * FEATURES**2 * n * repeats / (time.process_time() - start)


def measure(folder: Path) -> dict[str, float]:
    """Fit the files of a folder: seconds by stage, of the clock and of the processor, and what was reached."""
    torch.set_num_threads(1)
    rates = [product_rate()]
    stages: dict[str, list[tuple[float, float]]] = {}

    def watch(at: Progress) -> None:
        stages.setdefault(at.stage, []).append((time.perf_counter(), time.process_time()))

    stream = TableStream.open(folder)
    began = time.perf_counter()
    model = RandomFeatureProcess(count=FEATURES, restarts=2, steps=50)
    fit = fit_stream(model, stream, "y", test_share=min(0.1, 20_000 / stream.rows), watch=watch)
    whole = time.perf_counter() - began
    rates.append(product_rate())
    (wall, cpu), (end, end_cpu) = stages["learning"][0], stages["learning"][-1]
    passed = stream.rows - min(2**16, stream.rows)  # the first word comes after the first block
    assert fit.held is not None
    scores = fit.model.report(fit.held).evaluation.scores()
    return {
        "rows": stream.rows,
        "seconds": whole,
        "seconds of the sums": end - wall,
        "rows/s": passed / (end - wall),
        "rows/s of a core": passed / (end_cpu - cpu),
        "rows/s at the floor": max(rates) / FEATURES**2,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "rmse": float(scores["rmse"]),
        "coverage90": float(scores["coverage90"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, nargs="+", default=[1, 5], help="millions of rows of each run")
    parser.add_argument("--folder", type=Path, help="where to put the files; a temporary folder by default")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return
    results = []
    for millions in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            write(Path(folder), int(millions * MILLION))
            command = [sys.executable, __file__, "--measure", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{FEATURES} features, {INPUTS} inputs, one thread; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name in results[0]:
        print(f"{name:22}" + "".join(f"{result[name]:>14,.4g}" for result in results))
    first, last = results[0], results[-1]
    ratios = {
        "rate of the most rows to that of the fewest": last["rows/s of a core"] / first["rows/s of a core"],
        "floor to rate": last["rows/s at the floor"] / last["rows/s of a core"],
    }
    print(json.dumps({"benchmark": "streaming", "runs": results, **ratios}))


if __name__ == "__main__":
    main()
