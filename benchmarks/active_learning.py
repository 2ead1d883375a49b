"""Test error as labels are added in batches: rows picked by `select_batch` against random ones.

    KERNELFIELD_DATA=folder python benchmarks/active_learning.py [--sets kin8nm protein-tertiary-structure]
        [--methods lcmd random] [--seeds 5] [--rounds 8] [--batch 256] [--start 1000] [--rows 25000] [--first 0]

The folder holds NAME.npz files with X (n, d) and y (n,). Of a set with more than --rows rows a random part of
that size is taken; inputs are standardised and then squashed to 5 tanh(x / 5), as in the paper below. Each
seed, from --first on, divides the rows into a quarter for tests and a pool, and draws the labels of the start
and the network's first weights, which methods share. After each round a network of two layers of 128 units, in
the NTK parameterisation, is trained afresh by squares on all labels; networks of all seeds and methods are
trained at once. Rows are picked by the network's gradients, sketched to 512 features; "max-det" and "bait"
scale them and condition them on the labelled rows, as Holzmueller et al. (2023) have it.

Prints the mean over rounds and seeds of the logarithm of the test RMSE (targets standardised), the difference
to random ones paired over seeds with its standard error, and one JSON line.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.models.active.batch import SELECTIONS, select_batch
from kernelfield.models.active.features import Gradients
from kernelfield.models.active.transforms import Condition, Scale, Sketch
from kernelfield.models.neural.likelihoods import Gaussian
from kernelfield.models.neural.network import Network
from kernelfield.models.neural.train import Training, train
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu

GIVEN = {"max-det": (Scale(), Condition()), "bait": (Scale(), Condition()), "bait-fb": (Scale(), Condition())}
HIDDEN = Dense(2**0.5, 0.2) >> Relu() >> Dense(2**0.5, 0.2) >> Relu()
DEFAULTS = {"seeds": 5, "rounds": 8, "batch": 256, "start": 1000, "rows": 25_000, "steps": 1000, "first": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["kin8nm", "protein-tertiary-structure"])
    parser.add_argument("--methods", nargs="+", default=["lcmd", "random"], choices=list(SELECTIONS))
    for name, value in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    if "KERNELFIELD_DATA" not in os.environ:
        raise SystemExit("set KERNELFIELD_DATA to the folder that holds the data sets")
    print(f"{'set':<28}{'picked by':<13}{'log RMSE':>9}{'less random ± standard error':>32}", flush=True)
    print(json.dumps({name: compared(name, options) for name in options.sets}))


def compared(name: str, options: argparse.Namespace) -> dict:
    """The curves of all methods on a data set, and their means."""
    X, Y = standardised(name, options.rows)
    runs = [
        (method, seed) for method in options.methods for seed in range(options.first, options.first + options.seeds)
    ]
    parts = [torch.randperm(len(X), generator=torch.Generator().manual_seed(seed)) for _, seed in runs]
    test, pool = zip(*(order.tensor_split([len(X) // 4]) for order in parts), strict=True)
    labelled = torch.zeros(len(runs), len(X), dtype=torch.bool)
    for mask, numbers in zip(labelled, pool, strict=True):
        mask[numbers[: options.start]] = True
    network = Network(HIDDEN >> Dense(1.0, 0.2), X.shape[1], 1)
    curves, seconds = torch.zeros(len(runs), options.rounds + 1), dict.fromkeys(options.methods, 0.0)
    for turn in range(options.rounds + 1):
        theta = trained(network, Data(X, Y), labelled, turn, options)
        for i, (method, seed) in enumerate(runs):
            error = network.values(theta[i], X[test[i]].float()) - Y[test[i]]
            curves[i, turn] = error.square().mean().log() / 2
            if turn < options.rounds:
                began, rest = time.process_time(), pool[i][~labelled[i, pool[i]]]
                module = network.module(theta[i])
                labelled[i, rest[picked(method, module, X[rest], X[labelled[i]], seed, options.batch)]] = True
                seconds[method] += (time.process_time() - began) / options.rounds / options.seeds
        print(f"# {name} {turn}: {[round(v, 3) for v in curves[:, turn].tolist()]}", flush=True)
    scores = curves.unflatten(0, (len(options.methods), -1))
    return {method: row(name, method, scores, seconds[method], options) for method in options.methods}


def standardised(name: str, rows: int) -> tuple[Tensor, Tensor]:
    data = np.load(Path(os.environ["KERNELFIELD_DATA"]) / f"{name}.npz")
    keep = np.random.default_rng(0).permutation(len(data["X"]))[:rows]
    values = (torch.from_numpy(v[keep]) for v in (data["X"], data["y"].reshape(-1, 1)))
    X, Y = ((v - v.mean(0)) / v.std(0) for v in values)
    return 5 * torch.tanh(X / 5), Y


def trained(network: Network, data: Data, labelled: Tensor, turn: int, options: argparse.Namespace) -> Tensor:
    """Parameters (k, p) of a network for each run, in single precision."""
    generator = torch.Generator().manual_seed(1000 * options.first + turn)
    start = network.draw(options.seeds, generator).repeat(len(options.methods), 1)
    training = Training(steps=options.steps, batch=128, learning_rate=0.05)
    return train(
        network,
        data,
        Gaussian(1.0),
        training,
        members=len(labelled),
        generator=generator,
        start=start,
        rows=labelled,
    ).parameters.float()


def picked(method: str, module: torch.nn.Module, pool: Tensor, known: Tensor, seed: int, size: int) -> Tensor:
    """The rows of the pool to label next."""
    return select_batch(
        pool.float(),
        size,
        train=known.float(),
        base=Gradients(module),
        transforms=() if method == "random" else (Sketch(512), *GIVEN.get(method, ())),
        selection=method,
        generator=torch.Generator().manual_seed(seed),
    )


def row(name: str, method: str, curves: Tensor, seconds: float, options: argparse.Namespace) -> dict:
    """The means of a method; rounds after the first count, which all methods share."""
    mine = curves[options.methods.index(method)]
    scores, cells = mine[:, 1:].mean(1), ""
    result = {"log_rmse": scores.mean().item(), "by_round": mine.mean(0).tolist(), "seconds": seconds}
    if method != "random" and "random" in options.methods and options.seeds > 1:
        gain = scores - curves[options.methods.index("random"), :, 1:].mean(1)
        error = (gain.std() / len(gain) ** 0.5).item()
        result |= {"difference": gain.mean().item(), "error": error}
        cells = f"{gain.mean():>12.4f} ± {error:.4f} ({gain.mean() / error:+.1f} errors)"
    print(f"{name:<28}{method:<13}{scores.mean():>9.4f}{cells}   {seconds:.1f} CPU s a batch", flush=True)
    return result


if __name__ == "__main__":
    main()
