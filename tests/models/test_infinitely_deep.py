"""The vote against kernel regression with deep networks, known posteriors, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.infinitely_deep import FittedInfinitelyDeep, InfinitelyDeepClassifier
from kernelfield.nets.algebra import Layer, Repeat
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.polynomials import Polynomial
from kernelfield.nets.singular import Dual, Power, Sinh


def fit(model: InfinitelyDeepClassifier, X: torch.Tensor, y: torch.Tensor) -> FittedInfinitelyDeep:
    return model.fit(Data(X, torch.nn.functional.one_hot(y).to(X)), generator=torch.Generator())


def overlapping(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points of the plane, labels and the probability of the second class, whose log odds are 2 x."""
    generator = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, generator=generator) < 0.5).long()
    X = torch.randn(n, 2, generator=generator)
    X[:, 0] += 2.0 * y - 1
    return X, y, torch.sigmoid(2 * X[:, 0])


def network(depth: int) -> Layer:
    """So many layers whose dual is (z + z^3) / 2."""
    # (h_1 + h_3) / sqrt(2) with h_3 = (z^3 - 3 z) / sqrt(6), the normalised Hermite polynomials.
    layer = Polynomial((0.0, (1 - 3 / math.sqrt(6)) / math.sqrt(2), 0.0, 1 / math.sqrt(12)))
    return Dense() >> Repeat(layer >> Dense(), depth)


def test_kernel_regression_with_deep_networks_becomes_the_vote() -> None:
    X, y, _ = overlapping(30, 0)
    Z, _, _ = overlapping(300, 1)
    fitted = fit(InfinitelyDeepClassifier(), X, y)
    assert fitted.kernel.dual == Power((0.0, 0.5, 0.0, 0.5))
    x, z = (math.sqrt(3) * torch.nn.functional.normalize(fitted.lifted(x)) for x in (X, Z))
    weights = fitted.kernel.kernel(z, x)
    odds = (2 * fitted.probabilities(Z)[:, 1] - 1) * weights.sum(-1) / weights.amax(-1)

    gaps = []
    for depth in (12, 16, 20):
        K, cross = gram(network(depth), Points(x), kind="nngp"), gram(network(depth), Points(z), Points(x), kind="nngp")
        deep = cross @ torch.linalg.solve(K, 2.0 * y - 1) / cross.amax(-1)
        assert (deep.sign() == odds.sign()).all()
        gaps.append((deep - odds).abs().max().item())
    assert gaps[0] / gaps[1] == pytest.approx(16, rel=0.1) and gaps[1] / gaps[2] == pytest.approx(16, rel=0.1)
    assert gaps[2] < 1e-3


def test_tangent_kernels_grow_by_the_kernel_of_the_vote_with_each_layer() -> None:
    """Where all layers train, A^-L T_L = L K + a constant: the vote is their limit too, but a slow one."""
    X, y, _ = overlapping(20, 0)
    fitted = fit(InfinitelyDeepClassifier(), X, y)
    x = math.sqrt(3) * torch.nn.functional.normalize(fitted.lifted(X))
    before, after = (2.0**depth * gram(network(depth), Points(x), kind="ntk") for depth in (20, 21))
    apart = ~torch.eye(20, dtype=torch.bool)
    weights = fitted.kernel.kernel(x, x)
    assert_close((after - before)[apart], weights[apart], rtol=0.02, atol=0.02)  # near pairs come to it last


def test_all_points_vote_for_their_class_wherever_inputs_are() -> None:
    X = torch.randn(40, 3) * torch.logspace(-3, 6, 40)[:, None]
    y = torch.arange(40) % 3
    fitted = fit(InfinitelyDeepClassifier(radius=2.0), X, y)
    u = torch.nn.functional.normalize(fitted.lifted(X))
    assert (u @ u.mT > 0).all()
    assert u[:, -1].min() > math.sqrt(0.5) - 1e-12
    weights = fitted.kernel.kernel(fitted.lifted(X[:20] + 0.1), fitted.lifted(X))
    assert (weights > 0).all()
    expected = weights @ fitted.data.Y / weights.sum(-1, keepdim=True)
    assert_close(fitted.probabilities(X[:20] + 0.1), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 3, 7, 33])
def test_a_training_point_has_its_own_label_and_twins_share_theirs(d: int) -> None:
    X, y = torch.randn(30, d), torch.arange(30) % 3
    X[20] = X[0]  # labels 2 and 0
    fitted = fit(InfinitelyDeepClassifier(), X, y)
    own = fitted.data.Y.clone()
    own[[0, 20]] = torch.tensor([0.5, 0.0, 0.5])
    assert torch.equal(fitted.probabilities(X), own)
    assert torch.equal(torch.cat([fitted.probabilities(x[None]) for x in X]), own)
    near = X + 1e-9 * torch.randn(30, d)
    assert_close(fitted.probabilities(near)[1:20], own[1:20], atol=1e-4, rtol=0)


