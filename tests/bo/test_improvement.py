import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from kernelfield.bo.improvement import (
    Acquisition,
    Differentiable,
    LogImprovement,
    LogProbability,
    Total,
    UpperBound,
    log_partial_expectation,
)
from kernelfield.bo.moments import Marginal, Moments


class Bump(Moments):
    """A mean and a standard deviation that are simple functions of two inputs."""

    def values(self, X: Tensor) -> tuple[Tensor, Tensor]:
        return X[:, 0] * X[:, 1] - X[:, 0] ** 2, 0.3 + X[:, 1] ** 2

    def at(self, X: Tensor) -> Marginal:
        mean, std = self.values(X)

        def pull(dmean: Tensor, dstd: Tensor) -> Tensor:
            return torch.stack([dmean * (X[:, 1] - 2 * X[:, 0]), dmean * X[:, 0] + dstd * 2 * X[:, 1]], 1)

        return Marginal(mean, std, pull)


FAR_AND_NEAR = [1e6, 40.0, 10.01, 9.99, 5.0, 0.3, -0.99, -1.01, -7.0, -37.0, -59.9, -60.1, -400.0, -1e5, -1e12]


@pytest.mark.parametrize("z", FAR_AND_NEAR)
def test_the_logarithm_of_the_partial_expectation_is_exact_far_into_its_tail(z: float) -> None:
    with mpmath.workdps(60):
        x = mpmath.mpf(z)
        if z > -1e4:
            exact = mpmath.log(mpmath.npdf(x) + x * mpmath.ncdf(x))
        else:  # the leading terms of its asymptotic series, the next of which is below 1e-12 of them
            exact = -x * x / 2 - mpmath.log(mpmath.sqrt(2 * mpmath.pi)) - 2 * mpmath.log(-x) - 3 / x**2
    assert log_partial_expectation(torch.tensor([z])).item() == pytest.approx(float(exact), rel=2e-13, abs=1e-12)


def test_the_expected_improvement_is_the_integral_of_the_improvement() -> None:
    X = torch.tensor([[0.2, 0.7]])
    mean, std = (value.item() for value in Bump().values(X))
    grid = np.linspace(-12, 12, 200_001)
    density = np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi)
    integral = np.trapezoid(np.maximum(mean + std * grid - 0.4, 0) * density, grid)
    assert LogImprovement(Bump(), 0.4).values(X).exp().item() == pytest.approx(integral, rel=1e-8)


@pytest.mark.parametrize(
    "function",
    [
        LogImprovement(Bump(), 0.4),
        LogImprovement(Bump(), 30.0),
        LogProbability(Bump(), 0.4),
        LogProbability(Bump(), 0.0, sign=-1.0),
        UpperBound(Bump(), 2.0),
        Total([LogImprovement(Bump(), 0.1), LogProbability(Bump(), 0.0, sign=-1.0)]),
        Differentiable(lambda X: X.prod(-1).sin()),
    ],
    ids=["improvement", "far improvement", "probability", "feasibility", "bound", "total", "torch"],
)
def test_slopes_are_those_of_the_values(function: Acquisition) -> None:
    X = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
    values, slopes = function.slopes(X)
    assert torch.allclose(values, function.values(X), rtol=1e-14)
    step = 1e-6
    for column in range(2):
        shift = torch.zeros(2)
        shift[column] = step
        difference = (function.values(X + shift) - function.values(X - shift)) / (2 * step)
        assert torch.allclose(slopes[:, column], difference, rtol=1e-6, atol=1e-7)


def test_independent_probabilities_multiply() -> None:
    X = torch.rand(4, 2, generator=torch.Generator().manual_seed(1))
    gain, safe = LogImprovement(Bump(), 0.1), LogProbability(Bump(), 0.0, sign=-1.0)
    product = gain.values(X).exp() * safe.values(X).exp()
    assert torch.allclose(Total([gain, safe]).values(X).exp(), product)
    mean, std = Bump().values(X)
    assert torch.allclose(safe.values(X).exp(), torch.special.ndtr(-mean / std))
