"""Ranks on one machine: what 1, 2 and 4 of them take for the same work, and how nearly they agree.

    python benchmarks/distributed.py [--quick] [--rows 6000] [--columns 17] [--worlds 1 2 4]

Work, in double precision, of a Matern-5/2 kernel of 8 inputs:

    computed   a product of the kernel matrix with so many columns, its rows computed anew
    kept       the same, by rows that each rank keeps
    solve      preconditioned conjugate gradients to a residual of 1e-11, by kept rows
    slope      the gradient of the evidence's quadratic form in the hyperparameters
    sums       normal equations of 512 random features of 20 times as many rows, summed in one message
    network    20 steps of a network of two layers of 256 on batches of 4096, gradients summed at each step

Speed-up is the time of one rank over that of w, by the clock; "work" is the processor time of all ranks together over
that of one rank: what sharing costs whatever else the machine does. More ranks than idle cores cannot be quicker by the
clock. Differences are the largest entry of |answer - answer of one rank|, relative to the largest answer.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.kernels.partitioned import partitioned
from kernelfield.kernels.stationary import Matern
from kernelfield.linalg.iterative import conjugate_gradients
from kernelfield.linalg.preconditioner import LowRankPlusDiagonal, low_rank
from kernelfield.linalg.ranks import Ranks, join, leave
from kernelfield.models.neural.likelihoods import Gaussian
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.train import Training, train
from kernelfield.models.random_features import RandomFeatureProcess

NOISE = 0.1
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1500 rows, 1 and 2 ranks")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--columns", type=int, default=17)
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    if options.quick:
        options.rows, options.worlds = 1500, [1, 2]
    print(
        f"{options.rows} rows, {options.columns} columns, one thread a rank, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}"
    )
    found = {world: measured(world, options.rows, options.columns) for world in options.worlds}
    first = found[options.worlds[0]]
    print(f"{'':10}" + "".join(f"{f'{w} ranks':>33}" for w in options.worlds))
    print(f"{'work':10}" + f"{'seconds':>9}{'speed-up':>9}{'work':>6}{'differs':>9}" * len(options.worlds))
    record: dict[str, Any] = {"rows": options.rows, "load": os.getloadavg()[0]}
    for name in first:
        line = f"{name:10}"
        for world in options.worlds:
            wall, processor, answer = found[world][name]
            one_wall, one_processor, expected = first[name]
            gap = ((answer - expected).abs().max() / expected.abs().max()).item()
            line += f"{wall:9.3f}{one_wall / wall:9.2f}{processor / one_processor:6.2f}{gap:9.0e}"
            record[f"{name} {world}"] = [wall, one_wall / wall, processor / one_processor, gap]
        print(line)
    print(json.dumps(record))


def measured(world: int, rows: int, columns: int) -> dict[str, tuple[float, float, Tensor]]:
    """Seconds by the clock, of all processors, and the answer of each piece of work."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ends = [context.Pipe(duplex=False) for _ in range(world)]
        ranks = [
            context.Process(target=one, args=(end, f"file://{folder}/meeting", rank, world, rows, columns))
            for rank, (_, end) in enumerate(ends)
        ]
        for process in ranks:
            process.start()
        answers = [mine.recv() for mine, _ in ends]
        for process in ranks:
            process.join()
    return {
        name: (wall, sum(answer[name][1] for answer in answers), torch.tensor(values, dtype=torch.float64))
        for name, (wall, _, values) in answers[0].items()
    }


def one(end: Any, meeting: str, rank: int, world: int, rows: int, columns: int) -> None:
    """The life of a rank: all pieces of work, the best of some repeats."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    ranks = join(meeting, rank=rank, world=world, timeout=600)
    answers = {}
    for name, task in tasks(ranks, rows, columns).items():
        times = []
        for _ in range(REPEATS):
            ranks.barrier()
            clock, processor = time.perf_counter(), time.process_time()
            answer = task()
            ranks.barrier()
            times.append((time.perf_counter() - clock, time.process_time() - processor))
        answers[name] = *min(times), answer.flatten()[:1000].tolist()
    leave()
    end.send(answers)


def tasks(ranks: Ranks, rows: int, columns: int) -> dict[str, Callable[[], Tensor]]:
    generator = torch.Generator().manual_seed(0)
    X, V = torch.randn(rows, 8, generator=generator), torch.randn(rows, columns, generator=generator)
    kernel = Matern(2.5, ard_num_dims=8).double()
    kernel.lengthscale = 3.0
    anew, kept = (partitioned(kernel, X, ranks=ranks, products=count) for count in (1, 100))
    F = low_rank(kept.rows, kept.diagonal, min(300, rows // 4), generator=torch.Generator().manual_seed(0))
    P = LowRankPlusDiagonal(F, NOISE)
    many = torch.randn(20 * rows, 8, generator=generator)
    targets = many[:, :1].sin()
    sums = RandomFeatureProcess(count=256, features="fourier", steps=0)

    def solve() -> Tensor:
        return conjugate_gradients(lambda B: kept(B) + NOISE * B, V, precondition=P.solve, tolerance=1e-11).X

    def slope() -> Tensor:
        return torch.cat([part.flatten() for part in anew.pull(V, V)])

    def normal_equations() -> Tensor:
        sample = Data(many[:500], targets[:500])
        learner = sums.learner(sample, len(many), generator=torch.Generator().manual_seed(0))
        own = ranks.rows(len(many))
        for part in torch.arange(own.start, own.stop).split(8192):
            learner.step(Data(many[part], targets[part]))
        return learner.surrogate().posterior(X[:100]).mean

    def network() -> Tensor:
        training = Training(steps=20, batch=min(4096, len(many)), precision="double")
        made = Network(multilayer((256, 256)), 8, 1)
        found = train(made, Data(many, targets), Gaussian(0.1), training, generator=torch.Generator().manual_seed(0))
        return found.parameters

    return {
        "computed": lambda: anew(V),
        "kept": lambda: kept(V),
        "solve": solve,
        "slope": slope,
        "sums": normal_equations,
        "network": network,
    }


if __name__ == "__main__":
    main()
