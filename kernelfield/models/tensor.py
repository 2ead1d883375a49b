"""Tensors with continuous indices: functional CP and Tucker decompositions with error bars.

The columns of X are the indices of a tensor, real numbers at irregular values, such as latitude, longitude and
time; y is a sum of products of one function of each,

    y = sum_j W_j prod_k u_k[j_k](t_k) + noise,

and the functions are Matern processes, so that the tensor has values between the indices that were seen.
A row of Tucker's form has all products of ranks, one of the CP form those of equal ranks. A fit costs
O(n J^2 + N r^3) a sweep for n rows, J core entries and N different values of an index: no matrix
of n rows is formed. `tensor_factors` has the inference, `tensor_posterior` the predictions.

Source: Fang et al. (2024), "Functional Bayesian Tucker Decomposition for Continuous-indexed Tensor Data".
"""

import itertools
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.numerics import NotConverged, threads_for
from kernelfield.models.covariance import LENGTH_REACH
from kernelfield.models.fit import minimise
from kernelfield.models.search import SHIFTS
from kernelfield.models.tensor_factors import Beliefs, Core, Mode, Precision, Rows, settled, terms
from kernelfield.models.tensor_posterior import Products

SIZES = {"matern12": 1, "matern32": 2, "matern52": 3}  # numbers of a process's state
FIRM = 100.0  # precision of the random functions that a fit starts from
WARM = 10  # sweeps before scales are learned: a component that has not found its place yet would fade away
RACE = 20  # sweeps of every start; the best goes on
EVERY, FEW = 10, 4  # lengthscales are searched every so many sweeps, by so many steps
PATIENCE = 2 * EVERY  # sweeps over which a bound that stands still ends the fit
LOOSE = 1e-3  # nats a row and sweep, above which the end of the budget is worth a warning
EARLY = 50  # fewer sweeps than this are a wish to stop early
MOST = 200  # sweeps over more rows
STILL = 1e-3  # nats that a sweep over more rows raises the bound by, below which their law is found

