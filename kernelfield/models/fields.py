"""Random fields on grids: draws of a Gaussian process at n = m_1 ... m_d points without an n x n matrix.

A product kernel has the covariance K_1 (x) ... (x) K_d there, and roots R_i R_i' = K_i of its factors colour
white noise, (R_1 (x) ... (x) R_d) z, in n sum(m_i) operations. A stationary kernel that is no product has, on evenly
spaced axes, a covariance that is a corner of a circulant one on axes of at least 2 (m_i - 1) points; the
Fourier transform of its first row is its spectrum, and one complex transform of white noise scaled by the root of the
spectrum gives two independent fields. The embedding is exact where the spectrum is nowhere negative; the axes are
lengthened until it is.

Sources: Dietrich & Newsam (1997), "Fast and Exact Simulation of Stationary Gaussian Processes through
Circulant Embedding of the Covariance Matrix"; Wood & Chan (1994), "Simulation of Stationary Gaussian Processes
in [0, 1]^d".
"""

import math
from collections.abc import Sequence

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.numerics import require_memory
from kernelfield.kernels.grid import GridKernel, in_turn
from kernelfield.kernels.spectral import SpectralKernel, SpectralProduct
from kernelfield.kernels.stationary import Stationary
from kernelfield.linalg.kronecker import contract
from kernelfield.models.covariance import matrix

EVEN = 1e-6  # relative differences of the steps of an axis that still counts as evenly spaced
NEGATIVE = 1e-9  # of the largest: a negative eigenvalue of this size is rounding, or as good as none
LENGTHENED = 16  # times the least embedding: the most that is tried, over all axes together
SMALL = 1024  # points up to which a matrix of all pairs is as quick as structure


