"""The updates of a tensor's parts, against dense algebra, simulation and the process on a line."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.stationary import Matern
from kernelfield.models.tensor_factors import Beliefs, Core, Mode, Precision, Rows, settled, terms
from kernelfield.models.time_series import TimeSeriesProcess

CP = torch.tensor([[0, 0], [1, 1]])
TUCKER = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]])


def law(times: torch.Tensor, r: int, size: int = 2) -> Mode:
    """Any law: its terms need not come from data."""
    half = torch.randn(len(times), r, r)
    return Mode(times, size, 0.3 + torch.rand(r), 0.5 + torch.rand(r), half @ half.mT, torch.randn(len(times), r))


def beliefs(cells: torch.Tensor, n: int = 20, m: int = 2) -> tuple[Rows, Beliefs]:
    X = torch.stack([torch.randint(0, 6, (n,)) / 3.0, torch.rand(n)], 1)
    rows, times = Rows.of(Data(X, torch.randn(n, m), 0.5 + torch.rand(n)), cells)
    modes = tuple(law(t, int(cells[:, k].max()) + 1) for k, t in enumerate(times))
    half = torch.randn(len(cells), len(cells))
    core = Core(torch.randn(len(cells), m), half @ half.mT, 0.5 + torch.rand(len(cells)))
    return rows, Beliefs(modes, core, Precision.of(0.3, learned=True).updated(10, 2.0))


def dense(mode: Mode) -> tuple[torch.Tensor, torch.Tensor]:
    """The prior's covariance (N r, N r) and the terms' precision."""
    N, r = mode.linear.shape
    K = torch.zeros(N, r, N, r)
    for j in range(r):
        kernel = Matern(mode.size - 0.5)
        kernel.lengthscale, kernel.outputscale = mode.lengthscales[j], mode.outputscales[j]
        with torch.no_grad():
            K[:, j, :, j] = kernel(mode.times[:, None]).to_dense()
    return K.reshape(N * r, N * r), torch.block_diag(*mode.precision)


def gaussian_divergence(mean, covariance, prior):
    """KL(N(mean, covariance) | N(0, prior))."""
    inner = torch.linalg.solve(prior, covariance)
    distance = mean @ torch.linalg.solve(prior, mean)
    return 0.5 * (inner.trace() + distance - len(mean) - torch.logdet(inner))


def test_the_divergence_of_a_mode_is_that_of_two_gaussians_and_its_best_scale_lowers_it():
    mode = law(torch.sort(torch.rand(7) * 4).values, 2)
    K, L = dense(mode)
    covariance = torch.linalg.inv(torch.linalg.inv(K) + L)
    mean = covariance @ mode.linear.flatten()
    assert_close(mode.divergence(), gaussian_divergence(mean, covariance, K), rtol=1e-8, atol=1e-8)
    best = mode.best_outputscales() / mode.outputscales

    def scaled(factors):
        return gaussian_divergence(mean, covariance, K * factors.repeat(7) ** 0.5 * factors.repeat(7)[:, None] ** 0.5)

    for factor in (0.99, 1.01):
        for r in range(2):
            assert scaled(best) < scaled(torch.where(torch.arange(2) == r, factor * best, best))


def test_divergences_of_the_core_and_of_the_precision():
    _, q = beliefs(CP)
    each = [gaussian_divergence(w, q.core.covariance, q.core.prior.diag()) for w in q.core.mean.mT]
    assert_close(q.core.divergence(), sum(each))
    of = torch.distributions.Gamma(torch.tensor(q.tau.shape), torch.tensor(q.tau.rate))
    prior = torch.distributions.Gamma(torch.tensor(1e-3), torch.tensor(q.tau.prior_rate))
    assert_close(torch.tensor(q.tau.divergence()), torch.distributions.kl_divergence(of, prior))


@pytest.mark.parametrize("cells", [CP, TUCKER], ids=["cp", "tucker"])
@pytest.mark.parametrize("block", [1, 10**6])
def test_terms_are_the_expected_derivatives_of_the_log_likelihood(cells, block, monkeypatch):
    """The log likelihood is quadratic in one mode: its curvature and slope at zero, averaged over draws."""
    monkeypatch.setattr("kernelfield.models.tensor_factors.BLOCK", block)
    rows, q = beliefs(cells, n=4)
    draws = 200_000
    core = torch.randn(draws, *q.core.mean.shape)
    W = q.core.mean + torch.linalg.cholesky(q.core.covariance) @ core
    for k in (0, 1):
        precision, linear = terms(rows, q, k)
        other = q.modes[1 - k]
        i = 2
        at = rows.places[1 - k][i]
        half = torch.linalg.cholesky(other.covariance[at])
        u = other.mean[at] + torch.randn(draws, len(half)) @ half.mT
        ranks = torch.nn.functional.one_hot(cells[:, k]).double()
        z = torch.einsum("sjc,sj,jr->scr", W, u[:, cells[:, 1 - k]], ranks)
        weight = q.tau.mean * rows.weight[i]
        alone = Rows(rows.Y[i : i + 1], rows.weight[i : i + 1], tuple(p[i : i + 1] for p in rows.places), cells)
        own, told = terms(alone, q, k)
        squares = weight * torch.einsum("scr,scq->srq", z, z)
        slopes = weight * torch.einsum("c,scr->sr", rows.Y[i], z)
        place = rows.places[k][i]
        assert ((own[place] - squares.mean(0)).abs() <= 6 * squares.std(0) / draws**0.5).all()
        assert ((told[place] - slopes.mean(0)).abs() <= 6 * slopes.std(0) / draws**0.5).all()
        # Rows add up.
        parts = [
            terms(Rows(rows.Y[j, None], rows.weight[j, None], tuple(p[j, None] for p in rows.places), cells), q, k)
            for j in range(4)
        ]
        assert_close(precision, sum(part[0] for part in parts))
        assert_close(linear, sum(part[1] for part in parts))


@pytest.mark.parametrize("cells", [CP, TUCKER], ids=["cp", "tucker"])
def test_the_bound_is_its_definition(cells):
    rows, before = beliefs(cells, n=6)
    q = settled(rows, before, prior="each")
    n, m = rows.Y.shape
    expected = torch.zeros(())
    for i in range(n):
        first, second = rows.products(q.modes, slice(i, i + 1))
        a, A = torch.ones(len(cells)), torch.ones(len(cells), len(cells))
        for k, mode in enumerate(q.modes):
            u, C = mode.mean[rows.places[k][i]], mode.covariance[rows.places[k][i]]
            for x, j in enumerate(cells[:, k].tolist()):
                a[x] *= u[j]
                for y, h in enumerate(cells[:, k].tolist()):
                    A[x, y] *= u[j] * u[h] + C[j, h]
        assert_close(first[0], a)
        assert_close(second[0], A)
        for c in range(m):
            w = q.core.mean[:, c]
            square = rows.Y[i, c] ** 2 - 2 * rows.Y[i, c] * (w @ a)
            square = square + (A * (w[:, None] * w + q.core.covariance)).sum()
            log_weight = rows.weight[i].log() + q.tau.log_mean - math.log(2 * math.pi)
            expected = expected + 0.5 * (log_weight - q.tau.mean * rows.weight[i] * square)
    divergences = q.core.divergence() + q.tau.divergence() + sum(mode.divergence() for mode in q.modes)
    assert_close(torch.tensor(q.bound), expected - divergences)


@pytest.mark.parametrize("prior", ["shared", "each"])
def test_every_update_raises_the_bound(prior):
    rows, q = beliefs(TUCKER)
    q = settled(rows, q, prior=prior)
    for k in (0, 1, 0, 1, 0, 1):
        mode = replace(q.modes[k], outputscales=q.modes[k].best_outputscales())
        precision, linear = terms(rows, q, k)
        mode = replace(mode, precision=precision, linear=linear)
        modes = (mode, q.modes[1]) if k == 0 else (q.modes[0], mode)
        after = settled(rows, replace(q, modes=modes), prior=prior)
        assert after.bound > q.bound
        q = after


def test_the_core_is_the_best_given_the_rest():
    """With known functions and noise the core is ridge regression."""
    rows, before = beliefs(CP)
    modes = tuple(replace(mode, precision=1e9 * torch.eye(2).expand(len(mode.times), 2, 2)) for mode in before.modes)
    modes = tuple(replace(mode, linear=1e9 * torch.randn_like(mode.linear)) for mode in modes)
    q = Beliefs(modes, before.core, Precision.of(0.3, learned=False))
    found = settled(rows, q, prior="each").core
    phi = rows.products(modes, slice(None))[0] * rows.weight.sqrt()[:, None]
    system = phi.mT @ phi / 0.3 + torch.diag(1 / before.core.prior)
    expected = torch.linalg.solve(system, phi.mT @ (rows.weight.sqrt()[:, None] * rows.Y) / 0.3)
    assert_close(found.mean, expected, rtol=1e-6, atol=1e-6)
    assert_close(found.covariance, torch.linalg.inv(system), rtol=1e-6, atol=1e-6)
    assert_close(found.prior, found.covariance.diagonal() + found.mean.square().mean(1))


def test_one_mode_of_rank_one_is_the_process_on_a_line():
    X = 10 * torch.rand(60, 1)
    data = Data(torch.cat([X, X[:5]]), torch.randn(65, 1), 0.5 + torch.rand(65))
    kernel = Matern(1.5)
    kernel.lengthscale, kernel.outputscale = 0.8, 1.7
    line = TimeSeriesProcess(kernel, "zero", noise=0.2, steps=0).fit(data, generator=torch.Generator())
    rows, (times,) = Rows.of(data, torch.zeros(1, 1, dtype=torch.long))
    core = Core(torch.ones(1, 1), torch.zeros(1, 1), torch.ones(1))
    blank = Mode(times, 2, torch.tensor([0.8]), torch.tensor([1.7]), torch.zeros(60, 1, 1), torch.zeros(60, 1))
    q = Beliefs((blank,), core, Precision.of(0.2, learned=False))
    precision, linear = terms(rows, q, 0)
    known = Mode(times, 2, blank.lengthscales, blank.outputscales, precision, linear)
    Z = 12 * torch.rand(30) - 1
    wider, place = known.at(torch.cat([Z, X[:3, 0]]))
    law = line.posterior(torch.cat([Z, X[:3, 0]])[:, None])
    assert_close(wider.mean[place], law.mean, rtol=1e-9, atol=1e-9)
    assert_close(wider.covariance[place][:, 0], law.variance, rtol=1e-9, atol=1e-9)
