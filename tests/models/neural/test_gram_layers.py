import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence
from torch.testing import assert_close

from kernelfield.models.neural.gram_layers import Gram, Whitened, divergence, dual, linear, squared_exponential
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.smooth import Erf


def grams(M=5, n=4, joint=True):
    Z, X, weights = torch.randn(M, 3), torch.randn(n, 3), torch.rand(3) + 0.5
    return Z, X, weights, Gram.of_inputs(Z, X, weights, joint=joint)


def triangle(M):
    return torch.randn(M, M).tril(-1) + torch.diag(0.5 + torch.rand(M))


def test_the_grams_of_inputs_are_weighted_inner_products_over_their_number():
    Z, X, weights, G = grams()
    A = torch.cat([Z, X])
    full = A @ torch.diag(weights) @ A.mT / 3
    assert_close(G.inducing, full[:5, :5])
    assert_close(G.cross, full[:5, 5:])
    assert_close(G.joint, full[5:, 5:])
    assert_close(G.own, full[5:, 5:].diagonal())


@pytest.mark.parametrize("activation", [Relu(), Erf()])
def test_the_kernel_of_an_activation_is_that_of_a_wide_layer(activation):
    Z, X, _, _ = grams()
    A = torch.cat([Z, X])
    expect = gram(Dense(1.0) >> activation >> Dense(1.0), Points(A))
    one = gram(Dense(1.0) >> activation >> Dense(1.0), Points(torch.ones(1, 1)))  # E[phi(z)^2]
    K = Gram.of_inputs(Z, X, torch.ones(3), joint=True).through(dual(activation))
    assert_close(torch.cat([torch.cat([K.inducing, K.cross], 1), torch.cat([K.cross.mT, K.joint], 1)]), expect / one)
    assert_close(K.own, expect.diagonal()[5:] / one[0, 0])


def test_the_squared_exponential_of_inner_products_is_that_of_distances():
    Z, X, weights, G = grams()
    gap = (Z[:, None] - X) * (weights / 3).sqrt()
    assert_close(G.through(squared_exponential).cross, torch.exp(-0.5 * gap.square().sum(-1)))
    assert_close(G.through(squared_exponential).own, torch.ones(4))


def test_learned_features_have_the_joint_law_of_the_conditional_prior():
    """With u ~ N(0, G_ii) and f | u from the prior K, f has the covariance that is claimed."""
    _, _, _, G = grams(n=4)
    K, V = G.through(squared_exponential), triangle(5)
    white = Whitened.of(K, 0.0)
    after = white.learned(V)
    G_ii = white.factor @ V @ V.mT @ white.factor.mT
    gain = torch.linalg.solve(K.inducing, K.cross).mT
    assert_close(after.inducing, G_ii)
    assert_close(after.cross, G_ii @ gain.mT)
    expect = K.joint - gain @ K.cross + gain @ G_ii @ gain.mT
    assert_close(after.joint, expect, atol=1e-9, rtol=1e-9)
    assert_close(after.own, expect.diagonal(), atol=1e-9, rtol=1e-9)


def test_an_identity_leaves_the_kernel_as_it_is():
    _, _, _, G = grams()
    K = G.through(linear)
    K = Gram(K.inducing + torch.eye(5), K.cross, K.own + 5, K.joint + 5 * torch.eye(4))
    after = Whitened.of(K, 0.0).learned(torch.eye(5))
    for name in ("inducing", "cross", "own", "joint"):
        assert_close(getattr(after, name), getattr(K, name))


def test_the_divergence_is_that_of_the_gaussians():
    _, _, _, G = grams()
    factor, V = Whitened.of(G.through(squared_exponential), 0.0).factor, triangle(5)
    zero = torch.zeros(5)
    expect = kl_divergence(MultivariateNormal(zero, scale_tril=factor @ V), MultivariateNormal(zero, scale_tril=factor))
    assert_close(divergence(V), expect)
