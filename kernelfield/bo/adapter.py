"""Surrogates as BoTorch models.

    to_botorch(surrogate).posterior(X)    is what the surrogate says of f at X, in the user's units

`ProcessModel`, where the surrogate is an exact Gaussian process: a `SingleTaskGP` with its rows, its noise, the
mean and the kernel in the user's units, for acquisitions that look at these. `FieldModel`, for all others. Both
answer by the surrogate's own posterior, whose mean has uncertain coefficients (universal kriging), form dense
matrices, and take in observations by `kernelfield.bo.conditioned`: fantasies cost no refit, and nothing
depends on GPyTorch's settings or its prediction strategies.

Laws that are not Gaussian keep their shape in samples: those of a Student-t process have its tails, those of an
ensemble are its members. They are functions of standard normal noise (`Posterior.draw`), so that sample averages are
deterministic; analytic acquisitions see their mean and variance.

Source: Balandat, Karrer, Jiang, Daulton, Letham, Wilson & Bakshy (2020), "BoTorch: A Framework for Efficient
Monte-Carlo Bayesian Optimization".
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from gpytorch.kernels import Kernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import Mean
from torch import Tensor

from kernelfield.bo.conditioned import Belief, chosen, noisier, weighted
from kernelfield.bo.paths import KrigingPath, LawPath, Rescaled
from kernelfield.bo.posteriors import GaussianPosterior, LawPosterior
from kernelfield.core.contracts import Data, Surrogate
from kernelfield.core.mixing import Unit
from kernelfield.core.posterior import Draws, Elliptical
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.estimators.scaling import Affine, Scaled
from kernelfield.kernels.stationary import logarithmic
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.evidence import Trend
from kernelfield.models.neural.deep_kernel import FittedDeepKernel

try:
    from botorch.acquisition.objective import PosteriorTransform, ScalarizedPosteriorTransform
    from botorch.models import SingleTaskGP
    from botorch.models.model import FantasizeMixin, Model
    from botorch.posteriors import Posterior
    from botorch.sampling.pathwise.features.generators import gen_kernel_features
    from botorch.sampling.pathwise.features.maps import FeatureMap
    from botorch.sampling.pathwise.paths import GeneralizedLinearPath
    from botorch.sampling.pathwise.posterior_samplers import DrawMatheronPaths, MatheronPath
    from botorch.sampling.pathwise.prior_samplers import DrawKernelFeaturePaths
except ImportError as error:
    raise ImportError("surrogates in BoTorch need it; pip install 'kernelfield[bo]'") from error


def to_botorch(surrogate: Surrogate | FieldRegressor, *, train_inputs: Tensor | None = None) -> Model:
    """A surrogate, or a fitted estimator, as a BoTorch model in its own units.

    train_inputs (n, d) : the rows of the fit, where the surrogate does not keep them; predictive entropy search alone
        asks for them.

    Errors: ValueError for what is neither.

    >>> from kernelfield.models.process import Process
    >>> X = torch.linspace(0, 1, 9, dtype=torch.double)[:, None]
    >>> fitted = Process("rbf").fit(Data(X, torch.sin(6 * X)), generator=torch.Generator())
    >>> model = to_botorch(fitted)
    >>> round(model.posterior(X[:1] + 0.5).mean.item(), 3)  # sin(3)
    0.141
    """
    if isinstance(surrogate, FieldRegressor):
        surrogate = surrogate.surrogate_
    if not isinstance(surrogate, Surrogate):
        raise ValueError(
            f"need a surrogate, such as Process().fit(data) returns, or a FieldRegressor, got {surrogate!r}"
        )
    found = _process(surrogate)
    return FieldModel(Belief(surrogate), train_inputs) if found is None else ProcessModel(found)


class FieldModel(Model, FantasizeMixin):
    """Any surrogate, with the observations it has been told of; see the module docstring.

    Shapes: X (*b, q, d) gives posteriors of shape (*b, q, m); after observations in a batch, broadcast with it.
    Errors: ValueError for an observation of a law without joint covariance.
    """

    likelihood = None

    def __init__(self, belief: Belief, train_inputs: Tensor | None = None) -> None:
        super().__init__()
        self.belief = belief
        if train_inputs is not None:
            self.train_inputs = (train_inputs,)

    @property
    def num_outputs(self) -> int:
        return self.belief.surrogate.outputs

    @property
    def batch_shape(self) -> torch.Size:
        return self.belief.batch_shape

    def posterior(  # type: ignore[override]
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        return answer(self.belief, X, output_indices, observation_noise, posterior_transform, independent=False)

    def condition_on_observations(self, X: Tensor, Y: Tensor, noise: Tensor | None = None, **_: Any) -> "FieldModel":
        return FieldModel(self.belief.told(X, Y, noise))

    def subset_output(self, idcs: list[int]) -> "FieldModel":
        return FieldModel(self.belief.chosen(idcs))


@dataclass(frozen=True, eq=False)
class InUnits:
    """An exact process with the units of its inputs and outputs, as `Scaled` has them."""

    belief: Belief
    process: FittedProcess
    x_map: Affine
    y_map: Affine

    def chosen(self, outputs: Sequence[int]) -> "InUnits":
        """The process of some of the outputs."""
        index, old = list(outputs), self.process
        data = Data(old.data.X, old.data.Y[:, index], old.data.weight)
        process = FittedProcess.of(old.kernel, old.noise, old.mixing, data, old.trend, old.solver, old.searches)
        y_map = Affine(self.y_map.shift[index], self.y_map.scale[index])
        more = None if self.belief.more is None else self.belief.more.chosen(index)
        return InUnits(Belief(Scaled(process, self.x_map, y_map), more), process, self.x_map, y_map)


def _process(surrogate: Surrogate) -> InUnits | None:
    """The exact Gaussian process that a surrogate is, or None."""
    inner = surrogate.inner if isinstance(surrogate, Scaled) else surrogate
    process = inner.process if isinstance(inner, FittedDeepKernel) else inner
    if not isinstance(process, FittedProcess) or not isinstance(process.mixing, Unit):
        return None
    if isinstance(surrogate, Scaled):
        x_map, y_map = surrogate.to_model_X, surrogate.to_model_y
    else:
        x_map, y_map = (Affine(torch.zeros_like(t[0]), torch.ones_like(t[0])) for t in (process.data.X, process.data.Y))
    return InUnits(Belief(surrogate), process, x_map, y_map)


class ProcessModel(SingleTaskGP):
    """An exact Gaussian process, with the observations it has been told of; see the module docstring.

    `noises` are the variances of all observations, shaped like `train_targets`: rows may have weights, which the
    likelihood of new observations does not know.
    """

    def __init__(self, source: InUnits, kernel: Kernel | None = None) -> None:
        data, m = source.process.data, source.process.outputs
        X = data.X * source.x_map.scale + source.x_map.shift
        Y = data.Y * source.y_map.scale + source.y_map.shift
        noise = source.process.noise * source.y_map.scale.square()
        noises = noise if data.weight is None else noise / data.weight[:, None]
        trend, noises = Trend.of(source.process.trend.kind, X), noises.expand(Y.shape)
        more = source.belief.more
        if more is not None:
            batch = source.belief.batch_shape
            pairs = ((X, more.X), (Y, more.Y), (noises, more.noises))
            X, Y, noises = (torch.cat([t.expand(*batch, *t.shape[-2:]) for t in pair], -2) for pair in pairs)
        several = torch.Size([m] if m > 1 else [])
        likelihood = GaussianLikelihood(noise_constraint=logarithmic(), batch_shape=several).to(X)
        likelihood.noise = noise[:, None] if m > 1 else noise
        super().__init__(
            X,
            Y,
            likelihood=likelihood.requires_grad_(False),
            covar_module=kernel or Rescaled(copy.deepcopy(source.process.kernel), source.x_map, source.y_map),
            mean_module=Fitted(source.process, source.x_map, source.y_map),
            outcome_transform=None,
        )
        self.source, self.trend = source, trend
        self.noises = noises.mT if m > 1 else noises[..., 0]

    def posterior(  # type: ignore[override]
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: PosteriorTransform | None = None,
    ) -> Posterior:
        self.eval()
        belief = self.source.belief
        return answer(belief, X, output_indices, observation_noise, posterior_transform, independent=True)

    def condition_on_observations(self, X: Tensor, Y: Tensor, noise: Tensor | None = None, **_: Any) -> "ProcessModel":
        return ProcessModel(replace(self.source, belief=self.source.belief.told(X, Y, noise)), self.covar_module)

    def subset_output(self, idcs: list[int]) -> "ProcessModel":
        return ProcessModel(self.source.chosen(idcs))


class Fitted(Mean):
    """The mean H(x) b of a process with the best b, in the user's units."""

    def __init__(self, process: FittedProcess, x_map: Affine, y_map: Affine) -> None:
        super().__init__()
        self.process, self.x_map, self.y_map = process, x_map, y_map

    def forward(self, x: Tensor) -> Tensor:
        process = self.process
        mean = process.trend(self.x_map(x)) @ process.mean.coefficients * self.y_map.scale + self.y_map.shift
        # Several outputs are the last axis of the batch, where each reads its own column.
        return mean.squeeze(-1) if process.outputs == 1 else _own_columns(mean, process.outputs)


