"""Rectifiers and thresholds; their laws are in test_activation."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.rectifiers import ABRelu, Abs, LeakyRelu, Relu, Sign, Step

RECTIFIERS = [Relu(), Abs(), LeakyRelu(0.2), ABRelu(-0.5, 1.2)]


@pytest.mark.parametrize("activation", RECTIFIERS, ids=str)
def test_rectifiers_have_the_kernel_of_cho_and_saul(activation):
    x = torch.randn(5, 3)
    K, T = (gram(Dense() >> activation >> Dense(), Points(x), kind=kind) for kind in ("nngp", "ntk"))
    q = x @ x.mT / 3
    size = (q.diagonal()[:, None] * q.diagonal()).sqrt()
    theta = torch.arccos((q / size).clamp(-1, 1))
    a, b = activation.left, activation.right
    slope = (a**2 + b**2) / 2 - (a - b) ** 2 * theta / (2 * math.pi)
    value = (a - b) ** 2 / (2 * math.pi) * size * theta.sin() + slope * q
    assert_close(K, value, rtol=1e-7, atol=1e-12)  # the arccosine loses half the digits on the diagonal
    assert_close(T, value + slope * q, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("activation", RECTIFIERS, ids=str)
def test_a_rectifier_of_two_slopes_is_one_function(activation):
    u = torch.tensor([-2.0, 0.0, 3.0])
    assert_close(
        activation.phi(u), torch.stack([-2.0 * torch.tensor(activation.left), u[1], 3 * torch.tensor(activation.right)])
    )


def test_thresholds_see_signs():
    u = torch.tensor([-2.0, 0.0, 3.0])
    assert Sign().phi(u).tolist() == [-1.0, 0.0, 1.0]
    assert Step().phi(u).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("activation", "size"), [(Sign(), 1.0), (Step(), 0.5)])
def test_thresholds_keep_their_diagonal_at_any_depth(activation, size, dtype):
    arch = Dense(1.0, 0.3)
    for _ in range(50):
        arch = arch >> activation >> Dense()
    K = gram(arch, Points(torch.randn(4, 3, dtype=dtype)))
    assert_close(K.diagonal(), torch.full((4,), size, dtype=dtype), rtol=1e-6, atol=0)


def test_thresholds_are_silent_at_a_zero_input_without_bias():
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0]], requires_grad=True)
    K = gram(Dense() >> Sign() >> Dense(), Points(x))
    assert_close(K.detach(), torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    assert torch.autograd.grad(K.sum(), x)[0].isfinite().all()
