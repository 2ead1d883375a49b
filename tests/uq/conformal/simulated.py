"""Rows of three kinds with their predictions; every output is a data set of its own, so that many are done at once."""

import torch

from kernelfield.core.posterior import Draws


def gaussian(mean: torch.Tensor, std: torch.Tensor) -> Draws:
    return Draws(mean[None], torch.ones(1), std.expand(mean.shape).square())


def exchangeable(n: int, repetitions: int, seed: int) -> tuple[Draws, torch.Tensor, torch.Tensor]:
    """Student-t errors twice as wide as predicted."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(n, repetitions, generator=generator)
    chi = torch.randn(n, repetitions, 4, generator=generator).square().mean(-1).sqrt()
    y = mean + 2 * torch.randn(n, repetitions, generator=generator) / chi
    return gaussian(mean, torch.ones(1)), y, torch.rand(n, 2, generator=generator)


def heteroscedastic(n: int, repetitions: int, seed: int) -> tuple[Draws, torch.Tensor, torch.Tensor]:
    """Deviations from 0.1 to 3 that are predicted up to a factor of their own."""
    generator = torch.Generator().manual_seed(seed)
    mean, std = (
        torch.randn(n, repetitions, generator=generator),
        0.1 + 2.9 * torch.rand(n, repetitions, generator=generator),
    )
    y = mean + std * torch.randn(n, repetitions, generator=generator)
    wrong = (0.3 * torch.randn(n, repetitions, generator=generator)).exp()
    return gaussian(mean, std * wrong), y, torch.rand(n, 2, generator=generator)


def grouped(n: int, repetitions: int, seed: int) -> tuple[Draws, torch.Tensor, torch.Tensor]:
    """Group 0 with errors half as wide and group 1, one row in four, three times as wide as predicted."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.stack([(torch.arange(n) % 4 == 3).double(), torch.rand(n, generator=generator)], 1)
    mean = torch.randn(n, repetitions, generator=generator)
    y = mean + (0.5 + 2.5 * X[:, :1]) * torch.randn(n, repetitions, generator=generator)
    return gaussian(mean, torch.ones(1)), y, X


KINDS = {kind.__name__: kind for kind in (exchangeable, heteroscedastic, grouped)}
