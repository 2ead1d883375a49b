"""Training of networks: one loop over mini-batches, of all members of an ensemble at once.

The k members are a matrix of parameters (k, p). Each has a start, a shuffling of the rows and a
noise of its own, and they share nothing but the instructions of the processor: the parameters
of a member do not depend on how many others are trained beside it, up to rounding.

    loss_j = mean over its batch of -log p(y | f_j(x) + offset_j(x), noise_j) + penalty(theta_j - anchor_j)

A penalty is in nats a row: for a prior it is -log prior / n.

Sources: Kingma & Ba (2015), "Adam"; Loshchilov & Hutter (2017), "SGDR" (the cosine), and (2019),
"Decoupled Weight Decay Regularization".
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.numerics import MEMORY_SHARE, free_memory
from kernelfield.linalg.ranks import ALONE, Ranks, here
from kernelfield.models.neural.batches import Rows, batches, parted
from kernelfield.models.neural.likelihoods import Likelihood
from kernelfield.models.neural.network import Network
from kernelfield.models.neural.sharing import Trained, divided, exchanged, gathered, jobs, run_all
from kernelfield.models.neural.stacked import Stacked, stacked

NOISE_RATE = 10.0  # the logarithm of the noise travels further than a weight, and is one number
CHECK = 25  # steps between looks at the losses, each of which waits for the device
LOOKS = 100  # at the held-out rows, in a training of full length
PAUSE = 0.5  # seconds between two messages

_log = logging.getLogger("kernelfield.models.fit")


@dataclass(eq=False, repr=False)
class Training(BaseEstimator):
    """How networks are trained.

    steps : of the optimiser, of which each takes one mini-batch.
    batch : rows of a mini-batch; None is all of them.
    learning_rate : the first one.
    optimiser : "adam", "adamw" (whose weight decay is decoupled) or "sgd" (with momentum 0.9).
    schedule : "cosine" lets the learning rate fall to zero, "constant" keeps it.
    weight_decay : as torch has it.
    held_out : the share of the rows on which training is judged, and not done. Each member gets
        the parameters that were best there.
    patience : how much of the training, as a share of its steps, may pass without a better value
        on the held-out rows before it ends.
    clip : the longest gradient of a member; None does not clip.
    precision : "single" or "double" precision of the training. Results are in double precision.

    Errors: ValueError for a value out of its range.

    >>> Training(steps=500, optimiser="sgd").learning_rate
    0.001
    """

    steps: int = 2000
    batch: int | None = 64
    learning_rate: float = 1e-3
    optimiser: Literal["adam", "adamw", "sgd"] = "adam"
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.0
    held_out: float = 0.0
    patience: float = 0.2
    clip: float | None = None
    precision: Literal["single", "double"] = "single"

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers that are trained."""
        return torch.float64 if self.precision == "double" else torch.float32

    def check(self) -> None:
        """Refuse values that nothing can be trained with.

        Errors: ValueError, with the value and what it may be.
        """
        for name, allowed in _NAMES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.steps < 1 or self.steps != int(self.steps):
            raise ValueError(f"steps must be a whole number of at least 1, got {self.steps}")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch must be at least 1 row, got {self.batch}; None takes all rows")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}; 0.001 is usual")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out must be a share of the rows below 1, got {self.held_out}; 0 holds out none")
        if not 0 < self.patience <= 1:
            raise ValueError(f"patience must be a share of the steps in (0, 1], got {self.patience}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be positive, got {self.clip}; None does not clip")


_NAMES = {"optimiser": ("adam", "adamw", "sgd"), "schedule": ("cosine", "constant"), "precision": ("single", "double")}


