"""Laws from arrays: what any library predicts, as a posterior that can be scored and recalibrated.

    mean and std          a Gaussian at each value
    mean and covariance   one Gaussian of all values together, or of the outputs of each row
    quantiles             {level: values}; the lower and upper end of an interval are two of them
    samples               k draws of each value, from an ensemble, a simulation or a sampler
    cdf                   distribution functions (n, g) on a grid (g,) of values

One value in each of n rows has the shape (n,), m outputs have (n, m); samples lead with an axis of
k draws. What lies between and beyond quantiles is stated in `kernelfield.core.quantiles`. A distribution
function is taken to be linear between the points of its grid; what it leaves out on either side is
half-normal, half of it within the width of the grid's last cell. Everything is in double precision.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.posterior import Binned, Draws, Elliptical, Posterior
from kernelfield.core.quantiles import Quantiles
from kernelfield.uq.laws import Sample
from kernelfield.uq.parts import BlockDiagonal

LEFT_OUT = 0.05  # of the probability on either side of a grid, the most that a tail may stand for
LARGEST = 1e150  # deviation, of which the square is a number in double precision
ROUNDING = 1e-9  # by which a distribution function may fall or leave [0, 1]

Array = Any  # whatever numpy or torch reads as an array


def law_from(
    *,
    mean: Array | None = None,
    std: Array | None = None,
    covariance: Array | None = None,
    quantiles: Mapping[float, Array] | None = None,
    samples: Array | None = None,
    cdf: tuple[Array, Array] | None = None,
) -> Posterior:
    """The law that arrays describe; see the module docstring.

    mean beside quantiles is the point prediction, from which errors are measured.

    Shapes: mean and std (n,) or (n, m); covariance (n m, n m), entry i m + j being output j of row i, or
    (n, m, m) for rows that are independent; quantiles (n,) or (n, m) each; samples (k, n) or (k, n, m);
    cdf a grid (g,) and values (n, g) or (n, m, g).
    Errors: ValueError, in one sentence, for what is missing, too much, not finite or impossible.

    >>> law = law_from(quantiles={0.05: [-1.0, 2.0], 0.95: [1.0, 6.0]})
    >>> [round(mean, 6) for mean in law.mean.flatten().tolist()]
    [0.0, 4.0]
    """
    given: dict[str, Any] = {"mean": mean, "std": std, "covariance": covariance}
    given |= {"quantiles": quantiles, "samples": samples, "cdf": cdf}
    match tuple(name for name, value in given.items() if value is not None):
        case ("mean", "std"):
            return _gaussian(_columns("mean", mean), _columns("std", std))
        case ("mean", "covariance"):
            return _joint(_columns("mean", mean), _array("covariance", covariance))
        case ("quantiles",):
            return _quantiles(given["quantiles"], None)
        case ("mean", "quantiles"):
            return _quantiles(given["quantiles"], _columns("mean", mean))
        case ("samples",):
            return _sample(_array("samples", samples))
        case ("cdf",):
            grid, values = given["cdf"]
            return _binned(_array("the grid of cdf", grid), _array("cdf", values))
        case names:
            known = "mean and std, mean and covariance, quantiles (and mean), samples, or cdf"
            raise ValueError(f"a law is given by {known}; got {' and '.join(names) or 'nothing'}")


def _gaussian(mean: Tensor, std: Tensor) -> Draws:
    _require_equal("mean", mean, "std", std)
    _require_none("std", ~(std > 0), f"not positive, the least is {std.min():g}; leave these rows out or floor it")
    huge = f"above {LARGEST:g}, the largest is {std.max():g}, whose squares are infinite; leave these rows out"
    _require_none("std", std > LARGEST, huge)
    return Draws(mean.unsqueeze(0), mean.new_ones(1), std.square())  # one function with noise


def _joint(mean: Tensor, covariance: Tensor) -> Elliptical:
    n, m = mean.shape
    variances = covariance.diagonal(dim1=-2, dim2=-1) if covariance.ndim > 1 else covariance
    _require_none(
        "variances on the diagonal of covariance", ~(variances > 0), f"not positive, the least is {variances.min():g}"
    )
    if covariance.shape not in ((n * m, n * m), (n, m, m)):
        shapes = f"({n * m}, {n * m}) or ({n}, {m}, {m})"
        raise ValueError(f"covariance must have the shape {shapes} for a mean {(n, m)}, got {tuple(covariance.shape)}")
    gap = (covariance - covariance.mT).abs().amax() / variances.amax()
    if gap > ROUNDING:
        raise ValueError(f"covariance must be symmetric, but entries differ by {gap:.1g} of the largest variance")
    return Elliptical(mean, covariance if covariance.ndim == 2 else BlockDiagonal(covariance))


def _quantiles(quantiles: Mapping[float, Array], point: Tensor | None) -> Quantiles:
    levels = sorted(float(level) for level in quantiles)
    outside = [level for level in levels if not 0 < level < 1]
    if outside:
        raise ValueError(f"levels of quantiles must lie between 0 and 1, got {outside[0]:g}; 5% is 0.05")
    if len(levels) < 2:
        raise ValueError(f"need quantiles at two levels or more, got {len(levels)}; an interval's ends are two")
    columns = {float(level): _columns(f"the quantile at {level:g}", values) for level, values in quantiles.items()}
    first = columns[levels[0]]
    for level in levels[1:]:
        _require_equal(f"the quantile at {levels[0]:g}", first, f"the quantile at {level:g}", columns[level])
    if point is not None:
        _require_equal("mean", point, f"the quantile at {levels[0]:g}", first)
    values = torch.stack([columns[level] for level in levels], -1)
    crossed = (values.diff() < 0).any(-1).any(-1)
    if crossed.any():
        raise ValueError(
            f"quantiles cross at {int(crossed.sum())} of {len(crossed)} rows, where a higher level has a lower value; "
            "sort the quantiles of each row first"
        )
    flat = values[..., 0] == values[..., -1]
    _require_none("rows of quantiles", flat, "all equal, a law without spread; leave these rows out")
    return Quantiles(torch.tensor(levels, dtype=values.dtype), values, point)


def _sample(values: Tensor) -> Sample:
    values = values.unsqueeze(-1) if values.ndim == 2 else values
    if values.ndim != 3 or len(values) < 2:
        raise ValueError(f"samples must be at least two draws (k, n) or (k, n, m), got {tuple(values.shape)}")
    constant = values.amax(0) == values.amin(0)
    _require_none("values of samples", constant, "the same in all draws; add the noise of y, or leave them out")
    return Sample(values)


def _binned(grid: Tensor, values: Tensor) -> Binned:
    values = values.unsqueeze(1) if values.ndim == 2 else values
    if grid.ndim != 1 or len(grid) < 2 or values.ndim != 3 or values.shape[-1] != len(grid):
        shapes = f"{tuple(grid.shape)} and {tuple(values.shape)}"
        raise ValueError(f"cdf must be a grid (g,) of two values or more and values (n, g) or (n, m, g), got {shapes}")
    _require_none("steps of the grid of cdf", grid.diff() <= 0, "not upwards; sort the grid, and the values with it")
    _require_none("entries of cdf", (values < -ROUNDING) | (values > 1 + ROUNDING), "outside of [0, 1]")
    falls = (values.diff() < -ROUNDING).any(-1)
    _require_none("rows of cdf", falls, "not monotone; use numpy.maximum.accumulate along the grid")
    left, right = values[..., :1], 1 - values[..., -1:]
    most = torch.cat([left, right], -1)
    short = f"too short, up to {most.max():.3g} of the probability lies on one side of the grid; extend it"
    _require_none("rows of cdf", (most > LEFT_OUT).any(-1), short)
    mass = torch.cat([left, values.diff(), right], -1).clamp_min(0)
    widths = grid.diff()
    edges = torch.cat([grid[:1] - widths[0], grid, grid[-1:] + widths[-1]])
    return Binned(mass.log(), edges.expand(values.shape[1], -1), tails=True)


def _columns(name: str, values: Array) -> Tensor:
    array = _array(name, values)
    array = array.unsqueeze(-1) if array.ndim == 1 else array
    if array.ndim != 2 or not len(array):
        raise ValueError(f"{name} must be an array (n,) or (n, m) with at least one row, got {tuple(array.shape)}")
    return array


def _array(name: str, values: Array) -> Tensor:
    """In double precision on the CPU, finite; a copy, as pandas lends its own arrays read-only."""
    if isinstance(values, Tensor):
        array = values.detach().cpu().double()
    else:
        array = torch.from_numpy(np.array(values, dtype=np.float64))
    _require_none(f"entries of {name}", ~array.isfinite(), "NaN or infinite; drop these rows or mend the predictions")
    return array


def _require_equal(name: str, first: Tensor, other: str, second: Tensor) -> None:
    if first.shape != second.shape:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"{name} and {other} must have the same rows and outputs, got {shapes}")


def _require_none(what: str, bad: Tensor, complaint: str) -> None:
    if bad.any():
        raise ValueError(f"{int(bad.sum())} of {bad.numel()} {what} are {complaint}")
