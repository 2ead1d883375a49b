"""Exact Gaussian processes side by side: kernelfield, scikit-learn, GPyTorch, BoTorch.

    python benchmarks/exact_gp.py [--repeats 3] [--threads 1 2] [--skip-slow]

The model is the same for all: zero mean, ARD Matern-5/2 with an output scale, Gaussian noise, no
priors; the same start (lengthscales sqrt(d), output scale 1, noise 0.1) on standardised data, and
L-BFGS-B with SciPy's default tolerances where a library lets one choose. GPyTorch is fitted by
BoTorch's `fit_gpytorch_mll`; its solver is set to exact Cholesky. Every pair of library and data
set runs in a process of its own, so that thread pools and global settings do not mix, after a
small warm-up fit. Times are CPU seconds with one thread and wall seconds with two, medians of
the repeats. Memory is the peak of the process above what it held after the warm-up. Ratios are
theirs over ours: above one, kernelfield is better. Prints tables, then one line of JSON.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np

POINTS = 10_000  # where mean and standard deviation are predicted
LIBRARIES = ("kernelfield", "scikit-learn", "GPyTorch", "BoTorch")
DATA = {
    "diabetes": (354, 10),
    "n=1000, d=1": (1000, 1),
    "n=1000, d=8": (1000, 8),
    "n=2000, d=1": (2000, 1),
    "n=2000, d=8": (2000, 8),
}
SIZES = (50, 100, 200, 500, 1000, 2000)  # rows of the table of single evaluations
INPUTS = 6
BURST, ROUNDS = 0.05, 11  # seconds of calls in a row of one library, and how often


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--skip-slow", action="store_true", help="leave out the sets of 2000 rows")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--evaluations", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        library, name, threads, repeats = options.worker
        print(json.dumps(measure(library, name, int(threads), int(repeats))))
    elif options.evaluations:
        print(json.dumps(evaluations()))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    names = [name for name in DATA if not (options.skip_slow and "2000" in name)]
    summary: dict = {"evaluation": spawn(1, "--evaluations")}
    print_evaluations(summary["evaluation"])
    for threads in options.threads:
        rows = {}
        for name in names:
            for library in LIBRARIES:
                # Once is enough where one fit takes half a minute.
                repeats = 1 if "2000" in name and library != "kernelfield" else options.repeats
                rows[name, library] = spawn(threads, "--worker", library, name, str(threads), str(repeats))
        summary[f"threads {threads}"] = print_fits(rows, names, threads)
    print(json.dumps(summary))


def spawn(threads: int, *arguments: str) -> dict:
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(pools, str(threads))}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def print_fits(rows: dict, names: list[str], threads: int) -> dict:
    clock = "CPU" if threads == 1 else "wall"
    print(f"\nFit and prediction, {threads} thread(s), {clock} seconds; in brackets theirs / ours")
    print(f"{'data':<14}{'library':<14}{'fit':>16}{'NLL a point':>13}{'predict 10k':>18}{'peak MiB':>18}")
    ratios: dict = {}
    for (name, library), row in rows.items():
        ours = rows[name, "kernelfield"]
        over = {key: row[key] / ours[key] for key in ("fit", "predict", "memory")}
        ratios.setdefault(library, {})[name] = {**over, "nll": row["nll"] - ours["nll"]}
        cells = "".join(f"{row[key]:>10.2f} ({over[key]:4.1f})" for key in ("predict",))
        memory = f"{row['memory']:>10.0f} ({over['memory']:4.1f})"
        print(f"{name:<14}{library:<14}{row['fit']:>9.2f} ({over['fit']:4.1f}){row['nll']:>13.4f}{cells}{memory}")
    means = {}
    for library in LIBRARIES[1:]:
        fits = [ratios[library][name]["fit"] for name in names]
        means[library] = {"fit, geometric mean": math.exp(np.mean(np.log(fits))), "fit, least": min(fits)}
        print(f"{library}: fit {means[library]['fit, geometric mean']:.1f} times ours, never below {min(fits):.1f}")
    return {"ratios": ratios, "summary": means}


def load(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standardised X, y and the points to predict at."""
    n, d = DATA[name]
    rng = np.random.default_rng(0)
    if name == "diabetes":
        from sklearn.datasets import load_diabetes

        X, y = load_diabetes(return_X_y=True)
        rows = rng.permutation(len(X))[:n]
        X, y = X[rows], y[rows]
    else:
        X = rng.uniform(size=(n, d))
        y = np.sin(6 * X[:, 0]) + (X**2).sum(1) / d + np.cos(4 * X[:, -1]) * X[:, 0] + 0.1 * rng.normal(size=n)
    X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    return X, y, rng.normal(size=(POINTS, d))


