"""Search among graphs: mutations of the best, and random ones, by what a process makes of their motifs.

A process with the Weisfeiler-Lehman kernel is fitted to the graphs whose values are known; the depth of its
motifs is the one of the greatest evidence. The candidates are a pool as in `kernelfield.bo.pools`, made anew each time.
Graphs that have the same motifs to the greatest depth count as one.

Sources: Ru, Wan, Dong & Osborne (2021), "Interpretable Neural Architecture Search via Bayesian Optimisation with
Weisfeiler-Lehman Kernels" (NAS-BOWL); Shervashidze et al. (2011), "Weisfeiler-Lehman Graph Kernels".
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from kernelfield.bo.pools import Told, propose
from kernelfield.bo.problems.catalogue import Direction
from kernelfield.kernels.pool import PoolKernel
from kernelfield.kernels.weisfeiler_lehman import Key, LabelledGraph, Patterns, slopes, tally, weisfeiler_lehman
from kernelfield.models.conditioned import FittedProcess

TRIES = 1000  # of a random edit or graph before the space counts as exhausted
MISSES = 200  # candidates in a row that are known already, after which there are no more
PARENTS = 5  # the best graphs, which are mutated


@dataclass(frozen=True)
class GraphSpace:
    """The graphs of a search: labels, numbers of nodes, and what is valid.

    nodes : the least and the most.
    valid : whether a graph may be asked for.
    density : the share of edges of a random graph before it is tried.

    Errors: ValueError for no label, bounds that are empty, or where no valid graph is found.
    """

    labels: Sequence[Hashable]
    nodes: tuple[int, int] = (3, 8)
    directed: bool = False
    valid: Callable[[LabelledGraph], bool] = field(default=lambda graph: True)
    density: float = 0.4

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError("a space of graphs needs at least one label, got none")
        if not 1 <= self.nodes[0] <= self.nodes[1]:
            raise ValueError(f"nodes must be the least and the most, at least 1, got {self.nodes}")

    def random(self, generator: np.random.Generator) -> LabelledGraph:
        """A valid graph."""
        for _ in range(TRIES):
            size = int(generator.integers(self.nodes[0], self.nodes[1] + 1))
            edges = [pair for pair in self._pairs(size) if generator.random() < self.density]
            graph = LabelledGraph(tuple(self._label(generator) for _ in range(size)), tuple(edges), self.directed)
            if self.valid(graph):
                return graph
        raise ValueError(f"no valid graph among {TRIES} random ones; loosen `valid`, or give graphs to start from")

    def mutated(self, graph: LabelledGraph, generator: np.random.Generator) -> LabelledGraph | None:
        """A valid graph one edit away: an edge or a node more or less, or another label; None if none is met."""
        edits = (self._edge, self._relabel, self._grow, self._shrink)
        for _ in range(TRIES):
            changed = edits[int(generator.choice(4, p=(0.4, 0.4, 0.1, 0.1)))](graph, generator)
            if changed is not None and changed != graph and self.valid(changed):
                return changed
        return None

    def _pairs(self, size: int) -> list[tuple[int, int]]:
        return [(a, b) for a in range(size) for b in range(size) if a < b or (self.directed and a != b)]

    def _label(self, generator: np.random.Generator) -> Hashable:
        return self.labels[int(generator.integers(len(self.labels)))]

    def _edge(self, graph: LabelledGraph, generator: np.random.Generator) -> LabelledGraph | None:
        pairs = self._pairs(len(graph.labels))
        if not pairs:
            return None
        pair = pairs[int(generator.integers(len(pairs)))]
        return replace(graph, edges=tuple(set(graph.edges) ^ {pair}))

    def _relabel(self, graph: LabelledGraph, generator: np.random.Generator) -> LabelledGraph:
        labels = list(graph.labels)
        labels[int(generator.integers(len(labels)))] = self._label(generator)
        return replace(graph, labels=tuple(labels))

    def _grow(self, graph: LabelledGraph, generator: np.random.Generator) -> LabelledGraph | None:
        size = len(graph.labels)
        if size == self.nodes[1]:
            return None
        ends = [(int(generator.integers(size)), size)]
        if self.directed:
            ends += [(size, int(generator.integers(size)))]
        return replace(graph, labels=(*graph.labels, self._label(generator)), edges=(*graph.edges, *ends))

    def _shrink(self, graph: LabelledGraph, generator: np.random.Generator) -> LabelledGraph | None:
        size = len(graph.labels)
        if size == self.nodes[0]:
            return None
        gone = int(generator.integers(size))
        order = [node for node in range(size) if node != gone]
        place = {node: i for i, node in enumerate(order)}
        edges = tuple((place[a], place[b]) for a, b in graph.edges if a in place and b in place)
        return LabelledGraph(tuple(graph.labels[node] for node in order), edges, self.directed)


@dataclass(frozen=True)
class Worth:
    """What a motif does to the value: the mean over graphs of the slope in its count, and how it varies among them.

    motif is written as `Patterns.text` does; graphs is the number of them that have it.
    """

    motif: str
    depth: int
    mean: float
    std: float
    graphs: int


class GraphSearch:
    """Search among the graphs of a space, by ask and tell.

    rounds : the greatest depth of motifs that is tried.
    pool : how many candidates there are at a time, half of them mutations of the best graphs.
    initial : how many graphs are asked for before the process has a say; random ones, after those of `start`.
    normalised : whether shares of motifs count; False where more of them, as in larger graphs, are worth more.
    seed : the same seed and history give the same graphs.

    >>> search = GraphSearch(GraphSpace(("a", "b"), nodes=(3, 3)), initial=2)
    >>> for graph in search.ask(2):
    ...     search.tell(graph, graph.labels.count("a"))
    >>> len(search.ask(3))
    3
    """

    def __init__(
        self,
        space: GraphSpace,
        *,
        direction: Direction = "maximize",
        rounds: int = 3,
        pool: int = 200,
        initial: int = 10,
        start: Sequence[LabelledGraph] = (),
        normalised: bool = True,
        seed: int = 0,
    ) -> None:
        self.normalised = normalised
        self.space, self.rounds, self.pool, self.initial, self.seed = space, rounds, pool, initial, seed
        self.told = Told[LabelledGraph](direction)
        self.start = list(start)

    @property
    def best(self) -> tuple[LabelledGraph, float]:
        """The best graph, and its value."""
        return self.told.best

    def tell(self, graph: LabelledGraph, value: float | None) -> None:
        """What a graph was found to be worth; None where it failed, which is not asked for again."""
        self.told.add(graph, value)

    def ask(self, count: int = 1) -> list[LabelledGraph]:
        """The graphs to try next.

        Errors: ValueError where the space holds no more graphs that the kernel can tell apart.
        """
        told = self.told
        numpy, generator = told.generators(self.seed)
        if told.asked < self.initial or not told.values:
            fresh = [graph for graph in self.start if not told.knows(graph)][:count]
            chosen = fresh + self._candidates(count - len(fresh), numpy, least=count - len(fresh), avoid=fresh)
        else:
            candidates = self._candidates(max(self.pool, count), numpy, least=count)
            fitted, patterns = self._fit(generator)
            everything = patterns.joined([*told.pending, *candidates])
            fitted = replace(fitted, kernel=_kernel(fitted).over(everything.grams(_depth(fitted))))
            rows = list(range(len(everything.tallies)))
            known, under_way = len(told.values), len(told.values) + len(told.pending)
            picked = propose(fitted, rows[:known], rows[known:under_way], rows[under_way:], count, generator)
            chosen = [candidates[i] for i in picked]
        told.pending += chosen
        return chosen

    def worths(self) -> list[Worth]:
        """What each motif of the graphs so far is worth by the process, the most important first.

        Errors: ValueError before two graphs have values.
        """
        if len(self.told.values) < 2:
            raise ValueError(f"motifs are compared by at least two graphs, {len(self.told.values)} have values")
        fitted, patterns = self._fit(self.told.generators(self.seed)[1])
        return worths(fitted, patterns, unit=self.told.sign * self.told.spread)

    def _fit(self, generator: torch.Generator) -> tuple[FittedProcess, Patterns]:
        """The process of the told graphs, which are the first of its pool, and their motifs."""
        patterns = Patterns.of(list(self.told.values), self.rounds)
        kernels = [weisfeiler_lehman(patterns, depth, normalised=self.normalised) for depth in range(self.rounds + 1)]
        for kernel in kernels:
            kernel.raw_shares.requires_grad_(False)  # rounds count alike: few graphs do not tell their shares
        return self.told.fit(kernels, range(len(self.told.values)), generator), patterns

    def _candidates(
        self, count: int, generator: np.random.Generator, *, least: int, avoid: Sequence[LabelledGraph] = ()
    ) -> list[LabelledGraph]:
        """Valid graphs, unlike each other and all that are known: mutations of the best in turn with random ones."""
        told, number = self.told, dict[Key, int]()
        known = [*told.values, *told.failed, *told.pending, *avoid]
        seen = {_fingerprint(graph, self.rounds, number) for graph in known}
        ranked = sorted(told.values, key=lambda graph: -told.sign * told.values[graph])[:PARENTS]
        found: list[LabelledGraph] = []
        misses = 0
        while len(found) < count and misses < MISSES:
            graph = self._drawn(ranked if misses % 2 == len(found) % 2 else [], generator)
            mark = _fingerprint(graph, self.rounds, number)
            misses = misses + 1 if mark in seen else 0
            if mark not in seen:
                seen.add(mark)
                found.append(graph)
        if len(found) < least:
            raise ValueError(
                f"the space seems to hold {len(found)} graphs beyond the {len(known)} asked for, got count={least}"
            )
        return found

    def _drawn(self, parents: Sequence[LabelledGraph], generator: np.random.Generator) -> LabelledGraph:
        """One or two edits away from one of the parents; a random graph where there is none."""
        if not parents:
            return self.space.random(generator)
        graph = self.space.mutated(parents[int(generator.integers(len(parents)))], generator)
        if graph is not None and generator.random() < 0.5:
            graph = self.space.mutated(graph, generator)
        return graph or self.space.random(generator)


def worths(fitted: FittedProcess, patterns: Patterns, *, unit: float = 1.0) -> list[Worth]:
    """What motifs are worth by a process fitted to all graphs of `patterns` in their order, the greatest slope first.

    unit : of the values of the fit, in those of the answer.
    """
    rows = torch.arange(len(patterns.tallies))
    slope = unit * slopes(_kernel(fitted), patterns, rows, fitted.weights[:, 0])
    mean, std, having = slope.mean(0), slope.std(0, correction=0), (patterns.counts > 0).sum(0)
    within = [
        i for i in mean.abs().argsort(descending=True, stable=True).tolist() if patterns.keys[i].depth <= _depth(fitted)
    ]
    return [
        Worth(patterns.text(i), patterns.keys[i].depth, mean[i].item(), std[i].item(), int(having[i])) for i in within
    ]


def _kernel(fitted: FittedProcess) -> PoolKernel:
    if not isinstance(fitted.kernel, PoolKernel):
        raise ValueError(f"motifs are of a process with a kernel of a pool, got {type(fitted.kernel).__name__}")
    return fitted.kernel


def _depth(fitted: FittedProcess) -> int:
    return len(_kernel(fitted).shares) - 1


def _fingerprint(graph: LabelledGraph, rounds: int, number: dict[Key, int]) -> frozenset[tuple[int, int]]:
    """What is the same of graphs that the kernel cannot tell apart."""
    return frozenset(tally(graph, rounds, number).items())
