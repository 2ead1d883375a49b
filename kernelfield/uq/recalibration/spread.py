"""Scaling of predicted spreads by what held-out rows say, one factor an output.

For a law with mean mu and deviation s, stretched about its mean by c and shifted by b, and z_i =
(y_i - mu_i) / s_i, the factor that matches the mean square of z, and is the likeliest of a Gaussian, is

    c = (mean of z^2)^(1/2),    known to a relative error of about (2 n)^(-1/2).

For other laws the likeliest factor is sought along its logarithm: squares of a Student-t variable
vary much more than its likelihood. The shift of a Gaussian is the mean of errors, weighted by
1 / s^2; that of others is sought with the factor.

Sources: Levi, Gispan, Giladi & Fetaya (2022), "Evaluating and Calibrating Uncertainty Prediction in
Regression Tasks"; Laves, Ihler, Fast, Kahrs & Ortmaier (2020), "Well-Calibrated Regression
Uncertainty in Medical Imaging with Deep Learning", for the closed form.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from kernelfield.core.mixing import Unit
from kernelfield.core.pathwise import Pathwise
from kernelfield.core.posterior import Draws, Elliptical, Posterior
from kernelfield.uq.recalibration.normal_scores import at_normal_score, single
from kernelfield.uq.recalibration.rows import observed
from kernelfield.uq.recalibration.stretched import stretched

SPAN = 12.0  # of the logarithm of a factor, either way
IMPOSSIBLE = 1e300  # the loss where a value has no density


@dataclass(frozen=True)
class StdScaling:
    """One factor for the spread of each output, learned from held-out rows.

    by : "likelihood", or "moments", which matches the mean square of z, and which a finite set of
        functions without noise needs, having no density.
    shift : whether the mean is corrected too, by one number an output.

    Errors: ValueError for fewer than 10 rows (they tell the factor to 22%), errors that are all
    zero, or moments of a law without variance.

    >>> law = Elliptical(torch.zeros(10, 1), torch.eye(10))
    >>> fitted = StdScaling().fit(law, torch.tensor([-2.0, 2.0] * 5)[:, None])
    >>> fitted.factor.tolist()
    [2.0]
    """

    by: Literal["likelihood", "moments"] = "likelihood"
    shift: bool = False
    least: ClassVar[int] = 10

    def fit(
        self, law: Posterior, y: Tensor, *, X: Tensor | None = None, generator: torch.Generator | None = None
    ) -> "FittedStdScaling":
        if self.by not in ("likelihood", "moments"):
            raise ValueError(f"by must be 'likelihood' or 'moments', got {self.by!r}")
        y = observed(law, y, least=self.least, task="scaling of deviations")
        with torch.no_grad():
            _require_errors(law, y)
            found = _matching if self.by == "moments" or _gaussian(law) else _likeliest
            factor, shift = found(law, y, self.shift)
        return FittedStdScaling(factor, shift, len(y), self.by)


@dataclass(frozen=True, eq=False)
class FittedStdScaling:
    """Factors and shifts (m,) learned from so many rows; shifts in units of y."""

    factor: Tensor
    shift: Tensor
    rows: int
    by: str

    def apply(self, law: Posterior, X: Tensor | None = None) -> Posterior:
        """The law, stretched; ValueError for another number of outputs."""
        if law.mean.shape[-1] != len(self.factor):
            raise ValueError(f"scaling was learned for {len(self.factor)} outputs, got a law of {law.mean.shape[-1]}")
        return stretched(law, self.factor, self.shift)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {"factor": self.factor.tolist(), "shift": self.shift.tolist()}

    def notes(self) -> list[str]:
        error = 100 / math.sqrt(2 * self.rows)
        return [
            f"Predicted deviations were multiplied by {', '.join(f'{c:.4g}' for c in self.factor.tolist())}, "
            f"learned by {self.by} from {self.rows} held-out rows and known to about {error:.2g}%."
        ]


def _require_errors(law: Posterior, y: Tensor) -> None:
    exact = ((y - law.mean) == 0).all(0)
    if exact.any():
        output = int(exact.nonzero()[0])
        raise ValueError(
            f"all {len(y)} errors of output {output} are zero, so that no spread is the likeliest; "
            "calibrate on rows that the model was not fitted to"
        )


def _gaussian(law: Posterior) -> bool:
    match law:
        case Elliptical(mixing=Unit()) | Pathwise(law=Elliptical(mixing=Unit())):
            return True
        case Draws():
            return single(law)
    return False


def _matching(law: Posterior, y: Tensor, shifting: bool) -> tuple[Tensor, Tensor]:
    """The closed form."""
    error, precision = y - law.mean, 1 / law.variance
    if not (precision > 0).all():
        raise ValueError("the law has no variance to match; use StdScaling(by='likelihood')")
    shift = (precision * error).sum(0) / precision.sum(0) if shifting else torch.zeros_like(error[0])
    return (precision * (error - shift).square()).mean(0).sqrt(), shift


def _likeliest(law: Posterior, y: Tensor, shifting: bool) -> tuple[Tensor, Tensor]:
    """The likeliest factor and shift, output by output."""
    half = law.variance.sqrt().median(0).values
    if not half.isfinite().all():
        one = torch.ones_like(law.mean)
        half = ((at_normal_score(law, one) - at_normal_score(law, -one)) / 2).median(0).values
    error = y - law.mean
    factor = (error.abs().median(0).values / half).clamp_min(1e-6).log()
    shift = error.median(0).values / half
    pairs = []
    for output, unit in enumerate(half.tolist()):
        first = np.array([factor[output].item(), shift[output].item()][: 1 + shifting])
        best = _search(law, y, output, unit, first)
        pairs.append((math.exp(best[0]), best[1] * unit if shifting else 0.0))
    found = law.mean.new_tensor(pairs)
    return found[:, 0], found[:, 1]


def _search(law: Posterior, y: Tensor, output: int, unit: float, first: np.ndarray) -> np.ndarray:
    """The log factor, and the shift in units where `first` has one, of greatest likelihood."""
    mean = law.mean

    def loss(theta: np.ndarray) -> float:
        factor = math.exp(float(np.clip(theta[0], -SPAN, SPAN)))
        inside = mean.clone()
        inside[:, output] += (y[:, output] - theta[1:].sum() * unit - mean[:, output]) / factor
        value = float(math.log(factor) - law.log_prob(inside)[:, output].mean())
        return value if math.isfinite(value) else IMPOSSIBLE

    while first[0] < SPAN and loss(first) == IMPOSSIBLE:  # a law with ends, stretched until it reaches all values
        first = first + np.eye(len(first))[0] * math.log(2)
    corners = np.vstack([first, first + 0.25 * np.eye(len(first))])
    options = {"xatol": 1e-7, "fatol": 1e-12, "initial_simplex": corners}
    return optimize.minimize(loss, first, method="Nelder-Mead", options=options).x
