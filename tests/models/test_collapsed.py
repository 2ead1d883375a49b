import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import NotPositiveDefinite
from kernelfield.kernels.spherical import SphericalKernel
from kernelfield.kernels.stationary import Matern
from kernelfield.kernels.universal_features import UniversalFeatures, spectral_draws
from kernelfield.models import collapsed
from kernelfield.models.collapsed import RegressionSums, Rows, bound, determined, gather, whitened
from kernelfield.models.evidence import Trend
from kernelfield.models.expansion import BoundObjective
from kernelfield.models.orthogonal import SphericalBasis
from kernelfield.models.random_features import FourierBasis, UniversalBasis
from kernelfield.models.sparse import InducingInputs, SparseProcess
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.smooth import Erf

NOISE = 0.05
X = torch.rand(40, 2, generator=torch.Generator().manual_seed(1))


def kernel():
    made = Matern(ard_num_dims=2)
    made.lengthscale, made.outputscale = torch.tensor([0.4, 0.7]), 1.3
    return made


def points():
    return InducingInputs(kernel(), X[:9] + 0.01)


def spherical(family, activation):
    made = SphericalKernel(family, ard_num_dims=2, depth=2)
    return SphericalBasis(made, activation, torch.randn(6, 3), torch.tensor(-3.0), X[:4] + 0.01)


def waves():
    return FourierBasis(kernel(), spectral_draws(kernel(), 7, 2, generator=torch.Generator().manual_seed(0)))


def universal(function):
    source = UniversalFeatures.drawn(function, 2, 8, generator=torch.Generator().manual_seed(0))
    return UniversalBasis(source, torch.ones(2), torch.tensor(0.2), torch.tensor(-0.1))


BASES = {
    "points": points,
    "points apart": lambda: InducingInputs(kernel(), X[:9] + 0.01, (5, 4)),
    "arc-cosine, relu": lambda: spherical("arc-cosine", Relu()),
    "matern, erf": lambda: spherical("matern", Erf()),
    "fourier": waves,
    "universal gaussian": lambda: universal("gaussian"),
    "universal relu": lambda: universal("relu"),
}


@pytest.fixture
def data():
    Y = torch.cat([torch.sin(5 * X[:, :1]), X[:, 1:] ** 2], 1) + 0.1 * torch.randn(40, 2)
    return Data(X, Y, 0.5 + torch.rand(40))


def rows_of(data, mean="constant"):
    return Rows.of(data, Trend.of(mean, data.X), data.Y.mean(0))


@pytest.mark.parametrize("mean", ["zero", "constant", "linear"])
def test_the_bound_is_a_normal_density_less_what_the_basis_leaves(data, mean):
    # By n x n matrices: log N(Y | H b, Phi'Phi + noise / w) at its best b, less the trace of the rest.
    basis, rows = points(), rows_of(data, mean)
    with torch.no_grad():
        phi = whitened(basis.factor(), basis.cross(X))
        A = phi.mT @ phi + torch.diag(NOISE / data.weight)
        slack = (data.weight * (basis.variance(X) - phi.square().sum(0))).sum()
        Y, H = rows.V[:, :2], rows.V[:, 2:]
        b = torch.linalg.solve(H.mT @ torch.linalg.solve(A, H), H.mT @ torch.linalg.solve(A, Y))
        normal = torch.distributions.MultivariateNormal(torch.zeros(40), A)
        expect = normal.log_prob((Y - H @ b).mT).sum() - slack / NOISE  # of two outputs, half of the rest each
        sums = gather(basis, basis.factor(), rows)
        assert_close(bound(sums, torch.tensor(NOISE), basis.groups, 2), expect, rtol=1e-10, atol=0)


def test_apart_the_bound_is_the_expected_likelihood_less_the_divergence_of_the_best_laws(data):
    basis, rows = BASES["points apart"](), rows_of(data, "zero")
    rows = Rows(rows.X, rows.V[:, :1], rows.weight)
    with torch.no_grad():
        phi = whitened(basis.factor(), basis.cross(X))
        sums = gather(basis, basis.factor(), rows)
        got = bound(sums, torch.tensor(NOISE), basis.groups, 1)

    def elbo(m, S):
        spread = basis.variance(X) - phi.square().sum(0) + (phi * (S @ phi)).sum(0)
        noise = NOISE / data.weight
        square = (rows.V[:, 0] - phi.mT @ m).square() + spread
        fit = -0.5 * ((2 * math.pi * noise).log() + square / noise).sum()
        return fit - 0.5 * (S.trace() + m @ m - len(m) - S.logdet())

    with torch.no_grad():
        B = torch.eye(9) + sums.G / NOISE
        mean = torch.linalg.solve(B, sums.C[:, 0]) / NOISE
        law = torch.block_diag(*(torch.linalg.inv(part) for part in (B[:5, :5], B[5:, 5:])))
        assert_close(elbo(mean, law), got, rtol=1e-10, atol=0)
        assert elbo(mean + 0.01, law) < got  # and no law of two groups is better
        nudge = torch.block_diag(0.01 * law[:5, :5], -0.01 * law[5:, 5:])
        assert elbo(mean, law + nudge) < got
        assert elbo(mean, law - nudge) < got


