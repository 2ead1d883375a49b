"""Bayesian networks by Markov chains: Hamiltonian Monte Carlo, the no-U-turn sampler, and stochastic gradients.

The posterior of all parameters, given a Gaussian prior with the architecture's own standard
deviations and Gaussian noise of a variance that is sampled along, is represented by draws: each is a
network with a noise of its own. Chains start at networks trained for a short while from draws of
the prior, and are judged by their predictions at rows of the training set: see
`kernelfield.models.neural.diagnostics`.

Sources: Neal (1996), "Bayesian Learning for Neural Networks"; Izmailov, Vikram, Hoffman & Wilson
(2021), "What Are Bayesian Neural Network Posteriors Really Like?".
"""

import math
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.posterior import Draws
from kernelfield.models.neural.chains import Chains
from kernelfield.models.neural.density import NetworkDensity
from kernelfield.models.neural.diagnostics import Diagnosis
from kernelfield.models.neural.hamiltonian import hmc
from kernelfield.models.neural.likelihoods import Gaussian, Likelihood, same
from kernelfield.models.neural.network import Network
from kernelfield.models.neural.no_u_turn import nuts
from kernelfield.models.neural.stochastic_hamiltonian import sghmc
from kernelfield.models.neural.train import Training, train
from kernelfield.nets.algebra import Layer
from kernelfield.nets.dense import Dense
from kernelfield.nets.quadrature import Tanh

PROBES = 32  # rows of the training set at which predictions are watched
WORK = 10_000_000  # row slopes a chain that a fit may take where the number of moves is left open
MOVES, FEWEST = 200, 60  # of warm-up and sampling together, then
LONGEST = 256  # steps of a trajectory at most
STEPS = 96  # of a trajectory, about, by which moves are counted
SETTLED = 20  # networks that answer where all targets are equal
FULL_BATCH = 2000  # rows above which chains on all of them are short, and mini-batches are advised


def start_training() -> Training:
    """What brings chains from a draw of the prior to where the data put them."""
    return Training(steps=400, batch=128, learning_rate=5e-3)


def smooth(width: int, activation: Layer) -> Layer:
    """Two hidden layers and an output, with a prior of functions of about unit size on standardised inputs.

    Biases are as large as weights: activations that are odd functions would make odd ones only.
    """
    return Dense(2.0, 1.0, width) >> activation >> Dense(2.0, 1.0, width) >> activation >> Dense(1.0, 0.5)


@dataclass(frozen=True, eq=False)
class SampledNetworks:
    """Networks drawn from a posterior: parameters (k, p), and noise (k, m) where it was drawn."""

    network: Network
    parameters: Tensor
    noise: Tensor | None
    diagnosis: Diagnosis | None  # None where no chain was run
    remarks: tuple[str, ...]

    def values(self, X: Tensor) -> Tensor:
        """The outputs (*b, k, n, m) of the networks at X (*b, n, d)."""
        flat = self.network.values(self.parameters.to(X), X.reshape(-1, X.shape[-1]))
        return flat.unflatten(-2, X.shape[:-1]).movedim(0, -3)


