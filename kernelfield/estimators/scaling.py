"""Scaling between the user's units and a model's units.

Models see inputs and outputs of weighted mean zero and variance one. With u = (y - shift) / scale
a law of u becomes one of y by `Posterior.affine`, and densities change by the factor 1 / scale:

    log p(y) = log p(u) - sum over rows and outputs of log(scale).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernelfield.core.contracts import Data, LeavesOneOut, Model, Surrogate
from kernelfield.core.posterior import Posterior
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.expansion import FittedExpansion
from kernelfield.models.fitted_variational import FittedVariationalProcess
from kernelfield.models.grid import FittedGrid
from kernelfield.models.iterative_process import FittedIterativeProcess
from kernelfield.models.quantile import FittedQuantileProcess
from kernelfield.models.student_noise import FittedRobustProcess
from kernelfield.models.tensor import FittedTensor
from kernelfield.models.warped import FittedWarped


@dataclass(frozen=True, eq=False)
class Affine:
    """u = (x - shift) / scale, column by column; shift and scale have shape (k,)."""

    shift: Tensor
    scale: Tensor

    @classmethod
    def standardising(cls, x: Tensor, weight: Tensor | None = None) -> "Affine":
        """Zero mean and unit variance of x (n, k), row i counted weight[i] times.

        A constant column is only shifted, to zeros exactly.

        >>> Affine.standardising(torch.tensor([[1.0], [3.0]]), torch.tensor([3.0, 1.0])).shift.item()
        1.5
        """
        constant = x.amin(0) == x.amax(0)
        share = torch.ones_like(x[:, 0]) if weight is None else weight / weight.max()
        share = (share / share.sum()).unsqueeze(-1)
        # Powers of two scale without rounding, so squares neither overflow nor vanish.
        size = torch.ldexp(torch.ones_like(x[0]), torch.frexp(x.abs().amax(0)).exponent - 1)
        unit = x / size
        mean = (share * unit).sum(0)
        spread = (share * (unit - mean).square()).sum(0).sqrt()
        scale = size * spread  # which vanishes for the tiniest numbers, or of a tiny weighted spread
        return cls(torch.where(constant, x[0], size * mean), torch.where(constant | (scale == 0), 1.0, scale))

    @classmethod
    def of_targets(cls, model: Model, Y: Tensor, weight: Tensor | None = None) -> "Affine":
        """What a model is to see of targets Y (n, m): standardised ones, or these themselves if they are counts."""
        if model.scalable:
            return cls.standardising(Y, weight)
        return cls(torch.zeros_like(Y[0]), torch.ones_like(Y[0]))

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale


@dataclass(frozen=True, eq=False)
class Scaled(Surrogate):
    """A surrogate that takes X and answers y in the user's units; itself a surrogate."""

    inner: Surrogate
    to_model_X: Affine
    to_model_y: Affine

    @property
    def outputs(self) -> int:
        return self.inner.outputs

    def footprint(self, rows: int) -> int:
        return self.inner.footprint(rows)

    @property
    def log_evidence(self) -> float:
        """The log density of the training targets, in nats, y in the user's units.

        Errors: NotImplementedError if the model has no evidence.
        """
        if not isinstance(
            self.inner, FittedProcess | FittedIterativeProcess | FittedRobustProcess | FittedWarped | FittedGrid
        ):
            bounded = isinstance(self.inner, FittedExpansion | FittedTensor)
            remedy = "log_bound is a lower bound of it" if bounded else "compare models by their scores"
            raise NotImplementedError(f"{type(self.inner).__name__} has no evidence; {remedy}")
        rows = self.inner.cells.rows if isinstance(self.inner, FittedGrid) else len(self.inner.data.X)
        return self._density(self.inner.log_evidence, rows)

    @property
    def log_bound(self) -> float:
        """A lower bound of the log density of the training targets, in nats, y in the user's units.

        Errors: NotImplementedError if the model is neither one of basis functions nor a tensor.
        """
        if isinstance(self.inner, FittedTensor) and self.inner.data is not None:
            return self._density(self.inner.bound, len(self.inner.data.X))
        if not isinstance(self.inner, FittedExpansion):
            raise NotImplementedError(f"{type(self.inner).__name__} has no bound of its evidence")
        return self._density(self.inner.log_bound, self.inner.moments.rows)

    def _density(self, inside: float, rows: int) -> float:
        """A log density of `rows` targets in model units, in those of the user."""
        return float(inside) - rows * float(self.to_model_y.scale.log().sum())

    def posterior(self, X: Tensor, *, noise: bool = False) -> Posterior:
        law = self.inner.posterior(self.to_model_X(X), noise=noise)
        return law.affine(self.to_model_y.scale, self.to_model_y.shift)

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (n, m) of each y given all other rows, hyperparameters and scaling held.

        Errors: NotImplementedError if the model has no closed form of it.
        """
        mean, variance = self.smoother.leave_one_out()
        return mean * self.to_model_y.scale + self.to_model_y.shift, variance * self.to_model_y.scale.square()

    def without_each(self, X: Tensor) -> Tensor:
        """Means (q, n, m) at X (q, d) of the n surrogates that each lack one row.

        Errors: NotImplementedError if the model has no closed form of it.
        """
        return self.smoother.without_each(self.to_model_X(X)) * self.to_model_y.scale + self.to_model_y.shift

    @property
    def smoother(self) -> LeavesOneOut:
        """The model, as one that leaves rows out.

        Errors: NotImplementedError if it has no closed form of it.
        """
        if not isinstance(self.inner, LeavesOneOut):
            raise NotImplementedError(f"{type(self.inner).__name__} leaves no row out in closed form; refit without it")
        return self.inner

    def hyperparameters(self) -> dict[str, float | list[float]]:
        """The names of the model, in the user's units where they are clear.

        Noise and the kernel's own output scale are in squared units of y (one value an output),
        lengthscales in those of their inputs. In standardised units stay: what is inside a sum
        or product of kernels and not a lengthscale, and one lengthscale for several inputs.
        """
        values = self.inner.hyperparameters()
        square = self.to_model_y.scale.square()
        for name, value in values.items():
            kernel, _, last = name.rpartition(".")
            if name in ("noise", "outputscale") and isinstance(value, float):
                values[name] = _plain(value * square)
            elif last == "lengthscale" and isinstance(self.inner, FittedTensor):  # "modes.1.lengthscale", one a rank
                values[name] = (
                    torch.as_tensor(value).to(square) * self.to_model_X.scale[int(kernel.split(".")[1])]
                ).tolist()
            elif last == "lengthscale" and isinstance(
                self.inner,
                FittedProcess
                | FittedIterativeProcess
                | FittedRobustProcess
                | FittedGrid
                | FittedExpansion
                | FittedVariationalProcess
                | FittedQuantileProcess,
            ):
                scale = self.to_model_X.scale
                if isinstance(self.inner, FittedGrid):  # "axes.1.lengthscale" and what is inside such a kernel
                    scale = scale[list(self.inner.kernel.columns[int(kernel.split(".")[1])])]
                inside = self.inner.kernel
                dims = None if inside is None else inside.get_submodule(kernel).active_dims
                scale = scale if dims is None else scale[dims]
                lengths = torch.as_tensor(value).to(scale).reshape(-1)
                if lengths.shape == scale.shape:
                    values[name] = _plain(lengths * scale)
        return values

    def condition(self, data: Data) -> "Scaled":
        inside = Data(self.to_model_X(data.X), self.to_model_y(data.Y), data.weight)
        return replace(self, inner=self.inner.condition(inside))


def _plain(values: Tensor) -> float | list[float]:
    return values.item() if len(values) == 1 else values.tolist()
