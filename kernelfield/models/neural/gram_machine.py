"""A deep kernel machine with values for all that is learned, and the objective they maximise.

The objective is that of `deep_kernel_machine`. A vector holds what moves; the rest stays as it was:

    "all"      Gram matrices, inducing inputs, weights of the inputs, scales, output scale and noise
    "grams"    Gram matrices alone
    "scales"   all but the Gram matrices: with V = I the evidence of the infinitely wide network
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import cholesky
from kernelfield.models.neural.gram_layers import (
    NUGGET,
    Gram,
    Kernel,
    Whitened,
    divergence,
    dual,
    linear,
    squared_exponential,
)
from kernelfield.nets.activation import Activation

Learned = Literal["all", "grams", "scales"]
REACH = 12.0  # of the logarithms of scales about their starts
# Within a reach of 12, fits to 48 rows ended with a bias at the bound and the least noise.
SHAPE_REACH = 3.0  # of scales and biases
USUAL, SPREAD = 1e4, 2.0  # a log normal law of the noise, in units of the least one and of its logarithm
NAMED: dict[str, Kernel] = {"rbf": squared_exponential, "linear": linear}
LOGARITHMIC = ("weights", "scales", "biases", "output", "noise")


@dataclass(frozen=True, eq=False)
class Machine:
    """A deep kernel machine with values for all that is learned.

    Shapes: inducing inputs Z (M, d), weights of the inputs (d,), scales and biases of what each
    kernel sees (L + 1,), output scale and noise (), factors V of the hidden layers (L, M, M).
    """

    kernel: Activation | str
    Z: Tensor
    weights: Tensor
    scales: Tensor
    biases: Tensor
    output: Tensor
    noise: Tensor
    factors: Tensor
    nugget: float = NUGGET

    @property
    def _function(self) -> Kernel:
        return dual(self.kernel) if isinstance(self.kernel, Activation) else NAMED[self.kernel]

    def at(self, X: Tensor, *, joint: bool = False) -> Whitened:
        """The kernel of the outputs at X (*b, q, d), as the inducing points see it."""
        G = Gram.of_inputs(self.Z, X, self.weights, joint=joint)
        steps = zip(self.scales, self.biases, strict=True)
        for V, (scale, bias) in zip(self.factors, steps, strict=False):
            G = Whitened.of(G.through(self._shifted(scale, bias)), self.nugget).learned(V)
        last = self._shifted(self.scales[-1], self.biases[-1])
        return Whitened.of(G.through(lambda *pair: self.output * last(*pair)), self.nugget)

    def _shifted(self, scale: Tensor, bias: Tensor) -> Kernel:
        return lambda *pair: self._function(*(scale * value + bias for value in pair))

    def divergence(self) -> Tensor:
        """The sum over layers of KL(N(0, G_l) | N(0, K(G_{l-1}))), in nats."""
        return sum((divergence(V) for V in self.factors), self.noise.new_zeros(()))

    def spread(self, data: Data) -> Tensor:
        """The noise variance of each row (n,)."""
        return self.noise.expand(len(data.X)) if data.weight is None else self.noise / data.weight

    def log_likelihood(self, data: Data) -> Tensor:
        """log p(Y | G_L) where all rows are inducing points, in their order, and its bound otherwise."""
        seen, spread = self.at(data.X), self.spread(data)
        n, m = data.Y.shape
        constant = 0.5 * n * m * math.log(2 * math.pi)
        if data.X is self.Z:
            factor = cholesky(seen.factor @ seen.factor.mT + torch.diag_embed(spread))
            white = torch.linalg.solve_triangular(factor, data.Y, upper=False)
            return -0.5 * white.square().sum() - m * factor.diagonal().log().sum() - constant
        psi, Y = seen.psi / spread.sqrt(), data.Y / spread.sqrt()[:, None]
        factor = cholesky(torch.eye(len(psi)).to(psi) + psi @ psi.mT)
        white = torch.linalg.solve_triangular(factor, psi @ Y, upper=False)
        logdet = 2 * factor.diagonal().log().sum() + spread.log().sum()
        missed = (seen.own / spread).sum() - psi.square().sum()
        return -0.5 * (Y.square().sum() - white.square().sum() + m * (logdet + missed)) - constant


class Objective:
    """Minus the objective, in nats a number observed, as a function of a vector.

    The vector holds what is learned: lower triangles of V with logarithms on their diagonals, inducing
    inputs, and the logarithms of weights, scales, biases, output scale and noise. A noise that is learned
    has a wide prior: few rows may be learned by heart without it. least : of the noise.
    """

    def __init__(self, machine: Machine, data: Data, nu: float, learn: Learned, least: float) -> None:
        self.first, self.data, self.nu, self.least = machine, data, nu, least
        M = len(machine.Z)
        self.lower = torch.tril_indices(M, M).to(machine.Z.device)
        self.names = () if learn == "grams" else LOGARITHMIC
        self.layers = 0 if learn == "scales" else len(machine.factors)
        self.exact = machine.Z.shape == data.X.shape and torch.equal(machine.Z, data.X)
        self.moves = learn != "grams" and not self.exact
        logs = [getattr(machine, name).log().flatten() for name in self.names]
        triangles = [_logged(V)[tuple(self.lower)] for V in machine.factors[: self.layers]]
        parts = [*triangles, *([machine.Z.flatten()] if self.moves else []), *logs]
        self.sizes = [len(part) for part in parts]
        self.start = torch.cat(parts).cpu().numpy() if parts else np.empty(0)

    @property
    def bounds(self) -> list[tuple[float, float]]:
        free = sum(self.sizes[: len(self.sizes) - len(self.names)])
        box = [(-math.inf, math.inf)] * free
        for name in self.names:
            low = math.log(self.least) if name == "noise" else -math.inf
            reach = SHAPE_REACH if name in ("scales", "biases") else REACH
            box += [(max(v - reach, low), v + reach) for v in getattr(self.first, name).log().flatten().tolist()]
        return box

    def machine(self, theta: Tensor) -> Machine:
        """The machine of a vector."""
        parts = list(theta.to(self.first.Z).split(self.sizes))
        L, M = self.layers, len(self.first.Z)
        factors = self.first.factors
        if L:
            raw = theta.new_zeros(L, M, M).to(self.first.Z)
            raw = raw.index_put((torch.arange(L)[:, None], *self.lower[:, None]), torch.stack(parts[:L]))
            factors = raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())
        Z = parts[L].reshape(self.first.Z.shape) if self.moves else self.first.Z
        logs = parts[len(parts) - len(self.names) :]
        values = {
            name: part.exp().reshape(getattr(self.first, name).shape)
            for name, part in zip(self.names, logs, strict=True)
        }
        return replace(self.first, factors=factors, Z=self.data.X if self.exact else Z, **values)

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(theta).requires_grad_()
        with torch.enable_grad():
            value = self.value(self.machine(leaf))
        (slope,) = torch.autograd.grad(value, leaf)
        return value.item(), slope.numpy()

    def value(self, machine: Machine) -> Tensor:
        """Minus the objective, in nats a number observed."""
        loss = self.nu * machine.divergence() - machine.log_likelihood(self.data)
        if self.names:
            loss = loss + 0.5 * ((machine.noise / (USUAL * self.least)).log() / SPREAD).square()
        return loss / self.data.Y.numel()


def _logged(V: Tensor) -> Tensor:
    """A lower triangular matrix with the logarithm of its diagonal."""
    return V.tril(-1) + torch.diag_embed(V.diagonal().log())
