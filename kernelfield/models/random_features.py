"""Bayesian linear regression on random features: a process whose kernel has a low rank, for very many rows.

    f(x) = phi(x)' a,    a ~ N(0, v I),    k(x, x') = v phi(x)'phi(x')

All that the data are needed for are the sums of `collapsed` over the rows, which are gathered in blocks: memory is
O(block k + k^2), and new rows add to them exactly. Prior and noise, and lengthscales where the features have them,
are those of the greatest evidence.

    "fourier"     waves of the spectrum of a stationary kernel
    "network"     the units before the last layer of a deep network with random weights: an NNGP in the limit
    "universal"   the part Phi(x) of units f(w.x + b) of `kernelfield.kernels.universal_features`

Sources: Rahimi & Recht (2007); Takhanov (2024), "Multi-layer random features and the approximation power of neural
networks"; Sehanobish et al. (2024), "Scalable Neural Network Kernels".
"""

import copy
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import Mixing, Unit
from kernelfield.core.numerics import threads_for
from kernelfield.core.streaming import StreamingModel
from kernelfield.kernels.random_features import DeepRandomFeatures
from kernelfield.kernels.universal_features import Function, UniversalFeatures, spectral_draws
from kernelfield.models.collapsed import Basis, RegressionSums, Rows, gather
from kernelfield.models.evidence import NOISE_REACH, Trend, mean_square
from kernelfield.models.expansion import FittedExpansion, centre_of, climb, guess
from kernelfield.models.fit import Search
from kernelfield.models.search import SHARES, check_settings, kernel_for, sample
from kernelfield.models.streamed import SCALE_REACH, SumsLearner, noise_reach, resettled, settle
from kernelfield.nets.algebra import Layer
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu

NETWORK = Dense(2**0.5, 1.0) >> Relu() >> Dense(2**0.5, 0.3) >> Relu() >> Dense()
FEW = 512  # rows at most to start from


class Features(Basis):
    """Functions that are the process, up to their prior: nothing is left of it."""

    def factor(self) -> None:
        return None

    def variance(self, X: Tensor) -> None:
        return None

    def prior(self, X: Tensor) -> None:
        return None


@dataclass(frozen=True, eq=False)
class FourierBasis(Features):
    """Waves of frequencies z / lengthscale, z (k / 2, d), with the prior variance of the kernel."""

    kernel: Kernel
    frequencies: Tensor

    @property
    def size(self) -> int:
        return 2 * len(self.frequencies)

    def cross(self, X: Tensor) -> Tensor:
        phase = self.frequencies @ (X / self.kernel.lengthscale).mT
        return torch.cat([phase.cos(), phase.sin()]) * (self.kernel.outputscale / len(self.frequencies)).sqrt()

    def rescaled(self, scale: float) -> "FourierBasis":
        kernel = copy.deepcopy(self.kernel)
        kernel.outputscale = scale * kernel.outputscale
        return replace(self, kernel=kernel)


@dataclass(frozen=True, eq=False)
class DeepBasis(Features):
    """Random features of a network at X / unit, times exp(log_scale / 2), unit (d,), log_scale ()."""

    arch: Layer
    width: int
    seed: int
    unit: Tensor
    log_scale: Tensor
    kernel = None

    @cached_property
    def source(self) -> DeepRandomFeatures:
        """The kernel whose features they are."""
        return DeepRandomFeatures(self.arch, len(self.unit), self.width, seed=self.seed)

    @cached_property
    def size(self) -> int:
        return self.source.features(self.unit[None]).shape[-1]

    def cross(self, X: Tensor) -> Tensor:
        return self.source.features(X / self.unit).mT * (self.log_scale / 2).exp()

    def rescaled(self, scale: float) -> "DeepBasis":
        return replace(self, log_scale=self.log_scale + math.log(scale))


@dataclass(frozen=True, eq=False)
class UniversalBasis(Features):
    """Phi of X / (unit exp(log_length)), times exp(log_scale / 2)."""

    source: UniversalFeatures
    unit: Tensor
    log_scale: Tensor
    log_length: Tensor
    kernel = None

    @property
    def size(self) -> int:
        return self.source.size

    def cross(self, X: Tensor) -> Tensor:
        return self.source.of_inputs(X / (self.unit * self.log_length.exp())).mT * (self.log_scale / 2).exp()

    @property
    def free(self) -> Tensor:
        return torch.stack([self.log_scale, self.log_length])

    def at(self, free: Tensor) -> "UniversalBasis":
        return replace(self, log_scale=free[0], log_length=free[1])

    def rescaled(self, scale: float) -> "UniversalBasis":
        return replace(self, log_scale=self.log_scale + math.log(scale))


