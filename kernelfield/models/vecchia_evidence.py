"""The evidence of nearest-neighbour processes and its gradient, in closed form.

With the factor W of `kernelfield.linalg.sparse_factor` of A = K + noise / weight, a mean H b and m outputs,

    log p(Y) = -S / 2 - m/2 sum_i log(2 pi v_i),    S = |W (Y - H b)|^2,

b at its best by generalised least squares, so that it needs no derivative. For stationary kernels one pass over the
rows gives value and gradient: with q = dA_C l, C = [Y H] and mix = [I; -b], the terms of

    d log p = sum_i e_i' (a_i'q_i) + (|e_i|^2 - m) / 2 l_i'q_i

are quadratic in mix, which is known after the pass, and only their sums are kept. Other kernels take a second pass
through their graph. Memory is O(n (k + c)), and O(chunk k^2) at work.

Sources: as of `kernelfield.linalg.sparse_factor`; Rasmussen & Williams (2006), eq. (5.9).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.kernels.stationary import Stationary
from kernelfield.linalg.sparse_factor import Terms, blocks, keep
from kernelfield.models.covariance import Covariance, covariance, matrix
from kernelfield.models.evidence import NOISE_REACH, Fit, Trend, mean_square


@dataclass(frozen=True, eq=False)
class Conditionals:
    """Rows (t,) of a data set, each with its neighbours (t, k), -1 for none."""

    data: Data
    trend: Trend
    neighbours: Tensor
    rows: Tensor

    @property
    def values(self) -> Tensor:
        """[Y H] (n, m + p)."""
        return torch.cat([self.data.Y, self.trend(self.data.X)], -1)

    def spread(self, noise: float) -> Tensor:
        """The variance of the noise of each row (n,)."""
        one = torch.ones_like(self.data.X[:, 0])
        return noise * (one if self.data.weight is None else 1 / self.data.weight)


def factored(conditionals: Conditionals, kernel: Kernel, noise: float) -> tuple[Tensor, Tensor]:
    """l (t, k + 1) of the rows, and [Y H] whitened by them (t, m + p).

    Errors: NotPositiveDefinite.
    """
    spread, values, X = conditionals.spread(noise), conditionals.values, conditionals.data.X
    halves, whitened = [], []
    for _, index, there in blocks(conditionals.neighbours, conditionals.rows):
        terms = Terms.of(keep(system(kernel, X[index], spread[index]), there), present(values[index], there))
        halves.append(terms.half if there is None else terms.half * there)
        whitened.append(terms.whitened)
    return torch.cat(halves), torch.cat(whitened)


def system(kernel: Kernel, X: Tensor, spread: Tensor) -> Tensor:
    """The covariances (*b, k, k) of observations at blocks X (*b, k, d) with variances `spread` (*b, k) of noise."""
    return matrix(kernel, X, X) + torch.diag_embed(spread)


def present(values: Tensor, there: Tensor | None) -> Tensor:
    """Values (b, k, c) of the entries that are there, and zeros."""
    return values if there is None else values * there.unsqueeze(-1)


class Slopes(ABC):
    """The log evidence of some conditionals and its derivatives."""

    def __init__(self, kernel: Kernel, conditionals: Conditionals) -> None:
        self.kernel, self.conditionals, self.m = kernel, conditionals, conditionals.data.Y.shape[1]
        self.values = conditionals.values

    @abstractmethod
    def __call__(self, raw: list[Tensor], noise: float) -> tuple[float, np.ndarray, float]:
        """The value, the derivatives in `raw`, the kernel's parameters, and in log noise."""

    def mixed(self, whitened: Tensor) -> tuple[Fit, Tensor]:
        """The fit of the mean to [Y H] whitened, and the mix (m + p, m) that takes [Y H] to residuals."""
        mean = Fit.of(whitened[:, : self.m], whitened[:, self.m :])
        eye = torch.eye(self.m).to(whitened)
        return mean, torch.cat([eye, -mean.coefficients])


def log_evidence(mean: Fit, log_half: float) -> float:
    """In nats, given the fit of the mean and the sum of log(1 / sqrt(v))."""
    n, m = mean.residual.shape
    return m * log_half - 0.5 * mean.S - 0.5 * n * m * math.log(2 * math.pi)


