"""Means and variances of a surrogate at points, with their slopes: what acquisition functions work on.

Of an exact process with a stationary kernel, one output of which is asked for, all is in closed form.
With A = L L', e = L^-1 k(x), B = L^-1 H and T T' = B'B (see `models.conditioned`),

    mean = h'b + k(x)' alpha,                   dmean = dk' alpha + dh'b,
    variance = k(x, x) - |e|^2 + |u|^2,         dvariance = -2 dk' L^-T (e + B v) + 2 dh'v,
    u = T^-1 (h - B'e),                         v = T^-T u,

so that a slope costs two triangular solves and no graph. Every other surrogate answers through
automatic differentiation of its posterior.

Source: Rasmussen & Williams (2006), eq. (2.25)-(2.26) and (2.41)-(2.42).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.bo.at_step import AtStep
from kernelfield.bo.conditioned import Belief
from kernelfield.bo.crosses import Crossing, crossing
from kernelfield.core.contracts import Data, Surrogate
from kernelfield.core.numerics import rounding
from kernelfield.core.posterior import Posterior
from kernelfield.estimators.scaling import Scaled
from kernelfield.models.conditioned import FittedProcess

LEAST = 1e-12  # a standard deviation, against the size of the targets in model units, below which nothing is unknown


@dataclass(frozen=True, eq=False)
class Marginal:
    """Mean and standard deviation (r,) at r points; pull turns a function's slopes in both into one in X (r, d)."""

    mean: Tensor
    std: Tensor
    pull: Callable[[Tensor, Tensor], Tensor]


