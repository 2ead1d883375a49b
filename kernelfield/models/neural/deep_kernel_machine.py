"""Deep kernel machines: wide Bayesian networks whose Gram matrices, and not their weights, are learned.

A deep Gaussian process whose layers grow wide together with the number of likelihood terms has a
posterior in which every layer's features are Gaussian with one Gram matrix G_l, and these maximise

    L = log p(Y | G_L) - sum_l nu_l KL(N(0, G_l) | N(0, K(G_{l-1}))),    Y | G_L ~ N(0, K(G_L) + noise / weight)

with G_0 = X W X' / d and W learned weights of the inputs. nu_l, the effective width of a layer, says
what departing from the infinitely wide network costs: it is recovered as nu grows. With n > M rows the
Gram matrices are those of M inducing points (`gram_layers`), and the likelihood is the bound of Titsias,

    log N(Y | 0, Psi' Psi + noise / weight) - m sum_i weight_i (K_ii - |psi_i|^2) / (2 noise).

All is maximised in closed form, without sampling: V of each layer, inducing inputs, W, the scale s and bias b
by which a layer's kernel sees s G + b, the output scale and the noise.

L has one best point where there should be an average: Gram matrices, and scales too, can learn the noise of few
rows by heart, at little cost, and the noise that is left then goes to zero. So a noise that is learned has a wide
log normal prior; the infinitely wide network, which has scales alone to learn, is fitted first; Gram matrices are
learned from there; and rows that no fit has seen choose the noise of the second, and between the two. Held-out
rows condition the machine that is chosen; the wide network, which needs none, goes on with all rows.

Sources: Yang, Robeyns, Milsom, Anson, Schoots & Aitchison (2023), "A Theory of Representation Learning
Gives a Deep Generalisation of Kernel Methods"; Titsias (2009), "Variational Learning of Inducing
Variables in Sparse Gaussian Processes".
"""

import math
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.numerics import NotConverged, cholesky, threads_for
from kernelfield.core.posterior import Elliptical
from kernelfield.linalg.dense import Conditional
from kernelfield.models.fit import Search, minimise
from kernelfield.models.neural.function_space import parted
from kernelfield.models.neural.gram_layers import divergence
from kernelfield.models.neural.gram_machine import LOGARITHMIC, NAMED, Learned, Machine, Objective
from kernelfield.models.search import sample
from kernelfield.nets.activation import Activation
from kernelfield.nets.rectifiers import Relu

RELU = Relu()
LEAST_NOISE = 1e-6  # in units of the mean square of the targets
BIAS = 0.1  # where learning starts
CHOSEN = 1.0  # nats that one number chosen on held-out rows gains there by chance, about


