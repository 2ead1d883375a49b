"""The matrix of a spectral mixture, and its slopes, in tiles.

    sum_q w_q cos(2 pi mu_q . tau) prod_d g(tau_d; l_qd),    tau = x - x'

A cosine of a difference is cos a cos b + sin a sin b, so the waves are products of two matrices
of rank two, far cheaper than a cosine an entry; Rahimi & Recht (2007) use the same identity.

Slopes need no more. With G the gradient in the matrix, E_q the envelope, c_i and s_i the cosine and the sine of the
phase of point i, and W = G o E_q,

    sum_j W_ij x_j^p cos = c_i (W x^p c)_i + s_i (W x^p s)_i,
    sum_j W_ij x_j^p sin = s_i (W x^p c)_i - c_i (W x^p s)_i

are sums with the cosine and the sine of 2 pi mu_q . tau. For a Gaussian bump those with p = 0, 1, 2 give the
derivatives in all parameters and in the points.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kernelfield.kernels.bumps import Bump, GaussianBump
from kernelfield.kernels.stationary import coincide

TILE = 2**18  # entries of a tile: enough that the work outweighs its overhead, and few megabytes
LEAST_ROWS = 200  # of a tile of a symmetric matrix

Slopes = Callable[..., list[Tensor | None]]


def waves(bump: Bump, x1: Tensor, x2: Tensor, lengths: Tensor, frequencies: Tensor, weights: Tensor) -> Tensor:
    """The matrix (*b, n, k) at x1 (*b, n, d), x2 (*b, k, d), lengths and frequencies (*b, Q, d), weights (*b, Q).

    Phases are taken about a centre of the points, as they lose digits far from zero.
    """
    centre = x2.detach().mean(-2, keepdim=True)
    a, b = x1 - centre, x2 - centre
    envelope, total = bump.envelope(a, b), x1.new_zeros(())
    for q in range(lengths.shape[-2]):
        turn = 2 * math.pi * frequencies[..., q, :, None]
        wave = (weights[..., q, None, None] * _circle(a @ turn)) @ _circle(b @ turn).mT
        total = torch.addcmul(total, envelope(lengths[..., q, :]), wave)
    return total


def _circle(phase: Tensor) -> Tensor:
    return torch.cat([phase.cos(), phase.sin()], -1)


def slopes_for(bump: Bump, dtype: torch.dtype) -> Slopes | None:
    """The slopes of `waves` in closed form, or None, for what autograd does.

    In single precision it does them all: squares of x, many lengthscales wide, would cancel in those of differences.
    """
    return _gaussian_slopes if isinstance(bump, GaussianBump) and dtype == torch.float64 else None


def _gaussian_slopes(
    G: Tensor,
    wanted: Sequence[bool],
    x1: Tensor,
    x2: Tensor,
    lengths: Tensor,
    frequencies: Tensor,
    weights: Tensor,
) -> list[Tensor | None]:
    """The derivatives of sum(G o waves) in the points and the parameters, those of the points where wanted."""
    centre = x2.mean(-2, keepdim=True)
    a, b = x1 - centre, x2 - centre
    powers = torch.cat([torch.ones_like(b[..., :1]), b, b.square()], -1)
    envelope = GaussianBump().envelope(a, b)
    first, second = (G.new_zeros(*G.shape[:-2], count, a.shape[-1]) for count in G.shape[-2:])
    of_parameters = []
    for q in range(lengths.shape[-2]):
        turn, length = 2 * math.pi * frequencies[..., q, :], lengths[..., q, :]
        one, other = _circle(a @ turn[..., None]), _circle(b @ turn[..., None])
        W = envelope(length).mul_(G)
        weight = weights[..., q, None, None]
        along, across = _turned(W, one, other, powers)
        mass, cosines, squares = along.split([1, b.shape[-1], b.shape[-1]], -1)
        gap = a * mass - cosines
        phase = a * across[..., :1] - across[..., 1 : 1 + b.shape[-1]]
        stretch = (a * (gap - cosines) + squares).sum(-2)
        of_parameters.append(
            [weight[..., 0] * stretch / length**3, -2 * math.pi * weight[..., 0] * phase.sum(-2), mass.sum((-2, -1))]
        )
        if wanted[0]:
            first -= weight * (gap / length[..., None, :].square() + turn[..., None, :] * across[..., :1])
        if wanted[1]:
            along, across = _turned(W.mT, other, one, torch.cat([torch.ones_like(a[..., :1]), a], -1))
            gap = b * along[..., :1] - along[..., 1:]
            second -= weight * (gap / length[..., None, :].square() + turn[..., None, :] * across[..., :1])
    parameters = zip((lengths, frequencies, weights), (-2, -2, -1), zip(*of_parameters, strict=True), strict=True)
    found = [torch.stack(parts, axis).sum_to_size(value.shape) for value, axis, parts in parameters]
    points = zip((first, second), (x1, x2), wanted, strict=False)
    return [*(slope.sum_to_size(x.shape) if w else None for slope, x, w in points), *found]


def _turned(W: Tensor, one: Tensor, other: Tensor, powers: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over j of W_ij powers_j times the cosine and the sine of the phase between i and j, both (*b, n, p)."""
    columns = (other[..., :, None] * powers[..., None, :]).flatten(-2)
    cosine, sine = (W @ columns).unflatten(-1, (2, -1)).unbind(-2)
    c, s = one.split(1, -1)
    return c * cosine + s * sine, s * cosine - c * sine


