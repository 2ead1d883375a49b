"""Classifiers beside scikit-learn's GaussianProcessClassifier: accuracy, log loss, time to fit.

    python benchmarks/classification.py
    python benchmarks/classification.py --splits 5 --data moons wine --models rbf laplace

Random halves of the rows are fitted and the others predicted, with standardised inputs in both
libraries; digits are fitted on 600 rows. All models fit a split before any fits the next, so that
a busy machine is busy for all; "cpu" is processor time, the fairer of the two. "far" is the mean
of the largest probability at 100 points ten standard deviations away in every input: near a guess
for a stationary kernel, whose functions forget the data beyond its lengthscales, and not for a
network's, whose mean and standard deviation grow alike with distance. Rows "rbf" have exactly
the kernel and the start of "scikit-learn" (one lengthscale, an amplitude, no prior), and the same
number of starts, one; the others are the models by default.
"""

import argparse
import json
import time
import warnings

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine, make_moons
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF as TheirRBF
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from kernelfield.core.mixing import InverseGamma
from kernelfield.estimators.classifier import FieldClassifier
from kernelfield.kernels.stationary import RBF
from kernelfield.models.dirichlet import DirichletClassifier
from kernelfield.models.laplace import LaplaceClassifier
from kernelfield.models.variational import VariationalClassifier
from kernelfield.uq.classes import ClassEvaluation

DATA = {
    "moons": lambda: make_moons(400, noise=0.2, random_state=0),
    "wine": lambda: load_wine(return_X_y=True),
    "breast cancer": lambda: load_breast_cancer(return_X_y=True),
    "digits": lambda: load_digits(return_X_y=True),
}
MODELS = {
    "scikit-learn": lambda seed: GaussianProcessClassifier(1.0 * TheirRBF(1.0), random_state=seed),
    "rbf": lambda seed: ours(LaplaceClassifier(RBF(), restarts=1, law="mode"), seed),
    "laplace": lambda seed: ours(LaplaceClassifier(), seed),
    "dirichlet": lambda seed: ours(DirichletClassifier(), seed),
    "variational": lambda seed: ours(VariationalClassifier(), seed),
    "nngp": lambda seed: ours(VariationalClassifier("nngp"), seed),
    "nngp heavy": lambda seed: ours(VariationalClassifier("nngp", mixing=InverseGamma(2.0, 2.0)), seed),
}
COLUMNS = ("accuracy", "log_loss", "brier", "ece", "far", "seconds", "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description="Classifiers, side by side.")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--splits", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn warns of lengthscales at their bounds
    torch.set_default_dtype(torch.double)
    warm_up()
    results: dict[str, dict] = {}
    for name in options.data:
        print(f"\n{name:<14}" + "".join(f"{column:>10}" for column in COLUMNS))
        results[name] = {}
        rows: dict[str, list[dict[str, float]]] = {model: [] for model in options.models}
        for seed in range(options.splits):
            for model in options.models:
                rows[model].append(measured(name, model, seed))
        for model in options.models:
            table = pd.DataFrame(rows[model])
            results[name][model] = table.mean().to_dict()
            print(f"{model:<14}" + "".join(f"{table[column].mean():>10.4f}" for column in COLUMNS), flush=True)
        if {"scikit-learn", "rbf"} <= results[name].keys():
            seconds = [results[name][model]["cpu"] for model in ("scikit-learn", "rbf")]
            results[name]["speedup"] = seconds[0] / seconds[1]
            print(f"{'':<14}fit of the same kernel {results[name]['speedup']:.1f} times as fast")
    print(json.dumps(results))


def ours(model: object, seed: int) -> FieldClassifier:
    return FieldClassifier(model, random_state=seed)


def warm_up() -> None:
    """Pay for what is imported and compiled at the first use of either library."""
    X, y = make_moons(20, random_state=0)
    for model in MODELS.values():
        model(0).fit(X, y).predict_proba(X)


def measured(name: str, model: str, seed: int) -> dict[str, float]:
    X, y = DATA[name]()
    rows = 600 if name == "digits" else 0.5
    X, X_test, y, y_test = train_test_split(X, y, train_size=rows, random_state=seed, stratify=y)
    scaler = StandardScaler().fit(X)
    X, X_test = scaler.transform(X), scaler.transform(X_test)
    classifier = MODELS[model](seed)
    start, start_cpu = time.perf_counter(), time.process_time()
    classifier.fit(X, y)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    signs = np.random.default_rng(seed).choice([-10.0, 10.0], (100, X.shape[1]))
    far = float(classifier.predict_proba(signs).max(1).mean())
    scores = ClassEvaluation.of(classifier.predict_proba(X_test), y_test).scores()
    return {**scores, "far": far, "seconds": seconds, "cpu": cpu}


if __name__ == "__main__":
    main()
