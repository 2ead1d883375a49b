"""Ensembles of networks, trained on rows that come block by block.

Within a block each member goes through rows of its own in an order of its own, in mini-batches, as `train` does;
blocks follow each other as they come, so that files which are sorted should be shuffled first. Orders, and the
share of a block that a member sees, follow from the seed and the number of the block's first row. A pass is
repeated until members have made the steps that their training asks for, and never less than once; the learning
rate falls over all passes.

Where the noise is learned and members see a part of the rows, one more pass keeps up to 16,384 rows with the
values of all members there, and the noise is the one that is best for members that have not seen them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.core.contracts import Data, Surrogate
from kernelfield.core.streaming import Learner
from kernelfield.models.neural.batches import Rows
from kernelfield.models.neural.likelihoods import Likelihood, mixture_noise
from kernelfield.models.neural.network import Network
from kernelfield.models.neural.stacked import stacked
from kernelfield.models.neural.train import Training, optimiser_for, shorten, without_denormals

KEPT = 2**14  # rows that the noise is learned from
ROW_STEP = 1_000_003  # a prime between the seeds of passes, that no two blocks have the same


@dataclass(frozen=True, eq=False)
class Task:
    """What the training of k members on a stream of `rows` rows depends on.

    start (k, p); moving: the numbers of the parameters that are trained, None is all.
    """

    network: Network
    likelihood: Likelihood
    training: Training
    rows: int
    subset: float
    seed: int
    start: Tensor
    moving: Tensor | None
    penalty: Callable[[Tensor], Tensor] | None

    @property
    def epochs(self) -> int:
        """Passes in which members are trained."""
        batch = self.training.batch or self.rows
        return max(1, math.ceil(self.training.steps * batch / self.rows))

    def whole(self, leaf: Tensor) -> Tensor:
        """All parameters (k, p), given those that move."""
        return leaf if self.moving is None else self.start.to(leaf).index_copy(1, self.moving, leaf)

    def generator(self, *numbers: int) -> torch.Generator:
        """Random numbers of their own for a block: those of the same numbers are the same."""
        place = sum(number * ROW_STEP**power for power, number in enumerate(numbers)) % 2**61
        return torch.Generator().manual_seed((self.seed + place) % 2**63)

    def seen(self, first: int, n: int) -> Tensor:
        """The rows (k, c) of a block of n rows, in random order, that each member sees."""
        order = torch.rand(len(self.start), n, generator=self.generator(first, 1)).argsort(-1)
        return order[:, : math.ceil(self.subset * n)]


@dataclass(frozen=True, eq=False)
class Kept:
    """Rows that the noise is learned from: values (k, n, m) of all members, targets (n, m), and who has seen them."""

    values: Tensor
    Y: Tensor
    seen: Tensor  # (k, n)

    def joined(self, more: "Kept") -> "Kept":
        pairs = ((self.values, more.values, 1), (self.Y, more.Y, 0), (self.seen, more.seen, 1))
        return Kept(*(torch.cat([a, b], axis) for a, b, axis in pairs))


class NetworkLearner(Learner):
    """Members under training; see the module docstring.

    sample : where a noise that is learned begins. made : from parameters and noise to the surrogate.
    """

    def __init__(self, task: Task, sample: Data, made: Callable[[Tensor, Tensor | None], Surrogate]) -> None:
        training = task.training
        training.check()
        if training.held_out:
            raise ValueError(f"held_out is {training.held_out:g}, and a stream holds no rows out; set it to 0")
        self.task, self.made = task, made
        self.judging = task.likelihood.learned and task.subset < 1
        self.passes = task.epochs + self.judging
        start = task.start.to(sample.X.device, training.dtype)
        self.leaf = (start if task.moving is None else start[:, task.moving]).clone().requires_grad_()
        noise = task.likelihood.start(sample.Y.to(training.dtype))
        self.log_noise = None
        if noise is not None:
            self.log_noise = noise.log().repeat(len(start), 1).requires_grad_(task.likelihood.learned)
        self.optimiser = optimiser_for(training, self.leaf, self.log_noise)
        self.evaluate = stacked(task.network)
        self.done = 0  # rows, in all passes
        self.kept: Kept | None = None

    def step(self, batch: Data) -> float | None:
        turn, first = divmod(self.done, self.task.rows)
        if turn < self.task.epochs:
            with without_denormals():
                loss = self._train(batch, turn, first)
        else:
            loss = None
            self._keep(batch, first)
        self.done += len(batch.X)
        return loss

    def _train(self, batch: Data, turn: int, first: int) -> float:
        task, training, n = self.task, self.task.training, len(batch.X)
        rows = Rows.of(batch, None, training.dtype)
        seen = task.seen(first, n)
        order = torch.rand(seen.shape, generator=task.generator(first, 2, turn)).argsort(-1)
        parts = seen.gather(1, order).tensor_split(math.ceil(seen.shape[1] / (training.batch or n)), 1)
        total = self.leaf.new_zeros(())
        for number, index in enumerate(parts):
            mini = rows.at(index.to(batch.X.device))
            self._descend(mini, (self.done + number / len(parts) * n) / (task.epochs * task.rows), total)
        loss = (total / len(parts)).item()
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss is not finite after {self.done} rows, at a learning rate of {training.learning_rate:g}; "
                "give Training a smaller learning_rate, or clip=1.0"
            )
        return loss

    def _descend(self, mini: Rows, passed: float, total: Tensor) -> None:
        """One step of the optimiser, with `passed` of the training done; adds to the sum of the losses."""
        task, training = self.task, self.task.training
        share = 1.0 if training.schedule == "constant" else (1 + math.cos(math.pi * passed)) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = group["first"] * share
            group["params"][0].grad = None
        parameters = task.whole(self.leaf)
        values = self.evaluate(parameters, mini.X)
        noise = None if self.log_noise is None else self.log_noise.exp()
        loss = task.likelihood.loss(values, mini.Y, mini.weight, noise)
        if task.penalty is not None:
            loss = loss + task.penalty(parameters)
        loss.sum().backward()
        if training.clip is not None and self.leaf.grad is not None:
            shorten(self.leaf.grad, training.clip)
        self.optimiser.step()
        total += loss.detach().mean()

    def _keep(self, batch: Data, first: int) -> None:
        """Put some rows aside with what members make of them."""
        n = len(batch.X)
        rows = torch.randperm(n, generator=self.task.generator(first, 3))[
            : math.ceil(n * min(1, KEPT / self.task.rows))
        ]
        seen = torch.zeros(len(self.leaf), n, dtype=torch.bool).scatter_(1, self.task.seen(first, n), True)
        rows = rows.to(batch.X.device)
        few = Data(batch.X[rows], batch.Y[rows])
        with torch.no_grad():
            values = self.task.network.values(self.task.whole(self.leaf).double(), few.X)
        more = Kept(values, few.Y, seen.to(rows.device)[:, rows])
        self.kept = more if self.kept is None else self.kept.joined(more)

    def state(self) -> dict[str, Tensor]:
        tensors = {"done": torch.tensor(self.done), "leaf": self.leaf.detach()}
        if self.log_noise is not None:
            tensors["log_noise"] = self.log_noise.detach()
        for number, parameter in enumerate(self._parameters()):
            moments = self.optimiser.state.get(parameter, {})
            tensors |= {f"moments.{number}.{name}": value for name, value in moments.items()}
        if self.kept is not None:
            tensors |= {"kept.values": self.kept.values, "kept.Y": self.kept.Y, "kept.seen": self.kept.seen}
        return {name: tensor.cpu().clone() for name, tensor in tensors.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        if state["leaf"].shape != self.leaf.shape:
            raise ValueError(
                f"the state is of {tuple(state['leaf'].shape)} members and parameters, and these networks have "
                f"{tuple(self.leaf.shape)}; it is of other settings"
            )
        where = self.leaf.device
        self.done = int(state["done"])
        with torch.no_grad():
            self.leaf.copy_(state["leaf"])
            if self.log_noise is not None:
                self.log_noise.copy_(state["log_noise"])
        for number, parameter in enumerate(self._parameters()):
            prefix = f"moments.{number}."
            moments = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            # The count of steps stays where the optimiser made it, beside the parameters.
            self.optimiser.state[parameter] = {name: value.to(where).clone() for name, value in moments.items()}
        if "kept.Y" in state:
            self.kept = Kept(*(state[f"kept.{name}"].to(where) for name in ("values", "Y", "seen")))

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def surrogate(self) -> Surrogate:
        parameters = self.task.whole(self.leaf.detach()).double()
        if self.log_noise is None:
            return self.made(parameters, None)
        noise = self.log_noise.detach().exp().double()
        if self.kept is None:
            return self.made(parameters, noise)
        known = mixture_noise(self.kept.values, self.kept.Y, None, ~self.kept.seen)
        return self.made(parameters, known.expand(len(parameters), -1))
