"""Prior-fitted networks: regression in one pass of a transformer that was trained on a prior beforehand.

A network that has seen very many small tasks drawn from a prior, and was asked for the law of
further values of each, approximates the posterior predictive law of that prior. Fitting is then
keeping the data, and adding data is keeping more of them; what `Process` does by a search for
hyperparameters the network does by integrating over them, as well as it has learned to.

A context longer than those of the training is not given whole: each point is predicted from the
rows nearest to it, distances being those of standardised columns. Every prediction then is local,
with bins of its own, and independent of which other points are asked for.

Source: Mueller, Hollmann, Pineda Arango, Grabocka & Hutter (2022), "Transformers Can Do Bayesian
Inference"; nearest rows as contexts: Thomas et al. (2024), "Retrieval & Fine-Tuning for In-Context
Tabular Models".
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.posterior import Binned
from kernelfield.models.neural.prior_checkpoint import Checkpoint, Units

TOKENS = 2**13  # rows and queries that pass through the network at once
QUERIES = 2**11  # points at once that share a context
EQUAL = 0.02  # of the std of all targets: the least that nearest rows are standardised by


@dataclass(eq=False, repr=False)
class PriorFitted(Model):
    """A trained network that takes the data as its context.

    checkpoint : "general", for tables of up to 16 columns, or so; "rbf", the fixed process with RBF kernel of
        lengthscale 0.2, variance 1 and noise 0.01 on [0, 1]; or the path of a file that `kernelfield pretrain`
        or `kernelfield.models.neural.prior_training` wrote. None is "general".
    rows : the longest context; each point is predicted from as many rows nearest to it where there are more.
        None is that of the checkpoint's training.

    Outputs are predicted one by one. Weights divide the noise, as everywhere.
    Errors: FileNotFoundError or ValueError for what is no checkpoint; ValueError for rows below one, and for more
        columns than a checkpoint of a fixed prior knows.

    >>> X = torch.linspace(0, 1, 12, dtype=torch.double)[:, None]
    >>> fitted = PriorFitted("rbf").fit(Data(X, torch.sin(6 * X)), generator=torch.Generator())
    >>> bool((fitted.posterior(X[:1] + 0.5).mean - 0.14).abs() < 0.1)  # sin(3)
    True
    """

    checkpoint: str | Path | None = None
    rows: int | None = None

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedPriorFitted":
        checkpoint = Checkpoint.load("general" if self.checkpoint is None else self.checkpoint)
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"rows must be at least 1, got {self.rows}; None takes those of the checkpoint")
        columns = data.X.shape[1]
        if columns > checkpoint.columns and not checkpoint.standardise:
            raise ValueError(
                f"the checkpoint {self.checkpoint!r} is of a fixed prior on {checkpoint.columns} column(s) and the "
                f"data have {columns}; use 'general', or train one for more"
            )
        return FittedPriorFitted(checkpoint, data, self.rows or checkpoint.rows)


@dataclass(frozen=True, eq=False)
class FittedPriorFitted(Surrogate):
    """A trained network with its context; each point is predicted from at most `rows` rows."""

    checkpoint: Checkpoint
    data: Data
    rows: int

    @property
    def outputs(self) -> int:
        return self.data.Y.shape[1]

    def posterior(self, X: Tensor, *, noise: bool = False) -> Binned:
        batch, flat = X.shape[:-1], X.reshape(-1, X.shape[-1])
        if len(self.data.X) <= self.rows:
            laws = [self._global(part, noise) for part in flat.split(QUERIES)]
            edges = laws[0].edges[0]
        else:
            laws = [self._local(part, noise) for part in flat.split(max(1, TOKENS // self.rows))]
            edges = torch.cat([law.edges for law in laws]).unflatten(0, batch)
        logits = torch.cat([law.logits for law in laws]).unflatten(0, batch)
        return Binned(logits, edges, tails=True)

    def _global(self, X: Tensor, noise: bool) -> Binned:
        return self.checkpoint.law(self.data.X, self.data.Y, X, weight=self.data.weight, noise=noise)

    def _local(self, X: Tensor, noise: bool) -> Binned:
        """The law at points (n, d), each with the nearest rows as its context."""
        data, units = self.data, self._units
        near = torch.cdist(units.inputs(X), units.inputs(data.X)).topk(self.rows, largest=False, sorted=False).indices
        weight = None if data.weight is None else data.weight[near]
        law = self.checkpoint.law(
            data.X[near], data.Y[near], X.unsqueeze(-2), weight=weight, noise=noise, floor=EQUAL * units.scale
        )
        return Binned(law.logits.squeeze(-3), law.edges.squeeze(-3), tails=True)

    @property
    def _units(self) -> Units:
        plain = self.data.X.new_zeros(len(self.data.X)) if self.data.weight is None else self.data.weight.log()
        if not self.checkpoint.standardise:
            return Units.plain(self.data.X, self.data.Y)
        return Units.of(self.data.X, self.data.Y, plain)

    def condition(self, data: Data) -> "FittedPriorFitted":
        return replace(self, data=self.data.joined(data))

    def notes(self) -> list[str]:
        said = []
        n, d = self.data.X.shape
        if n > self.rows:
            said.append(f"each point is predicted from the {self.rows} rows of {n} that are nearest to it")
        if d > self.checkpoint.columns:
            said.append(f"the network was trained with at most {self.checkpoint.columns} columns and has {d} here")
        return said
