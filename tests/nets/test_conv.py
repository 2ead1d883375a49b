import itertools

import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets.algebra import Residual
from kernelfield.nets.conv import Conv, ConvLocal, ConvTranspose
from kernelfield.nets.convert import from_torch
from kernelfield.nets.dense import Dense, Dropout
from kernelfield.nets.gram import diagonal, gram
from kernelfield.nets.points import Points
from kernelfield.nets.pooling import AvgPool, Flatten, GlobalAvgPool, GlobalSumPool
from kernelfield.nets.rectifiers import Relu
from tests.laws import agrees_with_wide_networks, has_right_gradients

PADDINGS = ("SAME", "VALID", "CIRCULAR")
IMAGES = {
    "one layer": Conv((3, 3), 1.3, 0.2) >> Relu() >> GlobalAvgPool() >> Dense(),
    "even window and strides": Conv((2, 3), 1.3, 0.2, strides=(1, 2)) >> Relu() >> Conv((2, 2), 1.2) >> GlobalSumPool(),
    "valid": Conv((3, 2), 1.3, 0.2, "VALID", strides=2) >> Relu() >> Flatten() >> Dense(1.1, 0.3),
    "circular": Conv((3, 4), 1.3, 0.2, "CIRCULAR", strides=(2, 1))
    >> Relu()
    >> Conv((1, 3), 1.2)
    >> Flatten()
    >> Dense(),
    "transposed": ConvTranspose((3, 2), 1.3, 0.2, strides=(2, 3)) >> Relu() >> GlobalAvgPool() >> Dense(),
    "transposed valid": ConvTranspose((3, 4), 1.3, 0.2, "VALID", 2) >> Relu() >> Conv((2, 2)) >> Flatten() >> Dense(),
    "transposed circular": ConvTranspose((4, 3), 1.3, 0.2, "CIRCULAR", 2) >> Relu() >> GlobalAvgPool() >> Dense(),
    "local": ConvLocal((3, 3), 1.3, 0.2) >> Relu() >> Conv((2, 2), 1.2, 0.1) >> GlobalAvgPool() >> Dense(),
    "local strided": ConvLocal((2, 3), 1.3, 0.2, "VALID", (1, 2)) >> Relu() >> Flatten() >> Dense(),
    "pooled between": Conv((2, 2), 1.3, 0.2)
    >> Relu()
    >> AvgPool((2, 2))
    >> Conv((2, 2), 1.2)
    >> Relu()
    >> Flatten()
    >> Dense(),
    "residual": Conv((2, 2), 1.3) >> Residual(Relu() >> Conv((3, 3), 1.2, 0.1)) >> Relu() >> GlobalAvgPool() >> Dense(),
}
SEQUENCES = {
    "strided": Conv((3,), 1.3, 0.2, strides=2) >> Relu() >> Conv((2,), 1.2) >> GlobalAvgPool(),
    "circular": Conv((4,), 1.3, 0.2, "CIRCULAR") >> Relu() >> Flatten() >> Dense(),
    "transposed": ConvTranspose((3,), 1.3, 0.2, strides=2) >> Relu() >> Conv((3,)) >> GlobalAvgPool(),
    "local": ConvLocal((3,), 1.3, 0.2) >> Relu() >> GlobalSumPool() >> Dense(),
    "pooled between": Conv((3,), 1.3)
    >> Relu()
    >> AvgPool((2,), 1, "SAME")
    >> Dense(1.1, 0.3)
    >> Relu()
    >> GlobalAvgPool(),
}
ALL = [(arch, 2) for arch in IMAGES.values()] + [(arch, 1) for arch in SEQUENCES.values()]
NAMES = [f"images, {name}" for name in IMAGES] + [f"sequences, {name}" for name in SEQUENCES]


def inputs(space, n=3, c=2, size=None):
    return torch.randn(n, *(size or (4, 5)[:space]), c)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "space"), ALL, ids=NAMES)
def test_wide_networks_have_the_kernel(arch, space):
    agrees_with_wide_networks(arch, Points(inputs(space), space), width=100, networks=200)


def test_sides_that_are_widened_have_the_tangent_kernel_of_autograd():
    arch = Conv((2, 2), 1.2, 0.1, width=100, scaling=(1, 3)) >> Relu() >> Conv((2, 1), 1.2, width=100, scaling=(3, 2))
    arch = arch >> Relu() >> Flatten() >> Dense()
    agrees_with_wide_networks(arch, Points(inputs(2), 2), width=100, networks=200)
    network, _ = arch.module(2, 8, 1)
    network(inputs(2))  # draws the weights behind Flatten
    assert [step.scaling[0] for step in from_torch(network).steps[:3:2]] == [1, 3]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize(("arch", "space"), ALL, ids=NAMES)
