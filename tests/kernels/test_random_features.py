"""Random features against the kernels of infinite width that they approximate."""

import gpytorch
import pytest
import torch
from gpytorch.kernels import ScaleKernel
from linear_operator.operators import LowRankRootLinearOperator
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.network import NetworkKernel
from kernelfield.kernels.random_features import DeepRandomFeatures
from kernelfield.models.process import Process
from kernelfield.nets.algebra import Repeat
from kernelfield.nets.conv import Conv
from kernelfield.nets.dense import Dense
from kernelfield.nets.pooling import Flatten
from kernelfield.nets.rectifiers import Relu

DEEP = Dense(2**0.5, 0.3) >> Relu() >> Dense(2**0.5, 0.3) >> Relu() >> Dense(1.2, 0.4)
IMAGES = Conv((3, 3), 1.5) >> Relu() >> Flatten() >> Dense(1.2)


def exact(arch, x, **kwargs):
    with torch.no_grad():
        return NetworkKernel(arch, **kwargs)(x).to_dense()


def error(x, width, seeds, arch=DEEP, **kwargs):
    """The root mean square over draws of the relative Frobenius error."""
    K = exact(arch, x)
    draws = [DeepRandomFeatures(arch, x.shape[1], width, seed=s, **kwargs)(x).to_dense() for s in range(seeds)]
    return (torch.stack([(D - K).square().sum() for D in draws]).mean() / K.square().sum()).sqrt().item()


def test_the_error_falls_with_the_root_of_the_width():
    x = torch.randn(20, 5)
    errors = [error(x, width, 40) for width in (32, 128, 512)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.3)


def test_orthogonal_weights_lie_nearer_to_the_limit():
    x = torch.randn(20, 5)
    deeper = Dense(2**0.5) >> Repeat(Relu() >> Dense(2**0.5), 5) >> Relu() >> Dense(2**0.5)
    assert error(x, 128, 30, deeper, weights="orthogonal") < 0.8 * error(x, 128, 30, deeper)


def test_the_mean_over_draws_is_the_kernel():
    x = torch.randn(6, 3)
    draws = torch.stack([DeepRandomFeatures(DEEP, 3, 256, seed=s)(x).to_dense() for s in range(100)])
    assert ((draws.mean(0) - exact(DEEP, x)).abs() < 6 * draws.std(0) / 100**0.5).all()


def test_features_of_images_have_the_kernel_of_the_convolutional_network():
    x = torch.randn(4, 18)
    draws = torch.stack([DeepRandomFeatures(IMAGES, (3, 3, 2), 64, seed=s)(x).to_dense() for s in range(60)])
    assert ((draws.mean(0) - exact(IMAGES, x, shape=(3, 3, 2))).abs() < 6 * draws.std(0) / 60**0.5).all()


def test_a_seed_is_a_draw_in_any_precision_and_leaves_the_global_generator_alone(default_precision):
    x = torch.randn(5, 3)
    state = torch.get_rng_state()
    phi = DeepRandomFeatures(DEEP, 3, 50, seed=3).features(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert_close(DeepRandomFeatures(DEEP, 3, 50, seed=3).features(x), phi, atol=0, rtol=0)
    assert (DeepRandomFeatures(DEEP, 3, 50, seed=4).features(x) - phi).abs().max() > 0.1
    torch.set_default_dtype(torch.float32)
    kernel = DeepRandomFeatures(DEEP, 3, 50, seed=3)
    assert_close(kernel.features(x), phi, atol=0, rtol=0)
    assert_close(kernel.features(x.float()), phi.float())


def test_a_matrix_is_the_product_of_features():
    kernel, x, y = DeepRandomFeatures(DEEP, 3, 7), torch.randn(2, 12, 3), torch.randn(4, 3)
    phi, psi = kernel.features(x), kernel.features(y)
    assert phi.shape == (2, 12, 8)
    assert isinstance(kernel(x).evaluate_kernel(), LowRankRootLinearOperator)
    assert_close(kernel(x).to_dense(), phi @ phi.mT)
    assert_close(kernel(x, y).to_dense(), phi @ psi.mT)
    assert_close(kernel(y).to_dense(), psi @ psi.mT)  # fewer points than features
    assert_close(kernel(x, diag=True), phi.square().sum(-1))
    assert_close(kernel(x, x.flip(-2), diag=True), (phi * phi.flip(-2)).sum(-1))
    assert torch.autograd.gradcheck(lambda t: kernel(t, y).to_dense(), x[0, :2].clone().requires_grad_())


def test_a_process_on_features_nears_that_on_the_kernel():
    X = torch.randn(40, 3)
    data, XS = Data(X, torch.sin(X[:, :1])), torch.randn(20, 3)

    def mean(kernel):
        fitted = Process(kernel, "zero", noise=0.1, steps=0).fit(data, generator=torch.Generator())
        return fitted.posterior(XS).mean

    limit = mean(NetworkKernel(DEEP))
    gaps = [
        torch.stack([(mean(DeepRandomFeatures(DEEP, 3, T, seed=s)) - limit).square().mean() for s in range(10)])
        for T in (64, 1024)
    ]
    assert gaps[1].mean().sqrt() < 0.4 * gaps[0].mean().sqrt()


def test_an_output_scale_is_learned_around_it_and_its_weights_are_held():
    kernel = ScaleKernel(DeepRandomFeatures(DEEP, 2, 30))
    X = torch.randn(50, 2)
    fitted = Process(kernel, "zero", restarts=1).fit(Data(X, 20 * X[:, :1]), generator=torch.Generator())
    assert set(fitted.hyperparameters()) == {"outputscale", "noise"}
    assert fitted.hyperparameters()["outputscale"] > 5


def test_it_serves_an_exact_model_of_gpytorch():
    X, kernel = torch.randn(60, 2), DeepRandomFeatures(DEEP, 2, 20)
    law = gpytorch.distributions.MultivariateNormal(torch.zeros(60), kernel(X).add_diagonal(torch.full((60,), 0.1)))
    K = kernel(X).to_dense() + 0.1 * torch.eye(60)
    y = torch.sin(X[:, 0])
    assert_close(law.log_prob(y), torch.distributions.MultivariateNormal(torch.zeros(60), K).log_prob(y))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DeepRandomFeatures(Dense() >> Relu(), 2, 10), "arch must end in Dense, as .*, got Serial"),
        (lambda: DeepRandomFeatures(Dense(), 2, 10), "arch must end in Dense"),
        (lambda: DeepRandomFeatures(DEEP, 2, 0), "width must be a positive number of units, got 0"),
        (lambda: DeepRandomFeatures(DEEP, 2, 10, weights="sparse"), "got 'sparse'"),
        (lambda: DeepRandomFeatures(DEEP, 2, 10)(torch.ones(4, 3)).to_dense(), r"shape \(2,\) are rows of 2 .*, got 3"),
    ],
)
def test_what_cannot_be_drawn_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
