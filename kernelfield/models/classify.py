"""What classifiers share: their contract, and averages of class probabilities over a latent law.

Targets are one-hot, Y (n, k) for k classes. Most fitted classifiers are surrogates of m latent
functions, the log odds of the second class for Laplace's approximation of two classes and one
function a class otherwise, with the probabilities that they give on average,

    p(c | x) = E[softmax(f(x))_c]    or    E[sigmoid(f(x))].

The average of a sigmoid over a Gaussian is a smooth integral on a line, for which equidistant
nodes converge exponentially; that of a softmax is taken over a fixed scrambled Sobol sequence.

Sources: Trefethen & Weideman (2014), "The Exponentially Convergent Trapezoidal Rule"; Rasmussen &
Williams (2006), chapter 3; for the prior of lengthscales Hvarfner, Hellsten & Nardi (2024),
"Vanilla Bayesian Optimization Performs Great in High Dimensions".
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from gpytorch.kernels import Kernel
from gpytorch.priors import LogNormalPrior
from torch import Tensor

from kernelfield.core.contracts import Data, Surrogate
from kernelfield.core.mixing import Mixing
from kernelfield.core.numerics import cholesky
from kernelfield.core.posterior import Elliptical, LazyMatrix
from kernelfield.kernels.stationary import NAMES
from kernelfield.models.search import kernel_for

SIZE = 4.0  # mean square of latent functions to start from: probabilities from 0.12 to 0.88
LENGTH, SPREAD = math.sqrt(2), math.sqrt(3)  # of log(lengthscale / sqrt(d)); the output scale has this spread too
STEP = 0.5  # between nodes: errors of exp(-2 pi^2 / STEP) where the nearest pole is pi away
NARROW, WIDE = 8.4, 31.0  # a normal density and a logistic one are below 1e-13 of their height there
ROOM = 2**21  # numbers of an average held at once
POINTS = (
    1024  # of the Sobol sequence: probabilities are right to about 1e-3, to 6e-3 where the softmax is nearly a step
)


class FittedClassifier(Surrogate, ABC):
    """A surrogate that answers with probabilities of k classes, most of them by m latent functions."""

    @abstractmethod
    def probabilities(self, X: Tensor) -> Tensor:
        """The probability of each class at X (n, d), shape (n, k), rows summing to one."""

    def latent(self, X: Tensor) -> Elliptical:
        """The law of the m latent functions at X (*b, n, d).

        Errors: NotImplementedError where there is none.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has probabilities of classes and no law of latent functions; "
            "ask for the probabilities, or fit LaplaceClassifier() for such a law"
        )

    def decision(self, X: Tensor) -> Tensor:
        """What decides between classes at X (n, d).

        Shape (n, 1), above zero for the second of two classes, or (n, k), largest for the class
        of more. Here the finite logarithms of odds and of probabilities.
        """
        p = self.probabilities(X)
        logarithms = p.clamp_min(torch.finfo(p.dtype).tiny).log()
        return logarithms if p.shape[1] > 2 else logarithms[:, 1:] - logarithms[:, :1]

    def posterior(self, X: Tensor, *, noise: bool = False) -> Elliptical:
        if noise:
            raise NotImplementedError("labels have probabilities, not a density; ask for those or for noise=False")
        return self.latent(X)


@dataclass(frozen=True, eq=False)
class Parallel:
    """The scale matrix of independent outputs, point-major, from one lazy matrix each."""

    parts: tuple[LazyMatrix, ...]

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        return torch.stack([part.diagonal(dim1=dim1, dim2=dim2) for part in self.parts], -1).flatten(-2)

    def to_dense(self) -> Tensor:
        """The joint matrix (*b, n * m, n * m)."""
        dense = torch.stack([part.to_dense() for part in self.parts], -1)  # (*b, n, n, m)
        return torch.diag_embed(dense).transpose(-3, -2).flatten(-2).flatten(-3, -2)


