"""Spectral mixtures with starts found in the data.

The evidence of a spectral mixture has one narrow peak for each set of frequencies, so a search from
arbitrary ones ends where it began. `Spectral` takes waves out of the data by their periodogram
(`kernels.spectral_start`), makes starts that differ in how long the waves keep their phase, races
them for a few steps and goes on from the best evidence.

In several inputs a few hundred rows show hardly a wave, and many components are parameters without
a reason: their evidence grows with each, and their intervals are too narrow. So the spectrum begins
with what is slow and the waves that were found. Others join, twice as many at a time, while the
evidence grows by more than half of log N for each of their parameters, N numbers being observed.

Source: Schwarz (1978), "Estimating the Dimension of a Model", for the price of a parameter.
"""

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.contracts import Data, Model
from kernelfield.core.mixing import Mixing, Unit
from kernelfield.core.numerics import threads_for
from kernelfield.kernels.spectral import Density, SpectralMixture, SpectralProduct
from kernelfield.kernels.spectral_start import Waves, capped, find_waves
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.covariance import covariance
from kernelfield.models.evidence import Objective, Trend
from kernelfield.models.fit import Search, minimise
from kernelfield.models.process import BUFFERS_GENERAL, Process
from kernelfield.models.search import SUBSET, check_settings, sample
from kernelfield.models.solver_choice import require_cholesky

RACE = 40  # steps of each start before the best one goes on
COHERENCE = (2.0, 0.5, 8.0, 0.15)  # lengthscales of the waves at the starts, in spans of the inputs, in turn
# Lengthscales of what is slower, and of components that no wave was found for, in spans of the inputs times the root
# of their number, as which distances grow.
DRIFT, REST = 0.5, 0.1
LEAST_NOISE = 1e-4  # of the start, in the mean square of the targets
LEFTOVER = 0.1  # of the noise: the variance shared at their start by components that no wave was found for


