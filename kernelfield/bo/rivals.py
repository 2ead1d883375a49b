"""Other libraries' samplers, and protocols of papers, to measure against: points as functions of a history.

`default` is what BoTorch's own documents recommend: a SingleTaskGP with the priors and transforms that it
comes with (a MixedSingleTaskGP where choices are without order), the logarithm of noisy expected improvement,
or of hypervolume improvement, and ten searches from the best of 512 points.

`joint` is the protocol of Li, Rudner & Wilson (2024), "A Study of Bayesian Neural Network Surrogates for
Bayesian Optimization": q points chosen together by expected improvement, or expected hypervolume improvement
over the front of the surrogate's means, of 128 samples drawn anew at each evaluation, with two
searches of ten steps from the best of 16 points. It searches a box and rounds what it finds, here to the nearest
value that parameters can have, where its authors take the one below.

Sources: Balandat et al. (2020), "BoTorch"; Ament et al. (2023) for the logarithms; Hvarfner, Hellsten &
Nardi (2024), "Vanilla Bayesian Optimization Performs Great in High Dimensions", for the priors.
"""

import warnings
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import torch
from botorch.acquisition import qExpectedImprovement
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.monte_carlo import qExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import IdentityMCMultiOutputObjective
from botorch.acquisition.objective import GenericMCObjective
from botorch.exceptions.warnings import NumericsWarning
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelList, ModelListGP, SingleTaskGP
from botorch.models.gp_regression_mixed import MixedSingleTaskGP
from botorch.models.model import Model as BotorchModel
from botorch.optim import optimize_acqf, optimize_acqf_mixed_alternating
from botorch.sampling.stochastic_samplers import StochasticSampler
from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning
from gpytorch.mlls import ExactMarginalLogLikelihood
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from torch import Tensor

from kernelfield.bo.adapter import to_botorch
from kernelfield.bo.fitting import fit
from kernelfield.bo.history import History, history
from kernelfield.bo.space import Space
from kernelfield.core.contracts import Model

SAMPLES = 128


class Propose(Protocol):
    """Points (q, d) of the cube, of a history with at least one trial."""

    def __call__(self, space: Space, known: History, q: int, *, seed: int) -> np.ndarray: ...


class Proposing(BaseSampler):
    """A sampler of Optuna that hands out points that were proposed together, for one process.

    batch : how many are proposed at a time, from the trials that are complete then.
    """

    def __init__(self, propose: Propose, space: Space, *, batch: int = 1, seed: int = 0) -> None:
        self._propose, self._space, self._batch, self._seed = propose, space, batch, seed
        self._left: list[dict[str, Any]] = []

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._space.parameters)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if "fixed_params" in trial.system_attrs:  # by Study.enqueue_trial
            return {}
        if not self._left:
            known = history(study.get_trials(deepcopy=False), study.directions, self._space, number=trial.number)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed * 2**20 + trial.number)
                points = self._propose(self._space, known, self._batch, seed=self._seed + trial.number)
            self._left = self._space.decode(points)
        return self._left.pop(0)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise ValueError(f"{param_name!r} is not in the space that the sampler was given; give it the whole space")


def default(
    space: Space, known: History, q: int, *, seed: int, reference: tuple[float, ...] | None = None
) -> np.ndarray:
    """BoTorch's default; `reference`, for several objectives, with more being better."""
    ordinal = Ordinal(space)
    X, outcomes = torch.from_numpy(ordinal.gather(known.X)), np.concatenate([known.Y, known.C], 1)
    model = _fitted(X, torch.from_numpy(outcomes), ordinal.choices)
    m, pending = known.Y.shape[1], torch.from_numpy(ordinal.gather(known.pending))
    limits = [partial(_column, index) for index in range(m, outcomes.shape[1])] or None
    common: dict[str, Any] = {
        "model": model,
        "X_baseline": X,
        "constraints": limits,
        "X_pending": pending if len(pending) else None,
        "prune_baseline": True,
    }
    if m == 1:
        aim: Any = qLogNoisyExpectedImprovement(objective=GenericMCObjective(_first), **common)
    else:
        several = IdentityMCMultiOutputObjective(outcomes=list(range(m)))
        aim = qLogNoisyExpectedHypervolumeImprovement(ref_point=_given(reference), objective=several, **common)
    bounds = torch.from_numpy(ordinal.bounds)
    search: dict[str, Any] = {"bounds": bounds, "q": q, "num_restarts": 10, "raw_samples": 512}
    if ordinal.levels:
        levels = ordinal.levels
        found, _ = optimize_acqf_mixed_alternating(
            aim,
            discrete_dims={place: values for place, values in levels.items() if place not in ordinal.choices},
            cat_dims={place: levels[place] for place in ordinal.choices},
            **search,
        )
    else:
        found, _ = optimize_acqf(aim, sequential=True, **search)
    return ordinal.scatter(found.detach().numpy())


