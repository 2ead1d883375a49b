"""The hierarchical kernel against its recursion in loops and the spectrum of theorem 3.1."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.kernels.hierarchical import hierarchical
from tests.laws import obeys_kernel_laws

KINDS = pytest.mark.parametrize("kind", ["nngp", "ntk"])


def by_loops(x, y, sizes, kind):
    """The recursion of the module docstring, for weights of variance two, one patch at a time."""
    groups = [(float(a @ a), float(a @ b), float(b @ b)) for a, b in zip(x.split(1), y.split(1), strict=True)]
    T = [0.0] * len(groups)
    for level, size in enumerate([*sizes, 1]):
        starts = range(0, len(groups), size)
        mean = [tuple(sum(g[k] for g in groups[i : i + size]) / size for k in range(3)) for i in starts]
        through = [sum(T[i : i + size]) / size for i in starts]
        groups, T = (
            [tuple(2 * v for v in m) for m in mean],
            [2 * m[1] + 2 * t for m, t in zip(mean, through, strict=True)],
        )
        if level == len(sizes):
            break
        for i, (p, q, r) in enumerate(groups):
            u = max(-1.0, min(1.0, q / math.sqrt(p * r)))
            k0 = (math.pi - math.acos(u)) / math.pi
            k1 = math.sqrt(p * r) * (math.sqrt(1 - u * u) / math.pi + u * k0)
            groups[i], T[i] = (p / 2, k1 / 2, r / 2), T[i] * k0 / 2
    return groups[0][1] if kind == "nngp" else T[0]


@KINDS
@pytest.mark.parametrize("sizes", [(4,), (2, 3), (3, 2, 2)])
def test_it_is_the_recursion_over_patches(kind, sizes):
    x, y = torch.randn(3, math.prod(sizes)), torch.randn(2, math.prod(sizes))
    expect = torch.tensor([[by_loops(a, b, sizes, kind) for b in y] for a in x])
    assert_close(hierarchical(sizes, kind)(x, y).to_dense().detach(), expect)


@KINDS
def test_it_is_a_kernel_of_images_of_many_channels_too(kind):
    obeys_kernel_laws(hierarchical((2, 2), kind, channels=3), torch.randn(5, 12), torch.randn(4, 12))


@pytest.mark.parametrize(("kind", "smoothness"), [("ntk", 0.5), ("nngp", 1.5)])
def test_eigenvalues_fall_with_the_effective_dimension_of_their_level(kind, smoothness):
    # Two patches on circles: the kernel depends on two angles, and Fourier modes are its eigenfunctions.
    n = 256
    angle = torch.arange(n) * 2 * math.pi / n
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    x = torch.cat([circle[:, None].expand(n, n, 2), circle.expand(n, n, 2)], -1).flatten(0, 1)
    with torch.no_grad():
        row = hierarchical((2, 2), kind)(x[:1], x).to_dense().unflatten(-1, (n, n))[0]
    spectrum = torch.fft.fft2(row).real
    one, both = spectrum[0, 32] / spectrum[0, 16], spectrum[32, 32] / spectrum[16, 16]
    assert -one.log2().item() == pytest.approx(2 * smoothness + 1, abs=0.12)
    assert -both.log2().item() == pytest.approx(2 * smoothness + 2, abs=0.12)


@pytest.mark.parametrize("sizes", [(), (2, 0)])
def test_filters_without_a_size_are_refused(sizes):
    with pytest.raises(ValueError, match="filter_sizes must be positive sizes"):
        hierarchical(sizes)
