"""What is known of a model that has a name: an entry of the zoo.

The ranges of rows and inputs are where a model is sensible with its defaults on one machine: it
still runs beyond them, for longer or for less. `benchmarks/surrogates.py` measures all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kernelfield.core.contracts import Model

ANY = 10**9  # rows or inputs: as many as memory holds
EXACT = 5000  # rows of an exact fit, whose time grows with their cube: minutes

GAUSSIAN, TAILS, WIDE, STRUCTURED = "Gaussian process", "heavy tails", "infinite network", "structured rows"
SPARSE, FINITE, LEARNED = "many rows", "finite network", "learned kernel or prior"


@dataclass(frozen=True)
class Entry:
    """A model with a name.

    advice  what it is and when to choose it, in one line
    make    the model with its default settings
    rows    least and most rows for which it is sensible, both included
    inputs  least and most columns for which it is
    quick   whether a fit of a thousand rows takes seconds rather than a minute
    table   whether it takes any table; else rows must lie on a grid, or hold indices
    """

    name: str
    advice: str
    make: Callable[[], Model]
    family: str
    rows: tuple[int, int] = (2, EXACT)
    inputs: tuple[int, int] = (1, ANY)
    quick: bool = True
    table: bool = True

    def suits(self, n: int, d: int) -> bool:
        """Whether n rows of d inputs lie in its ranges."""
        return self.rows[0] <= n <= self.rows[1] and self.takes(d)

    def takes(self, d: int) -> bool:
        """Whether d inputs lie in its range."""
        return self.inputs[0] <= d <= self.inputs[1]
