"""Layer normalisation against wide networks, shorter inputs and the law that it removes scales."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets.algebra import Residual
from kernelfield.nets.conv import Conv
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.norm import LayerNorm
from kernelfield.nets.points import Points
from kernelfield.nets.pooling import GlobalAvgPool
from kernelfield.nets.rectifiers import Relu
from tests.laws import agrees_with_wide_networks, has_right_gradients

VECTORS = {
    "post-norm": Dense(1.3, 0.4) >> LayerNorm() >> Relu() >> Dense(1.2),
    "pre-norm": Dense(1.3, 0.4) >> Residual(LayerNorm() >> Dense(1.1) >> Relu() >> Dense(0.8, 0.2)) >> Dense(1.2),
}
IMAGES = {
    "channels": Conv((2, 2), 1.3, 0.3) >> LayerNorm() >> Relu() >> GlobalAvgPool() >> Dense(1.2),
    "whole images": Conv((2, 2), 1.3, 0.3) >> LayerNorm((1, 2, 3)) >> Relu() >> GlobalAvgPool() >> Dense(1.2),
    "rows": Conv((2, 2), 1.3) >> LayerNorm((-3, -1)) >> Relu() >> Conv((2, 2), 1.1) >> GlobalAvgPool() >> Dense(1.2),
}


@pytest.mark.parametrize("arch", VECTORS.values(), ids=VECTORS)
def test_wide_networks_on_vectors(arch):
    agrees_with_wide_networks(arch, Points(torch.randn(3, 3)), width=96, networks=100)


@pytest.mark.parametrize("arch", IMAGES.values(), ids=IMAGES)
def test_wide_networks_on_images(arch):
    agrees_with_wide_networks(arch, Points(torch.randn(3, 2, 3, 2), space=2), width=64, networks=80)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("arch", VECTORS.values(), ids=VECTORS)
def test_gradients_on_vectors(arch, kind):
    has_right_gradients(arch, torch.randn(3, 2), torch.randn(2, 2), kind)


@pytest.mark.slow
@pytest.mark.parametrize("arch", IMAGES.values(), ids=IMAGES)
def test_gradients_on_images(arch):
    has_right_gradients(arch, torch.randn(2, 1, 2, 2), torch.randn(1, 1, 2, 2), "ntk", space=2)


@pytest.mark.parametrize("arch", IMAGES.values(), ids=IMAGES)
def test_gradients_in_scales_and_inputs(arch):
    x, scales = torch.randn(2, 2, 2, 2).requires_grad_(), torch.tensor(arch.scales()).requires_grad_()

    def kernel(x, scales):
        return gram(arch, Points(x, 2), kind="ntk", scales=scales)

    assert torch.autograd.gradcheck(kernel, (x, scales), fast_mode=True)


@pytest.mark.parametrize("axis", [(-1,), (-3, -2, -1)])
def test_gradients_are_finite_where_inputs_meet_or_vanish(axis):
    x = torch.randn(2, 2, 2, 3)
    x = torch.cat([x, x[:1], -x[:1], 0 * x[:1]])
    x[1, 0, 0] = 0
    arch = Conv((2, 2), 1.3) >> LayerNorm(axis) >> Relu() >> GlobalAvgPool() >> Dense(1.2)
    for kind in ("nngp", "ntk"):
        leaf = x.clone().requires_grad_()
        K = gram(arch, Points(leaf, 2), kind=kind)
        assert K.isfinite().all() and (K[-1] == 0).all()
        assert torch.autograd.grad(K.square().sum(), leaf)[0].isfinite().all()


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_the_scale_of_what_is_normalised_does_not_matter(kind):
    x = torch.randn(3, 2, 4, 3)
    arch = Conv((2, 2), 1.3) >> LayerNorm((-3, -2, -1)) >> Relu() >> GlobalAvgPool() >> Dense(1.2)
    scaled = torch.tensor([1.0, 3.0, 0.2]).reshape(3, 1, 1, 1) * x
    first, second = (gram(arch, Points(y, 2), kind=kind) for y in (x, scaled))
    assert_close(first, second, rtol=1e-12, atol=0)


def test_channels_alone_make_all_variances_one():
    K = gram(Dense(2.0, 0.7) >> LayerNorm(), Points(10 * torch.randn(5, 3)))
    assert_close(K.diagonal(), torch.ones(5), rtol=1e-15, atol=0)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("axis", [(-1,), (-2, -1), (1, 2)])
def test_missing_positions_do_not_count(axis, kind):
    arch = Dense(1.3, 0.4) >> LayerNorm(axis) >> Relu() >> GlobalAvgPool() >> Dense(1.2)
    x = torch.randn(3, 5, 2)
    present = torch.tensor([True, False, True, True, False]).expand(3, -1)
    short = Points(x[:, [0, 2, 3]], 1)
    assert_close(gram(arch, Points(x, 1, present), kind=kind), gram(arch, short, kind=kind), rtol=1e-13, atol=0)


def test_axes_are_counted_from_either_end():
    x = Points(torch.randn(3, 2, 4, 3), 2)
    kernels = [
        gram(Conv((2, 2), 1.3, 0.2) >> LayerNorm(axis) >> Relu() >> GlobalAvgPool(), x)
        for axis in ((1, 3), (-3, -1), (3, 1))
    ]
    assert torch.equal(kernels[0], kernels[1]) and torch.equal(kernels[0], kernels[2])


@pytest.mark.parametrize(
    ("axis", "message"), [((), "got"), ((1, -1), "one end"), ((-1, -1), "different"), ((0, 1), "axis 0"), ((-2,), "-1")]
)
def test_axes_that_make_no_sense_are_refused(axis, message):
    with pytest.raises(ValueError, match=message):
        LayerNorm(axis)


@pytest.mark.parametrize("axis", [(1,), (1, 2), (-4, -1), (1, 2, 3, 4)])
def test_axes_of_other_inputs_are_refused(axis):
    with pytest.raises(ValueError, match=r"must have the channels \(-1 or 3\)"):
        gram(Dense() >> LayerNorm(axis) >> GlobalAvgPool(), Points(torch.randn(2, 3, 3, 2), 2))


def test_an_activation_cannot_be_normalised():
    with pytest.raises(ValueError, match="LayerNorm needs a Gaussian layer"):
        gram(Dense() >> Relu() >> LayerNorm() >> Dense(), Points(torch.randn(2, 3)))