@dataclass(eq=False, repr=False)
class DeepKernelMachine(Model):
    """A deep kernel machine with Gaussian noise.

    layers : hidden layers; 0 is the sparse process of the kernel itself.
    kernel : of each layer, "rbf", "linear" or an activation of `nets` such as Relu(), whose kernel
        is that of a wide layer (arc-cosine for Relu).
    nu : effective width of the layers: large values hold them to the infinitely wide network.
    inducing : the most inducing points; with as many rows or fewer all rows are.
    noise : variance to start from, in units of the mean square of the targets.
    learn : "all", or "grams" to hold the inputs' weights, all scales and the noise as they start; nothing
        is held out then.
    held_out : the share of the rows that choose, see the module docstring; where they would be fewer than
        eight the network is infinitely wide. With 0 the objective alone decides.
    steps : the most iterations of L-BFGS, of each search.
    rows : the most rows that the search sees; all rows enter the posterior.

    Units: X and Y as given; inputs are divided by their standard deviations, targets are centred.
    Errors: ValueError for a wrong choice.

    >>> X = torch.linspace(0, 1, 30, dtype=torch.double)[:, None]
    >>> fitted = DeepKernelMachine().fit(Data(X, torch.sin(6 * X)), generator=torch.Generator().manual_seed(0))
    >>> round(fitted.posterior(X[:1] + 0.5).mean.item(), 2)  # sin(3)
    0.14
    """

    layers: int = 2
    kernel: Activation | Literal["rbf", "linear"] = RELU
    nu: float = 50.0
    inducing: int = 100
    noise: float = 0.1
    learn: Literal["all", "grams"] = "all"
    held_out: float = 0.1
    steps: int = 150
    rows: int = 2000

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedDeepKernelMachine":
        self._check()
        centre = mean_target(data)
        first = FittedDeepKernelMachine.empty(self._start(data, centre, generator), centre)
        if self.learn == "grams" or not self.held_out or not self.steps:
            return self._learned(first, data, self.learn, generator)
        part, held = parted(data, self.held_out, generator)
        if held is None:
            return self._learned(first, data, "scales", generator)
        wide = self._learned(replace(first, machine=self._start(part, centre, generator)), part, "scales", generator)
        deep = self._learned(wide, part, "all", generator)
        deep = deep.judged(held)
        gain = (deep.density(held) - wide.density(held)).item() - CHOSEN
        rows = f"{len(held.X)} held-out rows"
        if gain > 0:
            note = f"learned Gram matrices raise the log density of {rows} by {gain / len(held.X):.2g} nats a row"
            return replace(deep.condition(held), remarks=(note,))
        note = f"the network is infinitely wide: learned Gram matrices do not raise the log density of {rows}"
        again = wide.machine
        if len(part.X) <= self.inducing:
            again = replace(first.machine, **{name: getattr(again, name) for name in LOGARITHMIC})
        start = replace(first, machine=again, searches=wide.searches)
        return replace(self._learned(start, data, "scales", generator), remarks=(note,))

    def _learned(
        self, start: "FittedDeepKernelMachine", data: Data, learn: Learned, generator: torch.Generator
    ) -> "FittedDeepKernelMachine":
        """A machine that is learned from another, given the data."""
        seen = sample(data, self.rows, generator) if len(data.X) > self.rows else data
        machine, searches = start.machine, start.searches
        if self.steps:
            least = LEAST_NOISE * mean_size(data, start.centre)
            objective = Objective(machine, replace(seen, Y=seen.Y - start.centre), self.nu, learn, least)
            with threads_for(self.inducing), warnings.catch_warnings():
                # A budget that ends before the last of thousands of numbers has settled is a note, not a failure.
                warnings.simplefilter("ignore", NotConverged)
                label = f"deep kernel machine ({learn}) on {len(seen.X)} rows"
                theta, found = minimise(objective, [objective.start], objective.bounds, self.steps, label=label)
            machine, searches = objective.machine(torch.from_numpy(theta)), (*searches, *found)
        with torch.no_grad():
            return FittedDeepKernelMachine.empty(machine, start.centre, searches, len(seen.X)).condition(data)

    def _start(self, data: Data, centre: Tensor, generator: torch.Generator) -> Machine:
        n, size = len(data.X), mean_size(data, centre)
        rows = torch.randperm(n, generator=generator)[: self.inducing].to(data.X.device)
        Z = data.X if n <= self.inducing else data.X[rows]
        spread = data.X.var(0, correction=0)
        weights = 1 / torch.where(spread > 0, spread, torch.ones_like(spread))
        ones = data.X.new_ones(self.layers + 1)
        factors = torch.eye(len(Z)).to(Z).repeat(self.layers, 1, 1)
        noise = self.noise * size
        return Machine(
            self.kernel, Z, weights, ones, BIAS * ones, ones.new_tensor(size), ones.new_tensor(noise), factors
        )

    def _check(self) -> None:
        for name, least in (("layers", 0), ("inducing", 1), ("steps", 0), ("rows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out must be a share of the rows in [0, 1), got {self.held_out:g}")
        for name in ("nu", "noise"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name):g}")
        if not (isinstance(self.kernel, Activation) or self.kernel in NAMED):
            raise ValueError(f"kernel must be 'rbf', 'linear' or an activation such as Relu(), got {self.kernel!r}")
        if self.learn not in ("all", "grams"):
            raise ValueError(f"learn must be 'all' or 'grams', got {self.learn!r}")


def mean_size(data: Data, centre: Tensor) -> float:
    """The mean square of the targets about a centre (m,)."""
    return (data.Y - centre).square().mean().clamp_min(1e-12).item()


def mean_target(data: Data) -> Tensor:
    """The weighted mean (m,) of the targets."""
    weight = data.X.new_ones(len(data.X)) if data.weight is None else data.weight
    return (weight[:, None] * data.Y).sum(0) / weight.sum()


