"""Variances and joint draws of a process that is known by products with its kernel matrix.

For covariances k of a point with the data, an approximate solution x of A x = k and r = k - A x,

    k'A^-1 k = k'x + x'r + r'A^-1 r,    0 <= r'A^-1 r <= r'P^-1 r / c,

for a preconditioner with A - c P positive semidefinite, as it is with c = 1 for F F' + noise of a partial Cholesky
factor F, and for a factor in single precision with a c that leaves room for its rounding (`linalg.single`). So
k'x + x'r errs on the safe side, a variance that is never too small, by less than a number that is known for each
point: it converges twice as fast as x, and a point is done once the bound is below the accuracy asked for, relative
to its variance, whatever other points it is solved with.

Joint draws of many points are made by Matheron's rule (`core.pathwise`) from draws of the prior by random waves of its
spectrum; of few, and of kernels without a known spectrum, from a factor of their joint matrix, which the same
identity makes.

Sources: Golub & Meurant (2010), "Matrices, Moments and Quadrature with Applications", for bounds of quadratic forms;
Wilson et al. (2021), "Pathwise Conditioning of Gaussian Processes"; Rahimi & Recht (2007), "Random Features for
Large-Scale Kernel Machines".
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.numerics import NotConverged, rounding
from kernelfield.core.pathwise import Linear
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.kernels.universal_features import spectral_draws
from kernelfield.models.covariance import Lazy
from kernelfield.models.iterative_evidence import System
from kernelfield.models.solver_choice import COLUMNS

ACCURACY = 1e-4  # of variances, relative: a bound for each point, and errors are some times smaller
ROUNDS = 6  # of solving on towards the bound
REFINEMENTS = 3  # of these where P is A but for rounding: P^-1 r, which the bound has paid for, is the step
SAFETY = 0.5  # share of the residual that the bound asks for at which a solve stops
JOINT = 512  # points whose joint draws come from their matrix
WAVES = 4096  # of a prior draw, whose covariances are off by about 1 / sqrt(WAVES) of the variance
WAVE_BLOCK = 2**22  # numbers of a block of their values
DRAWING = 1e-4  # relative residual of the solves of draws


@dataclass(frozen=True, eq=False)
class Solved:
    """X (n, q) with A X ~ K, and R = K - A X, for covariances K (n, q) with the data."""

    K: Tensor
    X: Tensor
    R: Tensor

    @property
    def diagonal(self) -> Tensor:
        """k'A^-1 k (q,), from below."""
        return (self.X * (self.K + self.R)).sum(0)

    def to_dense(self) -> Tensor:
        """K'A^-1 K (q, q), from below in the order of symmetric matrices."""
        half = self.X.mT @ (self.K + self.R)
        return (half + half.mT) / 2


def solve(system: System, K: Tensor, prior: Tensor, accuracy: float) -> Solved:
    """Solve for covariances K (n, q) of points with variances `prior` (q,), to an accuracy of those given data.

    Differentiable in K, whose slope is exact to the residual.
    Errors: warns NotConverged with the bound reached.
    """
    with torch.no_grad():
        known = K.detach()
        parts = [
            _refined(system, k, p, accuracy)
            for k, p in zip(known.split(COLUMNS, 1), prior.detach().split(COLUMNS), strict=True)
        ]
        X, AX = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    return Solved(K, X, K - AX)


def _refined(system: System, K: Tensor, prior: Tensor, accuracy: float) -> tuple[Tensor, Tensor]:
    """X and A X, solved until every point's bound is met or iterations no longer help."""
    floor = rounding(prior, K)  # of a difference from the prior, which no iteration gets below
    X = system.preconditioner.solve(K)
    AX = system.multiply(X)
    open_ = torch.arange(K.shape[1], device=K.device)
    for done in range(ROUNDS + 1):
        k, x = K[:, open_], X[:, open_]
        R = k - AX[:, open_]
        step = system.preconditioner.solve(R)
        bound = (R * step).sum(0) / system.least
        variance = prior[open_] - (x * (k + R)).sum(0)
        allowed = accuracy * variance.clamp_min(0) + floor[open_]
        missed = bound > allowed
        if not missed.any():
            return X, AX
        if done == ROUNDS:
            break
        open_, step = open_[missed], step[:, missed]
        if not (system.factored and done < REFINEMENTS):
            # A residual smaller by a factor makes the bound smaller by its square.
            tolerance = (SAFETY * (allowed / bound).sqrt())[missed].min().item()
            step = system.solution(R[:, missed], tolerance=tolerance, quiet=True).X
        X[:, open_] += step
        AX[:, open_] += system.multiply(step)
    worst = (bound / variance.clamp_min(torch.finfo(K.dtype).tiny))[missed].max().item()
    warnings.warn(
        f"the variances of {int(missed.sum())} points are known within {worst:.2g} of themselves, asked for "
        f"{accuracy:.2g}; raise the noise, or use solver='cholesky'",
        NotConverged,
        stacklevel=2,
    )
    return X, AX


