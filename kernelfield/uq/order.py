"""Order: whether predicted deviations say where the errors are, in three ways at once."""

from dataclasses import dataclass

import numpy as np

from kernelfield.uq.bootstrap import Interval
from kernelfield.uq.resolution import BINS, LEAST_ROWS, Sparsified, Spread, correlation, sparsified, spread
from kernelfield.uq.scores import Evaluation

A_BIN = 10  # rows at least, of a bin of alike deviations


@dataclass(frozen=True, eq=False)
class Order:
    """Of one output.

    spread       errors against deviations, bin by bin; None for too few rows
    correlation  of the ranks of |error| and deviation
    sparsified   the error that is left as doubtful rows are removed
    """

    spread: Spread | None
    correlation: Interval
    sparsified: Sparsified


def order(evaluation: Evaluation) -> Order | None:
    """Of one output; None where a deviation is infinite or there are fewer than four rows."""
    n = len(evaluation.y)
    if n < LEAST_ROWS or not np.isfinite(evaluation.std).all():
        return None
    bins = min(BINS, n // A_BIN)
    return Order(spread(evaluation, bins) if bins else None, correlation(evaluation), sparsified(evaluation))
