"""Mondrian conformal prediction: the promised share within each group, by a calibration of its own.

Rows of a group are exchangeable with the calibration rows of that group, so that its own ranks
keep the promise in it. Groups with fewer than `least` rows share one calibration, and have
the promise together; where even together they are fewer, and for rows of groups that were not
seen, all rows calibrate.

Source: Vovk, Lindsay, Nouretdinov & Gammerman (2003), "Mondrian Confidence Machine".
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kernelfield.core.posterior import Posterior
from kernelfield.uq.conformal.conformity import Normalised, Score
from kernelfield.uq.conformal.grouping import FittedGroups, Groups
from kernelfield.uq.conformal.split import at_rank, require_outputs, scored


@dataclass(frozen=True)
class Mondrian:
    """Split conformal prediction in each of the groups.

    Errors: ValueError as of the groups and of `Split`, or a least number of rows below 1.

    >>> from kernelfield.core.posterior import Elliptical
    >>> from kernelfield.uq.conformal.grouping import ByColumn
    >>> X = torch.tensor([[0.0], [1.0]]).repeat(60, 1)
    >>> y = torch.linspace(-1, 1, 120)[:, None] * (1 + 9 * X)  # ten times as far in group 1
    >>> law = Elliptical(torch.zeros(120, 1), torch.eye(120))
    >>> low, high = Mondrian(ByColumn(0)).fit(law, y, X=X).interval(law, 0.9, X)
    >>> round((high[1] / high[0]).item())
    10
    """

    groups: Groups
    score: Score = field(default_factory=Normalised)
    least: int = 50

    def fit(
        self, law: Posterior, y: Tensor, *, X: Tensor | None = None, generator: torch.Generator | None = None
    ) -> "FittedMondrian":
        if self.least < 1:
            raise ValueError(f"least must be at least one row, got {self.least}")
        scores = scored(self.score, law, y)
        groups = self.groups.fit(law, X, generator=generator)
        codes = groups.codes(law, X).to(scores.device)
        if len(codes) != len(y):
            raise ValueError(f"need one row of X for each of {len(y)} values, got {len(codes)}")
        counts = codes.bincount(minlength=len(groups.names))
        large = (counts >= self.least).nonzero().flatten().tolist()
        rest = ~torch.isin(codes, torch.tensor(large, device=codes.device))
        chosen = [codes == group for group in large]
        if int(rest.sum()) >= self.least:
            chosen.append(rest)
        parts = tuple(scores[:, :, rows].sort(-2).values for rows in (*chosen, torch.ones_like(rest)))
        place = {group: i for i, group in enumerate(large)}
        shared = len(large)  # the small ones together, or all rows
        return FittedMondrian(
            self.score, groups, parts, tuple(place.get(group, shared) for group in range(len(counts))), len(y)
        )


@dataclass(frozen=True, eq=False)
class FittedMondrian:
    """Sorted scores (levels, sides, rows, m) of each calibration; the last one is of all rows.

    places : the calibration of each group.
    """

    score: Score
    groups: FittedGroups
    parts: tuple[Tensor, ...]
    places: tuple[int, ...]
    rows: int

    def interval(self, law: Posterior, level: float, X: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Ends (n, m). Errors: ValueError if a group that is asked for has too few rows for the level."""
        require_outputs(law, self.parts[0])
        place = self._place(law, X)
        table = torch.zeros(len(self.parts), self.score.sides, law.mean.shape[-1]).to(law.mean)
        for part in place.unique().tolist():
            table[part] = at_rank(self.score, self.parts[part], level).to(law.mean)
        return self.score.interval(law, table[place].movedim(1, 0), level)

    def counts(self) -> dict[str, int]:
        """The calibration rows behind the intervals of each group."""
        return {name: self.parts[p].shape[-2] for name, p in zip(self.groups.names, self.places, strict=True)}

    def hyperparameters(self) -> dict[str, float | list[float]]:
        """The median score of each group's calibration, output by output."""
        medians = [part[0, 0].median(0).values.tolist() for part in self.parts]
        return {f"median score, {name}": medians[p] for name, p in zip(self.groups.names, self.places, strict=True)}

    def notes(self) -> list[str]:
        shared = max(self.places, default=0)
        own = {p for p in self.places if self.places.count(p) == 1 and p < len(self.parts) - 1}
        notes = [
            f"Intervals are conformal in {_many(len(own))}, each calibrated on rows of its own; {self.rows} in all."
        ]
        pooled = [n for n, p in zip(self.groups.names, self.places, strict=True) if p not in own]
        if pooled:
            size, few = self.parts[shared].shape[-2], ", ".join(pooled[:5]) + (", ..." if len(pooled) > 5 else "")
            notes.append(f"{_many(len(pooled))} with few rows, calibrated together on {size}: {few}.")
        return notes

    def _place(self, law: Posterior, X: Tensor | None) -> Tensor:
        """The calibration (n,) of each row; groups that were not seen have that of all rows."""
        codes = self.groups.codes(law, X).cpu()
        if len(codes) != len(law.mean):
            raise ValueError(f"need one row of X for each of the law's {len(law.mean)}, got {len(codes)}")
        places = torch.tensor([*self.places, len(self.parts) - 1])
        return places[codes].to(law.mean.device)  # code -1 is the last


def _many(groups: int) -> str:
    return "1 group" if groups == 1 else f"{groups} groups"
