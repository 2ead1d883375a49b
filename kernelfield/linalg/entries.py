"""What tiles of a kernel matrix are made of: radial functions, inner products, their sums and products.

    Radial   k(|z1_i - z2_j|^2)        Inner     f1_i . f2_j
    Sum      sum_q w_q K_q             Product   prod_q K_q

All arithmetic is in place. Squared distances come from one matrix product of centred rows that their norms are
appended to, with the sign and the factor that the profile wants; in one dimension they are differences, which are
exact.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernelfield.linalg.profiles import Profile
from kernelfield.linalg.radial import augmented, refine
from kernelfield.linalg.tiled import Entries, Lazy, Scratch


class Radial(Entries):
    """A radial function of scaled inputs; see `linalg.radial` for the profiles.

    Shapes: z1 (n1, d) and z2 (n2, d), None for z1 with itself; shape a number.
    """

    def __init__(self, z1: Tensor, z2: Tensor | None, profile: Profile, shape: Tensor | None = None) -> None:
        other = z1 if z2 is None else z2
        self.roots = tuple(t for t in (z1, z2, shape) if t is not None)
        self.shape, self.symmetric = (len(z1), len(other)), z2 is None
        self.passes, self.obstacle = profile.passes, profile.obstacle
        self.profile = profile
        self.alpha = None if shape is None else shape.detach()
        with torch.no_grad():
            centre = other.mean(0)
            self.first, self.second = z1 - centre, other - centre
            first, second = (z * profile.stretch**0.5 for z in (self.first, self.second))
            self.stretched = first, second
            self.left, self.right = augmented(first, first=True), augmented(second, first=False).mT.contiguous()
            self.negative_left = -self.left if profile.negative else self.left
        self.scratch = Scratch(self.first)

    def tile(self, rows: slice, columns: slice) -> Tensor:
        a = self._squares(rows, columns, negative=self.profile.negative)
        return self.profile.values(a, self.scratch(1, rows, columns), self.alpha)

    def _squares(self, rows: slice, columns: slice, *, negative: bool) -> Tensor:
        """Stretched squared distances, up to rounding as far as below zero; their negatives if wanted."""
        a = self.scratch(0, rows, columns)
        first, second = self.stretched
        if self.profile.kinked and first.shape[1] == 1:
            return torch.sub(first[rows], second[columns].mT, out=a).square_()
        torch.mm((self.negative_left if negative else self.left)[rows], self.right[:, columns], out=a)
        if self.profile.kinked:
            refine(a, first[rows], second[columns])
        if self.symmetric and rows == columns:
            a.diagonal().zero_()
        return a

    def pull(self, rows: slice, columns: slice, G: Tensor, slopes: list[Tensor]) -> None:
        a = self._squares(rows, columns, negative=False).clamp_min_(0)
        K, S = self.scratch(1, rows, columns), self.scratch(2, rows, columns)
        self.profile.tile(a, a.new_zeros(()), K, S, self.alpha)
        if self.alpha is not None:
            slopes[-1] += (G * self.profile.shape_slope(a, K, self.alpha)).sum() / self.alpha
        W = S.mul_(G).mul_(self.profile.gain)
        first, second = self.first[rows], self.second[columns]
        slopes[0][rows] += W @ second - W.sum(1, keepdim=True) * first
        slopes[0 if self.symmetric else 1][columns] += W.mT @ first - W.sum(0).unsqueeze(1) * second

    def diagonal(self) -> Tensor:
        return self.first.new_ones(self.shape[0])

    def formula(self, lazy: Lazy) -> Any:
        z1, z2 = self.roots[0], self.roots[0 if self.symmetric else 1]
        squares = lazy.rows(z1).sqdist(lazy.columns(z2))
        shape = lazy.whole(self.roots[-1].reshape(1)) if self.profile.shaped else None
        return self.profile.formula(squares * self.profile.stretch, shape)


class Inner(Entries):
    """Inner products of features (n1, r) and (n2, r), None for the first with themselves."""

    passes = 1.0

    def __init__(self, first: Tensor, second: Tensor | None) -> None:
        other = first if second is None else second
        self.roots = (first,) if second is None else (first, second)
        self.shape, self.symmetric = (len(first), len(other)), second is None
        self.first, self.second = first.detach(), other.detach()
        self.turned = self.second.mT.contiguous()
        self.scratch = Scratch(self.first)

    def tile(self, rows: slice, columns: slice) -> Tensor:
        return torch.mm(self.first[rows], self.turned[:, columns], out=self.scratch(0, rows, columns))

    def pull(self, rows: slice, columns: slice, G: Tensor, slopes: list[Tensor]) -> None:
        slopes[0][rows].addmm_(G, self.second[columns])
        slopes[-1][columns].addmm_(G.mT, self.first[rows])

    def diagonal(self) -> Tensor:
        return self.first.square().sum(1)

    def formula(self, lazy: Lazy) -> Any:
        return (lazy.rows(self.roots[0]) * lazy.columns(self.roots[-1])).sum(-1)


class _Combined(Entries):
    """Several entries of one shape."""

    def __init__(self, parts: Sequence[Entries]) -> None:
        self.parts = tuple(parts)
        self.roots = tuple(root for part in parts for root in part.roots)
        self.shape, self.symmetric = parts[0].shape, parts[0].symmetric
        self.passes = sum(part.passes + 1.0 for part in parts)
        self.coarse = any(part.coarse for part in parts)
        self.obstacle = next((part.obstacle for part in parts if part.obstacle), None)

    def _pull_parts(self, rows: slice, columns: slice, worths: list[Tensor], slopes: list[Tensor]) -> None:
        start = 0
        for part, G in zip(self.parts, worths, strict=True):
            stop = start + len(part.roots)
            part.pull(rows, columns, G, slopes[start:stop])
            start = stop


class Sum(_Combined):
    """A sum with weights (q,); None for a plain one."""

    def __init__(self, parts: Sequence[Entries], weights: Tensor | None = None) -> None:
        super().__init__(parts)
        self.factors = [1.0] * len(self.parts) if weights is None else weights.detach().tolist()
        self.weighted = weights is not None
        if weights is not None:
            self.roots = (*self.roots, weights)

    def unscaled(self) -> tuple[Entries, float]:
        if len(self.parts) > 1:
            return self, 1.0
        part, factor = self.parts[0].unscaled()
        return part, factor * self.factors[0]

    def tile(self, rows: slice, columns: slice) -> Tensor:
        (part, *others), (factor, *factors) = self.parts, self.factors
        total = part.tile(rows, columns)
        if factor != 1:
            total.mul_(factor)
        for other, weight in zip(others, factors, strict=True):
            total.add_(other.tile(rows, columns), alpha=weight)
        return total

    def pull(self, rows: slice, columns: slice, G: Tensor, slopes: list[Tensor]) -> None:
        if self.weighted:
            slopes[-1] += torch.stack([(part.tile(rows, columns) * G).sum() for part in self.parts])
        self._pull_parts(rows, columns, [G * factor for factor in self.factors], slopes)

    def diagonal(self) -> Tensor:
        parts = (factor * part.diagonal() for part, factor in zip(self.parts, self.factors, strict=True))
        return torch.stack(list(parts)).sum(0)

    def formula(self, lazy: Lazy) -> Any:
        terms = [part.formula(lazy) for part in self.parts]
        if self.weighted:
            terms = [lazy.whole(w.reshape(1)) * term for w, term in zip(self.roots[-1].unbind(), terms, strict=True)]
        return sum(terms[1:], terms[0])


class Product(_Combined):
    """The product of entries, one by one."""

    def tile(self, rows: slice, columns: slice) -> Tensor:
        first, *others = self.parts
        total = first.tile(rows, columns)
        for other in others:
            total.mul_(other.tile(rows, columns))
        return total

    def pull(self, rows: slice, columns: slice, G: Tensor, slopes: list[Tensor]) -> None:
        values = [part.tile(rows, columns) for part in self.parts]
        worths = [math.prod((v for j, v in enumerate(values) if j != i), start=G) for i in range(len(values))]
        self._pull_parts(rows, columns, worths, slopes)

    def diagonal(self) -> Tensor:
        return torch.stack([part.diagonal() for part in self.parts]).prod(0)

    def formula(self, lazy: Lazy) -> Any:
        return math.prod((part.formula(lazy) for part in self.parts[1:]), start=self.parts[0].formula(lazy))
