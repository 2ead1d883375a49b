"""Spectral mixtures with starts found in the data.

The evidence of a spectral mixture has one narrow peak for each set of frequencies, so a search from
arbitrary ones ends where it began. `Spectral` takes waves out of the data by their periodogram
(`kernels.spectral_start`), makes starts that differ in how long the waves keep their phase, races
them for a few steps and goes on from the best evidence.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from kernelfield.core.contracts import Data, Model
from kernelfield.core.mixing import Mixing, Unit
from kernelfield.kernels.spectral import Density, SpectralMixture, SpectralProduct
from kernelfield.kernels.spectral_start import Waves, capped, find_waves
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.process import Process

RACE = 40  # steps of each start before the best one goes on
COHERENCE = (2.0, 0.5, 8.0, 0.15)  # lengthscales of the waves at the starts, in spans of the inputs, in turn
LEAST_NOISE = 1e-4  # of the start, in the mean square of the targets
LEFTOVER = 0.1  # of the noise at the start: the variance shared by components that no wave was found for


@dataclass(eq=False, repr=False)
class Spectral(Model):
    """A process with a spectral mixture kernel whose frequencies start where the data have waves.

    components : the number of bumps in the spectrum; those that the data do not need fade.
    structure : "mixture", a SpectralMixture; or "product", a SpectralProduct, for functions on grids.
    density, nu : the shape of the bumps; "student_t" ones have the envelopes of a Matern kernel.
    max_frequency : the highest frequency that is looked for, in cycles per unit of X; None is the
        Nyquist frequency of the data, above which it is capped.
    mean, mixing, steps, learn_noise : those of `Process`.
    noise : variance of the observation noise; None estimates where to start.
    restarts : starts, which differ in the coherence of their waves.

    Units: X and Y as given; `FieldRegressor` standardises both, so that frequencies are in cycles
    per standard deviation of the input there.
    Errors: ValueError for fewer than one restart, more parameters than numbers observed, and those
    of `Process`. Warns AboveNyquist where max_frequency is capped.

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
        self._check(data)
        X, Y = (values.detach().cpu().double().numpy() for values in (data.X, data.Y))
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        waves = find_waves(X, Y, self.components, capped(self.max_frequency, X), rng)
        race = min(RACE, self.steps)
        runs = [self._started(waves, data, i, rng) for i in range(self.restarts)]
        if self.restarts > 1:
            ends = [self._process(*run, race).fit_exact(data, generator=generator) for run in runs]
            best = max(ends, key=lambda end: end.log_evidence)
            searches = tuple(search for end in ends for search in end.searches)
            last = self._process(best.kernel.requires_grad_(True), best.noise, self.steps)
        else:
            searches, last = (), self._process(*runs[0], self.steps)
        fitted = last.fit_exact(data, generator=generator)
        return replace(fitted, searches=searches + fitted.searches)

    def _process(self, kernel: SpectralMixture | SpectralProduct, noise: float, steps: int) -> Process:
        return Process(kernel, self.mean, noise, self.mixing, restarts=1, steps=steps, learn_noise=self.learn_noise)

    def _started(
        self, waves: Waves, data: Data, number: int, rng: np.random.Generator
    ) -> tuple[SpectralMixture | SpectralProduct, float]:
        """A kernel and a noise to start from."""
        Q, d = self.components, data.X.shape[1]
        made = SpectralMixture if self.structure == "mixture" else SpectralProduct
        kernel = made(Q, density=self.density, nu=self.nu, dims=d).to(data.X)
        size = max(float(data.Y.var(0, correction=0).mean()), 1e-12)
        drifts = 1 if Q > 1 else 0  # the first component is what is slower than the record is long
        found = len(waves.powers[: Q - drifts])
        rest = Q - drifts - found
        frequencies = np.zeros((Q, d))
        frequencies[drifts : drifts + found] = waves.frequencies[:found]
        frequencies[drifts + found :] = rng.uniform(0, 1, (rest, d)) * waves.nyquist
        lengths = np.tile(waves.span, (Q, 1)) * COHERENCE[number % 4]
        lengths[:drifts] = 0.5 * waves.span
        lengths[drifts + found :] = 0.1 * waves.span
        noise = max(waves.noise, LEAST_NOISE * size)
        weights = np.full(Q, LEFTOVER * noise / max(1, rest))
        weights[:drifts] = max(waves.drift, noise)
        weights[drifts : drifts + found] = waves.powers[:found]
        # Later rounds of the same coherences start beside the first ones.
        weights = weights * np.exp(0.5 * (number // 4) * rng.normal(size=Q))
        kernel.frequencies, kernel.lengthscales = torch.as_tensor(frequencies), torch.as_tensor(lengths)
        if isinstance(kernel, SpectralProduct):
            kernel.frequencies = kernel.frequencies.detach().abs()
            kernel.weights = torch.as_tensor(weights / weights.sum())[:, None].expand(Q, d)
            kernel.outputscale = float(weights.sum())
        else:
            kernel.weights = torch.as_tensor(weights)
        return kernel, noise if self.noise is None else float(self.noise)

    def _check(self, data: Data) -> None:
        if self.restarts < 1:
            raise ValueError(f"restarts must be at least 1, got {self.restarts}")
        if self.components < 1:
            raise ValueError(f"components must be at least 1, got {self.components}")
        if self.structure not in ("mixture", "product"):
            raise ValueError(f"structure must be 'mixture' or 'product', got {self.structure!r}")
        d, count = data.X.shape[1], data.Y.numel()
        each = 3 * d if self.structure == "product" else 2 * d + 1
        if self.components * each > count:
            remedy = f"take at most {count // each}" if count >= each else f"one needs at least {each} numbers"
            raise ValueError(
                f"{self.components} components have {self.components * each} parameters and the data {count} numbers; "
                f"{remedy}"
            )