def _own_columns(values: Tensor, outputs: int) -> Tensor:
    """The diagonal (*b, m, n) of values (*b, m or 1, n, m)."""
    batch = torch.broadcast_shapes(values.shape[:-2], (outputs,))
    return values.expand(*batch, *values.shape[-2:]).diagonal(dim1=-3, dim2=-1).mT


def answer(
    belief: Belief,
    X: Tensor,
    outputs: list[int] | None,
    noise: bool | Tensor,
    transform: PosteriorTransform | None,
    *,
    independent: bool,
) -> Posterior:
    """What BoTorch asks of a model; `independent` says that outputs are."""
    law = belief.law(X, noise=noise is True)
    if isinstance(noise, Tensor):
        law = noisier(law, noise)
    if outputs is not None:
        law = chosen(law, outputs)
    if isinstance(transform, ScalarizedPosteriorTransform) and isinstance(law, Elliptical | Draws):
        law, transform = weighted(law, torch.as_tensor(transform.weights).to(law.mean), transform.offset), None
    posterior: Posterior
    if isinstance(law, Elliptical) and isinstance(law.mixing, Unit):
        posterior = GaussianPosterior(law, independent=independent)
    else:
        posterior = LawPosterior(law)
    return posterior if transform is None else transform(posterior=posterior, X=X)