def sample_field(
    axes: Sequence[Tensor],
    kernel: Kernel | Sequence[Kernel],
    size: int = 1,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws (size, m_1, ..., m_d) of a centred Gaussian process on the product of axes.

    axes : points (m_i,) or (m_i, c_i) of each axis.
    kernel : a GridKernel, a list of one kernel an axis (a product, with the kernels' own scales), a SpectralProduct;
        or any stationary kernel over all columns, which needs evenly spaced axes of one column.

    Errors: ValueError for a kernel without structure on these axes, with the reason.

    >>> from kernelfield.kernels.stationary import Matern
    >>> x = torch.linspace(0, 1, 50, dtype=torch.double)
    >>> sample_field([x, x], [Matern().double(), Matern(0.5).double()], 3).shape
    torch.Size([3, 50, 50])
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    points = [p[:, None] if p.ndim == 1 else p for p in axes]
    shape = [len(p) for p in points]
    with torch.no_grad():
        product = _product(kernel, points)
        if product is not None:
            roots = [root(matrix(k, p, p)) for k, p in zip(product.axes, points, strict=True)]
            z = _normals((math.prod(shape), size), points[0], generator)
            values = contract(roots, z.reshape(*shape, size)) * product.outputscale.sqrt()
            return values.movedim(-1, 0)
        return _stationary(kernel, points, size, generator)


def root(K: Tensor) -> Tensor:
    """R (n, n) with R R' = K, for K positive semi-definite up to rounding, without jitter."""
    values, vectors = torch.linalg.eigh(K)
    return vectors * values.clamp_min(0).sqrt()


def _product(kernel: Kernel | Sequence[Kernel], points: list[Tensor]) -> GridKernel | None:
    if not isinstance(kernel, Kernel):
        kernel = GridKernel(list(kernel), columns=in_turn([p.shape[1] for p in points]))
    elif isinstance(kernel, SpectralProduct):
        kernel = GridKernel.of(kernel)
    if not isinstance(kernel, GridKernel):
        return None
    widths, needed = [p.shape[1] for p in points], [len(own) for own in kernel.columns]
    if widths != needed:
        raise ValueError(f"the kernel has axes of {needed} columns, and the grid has axes of {widths}")
    return kernel


def _stationary(kernel: Kernel, points: list[Tensor], size: int, generator: torch.Generator | None) -> Tensor:
    shape = [len(p) for p in points]
    if math.prod(shape) <= SMALL:
        rows = torch.cartesian_prod(*(torch.arange(m) for m in shape)).reshape(-1, len(shape)).to(points[0].device)
        X = torch.cat([p[rows[:, i]] for i, p in enumerate(points)], -1)
        z = _normals((len(X), size), X, generator)
        return (root(matrix(kernel, X, X)) @ z).mT.reshape(size, *shape)
    if not isinstance(kernel, Stationary | SpectralKernel):
        raise ValueError(
            f"{type(kernel).__name__} has no structure on a grid of {math.prod(shape)} points; use a GridKernel, or a "
            "stationary kernel of this package on evenly spaced axes"
        )
    steps = [_step(p, i) for i, p in enumerate(points)]
    spectrum = _embedded(kernel, shape, torch.stack(steps))
    pairs = (size + 1) // 2
    z = _normals((2, pairs, *spectrum.shape), spectrum, generator)
    axes = tuple(range(1, 1 + len(shape)))
    waves = torch.fft.fftn(torch.complex(z[0], z[1]) * (spectrum / spectrum.numel()).sqrt(), dim=axes)
    corner = waves[(slice(None), *(slice(m) for m in shape))]
    return torch.stack([corner.real, corner.imag], 1).flatten(0, 1)[:size]


def _step(points: Tensor, place: int) -> Tensor:
    if points.shape[1] > 1:
        raise ValueError(
            f"axis {place} has {points.shape[1]} columns; a kernel that is no product needs axes of one, evenly spaced"
        )
    steps = points[:, 0].diff()
    step = steps.mean()
    if not len(steps) or (steps - step).abs().max() > EVEN * step.abs() or step == 0:
        raise ValueError(
            f"axis {place} is not evenly spaced, so that a kernel that is no product has no structure on it; use one "
            "kernel an axis (GridKernel), which takes any points"
        )
    return step


def _embedded(kernel: Kernel, shape: list[int], steps: Tensor) -> Tensor:
    """The spectrum of the least circulant embedding that has no negative eigenvalue."""
    sizes = [2 * (m - 1) for m in shape]
    most = LENGTHENED * math.prod(sizes)
    worst = math.inf
    while math.prod(sizes) <= most:
        require_memory(
            8 * math.prod(sizes) * steps.element_size(),
            steps.device,
            what=f"a circulant embedding of {' x '.join(map(str, shape))} points in {' x '.join(map(str, sizes))}",
            remedy="use a GridKernel or fewer points",
        )
        spectrum = _spectrum(kernel, sizes, steps)
        worst = (spectrum.min() / spectrum.max()).item()
        if worst > -NEGATIVE:
            return spectrum.clamp_min(0)
        sizes = [_good(math.ceil(1.5 * s)) for s in sizes]
    raise ValueError(
        f"the covariance does not vanish at the ends of the axes: its circulant embedding has the eigenvalue "
        f"{worst:.1g} of the largest even on {LENGTHENED} times as many points; use shorter lengthscales, or a "
        "GridKernel, which needs no embedding"
    )


def _spectrum(kernel: Kernel, sizes: list[int], steps: Tensor) -> Tensor:
    lags = [torch.minimum(t := torch.arange(s).to(steps), s - t) * step for s, step in zip(sizes, steps, strict=True)]
    X = torch.cartesian_prod(*lags).reshape(-1, len(sizes))
    column = matrix(kernel, X, torch.zeros_like(X[:1]))[:, 0]
    return torch.fft.fftn(column.reshape(sizes)).real


def _good(size: int) -> int:
    """The next even size without prime factors above five, which transforms are quick for."""
    while True:
        size += size % 2
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


def _normals(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype).to(like.device)
