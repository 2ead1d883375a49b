"""The Weisfeiler-Lehman subtree kernel on graphs with labelled nodes.

Each round gives a node a new label: its label of the round before with the multiset of its neighbours'
labels. Two nodes have one label after h rounds exactly where the trees of walks of h steps from them are the
same, so that a label is a motif. With phi_h the counts of labels in a graph after h rounds,

    k(G, G') = sum_h w_h phi_h(G) . phi_h(G')    or that over sqrt(k(G, G) k(G', G')).

Labels are numbered by an exact dictionary, so that no two motifs collide, and motifs that are first met later
get numbers of their own. Along directed edges the neighbours on either side are told apart.

The mean f of a process with this kernel is a function of the counts of a graph. With W the weights of the
motifs, q = phi' W phi, the graphs phi_i of the fit and its weights alpha,

    f = m + s v' W phi / sqrt(q),    v = sum_i alpha_i phi_i / sqrt(q_i),
    df / dphi = s W (v - (v' W phi / q) phi) / sqrt(q)    (and s W sum_i alpha_i phi_i, not normalised),

is how much one more of each motif is worth.

Sources: Shervashidze et al. (2011), "Weisfeiler-Lehman Graph Kernels"; Ru, Wan, Dong & Osborne (2021),
"Interpretable Neural Architecture Search via Bayesian Optimisation with Weisfeiler-Lehman Kernels".
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from kernelfield.kernels.pool import PoolKernel

Edge = tuple[int, int]
Nodes = tuple[int, ...]


@dataclass(frozen=True)
class LabelledGraph:
    """A graph: the labels of its nodes 0, 1, ... and its edges between them.

    Undirected edges are kept once, the smaller node first. Graphs are equal where labels and edges are,
    node by node.

    Errors: ValueError for no node, an edge to no node, or one from a node to itself.

    >>> LabelledGraph(("C", "O"), ((1, 0),)).edges
    ((0, 1),)
    """

    labels: tuple[Hashable, ...]
    edges: tuple[Edge, ...] = ()
    directed: bool = False

    def __post_init__(self) -> None:
        labels, edges = tuple(self.labels), {(int(a), int(b)) for a, b in self.edges}
        if not labels:
            raise ValueError("a graph needs at least one node, got none")
        for a, b in edges:
            if a == b or not (0 <= a < len(labels) and 0 <= b < len(labels)):
                raise ValueError(f"an edge joins two of the nodes 0 to {len(labels) - 1}, got {(a, b)}")
        if not self.directed:
            edges = {(min(edge), max(edge)) for edge in edges}
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "edges", tuple(sorted(edges)))

    @classmethod
    def named(
        cls, labels: Mapping[Hashable, Hashable], edges: Iterable[Sequence[Hashable]], *, directed: bool = False
    ) -> "LabelledGraph":
        """A graph whose nodes have names: their labels, and pairs of names; what follows a pair is left out.

        So the nodes and edges of networkx do: `named(dict(g.nodes("label")), g.edges, directed=g.is_directed())`.
        """
        number = {name: i for i, name in enumerate(labels)}
        pairs = [(edge[0], edge[1]) for edge in edges]
        strange = [name for pair in pairs for name in pair if name not in number]
        if strange:
            raise ValueError(f"an edge names the node {strange[0]!r}, which has no label")
        return cls(tuple(labels.values()), tuple((number[a], number[b]) for a, b in pairs), directed)

    def permuted(self, order: Sequence[int]) -> "LabelledGraph":
        """The same graph with its nodes in another order: node i of it is node order[i] of this one."""
        place = {node: i for i, node in enumerate(order)}
        edges = tuple((place[a], place[b]) for a, b in self.edges)
        return LabelledGraph(tuple(self.labels[node] for node in order), edges, self.directed)

    @cached_property
    def neighbours(self) -> tuple[tuple[Nodes | None, Nodes], ...]:
        """Of each node, those that lead to it, None where edges have no direction, and those it leads to."""
        into: list[list[int]] = [[] for _ in self.labels]
        out: list[list[int]] = [[] for _ in self.labels]
        for a, b in self.edges:
            out[a].append(b)
            (into if self.directed else out)[b].append(a)
        return tuple((tuple(i) if self.directed else None, tuple(o)) for i, o in zip(into, out, strict=True))


class Key(NamedTuple):
    """A motif by the numbers of others: itself a round before, and those around it then."""

    depth: int
    label: Hashable
    before: int | None = None
    into: Nodes | None = None
    out: Nodes = ()


@dataclass(frozen=True, eq=False)
class Patterns:
    """The motifs of a list of graphs, and how often each occurs in each.

    rounds : the depth of the deepest motifs.

    >>> path = LabelledGraph(("a", "b", "a"), ((0, 1), (1, 2)))
    >>> patterns = Patterns.of([path], rounds=1)
    >>> [(patterns.text(motif), int(count)) for motif, count in enumerate(patterns.counts[0])]
    [('a', 2), ('b', 1), ('a(b)', 2), ('b(a, a)', 1)]
    """

    rounds: int
    keys: tuple[Key, ...]  # in the order in which they were met
    tallies: tuple[Mapping[int, int], ...] = field(repr=False)

    @classmethod
    def of(cls, graphs: Sequence[LabelledGraph], rounds: int) -> "Patterns":
        if rounds < 0:
            raise ValueError(f"rounds must be at least 0, got {rounds}")
        return cls(rounds, (), ()).joined(graphs)

    def joined(self, graphs: Sequence[LabelledGraph]) -> "Patterns":
        """These graphs, then more; what has a number keeps it."""
        number = {key: i for i, key in enumerate(self.keys)}
        tallies = [tally(graph, self.rounds, number) for graph in graphs]
        return Patterns(self.rounds, tuple(number), (*self.tallies, *tallies))

    @cached_property
    def depths(self) -> Tensor:
        """The round (p,) of each motif."""
        return torch.tensor([key.depth for key in self.keys])

    @cached_property
    def counts(self) -> Tensor:
        """How often each motif occurs in each graph (n, p), double precision."""
        rows = [(i, j, count) for i, tally in enumerate(self.tallies) for j, count in tally.items()]
        found = torch.zeros(len(self.tallies), len(self.keys), dtype=torch.double)
        i, j, count = (torch.tensor(column) for column in zip(*rows, strict=True))
        found[i, j] = count.double()
        return found

    def text(self, motif: int) -> str:
        """A motif in words: `C(O, O)`, or with directed edges `conv(< input; > add, pool)`."""
        key = self.keys[motif]
        if not key.depth:
            return str(key.label)
        into, out = (", ".join(sorted(self.text(one) for one in side or ())) for side in (key.into, key.out))
        if key.into is not None:
            out = "; ".join(f"{arrow} {side}" for arrow, side in (("<", into), (">", out)) if side)
        return f"{key.label}({out})"

    def grams(self, rounds: int | None = None) -> Tensor:
        """The matrices phi_h phi_h' (h, n, n) of the rounds 0 to `rounds`."""
        depth = self.rounds if rounds is None else rounds
        parts = [self.counts[:, self.depths == h] for h in range(depth + 1)]
        return torch.stack([part @ part.mT for part in parts])