def joint(
    make: Callable[[], Model] | None, space: Space, known: History, q: int, *, seed: int, reference: Any = None
) -> np.ndarray:
    """The protocol of the paper; without a model of ours, with BoTorch's process.

    Errors: ValueError for a history with constraints.
    """
    if known.C.shape[1]:
        raise ValueError(
            f"the paper's protocol has no constraints, and the trials have {known.C.shape[1]}; use 'fixed'"
        )
    X, Y = torch.from_numpy(known.X), torch.from_numpy(known.Y)
    if make is None:
        model = _fitted(X, Y, [])
    else:
        fits = [
            fit(make(), X, column, generator=torch.Generator().manual_seed(seed + j)) for j, column in enumerate(Y.T)
        ]
        models = [to_botorch(one.surrogate) for one in fits]
        model = models[0] if len(models) == 1 else ModelList(*models)
    sampler = StochasticSampler(torch.Size([SAMPLES]), seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericsWarning)  # that logarithms are better; the paper has none
        if Y.shape[1] == 1:
            aim: Any = qExpectedImprovement(model, best_f=Y.max(), sampler=sampler)
        else:
            corner = torch.as_tensor(_given(reference), dtype=X.dtype)
            with torch.no_grad():
                means = model.posterior(X).mean  # type: ignore[attr-defined]
            cells = FastNondominatedPartitioning(corner, means)
            aim = qExpectedHypervolumeImprovement(model, corner, cells, sampler=sampler)  # type: ignore[arg-type]
    found, _ = optimize_acqf(
        aim,
        bounds=torch.stack([torch.zeros_like(X[0]), torch.ones_like(X[0])]),
        q=q,
        num_restarts=2,
        raw_samples=16,
        options={"maxiter": 10, "batch_limit": 1},
    )
    return space.nearest(found.detach().numpy())


class Ordinal:
    """A space as BoTorch takes it: one column a parameter, the number of the choice for one without order."""

    def __init__(self, space: Space) -> None:
        groups: list[tuple[slice, np.ndarray | None]] = [(slice(c, c + 1), None) for c in space.continuous.tolist()]
        groups += [(one.columns, one.levels) for one in space.discrete]
        self._groups = sorted(groups, key=lambda group: group[0].start)
        self._width = space.columns

    @cached_property
    def choices(self) -> list[int]:
        """Columns that number choices."""
        return [place for place, (columns, _) in enumerate(self._groups) if columns.stop - columns.start > 1]

    @cached_property
    def levels(self) -> dict[int, list[float]]:
        """What discrete columns hold."""
        return {
            place: list(map(float, range(len(levels)))) if place in self.choices else sorted(levels[:, 0].tolist())
            for place, (_, levels) in enumerate(self._groups)
            if levels is not None
        }

    @property
    def bounds(self) -> np.ndarray:
        """The least and the greatest (2, p) of each column."""
        high = [max(self.levels[place]) if place in self.choices else 1.0 for place in range(len(self._groups))]
        return np.array([np.zeros(len(high)), high])

    def gather(self, X: np.ndarray) -> np.ndarray:
        """Columns (n, p) of points (n, d) of the cube."""
        parts = [X[:, columns] for columns, _ in self._groups]
        return np.stack([part.argmax(1) if part.shape[1] > 1 else part[:, 0] for part in parts], 1).astype(float)

    def scatter(self, columns: np.ndarray) -> np.ndarray:
        """The points (n, d) that `gather` gives these columns (n, p) for."""
        X = np.empty((len(columns), self._width))
        for place, (where, levels) in enumerate(self._groups):
            if levels is not None and place in self.choices:
                X[:, where] = levels[columns[:, place].round().astype(int)]
            else:
                X[:, where] = columns[:, [place]]
        return X


def _fitted(X: Tensor, Y: Tensor, choices: list[int]) -> BotorchModel:
    """A process for each outcome, with hyperparameters of its own."""
    models = []
    for column in Y.split(1, -1):
        model = MixedSingleTaskGP(X, column, cat_dims=choices) if choices else SingleTaskGP(X, column)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        models.append(model)
    return models[0] if len(models) == 1 else ModelListGP(*models)


def _given(reference: tuple[float, ...] | None) -> list[float]:
    if reference is None:
        raise ValueError("hypervolume needs a reference point, and the problem has none; use a problem that has one")
    return list(reference)


def _first(samples: Tensor, X: Tensor | None = None) -> Tensor:
    return samples[..., 0]


def _column(index: int, samples: Tensor) -> Tensor:
    return samples[..., index]
