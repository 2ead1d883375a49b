"""Global self-attention of infinitely many, infinitely wide heads.

One layer of a finite network is y = O [A_1 V_1 x, .., A_h V_h x] + b over its heads, with

    A = zeta(w_query w_key (K x)(K x)^T / channels),

zeta the mechanism (softmax over positions, or an elementwise function) and one matrix K for keys
and queries. Products of keys and queries are divided by their number, not by its root, so that
they converge: with C the covariance (s, t) of the layer's input within one sequence,

    A = zeta(w_query w_key C),

a fixed matrix of each input. The layer then is linear in x, with fresh weights V and O, and acts
on moments as weights A_1 and A_2 of positions followed by two dense layers.

Positional embeddings of the covariance R(s, t), common to all inputs, are added to x or put
beside it, for keys and queries alone or for values too.

Source: Hron et al. (2020), "Infinite attention: NNGP and NTK for deep attention networks", sections
3 (the scaling of scores) and 4 (other mechanisms, positional embeddings).
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kernelfield.nets.algebra import Layer, hypotenuse
from kernelfield.nets.dense import Affine, Scale, affine, refuse_negative
from kernelfield.nets.graph import GraphAggregate
from kernelfield.nets.pooling import refuse_flat
from kernelfield.nets.positions import sizes_of
from kernelfield.nets.state import CovState, Side, Wanted

MECHANISMS = ("softmax", "identity", "relu", "abs")
POSITIONS = ("none", "sum", "concat")


@dataclass(frozen=True)
class Attention(Layer):
    """Self-attention over all positions, see the module docstring.

    w_key, w_query, w_value, w_out, b: the scales of the weights and of the biases of the output.
    position: whether inputs have no positional embeddings, or have them added or beside them.
    w_position: the scale of the embeddings, one by default.
    decay: their covariance is exp(-decay |s - t|^power), the sum of such powers over the axes of
        images; None for embeddings that are independent.
    position_values: whether values too have the embeddings.
    widths: the proportion of the channels of inputs and of embeddings beside them.
    heads, positions: structure of the finite module; the sizes of the axes of positions tell it
        how many embeddings it has.

    Errors: ValueError for an unknown mechanism or position, and for inputs without positions.
    """

    mechanism: str = "softmax"
    w_key: Scale = 1.0
    w_query: Scale = 1.0
    w_value: Scale = 1.0
    w_out: Scale = 1.0
    b: Scale | None = None
    position: str = "none"
    w_position: Scale | None = None
    decay: Scale | None = None
    power: int = 2
    position_values: bool = False
    widths: tuple[int, int] = (1, 1)
    heads: int = 1
    positions: tuple[int, ...] | None = None
    sets_width = True

    def __post_init__(self) -> None:
        for scale in (self.w_key, self.w_query, self.w_value, self.w_out, self.b, self.w_position, self.decay):
            refuse_negative(self, scale)
        _refuse_unknown("the mechanism of an Attention", self.mechanism, MECHANISMS)
        _refuse_unknown("the position of an Attention", self.position, POSITIONS)
        if self.power not in (1, 2):
            raise ValueError(f"exp(-distance^power) is a covariance for a power of 1 or 2, got {self.power}")
        if self.position == "none" and (self.w_position is not None or self.decay is not None):
            raise ValueError("w_position and decay need positional embeddings: set position='sum' or 'concat'")
        if self.position != "none" and self.w_position is None:
            object.__setattr__(self, "w_position", 1.0)

    def propagate(self, state: CovState) -> CovState:
        refuse_flat(self, state)
        embedded = state if self.position == "none" else state.lift(self._embedded)
        graphs = [self._graph(side) for side in (embedded.first, embedded.second)]
        values = embedded if self.position_values else state
        mixed = _with_graphs(GraphAggregate().propagate(_with_graphs(values, *graphs)), *_graphs(state))
        heads = mixed.lift(lambda s: affine(s, self.w_value, None, None))
        return replace(heads.lift(lambda s: affine(s, self.w_out, self.b, None)), width=None)

    def _embedded(self, state: CovState) -> CovState:
        """Inputs with their positional embeddings."""
        share, position_share = 1.0, 1.0
        if self.position == "concat":
            share, position_share = (w / sum(self.widths) for w in self.widths)
        sizes1, sizes2 = (sizes_of(state, index) for index in (0, 1))
        R = _covariance(sizes1, sizes2, self.decay, self.power, state.haversine)[..., None, None]
        std = self.w_position * position_share**0.5
        variance = std**2
        std1, std2 = (hypotenuse(s * share**0.5, std) for s in (state.std1, state.std2))
        tangent = None if state.tangent is None else state.tangent * share + variance * R
        return state.with_distance(std1, std2, state.distance * share + variance * (1 - R), tangent)

    def _graph(self, side: Side) -> Tensor:
        """The attention (*b, n, S, S), as the graph of edges from the positions attended to."""
        own = side.own
        assert own is not None
        scores = _by_input(own.covariance * (self.w_query * self.w_key), own.space)
        if self.mechanism == "softmax" and own.second.present is not None:
            missing = ~_by_input(own.second.present, own.space)
            scores = scores.masked_fill(missing, torch.finfo(scores.dtype).min)
        return _attend(self.mechanism, scores).mT

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        if self.position != "none" and self.positions is None:
            raise ValueError("a finite Attention with embeddings needs the sizes of its positions, e.g. positions=(7,)")
        return SelfAttention(self, fan_in, -(-width // self.heads), fan_out), fan_out

    def gaussian(self, before: bool) -> bool:
        return True

    def wanted(self, after: Wanted) -> Wanted:
        return replace(after, std=True, full=True, own=True)


def _refuse_unknown(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{what} must be one of {', '.join(map(repr, known))}, got {value!r}")


def _by_input(values: Tensor, space: int) -> Tensor:
    """Own moments (*b, *space, *space, n, 1) or (*b, *space, *space, 1, n) as (*b, n, S, S)."""
    by_input = values.flatten(-2).movedim(-1, -2 * space - 1)
    return by_input.flatten(-space).flatten(-space - 1, -2)


def _graphs(state: CovState) -> tuple[Tensor | None, Tensor | None]:
    return state.first.graph, state.second.graph


def _with_graphs(state: CovState, graph1: Tensor | None, graph2: Tensor | None) -> CovState:
    """The state of inputs, and of their own moments, with other graphs."""
    sides = [
        replace(side, graph=graph, own=None if side.own is None else _with_graphs(side.own, graph, graph))
        for side, graph in zip((state.first, state.second), (graph1, graph2), strict=True)
    ]
    return replace(state, first=sides[0], second=sides[1])


def _attend(mechanism: str, scores: Tensor) -> Tensor:
    """The mechanism on scores (..., positions that attend, positions attended to)."""
    match mechanism:
        case "softmax":
            return scores.softmax(-1)
        case "relu":
            return scores.relu()
        case "abs":
            return scores.abs()
        case _:
            return scores


def _covariance(
    sizes1: tuple[int, ...], sizes2: tuple[int, ...], decay: Scale | None, power: int, like: Tensor
) -> Tensor:
    """R (*sizes1, *sizes2) of the embeddings of positions."""
    distance = like.new_zeros(*sizes1, *sizes2)
    for axis, sizes in enumerate(zip(sizes1, sizes2, strict=True)):
        first, second = (torch.arange(size, dtype=like.dtype, device=like.device) for size in sizes)
        shape = [1] * (2 * len(sizes1))
        shape[axis], shape[axis + len(sizes1)] = sizes
        distance = distance + ((first[:, None] - second).abs() ** power).reshape(shape)
    return (distance == 0).to(distance) if decay is None else torch.exp(-decay * distance)


class SelfAttention(nn.Module):
    """Attention of finite width, over all axes of x (n, *positions, c) but the first and the last."""

    root: Tensor

    def __init__(self, layer: Attention, fan_in: int, width: int, fan_out: int) -> None:
        super().__init__()
        self.layer = layer
        beside = 0
        if layer.position != "none":
            sizes, count = layer.positions or (), math.prod(layer.positions or ())
            beside = max(1, round(fan_in * layer.widths[1] / layer.widths[0])) if layer.position == "concat" else 0
            R = _covariance(sizes, sizes, layer.decay, layer.power, torch.zeros(())).reshape(count, count)
            values, vectors = torch.linalg.eigh(R)
            self.register_buffer("root", vectors * values.clamp_min(0).sqrt() * float(layer.w_position or 0))
            self.embeddings = nn.Parameter(torch.randn(count, beside or fan_in))
        keys, read = width * layer.heads, fan_in + (beside if layer.position_values else 0)
        self.keys = Affine(fan_in + beside, keys, 1.0, None, standard=False)
        self.values = Affine(read, keys, float(layer.w_value), None, standard=False)
        self.out = Affine(keys, fan_out, float(layer.w_out), layer.b, standard=False)

    def forward(self, x: Tensor) -> Tensor:
        positions = x.shape[1:-1]
        x = x.flatten(1, -2)
        embedded = self._embedded(x)
        keys, values = (  # (..., heads, S, c)
            y.unflatten(-1, (self.layer.heads, -1)).movedim(-2, -3)
            for y in (self.keys(embedded), self.values(embedded if self.layer.position_values else x))
        )
        gain = float(self.layer.w_query * self.layer.w_key) / keys.shape[-1]
        heads = _attend(self.layer.mechanism, gain * keys @ keys.mT) @ values
        return self.out(heads.movedim(-3, -2).flatten(-2)).unflatten(-2, positions)

    def _embedded(self, x: Tensor) -> Tensor:
        if self.layer.position == "none":
            return x
        embeddings = self.root @ self.embeddings
        if self.layer.position == "sum":
            return x + embeddings
        return torch.cat([x, embeddings.expand(*x.shape[:-1], -1)], -1)
