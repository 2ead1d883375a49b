"""Hierarchical kernels: infinitely wide convolutional networks on patches that do not overlap.

With filters of sizes s_1, .., s_L the first layer reads patches of s_1 positions, the next one
s_2 neighbours of those, up to the whole input of s_1 .. s_L positions. With k1 and k0 the
arc-cosine kernels of order one and zero and a mean over the patches that a filter joins, NNGP and
NTK are, from level to level,

    S <- mean k1(S),    T <- mean k0(S) T + mean k1(S),

so that a pair of inputs costs as many evaluations as there are patches. On patches of unit norm
the eigenvalue of a function that joins the patches below one unit of level l falls with its
frequency as |k|^(-2 nu - d(l)), with nu = 1/2 for the NTK and 3/2 for the NNGP and the effective
dimension d(l) = (s_1 - 1) s_2 .. s_l in place of the dimension of the input: functions of few
neighbouring patches are learned first, and without the curse of dimension.

Source: Cagnetta, Favero & Wyart (2023), "What Can Be Learnt With Wide Convolutional Neural
Networks?", section 3 and theorem 3.1.
"""

from collections.abc import Sequence
from functools import reduce
from math import prod
from operator import rshift
from typing import Any

from kernelfield.kernels.network import NetworkKernel
from kernelfield.nets.algebra import Layer
from kernelfield.nets.conv import Conv
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import Kind
from kernelfield.nets.pooling import Flatten
from kernelfield.nets.rectifiers import Relu


def hierarchical(
    filter_sizes: Sequence[int], kind: Kind = "ntk", *, channels: int = 1, w: float = 2**0.5, **kwargs: Any
) -> NetworkKernel:
    """The kernel of a hierarchical network on rows of prod(filter_sizes) positions times channels.

    filter_sizes: from the inputs up, two or more for a hierarchy. w: the initial scale of the
    weights of all layers; sqrt(2) keeps the variance of the input. Scale each patch of
    filter_sizes[0] * channels numbers to unit norm where only its direction matters.

    Errors: ValueError for filters that are no positive sizes.

    >>> import torch
    >>> kernel = hierarchical((2, 3), "nngp")
    >>> [round(v, 4) for v in kernel(torch.eye(6)[:2], diag=True).tolist()]  # 2 x.x / 6
    [0.3333, 0.3333]
    """
    if not filter_sizes or min(filter_sizes) < 1:
        raise ValueError(f"filter_sizes must be positive sizes from the inputs up, got {tuple(filter_sizes)}")
    layers: list[Layer] = []
    for size in filter_sizes:
        layers += [Conv((size,), w, padding="VALID", strides=size), Relu()]
    arch = reduce(rshift, [*layers, Flatten(), Dense(w)])
    return NetworkKernel(arch, kind, shape=(prod(filter_sizes), channels), **kwargs)
