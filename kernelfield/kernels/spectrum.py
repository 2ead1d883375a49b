"""A picture of the power spectrum of a spectral mixture, on the axes of a caller."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernelfield.kernels.spectral import SURVIVES, SpectralKernel

POINTS = 400  # of the even grid; every bump has points of its own besides
DECADES = 8  # of power below the highest peak that are drawn
CLOSE = 0.12  # of the axis: labels of peaks nearer than this are set one below the other
INK, SKY, BLUE = "#222222", "#56B4E9", "#0072B2"  # of Okabe and Ito's palette for all kinds of sight


def plot_spectrum(
    kernel: SpectralKernel, axes: Any, *, dim: int = 0, reach: float | None = None, scale: float = 1.0
) -> None:
    """Draw the one-sided spectrum along input `dim`: each surviving component, their sum, their shares.

    axes : matplotlib's. reach : the highest frequency; None goes past the last peak. scale : how
    many of the user's units one unit of the input is; frequencies are then in cycles per user's unit.

    Errors: ValueError for a batch of kernels.
    """
    alive = kernel.peaks(dim=dim)
    centres = np.array([abs(peak.frequency[0]) for peak in alive]) / scale
    widths = np.array([peak.width[0] for peak in alive]) / scale
    end = float(1.15 * (centres + 3 * widths).max()) if reach is None else reach
    f = _grid(centres, widths, end)
    power = kernel.marginal(torch.as_tensor(f * scale).to(kernel.raw_frequencies), dim).detach().cpu() * scale
    axes.semilogy(f, _drawn(power.sum(-1)), color=INK, linewidth=1.4, label="spectrum")
    shares = kernel.shares()[:, dim].cpu()
    for number, q in enumerate(torch.nonzero(shares >= SURVIVES).flatten().tolist()):
        label = "surviving components" if number == 0 else None
        axes.fill_between(f, 1e-300, _drawn(power[:, q]), color=SKY, alpha=0.3, linewidth=0, label=label)
    top = float(power.sum(-1).max())
    level, before = 0, -end
    for i in np.argsort(centres):
        level, before = (level + 1 if centres[i] - before < CLOSE * end else 0), centres[i]
        axes.axvline(centres[i], color=BLUE, linewidth=0.7, linestyle=(0, (4, 3)))
        text, offset = f"{centres[i]:.3g}\n{alive[i].share:.1%}", (3, -2 - 26 * level)
        axes.annotate(text, (centres[i], 10 * top), offset, textcoords="offset points", fontsize=8, va="top")
    axes.set(xlim=(0, end), ylim=(top * 10.0**-DECADES, 10 * top), xlabel="frequency", ylabel="power")


def _grid(centres: np.ndarray, widths: np.ndarray, end: float) -> np.ndarray:
    """Points from 0 to `end` that meet every bump, however narrow."""
    near = (centres[:, None] + np.linspace(-6, 6, 61) * widths[:, None]).ravel()
    f = np.union1d(np.linspace(0, end, POINTS), near)
    return f[(f >= 0) & (f <= end)]


def _drawn(power: Tensor) -> np.ndarray:
    return power.numpy().clip(1e-300)