def tally(graph: LabelledGraph, rounds: int, number: dict[Key, int]) -> dict[int, int]:
    """The counts of motifs of a graph by their numbers; new ones are added to `number`."""
    at = [number.setdefault(Key(0, label), len(number)) for label in graph.labels]
    found = Counter(at)
    for h in range(1, rounds + 1):
        keys = []
        for label, own, (into, out) in zip(graph.labels, at, graph.neighbours, strict=True):
            before = None if into is None else tuple(sorted(at[node] for node in into))
            keys.append(Key(h, label, own, before, tuple(sorted(at[node] for node in out))))
        at = [number.setdefault(key, len(number)) for key in keys]
        found.update(at)
    return dict(found)


def weisfeiler_lehman(patterns: Patterns, rounds: int | None = None, *, normalised: bool = True) -> PoolKernel:
    """The kernel of the graphs of `patterns`, whose inputs are their numbers; the weights of rounds are its shares.

    >>> ring = LabelledGraph("aaa", ((0, 1), (1, 2), (2, 0)))
    >>> path = LabelledGraph("aaa", ((0, 1), (1, 2)))
    >>> kernel = weisfeiler_lehman(Patterns.of([ring, path], rounds=1))
    >>> round(kernel(torch.tensor([[0.0]]), torch.tensor([[1.0]])).to_dense().item(), 4)  # (9 + 3) / sqrt(18 * 14)
    0.7559
    """
    return PoolKernel(patterns.grams(rounds), normalised=normalised)


def slopes(kernel: PoolKernel, patterns: Patterns, rows: Tensor, weights: Tensor) -> Tensor:
    """The slope (n, p) of a process' mean in each count of each graph; see the module docstring.

    kernel : of `weisfeiler_lehman` over the same patterns, with fewer rounds or as many.
    rows (k,): the graphs of the fit; weights (k,): its alpha.
    """
    shares = torch.zeros(patterns.rounds + 1, dtype=torch.double)
    shares[: len(kernel.shares)] = kernel.shares.detach().cpu().double()
    W, phi = shares[patterns.depths], patterns.counts
    q = (phi.square() * W).sum(-1, keepdim=True) if kernel.normalised else torch.ones(len(phi), 1, dtype=torch.double)
    v = (weights[:, None] * phi[rows] / q[rows].sqrt()).sum(0)
    along = v.expand_as(phi)
    if kernel.normalised:
        along = along - (phi @ (W * v))[:, None] / q * phi
    return kernel.outputscale.detach().cpu() * W * along / q.sqrt()
