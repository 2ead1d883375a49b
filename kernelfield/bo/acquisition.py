"""Acquisition functions by name, for what an optimisation knows so far.

    log_ei       logarithm of the expected improvement, times the probability of keeping the constraints
    log_pi       logarithm of the probability of improvement, likewise
    ucb          mean + width * std
    thompson     the value of one function drawn from the posterior; see `kernelfield.bo.thompson`
    qlog_nei     noisy expected improvement, by samples
    qlog_nehvi   noisy expected hypervolume improvement, of several objectives, by samples
    qlog_nparego a random scalarisation of several objectives, by samples
    mes          max-value entropy search
    jes          joint entropy search
    kg           logarithm of the knowledge gradient; see `kernelfield.bo.knowledge_gradient`
    go_ucb       the greatest value that plausible weights of a trained network have; see `kernelfield.bo.optimistic`
    ntk_ucb      the same, the network linearised; for an exact process, `ucb` is this
    auto         log_ei for one objective, qlog_nehvi for several

The first three are in closed form where the surrogate is an exact process. Trials that still run are
taken to end as the surrogate expects, where it can take them in; by samples they are integrated over.
The improvement is over the best mean of the surrogate at the trials, pending ones among them, not over
the best value seen, which noise makes too high. All are of values of variance one, in the units of the models: of
others squares may overflow, or vanish, and neither searches nor BoTorch's smooth maxima know what is small.

Sources: Jones, Schonlau & Welch (1998), "Efficient Global Optimization of Expensive Black-Box Functions" (log_ei),
Ament et al. (2023), "Unexpected Improvements to Expected Improvement for Bayesian Optimization", for the
logarithms, and Picheny, Wagner & Ginsbourger (2013), "A Benchmark of Kriging-Based Infill Criteria for Noisy
Optimization", for the best mean in place of the best value; Kushner (1964) (log_pi); Srinivas, Krause, Kakade &
Seeger (2010), "Gaussian Process Optimization in the Bandit Setting" (ucb, here of a constant width); Letham, Karrer,
Ottoni & Bakshy (2019), "Constrained Bayesian Optimization with Noisy Experiments" (qlog_nei); Daulton, Balandat &
Bakshy (2021), "Parallel Bayesian Optimization of Multiple Noisy Objectives with Expected Hypervolume Improvement"
(qlog_nehvi); Knowles (2006), "ParEGO" (qlog_nparego); Wang & Jegelka (2017), "Max-value Entropy Search for Efficient
Bayesian Optimization" (mes); Hvarfner, Hutter & Nardi (2022), "Joint Entropy Search for Maximally-Informed Bayesian
Optimization" (jes). Those of thompson, kg, go_ucb and ntk_ucb stand in their own modules.
"""

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from botorch.acquisition import AcquisitionFunction
from botorch.acquisition.joint_entropy_search import qJointEntropySearch
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.max_value_entropy_search import qMaxValueEntropy
from botorch.acquisition.multi_objective import logei
from botorch.acquisition.multi_objective.objective import IdentityMCMultiOutputObjective
from botorch.acquisition.multi_objective.parego import qLogNParEGO
from botorch.acquisition.objective import GenericMCObjective
from botorch.models import ModelList
from botorch.models.model import Model
from botorch.sampling.base import MCSampler
from botorch.sampling.get_sampler import get_sampler
from botorch.utils.multi_objective.hypervolume import infer_reference_point
from botorch.utils.multi_objective.pareto import is_non_dominated
from torch import Tensor

from kernelfield.bo.adapter import to_botorch
from kernelfield.bo.binned import log_improvement
from kernelfield.bo.conditioned import Belief
from kernelfield.bo.improvement import (
    Acquisition,
    Differentiable,
    LogImprovement,
    LogProbability,
    Total,
    UpperBound,
)
from kernelfield.bo.knowledge_gradient import KnowledgeGradient, Maxima
from kernelfield.bo.moments import believed
from kernelfield.bo.optimistic import greatest_value, linearised_bound
from kernelfield.bo.thompson import path
from kernelfield.core.posterior import Binned
from kernelfield.estimators.scaling import Affine, Scaled