def test_in_the_plane_probabilities_come_near_the_true_ones() -> None:
    """The kernel estimate of exponent d is consistent; of more it stays a nearest neighbour's."""
    Z, _, truth = overlapping(300, 9)

    def average(dual: Dual | None, n: int) -> tuple[float, float]:
        """The root mean square error of probabilities, and the risk beyond the least one, 0.16."""
        gap = torch.zeros(2)
        for seed in range(3):
            p = fit(InfinitelyDeepClassifier(dual), *overlapping(n, seed)[:2]).probabilities(Z)[:, 1]
            wrong = (p > 0.5) != (truth > 0.5)
            gap += torch.stack([(p - truth).square().mean().sqrt(), ((2 * truth - 1).abs() * wrong).mean()]) / 3
        return gap[0].item(), gap[1].item()

    few, many, steep = average(None, 30), average(None, 1000), average(Sinh(60.0), 1000)
    assert many[0] < 0.65 * few[0] and many[1] < 0.5 * few[1]
    assert many[1] < 0.025
    assert steep[0] > 2 * many[0] and steep[1] > 2.5 * many[1]


def test_the_default_exponent_is_the_number_of_inputs_that_vary() -> None:
    y = torch.tensor([0, 1, 0, 1, 1])
    for d in (1, 2, 5, 60):
        X = torch.cat([torch.randn(5, d), torch.ones(5, 2)], 1)
        fitted = fit(InfinitelyDeepClassifier(), X, y)
        assert fitted.hyperparameters()["exponent"] == pytest.approx(d, rel=1e-12)
        assert fitted.hyperparameters()["radius"] == pytest.approx(X.square().sum(-1).mean().sqrt().item())
    same = fit(InfinitelyDeepClassifier(), torch.zeros(5, 3), y)
    assert_close(same.probabilities(torch.ones(1, 3)), torch.tensor([[0.4, 0.6]]))


def test_units_change_nothing_and_a_wide_sphere_is_flat() -> None:
    X, y, _ = overlapping(50, 0)
    Z, _, _ = overlapping(20, 1)
    p = fit(InfinitelyDeepClassifier(), X, y).probabilities(Z)
    assert_close(fit(InfinitelyDeepClassifier(), 1e-5 * X, y).probabilities(1e-5 * Z), p, rtol=1e-9, atol=1e-12)
    # Where all cosines are near one, the weights are a periodic factor times |x - x_i|^-2.
    flat = fit(InfinitelyDeepClassifier(radius=1e4), X, y).probabilities(Z)
    hilbert = torch.cdist(Z, X).pow(-2)
    assert_close(flat[:, 1], hilbert @ y.double() / hilbert.sum(-1), atol=0.01, rtol=0)


def test_conditioning_is_a_fit_to_all_rows() -> None:
    X, y, _ = overlapping(40, 0)
    Z, _, _ = overlapping(20, 1)
    model = InfinitelyDeepClassifier(radius=1.5)
    Y = torch.nn.functional.one_hot(y).double()
    first = model.fit(Data(X[:25], Y[:25]), generator=torch.Generator())
    assert torch.equal(first.condition(Data(X[25:], Y[25:])).probabilities(Z), fit(model, X, y).probabilities(Z))


def test_many_inputs_keep_their_weights() -> None:
    """A is below 1e-8 from 54 inputs on, and the nearer point has to win by the power of the distances."""
    for d in (100, 1000):
        X = torch.randn(2, d)
        fitted = fit(InfinitelyDeepClassifier(radius=1e3), X, torch.tensor([0, 1]))
        z = X[0] + (X[1] - X[0]) * 0.499
        odds = fitted.probabilities(z[None]).log()
        assert_close(odds[0, 0] - odds[0, 1], torch.tensor(d * math.log(0.501 / 0.499)), rtol=0.25, atol=0)


def test_float32_is_answered_in_kind() -> None:
    X, y, _ = overlapping(30, 0)
    p = fit(InfinitelyDeepClassifier(), X.float(), y).probabilities(X[:5].float() + 0.1)
    assert p.dtype == torch.float32
    assert_close(p.double(), fit(InfinitelyDeepClassifier(), X, y).probabilities(X[:5] + 0.1), atol=1e-4, rtol=0)


def test_there_is_no_latent_law() -> None:
    X, y, _ = overlapping(9, 0)
    fitted = fit(InfinitelyDeepClassifier(), X, y)
    assert fitted.outputs == 2
    with pytest.raises(NotImplementedError, match="FittedInfinitelyDeep has probabilities.*no law of latent functions"):
        fitted.posterior(X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0.0}, "radius must be positive and finite, got 0"),
        ({"radius": np.inf}, "radius must be positive and finite, got inf"),
        ({"dual": "relu"}, "dual must be a dual activation such as .* got 'relu'"),
        ({"dual": Power((0.5, 0.5))}, "predict the majority's label"),
        ({"dual": Power((0.0, 0.0, 1.0))}, "nearest neighbour"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(InfinitelyDeepClassifier(**options), torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))


def test_more_inputs_than_a_dual_has_exponents_for_are_refused() -> None:
    with pytest.raises(ValueError, match="exponent d from 1 to 1800, got d = 2000"):
        fit(InfinitelyDeepClassifier(), torch.randn(3, 2000), torch.tensor([0, 1, 1]))
