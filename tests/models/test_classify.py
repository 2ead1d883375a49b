"""What classifiers share: averages against quadrature and simulation, and what they refuse."""

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.models.classify import (
    Parallel,
    classification_kernel,
    require_classes,
    sigmoid_average,
    softmax_average,
)
from kernelfield.models.covariance import covariance


@pytest.mark.parametrize("std", [0.0, 0.3, 0.999, 1.0, 3.0, 60.0])
@pytest.mark.parametrize("loc", [-20.0, -1.0, 0.0, 2.5])
def test_the_average_of_a_sigmoid_is_that_of_mpmath(loc, std):
    got = sigmoid_average(torch.tensor(loc), torch.tensor(std**2)).item()
    if std == 0:
        expect = 1 / (1 + mpmath.exp(-loc))
    else:
        cuts = sorted({-12.0, -3.0, 0.0, 3.0, 12.0, *(c for c in (-loc / std,) if abs(c) < 12)})
        expect = mpmath.quad(lambda z: mpmath.npdf(z) / (1 + mpmath.exp(-loc - std * z)), cuts, maxdegree=9)
    assert got == pytest.approx(float(expect), rel=1e-7, abs=1e-12)


def test_averages_of_opposite_functions_add_up_to_one():
    loc, variance = torch.linspace(-5, 5, 11), torch.logspace(-3, 4, 11)
    assert_close(sigmoid_average(loc, variance) + sigmoid_average(-loc, variance), torch.ones(11), atol=1e-12, rtol=0)


def test_the_average_of_a_softmax_of_two_is_that_of_the_sigmoid_of_their_difference():
    loc = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    scale = torch.tensor([[[2.0, 0.5], [0.5, 1.0]], [[9.0, -2.0], [-2.0, 4.0]]])
    got = softmax_average(loc, scale, Unit())[:, 1]
    variance = scale[:, 0, 0] + scale[:, 1, 1] - 2 * scale[:, 0, 1]
    assert_close(got, sigmoid_average(loc[:, 1] - loc[:, 0], variance), atol=1e-3, rtol=0)


def test_classes_share_one_scale_variable():
    """A simulation with one s a draw is met, one with an s for each class is not."""
    loc, variance, law = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[3.0, 1.0, 2.0]]), InverseGamma(0.6, 0.6)
    generator = np.random.default_rng(0)
    z = generator.standard_normal((400_000, 3)) * np.sqrt(variance.numpy())
    s = 0.6 / generator.gamma(0.6, size=(400_000, 3))
    shared = torch.tensor(2.0 * np.eye(3)[0] + np.sqrt(s[:, :1]) * z).softmax(-1).mean(0)
    apart = torch.tensor(2.0 * np.eye(3)[0] + np.sqrt(s) * z).softmax(-1).mean(0)
    got = softmax_average(loc, variance, law)[0]
    assert_close(got, shared, atol=2e-3, rtol=0)
    assert (got - apart).abs().max() > 4e-3


def test_where_mean_and_deviation_grow_alike_heavy_tails_take_little_from_a_sure_answer():
    """Far away under a network's kernel the odds of two classes are P(f_1 > f_2), of a normal or a Student-t law."""
    ratio, distance = np.array([0.6, 1.0, 2.4]), 1e4  # of the mean of f_1 - f_2 to its standard deviation
    loc = torch.tensor(np.stack([ratio, 0 * ratio], -1)) * distance
    scale = torch.full_like(loc, 0.5 * distance**2)
    normal, heavy = (softmax_average(loc, scale, law)[:, 0] for law in (Unit(), InverseGamma(2.0, 2.0)))
    # A step is averaged over 1024 points to about 1 / sqrt(1024) / 4.
    assert_close(normal, torch.tensor(stats.norm.cdf(ratio)), atol=8e-3, rtol=0)
    assert_close(heavy, torch.tensor(stats.t(4).cdf(ratio)), atol=8e-3, rtol=0)
    assert (heavy < normal).all() and (normal - heavy < 0.045).all()


def test_blocks_of_rows_change_nothing(monkeypatch):
    loc, variance = torch.randn(7, 3), torch.rand(7, 3)
    whole = softmax_average(loc, variance, Unit())
    monkeypatch.setattr("kernelfield.models.classify.ROOM", 1)
    assert_close(softmax_average(loc, variance, Unit()), whole, rtol=1e-12, atol=0)


def test_parallel_outputs_are_interleaved_point_by_point():
    A, B = (torch.randn(2, 3, 3) for _ in range(2))
    A, B = A @ A.mT, B @ B.mT
    both = Parallel((A, B))
    dense = both.to_dense()
    assert dense.shape == (2, 6, 6)
    assert_close(dense[:, ::2, ::2], A)
    assert_close(dense[:, 1::2, 1::2], B)
    assert (dense[:, ::2, 1::2] == 0).all()
    assert_close(both.diagonal(), dense.diagonal(dim1=-2, dim2=-1))


def test_kernels_by_name_follow_the_units_of_the_inputs():
    X = torch.randn(30, 2)
    plain, scaled = classification_kernel(None, X), classification_kernel("rbf", X * torch.tensor([1e-3, 1e3]))
    assert_close(scaled.lengthscale, plain.lengthscale * torch.tensor([1e-3, 1e3]))
    assert classification_kernel("nngp", X).scales.numel() == 8
    assert classification_kernel("rbf", torch.ones(4, 2)).lengthscale.isfinite().all()
    with pytest.raises(ValueError, match="kernel must be"):
        classification_kernel("cubic", X)


def test_a_search_over_logarithms_is_drawn_to_the_centres_of_the_priors():
    X = torch.randn(30, 5, dtype=torch.double)
    kernel = classification_kernel("rbf", X)
    target = covariance(kernel, X)
    centre = target.start()
    centre[:5] += np.sqrt(2)
    np.testing.assert_allclose(target.log_prior(centre)[1], 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("Y", "message"),
    [
        ([[1.0], [1.0]], "at least two classes, got 1"),
        ([[1.0, 1.0], [0.0, 1.0]], "a one in the column of its class"),
        ([[0.5, 0.5], [0.0, 1.0]], "a one in the column of its class"),
    ],
)
def test_targets_that_are_no_classes_are_refused(Y, message):
    with pytest.raises(ValueError, match=message):
        require_classes(Data(torch.zeros(2, 1), torch.tensor(Y)))
    with pytest.raises(ValueError, match="no weights"):
        require_classes(Data(torch.zeros(2, 1), torch.eye(2), torch.ones(2)))
