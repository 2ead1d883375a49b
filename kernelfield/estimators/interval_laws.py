"""Laws made of intervals: a method that gives the ends of intervals of many levels says as much as a law does.

The ends of the central interval of level c are quantiles at (1 - c) / 2 and (1 + c) / 2, and
`kernelfield.core.quantiles` completes a law between and beyond those of several levels. So the law has the very
intervals of the method at these levels, and with them their guarantee.

Levels stand at least five ranks of the calibration rows apart: the law between two of them then rests on five
errors or more, and does not take chance for a peak. 90% is one of them wherever there are rows enough for it, 9 in
general; levels that need more rows than there are are left out, and the law goes on beyond the others like a Gaussian.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.quantiles import Quantiles, rearranged
from kernelfield.estimators.calibrations import Intervals
from kernelfield.estimators.resampled import Resampled
from kernelfield.uq.conformal.conformity import Score
from kernelfield.uq.conformal.mondrian import FittedMondrian
from kernelfield.uq.conformal.ranks import rows_needed
from kernelfield.uq.conformal.split import FittedSplit
from kernelfield.uq.conformal.weighted import FittedWeighted

APART = 5  # ranks
MAIN, STEP = 900, 50  # in thousandths, which add up without rounding
TAIL = (950, 980, 990, 995, 998, 999)


def interval_levels(calibrator: Resampled | Intervals) -> tuple[float, ...]:
    """The increasing levels of the intervals that make the law of a calibrator; none for one that is not known here."""
    match calibrator:
        case Resampled():
            return spaced(calibrator.rows, least=0.5)  # below one half jackknife+ and CV+ have no intervals
        case FittedSplit():
            return _scored(calibrator.score, calibrator.rows)
        case FittedMondrian():
            return _scored(calibrator.score, min(part.shape[-2] for part in calibrator.parts))
        case FittedWeighted():  # an interval that needs about all rows is infinite wherever a weight is large
            return tuple(c for c in _scored(calibrator.score, int(calibrator.effective_rows)) if c <= MAIN / 1000)
    return ()


def _scored(score: Score, rows: int) -> tuple[float, ...]:
    if not score.levels:
        return spaced(rows)
    able = [level for level in score.levels if rows_needed(score.level_of_side(level)) <= rows]
    return tuple(sorted(able or score.levels))  # asked for those it has no rows for, the calibrator says so


def spaced(rows: int, *, least: float = 0.0) -> tuple[float, ...]:
    """Increasing levels above `least` that so many calibration rows are enough for.

    >>> spaced(100)[:3], spaced(100)[-2:]
    ((0.05, 0.1, 0.15), (0.9, 0.95))
    >>> spaced(20), spaced(5)
    ((0.15, 0.4, 0.65, 0.9), (0.8,))
    """
    top = min(MAIN, 1000 * rows // (rows + 1) // STEP * STEP)
    step = STEP * math.ceil(1000 * APART / ((rows + 1) * STEP))
    levels = list(range(top, int(1000 * least) - (least > 0), -step))[::-1]
    levels = [level for level in levels if level > 0]
    for level in TAIL:
        if (rows + 1) * (level - levels[-1]) >= 1000 * APART and (rows + 1) * (1000 - level) >= 1000:
            levels.append(level)
    return tuple(level / 1000 for level in levels)


def through(levels: Sequence[float], ends: Sequence[tuple[np.ndarray, np.ndarray]], point: np.ndarray) -> Quantiles:
    """The law with these central intervals, each of two ends (n, m), about the point predictions (n, m).

    Ends of intervals that do not hold each other, as those of quantiles calibrated one by one, are put in order.

    Errors: NotImplementedError without levels.
    """
    if not levels:
        raise NotImplementedError(
            "it is not known at which levels this calibrator has intervals, so that they make no law; use "
            "predict_interval, or a method of Calibrated by its name"
        )
    low, high = zip(*ends, strict=True)
    below = [(1 - level) / 2 for level in reversed(levels)]
    shares = torch.tensor([*below, *((1 + level) / 2 for level in levels)], dtype=torch.float64)
    values = torch.from_numpy(np.stack([*reversed(low), *high], -1))
    return Quantiles(shares, rearranged(values), torch.as_tensor(point))


def deviations(law: Quantiles) -> Tensor:
    """Standard deviations (n, m), infinite where an end is."""
    known = law.values.isfinite().all(-1)
    finite = torch.where(known.unsqueeze(-1), law.values, torch.zeros_like(law.values))
    return torch.where(known, Quantiles(law.levels, finite).variance.sqrt(), torch.inf)


def finite(law: Quantiles) -> Quantiles:
    """The law itself.

    Errors: ValueError if some of its values are infinite.
    """
    lost = int((~law.values.isfinite().all(-1)).any(-1).sum())
    if lost:
        raise ValueError(
            f"intervals are infinite at {lost} rows, which are too unlike those of the calibration, and make no law "
            "there; calibrate on rows like these, or leave them out"
        )
    return law
