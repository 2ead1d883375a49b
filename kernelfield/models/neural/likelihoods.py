"""What networks are trained to make likely: Gaussian noise, noise that depends on x, and classes.

A likelihood reads the o = `width(m)` outputs of a network for m targets, and gives the mean
negative log-likelihood of a row. With mean mu and variance v / weight of an output,

    nll = (weight (y - mu)^2 / v + log(v / weight) + log(2 pi)) / 2,

summed over outputs. Its gradient in mu is divided by v, so that a network which also learns
v(x) neglects the points that it predicts badly, whose v is large. beta-NLL multiplies the loss
of each point by v^beta, through which no gradient flows: beta = 0 is the likelihood, beta = 1
has the gradient of least squares in mu.

Sources: Nix & Weigend (1994), "Estimating the Mean and Variance of the Target Probability
Distribution"; Seitzer et al. (2022), "On the Pitfalls of Heteroscedastic Uncertainty Estimation
with Probabilistic Neural Networks".
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.core.contracts import Data

LOG_TWO_PI = math.log(2 * math.pi)
RANGE = 15.0  # the logarithm of a variance bends towards plus and minus this: single precision holds its exponential
SHARE = 0.1  # of the noise in the variance of the targets, where learning it starts
FIRM = 4  # rows, beside those that were held out, at the size of errors that all outputs share
NARROWEST, GRID, ZOOMS = 1e-4, 17, 3  # of the mean square; a search of three grids is right to 0.5%


class Likelihood(ABC):
    """The law of the targets of a row, given what k networks make of it.

    Shapes: values (k, b, o), Y (b, m) or (k, b, m), weight (b,) or (k, b), noise (k, m).
    """

    @abstractmethod
    def width(self, m: int) -> int:
        """The number of outputs that a network needs for m targets."""

    @abstractmethod
    def loss(self, values: Tensor, Y: Tensor, weight: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """The mean negative log-likelihood of a row (k,), in nats."""

    @property
    def learned(self) -> bool:
        """Whether the variances of `start` are where learning begins."""
        return False

    def start(self, Y: Tensor, weight: Tensor | None = None) -> Tensor | None:
        """Variances of the noise (m,), before training; None where noise is no such number."""
        return None


@dataclass(frozen=True)
class Gaussian(Likelihood):
    """Noise of one variance for each output, known or learned by each network.

    noise: the variance, in squared units of Y; None learns it.

    Errors: ValueError for a variance that is not positive and finite.

    >>> round(Gaussian(1.0).loss(torch.zeros(1, 4, 1), torch.zeros(4, 1)).item(), 4)  # log(2 pi) / 2
    0.9189
    """

    noise: float | None = None

    def __post_init__(self) -> None:
        if self.noise is not None and not (self.noise > 0 and math.isfinite(self.noise)):
            raise ValueError(f"noise must be a positive variance, got {self.noise}; None learns it")

    def width(self, m: int) -> int:
        return m

    def loss(self, values: Tensor, Y: Tensor, weight: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        gap = (Y - values).square()
        if weight is not None:
            gap = gap * weight.unsqueeze(-1)
        if noise is None and self.noise is None:
            raise ValueError("the noise is to be learned, so pass its present variances (k, m), got None")
        variance = gap.new_tensor(self.noise) if noise is None else noise
        m = Y.shape[-1]
        loss = (gap.mean(-2) / variance + variance.log()).sum(-1) / 2 + m / 2 * LOG_TWO_PI
        return loss if weight is None else loss - m / 2 * weight.log().mean(-1)

    @property
    def learned(self) -> bool:
        return self.noise is None

    def start(self, Y: Tensor, weight: Tensor | None = None) -> Tensor | None:
        return Y.new_full(Y.shape[1:], self.noise) if self.noise is not None else SHARE * _spread(Y, weight)


@dataclass(frozen=True)
class Heteroscedastic(Likelihood):
    """Noise whose variance is a function of x: a network has m means, then m logarithms of variances.

    beta: how much of the weight of well-predicted points is taken back, see the module docstring.

    Errors: ValueError for beta outside of [0, 1].

    >>> round(Heteroscedastic(0.0).loss(torch.zeros(1, 4, 2), torch.ones(4, 1)).item(), 4)
    1.4189
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta must lie between 0 and 1, got {self.beta}; 0.5 is usual")

    def width(self, m: int) -> int:
        return 2 * m

    def mean(self, values: Tensor) -> Tensor:
        """The means (*k, n, m) in values (*k, n, 2 m)."""
        return values[..., : values.shape[-1] // 2]

    def variance(self, values: Tensor) -> Tensor:
        """The variances (*k, n, m) in values (*k, n, 2 m), of weight one."""
        return self._log_variance(values).exp()

    def loss(self, values: Tensor, Y: Tensor, weight: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        log_variance = self._log_variance(values)
        if weight is not None:
            log_variance = log_variance - weight.log().unsqueeze(-1)
        gap = (Y - self.mean(values)).square()
        nll = (gap * (-log_variance).exp() + log_variance + LOG_TWO_PI) / 2
        return (nll * (self.beta * log_variance.detach()).exp()).sum(-1).mean(-1)

    def _log_variance(self, values: Tensor) -> Tensor:
        return RANGE * torch.tanh(values[..., values.shape[-1] // 2 :] / RANGE)


@dataclass(frozen=True)
class Softmax(Likelihood):
    """Classes with one-hot targets, whose log odds are the outputs of a network.

    >>> round(Softmax().loss(torch.zeros(1, 3, 2), torch.eye(2)[[0, 1, 1]]).item(), 4)  # log 2
    0.6931
    """

    def width(self, m: int) -> int:
        return m

    def loss(self, values: Tensor, Y: Tensor, weight: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        nll = -(Y * values.log_softmax(-1)).sum(-1)
        return (nll if weight is None else nll * weight).mean(-1)


def same(Y: Tensor, weight: Tensor | None = None) -> bool:
    """Whether all rows of targets (n, m) are equal, but for rounding."""
    _, constant = _variance(Y, weight)
    return bool(constant.all())


def _spread(Y: Tensor, weight: Tensor | None) -> Tensor:
    """The variances (m,) of targets (n, m)."""
    spread, constant = _variance(Y, weight)
    # Constant targets have no spread but rounding, and any unit that is not zero will do.
    return torch.where(constant, 1.0, spread)


def _variance(Y: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """The variances (m,) of targets (n, m), and which of them are rounding."""
    weight = Y.new_ones(len(Y)) if weight is None else weight
    share = (weight / weight.sum())[:, None]
    spread = (share * (Y - (share * Y).sum(0)).square()).sum(0)
    return spread, spread <= torch.finfo(Y.dtype).eps * (share * Y.square()).sum(0)


def held_out_noise(values: Tensor, judged: Data, data: Data) -> Tensor:
    """The variance of the noise (m,) that r rows held out of the data say k functions (k, r, m) need.

    The best variance of few rows is often far too small: of two that are met by chance, almost zero.
    So `FIRM` rows are added whose error is that of the mean, relative to the variance of the targets
    and as a geometric mean of all outputs, of the r m errors seen and one as large as the targets.
    """
    r, m = judged.Y.shape
    spread = _spread(data.Y, data.weight)
    gap = (judged.Y - values.mean(0)).square() * (1.0 if judged.weight is None else judged.weight[:, None])
    seen = (gap.mean(0) / spread).clamp_min(torch.finfo(gap.dtype).eps).log().sum()
    shared = spread * (r * seen / (r * m + 1)).exp()
    return (FIRM * shared + r * mixture_noise(values, judged.Y, judged.weight)) / (FIRM + r)


def mixture_noise(values: Tensor, Y: Tensor, weight: Tensor | None = None, known: Tensor | None = None) -> Tensor:
    """The variance of the noise (m,) under which the mean density of k functions is best at Y, each output alone.

    Shapes: values (k, n, m), Y (n, m), weight (n,). known (k, n): which functions have not learned
    from which rows, and may speak of them; all by default. Where rows have no such function they
    are left out; with no row left the answer is that of all.
    """
    known = torch.ones(values.shape[:2], dtype=torch.bool) if known is None or not known.any() else known
    known = known.to(values.device)
    rows = known.any(0)
    values, Y, known = values[:, rows], Y[rows], known[:, rows]
    gap = (Y - values).square() * (1.0 if weight is None else weight[rows, None])
    count = known.sum(0)
    size = (gap * known[..., None]).sum(0) / count[:, None]
    # The best variance lies between the smallest and the largest square; most squares are near neither.
    top = size.mean(0).clamp_min(torch.finfo(Y.dtype).tiny ** 0.5)
    away = torch.where(known, 0.0, -math.inf)[..., None]
    low, high = (top * NARROWEST).log(), top.log()
    for _ in range(ZOOMS):
        grid = low + (high - low) * torch.linspace(0, 1, GRID).to(low)[:, None]
        scores = torch.stack([_mixture(gap, level, away) for level in grid])
        best = grid.gather(0, scores.argmax(0, keepdim=True))[0]
        step = (high - low) / (GRID - 1)
        low, high = best - step, best + step
    return best.exp()


def _mixture(gap: Tensor, level: Tensor, away: Tensor) -> Tensor:
    """The log-likelihood (m,) of a mixture of Gaussians of the log variance `level`, up to a constant."""
    return ((-gap * (-level).exp() - level) / 2 + away).logsumexp(0).sum(0)
