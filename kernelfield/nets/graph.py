"""Networks on graphs: each node becomes a weighted sum of nodes.

    y(t) = sum_s A(s, t) x(s),    K'(t, t') = sum_ss' A_1(s, t) K(s, s') A_2(s', t'),

with A (L, L) the graph of one input and A(s, t) the weight of the edge from s to t: a node sums
over its predecessors. The NTK mixes as K does, since A is no parameter.

Attention does the same with graphs of its own, see `attention`.

Source: Du et al. (2019), "Graph neural tangent kernel: fusing graph neural networks with graph
kernels", where A is the adjacency matrix plus the identity, normalised or not.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kernelfield.nets.pooling import Mixing
from kernelfield.nets.positions import axes_of, sizes_of
from kernelfield.nets.state import CovState, Side

ROUNDING = 16  # in units of eps: haversines of sums of positions are known to about this


@dataclass(frozen=True)
class GraphAggregate(Mixing):
    """Each node becomes the weighted sum of its predecessors in its input's graph, see `Points.graph`.

    The finite module finds its graphs in the buffer `graph`; `attach` puts them there.

    Errors: ValueError for inputs without graphs, or with graphs of another number of nodes.
    """

    def propagate(self, state: CovState) -> CovState:
        for index, side in enumerate((state.first, state.second)):
            _refuse_mismatch(side, sizes_of(state, index))
        return super().propagate(state).lift(_rounded)

    def mixed(self, values: Tensor, state: CovState, index: int, *, absolute: bool = False) -> Tensor:
        side, axes = (state.first, state.second)[index], axes_of(state, index)
        graph = side.graph.to(values).movedim(-3, -1)  # type: ignore[union-attr]
        weights = graph.unsqueeze(-1 if side.std.shape[-1] == 1 else -2)  # (*b, S, T, n1, 1) or (*b, S, T, 1, n2)
        flat = values.flatten(axes[0], axes[-1]).movedim(axes[-1], -3)
        others = flat.ndim - weights.ndim + 1
        weights = weights.reshape(*weights.shape[:-4], *[1] * others, *weights.shape[-4:])
        sums = torch.einsum("...stij,...sij->...tij", weights.abs() if absolute else weights, flat)
        return sums.movedim(-3, axes[-1]).unflatten(axes[-1], values.shape[axes[0] : axes[-1] + 1 or None])

    def present(self, side: Side, state: CovState, index: int) -> Tensor | None:
        return side.present

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        return Aggregation(), fan_in


def attach(module: nn.Module, graph: Tensor) -> None:
    """Give the graphs (n, L, L) of the next inputs to all graph layers of a finite module."""
    for part in module.modules():
        if isinstance(part, Aggregation):
            part.graph = graph


def _refuse_mismatch(side: Side, sizes: tuple[int, ...]) -> None:
    if side.graph is None:
        raise ValueError("GraphAggregate needs the graph of each input: Points(x, space=1, graph=A) with A (n, L, L)")
    if side.graph.shape[-1] != math.prod(sizes):
        raise ValueError(
            f"the graphs have {side.graph.shape[-1]} nodes, but the positions {sizes} reach GraphAggregate: "
            "layers before it must keep all of them"
        )


def _rounded(state: CovState) -> CovState:
    """Positions that are equal, or opposite, up to rounding: its root would enter the NTK behind an activation."""
    floor, e = ROUNDING * torch.finfo(state.haversine.dtype).eps, state.haversine
    return replace(state, haversine=torch.where(e < floor, 0, torch.where(e > 1 - floor, 1, e)))


class Aggregation(nn.Module):
    """x (n, L, c) summed along the edges of the buffer `graph` (n, L, L)."""

    graph: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("graph", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.graph is None:
            raise ValueError("a network on graphs needs them beside its inputs: attach(module, graph) first")
        return self.graph.to(x).mT @ x
