"""The rows that a calibration learns from, checked where they come in."""

import torch
from torch import Tensor

from kernelfield.core.posterior import Posterior


def observed(law: Posterior, y: Tensor, *, least: int, task: str) -> Tensor:
    """The values y (n, m) of a law's own shape, in its precision and on its device.

    Errors: ValueError for other shapes, entries that are not finite, laws without spread or fewer
    than `least` rows, which `task` needs.
    """
    mean = law.mean
    if mean.ndim != 2 or y.shape != mean.shape:
        raise ValueError(f"need values y (n, m) of the law's own shape {tuple(mean.shape)}, got {tuple(y.shape)}")
    require_rows(len(y), least=least, task=task)
    require_finite(y, "y")
    require_finite(mean, "the predicted means")
    exact = int((~(law.variance > 0)).sum())
    if exact:
        raise ValueError(f"{exact} predicted variances are not positive; give the law of y, posterior(X, noise=True)")
    return y.to(mean)


def require_rows(n: int, *, least: int, task: str) -> None:
    """Errors: ValueError for too few rows, with how many are needed."""
    if n < least:
        raise ValueError(f"{task} needs at least {least} calibration rows, got {n}; hold out {least - n} more")


def require_finite(values: Tensor, name: str) -> None:
    """Errors: ValueError, with how many entries are not finite."""
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{name} holds {bad} entries that are NaN or infinite; drop these rows before calibrating")
