import numpy as np
import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.spherical import SphericalKernel, count
from kernelfield.kernels.stationary import Matern
from kernelfield.kernels.zonal import zonal
from kernelfield.models.collapsed import Rows, bound, gather, whitened
from kernelfield.models.evidence import Trend
from kernelfield.models.expansion import FittedExpansion
from kernelfield.models.orthogonal import SphericalBasis, SphericalProcess, activation_levels
from kernelfield.models.process import Process
from kernelfield.models.sparse import NUGGET, InducingInputs
from kernelfield.nets.quadrature import Softplus
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.smooth import Erf

NOISE = torch.tensor(0.05)
KERNELS = {"arc-cosine": {}, "matern": {"family": "matern"}, "deep": {"depth": 3}}


@pytest.fixture
def data():
    X = torch.randn(50, 2)
    return Data(X, torch.sin(2 * X[:, :1]) + X[:, 1:] + 0.2 * torch.randn(50, 1))


def fit(model, data):
    return model.fit(data, generator=torch.Generator().manual_seed(0))


def rows_of(data):
    return Rows.of(data, Trend.of("zero", data.X), torch.zeros(1))


def value(basis, data, groups=None):
    with torch.no_grad():
        return bound(gather(basis, basis.factor(), rows_of(data)), NOISE, groups or basis.groups, 1).item()


def spherical(kind, V, activation=None, smoothing=-4.0):
    kernel = SphericalKernel(ard_num_dims=2, **KERNELS[kind])
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(7, 3, generator=generator, dtype=torch.double)
    return SphericalBasis(kernel, activation or Relu(), z, torch.tensor(smoothing), V)


def test_bounds_of_point_features_are_nested(data):
    kernel, U, V = Matern(1.5), data.X[:6], data.X[6:14]
    exact = fit(Process(kernel, mean="zero", noise=NOISE.item(), steps=0), data).log_evidence
    alone, apart = (
        value(InducingInputs(kernel, U), data),
        value(InducingInputs(kernel, torch.cat([U, V]), (6, 8)), data),
    )
    joint = value(InducingInputs(kernel, torch.cat([U, V])), data)
    assert alone < apart - 1e-3
    assert apart < joint - 1e-3
    assert joint < exact - 1e-3


@pytest.mark.parametrize("kind", KERNELS)
def test_bounds_of_spherical_features_are_nested(kind, data):
    basis = spherical(kind, data.X[:8])
    exact = fit(Process(basis.kernel, mean="zero", noise=NOISE.item(), steps=0), data).log_evidence
    alone, apart = value(spherical(kind, data.X[:0]), data), value(basis, data)
    assert basis.groups == (7, 8)
    assert alone < apart < value(basis, data, (15,)) < exact


def test_the_law_apart_has_the_joint_mean_and_the_covariance_of_its_blocks(data):
    basis = spherical("matern", data.X[:8])
    with torch.no_grad():
        fitted = FittedExpansion.of(basis, NOISE.item(), Trend.of("zero", data.X), torch.zeros(1), rows_of(data))
        X, B = torch.randn(5, 2), torch.eye(15) + fitted.moments.G / NOISE
        phi = fitted.features(X)
        mean = phi.mT @ torch.linalg.solve(B, fitted.moments.C / NOISE)
        S = torch.block_diag(torch.linalg.inv(B[:7, :7]), torch.linalg.inv(B[7:, 7:]))
        law = fitted.posterior(X)
        assert_close(law.mean, mean)
        expect = basis.prior(X).to_dense() - phi.mT @ phi + phi.mT @ S @ phi
        assert_close(law.covariance, expect, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["matern", pytest.param("deep", marks=pytest.mark.slow)])