def test_slopes_are_those_of_differences(arch, space, kind):
    x, y = inputs(space, 2, 1, (3, 3)[:space]), inputs(space, 1, 1, (3, 3)[:space])
    has_right_gradients(arch, x, y, kind, space=space)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize(("arch", "space"), ALL, ids=NAMES)
def test_slopes_are_finite_at_equal_and_at_zero_images(arch, space, kind):
    x = inputs(space)
    x = torch.stack([x[0], x[0], -x[0], torch.zeros_like(x[0]), 2 * x[0]]).requires_grad_()
    scales = torch.tensor(arch.scales(), requires_grad=True)
    K = gram(arch, Points(x, space), kind=kind, scales=scales)
    assert K.isfinite().all()
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(K.sum(), (x, scales)))


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize(("arch", "space"), ALL, ids=NAMES)
def test_diagonals_are_those_of_the_matrix_in_single_precision_too(arch, space, kind):
    x = inputs(space)
    K = gram(arch, Points(x, space), kind=kind)
    assert_close(diagonal(arch, Points(x, space), kind=kind), K.diagonal(), rtol=1e-12, atol=0)
    single = gram(arch, Points(x.float(), space), kind=kind)
    assert_close(single.diagonal().double(), K.diagonal(), rtol=3e-6, atol=0)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (2, 1), (3, 2), (4, 3), (2, 3)])
@pytest.mark.parametrize("layer", [Conv, ConvTranspose])
def test_the_kernel_of_a_linear_network_is_that_of_its_filters(layer, window, stride, padding):
    """A filter bank that holds each weight alone gives K = w^2 / s sum_t x(t) y(t) + b^2 at all positions."""
    length, arch = 5, layer((window,), 1.3, 0.2, padding, stride)
    x, y = torch.randn(1, length, 1), torch.randn(1, length, 1)
    bank, _ = arch.module(1, 1, window)
    with torch.no_grad():
        bank.weight.copy_(torch.eye(window) * bank.gains[0] ** -1)
        bank.bias.zero_()
    f, g = bank(x)[0], bank(y)[0]
    covariances = 1.3**2 / window * f @ g.mT + 0.2**2
    points = Points(x, 1), Points(y, 1)
    assert_close(gram(arch >> GlobalSumPool(), *points)[0, 0], covariances.sum())
    assert_close(gram(arch >> Flatten(), *points)[0, 0], covariances.diagonal().mean())
    assert_close(gram(arch >> GlobalSumPool(), *points, kind="ntk")[0, 0], covariances.sum())


def test_circular_filters_do_not_see_where_an_image_begins():
    arch = Conv((3, 2), 1.3, 0.2, "CIRCULAR") >> Relu() >> Conv((3, 3), padding="CIRCULAR") >> Relu() >> GlobalAvgPool()
    x, y = inputs(2), inputs(2)
    rolled = Points(x.roll((1, 2), (1, 2)), 2)
    for kind in ("nngp", "ntk"):
        assert_close(gram(arch, rolled, Points(y, 2), kind=kind), gram(arch, Points(x, 2), Points(y, 2), kind=kind))


def test_different_places_of_a_local_layer_are_uncorrelated():
    arch, x = ConvLocal((3,), 1.3, 0.2) >> GlobalSumPool(), Points(inputs(1), 1)
    assert_close(gram(arch, x), 4 * gram(ConvLocal((3,), 1.3, 0.2) >> Flatten(), x))


def test_pooling_takes_images_of_two_sizes_and_flattening_does_not():
    first, second = Points(inputs(2), 2), Points(inputs(2, size=(6, 3)), 2)
    layers = Conv((3, 3)) >> Relu() >> Conv((2, 2), strides=2)
    K = gram(layers >> GlobalAvgPool(), first, second, kind="ntk")
    assert_close(K, gram(layers >> GlobalAvgPool(), second, first, kind="ntk").mT)
    with pytest.raises(ValueError, match=r"sizes \(2, 3\) and \(3, 2\)"):
        gram(Conv((3, 3)) >> AvgPool((1, 1), 2) >> Flatten(), first, second)


