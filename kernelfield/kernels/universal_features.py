"""Units of a network as inner products: f(w.x + b) = E[Phi(x).Psi(w, b)] with random Phi and Psi.

A function is a mixture of waves, f(u) = E[c exp(2 pi i xi u)] over frequencies xi drawn in proportion to the size
of its Fourier transform, and a wave in w.x is one of normals g,

    exp(2 pi i xi w.x) = E[exp(a g.x - a^2 |x|^2 / 2) exp(a g.w - a^2 |w|^2 / 2)],    a^2 = 2 pi i xi,

so that weights and inputs part: with p = sqrt(pi |xi|) and s the sign of xi, a = p (1 + i s) and

    Phi_j(x) ~ exp(p g.x + i s (p g.x - p^2 |x|^2)),    Psi_j ~ c exp(2 pi i xi b) times the same of w,

real and imaginary parts side by side. Linear regression on Phi(x) thus learns all layers of such units at once.
The variance grows with exp(2 pi |xi| |x + w|^2): keep |x| and |w| about one. Rows of g that are orthogonal within
blocks of d lower it. "relu" has the features max(0, g.(x, 1)) instead, of which the mean is the arc-cosine kernel

    |x~| |w~| (sin t + (pi - t) cos t) / pi,    x~ = (x, 1), w~ = (w, b), t their angle:

that of max(0, w.x + b) where t is 0 or pi, and smooth between them.

The features of stationary kernels are waves alone, k(x, x') = v E[cos(z.(x - x') / lengthscale)], with normal z for
the RBF kernel and z sqrt(nu / gamma(nu)) for a Matern one, a Student-t law of 2 nu degrees of freedom.

Sources: Sehanobish, Choromanski, Zhao, Dubey & Likhosherstov (2024), "Scalable Neural Network Kernels";
Rahimi & Recht (2007), "Random Features for Large-Scale Kernel Machines"; Yu, Suresh, Choromanski, Holtmann-Rice &
Kumar (2016), "Orthogonal Random Features".
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.kernels.stationary import RBF, Matern

Function = Literal["cos", "sin", "gaussian", "relu"]
FUNCTIONS: tuple[Function, ...] = ("cos", "sin", "gaussian", "relu")


@dataclass(frozen=True, eq=False)
class UniversalFeatures:
    """Draws of Phi and Psi for one function; see the module docstring. "gaussian" is exp(-u^2 / 2).

    frequencies (m,), directions (m, d), or (m, d + 1) for "relu".

    >>> features = UniversalFeatures.drawn("cos", 2, 40_000, generator=torch.Generator().manual_seed(0))
    >>> x, w = torch.tensor([[0.3, 0.5]]).double(), torch.tensor([[0.6, -0.4]]).double()
    >>> value = features.of_inputs(x) @ features.of_units(w, torch.tensor([0.2]).double()).mT
    >>> round(value.item(), 1)  # cos(0.18) = 0.98
    1.0
    """

    function: Function
    frequencies: Tensor
    directions: Tensor

    @classmethod
    def drawn(
        cls, function: Function, inputs: int, count: int, *, generator: torch.Generator, orthogonal: bool = True
    ) -> "UniversalFeatures":
        """Features of `count` directions, in double precision.

        Errors: ValueError for an unknown function or no direction.
        """
        if function not in FUNCTIONS:
            raise ValueError(f"function must be one of {', '.join(FUNCTIONS)}, got {function!r}")
        if count < 1:
            raise ValueError(f"count must be at least one direction, got {count}")
        frequencies = torch.full((count,), 1 / (2 * math.pi), dtype=torch.double)
        if function == "gaussian":
            frequencies *= torch.randn(count, generator=generator, dtype=torch.double)
        d = inputs + (function == "relu")
        return cls(function, frequencies, normals(count, d, generator=generator, orthogonal=orthogonal))

    @property
    def size(self) -> int:
        """The length of Phi and Psi."""
        return len(self.directions) * (1 if self.function == "relu" else 2)

    def of_inputs(self, x: Tensor) -> Tensor:
        """Phi (*b, n, size) at x (*b, n, d)."""
        if self.function == "relu":
            return self._rectified(x, torch.ones_like(x[..., 0]))
        size, phase = self._waves(x)
        return torch.cat([size * phase.cos(), size * phase.sin()], -1)

    def of_units(self, w: Tensor, b: Tensor) -> Tensor:
        """Psi (*b, k, size) of units with weights w (*b, k, d) and biases b (*b, k)."""
        if self.function == "relu":
            return self._rectified(w, b)
        size, phase = self._waves(w)
        # Of a frequency below zero the conjugate is kept, which has the same real part.
        phase = phase + 2 * math.pi * self.frequencies.to(w).abs() * b.unsqueeze(-1)
        if self.function == "sin":
            phase = phase - math.pi / 2
        return torch.cat([size * phase.cos(), -size * phase.sin()], -1)

    def _waves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sizes and phases (*b, n, m), for positive frequencies."""
        square = math.pi * self.frequencies.to(x).abs()
        along = (x @ self.directions.to(x).mT) * square.sqrt()
        return along.exp() / len(square) ** 0.5, along - square * x.square().sum(-1, keepdim=True)

    def _rectified(self, x: Tensor, last: Tensor) -> Tensor:
        lifted = torch.cat([x, last.unsqueeze(-1)], -1)
        return (lifted @ self.directions.to(x).mT).clamp_min(0) * (2 / len(self.directions)) ** 0.5


def normals(count: int, d: int, *, generator: torch.Generator, orthogonal: bool = True) -> Tensor:
    """Standard normal rows (count, d), where asked orthogonal to each other within blocks of d rows.

    >>> z = normals(2, 3, generator=torch.Generator().manual_seed(0))
    >>> abs(round((z[0] @ z[1]).item(), 9))
    0.0
    """
    z = torch.randn(count, d, generator=generator, dtype=torch.double)
    if not orthogonal:
        return z
    blocks = torch.randn(-(-count // d), d, d, generator=generator, dtype=torch.double)
    Q, R = torch.linalg.qr(blocks)
    Q = Q * R.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # which makes Q uniform
    return Q.reshape(-1, d)[:count] * z.norm(dim=-1, keepdim=True)


def spectral_draws(kernel: Kernel, count: int, d: int, *, generator: torch.Generator) -> Tensor:
    """Frequencies z (count, d) of a stationary kernel with lengthscales of one, orthogonal within blocks.

    Errors: ValueError for a kernel whose spectrum is not known here.
    """
    z = normals(count, d, generator=generator)
    if type(kernel) is RBF:
        return z
    if type(kernel) is Matern:
        # The call behind torch.distributions.Gamma.rsample, which takes no generator.
        gamma = torch._standard_gamma(torch.full((count, 1), kernel.nu, dtype=torch.double), generator=generator)
        return z * (kernel.nu / gamma).sqrt()
    raise ValueError(
        f"Fourier features are drawn for RBF and Matern kernels, got {type(kernel).__name__}; use one of those, "
        "or SparseProcess, which takes any kernel"
    )