def measure(library: str, name: str, threads: int, repeats: int) -> dict:
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(threads)
    fit = {
        "kernelfield": fit_kernelfield,
        "scikit-learn": fit_scikit_learn,
        "GPyTorch": fit_gpytorch,
        "BoTorch": fit_botorch,
    }
    X, y, points = load(name)
    predict, _ = fit[library](X[:60], y[:60])  # warm-up: imports, thread pools, first calls
    predict(points[:50])
    held = peak_memory(reset=True)
    clock = time.process_time if threads == 1 else time.perf_counter
    fits, predictions = [], []
    for _ in range(repeats):
        start = clock()
        predict, nll = fit[library](X, y)
        fits.append(clock() - start)
    for _ in range(repeats):
        start = clock()
        mean, std = predict(points)
        predictions.append(clock() - start)
    assert mean.shape == std.shape == (POINTS,)
    return {
        "fit": np.median(fits),
        "predict": np.median(predictions),
        "nll": nll,
        "memory": max(peak_memory() - held, 1.0),
    }


def peak_memory(*, reset: bool = False) -> float:
    """Peak resident memory of this process in MiB, since the last reset (Linux)."""
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def fit_kernelfield(X: np.ndarray, y: np.ndarray) -> tuple[Callable, float]:
    from kernelfield.estimators.regressor import FieldRegressor
    from kernelfield.kernels.stationary import Matern
    from kernelfield.models.process import Process

    kernel = Matern(2.5, ard_num_dims=X.shape[1])
    kernel.lengthscale = X.shape[1] ** 0.5
    fitted = FieldRegressor(Process(kernel, mean="zero", restarts=1), random_state=0).fit(X, y)
    return lambda points: fitted.predict(points, return_std=True), -fitted.surrogate_.inner.log_evidence / len(y)


def fit_scikit_learn(X: np.ndarray, y: np.ndarray) -> tuple[Callable, float]:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    d = X.shape[1]
    reach = (1e-5, 1e6)  # wide enough for no bound to be met
    kernel = ConstantKernel(1.0, reach) * Matern([d**0.5] * d, reach, nu=2.5) + WhiteKernel(0.1, (1e-8, 1e3))
    fitted = GaussianProcessRegressor(kernel, alpha=0.0).fit(X, y)
    return lambda points: fitted.predict(points, return_std=True), -fitted.log_marginal_likelihood_value_ / len(y)


def fit_gpytorch(X: np.ndarray, y: np.ndarray) -> tuple[Callable, float]:
    import botorch
    import gpytorch

    class Model(gpytorch.models.ExactGP, botorch.models.gpytorch.GPyTorchModel):
        _num_outputs = 1

        def __init__(self, X, y, likelihood):
            super().__init__(X, y, likelihood)
            self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), peer_kernel(X)

        def forward(self, X):
            return gpytorch.distributions.MultivariateNormal(self.mean_module(X), self.covar_module(X))

    X, y = tensors(X, y)
    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    likelihood.noise = 0.1
    model = Model(X, y, likelihood)
    nll = fit_by_botorch(model)

    def predict(points):
        import torch

        with torch.no_grad(), gpytorch.settings.fast_computations(False, False, False):
            law = model.likelihood(model(torch.as_tensor(points)))
            return law.mean.numpy(), law.variance.sqrt().numpy()

    return predict, nll


def fit_botorch(X: np.ndarray, y: np.ndarray) -> tuple[Callable, float]:
    import botorch
    import gpytorch

    X, y = tensors(X, y)
    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    likelihood.noise = 0.1
    parts = {"covar_module": peer_kernel(X), "mean_module": gpytorch.means.ZeroMean(), "likelihood": likelihood}
    model = botorch.models.SingleTaskGP(X, y[:, None], outcome_transform=None, **parts)
    nll = fit_by_botorch(model)

    def predict(points):
        import torch

        with torch.no_grad():
            law = model.posterior(torch.as_tensor(points), observation_noise=True)
            return law.mean[:, 0].numpy(), law.variance[:, 0].sqrt().numpy()

    return predict, nll