@DrawKernelFeaturePaths.register(ProcessModel)
def _prior_paths(
    model: ProcessModel,
    *,
    sample_shape: torch.Size,
    num_features: int = 1024,
    map_generator: Callable[..., FeatureMap] = gen_kernel_features,
    weight_generator: Callable[[torch.Size], Tensor] = torch.randn,
) -> GeneralizedLinearPath:
    # BoTorch takes neighbouring points of a Sobol sequence for the outputs, which makes these depend on each other.
    kernel, (X,) = model.covar_module, model.train_inputs
    features = map_generator(kernel=kernel, num_inputs=X.shape[-1], num_outputs=num_features)
    batch = (*sample_shape, *model.batch_shape, *kernel.batch_shape)
    weight = weight_generator(torch.Size([*batch, features.num_outputs])).to(X)
    return GeneralizedLinearPath(features, weight, bias_module=model.mean_module)


@DrawMatheronPaths.register(ProcessModel)
def _process_paths(
    model: ProcessModel, *, sample_shape: torch.Size, prior_sampler: Any, update_strategy: Any
) -> MatheronPath:
    # The update is always that of universal kriging: BoTorch's own does not know of the uncertain mean.
    prior = prior_sampler(model=model, sample_shape=sample_shape)
    (X,) = model.train_inputs
    with torch.no_grad():
        drawn = prior.forward(X)
        observed = drawn + model.noises.sqrt() * torch.randn_like(drawn)
        update = KrigingPath(model.covar_module, model.trend, X, model.train_targets - observed, model.noises)
    return MatheronPath(prior_paths=prior, update_paths=update)


@DrawMatheronPaths.register(FieldModel)
def _field_paths(model: FieldModel, *, sample_shape: torch.Size, prior_sampler: Any, update_strategy: Any) -> LawPath:
    return LawPath(model.belief.law, model.num_outputs, sample_shape)