class Moments(ABC):
    """The law of one output's latent function, point by point, in the units of the surrogate."""

    @abstractmethod
    def values(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (r,) at X (r, d)."""

    @abstractmethod
    def at(self, X: Tensor) -> Marginal:
        """Mean and standard deviation at X (r, d), and their slopes."""


def moments(surrogate: Surrogate, output: int = 0) -> Moments:
    """The quickest way to the moments of one output of a surrogate."""
    if isinstance(surrogate, Scaled):
        return ScaledMoments(surrogate, output)
    if isinstance(surrogate, FittedProcess):
        cross = crossing(surrogate.kernel, surrogate.data.X)
        if cross is not None:
            return ProcessMoments(surrogate, output, cross)
    if isinstance(surrogate, AtStep) and isinstance(fitted := surrogate.inner, FittedProcess):
        cross = crossing(fitted.kernel, fitted.data.X, surrogate.step)
        if cross is not None and fitted.trend.kind != "linear":
            return ProcessMoments(fitted, output, cross)
    return GraphMoments(surrogate.posterior, output)


def believed(surrogate: Surrogate, pending: Tensor) -> Moments:
    """The moments of the first output as if trials at `pending` (p, d) had ended as the surrogate expects."""
    if not len(pending):
        return moments(surrogate)
    with torch.no_grad():
        expected = surrogate.posterior(pending).mean
        try:
            return moments(surrogate.condition(Data(pending, expected)))
        except NotImplementedError:  # it would have to be fitted again; its joint law can be conditioned
            return GraphMoments(Belief(surrogate).told(pending, expected).law, 0)


class ProcessMoments(Moments):
    """See the module docstring; the law of the scale variable multiplies the variance by its mean.

    Below a hundred rows the time is that of the calls, so that what is the same everywhere is kept.
    """

    def __init__(self, fitted: FittedProcess, output: int, cross: Crossing) -> None:
        with torch.no_grad():
            factor = fitted.mean.factor
            eye = torch.eye(len(factor)).to(factor)
            self.root = torch.linalg.solve_triangular(factor, eye, upper=False)  # T^-1 (p, p)
            self.trend = self.root @ fitted.mean.basis.mT  # T^-1 B' (p, n)
            self.most = cross.prior + rounding(cross.prior, fitted.mean.basis)  # of what the data leave of a variance
        self.fitted, self.cross = fitted, cross
        self.weights = fitted.weights[:, output].contiguous()
        self.coefficients = fitted.mean.coefficients[:, output]
        self.size = fitted.scale_law.mean
        self.tilted = fitted.trend.kind == "linear"
        self.everywhere = self._mean(fitted.data.X[:1])

    def values(self, X: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            mean, std, *_ = self._law(X)
        return mean, std

    def at(self, X: Tensor) -> Marginal:
        with torch.inference_mode():
            mean, std, e, u = self._law(X)
            inner = self.fitted.solver.unwhiten(torch.addmm(e, self.trend.mT, u)).mT  # (r, n)

        def pull(dmean: Tensor, dstd: Tensor) -> Tensor:
            with torch.inference_mode():
                half = (dstd / std)[:, None].mul_(self.size)  # as d std = d variance / (2 std)
                slope = self.cross.pull(torch.mul(dmean[:, None], self.weights).addcmul_(half, inner, value=-1))
                if self.tilted:
                    tilt = self.fitted.trend.T[1:]  # of the basis in each input (d, p)
                    slope += dmean[:, None] * (tilt @ self.coefficients) + half * (tilt @ (self.root.mT @ u)).mT
                return slope

        return Marginal(mean, std, pull)

    def _law(self, X: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        K = self.cross.fill(X)
        mean, gap = self._mean(X) if self.tilted else self.everywhere
        e = self.fitted.solver.whiten(K.mT)
        u = torch.addmm(gap, self.trend, e, alpha=-1)
        variance = (self.most - e.square().sum(0)).clamp_min_(0).add_(u.square().sum(0)).mul_(self.size)
        return torch.addmv(mean, K, self.weights), variance.sqrt_().clamp_min_(LEAST), e, u

    def _mean(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """H b (r,) and T^-1 H' (p, r)."""
        with torch.no_grad():
            H = self.fitted.trend(X)
            return H @ self.coefficients, self.root @ H.mT


class ScaledMoments(Moments):
    """Those of a surrogate behind a scaling of inputs and outputs."""

    def __init__(self, scaled: Scaled, output: int) -> None:
        self.inner, self.to_model_X = moments(scaled.inner, output), scaled.to_model_X
        self.unit, self.shift = scaled.to_model_y.scale[output], scaled.to_model_y.shift[output]

    def values(self, X: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.inner.values(self.to_model_X(X))
        return mean * self.unit + self.shift, std * self.unit

    def at(self, X: Tensor) -> Marginal:
        law = self.inner.at(self.to_model_X(X))

        def pull(dmean: Tensor, dstd: Tensor) -> Tensor:
            return law.pull(dmean * self.unit, dstd * self.unit) / self.to_model_X.scale

        return Marginal(law.mean * self.unit + self.shift, law.std * self.unit, pull)


class GraphMoments(Moments):
    """Any law of functions, by automatic differentiation of its marginal mean and variance."""

    def __init__(self, law: Callable[[Tensor], Posterior], output: int) -> None:
        self.law, self.output = law, output

    def values(self, X: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self._law(X)

    def at(self, X: Tensor) -> Marginal:
        with torch.enable_grad():
            X = X.detach().requires_grad_()
            mean, std = self._law(X)

        def pull(dmean: Tensor, dstd: Tensor) -> Tensor:
            (slope,) = torch.autograd.grad((mean, std), X, (dmean, dstd), allow_unused=True, materialize_grads=True)
            return slope

        return Marginal(mean.detach(), std.detach(), pull)

    def _law(self, X: Tensor) -> tuple[Tensor, Tensor]:
        law = self.law(X)
        variance = law.variance[..., self.output]
        if not variance.isfinite().all():
            raise ValueError(
                f"the law at {len(X)} points has an infinite variance, on which this acquisition rests; "
                "use acquisition='thompson', or a law with a finite mean of the scale"
            )
        return law.mean[..., self.output], variance.clamp_min(LEAST**2).sqrt()