@pytest.mark.parametrize("name", BASES)
def test_slopes_are_those_of_differences(name, data):
    objective = BoundObjective(BASES[name](), data, rows_of(data, "linear"), 2, NOISE, learn=True, move=True)
    theta = objective.start()
    _, slope = objective(theta)
    steps = 1e-5 * np.eye(len(theta))
    differences = [(objective(theta + e)[0] - objective(theta - e)[0]) / 2e-5 for e in steps]
    np.testing.assert_allclose(slope, differences, rtol=0, atol=2e-8 * max(1, np.abs(slope).max()))


@pytest.mark.parametrize("name", BASES)
def test_no_basis_explains_more_than_the_process(name):
    basis = BASES[name]()
    with torch.no_grad():
        prior, phi = basis.variance(X), whitened(basis.factor(), basis.cross(X))
        if prior is None:
            assert basis.prior(X) is None
            assert basis.factor() is None
        else:
            K = basis.prior(X).to_dense()
            assert torch.linalg.eigvalsh(K - phi.mT @ phi).min() > -1e-9 * prior.max()
    assert basis.size == len(phi) == sum(basis.groups)


def test_blocks_of_rows_change_nothing(data, monkeypatch):
    basis, rows = points(), rows_of(data)
    objective = BoundObjective(basis, data, rows, 2, NOISE, learn=True, move=True)
    whole = objective(objective.start())
    monkeypatch.setattr(collapsed, "BLOCK", 9 * 7)
    monkeypatch.setattr(collapsed, "LEAST_ROWS", 1)
    assert len(list(rows.blocks(9))) == 6
    parts = objective(objective.start())
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-12)
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-9, atol=1e-12)


def test_sums_of_two_sets_of_rows_add(data):
    basis, rows = points(), rows_of(data)
    with torch.no_grad():
        parts = [Rows(rows.X[s], rows.V[s], rows.weight[s]) for s in (slice(15), slice(15, 40))]
        first, second = (gather(basis, basis.factor(), part) for part in parts)
        both, whole = first + second, gather(basis, basis.factor(), rows)
    for name in ("G", "C", "V", "slack", "log_weight"):
        assert_close(getattr(both, name), getattr(whole, name), rtol=1e-12, atol=1e-12)
    assert isinstance(both, RegressionSums)
    assert both.rows == 40


def test_what_rounding_takes_from_the_mean_comes_back():
    """H'A^-1 H of a mean that basis functions say too, by a difference of numbers 10^11 times as large."""
    half = torch.tensor([[2.0, 0.0], [0.5, 1.0]])
    below, least = (half @ torch.diag(torch.tensor([0.5, end])) @ half.mT for end in (-1e-12, 1e-11))
    V = half @ half.mT
    assert_close(determined(below, V, torch.tensor(1e11)), least, rtol=0, atol=1e-14)
    well = torch.tensor([[0.3, 0.1], [0.1, 0.2]])
    assert_close(determined(well, V, torch.tensor(1e11)), well, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_smooth_rows_without_noise_are_told_by_a_process_far_larger_than_they(seed):
    draws = torch.Generator().manual_seed(seed)
    rows = torch.randn(2000, 2, generator=draws)
    wide = Matern(2.5)
    wide.lengthscale, wide.outputscale = 100.0, 1e5
    model = SparseProcess(wide, inducing=40, noise=1e-6, steps=0)
    fitted = model.fit(Data(rows, torch.sin(rows[:, :1])), generator=draws)
    assert (fitted.posterior(rows).mean - torch.sin(rows[:, :1])).abs().max() < 0.1


def test_a_noise_of_which_rounding_leaves_nothing_is_refused():
    wide = Matern(2.5)
    wide.outputscale = 1e10
    model = SparseProcess(wide, inducing=10, noise=1e-9, steps=0)
    with pytest.raises(NotPositiveDefinite, match="times the variance of the noise, and rounding leaves nothing"):
        model.fit(Data(X, X[:, :1]), generator=torch.Generator()).posterior(X)
