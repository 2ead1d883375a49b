"""Attention against wide networks, shorter and permuted sequences, and exact copies."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets.algebra import Residual
from kernelfield.nets.attention import MECHANISMS, Attention
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import diagonal, gram
from kernelfield.nets.norm import LayerNorm
from kernelfield.nets.points import Points
from kernelfield.nets.pooling import Flatten, GlobalAvgPool
from kernelfield.nets.rectifiers import Relu
from tests.laws import agrees_with_wide_networks, has_right_gradients

SCALES = (1.2, 0.9, 1.1, 1.3, 0.1)
EMBEDDED = {
    "summed": Attention("softmax", *SCALES, position="sum", w_position=0.7, decay=0.5, positions=(3,)),
    "summed for values": Attention("relu", *SCALES, position="sum", position_values=True, positions=(3,)),
    "beside": Attention("abs", *SCALES, position="concat", w_position=1.5, widths=(2, 1), power=1, positions=(3,)),
    "beside values": Attention("softmax", *SCALES, position="concat", decay=0.3, position_values=True, positions=(3,)),
}
LAYERS = {name: Attention(name, *SCALES, heads=2) for name in MECHANISMS} | EMBEDDED


def behind(layer: Attention):
    """A network whose kernel depends on all that the layer does."""
    return Dense(1.3, 0.2) >> Relu() >> layer >> Relu() >> GlobalAvgPool() >> Dense(1.2)


TRANSFORMER = (
    Dense(1.2, 0.1)
    >> Residual(LayerNorm() >> Attention("softmax", *SCALES))
    >> Residual(LayerNorm() >> Dense(1.4, 0.1) >> Relu() >> Dense(1.1, 0.1))
    >> Residual(LayerNorm() >> Attention("relu", *SCALES))
    >> GlobalAvgPool()
    >> Dense(1.2)
)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_wide_networks_have_the_nngp_and_ntk(layer):
    agrees_with_wide_networks(behind(layer), Points(torch.randn(2, 3, 3), 1), width=96, networks=50)


def test_wide_transformers_have_the_nngp_and_ntk():
    agrees_with_wide_networks(TRANSFORMER, Points(torch.randn(2, 3, 3), 1), width=96, networks=50)


@pytest.mark.parametrize(
    "layer",
    [
        Attention("softmax", *SCALES, position="sum", w_position=0.8, decay=0.4, positions=(2, 2)),
        Attention("relu", *SCALES),
    ],
    ids=["embedded", "plain"],
)
def test_wide_networks_on_images(layer):
    agrees_with_wide_networks(behind(layer), Points(torch.randn(2, 2, 2, 3), 2), width=96, networks=50)


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_gradients_of_squares_pairs_and_diagonals(layer):
    has_right_gradients(behind(layer), torch.randn(2, 2, 2), torch.randn(1, 2, 2), "ntk", space=1)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_gradients_in_scales_and_inputs(layer):
    x, scales = torch.randn(2, 3, 2).requires_grad_(), torch.tensor(behind(layer).scales()).requires_grad_()

    def kernel(x, scales):
        return gram(behind(layer), Points(x, 1), kind="ntk", scales=scales)

    assert torch.autograd.gradcheck(kernel, (x, scales), fast_mode=True)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_gradients_are_finite_where_positions_meet_or_vanish(layer):
    x = torch.randn(4, 3, 2)
    x[1], x[2], x[3] = x[0], -x[0], 0
    x[0, 1] = x[0, 0]
    for kind in ("nngp", "ntk"):
        leaf = x.clone().requires_grad_()
        K = gram(Dense(1.3) >> Relu() >> layer >> Relu() >> Flatten() >> Dense(), Points(leaf, 1), kind=kind)
        assert K.isfinite().all()
        assert torch.autograd.grad(K.square().sum(), leaf)[0].isfinite().all()


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_missing_positions_are_left_out(layer):
    x, y = torch.randn(3, 5, 2), torch.randn(2, 3, 2)
    present = torch.tensor([True, True, True, False, False]).expand(3, -1)
    padded, short = Points(x, 1, present), Points(x[:, :3], 1)
    for other in (None, Points(y, 1)):
        found, expect = (gram(behind(layer), p, other, kind="ntk") for p in (padded, short))
        assert_close(found, expect, rtol=1e-12, atol=0)


def test_a_sequence_without_positions_has_a_finite_kernel():
    present = torch.tensor([[True, True], [False, False]])
    x = torch.randn(2, 2, 3).requires_grad_()
    K = gram(behind(LAYERS["softmax"]), Points(x, 1, present), kind="ntk")
    assert K.isfinite().all() and K[1, 1] == 0
    assert torch.autograd.grad(K.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_without_embeddings_the_order_of_positions_does_not_matter(kind):
    x, y = torch.randn(3, 2, 2, 3), torch.randn(2, 4, 3)
    arch = behind(Attention("softmax", *SCALES))
    images = gram(arch, Points(x, 2), kind=kind)
    sequences = Points(x.flatten(1, 2)[:, [2, 0, 3, 1]], 1)
    assert_close(gram(arch, sequences, kind=kind), images, rtol=1e-12, atol=0)
    found, expect = (gram(arch, p, Points(y, 1), kind=kind) for p in (sequences, Points(x.flatten(1, 2), 1)))
    assert_close(found, expect, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("arch", [behind(LAYERS["identity"]), TRANSFORMER], ids=["identity", "transformer"])
def test_the_diagonal_and_a_copy_are_those_of_the_matrix(arch, kind):
    x = torch.randn(3, 4, 2)
    K = gram(arch, Points(x, 1), kind=kind)
    assert_close(diagonal(arch, Points(x, 1), kind=kind), K.diagonal(), rtol=1e-13, atol=0)
    assert_close(gram(arch, Points(x, 1), Points(x.clone(), 1), kind=kind), K, rtol=1e-13, atol=0)


def test_vanishing_scores_average_all_positions():
    """softmax(0) is a mean: attention then is pooling and a repetition, with weights of its own."""
    x = Points(torch.randn(3, 4, 2), 1)
    attended = Dense(1.3) >> Relu() >> Attention("softmax", w_key=0.0, w_value=1.1, w_out=0.9) >> GlobalAvgPool()
    pooled = Dense(1.3) >> Relu() >> GlobalAvgPool() >> Dense(1.1) >> Dense(0.9)
    for kind in ("nngp", "ntk"):
        assert_close(gram(attended, x, kind=kind), gram(pooled, x, kind=kind), rtol=1e-12, atol=0)


def test_scales_without_a_meaning_are_not_learned():
    assert Attention().scales() == [1.0] * 4
    embedded = Attention(b=0.2, position="sum", decay=0.5)
    assert embedded.scales() == [1.0] * 4 + [0.2, 1.0, 0.5]
    assert embedded.rebuild(iter(embedded.scales())) == embedded


def test_unknown_words_are_named():
    with pytest.raises(ValueError, match="'softmax', 'identity', 'relu', 'abs', got 'SOFTMAX'"):
        Attention("SOFTMAX")
    with pytest.raises(ValueError, match="'none', 'sum', 'concat', got 'rotary'"):
        Attention(position="rotary")
    with pytest.raises(ValueError, match="power of 1 or 2, got 3"):
        Attention(position="sum", decay=1.0, power=3)
    with pytest.raises(ValueError, match="need positional embeddings"):
        Attention(w_position=0.7)
    with pytest.raises(ValueError, match="must be finite and not negative, got -1.0"):
        Attention(w_key=-1.0)


def test_embeddings_decay_with_the_sum_of_distances_along_axes():
    """With bare embeddings as values, and weights that average, images of zeros have the mean of R."""
    arch = Attention(w_key=0.0, position="sum", w_position=1.5, decay=0.4, position_values=True) >> GlobalAvgPool()
    place = [(i, j) for i in range(2) for j in range(3)]
    R = torch.tensor([[-0.4 * ((i - p) ** 2 + (j - q) ** 2) for p, q in place] for i, j in place]).exp()
    x = Points(torch.zeros(1, 2, 3, 1), 2)
    assert_close(gram(arch, x)[0, 0], 1.5**2 * R.mean(), rtol=1e-13, atol=0)
    # The NTK counts embeddings, values and outputs, each linear.
    assert_close(gram(arch, x, kind="ntk")[0, 0], 3 * 1.5**2 * R.mean(), rtol=1e-13, atol=0)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="Attention combines positions"):
        gram(Dense() >> Attention() >> Dense(), Points(torch.randn(2, 3)))
    with pytest.raises(ValueError, match=r"positions=\(7,\)"):
        Attention(position="sum").module(3, 8, 1)
