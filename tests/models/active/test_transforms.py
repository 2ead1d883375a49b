"""Transforms of kernels: conditioning in two ways, and sketches against what they estimate."""

import math

import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from torch import Tensor, nn
from torch.testing import assert_close

from kernelfield.models.active.features import GradientKernel, Gradients
from kernelfield.models.active.finite import FeatureKernel, FiniteKernel, PointKernel, ScaledKernel, conditioned
from kernelfield.models.active.transforms import Condition, LogLikelihoods, LowRank, Scale, Sketch

N = 12
LABELLED = torch.arange(8, N)


def dense(kernel: FiniteKernel) -> Tensor:
    return kernel.block(slice(None), torch.arange(kernel.size))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("noise", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("p", [3, 30])
def test_conditioning_weights_is_conditioning_functions(noise: float, p: int) -> None:
    prior = FeatureKernel(torch.randn(N, p) / math.sqrt(p))
    weights = Condition(noise).apply(prior, LABELLED, generator())
    functions = conditioned(prior, LABELLED, noise)
    assert isinstance(weights, FeatureKernel)
    K = dense(prior)
    truth = K - K[:, LABELLED] @ torch.linalg.solve(K[LABELLED][:, LABELLED] + noise * torch.eye(4), K[LABELLED])
    for kernel in (weights, functions):
        assert_close(dense(kernel), truth, rtol=0, atol=1e-12)
        assert_close(kernel.diagonal(), truth.diagonal(), rtol=0, atol=1e-12)
        assert_close(kernel.total(5), truth[:, :5].sum(1), rtol=0, atol=1e-12)


def test_a_kernel_without_features_is_conditioned_as_a_function() -> None:
    kernel = PointKernel(RBFKernel(), torch.randn(N, 2))
    assert_close(dense(Condition(0.1).apply(kernel, LABELLED, generator())), dense(conditioned(kernel, LABELLED, 0.1)))
    assert Condition(0.1).apply(kernel, LABELLED[:0], generator()) is kernel


@pytest.mark.parametrize("kind", ["features", "points"])
def test_labelled_rows_have_a_mean_variance_of_one_after_scaling(kind: str) -> None:
    points = torch.randn(N, 3)
    base = FeatureKernel(points) if kind == "features" else PointKernel(ScaleKernel(RBFKernel()), points)
    scaled = Scale().apply(base, LABELLED, generator())
    assert_close(scaled.diagonal()[LABELLED].mean(), torch.tensor(1.0))
    factor = 1 / base.diagonal()[LABELLED].mean()
    assert_close(dense(scaled), (factor * dense(base)).detach())
    assert_close(scaled.total(3), (factor * base.total(3)).detach())
    assert_close(Scale().apply(base, LABELLED[:0], generator()).diagonal().mean(), torch.tensor(1.0))
    with pytest.raises(ValueError, match="mean variance of 0, which cannot be scaled"):
        Scale().apply(FeatureKernel(torch.zeros(N, 2)), LABELLED, generator())


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 2))


def convolution() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 1))


def sources() -> dict[str, FiniteKernel]:
    X = torch.randn(6, 3)
    return {
        "features": FeatureKernel(torch.randn(6, 40)),
        "gradients": Gradients(network()).over(X),
        "gradients of a convolution": Gradients(convolution()).over(X),
    }


@pytest.mark.parametrize("kind", ["features", "gradients", "gradients of a convolution"])
def test_sketches_are_unbiased_and_their_error_falls_with_the_root_of_their_size(kind: str) -> None:
    kernel, errors, draws = sources()[kind], [], 24
    truth = dense(kernel)
    for size in (64, 256, 1024):
        g = generator(7)
        found = torch.stack([dense(Sketch(size).apply(kernel, LABELLED, g)) for _ in range(draws)])
        off = (found - truth).square().mean(0).sqrt()
        assert ((found.mean(0) - truth).abs() <= 6 * off / draws**0.5 + 1e-12).all()
        errors.append(off.mean().item())
    slope = math.log(errors[2] / errors[0]) / math.log(16)
    assert abs(slope + 0.5) < 0.06


def test_a_sketch_of_products_has_three_times_the_variance_of_a_plain_one_at_most() -> None:
    """By the fourth moments of signs: E[(a.h)^2 (a.h')^2] <= |h|^2 |h'|^2 + 2 (h.h')^2 for each factor."""
    kernel = sources()["gradients"]
    assert isinstance(kernel, GradientKernel)
    columns = kernel.sketched(4000, generator()) * 4000**0.5
    variance = (columns[:, None] * columns).var(-1)
    K = dense(kernel)
    plain = K.diagonal()[:, None] * K.diagonal() + 2 * K.square() - K.square()
    assert (variance < 3 * plain).all()


