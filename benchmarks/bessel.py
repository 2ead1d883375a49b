"""log K and log I of any order beside SciPy's scaled kve and ive, in time and in error.

    python benchmarks/bessel.py [--values 100000] [--repeats 7]

One thread, the least time of the repeats. SciPy's functions give no derivative in the order,
ours give both derivatives in the time that is measured. The gap is the largest difference to
log(kve(nu, x)) - x where that is finite, relative, or absolute where the logarithm is within
one of zero; the tests hold ours to mpmath.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.special import ive, kve

from kernelfield.core.special import log_bessel_i, log_bessel_k

ORDERS = (0.0, 0.3, 1.5, 2.2, 30.3, 300.0, 1000.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    x = 10 ** generator.uniform(-4, np.log10(3e3), options.values)
    rows = []
    for nu in ORDERS:
        row: dict[str, float | str] = {"nu": nu}
        for name, ours, theirs, sign in (("k", log_bessel_k, kve, -1), ("i", log_bessel_i, ive, 1)):
            row |= compare(name, ours, theirs, sign, nu, x, options.repeats)
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        rows.append(row)
    print(json.dumps(rows))


def compare(name: str, ours: Callable, theirs: Callable, sign: int, nu: float, x: np.ndarray, repeats: int) -> dict:
    tensor = torch.from_numpy(x)
    mine = least_time(lambda: ours(nu, tensor), repeats)
    scipy = least_time(lambda: theirs(nu, x), repeats)
    with np.errstate(all="ignore"):
        rival = np.log(theirs(nu, x)) + sign * x
        gap = np.abs(ours(nu, tensor).numpy() - rival) / np.maximum(1, np.abs(rival))
    finite = np.isfinite(rival)
    return {
        f"{name}_seconds": round(mine, 4),
        f"{name}_ratio": round(mine / scipy, 2),
        f"{name}_gap": f"{gap[finite].max(initial=0.0):.0e}",
        f"{name}_scipy_not_finite": f"{np.mean(~finite):.1%}",
    }


def least_time(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
