"""Surrogates of what trials have shown: one for each objective and constraint.

Models see points of the unit cube centred and scaled as uniform ones are to mean zero and variance one,
wherever the trials lie, so that the priors of their kernels mean the same throughout an optimisation;
and values standardised by those seen. A known variance below the least that a fit would learn counts as that.

The noise of an exact process is small unless trials say otherwise: of few trials in many dimensions the evidence is
much the same whether all is noise or none, and a surrogate to which all is noise has nothing to suggest. The scale
of a stationary kernel by name is held at the size of the values; beside a network, which has none, the noise has a
prior.

The hyperparameters of an exact process start from those of the fit before, which the caller keeps in
a `Record`, and are held while the trials have grown by less than a tenth: a fit of n trials then costs
one factorisation at most times, n^3 / 3 operations.
"""

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from gpytorch.kernels import Kernel
from gpytorch.priors import GammaPrior
from torch import Tensor

from kernelfield.core.contracts import Data, Model
from kernelfield.estimators.scaling import Affine, Scaled
from kernelfield.kernels.named import named
from kernelfield.kernels.network import NetworkKernel
from kernelfield.kernels.stationary import Stationary
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.covariance import covariance
from kernelfield.models.evidence import NOISE_REACH
from kernelfield.models.process import Process
from kernelfield.models.zoo import model as named_model

OFTEN = 100  # trials up to which hyperparameters are learned anew each time
GROWTH = 10  # percent that trials have grown since the last learning, from which they are beyond that
NOISE = GammaPrior(1.0, 15.0)  # beside a network, in the variance of values: above 0.3 in one study of a hundred
FEW = 30  # trials up to which a second, random start is worth its time


@dataclass(frozen=True)
class Record:
    """Hyperparameters of an exact process in model units, and the trials they were learned from."""

    rows: int
    noise: float
    parameters: tuple[float, ...]

    def due(self, rows: int) -> bool:
        """Whether hyperparameters are to be learned again from so many trials."""
        return rows <= OFTEN or 100 * rows >= (100 + GROWTH) * self.rows


def recipe(surrogate: str | Model, kernel: Kernel | str | None = None) -> Model:
    """The model of a name of the zoo, or the user's own; with `kernel`, an exact process of that kernel.

    Errors: ValueError for an unknown name of a model or a kernel, or a kernel beside a surrogate other than "gp".
    """
    if kernel is not None:
        if surrogate != "gp":
            raise ValueError(f"kernel= makes an exact process of its own, so surrogate must be 'gp', got {surrogate!r}")
        if isinstance(kernel, str):
            named(kernel, torch.ones(1), torch.ones(()))  # which refuses an unknown one before any trial
        return Process(kernel)
    if isinstance(surrogate, str):
        return named_model(surrogate)
    if not isinstance(surrogate, Model):
        raise ValueError(f"surrogate must be a name such as 'gp' or a Model such as Process(), got {surrogate!r}")
    return surrogate


@dataclass(frozen=True, eq=False)
class Fitted:
    """A surrogate over the unit cube, what the next fit may start from, and the weights (n,) of values, if any."""

    surrogate: Scaled
    record: Record | None
    weight: Tensor | None = None


def fit(
    model: Model,
    X: Tensor,
    y: Tensor,
    *,
    noise: Tensor | None = None,
    record: Record | None = None,
    generator: torch.Generator,
    x_map: Affine | None = None,
) -> Fitted:
    """The surrogate of values y (n,) at points X (n, d), of the unit cube unless x_map says what the model sees.

    noise : variances (n,) of the values where they are known. An exact process takes them as they are; other models
        learn their size and take their ratios.
    """
    x_map = x_map or cube(X, X.shape[1])
    y_map = Affine.standardising(y[:, None])
    weight, usual = None, None
    if noise is not None:
        noise = (noise / y_map.scale.square()).clamp_min(NOISE_REACH[0])
        usual = noise.median().item()  # that of the next value; one trial that failed to say much is not the rule
        weight = usual / noise
    data = Data(x_map(X), y_map(y[:, None]), weight)
    if not isinstance(model, Process):
        return Fitted(Scaled(model.fit(data, generator=generator), x_map, y_map), None, weight)
    started = _started(model, data, record)
    if not isinstance(model.noise, str):
        if usual is not None:
            started = replace(started, noise=usual, learn_noise=False, noise_prior=None)
        elif model.learn_noise and model.noise_prior is None and _of_network(started.kernel):
            started = replace(started, noise_prior=NOISE)
    fitted = started.fit(data, generator=generator)
    kept = None
    if isinstance(fitted, FittedProcess):
        rows = len(X) if record is None or started.steps else record.rows
        assert isinstance(started.kernel, Kernel)
        started.kernel.load_state_dict(fitted.kernel.state_dict())  # a fitted kernel says no more what was free
        kept = Record(rows, fitted.noise, tuple(covariance(started.kernel, data.X).start().tolist()))
    return Fitted(Scaled(fitted, x_map, y_map), kept, weight)


def cube(X: Tensor, d: int) -> Affine:
    """What makes uniform points of the unit cube in d dimensions centred, of variance one."""
    return Affine(X.new_full((d,), 0.5), X.new_full((d,), 1 / math.sqrt(12)))


def _of_network(kernel: Kernel | str | None) -> bool:
    """Whether a kernel is that of a network, or made from one, as learning curves are."""
    return isinstance(kernel, Kernel) and any(isinstance(part, NetworkKernel) for part in kernel.modules())


def _started(model: Process, data: Data, record: Record | None) -> Process:
    """The process with a kernel scaled to the cube, at the hyperparameters of the last fit."""
    kernel = copy.deepcopy(model.kernel) if isinstance(model.kernel, Kernel) else _usual(model.kernel, data)
    if record is None or isinstance(model.noise, str):
        return replace(model, kernel=kernel)
    free = covariance(kernel, data.X)
    if len(free.start()) != len(record.parameters):  # another space than that of the last fit
        return replace(model, kernel=kernel)
    free.assign(np.array(record.parameters))
    steps = model.steps if record.due(len(data.X)) else 0
    restarts = min(model.restarts, 2 if len(data.X) <= FEW else 1)
    return replace(model, kernel=kernel, noise=record.noise, steps=steps, restarts=restarts)


def _usual(name: str | None, data: Data) -> Kernel:
    """The kernel of a name; the output scale of a stationary one is held at the size of the values.

    Trials gather where values are alike. Left free, the scale would follow them, and the surrogate be too sure of
    what lies elsewhere.
    """
    kernel = named("matern52" if name is None else name, torch.ones_like(data.X[0]), data.Y.new_ones(()))
    if isinstance(kernel, Stationary):
        kernel.raw_outputscale.requires_grad_(False)
    return kernel
