"""What a variational process predicts: the law of f, and of y through its likelihood.

With psi = [phi, h] and the law of `models.natural_gradient`, f has the mean centre + psi' a and the covariance
k(x, x') - phi' phi + psi' Lambda^-1 psi, in which what is not known of the mean counts.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data, Surrogate
from kernelfield.core.convolved import Convolved
from kernelfield.core.posterior import Elliptical, Posterior
from kernelfield.linalg.dense import Conditional
from kernelfield.models.classify import Parallel
from kernelfield.models.collapsed import whitened
from kernelfield.models.covariance import named_values
from kernelfield.models.evidence import Trend
from kernelfield.models.fit import Search
from kernelfield.models.likelihoods import Gaussian, Likelihood, StudentT
from kernelfield.models.natural_gradient import Coefficients
from kernelfield.models.observed import Observed
from kernelfield.models.sparse import InducingInputs


@dataclass(frozen=True, eq=False)
class FittedVariationalProcess(Surrogate):
    """A process given the law of the coefficients of an inducing basis, and a likelihood.

    log_bound in nats, of the log evidence, as the last pass over the rows estimated it while it still learned.
    """

    basis: InducingInputs
    likelihood: Likelihood
    trend: Trend
    centre: Tensor  # (m,)
    coefficients: Coefficients
    log_bound: float
    searches: tuple[Search, ...] = ()

    @property
    def outputs(self) -> int:
        return len(self.centre)

    def footprint(self, rows: int) -> int:
        return self.basis.size

    @property
    def kernel(self) -> Kernel:
        """The kernel of the process."""
        return self.basis.kernel

    def _gaussian(self, X: Tensor, noise: float) -> Elliptical:
        """The law of f, with some noise, at X (*b, n, d)."""
        batch, flat = X.shape[:-1], X.reshape(-1, X.shape[-1])
        phi, H, law = self.features(flat), self.trend(flat), self.coefficients
        psi = torch.cat([phi, H.mT])
        prior = self.basis.prior(X)

        def terms(factor: Tensor) -> tuple[Tensor, Tensor]:
            known = torch.linalg.solve_triangular(factor, psi, upper=False)
            return phi.unflatten(-1, batch).movedim(0, -2), known.unflatten(-1, batch).movedim(0, -2)

        loc = (self.centre + psi.mT @ law.mean).unflatten(0, batch)
        parts = [
            Conditional(prior, partial(terms, factor), noise, self.outputs // len(law.factor)) for factor in law.factor
        ]
        return Elliptical(loc, parts[0] if len(parts) == 1 else Parallel(tuple(parts)))

    def posterior(self, X: Tensor, *, noise: bool = False) -> Posterior:
        if noise and isinstance(self.likelihood, Gaussian):
            return self._gaussian(X, self.likelihood.noise)
        law = self._gaussian(X, 0.0)
        if not noise:
            return law
        if isinstance(self.likelihood, StudentT):
            return Convolved(law, self.likelihood.noise, self.likelihood.nu)
        return Observed(law, self.likelihood)

    def features(self, X: Tensor) -> Tensor:
        """phi (k, n) at X (n, d)."""
        return whitened(self._factor, self.basis.cross(X))

    @cached_property
    def _factor(self) -> Tensor:
        return self.basis.factor()

    def condition(self, data: Data) -> "FittedVariationalProcess":
        raise NotImplementedError(
            f"the law of a process with the likelihood {type(self.likelihood).__name__} has no closed form given more "
            "rows; refit with all of them"
        )

    def hyperparameters(self) -> dict[str, float | list[float]]:
        learned = {name: float(getattr(self.likelihood, name)) for name in self.likelihood.learned}
        return {**named_values(self.kernel), **learned}