def test_three_axes_are_a_batch_of_images_where_the_window_is_flat():
    x = torch.randn(2, 2, 3, 4, 1)
    arch = Conv((1, 2, 3), 1.3, 0.2) >> Relu() >> Flatten()
    images = Conv((2, 3), 1.3, 0.2) >> Relu() >> Flatten()
    slices = [gram(images, Points(x[:, d], 2), kind="ntk") for d in range(2)]
    assert_close(gram(arch, Points(x, 3), kind="ntk"), (slices[0] + slices[1]) / 2)
    assert arch.module(1, 8, 1)[0](x).shape == (2, 24)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_coincident_patches_stay_so_at_any_depth_in_single_precision(kind):
    x = torch.randn(1, 4, 4, 3)
    layers = Conv((3, 3), 2**0.5, 0.1) >> Relu()
    arch = layers
    for _ in range(30):
        arch = arch >> layers
    arch = arch >> Flatten() >> Dense()
    exact = gram(arch, Points(x, 2), kind=kind)
    assert_close(gram(arch, Points(x.float(), 2), kind=kind).double(), exact, rtol=1e-5, atol=0)


def test_standard_parameterisation_is_that_of_its_filters():
    """T' = s c / s_in mean K + w^2 mean T + 1 for each position, here with T = 0."""
    x = torch.randn(2, 5, 3)
    arch = Conv((3,), 1.3, 0.2, width=7, scaling=(2, 1)) >> Flatten()
    plain = gram(Conv((3,)) >> Flatten(), Points(x, 1))
    assert_close(gram(arch, Points(x, 1), kind="ntk"), 3 * 3 / 2 * plain + 1)
    with pytest.raises(ValueError, match="needs a width"):
        gram(Conv((3,)) >> Relu() >> arch, Points(x, 1), kind="ntk")


def test_dropout_on_images_keeps_other_positions_apart():
    """Two positions of one image lose different channels: only variances grow."""
    x = Points(inputs(2), 2)
    arch = Conv((3, 3)) >> Relu() >> Dropout(0.5) >> GlobalSumPool()
    plain = Conv((3, 3)) >> Relu() >> GlobalSumPool()
    flat = Conv((3, 3)) >> Relu() >> Flatten()
    more = 20 * gram(flat, x).diagonal().diag()
    assert_close(gram(arch, x), gram(plain, x) + more)


ERRORS = [
    (lambda: Conv((3, 3), padding="REFLECT"), "padding must be"),
    (lambda: Conv((3, 0)), "positive integers"),
    (lambda: Conv(3), "one size for each position axis"),  # type: ignore[arg-type]
    (lambda: Conv((3, 3), strides=(1, 1, 1)), "2 strides"),
    (lambda: Conv((3, 3), strides=0), "positive integers"),
    (lambda: Conv((3, 3), -1.0), "must be finite and not negative"),
    (lambda: gram(Conv((3, 3)) >> Flatten(), Points(torch.randn(2, 5))), "2 position axes"),
    (lambda: gram(Conv((3, 3)) >> Flatten(), Points(torch.randn(2, 5, 1), 1)), r"Points\(x, space=2\)"),
    (lambda: gram(ConvTranspose((3,)) >> Flatten(), Points(torch.randn(2, 5))), r"Points\(x, space=1\)"),
    (lambda: gram(Conv((3, 6), padding="VALID") >> Flatten(), Points(inputs(2), 2)), "larger than its input"),
    (lambda: gram(Conv((3, 3)) >> Relu(), Points(inputs(2), 2)), "ends with positions"),
    (lambda: Conv((1, 1, 1, 1)).module(1, 1, 1), "up to three"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_windows_lie_where_padded_arrays_have_them():
    """The places of every tap, against a row of numbers with its padding written out."""
    for size, window, stride, padding in itertools.product((3, 5, 6), (1, 2, 3, 4), (1, 2, 3), PADDINGS):
        if padding == "VALID" and window > size:
            continue
        bank, _ = Conv((window,), 1.0, None, padding, stride).module(1, 1, window)
        with torch.no_grad():
            bank.weight.copy_(torch.eye(window) * bank.gains[0] ** -1)
        row = torch.arange(1.0, size + 1)
        count = -(-(size - window + 1) // stride) if padding == "VALID" else -(-size // stride)
        low = 0 if padding == "VALID" else max(0, (count - 1) * stride + window - size) // 2
        wide = torch.cat([row, row, row] if padding == "CIRCULAR" else [0 * row, row, 0 * row])
        expect = torch.stack([wide[size - low + o * stride :][:window] for o in range(count)])
        assert_close(bank(row[None, :, None])[0], expect)
