"""Ratios of densities are those of Gaussians, where the logit is in the family, and are clipped."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from kernelfield.uq.conformal.ratio import DensityRatio


def test_a_shifted_gaussian_has_a_linear_logit():
    """log N(x; 1, 1) / N(x; 0, 1) = x - 1/2."""
    X, target = torch.randn(20_000, 1), 1 + torch.randn(10_000, 1)
    places = torch.linspace(-2, 3, 11)[:, None]
    found = DensityRatio().fit(X, target)(places).log()
    assert (found - (places[:, 0] - 0.5)).abs().max() < 0.15


def test_a_wider_gaussian_has_a_quadratic_logit():
    """log N(x; 0, 1.5^2) / N(x; 0, 1) = x^2 (1 - 1 / 2.25) / 2 - log 1.5."""
    X, target = torch.randn(20_000, 1), 1.5 * torch.randn(20_000, 1)
    places = torch.linspace(-2, 2, 9)[:, None]
    expect = places[:, 0].square() * (1 - 1 / 2.25) / 2 - np.log(1.5)
    assert (DensityRatio("quadratic").fit(X, target)(places).log() - expect).abs().max() < 0.15
    assert (DensityRatio().fit(X, target)(places).log() - expect).abs().max() > 0.3


@pytest.mark.parametrize(("kind", "degree"), [("logistic", 1), ("quadratic", 2)])
def test_the_logit_is_scikit_learn_s_of_the_same_features(kind, degree):
    X, target = torch.randn(300, 3) * torch.tensor([1.0, 10.0, 0.1]), 0.5 + torch.randn(200, 3)
    both, labels = torch.cat([X, target]).numpy(), np.repeat([0, 1], [300, 200])
    model = make_pipeline(
        StandardScaler(), PolynomialFeatures(degree, include_bias=False), LogisticRegression(max_iter=1000)
    )
    expect = model.fit(both, labels).decision_function(both) + np.log(300 / 200)
    found = DensityRatio(kind, clip=1e300).fit(X, target)(torch.from_numpy(both)).log()
    np.testing.assert_allclose(found, expect, rtol=2e-3, atol=2e-3)


def test_weights_are_clipped_and_average_to_about_one_over_the_calibration():
    X, target = torch.randn(5000, 2), torch.randn(5000, 2) + torch.tensor([0.5, 0.0])
    ratio = DensityRatio(clip=3.0).fit(X, target)
    assert ratio(torch.tensor([[100.0, 0.0], [-100.0, 0.0]])).tolist() == pytest.approx([3.0, 1 / 3])
    assert DensityRatio().fit(X, target)(X).mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("choice", "X", "target", "complaint"),
    [
        (DensityRatio("forest"), torch.zeros(30, 1), torch.ones(30, 1), "'logistic' or 'quadratic', got 'forest'"),
        (DensityRatio(clip=1.0), torch.zeros(30, 1), torch.ones(30, 1), "clip must be above 1, got 1"),
        (DensityRatio(), torch.zeros(30, 1), torch.ones(30, 2), r"got \(30, 1\) and \(30, 2\)"),
        (DensityRatio(), torch.zeros(30, 1), torch.ones(5, 1), "needs at least 20 calibration rows, got 5"),
        (DensityRatio(), torch.zeros(30, 1), torch.full((30, 1), torch.inf), "the target inputs holds 30 entries"),
    ],
    ids=["kind", "clip", "shape", "few", "infinite"],
)
def test_bad_input_is_refused_in_a_sentence(choice, X, target, complaint):
    with pytest.raises(ValueError, match=complaint):
        choice.fit(X, target)


def test_inputs_of_another_width_have_no_weight():
    ratio = DensityRatio().fit(torch.randn(30, 2), torch.randn(30, 2))
    with pytest.raises(ValueError, match=r"need inputs X \(n, 2\), got \(4, 3\)"):
        ratio(torch.zeros(4, 3))
