"""Classification of many rows with inducing points, the softmax likelihood and mini-batches.

One function a class, f_c | s ~ GP(0, s K), with one scale variable s shared by the classes. With
k inducing inputs Z, K(Z, Z) = L L' and u_c = L v_c the values there, the posterior is approximated
by

    q(v_c | s) = N(m_c, s T_c T_c'),    q(s) = InverseGamma(a, b)    or    s = 1,

T_c lower triangular and full. At x, with w = L^-1 K(Z, x), f_c given s is then Gaussian with

    mean m_c' w    and variance    s (K(x, x) - w' w + |T_c' w|^2).

What is maximised, by Adam over everything at once, is the bound of the evidence

    n/B sum over the batch of E[log softmax(f)_y] - KL,
    KL = 1/2 sum_c (|T_c|^2 - k - log |T_c T_c'| + E[1/s] |m_c|^2) + KL(q(s) | p(s)),
    KL(q(s) | p(s)) = alpha log(b / beta) - lgamma(a) + lgamma(alpha) + (a - alpha) psi(a)
                      + (beta - b) a / b,    E[1/s] = a / b.

The expectation is over draws of f in which all classes of a row have the same s: with one of its
own each, they would not be Student-t together.

Sources: Hensman, Matthews & Ghahramani (2015), "Scalable Variational Gaussian Process
Classification"; Lee, Yun, Yang & Lee (2022), "Scale Mixtures of Neural Network Gaussian
Processes", section 4.2 and appendix, here with a full covariance and an inverse gamma law by its
own reparameterisation.
"""

import logging
import math
from dataclasses import dataclass, field

import torch
from gpytorch.kernels import Kernel
from torch import Tensor, nn

from kernelfield.core.contracts import Data, Model
from kernelfield.core.mixing import InverseGamma, Mixing, Unit
from kernelfield.core.numerics import cholesky, threads_for
from kernelfield.core.posterior import Elliptical
from kernelfield.linalg.dense import Conditional, Dense
from kernelfield.models.classify import (
    FittedClassifier,
    Parallel,
    classification_kernel,
    require_classes,
    softmax_average,
)
from kernelfield.models.covariance import Lazy, matrix, named_values

NUGGET = 1e-6  # added to K(Z, Z), in units of its diagonal: the inducing inputs may move onto each other
DRAWS = 16  # of f for each row of a batch and step
CAUTION = 3.0  # kernels learned from a posterior that is still poor end where classes look like half-spaces
DECAY = 0.3  # share of the steps, the last ones, over which the step length falls to zero