SAMPLES = 128  # of quasi-Monte-Carlo, as in BoTorch
WIDTH = 2.0  # standard deviations of an upper bound
PENALTY = 1e3  # of a unit of violation, in standard deviations of the objective
CANDIDATES = 256  # points at which max-value entropy search looks for the greatest value
RIVALS = 64  # functions drawn, where each of which is greatest the knowledge gradient compares means
GAINS = ("auto", "log_ei", "qlog_nei", "qlog_nehvi", "kg")  # logarithms of a gain, with several objectives of volume
BOUNDS = ("ucb", "go_ucb", "ntk_ucb")  # in the unit of the objective
OPTIMA = 16  # functions drawn, of whose greatest values joint entropy search learns


@dataclass(frozen=True, eq=False)
class Situation:
    """What is known when a point is to be suggested.

    Shapes: X (n, d) trials, Y (n, m) more is better, C (n, c) feasible where at most 0, NaN where unknown, pending
        (p, d), reference (m,), weight (n,) of the values of the first objective where their noise is known.
    Units: X and pending lie in the unit cube. The surrogates of m objectives and of c constraints speak in the units of
        Y, as does the reference, and of the constraints.
    """

    objectives: Sequence[Scaled]
    constraints: Sequence[Scaled]
    X: Tensor
    Y: Tensor
    C: Tensor
    pending: Tensor
    reference: Tensor | None = None
    seed: int = 0
    weight: Tensor | None = None

    @cached_property
    def binned(self) -> bool:
        """Whether the surrogate of the objective gives histograms."""
        return isinstance(self.objectives[0].posterior(self.X[:1]), Binned)

    @cached_property
    def expected(self) -> Tensor:
        """Posterior means (n, m) at the trials."""
        with torch.no_grad():
            return torch.cat([one.posterior(self.X).mean for one in self.objectives], -1)

    @cached_property
    def scale(self) -> Tensor:
        """The standard deviations (m,) by which models divide values."""
        return torch.cat([one.to_model_y.scale for one in self.objectives])

    @cached_property
    def standard(self) -> "Situation":
        """The same with objectives in the units of their models, of mean zero and variance one."""
        shift = torch.cat([one.to_model_y.shift for one in self.objectives])
        plain = Affine(torch.zeros_like(shift[:1]), torch.ones_like(shift[:1]))
        return replace(
            self,
            objectives=[replace(one, to_model_y=plain) for one in self.objectives],
            Y=(self.Y - shift) / self.scale,
            reference=None if self.reference is None else (self.reference - shift) / self.scale,
        )

    @cached_property
    def feasible(self) -> Tensor:
        """Which trials (n,) keep their constraints, those not told being as they are expected."""
        if not self.constraints:
            return torch.ones_like(self.X[:, 0], dtype=torch.bool)
        with torch.no_grad():
            expected = torch.cat([one.posterior(self.X).mean for one in self.constraints], -1)
        return (torch.where(self.C.isnan(), expected, self.C) <= 0).all(-1)

    @cached_property
    def best(self) -> float:
        """The best expected value among feasible trials, pending ones as they are expected; minus infinity without."""
        values = self.expected[self.feasible, 0]
        if len(self.pending):
            with torch.no_grad():
                expected = self.objectives[0].posterior(self.pending).mean[:, 0]
                safe = [one.posterior(self.pending).mean[:, 0] <= 0 for one in self.constraints]
            values = torch.cat([values, expected[torch.stack(safe).all(0)] if safe else expected])
        return values.max().item() if len(values) else -math.inf


def acquisition(name: str, situation: Situation) -> Acquisition:
    """The acquisition function of a name, in the units of the models; see the module docstring.

    Errors: ValueError for an unknown name, or one for another number of objectives.
    """
    check_objectives(name, len(situation.objectives))
    if name == "auto":
        name = "qlog_nehvi" if len(situation.objectives) > 1 else "log_ei"
    return NAMES[name](situation.standard)


def in_units(name: str, value: float, situation: Situation) -> float | None:
    """A value in the units of the objectives, if it has any; None of a log_ei that looks for something feasible."""
    if name in ("auto", "log_ei") and len(situation.objectives) == 1 and math.isinf(situation.standard.best):
        return None
    if name in GAINS:
        return value + situation.scale.log().sum().item()
    if name in BOUNDS:
        unit = situation.objectives[0].to_model_y
        return (unit.shift + unit.scale * value).item()
    return value


def check_objectives(name: str, count: int) -> None:
    """Errors: ValueError for an unknown name, or one for another number of objectives."""
    check_name(name)
    several = count > 1
    if several != (name in SEVERAL) and name not in ("auto", "thompson"):
        able = SEVERAL if several else [one for one in NAMES if one not in SEVERAL]
        raise ValueError(f"acquisition {name!r} is not for {count} objectives; use {', '.join(able)} or 'auto'")