def train(
    network: Network,
    data: Data,
    likelihood: Likelihood,
    training: Training,
    *,
    members: int = 1,
    generator: torch.Generator,
    start: Tensor | None = None,
    rows: Tensor | None = None,
    offset: Callable[[Tensor], Tensor] | None = None,
    penalty: Callable[[Tensor], Tensor] | None = None,
    anchor: Tensor | None = None,
    trained: Tensor | None = None,
    evaluate: Stacked | None = None,
    judge: Stacked | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Trained:
    """Train k = `members` networks at once.

    start : parameters (k, p); by default each draws its own, and a torch module is where it is
        for the first of them.
    rows : which rows (k, n) each member sees; all by default.
    offset : from X (n, d) to values (k, n, o) of fixed functions that are added to those of the
        networks. It is called once.
    penalty : from parameters (k, p) to what is added to the losses (k,); each depends on its row.
    anchor : parameters (k, p) from which the penalty is measured; the origin by default.
    trained : which parameters (p,) move; all by default.
    evaluate : what takes the place of `stacked(network)` on the way down.
    judge : what takes its place on the held-out rows.
    watch : called after each step with its number, from 1, and the parameters (k, p), which will
        change; all members are then trained together, whatever memory they take.

    Ranks and jobs share the work, see `sharing`, unless it is watched or draws random numbers of its own
    on the way down.

    Errors: ValueError for a loss that is not finite, with the step and the learning rate, and for
    too few rows for a held-out part.
    """
    training.check()
    _require_outputs(network, likelihood, data)
    if start is None:
        first = network.start(generator)[None]
        start = torch.cat([first, network.draw(members - 1, generator)]) if members > 1 else first
    fitted, judged = parted(len(data.X), training.held_out, generator)
    seen = torch.ones(len(start), len(data.X), dtype=torch.bool) if rows is None else rows.cpu()
    seeds = torch.randint(2**62, (len(start),), generator=generator, device=generator.device).tolist()
    task = _Task(
        evaluate=evaluate or stacked(network),
        judge=judge or stacked(network),
        rows=Rows.of(data, None if offset is None else offset(data.X), training.dtype),
        seen=[row.logical_and(fitted).nonzero()[:, 0] for row in seen],
        judged=judged.to(data.X.device),
        seeds=seeds,
        start=start.to(data.X.device, training.dtype),
        likelihood=likelihood,
        training=training,
        penalty=penalty,
        anchor=None if anchor is None else anchor.to(data.X.device, training.dtype),
        moving=None if trained is None else trained.to(data.X.device).nonzero()[:, 0],
        watch=watch,
    )
    _log.info("training %d networks of %d parameters", len(start), network.size)
    if watch is not None or evaluate is not None or judge is not None:
        size = len(start) if watch is not None else _room(network, task)
        return run_all(_run, [task.of(part) for part in divided(len(start), size, 1)], jobs=1)
    return _shared(network, task, here())


@contextmanager
def without_denormals() -> Iterator[None]:
    """Numbers below the normal range are zero inside.

    Adam's moments of units that have died pass through that range, where processors are slow: a
    fifth of the time of 2000 steps of ten networks of three layers of 128.
    """
    before = not (torch.full((), torch.finfo(torch.float64).tiny, dtype=torch.float64) / 4).item()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _require_outputs(network: Network, likelihood: Likelihood, data: Data) -> None:
    m = data.Y.shape[1]
    if network.outputs != likelihood.width(m):
        raise ValueError(
            f"{type(likelihood).__name__} needs a network of {likelihood.width(m)} outputs for {m} targets, got one of "
            f"{network.outputs}; make it with outputs={likelihood.width(m)}"
        )


@dataclass(frozen=True, eq=False)
class _Task:
    """All that the training of k members depends on."""

    evaluate: Stacked
    judge: Stacked
    rows: Rows
    seen: list[Tensor]
    judged: Tensor
    seeds: list[int]
    start: Tensor
    likelihood: Likelihood
    training: Training
    penalty: Callable[[Tensor], Tensor] | None
    anchor: Tensor | None
    moving: Tensor | None
    watch: Callable[[int, Tensor], None] | None
    ranks: Ranks = ALONE  # that share the rows of each batch

    def of(self, part: slice) -> "_Task":
        """The task of some of the members."""
        offset = None if self.rows.offset is None else self.rows.offset[part]
        return replace(
            self,
            rows=replace(self.rows, offset=offset),
            seen=self.seen[part],
            seeds=self.seeds[part],
            start=self.start[part],
            anchor=None if self.anchor is None else self.anchor[part],
        )

    def loss(self, parameters: Tensor, log_noise: Tensor | None, batch: Rows) -> Tensor:
        """What is made small (k,), in nats a row; of several ranks, this one's share of it."""
        own = batch if self.ranks.world == 1 else batch.part(self.ranks.rows(batch.X.shape[1]))
        loss = self._nll(self.evaluate(parameters, own.X), log_noise, own)
        if own is not batch:
            loss = loss * (own.X.shape[1] / batch.X.shape[1])
        if self.penalty is None:
            return loss
        gap = parameters if self.anchor is None else parameters - self.anchor
        return loss + self.penalty(gap) / self.ranks.world

    def held_out(self, parameters: Tensor, log_noise: Tensor | None) -> Tensor:
        """The loss (k,) on rows that are not fitted."""
        batch = self.rows.at(self.judged.expand(len(parameters), -1))
        return self._nll(self.judge(parameters, batch.X), log_noise, batch)

    def whole(self, leaf: Tensor) -> Tensor:
        """All parameters (k, p), given those that move."""
        return leaf if self.moving is None else self.start.index_copy(1, self.moving, leaf)

    def _nll(self, values: Tensor, log_noise: Tensor | None, batch: Rows) -> Tensor:
        if batch.offset is not None:
            values = values + batch.offset
        noise = None if log_noise is None else log_noise.exp()
        return self.likelihood.loss(values, batch.Y, batch.weight, noise)


def _shared(network: Network, task: _Task, ranks: Ranks) -> Trained:
    """Train with all the ranks and jobs there are."""
    k, most = len(task.start), _room(network, task) // ranks.neighbours
    if k < ranks.world:
        most = int(ranks.gather(torch.tensor([most])).min())  # all take the same parts in the same order
        shared = replace(task, ranks=ranks)
        return run_all(_run, [shared.of(part) for part in divided(k, max(1, most), 1)], jobs=1)
    own, count = task.of(ranks.rows(k)), jobs()
    parts = divided(len(own.start), max(1, most // count), count)
    tasks = [own.of(part) for part in parts]
    if count > 1:  # an evaluation holds arrays of its own while it runs, and jobs may be threads
        each = [stacked(copy.deepcopy(network)) for _ in tasks]
        tasks = [replace(task, evaluate=one, judge=one) for task, one in zip(tasks, each, strict=True)]
    return gathered(run_all(_run, tasks, jobs=count), ranks, k)


@without_denormals()
def _run(task: _Task) -> Trained:
    """Train members whose parameters and batches have room beside each other."""
    training = task.training
    leaf = (task.start if task.moving is None else task.start[:, task.moving]).clone().requires_grad_()
    noise = task.likelihood.start(task.rows.Y, task.rows.weight)
    log_noise = None if noise is None else noise.log().repeat(len(leaf), 1).requires_grad_(task.likelihood.learned)
    optimiser = optimiser_for(training, leaf, log_noise)
    best = _Best(leaf, log_noise, training) if len(task.judged) else None
    losses = leaf.new_full((training.steps, len(leaf)), math.nan)
    supply = batches(task.rows, task.seen, training.batch, task.seeds)
    told, ones = time.monotonic(), torch.ones_like(losses[0])
    for step in range(1, training.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = group["first"] * _share(training, step)
            group["params"][0].grad = None
        loss = task.loss(task.whole(leaf), log_noise, next(supply))
        loss.backward(ones)
        loss = exchanged(task.ranks, loss, [leaf, log_noise])
        if training.clip is not None and leaf.grad is not None:
            shorten(leaf.grad, training.clip)
        optimiser.step()
        losses[step - 1] = loss
        if task.watch is not None:
            task.watch(step, task.whole(leaf.detach()))
        last = step == training.steps
        if last or step % CHECK == 0:
            _require_finite(losses[:step], training)
        if last or time.monotonic() - told > PAUSE:
            told = time.monotonic()
            _log.info("step %d of %d, loss %.3g", step, training.steps, losses[step - 1].mean().item())
        if best is not None and (last or step % max(1, training.steps // LOOKS) == 0):
            with torch.no_grad():
                best.look(step, task.held_out(task.whole(leaf), log_noise), leaf, log_noise)
            if best.exhausted(step):
                break
    if best is not None:
        leaf, log_noise = best.leaf, best.log_noise
    with torch.no_grad():
        parameters = task.whole(leaf).double()
        found = None if log_noise is None else log_noise.exp().double()
    return Trained(parameters, found, losses.cpu())


class _Best:
    """The parameters of each member that were best on held-out rows, and when that was."""

    def __init__(self, leaf: Tensor, log_noise: Tensor | None, training: Training) -> None:
        self.leaf, self.log_noise = leaf.detach().clone(), None if log_noise is None else log_noise.detach().clone()
        self.loss = leaf.new_full((len(leaf),), math.inf)
        self.step = leaf.new_zeros(len(leaf))
        self.patience = training.patience * training.steps

    def look(self, step: int, loss: Tensor, leaf: Tensor, log_noise: Tensor | None) -> None:
        """Keep what is better, but of no member whose patience is at its end."""
        better = (loss < self.loss) & (step - self.step <= self.patience)
        self.loss = torch.where(better, loss, self.loss)
        self.step = torch.where(better, step, self.step)
        self.leaf = torch.where(better[:, None], leaf, self.leaf)
        if log_noise is not None and self.log_noise is not None:
            self.log_noise = torch.where(better[:, None], log_noise, self.log_noise)

    def exhausted(self, step: int) -> bool:
        """Whether no member can become better any more."""
        return bool((step - self.step > self.patience).all())


def optimiser_for(training: Training, leaf: Tensor, log_noise: Tensor | None) -> torch.optim.Optimizer:
    groups = [{"params": [leaf], "first": training.learning_rate, "weight_decay": training.weight_decay}]
    if log_noise is not None and log_noise.requires_grad:
        groups.append({"params": [log_noise], "first": NOISE_RATE * training.learning_rate, "weight_decay": 0.0})
    match training.optimiser:
        case "sgd":
            return torch.optim.SGD(groups, lr=training.learning_rate, momentum=0.9)
        case "adamw":
            return torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)
    return torch.optim.Adam(groups, lr=training.learning_rate, fused=True)


def _share(training: Training, step: int) -> float:
    """The learning rate of a step, as a share of the first one."""
    if training.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - 1) / training.steps)) / 2


def shorten(gradient: Tensor, longest: float) -> None:
    """Shorten the gradients (k, p) of members, each to its own length."""
    gradient.mul_((longest / gradient.norm(dim=1, keepdim=True)).clamp_max(1.0))


def _require_finite(losses: Tensor, training: Training) -> None:
    bad = (~losses.isfinite()).any(1).nonzero()
    if len(bad):
        step = int(bad[0, 0]) + 1
        rate = training.learning_rate * _share(training, step)
        raise ValueError(
            f"the loss is not finite at step {step} of {training.steps}, at the learning rate {rate:.3g}; give "
            f"Training a smaller learning_rate than {training.learning_rate:g}, or clip=1.0"
        )


def _room(network: Network, task: _Task) -> int:
    """How many members can be trained side by side in the memory there is."""
    own, training = task.start, task.training
    rows = max(min(training.batch or len(task.rows.X), len(task.rows.X)), len(task.judged))
    # Parameters, gradients, two moments and the best; activations, their gradients and what autograd keeps.
    numbers = 8 * network.size + rows * (4 * network.activity + network.inputs)
    return max(1, int(MEMORY_SHARE * free_memory(own.device)) // (own.element_size() * numbers))
