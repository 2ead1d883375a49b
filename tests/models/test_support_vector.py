"""The machine against scikit-learn's on the same kernel, subgradient descent, and attacks."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.datasets import load_iris, make_blobs, make_moons
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.estimators.classifier import FieldClassifier
from kernelfield.kernels.network import NetworkKernel
from kernelfield.models.infinitely_deep import InfinitelyDeepClassifier
from kernelfield.models.support_vector import SupportVectorClassifier, sharpness
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu

TWO_LAYERS = Dense() >> Relu() >> Dense()
DEEP = Dense(1.5, 0.5) >> Relu() >> Dense(1.5, 0.5) >> Relu() >> Dense()
NETWORKS = {"none": None, "two layers": TWO_LAYERS, "deep": DEEP, "kernel": NetworkKernel(DEEP, "nngp")}


def fit(model, X, y):
    data = Data(torch.tensor(X), torch.nn.functional.one_hot(torch.tensor(y)).double())
    return model.fit(data, generator=torch.Generator().manual_seed(0))


def gram(network, X, Z=None, kind="ntk"):
    kernel = NetworkKernel(network, kind)
    return kernel(torch.tensor(X), torch.tensor(X if Z is None else Z)).to_dense().detach().numpy()


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    return X[::2], y[::2], X[1::2], y[1::2]


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_outputs_are_those_of_scikit_learn_on_the_same_kernel(kind, iris):
    X, y, X_new, _ = iris
    theirs = SVC(kernel="precomputed", C=1 / (1e-2 * 50)).fit(gram(DEEP, X[25:], kind=kind), y[25:])
    ours = fit(SupportVectorClassifier(DEEP, kind, penalty=1e-2), X[25:], y[25:] - 1)
    expected = torch.tensor(theirs.decision_function(gram(DEEP, X_new, X[25:], kind)))
    assert_close(ours.decision(torch.tensor(X_new))[:, 0], expected, rtol=0, atol=1e-10)
    assert len(ours.support) == theirs.n_support_.sum() < 50

    theirs = OneVsRestClassifier(SVC(kernel="precomputed", C=1 / (1e-2 * 75))).fit(gram(DEEP, X, kind=kind), y)
    ours = fit(SupportVectorClassifier(DEEP, kind, penalty=1e-2), X, y)
    expected = torch.tensor(theirs.decision_function(gram(DEEP, X_new, X, kind)))
    assert_close(ours.decision(torch.tensor(X_new)), expected, rtol=0, atol=1e-10)


def test_subgradient_descent_of_the_network_ends_at_the_machine():
    X, y = make_moons(24, noise=0.15, random_state=0)
    penalty, sign = 0.1, 2 * y - 1
    fitted = fit(SupportVectorClassifier(DEEP, penalty=penalty), X, y)
    K = gram(DEEP, X)
    steps, a, b, mean = 40_000, np.zeros(24), 0.0, np.zeros(24)
    for t in range(steps):
        rate = 1 / (penalty * (t + 20))
        wrong = (sign * (K @ a + b) < 1) * sign / 24  # the subgradient in the outputs
        a, b = (1 - rate * penalty) * a + rate * wrong, b + rate * wrong.sum()
        if t >= steps // 2:
            mean += (K @ a + b) / (steps - steps // 2)
    np.testing.assert_allclose(fitted.decision(torch.tensor(X))[:, 0], mean, atol=0.01)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_it_learns_two_and_three_classes(network, iris):
    X, y = make_moons(200, noise=0.1, random_state=0)
    X = np.column_stack([X, np.ones(200)])  # a network of two layers has no biases
    fitted = fit(SupportVectorClassifier(network), X[:100], y[:100])
    assert (fitted.probabilities(torch.tensor(X[100:])).argmax(1).numpy() == y[100:]).mean() > 0.95
    X, y, X_new, y_new = iris
    fitted = fit(SupportVectorClassifier(network), X, y)
    assert (fitted.probabilities(torch.tensor(X_new)).argmax(1).numpy() == y_new).mean() > 0.93


@pytest.mark.parametrize("k", [2, 3])
def test_the_sharpness_is_the_best_on_smoothed_targets(k):
    """By Platt's targets for two classes, (N + 1) / (N + 2) of the own class, and alike for more."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, k, 60)
    outputs = 0.03 * (generator.normal(size=(60, k)) + 2 * np.eye(k)[y])
    outputs = outputs[:, 1:] - outputs[:, :1] if k == 2 else outputs
    g = np.column_stack([np.zeros(60), outputs]) if k == 2 else outputs

    def loss(beta):
        log_p = beta * g - np.log(np.exp(beta * g).sum(1, keepdims=True))
        total = 0.0
        for i, c in enumerate(y):
            seen = (y == c).sum()
            total -= ((1 + (np.arange(k) == c) * seen) / (seen + k)) @ log_p[i]
        return total

    best = minimize_scalar(loss, bounds=(1, 1000), method="bounded", options={"xatol": 1e-9}).x
    assert sharpness(outputs, y) == pytest.approx(best, rel=1e-5)


def test_the_sharpness_of_known_probabilities_is_found_and_bounded():
    generator = np.random.default_rng(0)
    outputs = generator.normal(size=(20_000, 3))
    p = torch.tensor(2.5 * outputs).softmax(-1).numpy()
    y = (generator.random(20_000)[:, None] > p.cumsum(1)).sum(1)
    assert sharpness(outputs, y) == pytest.approx(2.5, rel=0.05)
    assert 0 < sharpness(outputs, generator.permutation(y)[::-1]) < 0.05
    # The higher the wrong way round: order is kept, and nothing else.
    assert 0 < sharpness(np.array([[1.0], [2.0], [-1.0], [-2.0]]), np.array([0, 0, 1, 1])) < 1e-3
    assert np.isfinite(sharpness(np.zeros((4, 1)), np.array([0, 0, 1, 1])))


