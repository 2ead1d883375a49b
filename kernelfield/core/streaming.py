"""Fits that see their rows batch by batch, for tables that memory does not hold.

A `Learner` is what a fit is between two batches. Its tensors can be written to a file and put back, so that a
run that was killed goes on from there and ends at the same numbers.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from kernelfield.core.contracts import Data, Model, Surrogate


class Learner(ABC):
    """A fit under way.

    passes : over all rows, in the same order each time.
    batch : the rows that a step takes well, for whom it may choose: a step must take any number.
    apart : of several ranks that fit together, whether each may take steps of its own number and rows, as they meet
        for a state and a surrogate alone; else each is given its part of the rows of every step.
    """

    passes: int = 1
    apart: bool = False
    batch: int = 2**16

    @abstractmethod
    def step(self, batch: Data) -> float | None:
        """Learn from some rows; the loss in nats a point where there is one, for progress."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that `step` changes, by name, on the CPU: random numbers' state included."""

    @abstractmethod
    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state` of a learner with the same settings and sample.

        Errors: ValueError if it is of other settings.
        """

    @abstractmethod
    def surrogate(self) -> Surrogate:
        """What has been learned so far."""


class StreamingModel(Model):
    """A model that can learn from batches of rows."""

    @abstractmethod
    def learner(self, sample: Data, rows: int, *, generator: torch.Generator) -> Learner:
        """Begin a fit to `rows` rows, of which `sample` is a random part that fits into memory."""
