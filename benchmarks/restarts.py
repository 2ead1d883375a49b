"""Do a few starts reach the best evidence that many find? Borehole and Hartmann-6, n = 200.

    python benchmarks/restarts.py [--seeds 20] [--many 50]

Each seed draws new data; `Process()` with its default number of starts is compared with a fit
from many, with the lengthscale prior of the default kernel and without a prior, on standardised
data, as the estimator gives them, and on raw inputs. Prints the largest gap in nats a point.
"""

import argparse
import json
import time

import numpy as np
import torch

from kernelfield.core.contracts import Data
from kernelfield.data.synthetic import borehole_sample, hartmann6_sample
from kernelfield.kernels.stationary import Matern
from kernelfield.models.process import Process

CLOSE = 0.01  # nats a point


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--many", type=int, default=50)
    options = parser.parse_args()
    results = []
    for sample in (borehole_sample, hartmann6_sample):
        for prior in (True, False):
            for raw in (False, True):
                row = compare(sample, prior=prior, raw=raw, seeds=options.seeds, many=options.many)
                print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
                results.append(row)
    print(json.dumps(results))


def compare(sample, *, prior: bool, raw: bool, seeds: int, many: int) -> dict:
    gaps, seconds = [], []
    for seed in range(seeds):
        X, y = sample(200, np.random.default_rng(seed))
        X = X if raw else (X - X.mean(0)) / X.std(0)
        data = Data(torch.as_tensor(X), torch.as_tensor((y - y.mean()) / y.std())[:, None])
        kernel = None if prior else Matern(ard_num_dims=X.shape[1])
        start = time.perf_counter()
        few = best(Process(kernel), data, seed)
        seconds.append(time.perf_counter() - start)
        gaps.append(few - best(Process(kernel, restarts=many), data, seed + 1000))
    return {
        "function": sample.__name__.removesuffix("_sample"),
        "prior": prior,
        "inputs": "raw" if raw else "standardised",
        "within": f"{sum(gap < CLOSE for gap in gaps)} of {seeds}",
        "largest_gap": f"{max(gaps):.1e}",
        "seconds_a_fit": f"{np.mean(seconds):.2f}",
    }


def best(model: Process, data: Data, seed: int) -> float:
    """The least loss, minus the log posterior a point, over all starts."""
    fitted = model.fit(data, generator=torch.Generator().manual_seed(seed))
    return min(search.last for search in fitted.searches)


if __name__ == "__main__":
    main()