_log = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class TensorProcess(Model):
    """A functional tensor decomposition, one process a rank and column of X.

    rank : the number of functions of each column, one for all or one each; the CP form needs one.
    form : "cp" or "tucker". CP learns a variance for each component, so that ranks that the data do
        not need fade away.
    smoothness : "matern12", "matern32" or "matern52", one for all columns or one each.
    lengthscale : of all functions, one for all columns or one each, held; None learns one a function.
    noise : variance of the observation noise; where it is learned, the value to start from.
    learn_noise : whether the noise is learned or known.
    restarts : random starts, which race for a few sweeps.
    sweeps : the most rounds of updates.
    tolerance : nats by which the bound must rise in twenty sweeps to go on.

    Units: X and Y as given; `FieldRegressor` standardises both. There is no mean: a tensor of standardised
        targets needs none. Several outputs share functions and noise and have cores of their own.
    Errors: ValueError for a rank, form, smoothness, lengthscale, noise or count that does not fit.

    >>> X = torch.rand(80, 2, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    >>> Y = ((3 * X[:, 0]).sin() * (4 * X[:, 1]).cos())[:, None]
    >>> model = TensorProcess(rank=1, restarts=1, sweeps=20)
    >>> fitted = model.fit(Data(X, Y), generator=torch.Generator().manual_seed(0))
    >>> round(fitted.posterior(torch.tensor([[0.5, 0.1]], dtype=torch.double)).mean.item(), 2)  # sin(1.5) cos(0.4)
    0.92
    """

    rank: int | Sequence[int] = 3
    form: Literal["cp", "tucker"] = "cp"
    smoothness: str | Sequence[str] = "matern32"
    lengthscale: float | Sequence[float] | None = None
    noise: float = 0.1
    learn_noise: bool = True
    restarts: int = 3
    sweeps: int = 200
    tolerance: float = 0.5

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedTensor":
        self._check(data.X.shape[1])
        cells = self._cells(data.X.shape[1]).to(data.X.device)
        rows, times = Rows.of(data, cells)
        with torch.no_grad(), threads_for(0):  # arrays of a few numbers a row
            starts = [self._start(rows, times, shift, generator) for shift in self._shifts()]
            race = min(self.sweeps, RACE) if len(starts) > 1 else 0
            ends = [self._climb(rows, start, [], race, f"start {i}") for i, start in enumerate(starts, 1)]
            best, history = max(ends, key=lambda end: end[0].bound or -math.inf)
            best, history = self._climb(rows, best, history, self.sweeps, "fit")
        return FittedTensor(best.modes, cells, best.core, best.tau, tuple(history), data)

    def _check(self, columns: int) -> None:
        ranks = self._each("rank", self.rank, columns)
        if any(not isinstance(r, int) or r < 1 for r in ranks):
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if self.form not in ("cp", "tucker"):
            raise ValueError(f"form must be 'cp' or 'tucker', got {self.form!r}")
        if self.form == "cp" and len(set(ranks)) > 1:
            raise ValueError(f"the CP form has one rank for all columns, got {self.rank}; use form='tucker'")
        for name in self._each("smoothness", self.smoothness, columns):
            if name not in SIZES:
                raise ValueError(f"smoothness must be one of {', '.join(SIZES)}, got {name!r}")
        for length in self._each("lengthscale", self.lengthscale, columns):
            if length is not None and not (length > 0 and math.isfinite(length)):
                raise ValueError(f"lengthscale must be positive and finite, or None to learn it, got {length:g}")
        if not (self.noise > 0 and math.isfinite(self.noise)):
            raise ValueError(f"noise must be a positive variance, got {self.noise}; give a value such as 0.1")
        for name in ("restarts", "sweeps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must not be negative, got {self.tolerance}")

    def _each(self, name: str, value: Any, columns: int) -> list:
        """One value for each column."""
        if isinstance(value, str) or not isinstance(value, Sequence):
            return [value] * columns
        if len(value) != columns:
            raise ValueError(f"{name} must be one value or one for each of {columns} columns of X, got {value}")
        return list(value)

    def _cells(self, columns: int) -> Tensor:
        ranks = self._each("rank", self.rank, columns)
        if self.form == "cp":
            return torch.arange(ranks[0])[:, None].expand(-1, columns).contiguous()
        return torch.tensor(list(itertools.product(*(range(r) for r in ranks))))

    def _shifts(self) -> list[float]:
        """Of the logarithms of the lengthscales of the starts."""
        learned = self.lengthscale is None
        return [SHIFTS[i % len(SHIFTS)] if learned else 0.0 for i in range(self.restarts)]

    def _start(self, rows: Rows, times: list[Tensor], shift: float, generator: torch.Generator) -> Beliefs:
        """Firm beliefs in functions drawn from the prior, and the core that is best for them."""
        columns = len(times)
        options = (self._each(n, getattr(self, n), columns) for n in ("rank", "smoothness", "lengthscale"))
        modes = []
        for own, rank, name, length in zip(times, *options, strict=True):
            lengths = own.new_full((rank,), length or math.exp(shift) * _spread(own))
            precision = FIRM * torch.eye(rank).to(own).expand(len(own), rank, rank).contiguous()
            blank = Mode(own, SIZES[name], lengths, torch.ones_like(lengths), precision, own.new_zeros(len(own), rank))
            z = torch.randn(len(own), rank * blank.size, 1, generator=generator, dtype=own.dtype).to(own)
            modes.append(replace(blank, linear=FIRM * blank.system.prior(z)[..., 0]))
        entries, m = len(rows.cells), rows.Y.shape[1]
        size = (rows.weight[:, None] * rows.Y.square()).sum() / (m * rows.weight.sum())
        variance = size.clamp_min(1e-12).expand(entries).contiguous()
        core = Core(rows.Y.new_zeros(entries, m), torch.diag_embed(variance), variance)
        tau = Precision.of(self.noise, learned=self.learn_noise)
        return settled(rows, Beliefs(tuple(modes), core, tau), prior="shared")

    def _climb(
        self, rows: Rows, beliefs: Beliefs, history: list[float], sweeps: int, label: str
    ) -> tuple[Beliefs, list[float]]:
        """Sweeps until there are so many or the bound stands still; the bounds after each, in nats."""
        n, history = len(rows.Y), list(history)
        while len(history) < sweeps:
            warm = len(history) >= WARM
            search = self.lengthscale is None and len(history) % EVERY == EVERY - 1
            for k in range(len(beliefs.modes)):
                beliefs = _with_mode(rows, beliefs, k, scales=warm, lengths=search)
            beliefs = settled(rows, beliefs, prior="shared" if self.form == "tucker" or not warm else "each")
            assert beliefs.bound is not None
            history.append(beliefs.bound)
            if len(history) % 10 == 0:
                _log.info("tensor, %s, sweep %d: bound %.4f a row", label, len(history), beliefs.bound / n)
            if len(history) > PATIENCE and history[-1] - history[-1 - PATIENCE] <= self.tolerance:
                return beliefs, history
        if sweeps >= EARLY:
            _warn_of_rise(history, n, "raise sweeps")
        return beliefs, history


def _warn_of_rise(history: Sequence[float], rows: int, remedy: str) -> None:
    """Say so where the last sweep still raised the bound."""
    left = (history[-1] - history[-2]) / rows if len(history) > 1 else 0.0
    if left > LOOSE:
        warnings.warn(
            f"the fit stopped after {len(history)} sweeps that still raised the bound by {left:.2g} nats a row; "
            f"{remedy}",
            NotConverged,
            stacklevel=4,
        )


