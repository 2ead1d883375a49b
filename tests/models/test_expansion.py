from dataclasses import replace

import pytest
import torch
from gpytorch.kernels import ScaleKernel
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.stationary import RBF
from kernelfield.models import fit as searching
from kernelfield.models.collapsed import Rows, gather
from kernelfield.models.evidence import Trend
from kernelfield.models.expansion import FittedExpansion
from kernelfield.models.orthogonal import SphericalProcess
from kernelfield.models.process import Process
from kernelfield.models.random_features import RandomFeatureProcess
from kernelfield.models.sparse import InducingInputs, SparseProcess
from tests.laws import obeys_posterior_laws

XS = torch.linspace(-3, 3, 7)[:, None]
MEANS = ["zero", "constant", "linear"]


@pytest.fixture
def data():
    X = torch.linspace(-2, 2, 30)[:, None]
    Y = torch.cat([torch.sin(2 * X), X**2], 1) + 0.1 * torch.randn(30, 2) + 5.0
    return Data(X, Y, 0.5 + torch.rand(30))


def fit(model, data):
    return model.fit(data, generator=torch.Generator().manual_seed(0))


def held(**kwargs):
    kernel = RBF()
    kernel.lengthscale = 0.7
    return SparseProcess(kernel, noise=0.05, steps=0, **kwargs)


MODELS = {
    "sparse": lambda **kwargs: held(inducing=6, **kwargs),
    "fourier": lambda **kwargs: RandomFeatureProcess(count=20, steps=0, noise=0.05, **kwargs),
    "network": lambda **kwargs: RandomFeatureProcess("network", count=20, steps=0, noise=0.05, **kwargs),
    "universal": lambda **kwargs: RandomFeatureProcess("universal", count=20, steps=0, noise=0.05, **kwargs),
}