@dataclass(eq=False, repr=False)
class RandomFeatureProcess(StreamingModel):
    """Bayesian linear regression on random features; see the module docstring.

    features : "fourier", "network" or "universal".
    count : the number of features, which the time grows with as its square; more lie nearer to the process.
    kernel : of "fourier": a Matern or RBF kernel, or its name; None is "matern52".
    arch : of "network", a `Layer` that ends in Dense, whose scales are held; None has two hidden layers of ReLU.
    function : of "universal": "cos", "sin", "gaussian" or "relu".
    mean, noise, restarts, steps, learn_noise : as for `SparseProcess`; without steps the prior variance is
        that of the targets.

    Units: X and Y as given. Outputs share features and noise.
    Errors: ValueError for an unknown choice, a count below two, a kernel without known spectrum, a network that
        does not end in Dense, and those of `Process`.

    >>> X = torch.linspace(-1, 1, 300, dtype=torch.double)[:, None]
    >>> model = RandomFeatureProcess(count=64, kernel="rbf")
    >>> fitted = model.fit(Data(X, torch.sin(3 * X)), generator=torch.Generator().manual_seed(0))
    >>> round(fitted.posterior(X[:1] + 1.5).mean.item(), 2)  # sin(1.5)
    1.0
    """

    features: Literal["fourier", "network", "universal"] = "fourier"
    count: int = 512
    kernel: Kernel | str | None = None
    arch: Layer | None = None
    function: Function = "gaussian"
    mean: Literal["constant", "zero", "linear"] = "constant"
    noise: float = 0.1
    restarts: int = 4
    steps: int = 200
    learn_noise: bool = True

    @property
    def mixing(self) -> Mixing:
        """The law of the scale of the process: none."""
        return Unit()

    def fit(self, data: Data, *, generator: torch.Generator) -> FittedExpansion:
        self._check()
        trend, centre = Trend.of(self.mean, data.X), centre_of(self.mean, data.Y)
        rows = Rows.of(data, trend, centre)
        with threads_for(len(data.X)):
            match self.features:
                case "fourier":
                    return self._waves(data, rows, trend, centre, generator)
                case "network":
                    return self._network(rows, trend, centre, generator)
                case _:
                    return self._universal(data, rows, trend, centre, generator)

    def learner(self, sample: Data, rows: int, *, generator: torch.Generator) -> SumsLearner:
        return SumsLearner(self.fit(sample, generator=generator), self, whole=len(sample.X) >= rows)

    def _check(self) -> None:
        check_settings(self)
        if self.features not in ("fourier", "network", "universal"):
            raise ValueError(f"features must be 'fourier', 'network' or 'universal', got {self.features!r}")
        if self.count < 2:
            raise ValueError(f"count must be at least 2 features, got {self.count}")

    def _waves(
        self, data: Data, rows: Rows, trend: Trend, centre: Tensor, generator: torch.Generator
    ) -> FittedExpansion:
        kernel = kernel_for(self.kernel, data.X, data.Y.var(0, correction=0).mean().clamp_min(1e-12))
        waves = spectral_draws(kernel, self.count // 2, data.X.shape[1], generator=generator).to(data.X)
        noise, few, searches = guess(kernel, self, data, learn_noise=self.learn_noise, generator=generator)
        # What too few waves leave of the process is noise to them: a search that starts from the noise of the whole
        # process, far too little, ends at lengthscales that explain nothing.
        start = resettled(self._fitted(FourierBasis(kernel, waves), noise, trend, centre, rows, searches), self)
        basis, noise, more = climb(
            start.basis, few, rows, len(centre), start.noise, learn=self.learn_noise, move=False, steps=self.steps
        )
        if basis.kernel is not None:
            basis.kernel.requires_grad_(False)
        return self._fitted(basis, noise, trend, centre, rows, [*start.searches, *more])

    def _network(self, rows: Rows, trend: Trend, centre: Tensor, generator: torch.Generator) -> FittedExpansion:
        seed = int(torch.randint(2**31, (1,), generator=generator))
        arch = NETWORK if self.arch is None else self.arch
        unit, zero = _spread(rows.X), rows.X.new_zeros(())
        basis = DeepBasis(arch, self.count, seed, unit, zero)
        with torch.no_grad():
            moments = gather(basis, None, rows)
        scale, noise, searches = self._prior(moments, len(centre))
        basis = replace(basis, log_scale=zero + math.log(scale))
        return FittedExpansion(basis, noise, trend, centre, moments.rescaled(scale), tuple(searches))

    def _prior(self, moments: RegressionSums, m: int) -> tuple[float, float, list[Search]]:
        """Prior variance and noise of the greatest evidence: the sums at another variance are multiples of these."""
        low, high = noise_reach(moments, m)
        size = low / NOISE_REACH[0]
        mean = moments.G.trace().item() / moments.rows  # variance of the process per unit of the prior
        first = size / mean if mean > 0 else size
        if not self.steps:
            return first, float(self.noise), []
        shares = [self.noise, *(share * size for share in SHARES)][: self.restarts]
        if not self.learn_noise:
            shares, low, high = [self.noise], self.noise, self.noise
        scales = (first * SCALE_REACH[0], first * SCALE_REACH[1])
        return settle(moments, m, [(first, share) for share in shares], (scales, (low, high)), self.steps)

    def _universal(
        self, data: Data, rows: Rows, trend: Trend, centre: Tensor, generator: torch.Generator
    ) -> FittedExpansion:
        d = data.X.shape[1]
        count = self.count if self.function == "relu" else self.count // 2
        source = UniversalFeatures.drawn(self.function, d, count, generator=generator)
        size = mean_square(rows.V[:, : len(centre)], rows.V[:, len(centre) :])
        start = rows.X.new_tensor([math.log(size), 0.0])
        basis: Basis = UniversalBasis(source, _spread(rows.X) * d**0.5, *start)
        few = sample(data, FEW, generator)
        basis, noise, searches = climb(
            basis, few, rows, len(centre), self.noise, learn=self.learn_noise, move=True, steps=self.steps
        )
        return self._fitted(basis, noise, trend, centre, rows, searches)

    def _fitted(
        self, basis: Basis, noise: float, trend: Trend, centre: Tensor, rows: Rows, searches: list[Search]
    ) -> FittedExpansion:
        with torch.no_grad():
            return FittedExpansion.of(basis, noise, trend, centre, rows, searches)


def _spread(X: Tensor) -> Tensor:
    spread = X.std(0, correction=0)
    return torch.where(spread > 0, spread, torch.ones_like(spread))
