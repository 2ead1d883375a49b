"""Search among graphs for a motif that was planted."""

import numpy as np
import pytest
import torch

from kernelfield.bo.graphs import GraphSearch, GraphSpace, worths
from kernelfield.core.contracts import Data
from kernelfield.kernels.weisfeiler_lehman import LabelledGraph, Patterns, weisfeiler_lehman
from kernelfield.models.process import Process

SPACE = GraphSpace(
    ("conv", "pool", "skip"), nodes=(4, 7), directed=True, valid=lambda g: all(a < b for a, b in g.edges)
)


def reward(graph: LabelledGraph) -> float:
    """How many convolutions lead to a pooling, less a little for every edge."""
    pairs = sum(graph.labels[a] == "conv" and graph.labels[b] == "pool" for a, b in graph.edges)
    return pairs - 0.1 * len(graph.edges)


def searched(seed: int, trials: int) -> float:
    search = GraphSearch(SPACE, pool=60, initial=10, rounds=1, normalised=False, seed=seed)
    while len(search.told.values) < trials:
        for graph in search.ask(5):
            search.tell(graph, reward(graph))
    return search.best[1]


@pytest.mark.slow
def test_the_search_beats_random_graphs_of_the_same_number() -> None:
    gains = []
    for seed in range(4):
        generator = np.random.default_rng(seed)
        gains.append(searched(seed, 40) - max(reward(SPACE.random(generator)) for _ in range(40)))
    assert min(gains) >= 0
    assert np.mean(gains) > 1


def test_edits_are_valid_different_and_within_the_space() -> None:
    generator = np.random.default_rng(0)
    graph = SPACE.random(generator)
    for _ in range(200):
        changed = SPACE.mutated(graph, generator)
        assert changed is not None
        assert changed != graph
        assert SPACE.valid(changed)
        assert 4 <= len(changed.labels) <= 7
        assert abs(len(changed.labels) - len(graph.labels)) <= 1
        assert changed.directed
        graph = changed


def test_the_planted_motif_is_ranked_first() -> None:
    """The value is the number of nodes c with two neighbours a, in graphs that have it 0 to 3 times."""
    space = GraphSpace(("a", "b", "c"), nodes=(6, 8), density=0.3)
    generator = np.random.default_rng(0)
    graphs = [space.random(generator) for _ in range(120)]
    patterns = Patterns.of(graphs, 1)
    planted = next(i for i in range(len(patterns.keys)) if patterns.text(i) == "c(a, a)")
    y = 3.0 + 2.0 * patterns.counts[:, planted : planted + 1]
    data = Data(torch.arange(120.0)[:, None], y)
    kernel = weisfeiler_lehman(patterns)
    fitted = Process(kernel).fit_exact(data, generator=torch.Generator())
    first, second, *_ = worths(fitted, patterns)
    assert (first.motif, first.depth) == ("c(a, a)", 1)
    assert first.mean > 0
    assert first.mean > abs(second.mean)
    assert first.graphs == int((patterns.counts[:, planted] > 0).sum())


def test_the_same_seed_and_history_give_the_same_graphs() -> None:
    def history(seed: int) -> list[LabelledGraph]:
        search = GraphSearch(SPACE, pool=20, initial=4, rounds=1, seed=seed)
        found = search.ask(4)
        for graph in found:
            search.tell(graph, reward(graph))
        found = found + search.ask(3)
        return found + search.ask(2)

    assert history(3) == history(3) != history(4)
    assert len(set(history(3))) == 9


def test_a_small_space_is_gone_through_and_then_said_to_be_empty() -> None:
    space = GraphSpace(("a",), nodes=(3, 3))  # of 0, 1, 2 or 3 edges
    search = GraphSearch(space, direction="minimize", initial=2)
    for _ in range(4):
        (graph,) = search.ask()
        search.tell(graph, float(len(graph.edges)))
    assert search.best[1] == 0.0
    with pytest.raises(ValueError, match="hold 0 graphs beyond the 4"):
        search.ask()


def test_given_graphs_are_asked_for_first_and_failures_not_again() -> None:
    start = [LabelledGraph(("conv", "pool", "skip", "skip"), ((0, 1),), directed=True)]
    search = GraphSearch(SPACE, start=start, initial=3)
    first, *_ = search.ask(3)
    assert first == start[0]
    search.tell(first, None)
    assert first not in search.ask(2)
    with pytest.raises(ValueError, match="0 have values"):
        search.worths()


def test_spaces_without_graphs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one label"):
        GraphSpace(())
    with pytest.raises(ValueError, match=r"got \(5, 4\)"):
        GraphSpace(("a",), nodes=(5, 4))
    with pytest.raises(ValueError, match="no valid graph among"):
        GraphSpace(("a",), valid=lambda graph: False).random(np.random.default_rng(0))
