"""A surrogate over parameters and steps, f(x, r), as one of parameters alone: f(x, r) at one step r.

Every acquisition function then works on it, and what is told to it is told of that step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.core.contracts import Data, Surrogate
from kernelfield.core.posterior import Posterior


@dataclass(frozen=True, eq=False)
class AtStep(Surrogate):
    """The surrogate `inner` of rows (x, r) at the step (), in the units of its last column.

    >>> from kernelfield.models.process import Process
    >>> rows = torch.rand(9, 2, dtype=torch.double)
    >>> inner = Process(steps=0).fit(Data(rows, rows[:, :1]), generator=torch.Generator())
    >>> law = AtStep(inner, rows[4, 1]).posterior(rows[4:5, :1])
    >>> bool(torch.allclose(law.mean, inner.posterior(rows[4:5]).mean))
    True
    """

    inner: Surrogate
    step: Tensor

    @property
    def outputs(self) -> int:
        return self.inner.outputs

    def posterior(self, X: Tensor, *, noise: bool = False) -> Posterior:
        return self.inner.posterior(self._rows(X), noise=noise)

    def footprint(self, rows: int) -> int:
        return self.inner.footprint(rows)

    def condition(self, data: Data) -> "AtStep":
        return AtStep(self.inner.condition(Data(self._rows(data.X), data.Y, data.weight)), self.step)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return self.inner.hyperparameters()

    def notes(self) -> list[str]:
        return self.inner.notes()

    def _rows(self, X: Tensor) -> Tensor:
        """The rows (*b, n, d + 1) of points (*b, n, d) at this step."""
        return torch.cat([X, self.step.to(X).expand(*X.shape[:-1], 1)], -1)
