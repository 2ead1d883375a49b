"""The mode of both likelihoods, its determinant and its slopes against dense algebra on all latent values."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.numerics import NotPositiveDefinite
from kernelfield.models.logistic import Logistic
from kernelfield.models.mode import climb
from kernelfield.models.softmax import Softmax

N = 9
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 2, generator=GENERATOR, dtype=torch.double)
LABELS = torch.tensor([0, 1, 2, 0, 0, 2, 1, 0, 2])
KINDS = {
    "logistic": (Logistic, (LABELS == 0).double()[:, None]),
    "softmax": (Softmax, torch.nn.functional.one_hot(LABELS).double()),
}
pairs = pytest.mark.parametrize(("kind", "Y"), KINDS.values(), ids=KINDS)
scales = pytest.mark.parametrize("scale", [0.1, 4.0, 1e4])


def kernel_matrix(scale):
    K = scale * torch.exp(-0.5 * torch.cdist(X, X).square())
    return K + 1e-2 * scale * torch.eye(N)


def at_the_mode(kind, Y, K):
    return climb(kind, K, Y)


def hessian(kind, Y, f):
    """W over all latent values, point-major, by automatic differentiation."""
    return torch.autograd.functional.hessian(lambda v: -kind.log_likelihood(Y, v.reshape(Y.shape)), f.flatten())


def every_class(K, Y):
    return torch.kron(K, torch.eye(Y.shape[1]))


@pairs
@scales
def test_the_gradient_of_the_posterior_vanishes(kind, Y, scale):
    K = kernel_matrix(scale)
    local, _ = at_the_mode(kind, Y, K)
    assert_close(K @ local.gradient, local.f, rtol=1e-6, atol=1e-6)


@pairs
@scales
def test_log_q_is_the_integral_of_the_gaussian_around_the_mode(kind, Y, scale):
    K = kernel_matrix(scale)
    local, value = at_the_mode(kind, Y, K)
    joint, f = every_class(K, Y), local.f.flatten()
    B = torch.eye(len(f)) + joint @ hessian(kind, Y, local.f)
    expect = kind.log_likelihood(Y, local.f) - 0.5 * f @ torch.linalg.solve(joint, f) - 0.5 * torch.linalg.slogdet(B)[1]
    assert_close(value, expect, rtol=1e-10, atol=1e-10)


@pairs
@scales
def test_the_slope_holds_for_any_change_of_the_kernel_matrix(kind, Y, scale):
    K = kernel_matrix(scale)
    D = torch.randn(N, N, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    D = scale * D @ D.mT
    h = 1e-6
    rise = (at_the_mode(kind, Y, K + h * D)[1] - at_the_mode(kind, Y, K - h * D)[1]) / (2 * h)
    G = at_the_mode(kind, Y, K)[0].slope()
    assert_close(G, G.mT)
    assert_close((G * D).sum(), rise, rtol=1e-5, atol=1e-6)


@pairs
@scales
def test_the_latent_covariance_is_that_of_dense_algebra(kind, Y, scale):
    K, m = kernel_matrix(scale), Y.shape[1]
    local, _ = at_the_mode(kind, Y, K)
    cross = scale * torch.exp(-0.5 * torch.cdist(X, X[:4] + 0.3).square())
    own, shared = local.explained(cross)
    got = torch.einsum("cij,cik->cjk", own, own)
    taken = torch.einsum("cjk,cd->jckd", got, torch.eye(m)) - torch.einsum("cij,dik->jckd", shared, shared)
    W = hessian(kind, Y, local.f)
    wide = torch.kron(cross, torch.eye(m))
    joint = every_class(K, Y)
    expect = wide.mT @ W @ torch.linalg.solve(torch.eye(N * m) + joint @ W, wide)
    assert_close(taken.reshape(4 * m, 4 * m), expect, rtol=1e-7, atol=1e-7 * scale)


@pairs
def test_the_answer_does_not_depend_on_the_start(kind, Y):
    K = kernel_matrix(100.0)
    _, value = at_the_mode(kind, Y, K)
    for start in (torch.ones_like(Y), -100 * torch.ones_like(Y), Y - 0.5):
        assert_close(climb(kind, K, Y, [start])[1], value, rtol=1e-8, atol=0)


@pairs
def test_the_modes_of_similar_matrices_save_factors(kind, Y, monkeypatch):
    """At once and at the end, where a search that knows nothing needs more between."""
    K, factored = kernel_matrix(1e4), []
    monkeypatch.setattr(kind, "iterations", 0.0)
    original = kind.at.__func__
    monkeypatch.setattr(kind, "at", classmethod(lambda cls, *given: factored.append(1) or original(cls, *given)))
    local, _ = at_the_mode(kind, Y, K)
    cold = len(factored)
    climb(kind, K, Y, [local.gradient, Y - 0.5])
    assert len(factored) - cold <= 2 < cold


@pairs
def test_steps_by_conjugate_gradients_end_at_the_same_mode(kind, Y, monkeypatch):
    K = kernel_matrix(4.0)
    monkeypatch.setattr(kind, "iterations", 0.0)
    by_factors, value = at_the_mode(kind, Y, K)
    monkeypatch.setattr(kind, "iterations", 100.0)
    by_products, same = at_the_mode(kind, Y, K)
    assert_close(same, value, rtol=1e-9, atol=0)
    assert_close(by_products.f, by_factors.f, rtol=1e-7, atol=1e-7)


@pairs
def test_a_matrix_that_overflows_is_refused(kind, Y):
    with pytest.raises(NotPositiveDefinite):
        at_the_mode(kind, Y, kernel_matrix(1e308))