class ByGraph(Slopes):
    """For any kernel: a pass for the mean, and one for the gradient through the kernel's graph."""

    def __call__(self, raw: list[Tensor], noise: float) -> tuple[float, np.ndarray, float]:
        case, wanted = self.conditionals, [p for p in raw if p.requires_grad]
        with torch.no_grad():
            half, whitened = factored(case, self.kernel, noise)
            mean, mix = self.mixed(whitened)
        found, log_noise, spread = [torch.zeros_like(p) for p in wanted], 0.0, case.spread(noise)
        for _, index, there in blocks(case.neighbours, case.rows):
            with torch.enable_grad():
                K = matrix(self.kernel, case.data.X[index], case.data.X[index])
            with torch.no_grad():
                A = keep(K + torch.diag_embed(spread[index]), there)
                G = Terms.of(A, present(self.values[index], there)).slope(mix)
                if there is not None:
                    G = G * (there[:, :, None] & there[:, None, :])
                log_noise += (G.diagonal(dim1=-2, dim2=-1) * spread[index]).sum().item()
            if wanted and K.requires_grad:
                slopes = torch.autograd.grad(K, wanted, G, allow_unused=True, materialize_grads=True)
                found = [a + b for a, b in zip(found, slopes, strict=True)]
        by_place = {id(p): g for p, g in zip(wanted, found, strict=True)}
        flat = [by_place.get(id(p), torch.zeros_like(p)).flatten().cpu().double().numpy() for p in raw]
        return log_evidence(mean, half[:, -1].log().sum().item()), np.concatenate([np.empty(0), *flat]), log_noise


class Closed(Slopes):
    """For our stationary kernels, whose parameters are logarithms: one pass without a graph."""

    kernel: Stationary

    @torch.no_grad()
    def __call__(self, raw: list[Tensor], noise: float) -> tuple[float, np.ndarray, float]:
        case, kernel, spread = self.conditionals, self.kernel, self.conditionals.spread(noise)
        X = case.data.X if kernel.active_dims is None else case.data.X[:, kernel.active_dims]
        z = X / kernel.lengthscale
        c, parameters = self.values.shape[1], X.shape[1] + 2 + kernel.profile.shaped
        cross, square, trace = z.new_zeros(c, c, parameters), z.new_zeros(c, c, parameters), z.new_zeros(parameters)
        whitened, log_half = z.new_empty(len(case.rows), c), 0.0
        for place, index, there in blocks(case.neighbours, case.rows):
            part = _Block.of(kernel, z[index])
            own = spread[index]
            part.K.diagonal(dim1=-2, dim2=-1).add_(own)
            terms = Terms.of(keep(part.K, there), present(self.values[index], there))
            half = terms.half if there is None else terms.half * there
            q = part.moved(half, own, terms.half[:, -1])
            along = torch.einsum("bk,bkp->bp", half, q)
            E = whitened[place] = terms.whitened
            cross += torch.einsum("bs,btp->stp", E, terms.weights.mT @ q)
            square += torch.einsum("bs,bt,bp->stp", E, E, along)
            trace += along.sum(0)
            log_half += terms.half[:, -1].log().sum().item()
        mean, mix = self.mixed(whitened)
        M = mix @ mix.mT
        slope = torch.einsum("st,stp->p", M, cross + 0.5 * square) - 0.5 * self.m * trace
        lengths, (scale, of_noise), shape = slope.split([X.shape[1], 2, int(kernel.profile.shaped)])
        if kernel.raw_lengthscale.numel() == 1:
            lengths = lengths.sum(0, keepdim=True)
        flat = torch.cat([lengths, scale[None], shape]).cpu().double().numpy()
        return log_evidence(mean, log_half), flat, of_noise.item()


