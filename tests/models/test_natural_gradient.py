import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence
from torch.testing import assert_close

from kernelfield.models.likelihoods import Bernoulli, Gaussian, Local, Poisson
from kernelfield.models.natural_gradient import Coefficients, basis_slope, factor_slope

K, P, B = 5, 2, 30


def random_law(outputs=2, matrices=2):
    A = torch.randn(matrices, K + P, K + P)
    return Coefficients.of(torch.randn(K + P, outputs), A @ A.mT + torch.eye(K + P), K)


@pytest.mark.parametrize("matrices", [1, 2])
def test_the_divergence_is_pytorch_s(matrices):
    law = random_law(matrices=matrices)
    prior = MultivariateNormal(torch.zeros(K), torch.eye(K))
    expect = 0.0
    for j in range(2):
        own = law.precision[min(j, matrices - 1), :K, :K]  # b is a number to the bound
        expect += kl_divergence(MultivariateNormal(law.mean[:K, j], precision_matrix=own), prior).item()
    assert law.divergence() == pytest.approx(expect, rel=1e-10)


def test_marginals_are_those_of_dense_algebra():
    law, psi, rest = random_law(), torch.randn(K + P, B), torch.rand(B)
    found = law.at(psi, rest)
    for j in range(2):
        S = torch.linalg.inv(law.precision[j, :K, :K])
        assert_close(found.variance[:, j], rest + (psi[:K].mT @ S @ psi[:K]).diagonal())
    assert_close(found.mean, psi.mT @ law.mean)


def test_one_step_of_length_one_is_bayesian_regression():
    psi, Y, noise = torch.randn(K, B), torch.randn(B, 2), 0.3
    law = Coefficients.of(torch.randn(K, 2), random_law(1, 1).precision[:, :K, :K], K)
    local = Gaussian(noise).local(Y, psi.mT @ law.mean, torch.zeros(B, 1), None, torch.tensor([noise]).log())
    found = law.stepped(psi @ local.pull, ((psi * local.curvature.mT) @ psi.mT)[None], 1.0, convex=True)
    precision = torch.eye(K) + psi @ psi.mT / noise
    assert_close(found.precision[0], precision)
    assert_close(found.mean, torch.linalg.solve(precision, psi @ Y / noise))


@pytest.mark.parametrize("convex", [True, False])
def test_a_short_step_is_the_natural_gradient_of_the_bound(convex):
    """In natural parameters it is the gradient in the moments; in (mu, S^-1), S dF/dmu and -2 dF/dS."""
    psi, y, law = torch.randn(K, B), torch.poisson(torch.ones(B, 1)), random_law(1, 1)
    law = Coefficients.of(0.3 * law.mean[:K], law.precision[:, :K, :K], K)
    mean, S = law.mean.clone().requires_grad_(), law.spread[0].clone().requires_grad_()
    v = (psi * (S @ psi)).sum(0)[:, None]
    fit = (y * (psi.mT @ mean) - (psi.mT @ mean + v / 2).exp()).sum()  # E log p of counts, in closed form
    (-0.5 * (S.trace() + mean.square().sum() - S.logdet()) + fit).backward()
    local = Poisson().local(y, psi.mT @ law.mean, v.detach(), None, torch.empty(0))
    length = 1e-8
    moved = law.stepped(psi @ local.pull, ((psi * local.curvature.mT) @ psi.mT)[None], length, convex=convex)
    assert_close((moved.precision[0] - law.precision[0]) / length, -2 * S.grad, rtol=1e-4, atol=1e-4)
    assert_close((moved.mean - law.mean) / length, law.spread[0] @ mean.grad, rtol=1e-4, atol=1e-4)


def test_curvatures_of_any_sign_leave_a_precision():
    law = random_law(1, 1)
    wild = -50 * law.precision
    moved = law.stepped(torch.zeros(K + P, 1), wild, 0.5, convex=False)
    assert torch.linalg.eigvalsh(moved.precision).min() > 0
    with pytest.raises(ValueError, match="not positive definite"):
        law.stepped(torch.zeros(K + P, 1), wild, 0.5, convex=True)


@pytest.mark.parametrize("matrices", [1, 2])
def test_the_slope_in_the_basis_is_that_of_the_bound(matrices):
    law, Y = random_law(2, matrices), (torch.rand(B, 2) > 0.5).double()
    phi, prior = torch.randn(K, B, requires_grad=True), torch.full((B,), 40.0)
    likelihood = Gaussian(0.3) if matrices == 1 else Bernoulli()
    logs = likelihood.logs()

    def local_at(phi):
        marginals = law.at(torch.cat([phi, torch.ones(P, B)]), prior - phi.square().sum(0))
        return marginals, likelihood.local(Y, marginals.mean, marginals.variance, None, logs)

    marginals, local = local_at(phi.detach())
    found = basis_slope(law, marginals, local, phi.detach())
    assert isinstance(local, Local)
    variance = (prior[:, None] + torch.einsum("kb,gkl,lb->bg", phi, law.spread - torch.eye(K), phi)).expand(B, 2)
    mean = phi.mT @ law.mean[:K] + torch.ones(B, P) @ law.mean[K:]
    value = likelihood.expected(Y, mean, variance).sum()
    assert local.value == pytest.approx(value.item(), rel=1e-10)
    assert_close(found, torch.autograd.grad(value, phi)[0], rtol=1e-7, atol=1e-9)


def test_the_slope_in_the_covariance_is_that_of_automatic_differentiation():
    A = torch.randn(K, K)
    A = (A @ A.mT + torch.eye(K)).requires_grad_()
    c, weights = torch.randn(K, B), torch.randn(K, B)
    L = torch.linalg.cholesky(A)
    phi = torch.linalg.solve_triangular(L, c, upper=False)
    expect = torch.autograd.grad((weights * phi.sin()).sum(), A)[0]
    inner = (weights * phi.cos()).detach() @ phi.detach().mT
    assert_close(factor_slope(L.detach(), inner), (expect + expect.mT) / 2)
    assert math.isclose(inner.trace(), ((weights * phi.cos() * phi).sum()).item())
