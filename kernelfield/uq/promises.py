"""Promises: the intervals by which laws can be judged, between levels at which they said something.

Laws that were given whole promise all intervals; of these the central ones of 50%, 80%, 90% and 95% are looked at.
Laws given by quantiles promise those between two of their levels alone, what lies between and beyond being
interpolated: the same central ones as far as both of their ends are among the levels, else the widest central one,
else that from the first level to the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kernelfield.uq.calibration import NEAR
from kernelfield.uq.scores import LEVEL, Evaluation

SHARES = (0.5, 0.8, LEVEL, 0.95)


@dataclass(frozen=True)
class Promise:
    """An interval of a probability `share`, between two levels of quantiles.

    >>> Promise(0.05, 0.95, 0.9).words, Promise(0.1, 0.5, 0.4).words
    ('the 90% intervals', 'the intervals from the 10% to the 50% quantile')
    """

    low: float
    high: float
    share: float

    @property
    def central(self) -> bool:
        """Whether as much is left out on either side."""
        return abs(self.low + self.high - 1) < NEAR

    @property
    def words(self) -> str:
        """Its name."""
        if self.central:
            return f"the {percent(self.share)} intervals"
        return f"the intervals from the {percent(self.low)} to the {percent(self.high)} quantile"

    def holds(self, model: Evaluation) -> np.ndarray:
        """Whether each value (n,) of one output lies inside, by PIT where known, else by the ends of 90% intervals."""
        pit = model.pit[:, 0]
        if not np.isfinite(pit).all():
            return (model.low[:, 0] <= model.y[:, 0]) & (model.y[:, 0] <= model.high[:, 0])
        if self.central and model.levels is None:
            return np.abs(2 * pit - 1) <= self.share
        return (self.low - NEAR <= pit) & (pit <= self.high + NEAR)


def percent(share: float) -> str:
    """A share in percent, without digits that say nothing.

    >>> percent(0.9), percent(0.975)
    ('90%', '97.5%')
    """
    return f"{100 * share:.4g}%"


def promised(model: Evaluation) -> list[Promise]:
    """The intervals to judge one output by, by their share; none for laws without two levels."""
    levels = model.levels
    if levels is None:
        return [_central(share) for share in (SHARES if np.isfinite(model.pit).all() else (LEVEL,))]
    pairs = [1 - 2 * low for low in levels if low < 0.5 and any(abs(low + high - 1) < NEAR for high in levels)]
    known = [share for share in SHARES if any(abs(share - pair) < NEAR for pair in pairs)] or pairs[:1]
    if known:
        return [_central(share) for share in known]
    return [Promise(levels[0], levels[-1], levels[-1] - levels[0])] if len(levels) > 1 else []


def _central(share: float) -> Promise:
    return Promise((1 - share) / 2, (1 + share) / 2, share)


def chief(of: Sequence[Promise]) -> Promise:
    """The promise to look at where only one is: that of 90%, or else the last."""
    return next((one for one in of if one.share == LEVEL), of[-1])


def main_promise(model: Evaluation) -> Promise | None:
    """The promise to look at in groups and over time; None where nothing was promised."""
    of = promised(model)
    return chief(of) if of else None
