"""The shape matrix of BoTorch's model contract, and what the two kinds of model promise."""

import importlib
import sys

import gpytorch
import linear_operator
import pytest
import torch
from botorch.acquisition import LogExpectedImprovement, qLogExpectedImprovement
from botorch.acquisition.objective import ScalarizedPosteriorTransform
from botorch.models import ModelListGP, SingleTaskGP
from botorch.optim import optimize_acqf
from botorch.sampling.normal import SobolQMCNormalSampler
from torch.testing import assert_close

from kernelfield.bo.adapter import FieldModel, ProcessModel, to_botorch
from kernelfield.bo.posteriors import GaussianPosterior, LawPosterior
from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.neural.deep_kernel import DeepKernel
from kernelfield.models.neural.prior_fitted import PriorFitted
from kernelfield.models.process import Process
from kernelfield.models.time_series import TimeSeriesProcess
from tests.bo.surrogates import MODELS, fitted, points, rows

QUICK = ("gp", "student", "last layer", "ensemble")
MATRIX = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
PROCESSES = ("gp", "nngp", "ntk", "spectral")


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_the_posterior_of_the_surrogate(name: str, outputs: int) -> None:
    surrogate, model, x = fitted(name, outputs), to_botorch(fitted(name, outputs)), points(2, 4)
    assert isinstance(model, ProcessModel) == (name in PROCESSES)
    assert model.num_outputs == outputs and model.batch_shape == ()
    for noise in (False, True):
        posterior, law = model.posterior(x, observation_noise=noise), surrogate.posterior(x, noise=noise)
        assert_close(posterior.mean, law.mean, atol=1e-8, rtol=0)
        assert_close(posterior.variance, law.variance.expand(law.mean.shape), atol=1e-8, rtol=0)
        if name in PROCESSES:
            dense = posterior.distribution.covariance_matrix
            blocks = law.covariance.unflatten(-1, (4, outputs)).unflatten(-3, (4, outputs))
            expected = blocks.movedim(-3, -4).movedim(-1, -2).flatten(-2).flatten(-3, -2)
            assert_close(dense, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("q", [1, 4])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("name", MATRIX)
def test_shapes_are_those_of_botorchs_contract(name: str, batch: tuple[int, ...], q: int, outputs: int) -> None:
    model, x = to_botorch(fitted(name, outputs)), points(*batch, q).requires_grad_()
    posterior = model.posterior(x)
    samples = posterior.rsample(torch.Size([5]))
    assert posterior.mean.shape == posterior.variance.shape == (*batch, q, outputs)
    assert samples.shape == posterior._extended_shape(torch.Size([5])) == (5, *batch, q, outputs)
    (slope,) = torch.autograd.grad(samples.sum() + posterior.variance.sum(), x)
    assert slope.isfinite().all() and slope.abs().max() > 0

    given = 0.3 * torch.ones(*batch, q, outputs)
    noisy = model.posterior(x, observation_noise=given)
    assert_close(noisy.variance - posterior.variance, given, atol=1e-8, rtol=1e-6)

    new = points(*batch, 2, seed=6)
    fantasy = model.fantasize(new, SobolQMCNormalSampler(torch.Size([6]), seed=0))
    assert type(fantasy) is type(model)
    assert fantasy.num_outputs == outputs and fantasy.batch_shape == (6, *batch)
    for shape in ((), (6, *batch)):
        assert fantasy.posterior(points(*shape, q)).mean.shape == (6, *batch, q, outputs)
    again = fantasy.fantasize(points(*batch, 1, seed=8), SobolQMCNormalSampler(torch.Size([2]), seed=0))
    assert again.batch_shape == (2, 6, *batch)
    assert again.posterior(x).rsample(torch.Size([5])).shape == (5, 2, 6, *batch, q, outputs)
    own = model.condition_on_observations(new, given[..., :1, :].expand(*batch, 2, outputs), noise=torch.full((), 0.1))
    assert own.batch_shape == batch

    if outputs == 2:
        part = model.posterior(x, output_indices=[1])
        assert_close(part.mean, posterior.mean[..., 1:])
        assert_close(part.variance, posterior.variance[..., 1:])
        for one, whole in ((model, posterior), (fantasy, fantasy.posterior(x))):
            alone = one.subset_output([1])
            assert alone.num_outputs == 1 and type(alone) is type(model)
            assert_close(alone.posterior(x).mean, whole.mean[..., 1:])
            assert_close(alone.posterior(x).variance, whole.variance[..., 1:])


@pytest.mark.parametrize("name", MODELS)
def test_a_weighted_sum_of_outputs_has_their_joint_moments(name: str) -> None:
    model, x, w = to_botorch(fitted(name, 2)), points(3, 4), torch.tensor([0.3, -1.2])
    posterior = model.posterior(x)
    total = model.posterior(x, posterior_transform=ScalarizedPosteriorTransform(w, 5.0))
    assert type(total) is type(posterior)
    assert_close(total.mean, posterior.mean @ w[:, None] + 5)
    values = posterior.rsample(torch.Size([4000])) @ w[:, None] + 5
    assert_close(values.var(0), total.variance, rtol=0.25, atol=1e-9)


@pytest.mark.parametrize("mean", ["constant", "linear", "zero"])
def test_the_gp_form_shows_the_process_in_the_users_units(mean: str) -> None:
    data = rows(2)
    estimator = FieldRegressor(Process("matern32", mean, noise=0.1, steps=0)).fit(data.X.numpy(), data.Y.numpy())
    model = to_botorch(estimator)
    assert isinstance(model, SingleTaskGP)
    assert_close(model.train_inputs[0].sort(1).values, data.X.sort(0).values.expand(2, -1, -1))
    assert_close(model.train_targets.mT.sort(0).values, data.Y.sort(0).values)
    scale = estimator.surrogate_.to_model_y.scale
    assert_close(model.likelihood.noise[:, 0], 0.1 * scale.square())
    # GPyTorch's own posterior of these parts, which takes the mean as known, differs by its uncertainty alone.
    model.eval()
    x = points(5)
    own, law = gpytorch.models.ExactGP.__call__(model, x.expand(2, 5, 2)), estimator.surrogate_.posterior(x)
    assert_close(own.mean.mT, law.mean, atol=1e-6, rtol=1e-6)
    gap = law.variance - own.variance.mT
    assert gap.max() < 1e-6 * law.variance.max() if mean == "zero" else (gap > 1e-4).any()


def test_rows_with_weights_keep_them() -> None:
    data = rows()
    weight = torch.linspace(0.1, 5, len(data.X))
    process = Process("rbf", noise=0.3, steps=0).fit(Data(data.X, data.Y, weight), generator=torch.Generator())
    model = to_botorch(process)
    assert_close(model.noises, 0.3 / weight)
    told = model.condition_on_observations(points(2), torch.ones(2, 1))
    assert_close(told.noises, torch.cat([0.3 / weight, torch.full((2,), 0.3)]))
    assert told.train_inputs[0].shape == (len(data.X) + 2, 2)


def test_a_deep_kernel_and_a_time_series_are_processes() -> None:
    data, generator = rows(), torch.Generator().manual_seed(0)
    deep = DeepKernel(steps=20).fit(data, generator=generator)
    series = TimeSeriesProcess(steps=0).fit(Data(data.X[:, :1], data.Y), generator=generator)
    for surrogate, x in ((deep, points(2, 3)), (series, points(2, 3)[..., :1].contiguous())):
        model = to_botorch(surrogate)
        assert isinstance(model, ProcessModel)
        assert_close(model.posterior(x).mean, surrogate.posterior(x).mean, atol=1e-8, rtol=1e-8)
        fantasy = model.fantasize(x[:1, :1], SobolQMCNormalSampler(torch.Size([3]), seed=0))
        assert fantasy.posterior(x).variance.shape == (3, 2, 3, 1)


def test_a_heavy_tailed_process_keeps_its_draws() -> None:
    law = fitted("student").posterior(points(2))
    posterior = to_botorch(fitted("student")).posterior(points(2))
    assert isinstance(posterior, LawPosterior) and isinstance(law.mixing, InverseGamma)
    z = torch.randn(6, law.width)
    assert torch.equal(posterior.rsample_from_base_samples(torch.Size([6]), z), law.draw(z))


def test_an_infinite_variance_is_for_acquisitions_by_samples() -> None:
    data = rows()
    process = Process("rbf", mean="zero", mixing=InverseGamma.student(1.0), noise=0.1, steps=0)
    model = to_botorch(process.fit(Data(data.X[:1], data.Y[:1]), generator=torch.Generator()))
    with pytest.raises(ValueError, match="infinite"):
        LogExpectedImprovement(model, 1.0)(points(3, 1))
    assert qLogExpectedImprovement(model, 1.0)(points(3, 2)).isfinite().all()


def test_a_prior_fitted_network_is_optimised_but_not_conditioned() -> None:
    model = to_botorch(PriorFitted().fit(rows(), generator=torch.Generator()))
    x = points(3, 2).requires_grad_()
    value = qLogExpectedImprovement(model, 10.0)(x)
    assert torch.autograd.grad(value.sum(), x)[0].isfinite().all()
    with pytest.raises(ValueError, match="refit the model"):
        model.condition_on_observations(points(1), torch.ones(1, 1)).posterior(points(2))


def test_models_of_both_kinds_stand_side_by_side_in_a_list() -> None:
    pair = ModelListGP(to_botorch(fitted("gp")), to_botorch(fitted("nngp")))
    assert pair.posterior(points(3, 2)).mean.shape == (3, 2, 2)


def test_an_acquisition_is_optimised_by_botorch() -> None:
    bounds = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    best, value = optimize_acqf(
        qLogExpectedImprovement(to_botorch(fitted("gp")), 14.0), bounds, q=2, num_restarts=2, raw_samples=16
    )
    assert ((0 <= best) & (best <= 1)).all() and value.isfinite()


def test_what_is_no_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match="need a surrogate.*got 3"):
        to_botorch(3)