_log = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class VariationalClassifier(Model):
    """Sparse variational classification.

    kernel : as for `LaplaceClassifier`.
    mixing : the law of s; Unit() is the Gaussian process, InverseGamma(alpha, beta) the heavy-
        tailed form, which is less sure far from the data.
    inducing : the most inducing inputs, chosen among the rows, in proportion to their classes.
    batch : rows of a mini-batch.
    epochs : passes over the data; at least `least_steps` steps are made.
    rate : step length of Adam; a third of it for the kernel and the inducing inputs.

    Units: Y (n, k) one-hot.
    Errors: ValueError for targets that are not one-hot, counts below one, a rate that is not
        positive, a mixing law of another kind and those of the kernel.

    >>> X = torch.linspace(0, 1, 10, dtype=torch.double)[:, None]
    >>> Y = torch.nn.functional.one_hot((X[:, 0] > 0.5).long()).double()
    >>> fitted = VariationalClassifier().fit(Data(X, Y), generator=torch.Generator().manual_seed(0))
    >>> fitted.probabilities(X).argmax(-1).tolist()
    [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    """

    kernel: Kernel | str | None = None
    mixing: Mixing = field(default_factory=Unit)
    inducing: int = 64
    batch: int = 256
    epochs: int = 100
    rate: float = 0.06
    least_steps: int = 300

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedVariational":
        require_classes(data)
        self._check()
        kernel = classification_kernel(self.kernel, data.X)
        bound = Bound(kernel, chosen(data, self.inducing, generator), data.Y.shape[1], self.mixing)
        with threads_for(self.inducing), torch.enable_grad():
            self._climb(bound, data, generator)
        return bound.fitted()

    def _check(self) -> None:
        for name in ("inducing", "batch", "epochs", "least_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (self.rate > 0 and math.isfinite(self.rate)):
            raise ValueError(f"rate must be positive, got {self.rate:g}; give a step length such as 0.06")
        if not isinstance(self.mixing, Unit | InverseGamma):
            raise ValueError(f"mixing must be Unit() or an InverseGamma for this model, got {self.mixing!r}")

    def _climb(self, bound: "Bound", data: Data, generator: torch.Generator) -> None:
        n = len(data.X)
        size = min(self.batch, n)
        steps = max(self.least_steps, self.epochs * math.ceil(n / size))
        slow = [bound.Z, *bound.kernel.parameters()]
        quick = [bound.mean, bound.factor, bound.log_law]
        groups = [{"params": quick, "lr": self.rate}, {"params": slow, "lr": self.rate / CAUTION}]
        optimiser = torch.optim.Adam(groups)
        tail = max(1, round(DECAY * steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, (steps - step) / tail))
        order = torch.empty(0, dtype=torch.long)
        for step in range(steps):
            if len(order) < size:
                order = torch.randperm(n, generator=generator)
            rows, order = order[:size].to(data.X.device), order[size:]
            optimiser.zero_grad()
            value = bound(data.X[rows], data.Y[rows], n, generator)
            (-value / n).backward()
            optimiser.step()
            schedule.step()
            if step % 100 == 0:
                _log.info("step %d of %d: bound %.4f a row", step, steps, value.item() / n)


def chosen(data: Data, count: int, generator: torch.Generator) -> Tensor:
    """Different inputs among the rows (count, d), of each class in proportion to its rows."""
    labels = data.Y.argmax(-1)
    order = torch.randperm(len(data.X), generator=generator).to(data.X.device)
    # The rank of a row in its class over the size of the class is spread evenly for every class.
    place = torch.empty(len(order)).to(data.X)
    for c in range(data.Y.shape[1]):
        rows = order[labels[order] == c]
        place[rows] = (torch.arange(len(rows)).to(place) + 0.5) / max(len(rows), 1)
    return torch.unique(data.X[place.argsort(stable=True)[:count]], dim=0)


class Bound(nn.Module):
    """The bound of the evidence and all that it is maximised over, as parameters."""

    def __init__(self, kernel: Kernel, Z: Tensor, outputs: int, mixing: Mixing) -> None:
        super().__init__()
        self.kernel, self.mixing = kernel, mixing
        k = len(Z)
        self.Z = nn.Parameter(Z.clone())
        self.mean = nn.Parameter(Z.new_zeros(outputs, k))
        self.factor = nn.Parameter(torch.eye(k).to(Z).repeat(outputs, 1, 1))
        start = (mixing.alpha, mixing.beta) if isinstance(mixing, InverseGamma) else ()
        self.log_law = nn.Parameter(Z.new_tensor(start).log())  # of a and b, empty without mixing

    def forward(self, X: Tensor, Y: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """The bound, and the log priors of the kernel, from a batch X (B, d), Y (B, k) of n rows."""
        w = torch.linalg.solve_triangular(self._half(), matrix(self.kernel, self.Z, X), upper=False)
        spread = torch.einsum("cij,ib->cjb", self.factor.tril(), w).square().sum(-2)
        prior = self.kernel(X, diag=True)
        std = (prior - w.square().sum(0) + spread).clamp_min(1e-12 * prior.detach()).sqrt()  # (k, B)
        z = torch.randn(DRAWS, *std.shape, generator=generator, dtype=X.dtype).to(X)
        f = self.mean @ w + self._root_s(DRAWS, len(X), generator) * std * z
        fit = (f.log_softmax(-2) * Y.mT).sum(-2).mean()
        priors = sum((p.log_prob(get(module)).sum() for _, module, p, get, _ in self.kernel.named_priors()), 0.0)
        return n * fit - self.divergence() + priors

    def divergence(self) -> Tensor:
        """KL(q | p) over v and s, in nats."""
        T = self.factor.tril()
        log_det = 2 * T.diagonal(dim1=-2, dim2=-1).abs().log().sum()
        spread = T.square().sum() - T.diagonal(dim1=-2, dim2=-1).numel() - log_det
        if not isinstance(self.mixing, InverseGamma):
            return 0.5 * (spread + self.mean.square().sum())
        alpha, beta, (a, b) = self.mixing.alpha, self.mixing.beta, self.log_law.exp()
        of_s = alpha * (self.log_law[1] - math.log(beta)) - torch.lgamma(a) + math.lgamma(alpha)
        of_s = of_s + (a - alpha) * torch.digamma(a) + (beta - b) * a / b
        return 0.5 * (spread + a / b * self.mean.square().sum()) + of_s

    def _root_s(self, draws: int, rows: int, generator: torch.Generator) -> Tensor:
        """sqrt(s) for each draw and row, (draws, 1, rows), differentiable in the law of s."""
        if not isinstance(self.mixing, InverseGamma):
            return self.mean.new_ones(1, 1, 1)
        a, b = self.log_law.exp()
        # The call behind torch.distributions.Gamma.rsample, which takes no generator.
        gamma = torch._standard_gamma(a.cpu().expand(draws, 1, rows), generator=generator)
        return (b / gamma.to(b).clamp_min(1e-30)).sqrt()

    def _half(self) -> Tensor:
        K = matrix(self.kernel, self.Z, self.Z)
        return cholesky(K + torch.diag_embed(NUGGET * K.diagonal()))

    def fitted(self) -> "FittedVariational":
        """What was found, without gradients."""
        self.kernel.requires_grad_(False)
        with torch.no_grad():
            law: Mixing = InverseGamma(*self.log_law.exp().tolist()) if len(self.log_law) else self.mixing
            factor, mean = self.factor.detach().tril(), self.mean.detach().mT
            return FittedVariational(self.kernel, self.Z.detach(), Dense(self._half()), mean, factor, law)


@dataclass(frozen=True, eq=False)
class FittedVariational(FittedClassifier):
    """A sparse posterior: mean (k, m) and factor (m, k, k) of the whitened inducing values, law of s."""

    kernel: Kernel
    Z: Tensor
    solver: Dense
    mean: Tensor
    factor: Tensor
    law: Mixing

    @property
    def outputs(self) -> int:
        return self.mean.shape[1]

    def footprint(self, rows: int) -> int:
        return len(self.Z)

    def latent(self, X: Tensor) -> Elliptical:
        batch, flat = X.shape[:-1], X.reshape(-1, X.shape[-1])
        w = self.solver.whiten(matrix(self.kernel, self.Z, flat))
        known = w.unflatten(-1, batch).movedim(0, -2)
        parts = [
            Conditional(Lazy(self.kernel, X), lambda T=T: (known, T.mT @ known), 0.0, 1)  # type: ignore[misc]
            for T in self.factor
        ]
        return Elliptical((w.mT @ self.mean).unflatten(0, batch), Parallel(tuple(parts)), self.law)

    def probabilities(self, X: Tensor) -> Tensor:
        law = self.latent(X)
        return softmax_average(law.loc, law.spread.square(), self.law)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        law = {"alpha": self.law.alpha, "beta": self.law.beta} if isinstance(self.law, InverseGamma) else {}
        return {**named_values(self.kernel), **law}
