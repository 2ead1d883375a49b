import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets.conv import Conv
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import diagonal, gram
from kernelfield.nets.points import Points, crossed, paired, size
from kernelfield.nets.pooling import Flatten, GlobalAvgPool
from kernelfield.nets.rectifiers import Relu


def test_points_know_their_axes():
    images = Points(torch.randn(4, 7, 5, 6, 3), 2)
    assert (len(images), images.channels, images.batch) == (7, 3, (4,))
    assert images.columns.shape == (4, 5, 6, 7, 3)
    assert_close(images[2:5].x, images.x[:, 2:5])
    assert [len(p) for p in images.expand(torch.Size((4,)))] == [7] * 4


def test_masks_and_graphs_are_cut_with_their_points():
    x, present = torch.randn(4, 5, 3), torch.rand(4, 5) > 0.5
    points = Points(x, 1, present, torch.rand(4, 5, 5))[1:3]
    assert torch.equal(points.present, present[1:3])
    assert points.graph.shape == (2, 5, 5)


ERRORS = [
    (lambda: Points(torch.randn(4, 5), 2), r"axes \(\.\.\., n, H, W, channels\), got an array of shape \(4, 5\)"),
    (lambda: Points(torch.randn(5)), "must have the axes"),
    (lambda: Points(torch.randn(4, 5, 3), 1, torch.ones(4, 4).bool()), r"shape \(4, 5\), got \(4, 4\)"),
    (lambda: Points(torch.randn(4, 5, 3), 1, torch.ones(4, 5, 1).bool()), "mask must have"),
    (lambda: Points(torch.randn(4, 5, 3), 1, graph=torch.ones(5, 5)), r"shape \(4, 5, 5\), got \(5, 5\)"),
    (lambda: Points(torch.randn(4, 5, 6, 3), 2, graph=torch.ones(4, 5, 5)), "graphs must have"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_masks_and_arrays_that_do_not_match_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


ALIKE, POOLED = Conv((3,)) >> Relu() >> Flatten() >> Dense(), Conv((3,)) >> Relu() >> GlobalAvgPool() >> Dense()
UNLIKE = [
    (gram, ALIKE, (2, 5, 3), (2, 6, 3), "same positions, got 5 positions of 3 channels and 6 positions"),
    (
        gram,
        POOLED,
        (2, 5, 3),
        (2, 5, 2),
        "same channels .* got 5 positions of 3 channels and 5 positions of 2 channels",
    ),
    (
        gram,
        Dense() >> Relu() >> Dense(),
        (2, 3),
        (2, 4),
        "got no positions of 3 channels and no positions of 4 channels",
    ),
    (diagonal, POOLED, (2, 5, 3), (3, 5, 3), "as many on both sides, got 2 and 3"),
]


@pytest.mark.parametrize(("call", "arch", "first", "second", "message"), UNLIKE)
def test_inputs_that_cannot_be_compared_are_named(call, arch, first, second, message):
    x, z = (Points(torch.randn(shape), len(shape) - 2) for shape in (first, second))
    with pytest.raises(ValueError, match=message):
        call(arch, x, z)
    if arch is POOLED and call is gram:  # other sizes are no hindrance where positions are pooled
        assert gram(arch, x, Points(torch.randn(2, 7, 3), 1)).shape == (2, 2)


@pytest.mark.parametrize("space", [0, 1, 2])
@pytest.mark.parametrize("full", [False, True])
def test_haversines_are_those_of_angles(space, full):
    shape = (3, 4)[:space]
    first, second = (Points(torch.randn(2, n, *shape, 5), space) for n in (3, 2))
    e = crossed(first, second, full and space > 0)
    u, v = (p.columns / p.columns.norm(dim=-1, keepdim=True) for p in (first, second))
    letters = {0: "bnc,bmc->bnm", 1: "bxnc,bymc->bxynm", 2: "bxinc,byjmc->bxiyjnm"}[space]
    letters = letters if full or not space else {1: "bxnc,bxmc->bxnm", 2: "bxinc,bximc->bxinm"}[space]
    assert_close(e, (1 - torch.einsum(letters, u, v)) / 2, rtol=1e-10, atol=1e-12)
    n = torch.arange(2)
    assert_close(paired(first[:2], second, full and space > 0)[..., 0], e[..., n, n], rtol=1e-10, atol=1e-12)


def test_haversines_keep_small_angles_and_their_complements():
    """e = sin^2(theta / 2) at angles of which the cosine says nothing in double precision."""
    theta = torch.tensor([0.0, 1e-12, 1e-9, 1e-6, 1e-3])
    circle = torch.stack([theta.cos(), theta.sin()], -1)
    e = crossed(Points(circle[:1]), Points(torch.cat([circle, -circle])), full=False)[0]
    assert_close(e[:5], (theta / 2).sin().square(), rtol=1e-9, atol=0)
    assert_close(1 - e[5:], (theta / 2).sin().square(), rtol=1e-9, atol=1e-16)


def test_the_size_of_nothing_has_no_slope():
    x = torch.zeros(2, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(size(x).sum(), x)
    assert torch.equal(slope, torch.zeros(2, 3))


@pytest.mark.parametrize("last", [GlobalAvgPool(), Flatten()])
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_values_at_missing_positions_do_not_matter(last, kind):
    x, present = torch.randn(3, 5, 6, 2), torch.rand(3, 5, 6) > 0.3
    other = torch.where(present[..., None], x, 100.0)
    arch = Conv((3, 2), 1.3, 0.2) >> Relu() >> Conv((2, 3), 1.2, 0.1, strides=(1, 2)) >> Relu() >> last >> Dense()
    K = gram(arch, Points(x, 2, present), kind=kind)
    assert_close(gram(arch, Points(other, 2, present), kind=kind), K, rtol=1e-14, atol=0)
    assert_close(diagonal(arch, Points(x, 2, present), kind=kind), K.diagonal(), rtol=1e-12, atol=0)
    everything = Points(x, 2, torch.ones_like(present))
    assert_close(gram(arch, everything, kind=kind), gram(arch, Points(x, 2), kind=kind))
