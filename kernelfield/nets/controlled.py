"""Networks driven by paths: controlled residual networks and their neural signature kernels.

A path x_0, x_1, .., x_T in R^d drives the state of a network of width N, from Y_0 = start B_0,

    Y_{i+1} = Y_i + sum_k (w A_k phi(Y_i) / sqrt(N) + b B_k) (x_{i+1} - x_i)_k,

with standard normal A_k (N, N), B_k and B_0 (N,); standard normal weights read the last state
out. Where one set of weights serves all steps this is a controlled differential equation in
small steps. As N grows the components of the states become independent Gaussian processes, with
the covariance K(i, j) of the states of two paths x and y at i and j,

    K(i+1, j+1) - K(i, j+1) - K(i+1, j) + K(i, j) = (w^2 V(i, j) + b^2) <dx_i, dy_j>,
    K(i, 0) = K(0, j) = start^2,    V(i, j) = E[phi(u) phi(v)],

where (u, v) has the variances K_xx(i, i) and K_yy(j, j) and the covariance K(i, j), so that the
variances along each path come first. Smaller steps lead to the Goursat equation
d2K/ds dt = (w^2 V + b^2) <dx/ds, dy/dt>, which for phi(u) = u, w = 1 and b = 0 is that of the
signature kernel. Row i + 1 of K follows from row i by a cumulative sum, so that T steps on
vectors serve all pairs of paths at once.

Weights of its own for each step leave states of different steps uncorrelated beyond Y_0:

    K(i+1) = K(i) + (w^2 V(i) + b^2) <dx_i, dy_i>,
    T(i+1) = T(i) + (w^2 V(i) + b^2 + w^2 V'(i) T(i)) <dx_i, dy_i>,    V' = E[phi'(u) phi'(v)].

Source: Muca Cirone, Lemercier & Salvi (2023), "Neural signature kernels as infinite-width-depth-
limits of controlled ResNets", theorems 3.1 and 3.2 (in their code the dual of the rectifier has a
misplaced parenthesis); Salvi et al. (2021), "The Signature Kernel is the solution of a Goursat PDE".
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernelfield.nets.activation import Activation
from kernelfield.nets.algebra import Identity, Layer
from kernelfield.nets.dense import Affine, refuse_negative
from kernelfield.nets.points import Points
from kernelfield.nets.state import CovState, Side, Wanted

Scale = float | Tensor


@dataclass(frozen=True)
class Controlled(Layer):
    """The first layer of a network on paths (..., L, d): reads a path, returns one vector.

    phi: an activation, or Identity() for the signature kernel.
    w, b, start: the scales of weights, biases (None for none) and the state at the beginning.
    layers: None where one set of weights drives all steps; the number of steps where each has
        weights of its own.
    refinement: each step of the path is divided into 2^refinement equal ones; the error against
        the kernel of the continuous path halves with each.

    A step from or to a missing position is no step. A path that has ended may thus be padded up
    to the length of others, or continued by its last point.

    Units: inner products of steps are sums over the d components, not means.
    Errors: ValueError for a phi that is no activation, a path without steps or of other than
        `layers` steps, behind another layer, and for the NTK of weights that are shared.

    >>> from kernelfield.nets.gram import gram
    >>> line = Points(torch.tensor([[[0.0], [1.0]]]), space=1)
    >>> round(gram(Controlled(refinement=7), line).item(), 2)  # two lines: I_0(2), 2.2796
    2.27
    """

    phi: Layer = field(default_factory=Identity)
    w: Scale = 1.0
    b: Scale | None = None
    start: Scale = 1.0
    layers: int | None = None
    refinement: int = 0
    sets_width = True

    def __post_init__(self) -> None:
        if not isinstance(self.phi, Activation | Identity):
            raise ValueError(f"phi must be an activation such as Relu(), or Identity(), got {self.phi}")
        for scale in (self.w, self.b, self.start):
            refuse_negative(self, scale)
        if self.refinement < 0 or (self.layers is not None and self.layers < 1):
            raise ValueError(f"layers and refinement count, got layers={self.layers}, refinement={self.refinement}")

    def propagate(self, state: CovState) -> CovState:
        points1, points2 = state.first.points, state.second.points
        if points1 is None or points2 is None or state.space != 1:
            raise ValueError("Controlled reads paths of shape (..., positions, channels): it must be the first layer")
        steps1, steps2 = self._steps(points1), self._steps(points2)
        if not state.paired:
            steps1, steps2 = steps1.unsqueeze(-3), steps2.unsqueeze(-4)
        if self.layers is not None:
            return self._read(state, *self._by_layer(steps1, steps2, tangent=state.tangent is not None))
        if state.tangent is not None:
            raise ValueError(
                "the NTK of a Controlled network is only known where each step has weights of its own: "
                "give layers=, the number of steps, or take kind='nngp'"
            )
        std1, std2 = self._stds(steps1), self._stds(steps2)
        covariance = self._ends(steps1 @ steps2.mT, std1, std2)
        return self._read(state, std1[..., -1], std2[..., -1], covariance, None)

    def module(self, fan_in: int, width: int, fan_out: int) -> tuple[nn.Module, int]:
        return _ControlledModule(self, fan_in, width, fan_out), fan_out

    def gaussian(self, before: bool) -> bool:
        return True

    def wanted(self, after: Wanted) -> Wanted:
        # All pairs of positions are worked on: tiles must be small, whatever is read of the state.
        return Wanted(tangent=after.tangent, full=self.layers is None, points=True, same=after.same)

    def _steps(self, points: Points) -> Tensor:
        """The increments (*b, n, T, d) of paths."""
        steps = points.x.diff(dim=-2)
        if points.present is not None:
            steps = steps * (points.present[..., 1:] & points.present[..., :-1])[..., None]
        count = steps.shape[-2] << self.refinement
        if not count:
            raise ValueError(f"a path needs at least two positions, got the shape {tuple(points.x.shape[-2:])}")
        if self.layers is not None and count != self.layers:
            raise ValueError(f"a network of layers={self.layers} reads as many steps, the paths have {count}")
        return steps

    def _stds(self, steps: Tensor) -> Tensor:
        """Standard deviations (*p, T + 1) of the states along each path, by the triangles i >= j of K_xx."""
        products = steps @ steps.mT
        row = _filled(self.start**2, products[..., 0, :1])
        stds = [_root(row)]
        for i in range(steps.shape[-2] << self.refinement):
            terms = self._terms(products, i, i + 1, stds[-1], torch.cat(stds, -1), row)
            below = torch.cat([row[..., :1], row[..., 1:] + terms[..., :-1]], -1)
            row = torch.cat([below, below[..., -1:] + terms[..., -1:]], -1)  # K(i, i + 1) is K(i + 1, i)
            stds.append(_root(row[..., -1:]))
        return torch.cat(stds, -1)

    def _ends(self, products: Tensor, std1: Tensor, std2: Tensor) -> Tensor:
        """K(T, T) of pairs of paths whose steps have the inner products (*p, T1, T2)."""
        fine = 1 << self.refinement
        count = products.shape[-1] * fine

        def advance(row: Tensor, i: int) -> Tensor:
            for k in range(i * fine, (i + 1) * fine):
                terms = self._terms(products, k, count, std1[..., k, None], std2[..., :-1], row[..., :-1])
                row = torch.cat([row[..., :1], row[..., 1:] + terms], -1)
            return row

        row = _filled(self.start**2, products[..., 0, :1]).expand(*products.shape[:-2], count + 1)
        for i in range(products.shape[-2]):
            if self.refinement and torch.is_grad_enabled():
                row = checkpoint(advance, row, i, use_reentrant=False)
            else:
                row = advance(row, i)
        return row[..., -1]

    def _terms(self, products: Tensor, i: int, count: int, std1: Tensor, std2: Tensor, row: Tensor) -> Tensor:
        """K(i + 1, j + 1) - K(i, j + 1) for j < count, given K(i, j), by a cumulative sum over j."""
        steps = products[..., i >> self.refinement, :]
        if self.refinement:
            steps = steps.repeat_interleave(1 << self.refinement, -1) / 4**self.refinement
        value, _ = self._answer(std1, std2, row, None)
        return (value * steps[..., :count]).cumsum(-1)

    def _answer(
        self, std1: Tensor, std2: Tensor, covariance: Tensor, tangent: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """w^2 V + b^2 and w^2 V' T."""
        after = self.phi.propagate(_state(std1, std2, covariance, tangent))
        b = 0.0 if self.b is None else self.b
        return self.w**2 * after.covariance + b**2, None if after.tangent is None else self.w**2 * after.tangent

    def _by_layer(
        self, steps1: Tensor, steps2: Tensor, *, tangent: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Both standard deviations, covariance and tangent kernel after all layers, each in shape *p."""
        products = [(s * t).sum(-1) for s, t in ((steps1, steps1), (steps2, steps2), (steps1, steps2))]
        fine = 1 << self.refinement
        var1, var2, covariance = (_filled(self.start**2, p[..., 0]) for p in products)
        T = covariance if tangent else None
        for i in range(products[0].shape[-1] * fine):
            first, second, both = (p[..., i // fine] / fine**2 for p in products)
            std1, std2 = _root(var1), _root(var2)
            value, passed = self._answer(std1, std2, covariance, T)
            T = None if T is None or passed is None else T + (value + passed) * both
            covariance = covariance + value * both
            var1 = var1 + self._answer(std1, std1, var1, None)[0] * first
            var2 = var2 + self._answer(std2, std2, var2, None)[0] * second
        return _root(var1), _root(var2), covariance, T

    def _read(
        self, state: CovState, std1: Tensor, std2: Tensor, covariance: Tensor, tangent: Tensor | None
    ) -> CovState:
        """The state after the readout, back among the axes (*b, n1, n2)."""
        if state.paired:
            std1, std2, covariance = (t[..., None] for t in (std1, std2, covariance))
            tangent = None if tangent is None else tangent[..., None]
        tangent = None if tangent is None else tangent + covariance
        return replace(_state(std1, std2, covariance, tangent), paired=state.paired, same=state.same)


def _state(std1: Tensor, std2: Tensor, covariance: Tensor, tangent: Tensor | None) -> CovState:
    bare = CovState(covariance, tangent, Side(std1), Side(std2))
    return bare.with_covariance(std1, std2, covariance, tangent)


def _filled(value: Scale, like: Tensor) -> Tensor:
    return torch.as_tensor(value).to(like) + torch.zeros_like(like)


def _root(variance: Tensor) -> Tensor:
    """The square root, with a finite slope at zero."""
    return torch.where(variance > 0, variance, 1).sqrt() * (variance > 0)


class _ControlledModule(nn.Module):
    def __init__(self, layer: Controlled, channels: int, width: int, fan_out: int) -> None:
        super().__init__()
        self.phi, _ = layer.phi.module(width, width, width)
        self.start = Affine(1, width, float(layer.start), None, standard=False)
        self.layers, self.refinement = layer.layers or 1, layer.refinement
        count = self.layers * channels
        self.fields = nn.ModuleList(Affine(width, width, float(layer.w), layer.b, standard=False) for _ in range(count))
        self.readout = Affine(width, fan_out, 1.0, None, standard=False)

    def forward(self, x: Tensor) -> Tensor:
        fine, d = 1 << self.refinement, x.shape[-1]
        steps = x.diff(dim=-2).repeat_interleave(fine, -2) / fine
        state = self.start(torch.ones_like(x[..., 0, :1]))
        for i in range(steps.shape[-2]):
            answer, first = self.phi(state), i % self.layers * d
            state = state + sum(self.fields[first + k](answer) * steps[..., i, k, None] for k in range(d))
        return self.readout(state)
