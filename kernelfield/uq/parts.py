"""Parts of a law: the marginals of some of its points, and the joint laws of blocks of points.

A test set may have more points than a joint law has room for, and a score needs no more than a
part at a time. `rows` is for scores of marginals; `blocks` for joint scores, with one block a batch
entry: `blocks(law, 1)` has the joint law of the outputs of each point.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernelfield.core.convolved import Convolved
from kernelfield.core.pathwise import Pathwise
from kernelfield.core.posterior import Binned, Draws, Elliptical, LazyMatrix, Posterior
from kernelfield.core.quantiles import Quantiles
from kernelfield.uq.laws import Sample


@dataclass(frozen=True, eq=False)
class BlockDiagonal:
    """The matrix (n*m, n*m) with the blocks (n, m, m) on its diagonal, which it is not formed for.

    >>> BlockDiagonal(torch.tensor([[[2.0]], [[3.0]]])).to_dense().tolist()
    [[2.0, 0.0], [0.0, 3.0]]
    """

    blocks: Tensor

    def diagonal(self, *, dim1: int, dim2: int) -> Tensor:
        return self.blocks.diagonal(dim1=dim1, dim2=dim2).flatten()

    def to_dense(self) -> Tensor:
        return torch.block_diag(*self.blocks)


def rows(law: Posterior, chosen: slice) -> Posterior | None:
    """A law with the marginals of some of the n points of `law`; None for a family that is not known here.

    >>> law = Draws(torch.arange(6.0).reshape(1, 6, 1), torch.ones(1), torch.tensor(1.0))
    >>> rows(law, slice(2, 4)).mean.flatten().tolist()
    [2.0, 3.0]
    """
    match law:
        case Draws():
            noise = _some(law.noise, -2, law.values.shape[-2], chosen)
            return replace(law, values=law.values[..., chosen, :], noise=noise)
        case Sample():
            return Sample(law.values[..., chosen, :])
        case Binned():
            edges = _some(law.edges, -3, law.logits.shape[-3], chosen)
            return replace(law, logits=law.logits[..., chosen, :, :], edges=edges)
        case Quantiles():
            point = None if law.point is None else law.point[..., chosen, :]
            return replace(law, values=law.values[..., chosen, :, :], point=point)
        case Elliptical() if law.loc.ndim == 2:
            variances = law.spread[chosen].square().reshape(-1, 1, 1)
            return Elliptical(law.loc[chosen], BlockDiagonal(variances), law.mixing)
        case Pathwise():
            return rows(law.law, chosen)
        case Convolved():
            latent = rows(law.latent, chosen)
            return replace(law, latent=latent) if isinstance(latent, Elliptical) else None
        case _:
            return None


def blocks(law: Posterior, size: int = 1) -> Posterior:
    """The joint laws of n / size blocks of consecutive points, as a batch (n / size,) of laws of `size` points.

    Errors: ValueError if `size` does not divide n; NotImplementedError for a family that has no rule here.

    >>> law = Elliptical(torch.zeros(4, 1), torch.eye(4))
    >>> blocks(law, 2).mean.shape
    torch.Size([2, 2, 1])
    """
    n, m = law.mean.shape
    if size < 1 or n % size:
        rest = n % size if size > 0 else 0
        raise ValueError(f"{n} points do not fall into blocks of {size}; leave out {rest} of them or choose a divisor")
    match law:
        case Draws():
            own = law.noise.ndim == law.values.ndim
            noise = law.noise.expand(law.values.shape) if own else law.noise.expand(n, m)
            values, noise = (_split(t, size, -2).movedim(-3, 0) for t in (law.values, noise))
            return replace(law, values=values, noise=noise)
        case Sample():
            return Sample(_split(law.values, size, -2).movedim(-3, 0))
        case Binned():
            edges = law.edges.expand(n, m, -1)
            return replace(law, logits=_split(law.logits, size, -3), edges=_split(edges, size, -3))
        case Quantiles():
            point = None if law.point is None else _split(law.point, size, -2)
            return replace(law, values=_split(law.values, size, -3), point=point)
        case Elliptical():
            return _elliptical(law, size)
        case Pathwise():
            return blocks(law.law, size)
        case Convolved():
            return Convolved(_elliptical(law.latent, size), law.noise, law.nu)
        case _:
            raise NotImplementedError(f"{type(law).__name__} has no rule for blocks; score its draws, as Sample(...)")


def _elliptical(law: Elliptical, size: int) -> Elliptical:
    width = size * law.loc.shape[-1]
    return replace(law, loc=_split(law.loc, size, -2), scale=_blocks_of(law.scale, width))


def _blocks_of(scale: Tensor | LazyMatrix, width: int) -> Tensor:
    """The blocks (b, width, width) on the diagonal of a matrix."""
    if isinstance(scale, BlockDiagonal) and width % scale.blocks.shape[-1] == 0:
        own = scale.blocks.unflatten(0, (-1, width // scale.blocks.shape[-1]))
        return torch.stack([torch.block_diag(*one) for one in own]) if own.shape[1] > 1 else own[:, 0]
    if width == 1:
        return scale.diagonal(dim1=-2, dim2=-1).reshape(-1, 1, 1)
    dense = scale.to_dense()
    count = len(dense) // width
    return dense.reshape(count, width, count, width).diagonal(dim1=0, dim2=2).movedim(-1, 0)


def _split(values: Tensor, size: int, axis: int) -> Tensor:
    """The axis of points as two: blocks, and points within."""
    return values.unflatten(axis, (-1, size))


def _some(values: Tensor, axis: int, n: int, chosen: slice) -> Tensor:
    """Chosen points of values with an axis of n points, or with none of their own, being shared by all points."""
    if values.ndim < -axis or values.shape[axis] != n:
        return values
    return values.movedim(axis, 0)[chosen].movedim(0, axis)
