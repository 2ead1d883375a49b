"""Bounds of the evidence of a linearised network, by blocks of rows or of parameters.

The expensive term of the evidence is log|I + A| with A = R' J P^-1 J' R / v, over all rows and
outputs, or of J' R R' J, which has the same determinant, over all parameters. By Fischer's
inequality it grows when the matrix is cut into diagonal blocks b along any of its indices,

    log|I + A| <= sum_b log|I + A_bb|,

the less, the larger the blocks, and one block is exact. Blocks of rows cost n b^2 instead of n^3,
and one random block times their number is an unbiased estimate of the sum and of its gradient in
P and v: what to climb where there are many rows. Each output of a row may be a block of its own.

Sources: Immer, van der Ouderaa, van der Wilk, Raetsch & Schoelkopf (2023), "Stochastic Marginal
Likelihood Gradients using Neural Tangent Kernels".
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.models.neural.curvature import Shares, Tangent, explicit, kernels, weighed


@dataclass(frozen=True, eq=False)
class RowBound:
    """An upper bound of log|I + A| by blocks of rows, or an unbiased estimate of one.

    parts : the kernels of the layers in each block, (l, b, b), weighed.
    share : the number of all blocks for each of those.

    >>> from torch import nn
    >>> from kernelfield.models.neural.network import Network
    >>> tangent = Tangent(Network(nn.Linear(1, 1, bias=False), 1, 1), torch.zeros(1, dtype=torch.float64))
    >>> X, one = torch.ones(4, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    >>> [round(RowBound.of(tangent, X, None, size).logdet(one, one).exp().item()) for size in (1, 2, 4)]
    [16, 9, 5]
    """

    parts: list[Tensor]
    share: float

    @classmethod
    def of(
        cls,
        tangent: Tangent,
        X: Tensor,
        root: Tensor | None,
        size: int,
        *,
        apart: bool = False,
        most: int | None = None,
        generator: torch.Generator | None = None,
    ) -> "RowBound":
        """The bound by blocks of `size` rows.

        apart : whether each output is a block of its own.
        most : how many blocks, drawn at random, stand for all; None takes all of them.
        generator : what shuffles the rows and draws the blocks; without one they keep their order.

        Errors: ValueError for blocks without rows.
        """
        if size < 1 or (most is not None and most < 1):
            raise ValueError(f"blocks need at least one row and one block, got size={size} and most={most}")
        order = torch.arange(len(X)) if generator is None else torch.randperm(len(X), generator=generator)
        blocks = order.to(X.device).split(size)
        if most is None or most >= len(blocks):
            chosen = list(range(len(blocks)))
        elif generator is None:
            raise ValueError(f"{most} of {len(blocks)} blocks are drawn at random, which needs a generator")
        else:
            chosen = torch.randperm(len(blocks), generator=generator)[:most].tolist()
        parts = [part for i in chosen for part in cls._kernels(tangent, X, root, blocks[i], apart=apart)]
        return cls(parts, len(blocks) / len(chosen))

    @staticmethod
    def _kernels(tangent: Tangent, X: Tensor, root: Tensor | None, rows: Tensor, *, apart: bool) -> list[Tensor]:
        shares = weighed(tangent.shares(X[rows]), None if root is None else root[rows])
        if not apart:
            return [kernels(shares, shares)]
        single = [_output(shares, k) for k in range(tangent.network.outputs)]
        return [kernels(own, own) for own in single]

    def logdet(self, precision: Tensor, noise: Tensor) -> Tensor:
        """The bound of log|I + A| for precision (1,) or (l,)."""
        if precision.numel() == 1:
            return self.share * torch.log1p(self._eigenvalues / (noise * precision)).sum()
        total = precision.new_zeros(())
        for part in self.parts:
            A = torch.einsum("lij,l->ij", part, 1 / (noise * precision))
            total = total + torch.linalg.cholesky(A + torch.eye(len(A)).to(A)).diagonal().log().sum()
        return 2 * self.share * total

    @cached_property
    def _eigenvalues(self) -> Tensor:
        return torch.cat([torch.linalg.eigvalsh(part.sum(0)) for part in self.parts]).clamp_min(0)


def _output(shares: Shares, k: int) -> Shares:
    """The shares of output k alone."""
    return [type(s)(s.slopes[:, k : k + 1], s.h) for s in shares]


@dataclass(frozen=True, eq=False)
class ParameterBound:
    """An upper bound of log|I + P^-1 H / v| by blocks of parameters.

    eigenvalues : those of the blocks of H in each layer.
    """

    eigenvalues: list[Tensor]

    @classmethod
    def layers(cls, tangent: Tangent, X: Tensor, root: Tensor | None) -> "ParameterBound":
        """By layers, each of which is kept whole."""
        return cls([torch.linalg.eigvalsh(J.mT @ J).clamp_min(0) for J in _jacobians(tangent, X, root)])

    @classmethod
    def diagonal(cls, tangent: Tangent, X: Tensor, root: Tensor | None) -> "ParameterBound":
        """By single parameters."""
        return cls([J.square().sum(0) for J in _jacobians(tangent, X, root)])

    def logdet(self, precision: Tensor, noise: Tensor) -> Tensor:
        """The bound of log|I + P^-1 H / v| for precision (1,) or (l,)."""
        each = precision.expand(len(self.eigenvalues))
        return torch.stack(
            [torch.log1p(v / (noise * d)).sum() for v, d in zip(self.eigenvalues, each, strict=True)]
        ).sum()


def _jacobians(tangent: Tangent, X: Tensor, root: Tensor | None) -> list[Tensor]:
    J = explicit(weighed(tangent.shares(X), root)).flatten(0, 1)
    return list(J.split(tangent.sizes, -1))
