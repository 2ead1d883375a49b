"""Polynomials in the angle, against the kernels of the networks."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets.angle import DEGREES, powers, profile
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import Kind, gram
from kernelfield.nets.points import Points
from kernelfield.nets.rectifiers import LeakyRelu, Relu
from kernelfield.nets.stack import prepared, unrolled


def network(depth: int, b: float | None = None):
    arch = Dense(1.3)
    for i in range(depth):
        arch = arch >> (Relu() if i % 2 == 0 else LeakyRelu(0.3)) >> Dense(1.4, b)
    return arch


def relus(depth: int, dtype: torch.dtype = torch.float64) -> tuple[tuple[str, ...], torch.Tensor]:
    return ("copy", *("fold", "copy") * depth), torch.full((depth,), 1 / math.pi, dtype=dtype)


def horner(coefficients: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    t, total = theta * (2 / math.pi) - 1, torch.zeros_like(theta)
    for c in coefficients.flip(0):
        total = total * t + c
    return total


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("depth", [1, 3, 5, 10])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_polynomial_is_the_kernel(kind: Kind, depth: int, dtype: torch.dtype) -> None:
    """At angles from 0 to pi, through the angle of nearly parallel and nearly opposite vectors too."""
    arch = network(depth)
    spread = torch.cat([torch.tensor([0.0, 1e-6, 1e-3]), torch.linspace(0.1, 3.1, 30), torch.tensor([3.14, math.pi])])
    x = torch.stack([spread.cos(), spread.sin()], 1) * torch.linspace(0.5, 2, len(spread))[:, None]
    stack = prepared(unrolled(arch), Points(x[:1]), Points(x), tangent=kind == "ntk")
    coefficients = powers(stack.program, stack.kappas.to(dtype), tangent=kind == "ntk")
    (u, std1, _), (v, std2, _) = stack.first, stack.second
    theta = 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1)).to(dtype)
    found = std1[0].to(dtype) * std2[:, 0].to(dtype) * horner(coefficients, theta)
    wanted = gram(arch, Points(x[:1]), Points(x), kind=kind)[0]
    ends = wanted / (std1[0] * std2[:, 0])
    error = (found / (std1[0] * std2[:, 0]) - ends).abs().max() / ends.abs().max()
    assert error < {torch.float64: 1e-12, torch.float32: 1e-6}[dtype]


def test_one_layer_is_the_arc_cosine_kernel_of_cho_and_saul() -> None:
    theta = torch.linspace(0.05, 3.1, 40)
    wanted = (theta.sin() + (math.pi - theta) * theta.cos()) / math.pi
    assert_close(profile(theta, *relus(1), tangent=False), wanted)
    assert_close(horner(powers(*relus(1), tangent=False), theta), wanted, rtol=0, atol=1e-13)


def test_slopes_of_learned_rectifiers_are_differentiated() -> None:
    program, kappas = relus(3)
    kappas = (kappas * torch.tensor([1.0, 0.7, 0.3])).requires_grad_()
    theta = torch.linspace(0.1, 3.0, 20)
    weights = torch.randn(20)
    values = horner(powers(program, kappas, tangent=True), theta), profile(theta, program, kappas, tangent=True)
    found, wanted = (torch.autograd.grad((weights * v).sum(), kappas)[0] for v in values)
    assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_depths_share_their_number_of_coefficients() -> None:
    """Or each depth would be compiled anew."""
    lengths = {len(powers(*relus(depth, torch.float32), tangent=True)) for depth in (1, 2, 3, 5, 10)}
    assert lengths == {DEGREES[0] + 1}


def test_biases_are_refused() -> None:
    stack = prepared(unrolled(network(2, 0.3)), Points(torch.randn(2, 3)), None, tangent=True)
    with pytest.raises(ValueError, match="biases"):
        powers(stack.program, stack.kappas, tangent=True)


def test_a_network_too_deep_for_a_polynomial_is_refused() -> None:
    with pytest.raises(ValueError, match="method='tiled'"):
        powers(*relus(60), tangent=True)
