"""What is known of u, row by row, and the covariances of rows.

A row is a value of sum_j c_j(x) D^(o_j) u at a point: a boundary value, an equation, an observation.
Rows of one kind are a group with the same orders. The covariance of two groups is

    sum_jk c_j(x) c'_k(x') (-1)^|o'_k| prod_d k_d^(o_jd + o'_kd)(x_d - x'_d),

gathered from one table an axis and order (`kernels.derived`). A coefficient may have an unknown factor,
in which the matrix is differentiable, as it is in the parameters of the mixtures.

Source: Rasmussen & Williams (2006), section 9.4; Raissi, Perdikaris & Karniadakis (2017), "Machine
learning of linear differential equations using Gaussian processes", for unknown coefficients.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.kernels.derived import Differences, Mixture
from kernelfield.pde.problem import Orders


@dataclass(frozen=True, eq=False)
class Part:
    """coefficient (n,) * D^orders u, times the value of the unknown of a name."""

    coefficient: Tensor
    orders: Orders
    unknown: str | None = None


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one kind: points X (n, d), the parts of what is known there, and its values (n,)."""

    X: Tensor
    parts: tuple[Part, ...]
    targets: Tensor

    @classmethod
    def derivative(cls, X: Tensor, orders: Orders, targets: Tensor | None = None) -> "Rows":
        """Values (n,) of D^orders u, zeros if they are only asked for."""
        one = X.new_ones(len(X))
        return cls(X, (Part(one, orders),), 0 * one if targets is None else targets)


class Covariances:
    """The matrix of the rows of `left` and those of `right` as a function of the kernel; the same list is symmetric."""

    def __init__(self, left: Sequence[Rows], right: Sequence[Rows]) -> None:
        self.left, self.right, self.symmetric = left, right, left is right
        first, second = (torch.cat([rows.X for rows in group]) for group in (left, right))
        self.differences = [Differences.of(a, b) for a, b in zip(first.unbind(-1), second.unbind(-1), strict=True)]
        sums = {
            tuple(i + j for i, j in zip(a.orders, b.orders, strict=True))
            for one in left
            for two in right
            for a in one.parts
            for b in two.parts
        }
        self.orders = [sorted({orders[d] for orders in sums}) for d in range(first.shape[1])]

    def fill(self, mixtures: Sequence[Mixture], unknowns: Mapping[str, Tensor]) -> Tensor:
        """The matrix (n, k)."""
        tables = [
            dict(zip(orders, mixture.table(difference.tau, orders).unbind(0), strict=True))
            for mixture, difference, orders in zip(mixtures, self.differences, self.orders, strict=True)
        ]
        blocks: dict[tuple[int, int], Tensor] = {}
        for i, (one, rows) in enumerate(zip(self.left, _slices(self.left), strict=True)):
            for j, (two, columns) in enumerate(zip(self.right, _slices(self.right), strict=True)):
                if self.symmetric and j > i:
                    continue
                places = [d.left[rows, None] + d.right[columns] for d in self.differences]
                blocks[i, j] = _block(one, two, places, tables, unknowns)
                if self.symmetric and i != j:
                    blocks[j, i] = blocks[i, j].mT
        return torch.cat([torch.cat([blocks[i, j] for j in range(len(self.right))], 1) for i in range(len(self.left))])


def variances(rows: Rows, mixtures: Sequence[Mixture]) -> Tensor:
    """The prior variance (n,) of each row, whose coefficients must be known."""
    zero = rows.X.new_zeros(1)
    value = torch.zeros_like(rows.targets)
    for a in rows.parts:
        for b in rows.parts:
            sign = (-1) ** sum(b.orders)
            for mixture, i, j in zip(mixtures, a.orders, b.orders, strict=True):
                sign = sign * mixture.derivatives(zero, [i + j])[0, 0]
            value = value + sign * a.coefficient * b.coefficient
    return value


def _slices(groups: Sequence[Rows]) -> list[slice]:
    ends = torch.tensor([0, *(len(rows.X) for rows in groups)]).cumsum(0).tolist()
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


def _block(
    one: Rows,
    two: Rows,
    places: Sequence[Tensor],
    tables: Sequence[Mapping[int, Tensor]],
    unknowns: Mapping[str, Tensor],
) -> Tensor:
    gathered: dict[tuple[int, int], Tensor] = {}
    products: dict[Orders, Tensor] = {}
    total = one.X.new_zeros(len(one.X), len(two.X))
    for a in one.parts:
        for b in two.parts:
            orders = tuple(i + j for i, j in zip(a.orders, b.orders, strict=True))
            if orders not in products:
                for d, order in enumerate(orders):
                    if (d, order) not in gathered:
                        flat = tables[d][order].index_select(0, places[d].flatten())
                        gathered[d, order] = flat.view_as(total)
                product = gathered[0, orders[0]]
                for d, order in enumerate(orders[1:], 1):
                    product = product * gathered[d, order]
                products[orders] = product
            left, right = (_factor(part, unknowns) for part in (a, b))
            sign = (-1) ** sum(b.orders)
            total = total + (sign * left)[:, None] * products[orders] * right
    return total


def _factor(part: Part, unknowns: Mapping[str, Tensor]) -> Tensor:
    return part.coefficient if part.unknown is None else part.coefficient * unknowns[part.unknown]