class Tiled(torch.autograd.Function):
    """formula(x1, x2, *parameters) by tiles of rows, computed again in the backward pass.

    slopes : those of the formula in closed form; None takes them by autograd.

    No tile's graph outlives it, so memory is that of the result. Of a symmetric matrix only the lower
    triangle is computed; points that are differentiated may differ, so theirs is computed whole.
    """

    @staticmethod
    def forward(
        ctx: Any, formula: Callable[..., Tensor], slopes: Slopes | None, x1: Tensor, x2: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.formula, ctx.slopes = formula, slopes
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
        wanted = ctx.needs_input_grad[2:]
        x1, x2, *parameters = ctx.saved_tensors
        totals = [torch.zeros_like(t) for t in ctx.saved_tensors]
        if ctx.lower:
            grad = grad.tril() + grad.triu(1).mT
        slopes = ctx.slopes or partial(_by_autograd, ctx.formula)
        for rows, columns in _tiles(x1, x2, ctx.lower):
            found = slopes(grad[..., rows, columns], wanted, x1[..., rows, :], x2[..., columns, :], *parameters)
            places = totals[0][..., rows, :], totals[1][..., columns, :], *totals[2:]
            for place, slope in zip(places, found, strict=True):
                if slope is not None:
                    place += slope
        return None, None, *(total if w else None for total, w in zip(totals, wanted, strict=True))


def _by_autograd(
    formula: Callable[..., Tensor], G: Tensor, wanted: Sequence[bool], *inputs: Tensor
) -> list[Tensor | None]:
    leaves = [t.detach().requires_grad_(w) for t, w in zip(inputs, wanted, strict=True)]
    with torch.enable_grad():
        tile = formula(*leaves)
    slopes = iter(torch.autograd.grad(tile, [t for t in leaves if t.requires_grad], G))
    return [next(slopes) if t.requires_grad else None for t in leaves]


def _tiles(x1: Tensor, x2: Tensor, lower: bool) -> list[tuple[slice, slice]]:
    """Rows and columns of the tiles; those up to the diagonal's where the matrix is symmetric."""
    n, k = x1.shape[-2], x2.shape[-2]
    size = max(1, TILE // max(1, k))
    if lower:
        size = min(size, max(LEAST_ROWS, math.ceil(n / 4)))  # a coarse staircase saves most of the half
    starts = range(0, max(1, n), size)
    return [(slice(i, i + size), slice(0, min(k, i + size) if lower else k)) for i in starts]
