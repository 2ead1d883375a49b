"""The bar distribution: the law with which a prior-fitted network answers, and its loss.

The line is cut at edges e_0 < ... < e_k so that each bin holds the same mass under the prior. The
network gives the mass p_b of each bin; inside, the law is uniform, and in the outer bins it is a
half-normal whose median lies at the bin's own edge e_0 or e_k, so that no value is impossible
(`Binned` with tails). The loss of an observation y in bin b is

    -log p_b + log(e_b+1 - e_b)    (in the outer bins the half-normal density in place of 1 / width).

Where the law of y given the context and the hyperparameters is a known Gaussian N(mean, variance),
the mean of the loss over y has a closed form but for terms without parameters,

    -sum over b of P(bin b) log p_b,    P(bin b) = ndtr((e_b+1 - mean) / std) - ndtr((e_b - mean) / std),

which has the same expectation as the loss of a sample and a smaller variance (Rao-Blackwell).

Source: Mueller, Hollmann, Pineda Arango, Grabocka & Hutter (2022), "Transformers Can Do Bayesian
Inference".
"""

import torch
from torch import Tensor

LEAST_STD = 1e-6  # below it a law is a point, on the scale of targets of size one


def equal_mass_edges(values: Tensor, bins: int) -> Tensor:
    """Edges (bins + 1,) between which equally many of the values lie.

    The median of each outer bin is its own edge, as for its half-normal law.

    Errors: ValueError for fewer than two bins, fewer values than four a bin, or repeated values
        that leave a bin without width.

    >>> equal_mass_edges(torch.arange(101.0), 4)
    tensor([12.5000, 25.0000, 50.0000, 75.0000, 87.5000])
    """
    values = values.flatten()
    if bins < 2 or len(values) < 4 * bins:
        raise ValueError(
            f"{bins} bins of equal mass need at least two bins and four values each, got {len(values)} values"
        )
    levels = torch.arange(bins + 1, dtype=values.dtype, device=values.device)
    levels[0], levels[-1] = 0.5, bins - 0.5
    # Values sorted once: torch.quantile takes 2^24 of them at most.
    place = levels / bins * (len(values) - 1)
    ordered = values.sort().values
    low = place.long().clamp_max(len(values) - 2)
    edges = torch.lerp(ordered[low], ordered[low + 1], place - low)
    if not (edges.diff() > 0).all():
        raise ValueError("values repeat so often that bins of equal mass have no width; take fewer bins")
    return edges


def gaussian_masses(mean: Tensor, variance: Tensor, edges: Tensor) -> Tensor:
    """The masses (*b, k) of bins (k + 1,), the outer ones open, under Gaussians of mean and variance (*b,)."""
    std = variance.clamp_min(LEAST_STD**2).sqrt()
    below = torch.special.ndtr((edges[1:-1] - mean.unsqueeze(-1)) / std.unsqueeze(-1))
    one = torch.ones_like(below[..., :1])
    return torch.diff(below, dim=-1, prepend=torch.zeros_like(one), append=one)


def cross_entropy(logits: Tensor, masses: Tensor, edges: Tensor) -> Tensor:
    """The mean loss of laws with logits (*b, k) where y falls in bins with `masses` (*b, k), in nats.

    That of the outer bins is by their width, without the half-normal shape that no parameter changes.
    """
    return -(masses * (logits.log_softmax(-1) - edges.diff().log())).sum(-1).mean()