@dataclass(frozen=True, eq=False)
class FittedDeepKernelMachine(Surrogate):
    """A deep kernel machine given data.

    With psi the inducing features of the last layer: precision (M, M) is I + sum psi psi' / noise,
    target (M, m) the sum of psi (y - centre)' / noise; searches the record of the search.
    """

    machine: Machine
    centre: Tensor
    precision: Tensor
    target: Tensor
    searches: tuple[Search, ...] = ()
    searched: int = 0
    remarks: tuple[str, ...] = ()

    @classmethod
    def empty(
        cls, machine: Machine, centre: Tensor, searches: tuple[Search, ...] = (), searched: int = 0
    ) -> "FittedDeepKernelMachine":
        """Before any data."""
        M = len(machine.Z)
        return cls(machine, centre, torch.eye(M).to(centre), centre.new_zeros(M, len(centre)), searches, searched)

    @property
    def outputs(self) -> int:
        return len(self.centre)

    def footprint(self, rows: int) -> int:
        return len(self.target)

    @cached_property
    def _factor(self) -> Tensor:
        return cholesky(self.precision)

    def posterior(self, X: Tensor, *, noise: bool = False) -> Elliptical:
        seen = self.machine.at(X)
        batch = X.shape[:-1]
        white = torch.linalg.solve_triangular(self._factor, seen.psi, upper=False)
        loc = self.centre + white.mT @ torch.linalg.solve_triangular(self._factor, self.target, upper=False)
        prior = Prior(self.machine, X, seen.own.unflatten(0, batch))

        def terms() -> tuple[Tensor, Tensor]:
            return (
                seen.psi.unflatten(-1, batch).movedim(0, -2),
                white.unflatten(-1, batch).movedim(0, -2),
            )

        scale = Conditional(prior, terms, self.machine.noise if noise else 0.0, self.outputs)
        return Elliptical(loc.unflatten(0, batch), scale)

    def density(self, held: Data) -> Tensor:
        """The sum of the log densities of rows, each for itself, in nats."""
        law = self.posterior(held.X)
        variance = law.variance + self.machine.spread(held)[:, None]
        return -0.5 * ((held.Y - law.mean).square() / variance + (2 * math.pi * variance).log()).sum()

    def judged(self, held: Data) -> "FittedDeepKernelMachine":
        """The machine with the noise of the greatest density of rows that it has not seen."""
        ends = [math.log(LEAST_NOISE * mean_size(held, self.centre)), math.log(4 * mean_size(held, self.centre))]
        best = minimize_scalar(lambda v: -self.noised(math.exp(v)).density(held).item(), bounds=ends, method="bounded")
        return self.noised(math.exp(best.x))

    def noised(self, noise: float) -> "FittedDeepKernelMachine":
        """The posterior given the same rows, with another noise variance."""
        ratio, eye = self.machine.noise / noise, torch.eye(len(self.precision)).to(self.precision)
        machine = replace(self.machine, noise=torch.full_like(self.machine.noise, noise))
        return replace(
            self, machine=machine, precision=eye + ratio * (self.precision - eye), target=ratio * self.target
        )

    def condition(self, data: Data) -> "FittedDeepKernelMachine":
        """The posterior with more rows, the Gram matrices held."""
        with torch.no_grad():
            psi, spread = self.machine.at(data.X).psi, self.machine.spread(data)
            known = psi / spread
            target = self.target + known @ (data.Y - self.centre)
            return replace(self, precision=self.precision + known @ psi.mT, target=target)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        machine = self.machine
        departure = [divergence(V).item() for V in machine.factors]
        values = {name: getattr(machine, name) for name in ("weights", "scales", "output", "noise")}
        return {name: v.tolist() for name, v in values.items()} | {"divergences": departure}

    def notes(self) -> list[str]:
        found = [*self.remarks, f"Gram matrices are those of {len(self.machine.Z)} inducing points"]
        for search in self.searches:
            left = f"ended after {search.steps} steps with a slope of {search.slope:.1g} nats a number"
            found.append(f"the search saw {self.searched} rows and {left}")
        return found


@dataclass(frozen=True, eq=False)
class Prior:
    """The kernel of the last layer at X (*b, q, d), before the data; own (*b, q) is its diagonal."""

    machine: Machine
    X: Tensor
    own: Tensor

    def diagonal(self, *, dim1: int = -2, dim2: int = -1) -> Tensor:
        return self.own

    def to_dense(self) -> Tensor:
        joint = self.machine.at(self.X, joint=True).joint
        assert joint is not None
        return joint
