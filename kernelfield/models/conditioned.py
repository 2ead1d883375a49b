"""A process conditioned on data: what is left to do once the hyperparameters are known.

Sources: Rasmussen & Williams (2006), algorithm 2.1, eq. (2.41)-(2.42) and (5.10)-(5.12);
Shah, Wilson & Ghahramani (2014), lemma 3.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data, Surrogate
from kernelfield.core.mixing import Mixing
from kernelfield.core.posterior import Elliptical
from kernelfield.linalg.dense import Conditional, Dense
from kernelfield.models.covariance import Lazy, matrix, named_values
from kernelfield.models.evidence import Fit, Trend, log_evidence
from kernelfield.models.fit import Search
from kernelfield.models.leave_one_out import gaps, means_without_each, require_determined


@dataclass(frozen=True, eq=False)
class FittedProcess(Surrogate):
    """A process conditioned on data.

    log_evidence in nats; noise a variance in squared units of Y; searches the record of the
    hyperparameter searches, empty if none was made.
    """

    kernel: Kernel
    noise: float
    mixing: Mixing
    data: Data
    trend: Trend
    solver: Dense
    mean: Fit
    weights: Tensor  # A^-1 (Y - H b) (n, m)
    log_evidence: float
    searches: tuple[Search, ...] = ()

    @classmethod
    def of(
        cls,
        kernel: Kernel,
        noise: float,
        mixing: Mixing,
        data: Data,
        trend: Trend,
        solver: Dense,
        searches: tuple[Search, ...] = (),
    ) -> Self:
        """The conditioned process, given the solver of A."""
        m = data.Y.shape[1]
        whitened = solver.whiten(torch.cat([data.Y, trend(data.X)], -1))
        mean = Fit.of(whitened[:, :m], whitened[:, m:])
        weights = solver.unwhiten(mean.residual)
        evidence = log_evidence(solver, mean, mixing)
        return cls(kernel, noise, mixing, data, trend, solver, mean, weights, evidence, searches)

    @property
    def outputs(self) -> int:
        return self.data.Y.shape[1]

    def posterior(self, X: Tensor, *, noise: bool = False) -> Elliptical:
        batch, flat = X.shape[:-1], X.reshape(-1, X.shape[-1])  # one solve for all batches
        cross, H = matrix(self.kernel, self.data.X, flat), self.trend(flat)
        loc = H @ self.mean.coefficients + cross.mT @ self.weights

        def terms() -> tuple[Tensor, Tensor]:
            explained = self.solver.whiten(cross)
            gap = H.mT - self.mean.basis.mT @ explained
            unsure = torch.linalg.solve_triangular(self.mean.factor, gap, upper=False)
            return explained.unflatten(-1, batch).movedim(0, -2), unsure.unflatten(-1, batch).movedim(0, -2)

        scale = Conditional(Lazy(self.kernel, X), terms, self.noise if noise else 0.0, self.outputs)
        return Elliptical(loc.unflatten(0, batch), scale, self.scale_law)

    @cached_property
    def scale_law(self) -> Mixing:
        """The law of s given the data, by which all predictions are mixed."""
        return self.mixing.condition(self.mean.S, self._count(len(self.data.X)))

    def _count(self, n: int) -> int:
        """What n rows tell of s; each coefficient of the mean with its flat prior costs one."""
        return (n - self.mean.basis.shape[1]) * self.outputs

    def condition(self, data: Data) -> "FittedProcess":
        joined = self.data.joined(data)
        with torch.no_grad():
            border = matrix(self.kernel, self.data.X, data.X)
            solver = self.solver.extend(border, system(self.kernel, self.noise, data))
            trend = Trend.of(self.trend.kind, joined.X)
            return FittedProcess.of(self.kernel, self.noise, self.mixing, joined, trend, solver, self.searches)

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (n, m) of each y given all other rows, hyperparameters held.

        Source: Rasmussen & Williams (2006), eq. (5.12), here with the mean's coefficients
        estimated anew without each row.
        """
        gap = gaps(self.weights, self._precision)
        S = self.mean.S - (gap * self.weights).sum(-1)
        spread = self.mixing.means(S, self._count(len(self.data.X) - 1))
        return self.data.Y - gap, (spread / self._precision)[:, None].expand_as(gap)

    def without_each(self, X: Tensor) -> Tensor:
        """Means (q, n, m) at X (q, d) of the n surrogates that each lack one row, hyperparameters held.

        Source: `kernelfield.models.leave_one_out`.
        """
        cross, H = matrix(self.kernel, self.data.X, X), self.trend(X)
        explained = self.solver.whiten(cross)
        unsure = torch.cholesky_solve(H.mT - self.mean.basis.mT @ explained, self.mean.factor)
        smoother = self.solver.unwhiten(explained + self.mean.basis @ unsure)
        loc = H @ self.mean.coefficients + cross.mT @ self.weights
        return means_without_each(loc, smoother, gaps(self.weights, self._precision))

    @cached_property
    def _precision(self) -> Tensor:
        """The diagonal (n,) of P in `kernelfield.models.leave_one_out`.

        Errors: ValueError if a row alone determines a coefficient of the mean.
        """
        unsure = torch.linalg.solve_triangular(self.mean.factor, self.mean.basis.mT, upper=False)
        whole = self.solver.inverse_diagonal()
        return require_determined(whole - self.solver.unwhiten(unsure.mT).square().sum(-1), whole)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        shapes = {f"mixing.{name}": value for name, value in self.mixing.shapes.items()}
        return {**named_values(self.kernel), "noise": self.noise, **shapes}


def system(kernel: Kernel, noise: float, data: Data) -> Tensor:
    """K(X, X) + noise / weight; the one place that would choose another structure."""
    K = matrix(kernel, data.X, data.X).clone()
    K.diagonal().add_(noise if data.weight is None else noise / data.weight)
    return K
