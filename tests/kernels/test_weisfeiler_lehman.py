"""Motifs of graphs, their kernel, and what each is worth."""

import numpy as np
import pytest
import torch

from kernelfield.core.contracts import Data
from kernelfield.kernels.weisfeiler_lehman import LabelledGraph, Patterns, slopes, weisfeiler_lehman
from kernelfield.models.process import Process

SQUARE_WITH_TAIL = LabelledGraph("abab", ((0, 1), (1, 2), (2, 0), (2, 3)))


def random_graphs(count: int, *, directed: bool = False, seed: int = 0) -> list[LabelledGraph]:
    generator = np.random.default_rng(seed)
    graphs = []
    for _ in range(count):
        size = int(generator.integers(3, 8))
        pairs = [(a, b) for a in range(size) for b in range(size) if a != b and generator.random() < 0.3]
        graphs.append(LabelledGraph(tuple(generator.choice(["a", "b", "c"], size).tolist()), tuple(pairs), directed))
    return graphs


def test_counts_of_a_graph_of_four_nodes_are_those_by_hand() -> None:
    """A triangle a0 b1 a2 with b3 at a2. Round 1: a0 sees a b, b1 sees a a, a2 sees a b b, b3 sees a."""
    patterns = Patterns.of([SQUARE_WITH_TAIL], 2)
    found = {patterns.text(i): int(count) for i, count in enumerate(patterns.counts[0])}
    assert found == {
        "a": 2,
        "b": 2,
        "a(a, b)": 1,
        "b(a, a)": 1,
        "a(a, b, b)": 1,
        "b(a)": 1,
        "a(a(a, b, b), b(a, a))": 1,
        "b(a(a, b), a(a, b, b))": 1,
        "a(a(a, b), b(a), b(a, a))": 1,
        "b(a(a, b, b))": 1,
    }
    assert patterns.depths.tolist() == [0] * 2 + [1] * 4 + [2] * 4


def test_edges_with_a_direction_tell_their_ends_apart() -> None:
    there = LabelledGraph("aab", ((0, 1), (1, 2)), directed=True)
    back = LabelledGraph("aab", ((1, 0), (1, 2)), directed=True)
    patterns = Patterns.of([there, back, LabelledGraph("aab", ((0, 1), (1, 2)))], 1)
    texts = [{patterns.text(i) for i in row.nonzero().flatten().tolist()} for row in patterns.counts]
    assert texts[0] == {"a", "b", "a(> a)", "a(< a; > b)", "b(< a)"}
    assert texts[1] == {"a", "b", "a(< a)", "a(> a, b)", "b(< a)"}
    assert texts[2] == {"a", "b", "a(a)", "a(a, b)", "b(a)"}


@pytest.mark.parametrize("directed", [False, True])
def test_the_kernel_does_not_see_the_order_of_nodes(directed: bool) -> None:
    graphs = random_graphs(12, directed=directed)
    generator = np.random.default_rng(3)
    shuffled = [graph.permuted(generator.permutation(len(graph.labels)).tolist()) for graph in graphs]
    assert any(a != b for a, b in zip(graphs, shuffled, strict=True))
    counts = Patterns.of(graphs + shuffled, 3).counts
    assert torch.equal(counts[:12], counts[12:])


def test_a_ring_of_six_is_two_rings_of_three_to_it() -> None:
    six = LabelledGraph("a" * 6, tuple((i, (i + 1) % 6) for i in range(6)))
    two = LabelledGraph("a" * 6, ((0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)))
    path = LabelledGraph("a" * 6, tuple((i, i + 1) for i in range(5)))
    counts = Patterns.of([six, two, path], 4).counts
    assert torch.equal(counts[0], counts[1])
    assert not torch.equal(counts[0], counts[2])


