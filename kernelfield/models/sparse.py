"""Sparse Gaussian processes: the evidence bound of inducing inputs, at its best in closed form.

A process is seen through its values, with a small noise of their own, at k inducing inputs; what they
leave unknown counts as unknown. Learning takes O(n k^2) a step and O(block k + k^2) memory.

Sources: Titsias (2009), "Variational Learning of Inducing Variables in Sparse Gaussian Processes";
Burt, Rasmussen & van der Wilk (2020) for the choice of inputs, made anew as hyperparameters settle.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import Mixing, Unit
from kernelfield.core.numerics import cholesky, threads_for
from kernelfield.core.streaming import StreamingModel
from kernelfield.models.collapsed import Basis, Rows, gather
from kernelfield.models.covariance import Lazy, matrix
from kernelfield.models.evidence import Trend
from kernelfield.models.expansion import FittedExpansion, centre_of, climb, guess
from kernelfield.models.inducing import by_clusters, by_variance
from kernelfield.models.search import check_settings, kernel_for
from kernelfield.models.streamed import SumsLearner, settled_noise

# Variance of the noise of inducing values, in units of the process's: they may nearly coincide. The data may have a
# noise of 1e-9 in these units, of which the inducing values must not have more.
NUGGET = 1e-11
ROUNDS = 2  # of choosing inputs and learning hyperparameters
ENOUGH = 1e-4  # variance left unexplained, in units of the noise, at which more inputs would not be noticed


@dataclass(frozen=True, eq=False)
class InducingInputs(Basis):
    """Noisy values of the process at inducing inputs Z (k, d).

    apart : sizes of groups of inputs, each of which counts for what those before it leave and has a law of its
        own; () is one joint law.
    """

    kernel: Kernel
    Z: Tensor
    apart: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        return len(self.Z)

    @property
    def groups(self) -> tuple[int, ...]:
        return self.apart or (self.size,)

    def factor(self) -> Tensor:
        return nuggeted(matrix(self.kernel, self.Z, self.Z))

    def cross(self, X: Tensor) -> Tensor:
        return matrix(self.kernel, self.Z, X)

    def variance(self, X: Tensor) -> Tensor:
        return self.kernel(X, diag=True)

    def prior(self, X: Tensor) -> Lazy:
        return Lazy(self.kernel, X)

    @property
    def free(self) -> Tensor:
        return self.Z.flatten()

    def at(self, free: Tensor) -> "InducingInputs":
        return replace(self, Z=free.reshape(self.Z.shape))


def nuggeted(K: Tensor) -> Tensor:
    """The factor of K (k, k) with a small noise of each variable; bounds stay bounds."""
    return cholesky(K + torch.diag_embed(NUGGET * K.diagonal()))


@dataclass(eq=False, repr=False)
class SparseProcess(StreamingModel):
    """A Gaussian process seen through inducing inputs, for many rows.

    kernel, mean, noise, restarts, learn_noise : as for `Process`; the starts race by the exact evidence
        of a sample of 512 rows.
    inducing : the most inducing inputs; fewer are taken where they tell all there is to know.
    choice : "variance", rows where the process is least known given those before; or "kmeans".
    move : whether the inducing inputs are learned too, which takes more steps and fits more with as many.
    steps : the most iterations of each search; 0 keeps the given hyperparameters.

    Units: X and Y as given. Outputs share kernel and noise.
    Errors: ValueError for counts below one, an unknown choice, and those of `Process`.

    >>> X = torch.linspace(0, 1, 400, dtype=torch.double)[:, None]
    >>> fitted = SparseProcess("rbf", inducing=20).fit(Data(X, torch.sin(6 * X)), generator=torch.Generator())
    >>> round(fitted.posterior(X[:1] + 0.5).mean.item(), 3)  # sin(3)
    0.141
    """

    kernel: Kernel | str | None = None
    mean: Literal["constant", "zero", "linear"] = "constant"
    noise: float = 0.1
    inducing: int = 512
    choice: Literal["variance", "kmeans"] = "variance"
    move: bool = False
    restarts: int = 4
    steps: int = 200
    learn_noise: bool = True

    @property
    def mixing(self) -> Mixing:
        """The law of the scale of the process: none."""
        return Unit()

    def fit(self, data: Data, *, generator: torch.Generator) -> FittedExpansion:
        self._check()
        kernel = kernel_for(self.kernel, data.X, data.Y.var(0, correction=0).mean().clamp_min(1e-12))
        trend, centre = Trend.of(self.mean, data.X), centre_of(self.mean, data.Y)
        rows, outputs = Rows.of(data, trend, centre), len(centre)
        noise, few, searches = guess(kernel, self, data, learn_noise=self.learn_noise, generator=generator)
        basis: Basis = InducingInputs(kernel, self._chosen(kernel, data, noise, generator))
        with threads_for(len(data.X)):
            if self.steps and self.learn_noise:
                with torch.no_grad():
                    sums = gather(basis, basis.factor(), rows)
                noise, more = settled_noise(sums, outputs, noise, self.steps)
                searches += more
            for turn in range(ROUNDS if self.steps else 0):
                if turn:
                    basis = InducingInputs(kernel, self._chosen(kernel, data, noise, generator))
                basis, noise, more = climb(
                    basis, few, rows, outputs, noise, learn=self.learn_noise, move=self.move, steps=self.steps
                )
                searches += more
            kernel.requires_grad_(False)
            with torch.no_grad():
                return FittedExpansion.of(basis, noise, trend, centre, rows, searches)

    def learner(self, sample: Data, rows: int, *, generator: torch.Generator) -> SumsLearner:
        return SumsLearner(self.fit(sample, generator=generator), self, whole=len(sample.X) >= rows)

    def _check(self) -> None:
        check_settings(self)
        if self.inducing < 1:
            raise ValueError(f"inducing must be at least 1, got {self.inducing}; 256 is usual")
        if self.choice not in ("variance", "kmeans"):
            raise ValueError(f"choice must be 'variance' or 'kmeans', got {self.choice!r}")

    def _chosen(self, kernel: Kernel, data: Data, noise: float, generator: torch.Generator) -> Tensor:
        if self.choice == "kmeans":
            return by_clusters(data.X, self.inducing, weight=data.weight, generator=generator)
        return by_variance(kernel, data.X, self.inducing, generator=generator, enough=ENOUGH * noise)