def test_the_surrogate_is_left_as_it_was() -> None:
    process = fitted("gp").inner
    model = to_botorch(fitted("gp"))
    model.covar_module.base_kernel.outputscale = 7.0
    assert process.kernel.outputscale.item() != 7.0
    assert isinstance(model.posterior(points(2)), GaussianPosterior)
    assert isinstance(to_botorch(fitted("sparse")), FieldModel)


def test_the_settings_that_botorch_changes_do_not_change_a_prediction() -> None:
    x = points(5)
    for name in ("gp", "nngp", "sparse", "last layer"):
        here = fitted(name).posterior(x)
        with (
            linear_operator.settings.max_cholesky_size(1),
            linear_operator.settings.fast_computations(True, True, True),
            linear_operator.settings.cholesky_max_tries(3),
            gpytorch.settings.fast_pred_var(True),
        ):
            law, posterior = fitted(name).posterior(x), to_botorch(fitted(name)).posterior(x)
            assert torch.equal(law.mean, here.mean) and torch.equal(law.covariance, here.covariance)
            assert_close(posterior.variance, here.variance, atol=1e-8, rtol=0)


@pytest.mark.parametrize("module", ["adapter", "paths", "posteriors"])
def test_without_botorch_the_error_names_what_to_install(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"kernelfield.bo.{module}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "botorch"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'kernelfield\[bo\]'"):
        importlib.import_module(f"kernelfield.bo.{module}")