@pytest.mark.parametrize("normalised", [True, False])
def test_the_matrix_is_that_of_a_double_loop_over_motifs_and_semidefinite(normalised: bool) -> None:
    patterns = Patterns.of(random_graphs(9), 2)
    kernel = weisfeiler_lehman(patterns, normalised=normalised)
    kernel.raw_shares.data = torch.tensor([0.5, -0.2, 1.0])
    K = kernel(torch.arange(9.0)[:, None]).to_dense().detach()
    w = torch.tensor([0.5, -0.2, 1.0]).softmax(0).tolist()

    def product(i: int, j: int) -> float:
        return sum(
            w[patterns.keys[motif].depth] * count * patterns.tallies[j].get(motif, 0)
            for motif, count in patterns.tallies[i].items()
        )

    for i in range(9):
        for j in range(9):
            scale = (product(i, i) * product(j, j)) ** 0.5 if normalised else 1.0
            assert K[i, j].item() == pytest.approx(product(i, j) / scale, rel=1e-12)
    assert torch.linalg.eigvalsh(K).min() > -1e-12 * K.diagonal().max()


def test_what_is_met_later_gets_numbers_of_its_own() -> None:
    first, later = random_graphs(5), random_graphs(4, seed=1)
    grown, whole = Patterns.of(first, 3).joined(later), Patterns.of(first + later, 3)
    assert grown.keys == whole.keys
    assert torch.equal(grown.counts, whole.counts)
    assert len(grown.keys) > len(Patterns.of(first, 3).keys)


@pytest.mark.parametrize("normalised", [True, False])
def test_slopes_are_those_of_finite_differences(normalised: bool) -> None:
    patterns = Patterns.of(random_graphs(12), 2)
    rows = torch.arange(8)
    kernel = weisfeiler_lehman(patterns, normalised=normalised)
    generator = torch.Generator().manual_seed(0)
    data = Data(rows[:, None].double(), torch.randn(8, 1, generator=generator))
    fitted = Process(kernel, mean="zero").fit_exact(data, generator=generator)
    found = slopes(fitted.kernel, patterns, rows, fitted.weights[:, 0])
    w = fitted.kernel.shares[patterns.depths]

    def mean(phi: torch.Tensor) -> float:
        trained = patterns.counts[rows]
        k = (trained * w) @ phi
        if normalised:
            k = k / ((trained.square() @ w) * (phi.square() @ w)).sqrt()
        return (fitted.kernel.outputscale * k @ fitted.weights[:, 0]).item()

    assert mean(patterns.counts[10]) == pytest.approx(fitted.posterior(torch.tensor([[10.0]])).mean.item(), abs=1e-9)
    step = 1e-5  # central differences err by its square, and by rounding over it
    for graph, motif in ((10, 0), (10, 5), (3, 7), (11, len(w) - 1)):
        up, down = patterns.counts[graph].clone(), patterns.counts[graph].clone()
        up[motif] += step
        down[motif] -= step
        assert found[graph, motif].item() == pytest.approx((mean(up) - mean(down)) / (2 * step), abs=1e-7)


def test_graphs_are_made_of_names_and_pairs() -> None:
    graph = LabelledGraph.named({"x": "C", "y": "O"}, [("y", "x", {"bond": 2})])
    assert graph == LabelledGraph(("C", "O"), ((0, 1),))
    assert LabelledGraph("ab", ((1, 0), (0, 1))).edges == ((0, 1),)
    assert LabelledGraph("ab", ((1, 0), (0, 1)), directed=True).edges == ((0, 1), (1, 0))


def test_bad_graphs_are_refused_by_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="at least one node"):
        LabelledGraph(())
    with pytest.raises(ValueError, match=r"nodes 0 to 1, got \(0, 2\)"):
        LabelledGraph("ab", ((0, 2),))
    with pytest.raises(ValueError, match=r"got \(1, 1\)"):
        LabelledGraph("ab", ((1, 1),))
    with pytest.raises(ValueError, match="'z', which has no label"):
        LabelledGraph.named({"x": "C"}, [("x", "z")])
    with pytest.raises(ValueError, match="rounds must be at least 0, got -1"):
        Patterns.of([SQUARE_WITH_TAIL], -1)
