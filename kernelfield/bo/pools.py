"""Search among the members of a pool whose covariances are known, by ask and tell.

A process with the pool's kernel is fitted to the members whose values are known, and the next ones are those of
the greatest expected improvement over the greatest mean of theirs. In a batch each is picked given the ones before
it and those that are still under way, over draws of their values from the posterior:

    log EI(x | chosen) = log mean_s EI(mean_s(x), std(x), best_s),    best_s = max(best, draws of the chosen).

Sources: Jones, Schonlau & Welch (1998), "Efficient Global Optimization of Expensive Black-Box Functions"; Snoek,
Larochelle & Adams (2012), "Practical Bayesian Optimization of Machine Learning Algorithms", section 3.3, for what is
under way.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from kernelfield.bo.improvement import log_partial_expectation
from kernelfield.bo.problems.catalogue import Direction
from kernelfield.core.contracts import Data
from kernelfield.core.numerics import cholesky, rounding
from kernelfield.kernels.pool import PoolKernel, require_semidefinite
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.process import Process

DRAWS = 128  # of the values of what is chosen or under way
T = TypeVar("T", bound=Hashable)


class PoolSearch:
    """Search among N members of a pool by a matrix of their covariances, by ask and tell.

    gram (N, N): positive semi-definite. Only its shape matters: its scale is learned.
    initial : how many members are drawn at random first.

    Errors: ValueError for a matrix that is no covariance, or fewer members left than are asked for.

    >>> search = PoolSearch(torch.eye(3, dtype=torch.double), initial=1)
    >>> (first,) = search.ask()
    >>> search.tell(first, 2.0)
    >>> search.best == (first, 2.0)
    True
    """

    def __init__(
        self,
        gram: Tensor,
        *,
        direction: Direction = "maximize",
        initial: int = 5,
        seed: int = 0,
        normalised: bool = False,
    ) -> None:
        require_semidefinite(gram)
        self.kernel = PoolKernel(gram.double(), normalised=normalised)
        self.told = Told[int](direction)
        self.initial, self.seed = initial, seed

    @property
    def best(self) -> tuple[int, float]:
        """The best member, and its value."""
        return self.told.best

    def ask(self, count: int = 1) -> list[int]:
        """The numbers of the members to try next."""
        told = self.told
        left = [i for i in range(self.kernel.members) if not told.knows(i)]
        if not 1 <= count <= len(left):
            raise ValueError(f"{len(left)} members of the pool have not been asked for yet, got count={count}")
        numpy, generator = told.generators(self.seed)
        if told.asked < self.initial or not told.values:
            chosen = [left[i] for i in numpy.permutation(len(left))[:count]]
        else:
            rows = list(told.values)
            fitted = told.fit([self.kernel], rows, generator)
            chosen = [left[i] for i in propose(fitted, rows, told.pending, left, count, generator)]
        told.pending += chosen
        return chosen

    def tell(self, member: int, value: float | None) -> None:
        """What a member was found to be worth; None where it failed, which is not asked for again."""
        self.told.add(member, value)


class Told(Generic[T]):
    """What a search has asked for and been told, and what follows from it."""

    def __init__(self, direction: Direction) -> None:
        if direction not in ("minimize", "maximize"):
            raise ValueError(f"direction must be 'minimize' or 'maximize', got {direction!r}")
        self.sign = 1.0 if direction == "maximize" else -1.0
        self.values: dict[T, float] = {}
        self.failed: list[T] = []
        self.pending: list[T] = []

    def add(self, item: T, value: float | None) -> None:
        """Take in a value, or a failure.

        Errors: ValueError for a value that is not finite.
        """
        if value is not None and not math.isfinite(value):
            raise ValueError(f"a value must be finite, got {value:g}; tell None for a trial that failed")
        if item in self.pending:
            self.pending.remove(item)
        if value is None:
            self.failed.append(item)
        else:
            self.values[item] = float(value)

    @property
    def best(self) -> tuple[T, float]:
        """Errors: ValueError before a value is told."""
        if not self.values:
            raise ValueError("nothing has been told yet, so that nothing is best; ask, and tell a value")
        return max(self.values.items(), key=lambda pair: self.sign * pair[1])

    def knows(self, item: T) -> bool:
        """Whether it has been asked for or told."""
        return item in self.values or item in self.failed or item in self.pending

    @property
    def asked(self) -> int:
        """How many are known, whatever came of them."""
        return len(self.values) + len(self.failed) + len(self.pending)

    def generators(self, seed: int) -> tuple[np.random.Generator, torch.Generator]:
        """Sources of randomness that depend on the seed and on how much has been asked and told alone."""
        numpy = np.random.default_rng([seed, len(self.values), len(self.failed), len(self.pending)])
        return numpy, torch.Generator().manual_seed(int(numpy.integers(2**31)))

    def fit(self, kernels: Sequence[PoolKernel], rows: Sequence[int], generator: torch.Generator) -> FittedProcess:
        """The process of the greatest evidence among kernels, where the told items are these rows of their pools.

        Values are standardised, the better the greater.
        """
        y = self.sign * torch.tensor(list(self.values.values()), dtype=torch.double)
        data = Data(numbers(rows), ((y - y.mean()) / self.spread)[:, None])
        fits = [Process(kernel, restarts=1, steps=60).fit_exact(data, generator=generator) for kernel in kernels]
        return max(fits, key=lambda fitted: fitted.log_evidence)

    @property
    def spread(self) -> float:
        """The standard deviation of the values, or one where they are all alike."""
        return float(np.std(list(self.values.values()))) or 1.0


def propose(
    fitted: FittedProcess,
    told: Sequence[int],
    pending: Sequence[int],
    candidates: Sequence[int],
    count: int,
    generator: torch.Generator,
) -> list[int]:
    """The positions among the candidates of the best to try next, in the order of picking."""
    law = fitted.posterior(numbers([*candidates, *pending]))
    mean, K = law.mean[:, 0], law.scale.to_dense()
    best = fitted.posterior(numbers(told)).mean.max()
    z = torch.randn(DRAWS, len(pending) + count, generator=generator, dtype=torch.double)
    chosen = list(range(len(candidates), len(candidates) + len(pending)))
    for _ in range(count):
        score = log_improvement(mean, K, chosen, best, z[:, : len(chosen)])[: len(candidates)]
        score[[i for i in chosen if i < len(candidates)]] = -math.inf
        chosen.append(int(score.argmax()))
    return chosen[len(pending) :]


def log_improvement(mean: Tensor, K: Tensor, chosen: Sequence[int], best: Tensor, z: Tensor) -> Tensor:
    """log EI (c,) of Gaussian values with this mean (c,) and covariance (c, c), given the chosen; see the module.

    z (s, k): standard normals, a column for each of the chosen.
    """
    index = list(chosen)
    half = torch.linalg.solve_triangular(cholesky(K[index][:, index]), K[index], upper=False)  # (k, c)
    floor = rounding(K.diagonal(), half).clamp_min(torch.finfo(K.dtype).tiny)
    std = (K.diagonal() - half.square().sum(0)).maximum(floor).sqrt()
    means = mean + z @ half
    greatest = torch.cat([means[:, index], best.expand(len(z), 1)], -1).amax(-1, keepdim=True)
    each = std.log() + log_partial_expectation((means - greatest) / std)
    return each.logsumexp(0) - math.log(len(z))


def numbers(rows: Sequence[int]) -> Tensor:
    """Members of a pool as inputs (n, 1) of its kernel."""
    return torch.tensor(rows, dtype=torch.double)[:, None]