def _with_mode(rows: Rows, beliefs: Beliefs, k: int, *, scales: bool, lengths: bool) -> Beliefs:
    """With the best law of mode k, its output scales before and lengthscales after it where they are learned."""
    precision, linear = terms(rows, beliefs, k)
    mode = beliefs.modes[k]
    outputscales = mode.best_outputscales() if scales else mode.outputscales
    mode = replace(mode, outputscales=outputscales, precision=precision, linear=linear)
    if lengths:
        mode = replace(mode, lengthscales=_lengthscales(mode))
    return replace(beliefs, modes=(*beliefs.modes[:k], mode, *beliefs.modes[k + 1 :]))


def _lengthscales(mode: Mode) -> Tensor:
    """A few steps towards those of the greatest bound with the best law of the mode, which is its normaliser."""

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.enable_grad():
            log_lengths = torch.tensor(theta).to(mode.times).requires_grad_()
            system = replace(mode, lengthscales=log_lengths.exp()).system
            loss = -system.log_normaliser(mode.linear) / len(mode.times)
            (slope,) = torch.autograd.grad(loss, log_lengths)
        return loss.item(), slope.cpu().double().numpy()

    start = mode.lengthscales.log().cpu().double().numpy()
    low, high = (math.log(reach * _spread(mode.times)) for reach in LENGTH_REACH)
    theta, _ = minimise(objective, [start], [(low, high)] * len(start), FEW, label="lengthscales")
    return torch.tensor(theta).to(mode.times).exp()


def _spread(times: Tensor) -> float:
    """The standard deviation of the times, one where there is only one."""
    return float(times.std(correction=0)) or 1.0


@dataclass(frozen=True, eq=False)
class FittedTensor(Surrogate):
    """The approximate posterior of all factors.

    history : the bound after each sweep, in nats. data : the rows; None of a model that was saved without them.
    """

    modes: tuple[Mode, ...]
    cells: Tensor
    core: Core
    tau: Precision
    history: tuple[float, ...]
    data: Data | None = None

    @property
    def outputs(self) -> int:
        return self.core.mean.shape[1]

    @property
    def bound(self) -> float:
        """The lower bound of the log evidence, in nats."""
        return self.history[-1]

    def posterior(self, X: Tensor, *, noise: bool = False) -> Products:
        if X.shape[-1] != len(self.modes):
            raise ValueError(f"X must have {len(self.modes)} columns, one for each mode, got {X.shape[-1]}")
        wider = [mode.at(column) for mode, column in zip(self.modes, X.unbind(-1), strict=True)]
        one = torch.ones_like(self.core.mean[0])
        return Products(
            tuple(mode for mode, _ in wider),
            tuple(place for _, place in wider),
            self.cells,
            self.core,
            self.tau.noise if noise else 0.0,
            one,
            torch.zeros_like(one),
        )

    def condition(self, data: Data) -> "FittedTensor":
        """The surrogate that has also seen `data`: the best law of factors, core and noise with all scales held.

        Errors: ValueError where columns or outputs differ; NotImplementedError for a model saved without its rows;
        warns NotConverged.
        """
        if self.data is None:
            raise NotImplementedError("the model was saved without its rows, and must be refitted to take in data")
        if data.X.shape[1] != len(self.modes) or data.Y.shape[1] != self.outputs:
            raise ValueError(
                f"data must have {len(self.modes)} columns and {self.outputs} outputs, as those of the fit, got "
                f"{data.X.shape[1]} and {data.Y.shape[1]}"
            )
        joined = self.data.joined(data)
        rows, times = Rows.of(joined, self.cells)
        with torch.no_grad(), threads_for(0):
            modes = tuple(mode.at(own)[0] for mode, own in zip(self.modes, times, strict=True))
            beliefs, history = Beliefs(modes, self.core, self.tau), list[float]()
            while len(history) < MOST and not (len(history) > 1 and history[-1] - history[-2] <= STILL):
                for k in range(len(modes)):
                    beliefs = _with_mode(rows, beliefs, k, scales=False, lengths=False)
                beliefs = settled(rows, beliefs, prior="held")
                assert beliefs.bound is not None
                history.append(beliefs.bound)
        _warn_of_rise(history, len(joined.X), "refit with all rows")
        return replace(
            self, modes=beliefs.modes, core=beliefs.core, tau=beliefs.tau, history=tuple(history), data=joined
        )

    def factor(self, mode: int, times: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (n, r) of the functions of a column of X at times (n,)."""
        law, place = self.modes[mode].at(times)
        return law.mean[place], law.covariance.diagonal(dim1=1, dim2=2)[place]

    def hyperparameters(self) -> dict[str, float | list[float]]:
        lengths = {f"modes.{k}.lengthscale": mode.lengthscales.tolist() for k, mode in enumerate(self.modes)}
        return {"noise": self.tau.noise, "core variance": self.core.prior.tolist(), **lengths}