def peer_kernel(X):
    import gpytorch

    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(2.5, ard_num_dims=X.shape[1])).double()
    kernel.base_kernel.lengthscale, kernel.outputscale = X.shape[1] ** 0.5, 1.0
    return kernel


def tensors(X: np.ndarray, y: np.ndarray):
    import torch

    return torch.as_tensor(X), torch.as_tensor(y)


def fit_by_botorch(model) -> float:
    import botorch
    import gpytorch
    import torch

    likelihood = gpytorch.ExactMarginalLogLikelihood(model.likelihood, model)
    with gpytorch.settings.fast_computations(False, False, False), gpytorch.settings.max_cholesky_size(10**6):
        botorch.fit.fit_gpytorch_mll(likelihood)
        model.train()
        with torch.no_grad():
            nll = -likelihood(model(*model.train_inputs), model.train_targets).item()
    model.eval()
    return nll


def evaluations() -> dict:
    """One value and gradient of the evidence: ours, GPyTorch's, and the floor, potrf + potri."""
    import gpytorch
    import torch

    from kernelfield.core.contracts import Data
    from kernelfield.core.mixing import Unit
    from kernelfield.kernels.stationary import Matern
    from kernelfield.models.covariance import covariance
    from kernelfield.models.evidence import Objective, Trend

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    table = {}
    for n in SIZES:
        X = torch.rand(n, INPUTS, dtype=torch.double)
        Y = torch.sin(3 * X.sum(-1, keepdim=True)) + 0.1 * torch.randn(n, 1, dtype=torch.double)
        kernel = Matern(2.5, ard_num_dims=INPUTS).double()
        kernel.lengthscale = 0.7
        target = Objective(covariance(kernel, X), Data(X, Y), Trend.of("constant", X), Unit(), 0.05, learn=True)
        theta = target.given()
        with torch.no_grad():
            A = kernel(X).to_dense() + 0.05 * torch.eye(n, dtype=torch.double)
        calls = {
            "ours": lambda target=target, theta=theta: target(theta),
            "GPyTorch": gpytorch_evaluation(gpytorch, X, Y[:, 0]),
            "floor": lambda A=A: torch.cholesky_inverse(torch.linalg.cholesky_ex(A)[0]),
        }
        table[str(n)] = interleaved(calls)
    return table


def gpytorch_evaluation(gpytorch, X, y) -> Callable:
    class Model(gpytorch.models.ExactGP):
        def __init__(self, likelihood):
            super().__init__(X, y, likelihood)
            self.mean_module, self.covar_module = gpytorch.means.ConstantMean(), peer_kernel(X)

        def forward(self, X):
            return gpytorch.distributions.MultivariateNormal(self.mean_module(X), self.covar_module(X))

    model = Model(gpytorch.likelihoods.GaussianLikelihood().double()).double()
    likelihood = gpytorch.ExactMarginalLogLikelihood(model.likelihood, model)

    def evaluate():
        model.zero_grad()
        with gpytorch.settings.fast_computations(False, False, False), gpytorch.settings.max_cholesky_size(10**6):
            (-likelihood(model(X), y)).backward()

    return evaluate


def interleaved(calls: dict[str, Callable]) -> dict[str, float]:
    """Median CPU milliseconds of each call, in bursts as a fit makes them, the libraries in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    bursts = {}
    for name, call in calls.items():
        call()
        start = time.process_time()
        call()
        bursts[name] = max(1, int(BURST / (time.process_time() - start)))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            call()  # whatever the library before left in the caches is out of the way
            start = time.process_time()
            for _ in range(bursts[name]):
                call()
            times[name].append(1e3 * (time.process_time() - start) / bursts[name])
    return {name: float(np.median(values)) for name, values in times.items()}


def print_evaluations(table: dict) -> None:
    print("One evidence and gradient, ARD Matern-5/2, 6 inputs, one thread, CPU milliseconds")
    print(f"{'n':>6}{'ours':>10}{'GPyTorch':>10}{'floor':>10}{'GPyTorch/ours':>16}{'ours/floor':>12}")
    for n, row in table.items():
        ours, theirs, floor = row["ours"], row["GPyTorch"], row["floor"]
        print(f"{n:>6}{ours:>10.3f}{theirs:>10.3f}{floor:>10.3f}{theirs / ours:>16.1f}{ours / floor:>12.2f}")


if __name__ == "__main__":
    main()