def test_inner_products_of_features_are_those_of_quadrature_on_the_sphere(kind):
    # <g_m, g_l> in the space of k is the integral of g_m r_l, where the integral of k r_l is g_l.
    basis = spherical(kind, torch.empty(0, 2))
    g, levels = (t.detach().numpy() for t in basis.levels())
    n = np.arange(count(3) + 1)
    t, weight = np.polynomial.legendre.leggauss(count(3) + 1)
    angle = 2 * np.pi * np.arange(2 * count(3) + 2) / (2 * count(3) + 2)
    ring = np.sqrt(1 - t**2)[:, None]
    nodes = np.stack(
        [ring * np.cos(angle), ring * np.sin(angle), np.broadcast_to(t[:, None], (len(t), len(angle)))], -1
    )
    nodes, weight = nodes.reshape(-1, 3), np.repeat(weight / 2 / len(angle), len(angle))
    root = np.sqrt(weight)[:, None]

    def function(coefficients, cosines):  # Z_n = (2 n + 1) P_n on the sphere of three dimensions
        return np.polynomial.legendre.legval(cosines, coefficients * (2 * n + 1))

    z = (basis.directions / basis.directions.norm(dim=-1, keepdim=True)).numpy()
    G = root * function(g, nodes @ z.T)
    values, vectors = np.linalg.eigh(root * function(levels, nodes @ nodes.T) * root.T)
    kept = values > 1e-12 * values[-1]
    inner = (vectors[:, kept].T @ G) / np.sqrt(values[kept])[:, None]
    with torch.no_grad():
        L = basis.factor()
        K = (L @ L.mT).numpy()
    K -= np.diag(np.diag(K)) * NUGGET / (1 + NUGGET)
    np.testing.assert_allclose(K, inner.T @ inner, rtol=0, atol=1e-6 * np.diag(K).max())


def test_the_features_of_the_arc_cosine_kernel_are_those_of_its_units():
    # sigma_n^2 = f_n up to one factor: the kernel is a mean over units.
    ratio = activation_levels(Relu(), 4).square() / SphericalKernel().levels(4)
    found = ratio[ratio.isfinite()]
    assert len(found) == 14  # 0, 1 and the even levels
    assert_close(found, found[:1].expand(14), rtol=1e-7, atol=0)  # high levels are small


def test_levels_that_the_kernel_lacks_are_dropped():
    g, levels = spherical("arc-cosine", torch.empty(0, 2), Erf()).levels()
    assert (activation_levels(Erf(), 3)[3:9:2] != 0).all()  # odd levels, which one layer of ReLU has not
    assert (g[levels == 0] == 0).all()
    assert g[1] > 0


@pytest.mark.parametrize("activation", [Erf(), Softplus()], ids=["erf", "softplus"])
def test_without_smoothing_features_are_the_activation(activation):
    t, basis = torch.linspace(-1, 1, 9), spherical("matern", torch.empty(0, 2), activation, smoothing=-40.0)
    assert_close(zonal(t, basis.levels()[0].detach(), 3), activation.phi(t), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["arc-cosine", "matern"])
def test_learning_raises_the_bound_to_near_the_evidence(family, data):
    model = SphericalProcess(family, features=10, inputs=20, restarts=1, steps=40)
    before = fit(SphericalProcess(family, features=10, inputs=20, steps=0), data)
    after = fit(model, data)
    assert after.log_bound > before.log_bound + 5
    exact = fit(Process(after.kernel, noise=after.noise, steps=0), data).log_evidence
    assert exact - 2.5 < after.log_bound < exact
    assert (after.posterior(data.X).mean - data.Y).square().mean() < 0.1


def test_features_alone_can_be_fitted_and_the_seed_decides(data):
    model = SphericalProcess(features=6, inputs=0, restarts=1, steps=3)
    first, second = fit(model, data), fit(model, data)
    assert first.basis.groups == (6,)
    laws = {law: fit(SphericalProcess(features=6, inputs=5, steps=0, law=law), data) for law in ("joint", "apart")}
    assert [fitted.basis.groups for fitted in laws.values()] == [(11,), (6, 5)]
    assert laws["joint"].log_bound > laws["apart"].log_bound
    assert_close(first.posterior(data.X).mean, second.posterior(data.X).mean, rtol=0, atol=0)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("d", [1, 50])
def test_few_rows_many_inputs_and_equal_targets_can_be_fitted(n, d):
    X = torch.randn(n, d)
    for Y in (torch.full((n, 2), 7.0), torch.randn(n, 2)):
        fitted = fit(SphericalProcess(restarts=1, steps=2, features=8, inputs=8), Data(X, Y))
        law = fitted.posterior(X)
        assert law.mean.isfinite().all()
        assert (law.variance >= 0).all()
        assert whitened(None, law.mean).shape == (n, 2)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (SphericalProcess(features=0), "features must be at least 1, got 0"),
        (SphericalProcess(inputs=-1), "inputs must be at least 0, got -1"),
        (SphericalProcess(law="mean-field"), "law must be 'joint' or 'apart', got 'mean-field'"),
        (SphericalProcess("cubic"), "family must be 'arc-cosine' or 'matern', got 'cubic'"),
        (SphericalProcess(noise=-1.0), "noise must be a positive variance, got -1"),
    ],
)
def test_a_wrong_choice_is_named_with_its_remedy(model, words, data):
    with pytest.raises(ValueError, match=words):
        fit(model, data)
