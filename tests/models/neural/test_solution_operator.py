"""Surrogates of an operator whose posterior is known: of faint fields, Burgers' equation is linear."""

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.data.flows import Burgers, PeriodicField, flow_sample
from kernelfield.models.neural.dropout import MCDropout
from kernelfield.models.neural.sampled import HMC
from kernelfield.models.neural.train import Training
from kernelfield.nets.dense import Dense, Dropout
from tests.models.neural.posteriors import generator

FAINT, NOISE = 1e-6, 0.1  # the product in the equation is a millionth of the other terms


def runs(n: int, seed: int = 0) -> tuple[Data, Tensor]:
    """n noisy runs, with fields and solutions in units of their size, and what they were without noise."""
    flow = Burgers(viscosity=0.01, time=0.3, points=32, steps=40)
    law = PeriodicField(modes=2, length=0.2, size=FAINT)
    X, Y = (torch.tensor(part / FAINT) for part in flow_sample(flow, law, n, np.random.default_rng(seed), sensors=8))
    return Data(X, Y + NOISE * torch.randn(Y.shape, generator=generator(seed))), Y


def exact(data: Data, X: Tensor, w: float, b: float) -> tuple[Tensor, Tensor]:
    """Mean (n, m) and variance (n,) of f = w x.W / 2 + b B of four inputs, with standard normal W and B."""

    def features(X: Tensor) -> Tensor:
        return torch.cat([w * X / 2, b * torch.ones(len(X), 1)], 1)

    H = features(data.X)
    factor = torch.linalg.cholesky(torch.eye(5) + H.mT @ H / NOISE**2)
    mean = features(X) @ torch.cholesky_solve(H.mT @ data.Y / NOISE**2, factor)
    return mean, torch.linalg.solve_triangular(factor, features(X).mT, upper=False).square().sum(0)


def test_faint_fields_only_diffuse():
    data, Y = runs(3)
    X, k = data.X.numpy(), np.array([1, 2, 1, 2])
    left = PeriodicField(modes=2).values(X * np.exp(-0.01 * 0.3 * (2 * np.pi * k) ** 2), 1, points=8)
    np.testing.assert_allclose(Y, left, atol=1e-5)


def test_hmc_has_the_mean_to_two_per_cent_and_the_variance_to_five():
    data, _ = runs(12)
    X = runs(6, seed=1)[0].X
    model = HMC(
        Dense(1.5, 0.7), noise=NOISE**2, chains=60, warmup=60, draws=150, training=None, precision="double", path=0.2
    )
    law = model.fit(data, generator=generator()).posterior(X)
    mean, variance = exact(data, X, 1.5, 0.7)
    assert (law.mean - mean).abs().max() < 0.02 * mean.std()
    # The eight outputs have one variance: 9000 draws of each, worth a third of that, know it to one per cent.
    assert (law.variance.mean(1) / variance - 1).abs().max() < 0.05


def test_dropout_is_as_unsure_after_many_runs_as_after_few():
    """The negative control: the exact variance falls with the number of runs, that of masks does not."""
    X = runs(50, seed=1)[0].X
    network = Dense(1.0, 0.1, 32) >> Dropout(0.9) >> Dense(1.0, 0.1)
    ours, known = [], []
    for n in (20, 320):
        data, _ = runs(n)
        model = MCDropout(network, noise=NOISE**2, training=Training(steps=300, learning_rate=1e-2))
        ours.append(model.fit(data, generator=generator()).posterior(X).variance.mean())
        known.append(exact(data, X, 1.5, 0.7)[1].mean())
    assert known[0] / known[1] > 10
    assert ours[0] / ours[1] < 3