def check_name(name: str) -> None:
    """Errors: ValueError for an unknown name, with those that are near."""
    if name not in ("auto", *NAMES):
        near = difflib.get_close_matches(name, NAMES) or ["auto", *NAMES]
        raise ValueError(f"no acquisition is called {name!r}; did you mean {' or '.join(near)}?")


def _log_improvement(situation: Situation) -> Acquisition:
    if situation.binned:
        aim = Differentiable(partial(log_improvement, situation.objectives[0], best=situation.best))
        return _settled(situation, lambda law: aim)
    return _settled(situation, lambda law: LogImprovement(law, situation.best))


def _log_probability(situation: Situation) -> Acquisition:
    return _settled(situation, lambda law: LogProbability(law, situation.best))


def _upper_bound(situation: Situation) -> Acquisition:
    _refuse_constraints("ucb", situation)
    return _settled(situation, lambda law: UpperBound(law, WIDTH))


def _refuse_constraints(name: str, situation: Situation) -> None:
    if situation.constraints:
        raise ValueError(f"acquisition {name!r} takes no constraints; use 'log_ei'")


def _settled(situation: Situation, make: Callable[..., Acquisition]) -> Acquisition:
    known = [believed(one, situation.pending) for one in (*situation.objectives, *situation.constraints)]
    safe = [LogProbability(one, 0.0, sign=-1.0) for one in known[1:]]
    if safe and math.isinf(situation.best):  # nothing feasible is known: look for that first
        return Total(safe)
    aim = make(known[0])
    return Total([aim, *safe]) if safe else aim


def _thompson(situation: Situation) -> Acquisition:
    """One path of the objective; of several, of a random weighting of them."""
    generator = torch.Generator().manual_seed(situation.seed)
    share = torch.rand(len(situation.objectives), generator=generator, dtype=torch.double).to(situation.X)
    scale = situation.Y.std(0, correction=0).clamp_min(1e-12)
    paths = [path(one, situation.X, generator) for one in situation.objectives]
    limits = [path(one, situation.X, generator) for one in situation.constraints]

    def value(X: Tensor) -> Tensor:
        aim = sum((w * f(X) / s for w, f, s in zip(share, paths, scale, strict=True)), X.new_zeros(len(X)))
        # A drawn constraint that is violated costs more than any objective gains.
        return aim - PENALTY * sum((g(X).clamp_min(0) for g in limits), X.new_zeros(len(X)))

    return Differentiable(value)


def _noisy_improvement(situation: Situation) -> Acquisition:
    return _from_botorch(qLogNoisyExpectedImprovement(**_over_trials(situation), objective=GenericMCObjective(_first)))


