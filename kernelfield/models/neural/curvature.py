"""A network linearised at its parameters: Jacobians in units of the prior, in layers.

Around parameters theta* a network is f(x; theta*) + J(x) (theta - theta*), and a Gaussian prior
with the standard deviations of the architecture, divided by the root of one precision d for each
layer l or one for all, makes it a Gaussian process with the kernel

    k(x, x') = sum_l J_l(x) J_l(x')' / d_l,

where here and everywhere the columns of J are multiplied by the architecture's standard
deviations. A dense layer's part stays in two factors, J_l = slopes x inputs, of which no product
is formed that is not asked for (`nets.jacobian`).

Rows are weighed by the root R of the curvature L = R R' of minus their log-likelihood, which is
sqrt(weight) of a row with Gaussian noise, and diag(pi)^1/2 - pi (pi^1/2)' for classes.

Sources: Khan, Immer, Abedi & Korzepa (2019), "Approximate Inference Turns Deep Networks into
Gaussian Processes"; Immer, Korzepa & Bauer (2021), "Improving predictions of Bayesian neural
nets via local linearization".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from kernelfield.models.neural.network import Network
from kernelfield.nets.jacobian import Factored, Group, Share, groups

LIMIT = 2**24  # numbers of shares that are made at once: 128 MiB in double precision
EXPLICIT = 2048  # parameters, about, of layers that are not dense and are taken together
PROBES = 32  # rows that show what kind of layers a module has

Shares = list[Share]


@dataclass(frozen=True, eq=False)
class Tangent:
    """A network linearised at parameters (p,), in all its layers or in the last one alone.

    >>> network = Network(nn.Linear(2, 1, bias=False), inputs=2, outputs=1)
    >>> tangent = Tangent(network, torch.zeros(2, dtype=torch.float64))
    >>> explicit(tangent.shares(torch.tensor([[1.0, 3.0]], dtype=torch.float64)))  # x / sqrt(2)
    tensor([[[0.7071, 2.1213]]], dtype=torch.float64)
    """

    network: Network
    parameters: Tensor
    last: bool = False

    @cached_property
    def module(self) -> nn.Module:
        """The network, where only what is linearised requires gradients."""
        module = self.network.module(self.parameters)
        if self.last:
            name = last_layer(module)
            for other, parameter in module.named_parameters():
                parameter.requires_grad_(parameter.requires_grad and other.rpartition(".")[0] == name)
        return module

    @cached_property
    def groups(self) -> list[Group]:
        """The parameters that are linearised, by how their Jacobians are made."""
        probe = torch.randn(PROBES, self.network.inputs, generator=torch.Generator().manual_seed(0))
        return groups(self.module, probe.to(self.parameters), EXPLICIT * PROBES * self.network.outputs)

    @cached_property
    def cost(self) -> int:
        """The numbers that the Jacobians of one row are."""
        return sum(group.cost for group in self.groups)

    @cached_property
    def names(self) -> list[tuple[str, ...]]:
        """The tensors of parameters of each layer."""
        found: list[tuple[str, ...]] = []
        for group in self.groups:
            if isinstance(group, Factored):
                for layer in group.names:
                    own = [name for name in self.network.shapes if name.rpartition(".")[0] == layer]
                    found.append(tuple(own))
            else:
                found.append(group.names)
        return found

    @cached_property
    def sizes(self) -> list[int]:
        """The number of parameters of each layer."""
        return [sum(self.network.shapes[name].numel() for name in names) for names in self.names]

    @cached_property
    def labels(self) -> Tensor:
        """The layer of each parameter (p,), -1 for those that are not linearised."""
        label = {name: i for i, names in enumerate(self.names) for name in names}
        parts = [torch.full((shape.numel(),), label.get(name, -1)) for name, shape in self.network.shapes.items()]
        return torch.cat(parts).to(self.parameters.device)

    def squares(self) -> Tensor:
        """The squared lengths (l,) of the layers' parameters, in units of the prior."""
        scaled = (self.parameters / prior_std(self.network).to(self.parameters)).square()
        kept = self.labels >= 0
        return scaled.new_zeros(len(self.names)).index_add(0, self.labels[kept], scaled[kept])

    def values(self, X: Tensor) -> Tensor:
        """The outputs (n, o) of the network."""
        return self.network.call(self.parameters, X)

    def shares(self, X: Tensor) -> Shares:
        """The Jacobians of the layers at X (n, d), in units of the prior."""
        found: Shares = []
        for group in self.groups:
            parts = [group.shares(part) for part in X.split(max(1, LIMIT // group.cost))]
            for shares in zip(*parts, strict=True):
                slopes, h = (torch.cat([getattr(s, name) for s in shares]) for name in ("slopes", "h"))
                found.append(_scaled(Share(slopes, h), self._spreads[len(found)]))
        return found

    def pieces(self, X: Tensor, root: Tensor | None = None, *, cost: int = 0) -> Iterator[Shares]:
        """The shares of X, weighed by `root`, for as many rows at a time as there is room for.

        cost : the numbers that a row becomes in the hands of the caller.
        """
        rows = max(1, LIMIT // max(cost, self.cost))
        roots = [None] * len(X) if root is None else root.split(rows)
        for part, own in zip(X.split(rows), roots, strict=False):
            yield weighed(self.shares(part), own)

    @cached_property
    def _spreads(self) -> list[Tensor]:
        """The prior's standard deviations of each layer: (rows, columns) of a dense one, (1, p) else."""
        stds = self.network.named(prior_std(self.network).to(self.parameters))
        found, dense = [], sum(len(g.names) for g in self.groups if isinstance(g, Factored))
        for i, names in enumerate(self.names):
            if i < dense:  # the weights, then a bias as one more column
                found.append(torch.cat([stds[name].reshape(len(stds[name]), -1) for name in names], 1))
            else:
                found.append(torch.cat([stds[name].flatten() for name in names])[None])
        return found


def prior_std(network: Network) -> Tensor:
    """The prior's standard deviations (p,): the architecture's, and one where it starts at zero."""
    return torch.where(network.prior_std > 0, network.prior_std, 1.0)


def last_layer(module: nn.Module) -> str:
    """The name of the last module that has parameters of its own to train."""
    names = [name.rpartition(".")[0] for name, p in module.named_parameters() if p.requires_grad]
    return names[-1]


def _scaled(share: Share, spread: Tensor) -> Share:
    """A share times standard deviations, which the rows of a dense layer have in common."""
    if share.slopes.shape[-1] == spread.numel():
        return Share(share.slopes * spread.flatten(), share.h)
    return Share(share.slopes, share.h * spread[0])


def weighed(shares: Shares, root: Tensor | None) -> Shares:
    """R' J for R (n, o, o), or (n, 1, 1) where it is a multiple of the unit matrix."""
    if root is None:
        return shares
    if root.shape[-1] == 1:
        return [Share(s.slopes * root, s.h) for s in shares]
    return [Share(root.mT @ s.slopes, s.h) for s in shares]


def explicit(shares: Shares) -> Tensor:
    """The Jacobian (n, o, p) itself, layer by layer."""
    parts = [(s.slopes[..., None] * s.h[:, None, None, :]).flatten(-2) for s in shares]
    return torch.cat(parts, -1)


def divided(shares: Shares, precision: Tensor) -> Shares:
    """Shares over one precision for each layer, precision (1,) or (l,)."""
    each = precision.expand(len(shares))
    return [Share(s.slopes, s.h / d) for s, d in zip(shares, each, strict=True)]


def kernels(first: Shares, second: Shares) -> Tensor:
    """The kernels of the layers at pairs of points, point-major, (l, n1 o, n2 o)."""
    return torch.stack([_flat(a.full_product(b)) for a, b in zip(first, second, strict=True)])


def kernel(first: Shares, second: Shares) -> Tensor:
    """The sum of the layers' kernels at pairs of points, point-major, (n1 o, n2 o)."""
    total = _flat(first[0].full_product(second[0]))
    for a, b in zip(first[1:], second[1:], strict=True):
        total = total + _flat(a.full_product(b))
    return total


def _flat(pairs: Tensor) -> Tensor:
    return pairs.transpose(1, 2).flatten(2).flatten(0, 1)


def kernel_blocks(first: Shares, second: Shares) -> Tensor:
    """The sum of the layers' kernels of outputs at each point, (n, o, o)."""
    parts = [
        torch.einsum("nkw,nlw->nkl", a.slopes, b.slopes) * (a.h * b.h).sum(-1)[:, None, None]
        for a, b in zip(first, second, strict=True)
    ]
    return torch.stack(parts).sum(0)


def class_root(values: Tensor) -> Tensor:
    """R (n, k, k) with R R' = diag(pi) - pi pi' for log odds (n, k).

    >>> root = class_root(torch.zeros(1, 2))
    >>> root @ root.mT
    tensor([[[ 0.2500, -0.2500],
             [-0.2500,  0.2500]]])
    """
    half = (0.5 * values.log_softmax(-1)).exp()
    return torch.diag_embed(half) - half.square()[:, :, None] * half[:, None, :]