@dataclass(frozen=True, eq=False)
class Conditioned:
    """The scale matrix at points X (*b, q, d) given data, formed only where it is asked for.

        prior - K'A^-1 K + gap' (H'A^-1 H)^-1 gap + noise I,    once for each output

    terms gives the solution for all points and `unsure` (p, Q), the half of the third term.
    """

    prior: Kernel
    X: Tensor
    terms: Callable[[], tuple[Solved, Tensor]]
    noise: float
    outputs: int

    @cached_property
    def _terms(self) -> tuple[Solved, Tensor]:
        return self.terms()

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        solved, unsure = self._terms
        prior = Lazy(self.prior, self.X).diagonal().reshape(-1)
        value = (prior - solved.diagonal).clamp_min(0) + rounding(prior, solved.K)
        value = value + unsure.square().sum(0) + self.noise
        return value.reshape(self.X.shape[:-1]).repeat_interleave(self.outputs, -1)

    def to_dense(self) -> Tensor:
        """The joint matrix (*b, q * m, q * m), point-major."""
        solved, unsure = self._terms
        prior = Lazy(self.prior, self.X).to_dense()
        size = prior.shape[-1]
        pieces = zip(*(part.split(size, 1) for part in (solved.K, solved.X, solved.R, unsure)), strict=True)
        left = torch.stack([Solved(K, X, R).to_dense() - u.mT @ u for K, X, R, u in pieces]).reshape(prior.shape)
        value = prior - left
        value = value + torch.diag_embed(rounding(prior.diagonal(dim1=-2, dim2=-1), solved.K) + self.noise)
        joint = torch.einsum("...ij,kl->...ikjl", value, torch.eye(self.outputs).to(value))
        return joint.flatten(-4, -3).flatten(-2, -1)


def has_waves(kernel: Kernel) -> bool:
    """Whether prior draws of a kernel can be made of random waves."""
    return type(kernel) in (RBF, Matern) and not kernel.batch_shape


@dataclass(frozen=True, eq=False)
class Waves:
    """Draws of a stationary process anywhere, (variance / w)^1/2 sum over j of z_j cos(f_j x) + z'_j sin(f_j x)."""

    kernel: Kernel
    frequencies: Tensor  # (w, d), for lengthscales of one

    @classmethod
    def of(cls, kernel: Kernel, d: int, seed: int, like: Tensor) -> "Waves":
        """WAVES of them; the same seed gives the same ones."""
        size = d if kernel.active_dims is None else len(kernel.active_dims)
        drawn = spectral_draws(kernel, WAVES // 2, size, generator=torch.Generator().manual_seed(seed))
        return cls(kernel, drawn.to(like))

    @property
    def width(self) -> int:
        return 2 * len(self.frequencies)

    def __call__(self, X: Tensor, z: Tensor) -> Tensor:
        """Values (n, k) at X (n, d) for z (width, k)."""
        Z = X if self.kernel.active_dims is None else X[:, self.kernel.active_dims]
        Z = Z / self.kernel.lengthscale
        root = (self.kernel.outputscale / len(self.frequencies)).sqrt()
        cosine, sine = z.chunk(2)
        parts = []
        for block in Z.split(max(1, WAVE_BLOCK // self.width)):
            phase = block @ self.frequencies.mT
            parts.append(phase.cos() @ cosine + phase.sin() @ sine)
        return root * torch.cat(parts)


def paths(
    waves: Waves,
    data_X: Tensor,
    X: Tensor,
    spread: Tensor,
    predict: Callable[[Tensor], Tensor],
    noise: float,
    outputs: int,
) -> Linear:
    """Joint deviations at X (q, d) by Matheron's rule, (*s, q, m).

    spread (n,), the noise variances at the data; predict, the universal kriging prediction (q, k) of observations
    (n, k).
    """
    n, q = len(data_X), len(X)
    widths = [count * outputs for count in (waves.width, n, q if noise else 0)]

    def function(z: Tensor) -> Tensor:
        lead = z.shape[:-1]
        parts = z.reshape(-1, z.shape[-1]).split(widths, -1)
        samples = len(parts[0])
        prior, error, fresh = (part.mT.reshape(-1, outputs * samples) for part in parts)
        observed = waves(data_X, prior) + spread.sqrt()[:, None] * error
        deviation = waves(X, prior) - predict(observed)
        if noise:
            deviation = deviation + math.sqrt(noise) * fresh
        return deviation.reshape(q, outputs, samples).movedim(-1, 0).reshape(*lead, q, outputs)

    return Linear(sum(widths), function)
