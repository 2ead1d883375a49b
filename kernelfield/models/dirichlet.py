"""Classification as regression on the logarithm of Dirichlet parameters, in closed form.

A label seen once is a draw from a categorical law whose parameters have the Dirichlet posterior
with alpha = least + 1[y = c]. Its gamma variables are log-normal of equal mean and variance, so
that the log of each is observed with Gaussian noise of its own,

    noise_ic = log(1 / alpha_ic + 1),    target_ic = log alpha_ic - noise_ic / 2,

and each class is one regression by an exact process. There is nothing to iterate, and
probabilities are E[softmax(f)]. A label counts the more, the smaller `least` is.

Source: Milios, Camoriano, Michiardi, Rosasco & Filippone (2018), "Dirichlet-based Gaussian
Processes for Large-scale Calibrated Classification".
"""

import math
from dataclasses import dataclass

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data, Model
from kernelfield.core.mixing import Unit
from kernelfield.core.posterior import Elliptical
from kernelfield.models.classify import FittedClassifier, Parallel, require_classes, softmax_average
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.process import Process


@dataclass(eq=False, repr=False)
class DirichletClassifier(Model):
    """One exact process a class, each with hyperparameters of its own.

    kernel, restarts, steps : as for `Process`.
    least : what the parameter of a class that was not seen is, above zero.

    Units: Y (n, k) one-hot.
    Errors: ValueError for targets that are not one-hot or a `least` that is not positive, and
        those of `Process`.

    >>> X = torch.linspace(0, 1, 10, dtype=torch.double)[:, None]
    >>> Y = torch.nn.functional.one_hot((X[:, 0] > 0.5).long()).double()
    >>> fitted = DirichletClassifier().fit(Data(X, Y), generator=torch.Generator().manual_seed(0))
    >>> fitted.probabilities(X).argmax(-1).tolist()
    [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    """

    kernel: Kernel | str | None = None
    least: float = 0.01
    restarts: int = 2
    steps: int = 200

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedDirichlet":
        require_classes(data)
        if not (self.least > 0 and math.isfinite(self.least)):
            raise ValueError(f"least must be positive and finite, got {self.least:g}; give a value such as 0.01")
        regression = Process(self.kernel, noise=1.0, restarts=self.restarts, steps=self.steps, learn_noise=False)
        targets, noise = transformed(data.Y, self.least)
        columns = zip(targets.mT[..., None], 1 / noise.mT, strict=True)
        fits = [regression.fit_exact(Data(data.X, y, weight), generator=generator) for y, weight in columns]
        return FittedDirichlet(tuple(fits))


def transformed(Y: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Targets and their noise variances, both (n, k), of one-hot rows Y (n, k)."""
    alpha = Y + least
    noise = (1 / alpha).log1p()
    return alpha.log() - noise / 2, noise


@dataclass(frozen=True, eq=False)
class FittedDirichlet(FittedClassifier):
    """One fitted regression a class."""

    fits: tuple[FittedProcess, ...]

    @property
    def outputs(self) -> int:
        return len(self.fits)

    def latent(self, X: Tensor) -> Elliptical:
        laws = [fit.posterior(X) for fit in self.fits]
        return Elliptical(torch.cat([law.loc for law in laws], -1), Parallel(tuple(law.scale for law in laws)))

    def probabilities(self, X: Tensor) -> Tensor:
        law = self.latent(X)
        return softmax_average(law.loc, law.variance, Unit())

    def hyperparameters(self) -> dict[str, float | list[float]]:
        named = [fit.hyperparameters() for fit in self.fits]
        return {
            f"class {c}: {name}": value
            for c, values in enumerate(named)
            for name, value in values.items()
            if name != "noise"
        }