@dataclass(eq=False, repr=False)
class Sampled(Model):
    """What models share that draw networks from their posterior; see `HMC`, `NUTS` and `SGHMC`."""

    network: Layer | nn.Module | None = None
    width: int = 50
    scale: float = 1.0
    learn_scales: bool = False
    noise: float | None = None
    chains: int = 4
    warmup: int | None = None
    draws: int | None = None
    training: Training | None = field(default_factory=start_training)
    precision: Literal["single", "double"] = "single"

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedSampled":
        sample = self.sample(data, Gaussian(self.noise), generator=generator)
        noise = sample.noise
        if noise is None:
            noise = sample.parameters.new_full((len(sample.parameters), data.Y.shape[1]), float(self.noise or 0))
        return FittedSampled(sample, noise)

    def sample(self, data: Data, likelihood: Likelihood, *, generator: torch.Generator) -> SampledNetworks:
        """Networks drawn from the posterior under a likelihood.

        Errors: ValueError for settings out of their range.
        """
        self._check()
        m = likelihood.width(data.Y.shape[1])
        architecture = smooth(self.width, Tanh()) if self.network is None else self.network
        network = Network(architecture, data.X.shape[1], m, self.width)
        dtype = torch.float64 if self.precision == "double" else torch.float32
        density = NetworkDensity.of(
            network, data, likelihood, scale=self.scale, learn_scales=self.learn_scales, dtype=dtype
        )
        if likelihood.learned and len(data.X) > 1 and same(data.Y):
            return self._settled(density, data, generator)
        chains = self.run(density, self._start(density, data, generator), generator)
        z = chains.draws.flatten(0, 1)
        noise = density.noise(z)
        parameters = density.parameters(z).double()
        diagnosis = self._diagnosis(density, chains, generator)
        return SampledNetworks(
            network, parameters, None if noise is None else noise.double(), diagnosis, self.remarks(density, chains)
        )

    @abstractmethod
    def run(self, density: NetworkDensity, start: Tensor, generator: torch.Generator) -> Chains:
        """The chains from positions (k, p)."""

    def remarks(self, density: NetworkDensity, chains: Chains) -> tuple[str, ...]:
        """What else a user should know of the chains, in sentences."""
        s, k, _ = chains.draws.shape
        return (f"{k} chains of {s} draws, {chains.gradients} slopes each, with a step of {chains.step:.3g}.",)

    def _check(self) -> None:
        if self.chains < 1:
            raise ValueError(f"chains must be at least 1, got {self.chains}")
        if self.draws is not None and self.draws < 4:
            raise ValueError(f"draws must be at least 4 a chain for its diagnosis, got {self.draws}")
        if not (self.scale > 0 and math.isfinite(self.scale)):
            raise ValueError(f"scale must be positive and finite, got {self.scale}; 1.0 is the network's own")
        if self.precision not in ("single", "double"):
            raise ValueError(f"precision must be 'single' or 'double', got {self.precision!r}")

    def _start(self, density: NetworkDensity, data: Data, generator: torch.Generator) -> Tensor:
        """Positions (k, p): drawn from the prior, and trained for a while not far from there.

        Trained towards the origin, many weights would end where they explain nothing.
        """
        z = density.draw(self.chains, generator)
        if self.training is None:
            return z
        precision = torch.where(density.prior_std > 0, density.prior_std, torch.inf).double().square().reciprocal()
        drawn = density.parameters(z).double()
        done = train(
            density.network,
            data,
            density.likelihood,
            self.training,
            members=self.chains,
            generator=generator,
            start=drawn,
            anchor=drawn,
            penalty=lambda theta: (precision.to(theta) * theta.square()).sum(-1) / (2 * len(data.X)),
        )
        return density.position(done.parameters, done.noise)

    def _settled(self, density: NetworkDensity, data: Data, generator: torch.Generator) -> SampledNetworks:
        """Networks for targets that are all equal, under which noise and steps of chains sink without end."""
        z = replace(self, training=self.training or start_training(), chains=SETTLED)._start(density, data, generator)
        parameters = density.parameters(z).double()
        gap = density.network.values(parameters.to(data.X), data.X) - data.Y
        least = torch.finfo(density.data.X.dtype).eps * data.Y.square().mean(0)
        noise = gap.square().mean(-2).clamp_min(torch.finfo(gap.dtype).tiny).maximum(least)
        said = (
            f"All targets are equal: no chains were run, and {SETTLED} networks were trained from draws of the prior."
        )
        return SampledNetworks(density.network, parameters, noise, None, (said,))

    def _diagnosis(self, density: NetworkDensity, chains: Chains, generator: torch.Generator) -> Diagnosis:
        """Of predictions and of the noise, which are functions of the posterior that symmetries leave alone."""
        X = density.data.X
        rows = torch.randperm(len(X), generator=generator)[:PROBES].to(X.device)
        seen = density.network.values(density.parameters(chains.draws), X[rows]).flatten(-2)
        noise = density.noise(chains.draws)
        if noise is not None:
            seen = torch.cat([seen, noise.log()], -1)
        return Diagnosis.of(seen, accepted=chains.accepted, divergent=chains.divergent, energy=chains.energy)


