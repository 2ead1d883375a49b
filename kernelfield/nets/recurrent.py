"""Recurrent networks: one cell, applied to the items of a sequence one after another.

    h(t) = phi(w W h(t - 1) + u U x(t) + b B),    h = 0 before the first item,

with the same W, U and B at all times. Between sequences x and x', K_h(t, t') and T_h(t, t') the
NNGP and NTK of hidden states, each cell is a sum of two dense layers and an activation:

    H(t, t') = w^2 K_h(t - 1, t' - 1) + u^2 K_x(t, t') + b^2,       K_h(t, t') = E[phi phi],
    T_h(t, t') = E[phi' phi'] (H + w^2 T_h(t - 1, t' - 1) + u^2 T_x)(t, t').

Sharing weights changes nothing here. A covariance at times t and t' comes from the times before
both; so the last states of two sequences depend on equal times alone, and pairs of other times are
only computed where all states are read and then mixed. Gradients agree: those with respect to h(s) and
h(s') are uncorrelated unless both are equally far from the states that are read, since one of them
has met W more often. The sum over such times is the recursion of T_h, run forwards.

Sources: Yang (2019), "Wide feedforward or recurrent neural networks of any architecture are Gaussian
processes", and Yang (2020), "Tensor programs II: neural tangent kernel for any architecture", on the
simple recurrent network; Alemohammad et al. (2021), "The recurrent neural tangent kernel".
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kernelfield.nets.algebra import Layer, add
from kernelfield.nets.dense import Affine, Scale, affine, refuse_negative
from kernelfield.nets.positions import at_matching, axes_of, beside
from kernelfield.nets.state import CovState, Side, Wanted


@dataclass(frozen=True)
class Recurrent(Layer):
    """A simple recurrent network on sequences (n, L, c); its last hidden state, or every one.

    activation: phi, such as Tanh() or Erf(). w, u, b: the scales of the weights of hidden states
    and of inputs, and of the biases (None for none).
    every: whether all hidden states (n, L, width) are the output.

    Missing items must stand before a sequence; behind it too where every state is an output. The
    network then starts at the first item that is present.

    Errors: ValueError for inputs that are no sequences, and for other missing items.
    """

    activation: Layer
    w: Scale = 1.0
    u: Scale = 1.0
    b: Scale | None = None
    every: bool = False
    sets_width = True

    def __post_init__(self) -> None:
        for scale in (self.w, self.u, self.b):
            refuse_negative(self, scale)

    def propagate(self, state: CovState) -> CovState:
        if state.space != 1:
            raise ValueError(
                f"Recurrent reads sequences (n, L, c), given as Points(x, space=1), and not inputs with {state.space} "
                "axes of positions"
            )
        for side in (state.first, state.second):
            _refuse_gaps(side, state.full, self.every)
        if self.every:
            return state.lift(self._all)
        *_, last = self._states(at_matching(state))
        first, second = (replace(side, present=None, graph=None) for side in (last.first, last.second))
        return replace(last, first=first, second=second)

    def _states(self, items: CovState) -> "Iterator[CovState]":
        """The hidden states of equal times, one after another."""
        hidden = None
        for t in range(items.haversine.shape[-3]):
            hidden = self._cell(hidden, _item(items, t))
            yield hidden

    def _cell(self, hidden: CovState | None, item: CovState) -> CovState:
        before = affine(item, self.u, self.b, None)
        if hidden is not None:
            before = add(before, affine(hidden, self.w, None, None))
        return replace(self.activation.propagate(before), width=None)

    def _all(self, state: CovState) -> CovState:
        """All hidden states."""
        if state.full:
            std1, std2 = (self._std(state, index) for index in (0, 1))
            after, axis = list(self._rows(state, std1, std2)), -4
            std1, std2 = beside(std1, 1, 0), beside(std2, 1, 1)
        else:
            after, axis = list(self._states(state)), -3
            std1, std2 = torch.stack([h.std1 for h in after], -3), torch.stack([h.std2 for h in after], -3)
        tangents = [h.tangent for h in after if h.tangent is not None]
        tangent = torch.stack(tangents, axis) if tangents else None
        haversine = torch.stack([h.haversine for h in after], axis)
        return replace(state.with_std(std1, std2, haversine, tangent), width=None)

    def _std(self, state: CovState, index: int) -> Tensor:
        """Standard deviations (*b, L, n1, 1) or (*b, L, 1, n2) of the hidden states of one side of all pairs."""
        side, others = (state.first, state.second)[index], axes_of(state, 1 - index)
        std, present = (None if t is None else t.squeeze(others) for t in (side.std, side.present))
        assert std is not None
        alone = Side(std, present)  # each item with itself
        items = replace(
            state, haversine=torch.zeros_like(std), tangent=None, first=alone, second=alone, full=False, same=None
        )
        return torch.stack([hidden.std1 for hidden in self._states(items)], -3)

    def _rows(self, state: CovState, std1: Tensor, std2: Tensor) -> "Iterator[CovState]":
        """The moments of each hidden state of the first sequence with all those of the second."""
        before, hidden = _shifted(std1), _blank(_row(state, 0))
        for t in range(state.haversine.shape[-4]):
            hidden = self._cell(_later(hidden, before[..., t : t + 1, :, :], std2), _row(state, t))
            yield hidden

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        return RecurrentModule(self, fan_in, fan_out), fan_out

    def gaussian(self, before: bool) -> bool:
        return self.activation.gaussian(True)

    def wanted(self, after: Wanted) -> Wanted:
        cell = self.activation.wanted(after)
        return replace(cell, std=True) if self.every else replace(cell, std=True, full=False, own=False)


def _refuse_gaps(side: Side, full: bool, every: bool) -> None:
    if side.present is None:
        return
    present = side.present.flatten(-4, -3) if full else side.present
    starts = (present[..., 1:, :, :] & ~present[..., :-1, :, :]).sum(-3) + present[..., 0, :, :]
    if (starts > 1).any():
        raise ValueError("a Recurrent layer must not skip items: move those that are missing in front of the sequence")
    if not every and (present.any(-3) & ~present[..., -1, :, :]).any():
        raise ValueError(
            "a Recurrent layer ends with the last item, which is missing in some sequences: "
            "fill up shorter sequences in front, not behind"
        )


def _item(items: CovState, t: int) -> CovState:
    """The moments of item t alone, from those of equal times."""
    return _selected(items, -3, (t, t), space=0)


def _row(state: CovState, t: int) -> CovState:
    """The moments of item t of the first sequence with all items of the second."""
    return _selected(state, -4, (t, 0), space=1)


def _selected(state: CovState, axis: int, at: tuple[int, int], space: int) -> CovState:
    """One place of an axis; the first side is read at at[0], the second at at[1]."""
    first, second = (
        replace(
            side,
            std=side.std.select(axis, i),
            present=None if side.present is None else side.present.select(axis, i),
            own=None,
            points=None,
        )
        for side, i in zip((state.first, state.second), at, strict=True)
    )
    haversine = state.haversine.select(axis, at[0])
    tangent = None if state.tangent is None else state.tangent.select(axis, at[0])
    return replace(state, haversine=haversine, tangent=tangent, first=first, second=second, space=space, full=False)


def _blank(state: CovState) -> CovState:
    tangent = None if state.tangent is None else torch.zeros_like(state.tangent)
    return replace(state, haversine=torch.zeros_like(state.haversine), tangent=tangent)


def _later(row: CovState, std1: Tensor, std2: Tensor) -> CovState:
    """A row of hidden states as the next one sees it, each state of the second sequence one place on."""
    return replace(
        row,
        haversine=_shifted(row.haversine),
        tangent=None if row.tangent is None else _shifted(row.tangent),
        first=replace(row.first, std=std1),
        second=replace(row.second, std=_shifted(std2)),
    )


def _shifted(value: Tensor) -> Tensor:
    """One place on along the positions, with a zero in front."""
    return torch.cat([torch.zeros_like(value[..., :1, :, :]), value[..., :-1, :, :]], -3)


class RecurrentModule(nn.Module):
    """The recurrent network of finite width, on sequences (..., L, c)."""

    def __init__(self, layer: Recurrent, fan_in: int, width: int) -> None:
        super().__init__()
        self.every = layer.every
        self.items = Affine(fan_in, width, float(layer.u), layer.b, standard=False)
        self.hidden = Affine(width, width, float(layer.w), None, standard=False)
        self.activation, _ = layer.activation.module(width, width, width)

    def forward(self, x: Tensor) -> Tensor:
        first, *later = self.items(x).unbind(-2)
        states = [self.activation(first)]
        for item in later:
            states.append(self.activation(item + self.hidden(states[-1])))
        return torch.stack(states, -2) if self.every else states[-1]
