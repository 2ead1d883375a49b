"""Random weights of finite networks: the structures that share one kernel.

With s the standard deviation that a layer gives to each weight, W = s Z and Z (m, n) one of

    iid             independent standard normals;
    orthogonal      sqrt(max(m, n)) times orthonormal rows or columns, uniform among such;
    low_rank        sqrt(m / r) C P: C (m, r) with orthonormal columns, P (r, n) standard normal;
    block_sparse    normals in the blocks of a diagonal of blocks, its rows and columns
                    permuted, divided by the root of the share of entries that are left.

All have uncorrelated entries of variance one and rows and columns that are exchangeable, and
give the Gaussian process of independent weights as the width grows; the corrections at a finite
width differ, and those of a low rank fall with the rank. The matrix of a convolution has the
channels and the taps of its window as columns. Independent are always the biases, the weights of
the layers that see the inputs, and those in attention and recurrent layers.

Source: Nait Saada, Naderi & Tanner (2024), "Beyond IID weights: sparse and low-rank deep neural
networks are also Gaussian processes", definition 1 and section 3.
"""

import copy
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kernelfield.nets.attention import SelfAttention
from kernelfield.nets.dense import Affine
from kernelfield.nets.recurrent import RecurrentModule

Structure = Literal["iid", "orthogonal", "low_rank", "block_sparse"]
STRUCTURES = ("iid", "orthogonal", "low_rank", "block_sparse")


def redraw(
    module: nn.Module, structure: Structure = "iid", *, generator: torch.Generator, share: float = 0.25
) -> nn.Module:
    """A copy of a finite network with fresh weights, of the same variances.

    module: what `Layer.module` made. share: the rank of low_rank as a part of the layer's
    inputs; the part of the entries that block_sparse keeps.

    Errors: ValueError for an unknown structure, a share outside of (0, 1], and a module that has
        parameters of another kind.
    """
    if structure not in STRUCTURES:
        raise ValueError(f"weights must be one of {', '.join(STRUCTURES)}, got {structure!r}")
    if not 0 < share <= 1:
        raise ValueError(f"share is a part of the weights, above 0 and at most 1, got {share}")
    module = copy.deepcopy(module)
    plain = set(_first(module)) | {
        part
        for layer in module.modules()
        if isinstance(layer, SelfAttention | RecurrentModule)
        for part in layer.modules()
    }
    for name, layer in module.named_modules():
        for label, parameter in layer.named_parameters(recurse=False):
            if is_lazy(parameter):
                raise ValueError(f"the weights of {name or 'the module'} have no size yet: call the module once first")
            _fill(layer, label, parameter, "iid" if layer in plain else structure, share, generator)
    return module


def _first(module: nn.Module) -> Iterator[nn.Module]:
    """The layers with weights that see the inputs."""
    if isinstance(module, Affine):
        yield module
        return
    for child in module.children():
        found = list(_first(child))
        yield from found
        if found and isinstance(module, nn.Sequential):
            return


def _fill(
    layer: nn.Module,
    label: str,
    parameter: nn.Parameter,
    structure: Structure,
    share: float,
    generator: torch.Generator,
) -> None:
    """Draw one tensor of parameters in place."""
    match layer, label:
        case Affine(), "weight":
            m, n = parameter.shape
            values = standard(m, n, structure, share, generator) * layer.spreads[0]
        case Affine(), "bias":
            values = _normal(*parameter.shape, generator=generator) * layer.spreads[1]
        case SelfAttention(), "embeddings":
            values = _normal(*parameter.shape, generator=generator)
        case _:
            raise ValueError(
                f"cannot draw the {label} of a {type(layer).__name__}: only networks made by Layer.module say which "
                "variance their weights have"
            )
    with torch.no_grad():
        parameter.copy_(values)


def standard(m: int, n: int, structure: Structure, share: float, generator: torch.Generator) -> Tensor:
    """Z (m, n) of the module docstring, in double precision."""
    match structure:
        case "iid":
            return _normal(m, n, generator=generator)
        case "orthogonal":
            Q = _orthonormal(max(m, n), min(m, n), generator)
            return max(m, n) ** 0.5 * (Q if m >= n else Q.mT)
        case "low_rank":
            rank = min(m, max(1, round(share * n)))
            return (m / rank) ** 0.5 * _orthonormal(m, rank, generator) @ _normal(rank, n, generator=generator)
        case "block_sparse":
            blocks = max(1, round(1 / share))
            rows, columns = _labels(m, blocks, generator), _labels(n, blocks, generator)
            kept = rows[:, None] == columns
            return _normal(m, n, generator=generator) * kept / kept.double().mean().sqrt()


def _orthonormal(m: int, n: int, generator: torch.Generator) -> Tensor:
    """Orthonormal columns (m, n), uniform: the signs of R make the factorisation unique."""
    Q, R = torch.linalg.qr(_normal(m, n, generator=generator))
    return Q * R.diagonal().sign()


def _labels(count: int, blocks: int, generator: torch.Generator) -> Tensor:
    """The blocks of some rows or columns, in random order."""
    labels = torch.arange(count, device=generator.device) * blocks // count
    return labels[torch.randperm(count, generator=generator, device=generator.device)]


def _normal(*size: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*size, generator=generator, dtype=torch.float64, device=generator.device)
