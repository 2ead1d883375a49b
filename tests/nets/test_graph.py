"""Sums over graphs against the same sums of inputs, and wide networks."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kernelfield.nets.conv import Conv
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import diagonal, gram
from kernelfield.nets.graph import GraphAggregate, attach
from kernelfield.nets.points import Points
from kernelfield.nets.pooling import Flatten, GlobalAvgPool
from kernelfield.nets.rectifiers import Relu
from tests.laws import agrees_with_wide_networks

REST = Relu() >> Dense(1.2, 0.2) >> Relu() >> GlobalAvgPool() >> Dense(1.1)
ONCE = GraphAggregate() >> Dense(1.1)
TWICE = Dense(1.4, 0.3) >> Relu() >> ONCE >> Relu() >> ONCE >> REST


@pytest.fixture
def points() -> Points:
    return Points(torch.randn(3, 4, 2), 1, graph=torch.randn(3, 4, 4))


def test_wide_networks_have_the_nngp_and_ntk(points):
    agrees_with_wide_networks(TWICE, points, width=96, networks=80)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("rest", [REST, Relu() >> Flatten() >> Dense(1.1)], ids=["pooled", "flat"])
def test_sums_behind_a_linear_layer_are_sums_of_inputs(points, rest, kind):
    other = Points(torch.randn(2, 4, 2), 1, graph=torch.randn(2, 4, 4))
    summed = [Points(p.graph.mT @ p.x, 1) for p in (points, other)]
    behind, before = Dense(1.3) >> GraphAggregate() >> rest, Dense(1.3) >> rest
    assert_close(gram(behind, points, other, kind=kind), gram(before, *summed, kind=kind), rtol=1e-12, atol=1e-13)
    assert_close(gram(behind, points, kind=kind), gram(before, summed[0], kind=kind), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_the_diagonal_and_a_copy_are_those_of_the_matrix(points, kind):
    K = gram(TWICE, points, kind=kind)
    copy = Points(points.x.clone(), 1, graph=points.graph)
    assert_close(diagonal(TWICE, points, kind=kind), K.diagonal(), rtol=1e-13, atol=0)
    assert_close(gram(TWICE, points, copy, kind=kind), K, rtol=1e-13, atol=0)
    assert_close(gram(TWICE, points[:1], points[1:2], kind=kind), K[:1, 1:2], rtol=1e-13, atol=0)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_gradients_in_scales_and_inputs(points, kind):
    graph, scales = points.graph[:2, :3, :3], torch.tensor(TWICE.scales())

    def square(x, scales):
        return gram(TWICE, Points(x, 1, graph=graph), kind=kind, scales=scales)

    def crossed(x, scales):
        return gram(TWICE, Points(x, 1, graph=graph), Points(y, 1, graph=graph.flip(0)), kind=kind, scales=scales)

    x, y = torch.randn(2, 3, 2), torch.randn(2, 3, 2)
    for kernel in (square, crossed):
        assert torch.autograd.gradcheck(kernel, (x.requires_grad_(), scales.requires_grad_()), fast_mode=True)


def test_gradients_are_finite_where_nodes_meet_or_vanish(points):
    x, graph = points.x.clone(), points.graph.clone()
    x[1] = x[0]
    x[2, :2] = 0
    graph[1] = graph[0]
    graph[2, :, 3] = 0
    for kind in ("nngp", "ntk"):
        leaf = x.clone().requires_grad_()
        K = gram(TWICE, Points(leaf, 1, graph=graph), kind=kind)
        assert torch.equal(K[0, 0], K[1, 1]) and K.isfinite().all()
        assert torch.autograd.grad(K.square().sum(), leaf)[0].isfinite().all()


def test_missing_nodes_are_left_out(points):
    present = torch.tensor([True, True, False, True]).expand(3, -1)
    keep = [0, 1, 3]
    small = Points(points.x[:, keep], 1, graph=points.graph[:, keep][:, :, keep])
    whole = Points(points.x, 1, present, points.graph)
    for kind in ("nngp", "ntk"):
        assert_close(gram(TWICE, whole, kind=kind), gram(TWICE, small, kind=kind), rtol=1e-12, atol=1e-13)


def test_a_missing_graph_is_refused():
    with pytest.raises(ValueError, match=r"Points\(x, space=1, graph=A\)"):
        gram(TWICE, Points(torch.randn(2, 4, 2), 1))
    network, _ = TWICE.module(2, 8, 1)
    with pytest.raises(ValueError, match=r"attach\(module, graph\)"):
        network(torch.randn(2, 4, 2))


def test_graphs_of_other_nodes_are_refused(points):
    with pytest.raises(ValueError, match=r"4 nodes, but the positions \(3,\)"):
        gram(Conv((2,), padding="VALID") >> GraphAggregate() >> REST, points)


def test_attach_reaches_all_graph_layers(points):
    network = nn.Sequential(*(GraphAggregate().module(2, 2, 2)[0] for _ in range(2)))
    attach(network, points.graph)
    assert_close(network(points.x), points.graph.mT @ points.graph.mT @ points.x)
