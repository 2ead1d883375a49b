"""Processes in k basis functions, learned from rows that come batch by batch.

The sums of `collapsed` over the rows are all that the data are needed for once a basis is chosen: hyperparameters,
features or inducing inputs come from a fit to the sample, the sums from one pass over all rows, in memory
O(batch + k^2) and time O(n k^2). What is then known of all rows settles two numbers anew, by the greatest bound F
of their evidence,

    noise s        F is a function of the sums and s,
    scale v        of features times sqrt(v): G -> v G, C -> sqrt(v) C, where the basis has such a scale,

unless the sample was all there is: the fit is then the one to these rows in memory.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import threads_for
from kernelfield.core.streaming import Learner
from kernelfield.linalg.ranks import Ranks, here
from kernelfield.models.collapsed import RegressionSums, Rows, bound, gather
from kernelfield.models.evidence import NOISE_REACH
from kernelfield.models.expansion import FittedExpansion
from kernelfield.models.fit import Search, minimise

SCALE_REACH = (1e-4, 1e5)  # bounds of a scale, against that where the search begins


class Settings(Protocol):
    """What a model says of its noise and of how long to search."""

    noise: float
    learn_noise: bool
    steps: int


class SumsLearner(Learner):
    """The sums over all rows for a process whose basis a fit to the sample has chosen.

    started : that fit.
    whole : whether the sample is all rows, so that nothing is left to settle.
    ranks : None takes those that this process has joined. Each gives steps to rows of its own; a state, and the
        surrogate, take one message of all of them.
    """

    passes = 1
    apart = True

    def __init__(
        self, started: FittedExpansion, settings: Settings, *, whole: bool, ranks: Ranks | None = None
    ) -> None:
        self._started, self._settings, self._whole = started, settings, whole
        self._ranks = here() if ranks is None else ranks
        self._sums: RegressionSums | None = None
        self._own: RegressionSums | None = None  # over rows of which the other ranks do not know yet
        self._noise = torch.tensor(started.noise, dtype=torch.float64)
        self._factor: Tensor | None = None

    def step(self, batch: Data) -> None:
        start = self._started
        with torch.no_grad():
            if self._factor is None:
                self._factor = start.basis.factor()
            more = gather(start.basis, self._factor, Rows.of(batch, start.trend, start.centre))
            if self._ranks.world == 1:
                self._sums = more if self._sums is None else self._sums + more
            else:
                self._own = more if self._own is None else self._own + more

    def state(self) -> dict[str, Tensor]:
        self._meet()
        sums = {} if self._sums is None else {f.name: getattr(self._sums, f.name) for f in fields(self._sums)}
        counted = {name: torch.as_tensor(value).cpu() for name, value in sums.items()}
        return counted | {name: tensor.cpu() for name, tensor in self._choices()}

    def restore(self, state: dict[str, Tensor]) -> None:
        # The choices are put back too: another processor may have searched its way to others in the last digits.
        for name, own in self._choices():
            saved = state.get(name)
            if saved is None or saved.shape != own.shape:
                found = "none" if saved is None else f"one of shape {tuple(saved.shape)}"
                raise ValueError(
                    f"the state holds {found} for {name}, of shape {tuple(own.shape)} here; it is of other settings"
                )
            own.copy_(saved)
        self._factor = None
        if "G" in state:
            like = self._started.moments.G
            G, C, V, slack, log_weight, rows = (state[f.name].to(like.device) for f in fields(RegressionSums))
            self._sums = RegressionSums(G, C, V, slack, log_weight, int(rows))

    def surrogate(self) -> FittedExpansion:
        """Errors: ValueError before the first step."""
        self._meet()
        if self._sums is None:
            raise ValueError("no rows have been learned from yet; call step with a batch first")
        fitted = replace(self._started, moments=self._sums, noise=self._noise.item())
        return fitted if self._whole else resettled(fitted, self._settings)

    def _meet(self) -> None:
        """Let every rank have the sums over the rows of all of them."""
        if self._ranks.world == 1:
            return
        nothing = [torch.zeros_like(part) for part in _parts(self._started.moments)]
        G, C, V, slack, log_weight, rows = self._ranks.sums(nothing if self._own is None else _parts(self._own))
        if rows:
            found = RegressionSums(G, C, V, slack, log_weight, round(rows.item()))
            self._sums, self._own = found if self._sums is None else self._sums + found, None

    def _choices(self) -> list[tuple[str, Tensor]]:
        """The tensors that the fit to the sample chose, by name, in the memory where they are used."""
        start = self._started
        parts = {"basis": start.basis, "trend": start.trend, "centre": start.centre, "noise": self._noise}
        return [pair for name, value in parts.items() for pair in _tensors(name, value)]


def _parts(sums: RegressionSums) -> list[Tensor]:
    """The sums in their order as tensors, the number of rows among them."""
    return [torch.as_tensor(getattr(sums, field.name)).to(sums.G) for field in fields(sums)]


def _tensors(name: str, value: object) -> Iterator[tuple[str, Tensor]]:
    match value:
        case Tensor():
            yield name, value.detach()
        case nn.Module():
            yield from ((f"{name}.{key}", tensor) for key, tensor in value.state_dict().items())
        case _ if is_dataclass(value):
            for field in fields(value):
                yield from _tensors(f"{name}.{field.name}", getattr(value, field.name))


def resettled(fitted: FittedExpansion, settings: Settings) -> FittedExpansion:
    """The process with the noise, and the scale where its basis has one, of the greatest bound of its sums."""
    scaled = fitted.basis.rescaled(1.0) is not None
    if not settings.steps or not (scaled or settings.learn_noise):
        return fitted
    noises = noise_reach(fitted.moments, fitted.outputs) if settings.learn_noise else (fitted.noise, fitted.noise)
    scales = SCALE_REACH if scaled else (1.0, 1.0)
    start = (1.0, min(max(fitted.noise, noises[0]), noises[1]))
    scale, noise, searches = settle(
        fitted.moments, fitted.outputs, [start], (scales, noises), settings.steps, fitted.basis.groups
    )
    return replace(
        fitted,
        basis=fitted.basis.rescaled(scale) or fitted.basis,
        noise=noise,
        moments=fitted.moments.rescaled(scale),
        searches=(*fitted.searches, *searches),
    )


def settled_noise(moments: RegressionSums, m: int, noise: float, steps: int) -> tuple[float, list[Search]]:
    """The noise of the greatest bound of the sums, where a search for the other parameters may begin.

    What the basis leaves of the process is noise to it: from the noise of an exact process, which may be smaller by
    orders of magnitude, a search leaps to a law of noise alone.
    """
    low, high = noise_reach(moments, m)
    start = (1.0, min(max(noise, low), high))
    _, noise, searches = settle(moments, m, [start], ((1.0, 1.0), (low, high)), steps)
    return noise, searches


def noise_reach(moments: RegressionSums, m: int) -> tuple[float, float]:
    """The bounds of a noise: shares of the mean square that the trend leaves of the targets."""
    V = moments.V
    left = V[:m, :m].trace()
    if len(V) > m:
        left = left - (V[:m, m:] * torch.linalg.solve(V[m:, m:], V[m:, :m]).mT).sum()
    size = (left / (moments.rows * m)).item()
    rounding = torch.finfo(V.dtype).eps * (V[:m, :m].trace() / (moments.rows * m)).item()
    size = size if size > rounding else 1.0  # constant targets leave no size
    return NOISE_REACH[0] * size, NOISE_REACH[1] * size


def settle(
    moments: RegressionSums,
    m: int,
    starts: Sequence[tuple[float, float]],
    reach: tuple[tuple[float, float], tuple[float, float]],
    steps: int,
    groups: Sequence[int] = (),
) -> tuple[float, float, list[Search]]:
    """Scale and noise of the greatest bound of the sums; `starts` and `reach` are of both, a reach being its ends."""

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.enable_grad():
            free = torch.from_numpy(theta).to(moments.G).requires_grad_()
            scale, noise = free.exp().unbind()
            value = bound(moments.rescaled(scale), noise, groups or (len(moments.G),), m)
            (slope,) = torch.autograd.grad(value, free)
        count = moments.rows * m
        return -value.item() / count, -slope.cpu().double().numpy() / count

    box = [(math.log(low), math.log(high)) for low, high in reach]
    with threads_for(len(moments.G)):
        theta, searches = minimise(
            loss, [np.log(start) for start in starts], box, steps, label=f"prior of {len(moments.G)} features"
        )
    scale, noise = np.exp(theta).tolist()
    return scale, noise, searches
