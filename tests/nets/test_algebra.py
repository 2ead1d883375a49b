"""One architecture, three readings: its kernel, finite networks and scales agree."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets.algebra import Concat, Identity, Product, Repeat, Residual, Scale
from kernelfield.nets.dense import Dense, Dropout
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.rectifiers import ABRelu, Abs, LeakyRelu, Relu
from tests.laws import agrees_with_wide_networks, has_right_gradients

DEEP = Dense(w=1.4, b=0.3) >> Relu() >> Dense(w=1.4, b=0.3) >> Relu() >> Dense(w=1.2)
ARCHS = {
    "linear": Dense(w=1.3, b=0.2),
    "deep": DEEP,
    "one scale an input": Dense(w=(1.2, 0.7, 0.9), b=0.3) >> Relu() >> Dense(w=1.1),
    "residual": Dense(w=1.4) >> Residual(Relu() >> Dense(w=1.1, b=0.2)) >> Abs() >> Dense(w=1.2),
    "projected": Dense(1.4) >> Residual(Relu() >> Dense(1.1), skip=Dense(0.8, 0.1)) >> LeakyRelu(0.2) >> Dense(1.2),
    "concatenated": Concat((Dense(1.2, 0.3) >> Relu(), Dense(0.7, 0.1) >> Abs()), (2, 3)) >> Dense(1.3),
    "gated": Product((Dense(1.2, 0.3) >> Relu(), Dense(0.7, 0.1))) >> Dense(1.3),
    "repeated": Dense(1.2) >> Repeat(Residual(Relu() >> Dense(1.1, 0.2) >> Scale(0.5)), 3) >> Dense(1.1),
    "dropped": Dense(1.2, 0.1) >> Relu() >> Dropout(0.8) >> Dense(1.3),
    "two slopes": Dense(1.2) >> ABRelu(-0.5, 1.2) >> Dense(1.1),
}


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_wide_networks_have_the_nngp_and_ntk(arch):
    agrees_with_wide_networks(arch, Points(torch.randn(4, 3)))


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_gradients_in_scales_and_inputs(arch, kind):
    has_right_gradients(arch, torch.randn(5, 3), torch.randn(4, 3), kind)


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_gradients_are_finite_where_inputs_meet(arch):
    x = torch.randn(3, 3)
    x = torch.cat([x, x[:1], -x[:1], 2 * x[:1], torch.zeros(1, 3)]).requires_grad_()
    scales = torch.tensor(arch.scales()).requires_grad_()
    for kind in ("nngp", "ntk"):
        for other in (None, Points(x.detach())):
            K = gram(arch, Points(x), other, kind=kind, scales=scales)
            for gradient in torch.autograd.grad(K.square().sum(), (x, scales)):
                assert gradient.isfinite().all()


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_scales_and_rebuild_are_inverse(arch):
    assert arch.rebuild(iter(arch.scales())) == arch


def test_scales_are_positive_floats_depth_first():
    arch = Dense(w=1.4, b=0.0) >> Residual(ABRelu(-0.5, 2.0) >> Dense(w=1, b=0.2))
    assert arch.scales() == [1.4, 2.0, 0.2]  # a zero is off, an integer is structure


def test_a_repeated_block_shares_its_scales():
    block = Relu() >> Dense(1.1, 0.2)
    shared, written_out = Dense(1.3) >> Repeat(block, 3), Dense(1.3) >> block >> block >> block
    assert len(shared.scales()) == 3 and len(written_out.scales()) == 7
    x = Points(torch.randn(4, 3))
    for kind in ("nngp", "ntk"):
        assert torch.equal(gram(shared, x, kind=kind), gram(written_out, x, kind=kind))


def test_the_sum_of_one_branch_is_the_branch():
    x = Points(torch.randn(4, 3))
    for kind in ("nngp", "ntk"):
        once = gram(Dense(1.3, 0.2) >> Residual(Relu() >> Dense(1e-9)), x, kind=kind)
        assert_close(once, gram(Dense(1.3, 0.2) >> Identity(), x, kind=kind), rtol=1e-12, atol=0)


def test_a_width_scales_the_standard_parameterisation():
    x = torch.randn(3, 5)
    narrow, wide = (gram(_standard(width), Points(x), kind="ntk") for width in (64, 128))
    # Readout gradients grow with the width, so all but the input layer's share doubles.
    assert (wide / narrow > 1.5).all()
    assert torch.equal(*(gram(_standard(width), Points(x)) for width in (64, 128)))


def _standard(width):
    return Dense(1.4, 0.1, width) >> Relu() >> Dense(1.4, 0.1, width) >> Relu() >> Dense(1.0, None, 1)


def test_the_standard_parameterisation_agrees_with_autograd():
    agrees_with_wide_networks(_standard(256), Points(torch.randn(4, 3)), width=256)


def test_sides_that_are_widened_have_the_tangent_kernel_of_autograd():
    hidden = Dense(1.2, 0.1, 256, (1, 3)) >> Relu() >> Dense(1.3, None, 256, (3, 2)) >> Relu()
    agrees_with_wide_networks(hidden >> Dense(1.0, 0.1, 1, (2, 1)), Points(torch.randn(4, 3)), width=256)


@pytest.mark.parametrize("after", [Relu, 3])
def test_only_layers_follow_layers(after):
    with pytest.raises(TypeError, match=r"write Relu\(\)" if after is Relu else "got 3"):
        Dense() >> after


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dense(math.inf), "must be finite and not negative, got inf"),
        (lambda: Repeat(Dense(), -1), "zero or more, got -1"),
        (lambda: Product(()), "a Product needs at least one branch"),
        (lambda: Concat(()), "a Concat needs at least one branch"),
        (lambda: Dense(-1.0), "not negative, got -1.0"),
        (lambda: Dense(1.0, -0.5), "not negative, got -0.5"),
        (lambda: Dense((1.0, -2.0)), "not negative, got -2.0"),
        (lambda: Dropout(1.5), "probability between 0 and 1, got 1.5"),
        (lambda: Concat((Dense(), Dense()), (1,)), "2 branches need as many widths"),
        (lambda: gram(Dense(), Points(torch.ones(2, 3)), kind="cnn"), "kind must be 'nngp' or 'ntk', got 'cnn'"),
        (lambda: _evaluated(Dense() >> Relu() >> Relu()), "Relu needs a Gaussian layer"),
        (
            lambda: _evaluated(Dense() >> Residual(Product((Dense(), Dense())))),
            "branch of a Residual must end in Dense",
        ),
        (lambda: _evaluated(Dense() >> Relu() >> Dense((1.0, 1.0, 1.0))), "only possible on the first layer"),
        (lambda: _evaluated(Dense((1.0, 2.0)) >> Relu()), "3 channels, but w has 2 scales"),
        (lambda: _evaluated(Dense() >> Relu() >> Dense(width=4)), "the layer before it needs a width"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _evaluated(arch):
    return gram(arch, Points(torch.ones(2, 3)), kind="ntk")