@dataclass(frozen=True, eq=False)
class _Block:
    """A stationary kernel and its slopes at blocks of scaled inputs z (b, k, d), each about its last row."""

    z: Tensor
    K: Tensor  # (b, k, k), to which the caller adds the noise
    S: Tensor  # see `kernelfield.linalg.radial`
    gain: float
    shape: Tensor | None  # dK / dlog shape (b, k, k)

    @classmethod
    def of(cls, kernel: Stationary, z: Tensor) -> "_Block":
        profile, shape = kernel.profile, kernel._shape()
        z = z - z[:, -1:]
        if profile.kinked:  # the root shows what rounding leaves of a difference of squares
            a = torch.stack([(x[:, :, None] - x[:, None, :]).square_() for x in z.unbind(-1)]).sum(0)
        else:
            norm = z.square().sum(-1)
            a = torch.baddbmm(norm[:, None, :], z, z.mT, alpha=-2).add_(norm[:, :, None]).clamp_min_(0)
            a.diagonal(dim1=-2, dim2=-1).zero_()
        a.mul_(profile.stretch)
        K, S = torch.empty_like(a), torch.empty_like(a)
        profile.tile(a, kernel.outputscale.log(), K, S, shape)
        return cls(z, K, S, profile.gain, None if shape is None else profile.shape_slope(a, K, shape))

    def moved(self, half: Tensor, own: Tensor, end: Tensor) -> Tensor:
        """dA l (b, k, p) for the log lengthscales, log output scale, log noise and log shape.

        half (b, k) is l, own (b, k) the noise's variances and end (b,) the last of l, 1 / sqrt(v): A l = sqrt(v) there.
        """
        d = self.z.shape[-1]
        square = self.z.square()
        sums = self.S @ torch.cat([half[..., None], half[..., None] * self.z, half[..., None] * square], -1)
        ones, firsts, seconds = sums.split([1, d, d], -1)
        lengths = (seconds - 2 * self.z * firsts + square * ones) * self.gain
        noise = own * half
        scale = -noise
        scale[:, -1] += 1 / end
        columns = [lengths, scale[..., None], noise[..., None]]
        if self.shape is not None:
            columns.append(self.shape @ half[..., None])
        return torch.cat(columns, -1)


def slopes_of(kernel: Kernel, conditionals: Conditionals) -> Slopes:
    """The quickest way to the slopes of a kernel."""
    plain = isinstance(kernel, Stationary) and kernel.gram(conditionals.data.X[:1]) is not None
    return (Closed if plain else ByGraph)(kernel, conditionals)


class NeighbourObjective:
    """Minus the log posterior of theta, a point, and its slope; of all rows, estimated from those of `conditionals`.

    theta : kernel parameters, and log noise if `learn`. few : rows of which the kernel knows the spread.
    """

    def __init__(self, kernel: Kernel, few: Data, conditionals: Conditionals, noise: float, *, learn: bool) -> None:
        self.covariance: Covariance = covariance(kernel, few.X)
        self.slopes = slopes_of(kernel, conditionals)
        self.noise, self.learn = noise, learn
        self.count = conditionals.data.Y.numel()
        self.share = len(conditionals.data.X) / len(conditionals.rows)
        m = conditionals.data.Y.shape[1]
        self.size = mean_square(self.slopes.values[:, :m], self.slopes.values[:, m:])

    def start(self) -> np.ndarray:
        return np.concatenate([self.covariance.start(), [math.log(self.noise)] if self.learn else []])

    def bounds(self) -> list[tuple[float, float]]:
        box = self.covariance.bounds(self.size)
        if self.learn:
            low, high = (math.log(end * self.size) for end in NOISE_REACH)
            box.append((min(low, math.log(self.noise)), max(high, math.log(self.noise))))
        return box

    def split(self, theta: np.ndarray) -> tuple[np.ndarray, float]:
        """Kernel parameters and noise."""
        return (theta[:-1], math.exp(theta[-1])) if self.learn else (theta, self.noise)

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        parameters, noise = self.split(theta)
        self.covariance.assign(parameters)
        value, slope, log_noise = self.slopes(self.covariance.raw, noise)
        prior, tilt = self.covariance.log_prior(parameters)
        gradient = self.share * np.concatenate([slope, [log_noise] if self.learn else []])
        gradient[: len(parameters)] += tilt
        return -(self.share * value + prior) / self.count, -gradient / self.count
