"""Groups of rows by the columns of zeros and ones that stand for one column of texts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernelfield.core.posterior import Posterior
from kernelfield.uq.conformal.grouping import FittedGroups, Groups


@dataclass(frozen=True)
class ByIndicators(Groups):
    """A group for each of some columns, of the rows in which it is one; rows in which none is have no group.

    >>> X = torch.tensor([[0.3, 1.0, 0.0], [0.1, 0.0, 1.0], [0.2, 0.0, 0.0]])
    >>> fitted = ByIndicators((1, 2), ("Rome", "Oslo")).fit(None, X)
    >>> fitted.codes(None, X).tolist()
    [0, 1, -1]
    """

    columns: tuple[int, ...]
    names: tuple[str, ...]

    def fit(
        self, law: Posterior | None, X: Tensor | None, *, generator: torch.Generator | None = None
    ) -> "FittedIndicators":
        return FittedIndicators(self.columns, self.names)


@dataclass(frozen=True, eq=False)
class FittedIndicators(FittedGroups):
    """The columns and what they stand for."""

    columns: tuple[int, ...]
    names: tuple[str, ...]

    def codes(self, law: Posterior | None, X: Tensor | None) -> Tensor:
        if X is None:
            raise ValueError("groups by columns need the inputs; give X")
        ones = X[:, list(self.columns)] == 1
        return torch.where(ones.any(1), ones.to(X).argmax(1), -1)
