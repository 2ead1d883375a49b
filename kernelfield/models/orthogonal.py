"""Sparse processes in activation functions on the sphere, and in inputs for what these leave.

The first M inducing variables are inner products, in the space of a zonal kernel with the levels f_n, with
activation functions of directions z_m of the sphere, smoothed by tau as heat smoothes:

    u_m = <f, g(z_m .)>,    g = sum_n g_n Z_n,    g_n = sigma_n exp(-tau n (n + d - 2)) where f_n > 0, else 0,
    cov(u_m, f(x)) = sqrt(outputscale) r^p g(z_m.x~ / r),    cov(u_m, u_l) = sum_n g_n^2 / f_n Z_n(z_m.z_l),

sigma_n the levels of the activation: the units of a layer, whose weights z_m are learned. Levels that the
kernel lacks, or beyond those kept, are dropped from both lines alike, so that the bound stays one; tau,
learned, makes the second line finite where that of the activation itself is not (for a ReLU and its own
kernel, sigma_n^2 = f_n up to a factor, and the sum of all Z_n(1) diverges).

K values at inputs v see what the first M leave: their whitened functions are orthogonal to the others. A law of
the coefficients that is independent between the two has a bound between those with u alone and with a joint law
of u and v. It may lie below that with v alone, and learning then turns the activations off; in closed form
the joint law costs no more.

Sources: Dutordoir et al. (2021); Sun, Shi & Grosse (2021), "Neural Networks as Inter-Domain Inducing
Points"; Shi, Titsias & Mnih (2020); Tiao, Dutordoir & Picheny (2023), "Spherical Inducing Features for
Orthogonally-Decoupled Gaussian Processes". Smoothing by tau is ours.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import Mixing, Unit
from kernelfield.core.numerics import threads_for
from kernelfield.core.streaming import StreamingModel
from kernelfield.kernels.spherical import SphericalKernel, count, spherical_kernel
from kernelfield.kernels.zonal import levels_of, multiplicities, zonal
from kernelfield.models.collapsed import Basis, Rows, bound, gather, whitened
from kernelfield.models.covariance import Lazy, matrix
from kernelfield.models.evidence import Trend
from kernelfield.models.expansion import FittedExpansion, centre_of, climb, guess
from kernelfield.models.inducing import by_variance
from kernelfield.models.search import check_settings
from kernelfield.models.sparse import ENOUGH, ROUNDS, nuggeted
from kernelfield.models.streamed import SumsLearner
from kernelfield.nets.activation import Activation
from kernelfield.nets.rectifiers import Relu

SMOOTHINGS = (-6.0, -4.5, -3.0, -1.5, 0.0)  # log tau tried at first: far below the best one the bound is flat
ABSENT = 1e-13  # levels of an activation below this are rounding, as in `kernels.spherical`


@dataclass(frozen=True, eq=False)
class SphericalBasis(Basis):
    """Activations of `directions` (M, d + 1), then noisy values at inputs V (K, d); log_smoothing is log tau, ().

    joint : whether the law of the coefficients is one of both, and not independent between them.
    """

    kernel: SphericalKernel
    activation: Activation
    directions: Tensor
    log_smoothing: Tensor
    V: Tensor
    joint: bool = False

    @property
    def size(self) -> int:
        return len(self.directions) + len(self.V)

    @property
    def groups(self) -> tuple[int, ...]:
        if self.joint or not len(self.V):
            return (self.size,)
        return len(self.directions), len(self.V)

    def factor(self) -> Tensor:
        z, d = self._units, self.directions.shape[1]
        g, kernel = self.levels()
        ratio = torch.where(g != 0, g.square() / torch.where(g != 0, kernel, 1), 0)
        K = zonal(z @ z.mT, ratio, d)
        if len(self.V):
            between = self._activations(self.V)
            K = torch.cat([torch.cat([K, between], 1), torch.cat([between.mT, matrix(self.kernel, self.V, self.V)], 1)])
        return nuggeted(K)

    def cross(self, X: Tensor) -> Tensor:
        first = self._activations(X)
        return torch.cat([first, matrix(self.kernel, self.V, X)]) if len(self.V) else first

    def variance(self, X: Tensor) -> Tensor:
        return self.kernel(X, diag=True)

    def prior(self, X: Tensor) -> Lazy:
        return Lazy(self.kernel, X)

    @property
    def free(self) -> Tensor:
        return torch.cat([self.log_smoothing[None], self.directions.flatten()])

    def at(self, free: Tensor) -> "SphericalBasis":
        return replace(self, log_smoothing=free[0], directions=free[1:].reshape(self.directions.shape))

    @property
    def _units(self) -> Tensor:
        return self.directions / self.directions.norm(dim=-1, keepdim=True)

    def _activations(self, X: Tensor) -> Tensor:
        """cov(u, f(X)) (M, n)."""
        unit, size = self.kernel.lifted(X)
        g, _ = self.levels()
        return zonal(self._units @ unit.mT, g, self.directions.shape[1]) * (self.kernel.outputscale.sqrt() * size)

    def levels(self) -> tuple[Tensor, Tensor]:
        """g_n and the levels of the kernel, (k + 1,) each."""
        d = self.directions.shape[1]
        kernel, n = self.kernel.levels(d), torch.arange(count(d) + 1).to(self.log_smoothing)
        g = activation_levels(self.activation, d).to(n) * (-self.log_smoothing.exp() * n * (n + d - 2)).exp()
        return torch.where(kernel > 0, g, 0), kernel


@lru_cache
def activation_levels(activation: Activation, d: int) -> Tensor:
    """sigma_n of an activation on the sphere in d dimensions; zero where there is rounding alone."""
    values, N = levels_of(activation.phi, d, count(d)), multiplicities(d, count(d))
    return torch.where(values.abs() * N.sqrt() > ABSENT, values, 0.0)


@dataclass(eq=False, repr=False)
class SphericalProcess(StreamingModel):
    """A process with a kernel of the sphere, in M activation functions and at K inputs orthogonal to them.

    family, depth, nu : the kernel, as for `SphericalKernel`.
    activation : of the features; any of `kernelfield.nets` whose modules are elementwise.
    features : the number M of activation functions, whose directions are learned.
    inputs : the most inputs K for what these leave; 0 takes features alone.
    law : "joint", the tightest bound; or "apart", independent between features and inputs, as where batches of rows
        are to cost O(M^2 + K^2).
    mean, noise, restarts, steps, learn_noise : as for `SparseProcess`.

    Units: X and Y as given. Outputs share kernel and noise.
    Errors: ValueError for counts that are too small, and those of the kernel and of `Process`.

    >>> X = torch.linspace(-1, 1, 200, dtype=torch.double)[:, None]
    >>> model = SphericalProcess(features=8, inputs=16, restarts=1)
    >>> fitted = model.fit(Data(X, torch.sin(3 * X)), generator=torch.Generator())
    >>> round(fitted.posterior(X[:1] + 1.5).mean.item(), 2)  # sin(1.5)
    1.0
    """

    family: Literal["arc-cosine", "matern"] = "matern"
    depth: int = 1
    nu: float = 1.5
    activation: Activation = field(default_factory=Relu)
    features: int = 32
    inputs: int = 256
    law: Literal["joint", "apart"] = "joint"
    mean: Literal["constant", "zero", "linear"] = "constant"
    noise: float = 0.1
    restarts: int = 4
    steps: int = 200
    learn_noise: bool = True

    @property
    def mixing(self) -> Mixing:
        """The law of the scale of the process: none."""
        return Unit()

    def fit(self, data: Data, *, generator: torch.Generator) -> FittedExpansion:
        self._check()
        kernel = self._kernel(data)
        trend, centre = Trend.of(self.mean, data.X), centre_of(self.mean, data.Y)
        rows, outputs = Rows.of(data, trend, centre), len(centre)
        noise, few, searches = guess(kernel, self, data, learn_noise=self.learn_noise, generator=generator)
        basis = self._started(kernel, few, data, noise, generator)
        with threads_for(len(data.X)):
            for turn in range(ROUNDS if self.steps else 0):
                if turn:
                    basis = self._joined(basis, data, noise, generator)
                basis, noise, more = climb(
                    basis, few, rows, outputs, noise, learn=self.learn_noise, move=True, steps=self.steps
                )
                searches += more
            kernel.requires_grad_(False)
            with torch.no_grad():
                return FittedExpansion.of(basis, noise, trend, centre, rows, searches)

    def learner(self, sample: Data, rows: int, *, generator: torch.Generator) -> SumsLearner:
        return SumsLearner(self.fit(sample, generator=generator), self, whole=len(sample.X) >= rows)

    def _check(self) -> None:
        check_settings(self)
        if self.law not in ("joint", "apart"):
            raise ValueError(f"law must be 'joint' or 'apart', got {self.law!r}")
        for name, least in (("features", 1), ("inputs", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def _kernel(self, data: Data) -> SphericalKernel:
        spread = data.X.std(0, correction=0)
        size = data.Y.var(0, correction=0).mean().clamp_min(1e-12)
        spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        return spherical_kernel(self.family, spread, size, depth=self.depth, nu=self.nu)

    def _started(
        self, kernel: SphericalKernel, few: Data, data: Data, noise: float, generator: torch.Generator
    ) -> SphericalBasis:
        """Random directions, as smooth as a sample of the rows likes best, and inputs for what they leave."""
        d = data.X.shape[1] + 1
        z = torch.randn(self.features, d, generator=generator, dtype=torch.double).to(data.X)
        rows = Rows.of(few, Trend.of(self.mean, few.X), centre_of(self.mean, few.Y))
        bases = [SphericalBasis(kernel, self.activation, z, z.new_tensor(s), data.X[:0]) for s in SMOOTHINGS]
        with torch.no_grad():
            sums = [gather(basis, basis.factor(), rows) for basis in bases]
            bounds = [bound(part, z.new_tensor(noise), (self.features,), few.Y.shape[1]).item() for part in sums]
        return self._joined(bases[bounds.index(max(bounds))], data, noise, generator)

    def _joined(self, basis: SphericalBasis, data: Data, noise: float, generator: torch.Generator) -> SphericalBasis:
        """The basis with inputs chosen anew."""
        bare = replace(basis, V=data.X[:0])
        if not self.inputs:
            return bare
        with torch.no_grad():
            known = whitened(bare.factor(), bare.cross(data.X))
            V = by_variance(basis.kernel, data.X, self.inputs, generator=generator, known=known, enough=ENOUGH * noise)
        return replace(bare, V=V, joint=self.law == "joint")
