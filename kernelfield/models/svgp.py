"""Variational Gaussian processes: inducing inputs, mini-batches, natural gradients, any likelihood.

A process is seen through its values at k inducing inputs, as in `models.sparse`; the law of these values takes
natural-gradient steps on mini-batches (`models.natural_gradient`), and kernel, likelihood and inducing inputs take
steps of Adam on the same ones, at the law just found. A fit begins where an exact process of a few hundred rows ends.
With Gaussian noise it ends with one more pass, which gathers the sums of the collapsed bound: the law of the
inducing values is then the best one, and what is fitted is the surrogate of `SparseProcess`.

A step costs O(batch k^2 + k^3) whatever the number of rows, and memory is O(batch k + k^2). Of a stream, steps take
rows in a random order within blocks of 65,536 alone: files that are sorted should be shuffled first.

Sources: Hensman, Fusi & Lawrence (2013), "Gaussian Processes for Big Data"; Hensman, Matthews & Ghahramani (2015);
Salimbeni, Eleftheriadis & Hensman (2018), "Natural Gradients in Practice"; Titsias (2009) for the last pass.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import Mixing, Unit
from kernelfield.core.numerics import threads_for
from kernelfield.core.streaming import StreamingModel
from kernelfield.linalg.ranks import ALONE, Ranks, here
from kernelfield.models.collapsed import Rows, gather
from kernelfield.models.evidence import Trend, mean_square
from kernelfield.models.expansion import FittedExpansion, centre_of, guess
from kernelfield.models.fitted_variational import FittedVariationalProcess
from kernelfield.models.inducing import by_clusters, by_variance
from kernelfield.models.likelihoods import Likelihood, likelihood_of
from kernelfield.models.natural_gradient import Coefficients
from kernelfield.models.search import check_settings, kernel_for
from kernelfield.models.search import sample as some
from kernelfield.models.sparse import ENOUGH, InducingInputs
from kernelfield.models.streamed import settled_noise
from kernelfield.models.variational_learner import Course, Start, VariationalLearner

FIRST = 8192  # rows, of which the law of the inducing values is one when the steps begin


@dataclass(eq=False, repr=False)
class VariationalProcess(StreamingModel):
    """A Gaussian process for very many rows, or for observations that are not Gaussian.

    kernel, mean, noise, restarts, learn_noise : as for `Process`; the starts race by the exact evidence of a sample
        of 512 rows. steps : the most iterations of this race; 0 begins with the given hyperparameters.
    likelihood : "gaussian", "student_t" for outliers, "bernoulli" for zeros and ones, "poisson" for counts, or a
        `Likelihood` of one's own.
    inducing, choice, move : as for `SparseProcess`.
    batch : rows of a step. epochs : passes over the data, more of them where they would make fewer than `least_steps`
        steps; Gaussian noise takes one pass more.
    rate : the length of the first steps in log hyperparameters and in standard deviations of the inputs.

    Units: X and Y as given. Outputs share kernel and likelihood. A constant mean is added to f, not to y.
    Errors: ValueError for counts below one, an unknown likelihood or choice, targets that the likelihood cannot
        have, and those of `Process`.

    >>> X = torch.linspace(0, 1, 400, dtype=torch.double)[:, None]
    >>> model = VariationalProcess("rbf", inducing=20, epochs=2)
    >>> fitted = model.fit(Data(X, torch.sin(6 * X)), generator=torch.Generator().manual_seed(0))
    >>> round(fitted.posterior(X[:1] + 0.5).mean.item(), 3)  # sin(3)
    0.141
    """

    kernel: Kernel | str | None = None
    likelihood: Likelihood | str = "gaussian"
    mean: Literal["constant", "zero", "linear"] = "constant"
    noise: float = 0.1
    inducing: int = 512
    choice: Literal["variance", "kmeans"] = "variance"
    move: bool = True
    batch: int = 1024
    epochs: int = 20
    least_steps: int = 300
    rate: float = 0.05
    restarts: int = 4
    steps: int = 200
    learn_noise: bool = True

    @property
    def mixing(self) -> Mixing:
        """The law of the scale of the process: none."""
        return Unit()

    @property
    def scalable(self) -> bool:
        return likelihood_of(self.likelihood, self.noise).scalable

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedExpansion | FittedVariationalProcess":
        with threads_for(max(self.inducing, min(self.batch, len(data.X)))):
            learner = self.learner(data, len(data.X), generator=generator, ranks=ALONE)
            for _ in range(learner.passes):
                for batch in shuffled(data, self.batch, generator):
                    learner.step(batch)
            return learner.surrogate()

    def learner(
        self, sample: Data, rows: int, *, generator: torch.Generator, ranks: Ranks | None = None
    ) -> "VariationalLearner":
        """Begin a fit to `rows` rows on all ranks together, each of which is given its part of every batch.

        ranks : those that fit together, with the same sample and seed; None is those that have joined.
        """
        self._check()
        likelihood = likelihood_of(self.likelihood, self.noise)
        likelihood.check(sample.Y)
        rough = Data(sample.X, likelihood.latent(sample.Y), sample.weight)
        kernel = kernel_for(self.kernel, rough.X, rough.Y.var(0, correction=0).mean().clamp_min(1e-12))
        learned = self.learn_noise and bool(likelihood.learned)
        free = learned or "noise" not in likelihood.learned  # rough latent values have a noise of their own
        noise, _, searches = guess(kernel, self, rough, learn_noise=free, generator=generator)
        trend, centre = Trend.of(self.mean, rough.X), centre_of(self.mean, rough.Y)
        basis = InducingInputs(kernel, self._chosen(kernel, sample, noise, generator))
        few = some(rough, FIRST, generator)
        with torch.no_grad():
            sums = gather(basis, basis.factor(), Rows.of(few, trend, centre)).times(rows / len(few.X))
        size, outputs = mean_square(few.Y - centre, trend(few.X)), len(centre)
        if free and self.steps:
            noise, more = settled_noise(sums, outputs, noise, self.steps)
            searches += more
            if learned and "noise" in likelihood.learned:
                likelihood = replace(likelihood, noise=noise)  # type: ignore[call-arg]
        law = Coefficients.best(sums, noise, outputs=outputs, matrices=likelihood.outer(outputs))
        start = Start(basis, likelihood, trend, centre, law, size, tuple(searches))
        passes = max(self.epochs, math.ceil(self.least_steps / math.ceil(rows / self.batch)))
        course = Course(rows, self.batch, passes, self.rate, self.move, learned)
        return VariationalLearner(start, course, rough.X, here() if ranks is None else ranks)

    def _check(self) -> None:
        check_settings(self)
        for name in ("inducing", "batch", "epochs", "least_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.choice not in ("variance", "kmeans"):
            raise ValueError(f"choice must be 'variance' or 'kmeans', got {self.choice!r}")
        if not (self.rate > 0 and math.isfinite(self.rate)):
            raise ValueError(f"rate must be positive, got {self.rate:g}; give a step length such as 0.05")

    def _chosen(self, kernel: Kernel, data: Data, noise: float, generator: torch.Generator) -> Tensor:
        if self.choice == "kmeans":
            return by_clusters(data.X, self.inducing, weight=data.weight, generator=generator)
        return by_variance(kernel, data.X, self.inducing, generator=generator, enough=ENOUGH * noise)


def shuffled(data: Data, size: int, generator: torch.Generator) -> Iterator[Data]:
    """All rows once, in batches of nearly equal sizes up to `size`."""
    n = len(data.X)
    order = torch.arange(n) if n <= size else torch.randperm(n, generator=generator)
    for rows in order.tensor_split(math.ceil(n / size)):
        rows = rows.to(data.X.device)
        yield Data(data.X[rows], data.Y[rows], None if data.weight is None else data.weight[rows])