def planned(n: int) -> tuple[int, int, int]:
    """Moves of warm-up, draws, and the most steps of a trajectory, for n rows and WORK slopes of rows.

    >>> planned(500)
    (100, 100, 100)
    """
    moves = min(MOVES, max(FEWEST, WORK // (n * STEPS)))
    return moves // 2, moves - moves // 2, min(LONGEST, max(4, WORK // (n * moves)))


@dataclass(eq=False, repr=False)
class HMC(Sampled):
    """A Bayesian network by Hamiltonian Monte Carlo on all rows, the reference for every approximation.

    network : a `Layer` of `kernelfield.nets`, whose scales are the prior, or a torch module. None is
        two hidden layers of `width` tanh units.
    width : units of layers that leave theirs open.
    scale : multiplies the standard deviations of the prior.
    learn_scales : whether each tensor of weights or biases has a factor of its own beside it, which
        is sampled too. Held, a function that varies faster than the prior expects is taken for
        noise; learned, paths take several times as many steps.
    noise : variance of the observation noise; None samples it, around a tenth of the variance of
        the targets, with a spread of a factor of seven.
    chains : how many move together; their predictions are compared.
    warmup, draws : moves of each chain before, and while draws are kept. None makes a fit of a minute
        or so: 100 each up to 500 rows, fewer and shorter trajectories above.
    path : mean length of a trajectory, in standard deviations of the prior.
    target : acceptance that the step is tuned to.
    adapt : whether warm-up learns a spread for each parameter, beside that of the prior.
    training : how chains reach the posterior from a draw of the prior; None leaves that to warm-up.
    precision : of the arithmetic; energies of a few thousand nats are right to 0.001 in single.

    Units: X and Y as given; the prior means standardised ones, as `FieldRegressor` makes them.
    Errors: ValueError for settings out of their range, and those of `Network` and `train`.

    >>> X = torch.linspace(-1, 1, 20, dtype=torch.double)[:, None]
    >>> model = HMC(width=5, noise=0.1, warmup=20, draws=5, chains=2, path=0.3)
    >>> fitted = model.fit(Data(X, X.sin()), generator=torch.Generator().manual_seed(0))
    >>> fitted.posterior(X).mean.shape
    torch.Size([20, 1])
    """

    path: float = 1.0
    target: float = 0.8
    adapt: bool = False

    def run(self, density: NetworkDensity, start: Tensor, generator: torch.Generator) -> Chains:
        warmup, draws, longest = planned(len(density.data.X))
        return hmc(
            density,
            start,
            generator=generator,
            warmup=warmup if self.warmup is None else self.warmup,
            draws=draws if self.draws is None else self.draws,
            path=self.path,
            longest=longest if self.warmup is None or self.draws is None else LONGEST,
            target=self.target,
            adapt=self.adapt,
        )

    def remarks(self, density: NetworkDensity, chains: Chains) -> tuple[str, ...]:
        return (*super().remarks(density, chains), *_advice(self, density, "HMC"))


def _advice(model: Sampled, density: NetworkDensity, name: str) -> tuple[str, ...]:
    n = len(density.data.X)
    if n <= FULL_BATCH or (model.warmup is not None and model.draws is not None):
        return ()
    return (
        f"{name} on {n} rows was cut to {WORK // n} slopes a chain so that it ends: use SGHMC, which takes "
        "mini-batches, or give warmup and draws and the time that they need.",
    )


@dataclass(eq=False, repr=False)
class NUTS(Sampled):
    """A Bayesian network by the no-U-turn sampler on all rows, which chooses the lengths of trajectories itself.

    depth : the most doublings of a trajectory; None makes a fit of a few minutes.
    The other fields are those of `HMC`.

    >>> X = torch.linspace(-1, 1, 20, dtype=torch.double)[:, None]
    >>> model = NUTS(width=5, noise=0.1, warmup=10, draws=5, chains=2, depth=3)
    >>> fitted = model.fit(Data(X, X.sin()), generator=torch.Generator().manual_seed(0))
    >>> fitted.posterior(X).mean.shape
    torch.Size([20, 1])
    """

    depth: int | None = None
    target: float = 0.8
    adapt: bool = False

    def run(self, density: NetworkDensity, start: Tensor, generator: torch.Generator) -> Chains:
        warmup, draws, longest = planned(len(density.data.X))
        given = self.warmup is not None and self.draws is not None
        depth = 10 if given else (longest + 1).bit_length() - 1
        return nuts(
            density,
            start,
            generator=generator,
            warmup=warmup if self.warmup is None else self.warmup,
            draws=draws if self.draws is None else self.draws,
            depth=depth if self.depth is None else self.depth,
            target=self.target,
            adapt=self.adapt,
        )

    def remarks(self, density: NetworkDensity, chains: Chains) -> tuple[str, ...]:
        return (*super().remarks(density, chains), *_advice(self, density, "NUTS"))


@dataclass(eq=False, repr=False)
class SGHMC(Sampled):
    """A Bayesian network by stochastic-gradient Hamiltonian Monte Carlo, for data of any size.

    batch : rows of a mini-batch; None is all of them.
    step : of the motion, as a share of the time scale of the parameters; its error falls as its square.
    friction : how soon momenta are forgotten, in the same unit of time.
    warmup : steps before the first draw, in which masses are learned; None is 2000.
    draws : how many each chain keeps; None is 100.
    thin : steps between draws.
    schedule : "cyclic" lets the step fall to nearly zero before each draw.
    The other fields are those of `HMC`.

    >>> X = torch.linspace(-1, 1, 20, dtype=torch.double)[:, None]
    >>> model = SGHMC(width=5, warmup=100, draws=10, chains=2)
    >>> fitted = model.fit(Data(X, X.sin()), generator=torch.Generator().manual_seed(0))
    >>> fitted.posterior(X).mean.shape
    torch.Size([20, 1])
    """

    batch: int | None = 128
    step: float = 0.1
    friction: float = 1.0
    thin: int = 50
    schedule: Literal["constant", "cyclic"] = "constant"

    def run(self, density: NetworkDensity, start: Tensor, generator: torch.Generator) -> Chains:
        return sghmc(
            lambda z, rows: density(z) if rows is None else density.at_rows(z, rows.to(z.device)),
            start,
            generator=generator,
            rows=len(density.data.X),
            batch=self.batch,
            step=self.step,
            friction=self.friction,
            warmup=2000 if self.warmup is None else self.warmup,
            draws=100 if self.draws is None else self.draws,
            thin=self.thin,
            schedule=self.schedule,
        )


@dataclass(frozen=True, eq=False)
class FittedSampled(Surrogate):
    """Networks drawn from their posterior, each with the noise (k, m) drawn with it."""

    sample: SampledNetworks
    noise: Tensor

    @property
    def outputs(self) -> int:
        return self.sample.network.outputs

    def footprint(self, rows: int) -> int:
        return self.sample.network.activity

    def posterior(self, X: Tensor, *, noise: bool = False) -> Draws:
        values = self.sample.values(X)
        k = values.shape[-3]
        weights = values.new_full((k,), 1 / k)
        own = self.noise.to(X)[:, None, :].expand(values.shape) if noise else X.new_zeros(())
        return Draws(values, weights, own)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        mean = self.noise.mean(0).tolist()
        return {"noise": mean[0] if len(mean) == 1 else mean}

    def notes(self) -> list[str]:
        return [*self.sample.remarks, *verdict(self.sample.diagnosis)]


def verdict(diagnosis: Diagnosis | None) -> list[str]:
    """Whether chains converged, in sentences; none without chains."""
    if diagnosis is None:
        return []
    complaints = diagnosis.complaints
    if complaints:
        return [
            f"The chains have not converged: {'; '.join(complaints)}. Predictions are an average of what was seen; "
            "give more warmup and draws."
        ]
    return [
        f"The chains agree: R-hat of predictions at most {diagnosis.rhat:.3g}, {diagnosis.draws} draws worth at least "
        f"{min(diagnosis.bulk, diagnosis.tail):.0f} independent ones."
    ]