@dataclass(eq=False, repr=False)
class Spectral(Model):
    """A process with a spectral mixture kernel whose frequencies start where the data have waves.

    components : the most bumps in the spectrum; there are fewer where the evidence does not pay for more, and never
        more parameters than numbers observed.
    structure : "mixture", a SpectralMixture; or "product", a SpectralProduct, for functions on grids.
    density, nu : the shape of the bumps; "student_t" ones have the envelopes of a Matern kernel.
    max_frequency : the highest frequency that is looked for, in cycles per unit of X; None is the
        Nyquist frequency of the data, above which it is capped.
    mean, mixing, steps, learn_noise : those of `Process`.
    noise : variance of the observation noise; None estimates where to start.
    restarts : starts, which differ in the coherence of their waves.

    Units: X and Y as given; `FieldRegressor` standardises both, so that frequencies are in cycles
    per standard deviation of the input there.
    Errors: ValueError for fewer than one restart, fewer numbers observed than one component has parameters, and
    those of `Process`. Warns AboveNyquist where max_frequency is capped.

    >>> X = torch.linspace(0, 2, 60, dtype=torch.double)[:, None]
    >>> fitted = Spectral(3).fit(Data(X, torch.sin(20 * X)), generator=torch.Generator())
    >>> round(2 * torch.pi * fitted.kernel.peaks()[0].frequency[0], 1)
    20.0
    """

    components: int = 8
    density: Density = "gaussian"
    nu: float = 2.5
    structure: Literal["mixture", "product"] = "mixture"
    max_frequency: float | None = None
    mean: Literal["constant", "zero", "linear"] = "constant"
    noise: float | None = None
    mixing: Mixing = field(default_factory=Unit)
    restarts: int = 3
    steps: int = 200
    learn_noise: bool = True

    def fit(self, data: Data, *, generator: torch.Generator) -> FittedProcess:
        self._check()
        most = self._most(data)
        require_cholesky(len(data.X), data.X.element_size() * BUFFERS_GENERAL, data.X.device)
        X, Y = (values.detach().cpu().double().numpy() for values in (data.X, data.Y))
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        waves = find_waves(X, Y, most, capped(self.max_frequency, X), rng)
        few = sample(data, SUBSET, generator)
        best = self._chosen(waves, few, most, rng)
        if few is not data:
            best = self._search(best, data, self.steps)
        last = Process(best.kernel, self.mean, best.noise, self.mixing, steps=0)
        return replace(last.fit_exact(data, generator=generator), searches=best.searches)

    def _chosen(self, waves: Waves, data: Data, most: int, rng: np.random.Generator) -> "_Point":
        """The end of the search with as many components as the evidence pays for, and at most so many."""
        first = min(most, max(1, len(waves.powers) + (most > 1)))
        starts = [self._started(waves, data, first, number, rng) for number in range(self.restarts)]
        ends = [self._search(start, data, min(RACE, self.steps)) for start in starts]
        best = max(ends, key=lambda end: end.evidence)
        best = replace(best, searches=tuple(search for end in ends for search in end.searches))
        while self.steps:
            best = self._search(best, data, self.steps)
            if best.kernel.components == most:
                break
            grown = self._search(self._grown(best, waves, most, rng), data, min(RACE, self.steps))
            if grown.worth(data) <= best.worth(data):
                return replace(best, searches=grown.searches)
            best = grown
        return best

    def _search(self, start: "_Point", data: Data, steps: int) -> "_Point":
        """The point where a search ends that begins at another."""
        kernel, trend = copy.deepcopy(start.kernel), Trend.of(self.mean, data.X)
        matrix = covariance(kernel, data.X)
        objective = Objective(matrix, data, trend, self.mixing, start.noise, learn=self.learn_noise)
        if not steps:
            loss, _ = objective(objective.given())
            return replace(start, evidence=-loss * data.Y.numel())
        label = f"fit of {kernel.components} components to {len(data.X)} rows"
        with threads_for(len(data.X)):
            theta, (search,) = minimise(objective, [objective.given()], objective.bounds(), steps, label=label)
        parameters, noise, _ = objective.split(theta)
        matrix.assign(parameters)
        return _Point(kernel, noise, -search.last * data.Y.numel(), (*start.searches, search))

    def _grown(self, point: "_Point", waves: Waves, most: int, rng: np.random.Generator) -> "_Point":
        """A point with up to twice as many components, of which the new ones are small and anywhere."""
        old, few, d = point.kernel, point.kernel.components, point.kernel.dims
        more = min(few, most - few)
        kernel = self._kernel(few + more, d).to(old.raw_frequencies)
        weight = old.weights.new_tensor(LEFTOVER * point.noise / more)
        if isinstance(old, SpectralProduct) and isinstance(kernel, SpectralProduct):
            kernel.outputscale = old.outputscale.detach()
            weight = weight / old.outputscale * old.weights.sum(-2)
        frequencies = rng.uniform(0, 1, (more, d)) * waves.nyquist
        lengths = np.tile(REST * d**0.5 * waves.span, (more, 1))
        kernel.frequencies = _joined(old.frequencies, torch.as_tensor(frequencies))
        kernel.lengthscales = _joined(old.lengthscales, torch.as_tensor(lengths))
        kernel.weights = _joined(old.weights, weight.expand(more, *weight.shape))
        return replace(point, kernel=kernel)

    def _kernel(self, components: int, d: int) -> SpectralMixture | SpectralProduct:
        made = SpectralMixture if self.structure == "mixture" else SpectralProduct
        return made(components, density=self.density, nu=self.nu, dims=d)

    def _started(self, waves: Waves, data: Data, components: int, number: int, rng: np.random.Generator) -> "_Point":
        """Where a search begins: what is slower than the record is long, if there is more than one, and waves."""
        Q, d = components, data.X.shape[1]
        kernel = self._kernel(Q, d).to(data.X)
        size = max(float(data.Y.var(0, correction=0).mean()), 1e-12)
        found = min(len(waves.powers), max(1, Q - 1))
        drifts = Q - found
        frequencies, coherence = np.zeros((Q, d)), COHERENCE[number % 4]
        frequencies[drifts:] = waves.frequencies[:found]
        lengths = np.tile(waves.span, (Q, 1)) * coherence
        lengths[:drifts] = DRIFT * d**0.5 * waves.span * (1 if found else coherence / COHERENCE[0])
        noise = max(waves.noise, LEAST_NOISE * size)
        weights = np.full(Q, max(waves.drift, noise))
        weights[drifts:] = waves.powers[:found]
        # Later rounds of the same coherences start beside the first ones.
        weights = weights * np.exp(0.5 * (number // 4) * rng.normal(size=Q))
        kernel.frequencies, kernel.lengthscales = torch.as_tensor(frequencies), torch.as_tensor(lengths)
        if isinstance(kernel, SpectralProduct):
            kernel.frequencies = kernel.frequencies.detach().abs()
            kernel.weights = torch.as_tensor(weights / weights.sum())[:, None].expand(Q, d)
            kernel.outputscale = float(weights.sum())
        else:
            kernel.weights = torch.as_tensor(weights)
        return _Point(kernel, noise if self.noise is None else float(self.noise))

    def _check(self) -> None:
        noise = 0.1 if self.noise is None else self.noise
        check_settings(Process(None, self.mean, noise, self.mixing, restarts=self.restarts, steps=self.steps))
        if self.components < 1:
            raise ValueError(f"components must be at least 1, got {self.components}")
        if self.structure not in ("mixture", "product"):
            raise ValueError(f"structure must be 'mixture' or 'product', got {self.structure!r}")

    def _most(self, data: Data) -> int:
        """How many components there can be, each parameter taking a number observed."""
        d, count = data.X.shape[1], data.Y.numel()
        each = 3 * d if self.structure == "product" else 2 * d + 1
        if count < each:
            raise ValueError(
                f"a component of {d} inputs has {each} parameters and the data {count} numbers; give it more rows"
            )
        return min(self.components, count // each)


@dataclass(frozen=True, eq=False)
class _Point:
    """A kernel and a noise, their log evidence in nats where a search ended there, and the searches so far."""

    kernel: SpectralMixture | SpectralProduct
    noise: float
    evidence: float = math.nan
    searches: tuple[Search, ...] = ()

    def worth(self, data: Data) -> float:
        """The evidence less half the logarithm of the number of observations for each parameter."""
        return self.evidence - 0.5 * math.log(data.Y.numel()) * sum(p.numel() for p in self.kernel.parameters())


def _joined(old: Tensor, new: Tensor) -> Tensor:
    return torch.cat([old.detach(), new.detach().to(old)])