def classification_kernel(kernel: Kernel | str | None, X: Tensor) -> Kernel:
    """A copy of the user's kernel, or one by name, None being "rbf", scaled to X.

    Labels say little about each of many lengthscales, and where classes hardly overlap the scale
    of the latent functions may grow without end, whereupon probabilities lose their confidence
    near the data. Stationary kernels by name therefore have log-normal priors of both: that of
    the lengthscales is as wide as the one of Hvarfner et al. and most dense, among logarithms, at
    its centre, exp(sqrt(2)) sqrt(d) standard deviations of their inputs; that of the output scale
    is as wide, two of its deviations being a factor of thirty, around a mean square of latent
    functions of SIZE. A search over logarithms that maximised the density of the values themselves
    would shorten each lengthscale by the factor exp(SPREAD^2) = 20, and in many inputs find that
    few rows say nothing at all.

    >>> classification_kernel("rbf", torch.eye(3)).lengthscale.shape
    torch.Size([1, 3])
    """
    name = "rbf" if kernel is None else kernel
    if not isinstance(name, str) or name not in NAMES:
        return kernel_for(name, X, X.new_tensor(SIZE))
    spread = X.std(0, correction=0)
    unit = math.log(len(spread)) / 2 + torch.where(spread > 0, spread, torch.ones_like(spread)).log()
    own = NAMES[name](
        ard_num_dims=len(spread),
        lengthscale_prior=LogNormalPrior(unit + LENGTH + SPREAD**2, torch.full_like(unit, SPREAD)),
        outputscale_prior=LogNormalPrior(X.new_tensor(math.log(SIZE) + SPREAD**2), X.new_tensor(SPREAD)),
    ).to(X)
    # The density of a log-normal law times the value, as among logarithms, has its peak SPREAD^2 below its centre.
    # A search from the centre of the prior may stop where a class looks like a half-space.
    own.lengthscale, own.outputscale = unit.exp(), SIZE
    return own


def require_classes(data: Data) -> None:
    """Refuse targets that are not one-hot rows of at least two classes.

    Errors: ValueError.
    """
    if data.weight is not None:
        raise ValueError("classifiers take no weights of rows; repeat a row to count it twice")
    k = data.Y.shape[1]
    if k < 2:
        raise ValueError(f"need one column of Y for each of at least two classes, got {k}")
    if not (((data.Y == 0) | (data.Y == 1)).all() and (data.Y.sum(-1) == 1).all()):
        raise ValueError("each row of Y must have a one in the column of its class and zeros elsewhere")


def sigmoid_average(loc: Tensor, variance: Tensor) -> Tensor:
    """E[sigmoid(f)] for f ~ N(loc, variance), any shape, to 1e-12.

    A narrow law is summed over itself; a wide one, on whose scale the sigmoid has a corner, over
    the logistic law l whose distribution function the sigmoid is: P(f > l).

    >>> round(sigmoid_average(torch.tensor(2.0), torch.tensor(9.0)).item(), 4)
    0.7174
    """
    std = variance.clamp_min(0).sqrt()
    loc, std = (t.unsqueeze(-1) for t in torch.broadcast_tensors(loc, std))
    z = torch.arange(-NARROW, NARROW + STEP / 2, STEP).to(loc)
    narrow = torch.sigmoid(loc + std.clamp_max(1) * z) @ _normalised(-0.5 * z.square())
    level = torch.arange(-WIDE, WIDE + STEP / 2, STEP).to(loc)
    log_density = torch.nn.functional.logsigmoid(level) + torch.nn.functional.logsigmoid(-level)
    wide = torch.special.ndtr((loc + level) / std.clamp_min(1)) @ _normalised(log_density)
    return torch.where(std[..., 0] < 1, narrow, wide)


def _normalised(log_weights: Tensor) -> Tensor:
    return log_weights.softmax(-1)


def softmax_average(loc: Tensor, scale: Tensor, mixing: Mixing) -> Tensor:
    """E[softmax(f)] for f = loc + sqrt(s) scale^1/2 z, with s ~ mixing shared by the classes.

    Shapes: loc (n, k), scale (n, k, k) or, for independent classes, its diagonal (n, k); returns
    (n, k).
    """
    k = loc.shape[-1]
    engine = torch.quasirandom.SobolEngine(mixing.width + k, scramble=True, seed=0)
    levels = engine.draw(POINTS, dtype=torch.double)
    z = torch.special.ndtri(levels.clamp(1e-12, 1 - 1e-12)).to(loc)
    head, body = z[:, : mixing.width], z[:, mixing.width :]
    if mixing.width:
        body = body * mixing.scale(head)
    half = cholesky(scale) if scale.ndim > loc.ndim else torch.diag_embed(scale.clamp_min(0).sqrt())
    rows = max(1, ROOM // (POINTS * k))
    blocks = zip(loc.split(rows), half.split(rows), strict=True)
    return torch.cat([(shift[:, None, :] + body @ factor.mT).softmax(-1).mean(-2) for shift, factor in blocks])
