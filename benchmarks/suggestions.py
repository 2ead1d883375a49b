"""How long a suggestion takes: beside Optuna's GPSampler, and beside BoTorch's SingleTaskGP with LogEI.

    OMP_NUM_THREADS=1 python benchmarks/suggestions.py [--rows 100 300 1000] [--repeats 5]

Seconds are those of the processor, so that other work on the machine counts little. A suggestion is
timed in a study of so many trials of a 10-dimensional function, each followed by another, as in use; the
first of each is not counted. A full step, fit by evidence and maximise the logarithm of expected
improvement, is timed on 6-dimensional data with the same kernel, priors, mean and noise bounds, from
the same start; both acquisition values are those of our model at the points found.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import optuna
import torch
from botorch.acquisition import LogExpectedImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.optim import optimize_acqf
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import LogNormalPrior

from kernelfield.bo.improvement import LogImprovement
from kernelfield.bo.moments import moments
from kernelfield.bo.optuna import FieldSampler
from kernelfield.bo.search import Budget, maximise
from kernelfield.bo.space import Space
from kernelfield.core.contracts import Data
from kernelfield.kernels.stationary import dimension_scaled
from kernelfield.models.covariance import covariance
from kernelfield.models.evidence import NOISE_REACH, Objective, Trend
from kernelfield.models.process import Process

LEVY = 10  # dimensions
STEP_ROWS = (20, 50, 100, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[100, 300, 1000])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.double)
    print("seconds a suggestion, 10 dimensions")
    print(f"{'trials':>8}{'FieldSampler':>14}{'GPSampler':>12}{'ratio':>8}")
    for rows in options.rows:
        ours, theirs = (
            suggestion_seconds(make, rows, options.repeats)
            for make in (lambda: FieldSampler(seed=0), lambda: optuna.samplers.GPSampler(seed=0))
        )
        print(f"{rows:8}{ours:14.3f}{theirs:12.3f}{ours / theirs:8.2f}", flush=True)
        print(json.dumps({"suggestion": rows, "ours": ours, "gpsampler": theirs, "ratio": ours / theirs}), flush=True)
    print("seconds a full step, 6 dimensions")
    print(f"{'rows':>8}{'ours':>10}{'BoTorch':>10}{'times':>8}   evidence a row    log EI")
    for rows in STEP_ROWS:
        found = [step(rows, seed) for seed in range(options.repeats)]
        ours, theirs = (float(np.median([one[key] for one in found])) for key in ("ours", "botorch"))
        evidence = [f"{np.mean([one[key] for one in found]):.3f}" for key in ("our_evidence", "their_evidence")]
        values = [f"{np.mean([one[key] for one in found]):.3f}" for key in ("our_value", "their_value")]
        print(f"{rows:8}{ours:10.3f}{theirs:10.3f}{theirs / ours:8.1f}   {' / '.join(evidence)}   {' / '.join(values)}")
        print(json.dumps({"step": rows, "ours": ours, "botorch": theirs, "times": theirs / ours}), flush=True)


def suggestion_seconds(make: Callable[[], optuna.samplers.BaseSampler], rows: int, repeats: int) -> float:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(levy, n_trials=rows)
    study.sampler = make()
    seconds = []
    for _ in range(repeats + 1):
        start = time.process_time()
        trial = study.ask()
        trial.suggest_float("x0", 0, 1)
        seconds.append(time.process_time() - start)
        study.tell(trial, levy(trial))
    return float(np.median(seconds[1:]))


def levy(trial: optuna.Trial) -> float:
    w = 1 + (20 * np.array([trial.suggest_float(f"x{i}", 0, 1) for i in range(LEVY)]) - 11) / 4
    middle = ((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(math.pi * w[:-1] + 1) ** 2)).sum()
    return float(np.sin(math.pi * w[0]) ** 2 + middle + (w[-1] - 1) ** 2 * (1 + np.sin(2 * math.pi * w[-1]) ** 2))


def step(rows: int, seed: int) -> dict[str, float]:
    """Seconds, evidences and acquisition values of one full step of both."""
    X, y = data(rows, seed)
    unit = X.new_full((6,), 1 / math.sqrt(12))
    kernel = dimension_scaled("matern52", unit)
    kernel.lengthscale, kernel.outputscale = unit * math.sqrt(6), 1.0
    model = Process(kernel, noise=1e-2, restarts=1)
    space = Space.of({f"x{i}": (0.0, 1.0) for i in range(6)})
    leaders = X[y.flatten().topk(5).indices].numpy()

    start = time.process_time()
    fitted = model.fit(Data(X, y), generator=torch.Generator().manual_seed(seed))
    aim = LogImprovement(moments(fitted), y.max().item())
    found = maximise(aim, space, near=leaders, seed=seed, budget=Budget(raw=512, starts=10))
    ours = time.process_time() - start

    start = time.process_time()
    theirs = botorch_fit(X, y, kernel)
    torch.manual_seed(seed)
    candidate, _ = optimize_acqf(
        LogExpectedImprovement(theirs, y.max()),
        torch.tensor([[0.0] * 6, [1.0] * 6]),
        q=1,
        num_restarts=10,
        raw_samples=512,
    )
    seconds = time.process_time() - start

    objective = Objective(covariance(kernel, X), Data(X, y), Trend.of("constant", X), model.mixing, 1e-2, learn=True)
    with torch.no_grad():
        scale = theirs.covar_module
        theta = [*scale.base_kernel.lengthscale.flatten().log().tolist(), scale.outputscale.log().item()]
        theta.append(theirs.likelihood.noise.log().item())
    ends = [*covariance(fitted.kernel, X).start().tolist(), math.log(fitted.noise)]
    return {
        "ours": ours,
        "botorch": seconds,
        "our_evidence": -objective(np.array(ends))[0],
        "their_evidence": -objective(np.array(theta))[0],
        "our_value": float(found.values[0]),
        "their_value": aim.values(candidate).item(),
    }


def botorch_fit(X: torch.Tensor, y: torch.Tensor, kernel: torch.nn.Module) -> SingleTaskGP:
    """Their model with our kernel, prior, start and bounds of the noise."""
    prior = kernel.lengthscale_prior  # type: ignore[union-attr]
    theirs = ScaleKernel(MaternKernel(2.5, ard_num_dims=6, lengthscale_prior=LogNormalPrior(prior.loc, prior.scale)))  # type: ignore[union-attr, arg-type]
    theirs.base_kernel.lengthscale, theirs.outputscale = kernel.lengthscale.detach(), 1.0  # type: ignore[operator]
    likelihood = GaussianLikelihood(noise_constraint=GreaterThan(NOISE_REACH[0], initial_value=1e-2))
    model = SingleTaskGP(X, y, covar_module=theirs, likelihood=likelihood, outcome_transform=None)
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model


def data(rows: int, seed: int) -> Sequence[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.rand(rows, 6, generator=generator)
    f = torch.sin(3 * X).sum(1) + 2 * X[:, 0] * X[:, 1] - (X[:, 2] - 0.4).square() * 3
    y = (f + 0.05 * torch.randn(rows, generator=generator))[:, None]
    return X, (y - y.mean()) / y.std()


if __name__ == "__main__":
    main()
