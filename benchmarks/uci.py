"""Test scores of `kernelfield fit` and of BoTorch's SingleTaskGP on the same splits of real data.

    KERNELFIELD_DATA=folder python benchmarks/uci.py [--sets concrete energy yacht] [--splits 5]
        [--models gp nngp ntk erf-nngp]

The folder holds NAME.npz files with X (n, d), y (n,) and test_mask (n, splits). Each split is
exported to two CSV files; the command line fits the first and scores the
second, for each model asked for. BoTorch's model has its defaults: inputs normalised, targets standardised, RBF with
dimension-scaled priors, fitted by `fit_gpytorch_mll`. NLL in nats a point, units of y.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

ERRORS = "mean over splits, and its standard error"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["concrete", "energy", "yacht", "bostonHousing"])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["gp"], help="names of `kernelfield models`")
    options = parser.parse_args()
    if "KERNELFIELD_DATA" not in os.environ:
        raise SystemExit("set KERNELFIELD_DATA to the folder that holds the data sets")
    print(f"{'set':<12}{'library':<13}{'NLL':>18}{'RMSE':>18}{'coverage90':>12}{'fit s':>9}   ({ERRORS})")
    results = {}
    for name in options.sets:
        data = np.load(Path(os.environ["KERNELFIELD_DATA"]) / f"{name}.npz")
        scored: dict[str, list[dict]] = {**{model: [] for model in options.models}, "BoTorch": []}
        for split in range(options.splits):
            test = data["test_mask"][:, split].astype(bool)
            parts = data["X"][~test], data["y"][~test].ravel(), data["X"][test], data["y"][test].ravel()
            for model in options.models:
                scored[model].append(ours(*parts, model=model))
            scored["BoTorch"].append(theirs(*parts))
        results[name] = {library: row(name, library, scores) for library, scores in scored.items()}
    print(json.dumps(results))


def row(name: str, library: str, scores: list[dict]) -> dict:
    table = pd.DataFrame(scores)
    mean, error = table.mean(), table.sem()
    cells = "".join(f"{mean[key]:>10.4f} ±{error[key]:6.4f}" for key in ("nll", "rmse"))
    print(f"{name:<12}{library:<13}{cells}{mean['coverage90']:>12.3f}{mean['seconds']:>9.2f}", flush=True)
    return {"mean": mean.to_dict(), "error": error.to_dict(), "splits": scores}


def ours(X: np.ndarray, y: np.ndarray, X_test: np.ndarray, y_test: np.ndarray, *, model: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        train, test, report = (Path(folder) / file for file in ("train.csv", "test.csv", "report.json"))
        for path, inputs, targets in ((train, X, y), (test, X_test, y_test)):
            columns = {f"x{i}": column for i, column in enumerate(inputs.T)}
            pd.DataFrame({**columns, "y": targets}).to_csv(path, index=False)
        command = [sys.executable, "-m", "kernelfield", "fit", str(train), "--target", "y", "--test", str(test)]
        command += ["--model", model, "-o", str(Path(folder) / "model"), "--json", str(report)]
        subprocess.run(command, check=True, capture_output=True)
        content = json.loads(report.read_text())
    return {
        **{key: content["scores"][key] for key in ("nll", "rmse", "coverage90")},
        "seconds": content["seconds"]["fit"],
    }


def theirs(X: np.ndarray, y: np.ndarray, X_test: np.ndarray, y_test: np.ndarray) -> dict:
    import gpytorch
    import torch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.models.transforms import Normalize

    warnings.simplefilter("ignore")
    start = time.perf_counter()
    X, y = torch.as_tensor(X).double(), torch.as_tensor(y).double()
    model = SingleTaskGP(X, y[:, None], input_transform=Normalize(X.shape[1]))
    fit_gpytorch_mll(gpytorch.ExactMarginalLogLikelihood(model.likelihood, model))
    seconds = time.perf_counter() - start
    with torch.no_grad():
        law = model.posterior(torch.as_tensor(X_test).double(), observation_noise=True)
        mean, std = law.mean[:, 0].numpy(), law.variance[:, 0].sqrt().numpy()
    z = (y_test - mean) / std
    return {
        "nll": float(np.mean(0.5 * z**2 + np.log(std) + 0.5 * np.log(2 * np.pi))),
        "rmse": float(np.sqrt(np.mean((y_test - mean) ** 2))),
        "coverage90": float(np.mean(np.abs(z) <= 1.6448536269514722)),
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