def test_probabilities_are_calibrated_where_the_outputs_on_fitted_rows_are_too_sure():
    """A hard margin between classes that overlap: no rule is right for more than four rows in five."""
    X, y = make_blobs(600, centers=[[-1, 0, 0, 0], [1, 0, 0, 0]], cluster_std=1.2, random_state=0)
    fitted = fit(SupportVectorClassifier(penalty=1e-5), X[:200], y[:200])
    p = fitted.probabilities(torch.tensor(X[200:])).numpy()
    log_loss = -np.log(p[np.arange(400), y[200:]]).mean()
    seen = fitted.decision(torch.tensor(X[:200])).numpy()
    g = sharpness(seen, y[:200]) * fitted.decision(torch.tensor(X[200:]))[:, 0].numpy()
    naive = np.log1p(np.exp(-g * (2 * y[200:] - 1))).mean()
    assert log_loss < 0.65 and naive > log_loss + 0.15
    assert abs(p.max(1).mean() - (p.argmax(1) == y[200:]).mean()) < 0.06


def test_the_most_probable_class_is_the_machines_own(iris):
    X, y, X_new, _ = iris
    for labels in (y, (y == 1).astype(int)):
        fitted = fit(SupportVectorClassifier(TWO_LAYERS), X, labels)
        g, p = fitted.decision(torch.tensor(X_new)), fitted.probabilities(torch.tensor(X_new))
        own = g.argmax(1) if g.shape[1] > 1 else (g[:, 0] > 0).long()
        assert (p.argmax(1) == own).all()
        assert_close(p.sum(1), torch.ones(75))


def test_a_class_of_one_row_is_never_left_out():
    X = np.array([[-1.0], [-0.9], [-1.2], [1.0]])
    for rows in ([0, 1, 2, 3], [0, 3]):
        p = fit(SupportVectorClassifier(), X[rows], (X[rows, 0] > 0).astype(int)).probabilities(torch.tensor([[0.9]]))
        assert 0.5 < p[0, 1] < 0.99


def test_no_move_within_the_certified_radius_changes_a_label(iris):
    X, y, X_new, _ = iris
    X, y, X_new = X[25:] * [1.0, 2.0, 3.0, 4.0], y[25:], X_new[25:] * [1.0, 2.0, 3.0, 4.0]
    model = SupportVectorClassifier(Dense(1.3) >> Relu() >> Dense(0.7), penalty=1e-2)
    fitted = FieldClassifier(model, random_state=0).fit(X, y)
    inner = fitted.surrogate_
    rows = fitted.to_model_X_(torch.tensor(X_new))
    assert_close(inner.two_layers()(rows), inner.decision(rows)[:, 0], atol=1e-8, rtol=0)
    radius = fitted.certified_radius(X_new)
    assert (radius > 0).all()
    assert np.median(radius) > 0.05
    moves = np.random.default_rng(0).choice([-1.0, 1.0], (100, *X_new.shape))
    for move in moves:
        np.testing.assert_array_equal(fitted.predict(X_new + radius[:, None] * move * X.std(0)), fitted.predict(X_new))


def test_what_has_no_certificate_is_named(iris):
    X, y, X_new, _ = iris
    two, new = y > 0, torch.tensor(X_new)
    with pytest.raises(NotImplementedError, match="3 classes"):
        fit(SupportVectorClassifier(TWO_LAYERS), X, y).certified_radius(new)
    with pytest.raises(NotImplementedError, match="got the NNGP of"):
        fit(SupportVectorClassifier(TWO_LAYERS, "nngp"), X, two.astype(int)).certified_radius(new)
    with pytest.raises(NotImplementedError, match="without biases"):
        fit(SupportVectorClassifier(Dense(b=0.5) >> Relu() >> Dense()), X, two.astype(int)).certified_radius(new)
    with pytest.raises(NotImplementedError, match="for SupportVectorClassifier, not for FittedInfinitelyDeep"):
        FieldClassifier(InfinitelyDeepClassifier()).fit(X, two).certified_radius(X_new)


def test_there_is_no_latent_law(iris):
    fitted = fit(SupportVectorClassifier(), *iris[:2])
    with pytest.raises(NotImplementedError, match="FittedSupportVector has probabilities.*no law of latent functions"):
        fitted.posterior(torch.tensor(iris[2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": 0.0}, "penalty must be positive, got 0; a small one is a hard margin"),
        ({"penalty": np.nan}, "penalty must be positive, got nan"),
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"kind": "cnn"}, "kind must be 'nngp' or 'ntk', got 'cnn'"),
        ({"network": "ntk"}, "network must be layers such as .* got 'ntk'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit(SupportVectorClassifier(**options), np.array([[0.0], [1.0]]), np.array([0, 1]))


def test_a_kernel_that_overflows_is_refused():
    huge = Dense(1e160) >> Relu() >> Dense(1e160)
    with pytest.raises(ValueError, match="holds NaN or infinite values; check inputs and scales"):
        fit(SupportVectorClassifier(huge), np.array([[1.0], [2.0]]), np.array([0, 1]))


def test_the_users_kernel_is_copied(iris):
    kernel = NetworkKernel(DEEP, "ntk").float()
    fitted = fit(SupportVectorClassifier(kernel), *iris[:2])
    assert kernel.raw_scales.dtype == torch.float32 and kernel.raw_scales.requires_grad
    assert fitted.kernel.raw_scales.dtype == torch.float64 and not fitted.kernel.raw_scales.requires_grad
    assert set(fitted.hyperparameters()) >= {"support_vectors", "sharpness", "scales"}