@pytest.mark.parametrize("mean", MEANS)
def test_regression_on_features_is_the_process_with_their_kernel(data, mean):
    fitted = fit(MODELS["network"](mean=mean), data)
    kernel = ScaleKernel(fitted.basis.source)
    kernel.outputscale = fitted.basis.log_scale.exp()
    scaled = Data(data.X / fitted.basis.unit, data.Y, data.weight)
    process = fit(Process(kernel, mean=mean, noise=0.05, steps=0), scaled)
    assert fitted.log_bound == pytest.approx(process.log_evidence, rel=1e-10)
    law, expect = fitted.posterior(XS), process.posterior(XS / fitted.basis.unit)
    assert_close(law.mean, expect.mean, rtol=1e-10, atol=1e-10)
    assert_close(law.covariance, expect.covariance, rtol=0, atol=1e-10)
    assert_close(law.variance, expect.variance, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mean", MEANS)
def test_predictions_are_those_of_dense_algebra(data, mean):
    # A process of covariance Q in its data, and K where it is asked; a vague mean is the limit of a flat one.
    fitted = fit(held(inducing=6, mean=mean), data)
    phi, star = fitted.features(data.X), fitted.features(XS)
    vague = 1e6
    H, Hs = fitted.trend(data.X), fitted.trend(XS)
    A = phi.mT @ phi + torch.diag(0.05 / data.weight) + vague * H @ H.mT
    cross = phi.mT @ star + vague * H @ Hs.mT
    prior = fitted.kernel(XS).to_dense() + vague * Hs @ Hs.mT
    law = fitted.posterior(XS)
    assert_close(law.mean, cross.mT @ torch.linalg.solve(A, data.Y), rtol=1e-4, atol=1e-4)
    joint = law.covariance.reshape(7, 2, 7, 2)
    assert_close(joint[:, 0, :, 0], prior - cross.mT @ torch.linalg.solve(A, cross), rtol=1e-4, atol=1e-4)
    assert_close(joint[:, 0, :, 1], torch.zeros(7, 7))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mean", MEANS)
def test_conditioning_is_exact(data, name, mean):
    part = [Data(data.X[s], data.Y[s], data.weight[s]) for s in (slice(18), slice(18, 30))]
    first = fit(MODELS[name](mean=mean), part[0])
    twice = first.condition(part[1])
    rows = Rows.of(data, first.trend, first.centre)
    once = FittedExpansion.of(first.basis, first.noise, first.trend, first.centre, rows)
    law, expect = twice.posterior(XS, noise=True), once.posterior(XS, noise=True)
    assert_close(law.mean, expect.mean, rtol=1e-9, atol=1e-9)
    assert_close(law.covariance, expect.covariance, rtol=1e-9, atol=1e-9)
    assert twice.log_bound == pytest.approx(once.log_bound, rel=1e-9)
    assert twice.moments.rows == 30
    assert first.moments.rows == 18


@pytest.mark.parametrize("name", MODELS)
def test_laws_hold_and_batches_have_the_posterior_of_each(data, name):
    fitted = fit(MODELS[name](), data)
    obeys_posterior_laws(fitted.posterior(XS[:3], noise=True), samples=20_000)
    X = torch.randn(2, 3, 4, 1)
    law, alone = fitted.posterior(X), fitted.posterior(X[1, 2])
    assert_close(law.mean[1, 2], alone.mean)
    assert_close(law.covariance[1, 2], alone.covariance, rtol=1e-9, atol=1e-10)
    assert law.variance.shape == (2, 3, 4, 2)


@pytest.mark.parametrize("name", MODELS)
def test_predictions_have_gradients_in_the_inputs(data, name):
    fitted = fit(MODELS[name](), data)

    def moments(X):
        law = fitted.posterior(X)
        return law.mean, law.variance

    assert torch.autograd.gradcheck(moments, XS[1:3].clone().requires_grad_())


def test_a_row_of_weight_three_is_three_equal_rows(data):
    weight = torch.ones(30)
    weight[4] = 3.0
    rows = torch.tensor([*range(30), 4, 4])
    basis, trend = InducingInputs(RBF().requires_grad_(False), data.X[::5]), Trend.of("constant", data.X)
    whole = [Rows.of(d, trend, data.Y[0]) for d in (Data(data.X, data.Y, weight), Data(data.X[rows], data.Y[rows]))]
    one, three = (FittedExpansion.of(basis, 0.1, trend, data.Y[0], r) for r in whole)
    assert_close(one.posterior(XS).mean, three.posterior(XS).mean)
    assert_close(one.posterior(XS).covariance, three.posterior(XS).covariance)


def test_the_mean_of_targets_far_from_zero_costs_no_digits(data):
    # Counted from zero, squares of 1e6 would leave four digits of residuals of 0.1.
    near, far = (fit(held(inducing=8), Data(data.X, data.Y + shift)) for shift in (0.0, 1e6))
    assert_close(near.posterior(XS).mean + 1e6, far.posterior(XS).mean, rtol=0, atol=1e-6)
    assert near.log_bound == pytest.approx(far.log_bound, abs=1e-5)


def test_it_says_when_basis_functions_are_too_few(data):
    (note,) = fit(held(inducing=2), data).notes()
    assert "the 2 basis functions leave a part of the process out that costs" in note
    assert fit(held(inducing=30), data).notes() == []


def test_a_search_that_has_not_settled_is_a_note_and_no_warning(data, monkeypatch):
    monkeypatch.setattr(searching, "LOOSE", 0.0)
    monkeypatch.setattr(searching, "EARLY", 1)
    fitted = fit(SphericalProcess(features=4, inputs=6, restarts=1, steps=2), data)
    assert not fitted.searches[0].converged and not fitted.searches[1].converged
    stopped = replace(fitted, searches=(replace(fitted.searches[1], steps=200, slope=0.5),))
    assert "the search stopped after 200 steps with a slope of 0.5 nats a point left; raise steps" in stopped.notes()


def test_rows_are_not_kept(data):
    fitted = fit(held(inducing=6), data)
    assert gather(fitted.basis, fitted.basis.factor(), Rows.of(data, fitted.trend, fitted.centre)).G.shape == (6, 6)
    sizes = [t.numel() for t in vars(fitted.moments).values() if isinstance(t, torch.Tensor)]
    assert max(sizes) == 36


def test_it_is_noted_how_far_rounding_moves_means():
    """Sums of squares beside the noise lose what a QR factor of the rows keeps."""
    X = torch.rand(400, 2)
    Y = torch.sin(6 * X[:, :1])
    for noise, told in ((1e-10, False), (1e-13, True)):
        fitted = fit(RandomFeatureProcess(count=200, noise=noise, steps=0, learn_noise=False), Data(X, Y))
        phi, at = fitted.features(X), torch.cat([fitted.features(XS.repeat(1, 2)).mT, torch.ones(len(XS), 1)], 1)
        rows = torch.cat([phi.mT, torch.ones(400, 1)], 1) / noise**0.5
        Q, R = torch.linalg.qr(torch.cat([rows, torch.eye(200, 201)]))
        right = Q[:400].mT @ ((Y - fitted.centre) / noise**0.5)
        mean = fitted.centre + at @ torch.linalg.solve_triangular(R, right, upper=True)
        std = torch.linalg.solve_triangular(R.mT, at.mT, upper=False).norm(dim=0)
        moved = ((fitted.posterior(XS.repeat(1, 2)).mean - mean).abs()[:, 0] / std).max().item()
        assert (moved > 0.01) == told
        notes = [note for note in fitted.notes() if note.startswith("rounding moves means by about ")]
        assert len(notes) == told
        for note in notes:
            assert moved / 10 < float(note.split()[5]) < 10 * moved and note.endswith("or use a Process")


def test_more_inducing_inputs_are_not_advised_where_their_own_noise_is_what_costs():
    X = torch.rand(400, 1)
    kernel = RBF()
    kernel.lengthscale = 0.3
    model = SparseProcess(kernel, noise=1e-11, steps=0, learn_noise=False)
    (note,) = fit(model, Data(X, torch.sin(6 * X))).notes()
    assert "is so small that what inducing values have of their own costs" in note and "raise the noise" in note