@pytest.mark.parametrize(("limit", "same"), [(2**24, True), (400, True), (100, False)])
def test_a_sketch_of_gradients_keeps_to_its_memory(limit: int, same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer rows at a time do not change it; fewer columns draw other signs for the same law."""
    kernel = sources()["gradients"]
    assert isinstance(kernel, GradientKernel)
    whole = kernel.sketched(16, generator())
    monkeypatch.setattr("kernelfield.models.active.features.LIMIT", limit)
    found = kernel.sketched(16, generator())
    assert torch.allclose(found, whole) == same
    products = torch.stack([(f := kernel.sketched(16, generator(s))) @ f.mT for s in range(25)])
    error = products.std(0) / 25**0.5
    assert ((products.mean(0) - dense(kernel)).abs() <= 6 * error + 1e-12).all()


def test_low_rank_features_are_a_kernel_and_nothing_more() -> None:
    kernel = PointKernel(RBFKernel(), torch.randn(N, 2))
    K, errors = dense(kernel), []
    for size in (2, 5, 50):
        features = LowRank(size).apply(kernel, LABELLED, generator())
        rest = K - dense(features)
        assert torch.linalg.eigvalsh(rest).min() > -1e-10
        errors.append(rest.trace().item())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-10


def test_log_likelihoods_have_the_kernel_of_their_law() -> None:
    """E over z, z' of covariance c and variances k, k' is in closed form: E[z^2 z'^2] = k k' + 2 c^2."""
    noise, prior = 0.3, FeatureKernel(torch.randn(N, 6) / 4)
    found = [LogLikelihoods(4000, noise).apply(prior, LABELLED, generator(s)) for s in range(30)]
    products = torch.stack([dense(f) for f in found])
    C, k = dense(prior), prior.diagonal()
    a = k.div(noise).log1p() / 2 - k / (2 * noise)
    cross = a[:, None] * k / (2 * noise)
    truth = a[:, None] * a - cross - cross.mT + (k[:, None] * k + 2 * C.square()) / (4 * noise**2)
    error = products.std(0) / 30**0.5
    assert ((products.mean(0) - truth).abs() <= 6 * error).all()


def test_gains_are_expected_log_likelihoods_and_the_entropy_of_a_label() -> None:
    """By quadrature over the label y of E log p(y | z) - E log p(y), for one sample z."""
    noise, features = 0.4, torch.randn(5, 3)
    kernel = FeatureKernel(features)
    g = generator(3)
    found = LogLikelihoods(2, noise).apply(kernel, LABELLED, g).features
    z = features @ torch.randn(3, 2, generator=generator(3))
    y = torch.linspace(-30, 30, 60_001)
    for i, k in enumerate(kernel.diagonal()):
        predictive = torch.distributions.Normal(0.0, (k + noise).sqrt())
        for j in range(2):
            gain = torch.distributions.Normal(z[i, j], math.sqrt(noise)).log_prob(y) - predictive.log_prob(y)
            truth = torch.trapezoid(predictive.log_prob(y).exp() * gain, y)
            assert_close(found[i, j] * math.sqrt(2), truth, rtol=1e-9, atol=1e-9)


def test_bad_options_are_refused() -> None:
    points = PointKernel(RBFKernel(), torch.randn(N, 2))
    with pytest.raises(ValueError, match="Sketch needs features, which PointKernel does not have; use LowRank"):
        Sketch().apply(points, LABELLED, generator())
    with pytest.raises(ValueError, match="LogLikelihoods needs features.* put Sketch or LowRank before it"):
        LogLikelihoods().apply(points, LABELLED, generator())
    for transform in (Sketch, LowRank, LogLikelihoods):
        with pytest.raises(ValueError, match="at least one feature, got size=0"):
            transform(0)
    for transform in (Condition, lambda noise: LogLikelihoods(noise=noise)):
        with pytest.raises(ValueError, match="noise variance above zero, got -1"):
            transform(-1)
    with pytest.raises(ValueError, match="one kernel, got a batch of shape \\(2,\\)"):
        PointKernel(RBFKernel(batch_shape=torch.Size([2])), torch.randn(N, 2))


def test_a_scaled_kernel_can_be_conditioned() -> None:
    kernel = PointKernel(RBFKernel(), torch.randn(N, 2))
    found = conditioned(ScaledKernel(kernel, 4.0), LABELLED, 0.4)
    assert_close(dense(found), 4 * dense(conditioned(kernel, LABELLED, 0.1)), rtol=0, atol=1e-12)