def _hypervolume(situation: Situation) -> Acquisition:
    with _uncompiled():
        improvement = logei.qLogNoisyExpectedHypervolumeImprovement(
            **_over_trials(situation),
            ref_point=_reference(situation).tolist(),
            objective=_objectives(situation),
            cache_root=False,
        )
    return _from_botorch(improvement)


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Keep BoTorch from compiling a part of its hypervolumes in C++ when the first one is made.

    It would take minutes to spare a suggestion a quarter of its time, and warn where there is no compiler; and a
    process killed meanwhile leaves a lock for which all later ones wait without end (PyTorch's issue 189245).
    """
    before = getattr(logei, "_load_attempted", True)
    logei._load_attempted = True
    try:
        yield
    finally:
        logei._load_attempted = before


def _scalarised(situation: Situation) -> Acquisition:
    generator = torch.Generator().manual_seed(situation.seed)
    shares = -torch.rand(len(situation.objectives), generator=generator, dtype=torch.double).log()
    return _from_botorch(
        qLogNParEGO(
            **_over_trials(situation),
            scalarization_weights=(shares / shares.sum()).to(situation.X),
            objective=_objectives(situation),
            cache_root=False,
        )
    )


def _over_trials(situation: Situation) -> dict[str, Any]:
    """What BoTorch's noisy improvements ask for in common."""
    model = _joined(situation)
    return {
        "model": model,
        "X_baseline": situation.X,
        "sampler": _sampler(model, situation),
        "constraints": _limits(situation),
        "X_pending": _pending(situation),
        "prune_baseline": True,
    }


def _objectives(situation: Situation) -> IdentityMCMultiOutputObjective:
    return IdentityMCMultiOutputObjective(outcomes=list(range(len(situation.objectives))))


def _entropy(situation: Situation) -> Acquisition:
    _refuse_constraints("mes", situation)
    generator = torch.Generator().manual_seed(situation.seed)
    d = situation.X.shape[1]
    candidates = torch.rand(CANDIDATES, d, generator=generator, dtype=torch.double).to(situation.X)
    model = to_botorch(situation.objectives[0])
    return _from_botorch(qMaxValueEntropy(model, torch.cat([candidates, situation.X]), X_pending=_pending(situation)))


def _joint_entropy(situation: Situation) -> Acquisition:
    _refuse_constraints("jes", situation)
    maxima, model = _maxima(situation, OPTIMA), to_botorch(situation.objectives[0])
    pending = _pending(situation)
    return _from_botorch(
        # Conditioned on maxima without noise, BoTorch's models would keep that of observations.
        qJointEntropySearch(model, maxima.points, maxima.values, condition_noiseless=False, X_pending=pending)
    )


def _knowledge(situation: Situation) -> Acquisition:
    _refuse_constraints("kg", situation)
    one, pending, best = situation.objectives[0], situation.pending, situation.expected[:, 0].argmax()
    rivals = torch.cat([_maxima(situation, RIVALS).points, situation.X[best, None]]).unique(dim=0)
    if not len(pending):
        return Differentiable(KnowledgeGradient(one, rivals))
    with torch.no_grad():
        told = Belief(one).told(pending, one.posterior(pending).mean)
    return Differentiable(KnowledgeGradient(told, rivals))


def _maxima(situation: Situation, count: int) -> Maxima:
    """Where drawn functions are greatest, the trials with the best means being among the places."""
    near = situation.X[situation.expected[:, 0].topk(min(count, len(situation.X))).indices]
    generator = torch.Generator().manual_seed(situation.seed)
    return Maxima.drawn(situation.objectives[0], near, count, generator)


def _optimistic(name: str, make: Callable[..., Acquisition], situation: Situation) -> Acquisition:
    _refuse_constraints(name, situation)
    one, values = situation.objectives[0], situation.Y[:, 0]
    return make(one, situation.X, values, situation.pending, WIDTH, weight=situation.weight)


def _joined(situation: Situation) -> Model:
    models = [to_botorch(one) for one in (*situation.objectives, *situation.constraints)]
    return models[0] if len(models) == 1 else ModelList(*models)


def _sampler(model: Model, situation: Situation) -> MCSampler:
    with torch.no_grad():
        law = model.posterior(situation.X[:1])
        return get_sampler(law, torch.Size([SAMPLES]), seed=situation.seed)  # type: ignore[arg-type]  # any posterior


def _pending(situation: Situation) -> Tensor | None:
    return situation.pending if len(situation.pending) else None


def _limits(situation: Situation) -> list[Callable[[Tensor], Tensor]] | None:
    m = len(situation.objectives)
    return [partial(_column, m + i) for i in range(len(situation.constraints))] or None


def _first(samples: Tensor, X: Tensor | None = None) -> Tensor:
    return samples[..., 0]


def _column(index: int, samples: Tensor) -> Tensor:
    return samples[..., index]


def _reference(situation: Situation) -> Tensor:
    """The point (m,) that hypervolume is measured from: the user's, or a tenth of the front's extent below it."""
    if situation.reference is not None:
        return situation.reference
    values = situation.expected[situation.feasible] if situation.feasible.any() else situation.expected
    return infer_reference_point(values[is_non_dominated(values)], scale_max_ref_point=True)


def _from_botorch(function: AcquisitionFunction) -> Acquisition:
    return Differentiable(lambda X: function(X.unsqueeze(-2)))


NAMES: dict[str, Callable[[Situation], Acquisition]] = {
    "log_ei": _log_improvement,
    "log_pi": _log_probability,
    "ucb": _upper_bound,
    "thompson": _thompson,
    "qlog_nei": _noisy_improvement,
    "mes": _entropy,
    "jes": _joint_entropy,
    "kg": _knowledge,
    "go_ucb": partial(_optimistic, "go_ucb", greatest_value),
    "ntk_ucb": partial(_optimistic, "ntk_ucb", linearised_bound),
    "qlog_nehvi": _hypervolume,
    "qlog_nparego": _scalarised,
}
SEVERAL = ("qlog_nehvi", "qlog_nparego")
