"""The matrix of a spectral mixture, and its slopes, in tiles.

    sum_q w_q cos(2 pi mu_q . tau) prod_d g(tau_d; l_qd),    tau = x - x'

A cosine of a difference is cos a cos b + sin a sin b, so the waves are products of two matrices
of rank two, far cheaper than a cosine an entry; Rahimi & Recht (2007) use the same identity.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kernelfield.kernels.bumps import Bump
from kernelfield.kernels.stationary import coincide

TILE = 2**18  # entries of a tile: enough that the work outweighs its overhead, and few megabytes
LEAST_ROWS = 200  # of a tile of a symmetric matrix


def waves(bump: Bump, x1: Tensor, x2: Tensor, lengths: Tensor, frequencies: Tensor, weights: Tensor) -> Tensor:
    """The matrix (*b, n, k) at x1 (*b, n, d), x2 (*b, k, d), lengths and frequencies (*b, Q, d), weights (*b, Q).

    Phases are taken about a centre of the points, as they lose digits far from zero.
    """
    centre = x2.detach().mean(-2, keepdim=True)
    a, b = x1 - centre, x2 - centre
    measures = [bump.measure(a[..., d].unsqueeze(-1) - b[..., d].unsqueeze(-2)) for d in range(a.shape[-1])]
    terms = []
    for q in range(lengths.shape[-2]):
        turn = 2 * math.pi * frequencies[..., q, :, None]
        wave = (weights[..., q, None, None] * _circle(a @ turn)) @ _circle(b @ turn).mT
        terms.append(bump.product(measures, lengths[..., q, :]) * wave)
    return sum(terms[1:], terms[0])


def _circle(phase: Tensor) -> Tensor:
    return torch.cat([phase.cos(), phase.sin()], -1)


class Tiled(torch.autograd.Function):
    """formula(x1, x2, *parameters) by tiles of rows, computed again in the backward pass.

    No tile's graph outlives it, so memory is that of the result. Of a symmetric matrix only the lower
    triangle is computed; points that are differentiated may differ, so theirs is computed whole.
    """

    @staticmethod
    def forward(ctx: Any, formula: Callable[..., Tensor], x1: Tensor, x2: Tensor, *parameters: Tensor) -> Tensor:
        ctx.formula = formula
        ctx.lower = not (x1.requires_grad or x2.requires_grad) and coincide(x1, x2)
        ctx.save_for_backward(x1, x2, *parameters)
        tiles = []
        for rows, columns in _tiles(x1, x2, ctx.lower):
            tile = formula(x1[..., rows, :], x2[..., columns, :], *parameters)
            tiles.append(nn.functional.pad(tile, (0, x2.shape[-2] - tile.shape[-1])))
        K = torch.cat(tiles, -2)
        return K.tril() + K.tril(-1).mT if ctx.lower else K

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [
            t.detach().requires_grad_(w) for t, w in zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        ]
        x1, x2, *parameters = inputs
        leaves = [t for t in inputs if t.requires_grad]
        totals = [torch.zeros_like(t) for t in leaves]
        if ctx.lower:
            grad = grad.tril() + grad.triu(1).mT
        with torch.enable_grad():
            for rows, columns in _tiles(x1, x2, ctx.lower):
                tile = ctx.formula(x1[..., rows, :], x2[..., columns, :], *parameters)
                slopes = torch.autograd.grad(tile, leaves, grad[..., rows, columns])
                totals = [total.add_(slope) for total, slope in zip(totals, slopes, strict=True)]
        left = iter(totals)
        return None, *(next(left) if t.requires_grad else None for t in inputs)


def _tiles(x1: Tensor, x2: Tensor, lower: bool) -> list[tuple[slice, slice]]:
    """Rows and columns of the tiles; those up to the diagonal's where the matrix is symmetric."""
    n, k = x1.shape[-2], x2.shape[-2]
    size = max(1, TILE // max(1, k))
    if lower:
        size = min(size, max(LEAST_ROWS, math.ceil(n / 4)))  # a coarse staircase saves most of the half
    starts = range(0, max(1, n), size)
    return [(slice(i, i + size), slice(0, min(k, i + size) if lower else k)) for i in starts]
