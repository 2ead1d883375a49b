"""Mean-field variational Bayes of a tensor with continuous indices: the laws of its parts and their updates.

With K indices t_1, ..., t_K a row, weights w and m outputs,

    y_c = f_c + N(0, 1 / (tau w)),    f_c = sum_j W_jc prod_k u_k[j_k](t_k),

where the core's entries j = (j_1, ..., j_K) are all combinations of ranks (Tucker) or those of equal ranks
(CP), each u_k[r] is a Matern process on a line, W_jc ~ N(0, v_j), tau ~ Gamma. The posterior
is approximated by q(u_1) ... q(u_K) q(W) q(tau), all ranks of a mode together, and each part in turn is set to
the best one given the others. With the other modes' moments a, A and z_r the sum over the entries j with
j_k = r of W_j prod_{l != k} u_l[j_l], the best q(u_k) is the prior times Gaussian terms at the times of mode k,

    precision  E[tau] sum w E[z z'],    linear  E[tau] sum w y E[z],    summed over rows with that time,

a system of `linalg.state_space_vector`. W and tau have the usual conjugate forms; v_j, lengthscales and output
scales are those of the greatest bound. Output scales and v_j do the same, and are both learned: with little noise a
product is known far better than its factors, and a factor could hardly move to fit a fixed scale of its prior.
As every step maximises the bound

    E[log p(y | u, W, tau)] - sum_k KL(q(u_k) | p(u_k)) - KL(q(W) | p(W)) - KL(q(tau) | p(tau)),

it never falls, which expectation propagation, the published choice, does not promise: that needs damping.

Sources: Fang et al. (2024), "Functional Bayesian Tucker Decomposition for Continuous-indexed Tensor Data";
Zhao, Zhang & Cichocki (2015), "Bayesian CP Factorization of Incomplete Tensors with Automatic Rank
Determination", for one variance a component in the CP form.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import cholesky
from kernelfield.linalg.state_space_vector import VectorStateSpace

BLOCK = 2**22  # numbers of one array of products over pairs of core entries
LEAST_VARIANCE = 1e-12  # of a core entry, in mean squares of the targets: a component that is gone stays finite
STEP = 10.0  # by which an output scale changes at most in one sweep
PRIOR_WEIGHT = 1e-3  # shape of the prior of tau: that of twice so many observations

Variances = Literal["each", "shared", "held"]  # of the core's prior: learned, one for all entries, or as they are


@dataclass(frozen=True, eq=False)
class Mode:
    """q(u) of one mode: r processes at N times, the prior times Gaussian terms.

    Shapes: times (N,) sorted, each once; lengthscales and outputscales (r,); precision (N, r, r); linear (N, r). A
    process has a state of `size` numbers.
    """

    times: Tensor
    size: int
    lengthscales: Tensor
    outputscales: Tensor
    precision: Tensor
    linear: Tensor

    @cached_property
    def system(self) -> VectorStateSpace:
        return VectorStateSpace.of(self.times, self.size, self.lengthscales, self.outputscales, self.precision)

    @cached_property
    def mean(self) -> Tensor:
        """(N, r)."""
        return self.system.means(self.linear[..., None])[..., 0]

    @cached_property
    def covariance(self) -> Tensor:
        """(N, r, r), between the ranks at one time."""
        return self.system.covariances

    @property
    def square(self) -> Tensor:
        """E[u u'] (N, r, r)."""
        return self.covariance + self.mean[:, :, None] * self.mean[:, None]

    def divergence(self) -> Tensor:
        """KL(q(u) | p(u)), in nats."""
        return 0.5 * ((self.linear * self.mean).sum() - (self.precision * self.square).sum() + self.system.logdet())

    def best_outputscales(self) -> Tensor:
        """Those (r,) of the greatest bound, given this law of the processes: the means of u' K^-1 u a time.

        K^-1 E[u u'] is known without K: K^-1 is the law's own precision less that of the terms.
        """
        N = len(self.times)
        told = torch.einsum("tij,tji->i", self.precision, self.covariance)
        fit = (self.mean * (self.linear - torch.einsum("tij,tj->ti", self.precision, self.mean))).sum(0)
        return self.outputscales * ((N - told + fit) / N).clamp(1 / STEP, STEP)

    def at(self, times: Tensor) -> tuple["Mode", Tensor]:
        """The same law at more times (*b,) too, of which nothing was seen, and the places of those."""
        union = torch.unique(torch.cat([self.times, times.flatten()]))
        place = torch.searchsorted(union, self.times)
        precision = self.precision.new_zeros(len(union), *self.precision.shape[1:]).index_copy(0, place, self.precision)
        linear = self.linear.new_zeros(len(union), self.linear.shape[1]).index_copy(0, place, self.linear)
        wider = replace(self, times=union, precision=precision, linear=linear)
        return wider, torch.searchsorted(union, times.contiguous())


@dataclass(frozen=True, eq=False)
class Core:
    """q(W): mean (J, m), covariance (J, J) of each output, and the prior's variances (J,)."""

    mean: Tensor
    covariance: Tensor
    prior: Tensor

    @property
    def square(self) -> Tensor:
        """E[W W'] (J, J), summed over outputs."""
        return self.mean @ self.mean.mT + self.mean.shape[1] * self.covariance

    def divergence(self) -> Tensor:
        """KL(q(W) | p(W)), in nats."""
        entries, outputs = self.mean.shape
        logdet = 2 * cholesky(self.covariance).diagonal().log().sum()
        spread = (self.square.diagonal() / self.prior).sum()
        return 0.5 * (spread + outputs * (self.prior.log().sum() - entries - logdet))


@dataclass(frozen=True)
class Precision:
    """q(tau) = Gamma(shape, rate), its prior's rate, and whether it is learned; else tau is shape / rate."""

    shape: float
    rate: float
    prior_rate: float
    learned: bool

    @classmethod
    def of(cls, noise: float, *, learned: bool) -> "Precision":
        """Before any data, tau being about 1 / noise."""
        return cls(1.0, noise, PRIOR_WEIGHT * noise, learned)

    @property
    def mean(self) -> float:
        return self.shape / self.rate

    @property
    def log_mean(self) -> float:
        """E[log tau]."""
        if not self.learned:
            return math.log(self.mean)
        return float(torch.digamma(torch.tensor(self.shape, dtype=torch.double))) - math.log(self.rate)

    @property
    def noise(self) -> float:
        """E[1 / tau], the variance that a new observation has."""
        return self.rate / (self.shape - 1) if self.learned else 1 / self.mean

    def divergence(self) -> float:
        """KL(q(tau) | p(tau)), in nats."""
        if not self.learned:
            return 0.0
        a, b, c, d = self.shape, self.rate, PRIOR_WEIGHT, self.prior_rate
        of_shapes = (a - c) * (self.log_mean + math.log(b)) - math.lgamma(a) + math.lgamma(c)
        return of_shapes + c * math.log(b / d) + a * (d - b) / b

    def updated(self, count: int, squares: float) -> "Precision":
        """After `count` observations with an expected sum of squared errors."""
        if not self.learned:
            return self
        return replace(self, shape=PRIOR_WEIGHT + count / 2, rate=self.prior_rate + squares / 2)


@dataclass(frozen=True, eq=False)
class Rows:
    """The observations: Y (n, m), weights (n,), and each row's place (n,) among the times of every mode.

    cells (J, K): the rank in each mode of the core's entries.
    """

    Y: Tensor
    weight: Tensor
    places: tuple[Tensor, ...]
    cells: Tensor

    @classmethod
    def of(cls, data: Data, cells: Tensor) -> tuple["Rows", list[Tensor]]:
        """And the times of each mode."""
        weight = torch.ones_like(data.X[:, 0]) if data.weight is None else data.weight
        found = [torch.unique(column, return_inverse=True) for column in data.X.mT]
        return cls(data.Y, weight, tuple(place for _, place in found), cells), [times for times, _ in found]

    def blocks(self) -> Iterator[slice]:
        """Rows to be taken together, so that products over pairs of core entries fit."""
        size = max(1, BLOCK // len(self.cells) ** 2)
        return (slice(start, start + size) for start in range(0, len(self.Y), size))

    def products(self, modes: tuple[Mode, ...], rows: slice, skip: int | None = None) -> tuple[Tensor, Tensor]:
        """E[phi] (b, J) and E[phi phi'] (b, J, J) of the products over all modes but one, of some rows."""
        entries = len(self.cells)
        first = self.Y.new_ones(len(self.Y[rows]), entries)
        second = self.Y.new_ones(len(first), entries, entries)
        for k, mode in enumerate(modes):
            if k != skip:
                ranks, place = self.cells[:, k], self.places[k][rows]
                first = first * mode.mean[:, ranks][place]
                second = second * mode.square[:, ranks][:, :, ranks][place]
        return first, second


@dataclass(frozen=True, eq=False)
class Beliefs:
    """q as a whole, and its bound (None before it is known)."""

    modes: tuple[Mode, ...]
    core: Core
    tau: Precision
    bound: float | None = None


def terms(rows: Rows, beliefs: Beliefs, k: int) -> tuple[Tensor, Tensor]:
    """What the rows tell of mode k: precision (N, r, r) and linear (N, r)."""
    mode, core = beliefs.modes[k], beliefs.core
    r = mode.linear.shape[1]
    chosen = torch.nn.functional.one_hot(rows.cells[:, k], r).to(rows.Y)
    precision, linear = torch.zeros_like(mode.precision), torch.zeros_like(mode.linear)
    for block in rows.blocks():
        first, second = rows.products(beliefs.modes, block, k)
        weight, place = beliefs.tau.mean * rows.weight[block], rows.places[k][block]
        squares = chosen.mT @ (core.square * second) @ chosen
        precision.index_add_(0, place, weight[:, None, None] * squares)
        told = (first * (rows.Y[block] @ core.mean.mT)) @ chosen
        linear.index_add_(0, place, weight[:, None] * told)
    return (precision + precision.mT) / 2, linear


def settled(rows: Rows, beliefs: Beliefs, *, prior: Variances) -> Beliefs:
    """With the best core, its prior's variances and tau, and the bound."""
    entries, m = len(rows.cells), rows.Y.shape[1]
    gram, moment = rows.Y.new_zeros(entries, entries), rows.Y.new_zeros(entries, m)
    for block in rows.blocks():
        first, second = rows.products(beliefs.modes, block)
        weight = rows.weight[block]
        gram += torch.einsum("i,ijk->jk", weight, second)
        moment += (weight[:, None] * first).mT @ rows.Y[block]
    core = _best_core(gram, moment, beliefs, kind=prior)
    power = (rows.weight[:, None] * rows.Y.square()).sum()
    squares = float(power - 2 * (core.mean * moment).sum() + (gram * core.square).sum())
    tau = beliefs.tau.updated(rows.Y.numel(), squares)
    fit = rows.Y.numel() * (tau.log_mean - math.log(2 * math.pi)) + m * float(rows.weight.log().sum())
    distance = core.divergence() + sum(mode.divergence() for mode in beliefs.modes)
    bound = 0.5 * (fit - tau.mean * squares) - float(distance) - tau.divergence()
    return Beliefs(beliefs.modes, core, tau, bound)


def _best_core(gram: Tensor, moment: Tensor, beliefs: Beliefs, *, kind: Variances) -> Core:
    prior, tau = beliefs.core.prior, beliefs.tau.mean
    factor = cholesky(tau * (gram + gram.mT) / 2 + torch.diag_embed(1 / prior))
    mean = tau * torch.cholesky_solve(moment, factor)
    covariance = torch.cholesky_inverse(factor)
    variance = covariance.diagonal() + mean.square().mean(1)
    if kind != "held":
        prior = variance.mean().expand_as(variance) if kind == "shared" else variance
    return Core(mean, (covariance + covariance.mT) / 2, prior.clamp_min(LEAST_VARIANCE).contiguous())
