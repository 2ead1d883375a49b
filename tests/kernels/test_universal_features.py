import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.kernels.stationary import RBF, Matern, RationalQuadratic
from kernelfield.kernels.universal_features import FUNCTIONS, UniversalFeatures, normals, spectral_draws

W, X, B = torch.tensor([[0.5, 0.4, -0.48]]), torch.tensor([[-0.3, 0.5, 0.55]]), torch.tensor([0.3])  # sizes of 0.80
WX = (W * X).sum()
VALUES = {"cos": torch.cos, "sin": torch.sin, "gaussian": lambda u: torch.exp(-u.square() / 2)}


def generator():
    return torch.Generator().manual_seed(0)


def errors(function, value, m, repeats, orthogonal=False):
    source, found = generator(), []
    for _ in range(repeats):
        features = UniversalFeatures.drawn(function, 3, m, generator=source, orthogonal=orthogonal)
        found.append(features.of_inputs(X) @ features.of_units(W, B).mT - value)
    return torch.cat(found).flatten()


def wave_std(shift):
    """The standard deviation of one term for cos(w.x + b - shift), by E exp(a g.s) = exp(a^2 |s|^2 / 2)."""
    s, both = (W + X).square().sum(), W.square().sum() + X.square().sum()
    b = B - shift
    # |exp(a g.s - a^2 (..)/2)|^2 has the mean exp(|s|^2), its square exp(i (2 |s|^2 - |w|^2 - |x|^2)).
    second = 0.5 * (s.exp() + torch.cos(2 * b + 2 * s - both))
    return (second - torch.cos(WX + b).square()).sqrt().item()


@pytest.mark.parametrize(("function", "shift"), [("cos", 0.0), ("sin", math.pi / 2)])
@pytest.mark.parametrize(("m", "repeats"), [(1000, 300)])
def test_waves_err_as_their_variance_says_and_without_bias(function, shift, m, repeats):
    found = errors(function, VALUES[function](WX + B), m, repeats)
    rmse = found.square().mean().sqrt().item()
    assert rmse == pytest.approx(wave_std(shift) / m**0.5, rel=6 / (2 * repeats) ** 0.5)
    assert abs(found.mean()) < 4 * found.std() / repeats**0.5


@pytest.mark.slow
def test_the_error_falls_as_the_root_of_the_number_of_features():
    sizes = torch.tensor([1e3, 1e4, 1e5])
    rmse = [errors("cos", torch.cos(WX + B), int(m), 100).square().mean().sqrt() for m in sizes]
    slope = torch.stack(rmse).log().diff() / sizes.log().diff()
    assert_close(slope, torch.full_like(slope, -0.5), atol=0.1, rtol=0)
    assert rmse[0] < 5e-2


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize("function", VALUES)
def test_features_are_unbiased(function, orthogonal):
    found = errors(function, VALUES[function](WX + B), 300, 200, orthogonal)
    assert abs(found.mean()) < 4 * found.std() / 200**0.5
    assert found.std() < 0.3


def test_rectified_features_have_the_arc_cosine_kernel():
    x, w = torch.cat([X, torch.ones(1, 1)], 1)[0], torch.cat([W, B[:, None]], 1)[0]
    angle = torch.acos(x @ w / (x.norm() * w.norm()))
    expect = x.norm() * w.norm() * (angle.sin() + (math.pi - angle) * angle.cos()) / math.pi
    found = errors("relu", expect, 1000, 300)
    assert abs(found.mean()) < 4 * found.std() / 300**0.5
    assert found.std() < 0.1


def test_rectified_features_of_parallel_weights_are_the_unit_itself():
    features = UniversalFeatures.drawn("relu", 2, 200_000, generator=generator())
    x = torch.tensor([[0.6, -0.3]])
    for sign in (1.0, -1.0):
        found = features.of_inputs(x) @ features.of_units(sign * 0.7 * x, sign * 0.7 * torch.ones(1)).mT
        assert found.item() == pytest.approx(max(0.0, sign * 0.7 * (1 + 0.45)), abs=0.02)


def test_rows_are_normal_and_orthogonal_in_blocks():
    z = normals(60_000, 3, generator=generator())
    first = z[:9].reshape(3, 3, 3)
    products = first @ first.mT
    assert_close(products, torch.diag_embed(products.diagonal(dim1=-2, dim2=-1)), atol=1e-12, rtol=0)
    assert_close(z.mT @ z / len(z), torch.eye(3), atol=0.03, rtol=0)
    assert_close((z**4).mean(0), torch.full((3,), 3.0), atol=0.15, rtol=0)
    assert normals(2, 5, generator=generator()).shape == (2, 5)


@pytest.mark.parametrize("kernel", [RBF(), Matern(0.5), Matern(1.5), Matern(2.5)], ids=["rbf", "12", "32", "52"])
def test_waves_of_a_spectrum_have_its_kernel(kernel):
    z, x = spectral_draws(kernel, 100_000, 2, generator=generator()), torch.tensor([0.6, -0.5])
    expect = kernel(x[None], torch.zeros(1, 2)).to_dense().item()
    assert (z @ x).cos().mean().item() == pytest.approx(expect, abs=6 * 0.7 / 100_000**0.5)


def test_orthogonal_waves_err_less():
    x, expect, errs = torch.full((8,), 0.35), math.exp(-0.5 * 8 * 0.35**2), {}
    for orthogonal in (False, True):
        source = generator()
        draws = [normals(32, 8, generator=source, orthogonal=orthogonal) for _ in range(800)]
        errs[orthogonal] = torch.stack([(z @ x).cos().mean() - expect for z in draws]).square().mean()
    assert errs[True] < 0.6 * errs[False]


def test_a_wrong_choice_is_named():
    with pytest.raises(ValueError, match="function must be one of cos, sin, gaussian, relu, got 'tanh'"):
        UniversalFeatures.drawn("tanh", 2, 5, generator=generator())
    with pytest.raises(ValueError, match="count must be at least one direction, got 0"):
        UniversalFeatures.drawn("cos", 2, 0, generator=generator())
    with pytest.raises(ValueError, match="drawn for RBF and Matern kernels, got RationalQuadratic"):
        spectral_draws(RationalQuadratic(), 5, 2, generator=generator())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_batches_are_rows(function):
    features = UniversalFeatures.drawn(function, 3, 5, generator=generator())
    x = torch.randn(2, 4, 3)
    assert_close(features.of_inputs(x)[1], features.of_inputs(x[1]))
    assert features.of_inputs(x).shape == (2, 4, features.size)
