"""Prior-fitted networks: distance from the exact posterior, speed on many small tasks, and real data.

    [KERNELFIELD_DATA=folder] python benchmarks/prior_fitted.py [--sets concrete energy yacht] [--splits 5]

The distance is the mean of log p(y) under the exact posterior less that under the network, in nats a point,
on tasks of the prior that the checkpoint "rbf" was trained on. Speed is CPU time of one process for 1000 tasks
of 20 rows, 20 queries and 2 columns, against a search for hyperparameters by `Process` on a part of them.
Real data are NAME.npz with X (n, d), y (n,) and test_mask (n, splits); scores in units of standardised y.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from kernelfield.core.contracts import Data
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.neural.prior_checkpoint import Checkpoint
from kernelfield.models.neural.prior_fitted import PriorFitted
from kernelfield.models.neural.prior_training import recipes
from kernelfield.models.process import Process

SETS = ["concrete", "energy", "yacht", "bostonHousing", "wine-quality-red", "power-plant"]
TASKS, PART = 1000, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--checkpoint", default="general", help="for real data and speed")
    options = parser.parse_args()
    net = Checkpoint.load(options.checkpoint)
    print(f"{options.checkpoint}: {net.size} parameters, {net.training}")
    results = {"gap": gaps(), "speed": speed(net), "real": {}}
    if "KERNELFIELD_DATA" in os.environ:
        print(f"{'set':<18}{'RMSE':>8}{'NLL':>9}{'coverage90':>12}{'fit and predict s':>19}   (constant: RMSE, NLL)")
        for name in options.sets:
            scores = [real(name, split, options.checkpoint) for split in range(options.splits)]
            mean = {key: float(np.mean([score[key] for score in scores])) for key in scores[0]}
            results["real"][name] = mean
            print(
                f"{name:<18}{mean['rmse']:>8.3f}{mean['nll']:>9.3f}{mean['coverage90']:>12.3f}{mean['seconds']:>19.2f}"
                f"   ({mean['constant_rmse']:.3f}, {mean['constant_nll']:.3f})",
                flush=True,
            )
    print(json.dumps(results))


def gaps() -> dict[str, float]:
    net, prior = Checkpoint.load("rbf"), recipes()["rbf"].prior
    print(f"rbf: {net.size} parameters, {net.training}")
    found = {}
    for n in range(1, 21):
        generator = torch.Generator().manual_seed(n)
        tasks = prior.draw(200, n, 40, 1, generator)
        std = (tasks.variance + tasks.noise[:, None]).sqrt()
        y = tasks.mean + std * torch.randn(std.shape, generator=generator, dtype=std.dtype)
        law = net.law(tasks.X, tasks.Y[..., None], tasks.at)
        exact = torch.distributions.Normal(tasks.mean, std).log_prob(y)
        found[str(n)] = (exact - law.log_prob(y[..., None]).squeeze(-1)).mean().item()
    values = np.array(list(found.values()))
    print(f"gap to the exact posterior: {values.mean():.4f} nat on average, {values.max():.4f} at worst of n = 1 to 20")
    return found


def speed(net: Checkpoint) -> dict[str, float]:
    tasks = recipes()["general"].prior.draw(TASKS, 20, 20, 2, torch.Generator().manual_seed(0))
    start = time.process_time()
    for part in range(0, TASKS, 100):
        rows = slice(part, part + 100)
        net.law(tasks.X[rows], tasks.Y[rows, :, None], tasks.at[rows])
    ours = time.process_time() - start
    start = time.process_time()
    for i in range(PART):
        fitted = Process().fit(Data(tasks.X[i], tasks.Y[i, :, None]), generator=torch.Generator().manual_seed(i))
        _ = fitted.posterior(tasks.at[i], noise=True).variance
    theirs = (time.process_time() - start) * TASKS / PART
    print(f"{TASKS} tasks: {ours:.2f} s of CPU time, by evidence {theirs:.1f} s, ratio {theirs / ours:.0f}")
    return {"seconds": ours, "evidence_seconds": theirs, "ratio": theirs / ours}


def real(name: str, split: int, checkpoint: str) -> dict[str, float]:
    data = np.load(Path(os.environ["KERNELFIELD_DATA"]) / f"{name}.npz")
    test = data["test_mask"][:, split].astype(bool)
    y = data["y"].ravel()
    y = (y - y[~test].mean()) / y[~test].std()
    start = time.process_time()
    model = FieldRegressor(PriorFitted(checkpoint), random_state=0).fit(data["X"][~test], y[~test])
    law = model.posterior(data["X"][test])
    mean, low, high = (law.mean, law.quantile(0.05), law.quantile(0.95))
    seconds = time.process_time() - start
    truth = torch.tensor(y[test])[:, None]
    return {
        "rmse": (mean - truth).square().mean().sqrt().item(),
        "nll": -law.log_prob(truth).mean().item(),
        "coverage90": ((low <= truth) & (truth <= high)).double().mean().item(),
        "seconds": seconds,
        "constant_rmse": truth.square().mean().sqrt().item(),
        "constant_nll": -torch.distributions.Normal(0.0, 1.0).log_prob(truth).mean().item(),
    }


if __name__ == "__main__":
    with torch.no_grad():
        main()
