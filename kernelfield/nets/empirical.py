"""Kernels of finite networks, at the parameters that they have.

With f(x) in R^o the outputs of a torch module and J(x) their Jacobian in its p parameters,

    NTK(x, x')_kl = J(x)_k . J(x')_l,    NNGP(x, x') = f(x) . f(x') / o;

the matrices (n1, n2) of `empirical_ntk` are means over outputs, sum_k NTK_kk / o.

Modules must treat the inputs of a batch one by one; parameters with requires_grad=False are
constants. Results are differentiable in the inputs, not in the parameters.

Memory: beside the result, at most `limit` numbers for each of the two sides (or those of one
input and one tensor of parameters, where these are more), and the activations of as many inputs.

Sources: Jacot et al. (2018), "Neural Tangent Kernel", eq. (3); Novak, Sohl-Dickstein &
Schoenholz (2022), "Fast Finite Width Neural Tangent Kernel", section 3.2 for the product with a
vector; Holzmueller et al. (2023), "A Framework and Benchmark for Deep Batch Active Learning for
Regression", section 4.2.4 for sketches of gradients.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp, vmap

from kernelfield.nets.functional import called
from kernelfield.nets.gram import KINDS, Kind
from kernelfield.nets.jacobian import Share, assemble, constants, groups, refuse_unready

LIMIT = 2**25  # 256 MiB in double precision


def empirical_ntk(module: nn.Module, x1: Tensor, x2: Tensor | None = None, *, limit: int = LIMIT) -> Tensor:
    """The mean over outputs of the NTK, (n1, n2); x2=None stands for x1.

    Shapes: x1 (n1, ...) and x2 (n2, ...), batches as the module takes them.
    Errors: ValueError for a module in training mode that drops out or normalises batches.

    >>> empirical_ntk(nn.Linear(2, 1), torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    tensor([[6., 3.],
            [3., 2.]])
    """
    return assemble(module, x1, x2, limit, Share.mean_product)


def full_ntk(module: nn.Module, x1: Tensor, x2: Tensor | None = None, *, limit: int = LIMIT) -> Tensor:
    """The NTK of all pairs of outputs, (n1, n2, o, o); the rest as in `empirical_ntk`."""
    return assemble(module, x1, x2, limit, Share.full_product)


def empirical_nngp(module: nn.Module, x1: Tensor, x2: Tensor | None = None) -> Tensor:
    """The mean over outputs of their products, (n1, n2); the rest as in `empirical_ntk`."""
    first = _outputs(module, x1)
    second = first if x2 is None else _outputs(module, x2)
    return first @ second.mT / first.shape[-1]


def empirical_gram(
    module: nn.Module, x1: Tensor, x2: Tensor | None = None, *, kind: Kind = "nngp", limit: int = LIMIT
) -> Tensor:
    """`empirical_nngp` or `empirical_ntk`, as kind says."""
    _check(kind)
    return empirical_nngp(module, x1, x2) if kind == "nngp" else empirical_ntk(module, x1, x2, limit=limit)


def empirical_diagonal(module: nn.Module, x: Tensor, *, kind: Kind = "nngp", limit: int = LIMIT) -> Tensor:
    """The diagonal (n,) of `empirical_gram`, in time linear in n."""
    _check(kind)
    squares = _outputs(module, x).square() if kind == "nngp" else full_diagonal(module, x, limit=limit)
    return squares.mean(-1)


def full_diagonal(module: nn.Module, x: Tensor, *, limit: int = LIMIT) -> Tensor:
    """The NTK (n, o) of each output of each input with itself."""
    found = groups(module, x, limit)
    parts = [
        torch.cat([sum((s.squares() for s in g.shares(p)), x.new_zeros(())) for p in x.split(max(1, limit // g.cost))])
        for g in found
    ]
    return torch.stack(parts).sum(0)


def ntk_product(module: nn.Module, x1: Tensor, x2: Tensor, V: Tensor, *, limit: int = LIMIT) -> Tensor:
    """sum_jl NTK(x1_i, x2_j)_kl V_jl, by one backward and one forward derivative a column.

    Shapes: V (n2, o) or (n2, o, k); returns (n1, o) or (n1, o, k).
    Memory: the parameters once a column, `limit` numbers at a time (or those of one column), and
        the activations of all inputs.
    """
    refuse_unready(module)
    parameters = constants(module)

    def column(v: Tensor) -> Tensor:
        (slope,) = vjp(lambda theta: _apply(module, theta, x2), parameters)[1](v)
        return jvp(lambda theta: _apply(module, theta, x1), (parameters,), (slope,))[1]

    if V.ndim == 2:
        return column(V)
    columns = max(1, limit // sum(p.numel() for p in parameters.values()))
    return vmap(column, in_dims=-1, out_dims=-1, chunk_size=columns)(V)


def gradient_features(
    module: nn.Module, x: Tensor, size: int, generator: torch.Generator, *, limit: int = LIMIT
) -> Tensor:
    """J(x) S, a random sketch of the gradients, whose products estimate the NTK without bias.

    S (p, size) has independent entries of +-1 / sqrt(size): the features F have the mean
    F(x)_k . F(x')_l = NTK(x, x')_kl, with errors of order 1 / sqrt(size). Each column is one
    forward derivative; the Jacobian is never formed. The same generator gives the same sketch,
    whatever the inputs and the limit.

    Shapes: x (n, ...); returns (n, o, size).
    Memory: as in `ntk_product`.
    """
    refuse_unready(module)
    parameters = constants(module)
    sizes = [p.numel() for p in parameters.values()]

    def column(signs: Tensor) -> Tensor:
        parts = zip(parameters.items(), signs.split(sizes), strict=True)
        slope = {name: part.reshape(p.shape).to(p) for (name, p), part in parts}
        return jvp(lambda theta: _apply(module, theta, x), (parameters,), (slope,))[1]

    found = []
    for start in range(0, size, step := max(1, limit // sum(sizes))):
        signs = [_signs(sum(sizes), generator) for _ in range(start, min(start + step, size))]
        found.append(vmap(column, out_dims=-1)(torch.stack(signs).to(x)))
    return torch.cat(found, -1) / math.sqrt(size)


@dataclass(frozen=True, eq=False)
class Estimate:
    """A mean over random networks, its standard error, and their number."""

    mean: Tensor
    error: Tensor
    count: int


def monte_carlo(
    networks: Iterable[nn.Module], x1: Tensor, x2: Tensor | None = None, *, kind: Kind = "nngp"
) -> Estimate:
    """The mean kernel of several networks, such as redraws of the weights of one.

    Errors: ValueError for fewer than two networks, and for an unknown kind.
    """
    count, mean, spread = 0, x1.new_zeros(()), x1.new_zeros(())
    for network in networks:
        value = empirical_gram(network, x1, x2, kind=kind).detach()
        count += 1
        step = value - mean
        mean = mean + step / count
        spread = spread + step * (value - mean)
    if count < 2:
        raise ValueError(f"a mean with a standard error needs two networks or more, got {count}")
    return Estimate(mean, (spread / (count * (count - 1))).sqrt(), count)


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be 'nngp' or 'ntk', got {kind!r}")


def _signs(count: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.randint(2, (count,), generator=generator, device=generator.device) - 1


def _outputs(module: nn.Module, x: Tensor) -> Tensor:
    """f(x) (n, o), without a graph to the parameters."""
    refuse_unready(module)
    return _apply(module, constants(module), x)


def _apply(module: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    return called(module, parameters, x).reshape(len(x), -1)
