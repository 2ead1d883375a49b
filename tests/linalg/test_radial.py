"""Tiled radial matrices against their formulas in plain autograd, forward and backward."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from kernelfield.linalg import profiles, radial
from kernelfield.linalg.radial import Gram
from kernelfield.linalg.toeplitz import centrosymmetric

FORMULAS = {
    profiles.Rbf: lambda r2, a: torch.exp(-r2 / 2),
    profiles.Matern12: lambda r2, a: torch.exp(-_root(r2)),
    profiles.Matern32: lambda r2, a: (1 + math.sqrt(3) * _root(r2)) * torch.exp(-math.sqrt(3) * _root(r2)),
    profiles.Matern52: lambda r2, a: (1 + math.sqrt(5) * _root(r2) + 5 / 3 * r2) * torch.exp(-math.sqrt(5) * _root(r2)),
    profiles.RationalQuadratic: lambda r2, a: (1 + r2 / (2 * a)) ** -a,
}
PROFILES = pytest.mark.parametrize("profile", FORMULAS, ids=lambda p: p.__name__)


def _root(r2):
    return (r2 + 1e-300).sqrt()  # its derivative at 0 is finite, which autograd multiplies by 0


def formula(profile, x, y, lengthscale, outputscale, shape):
    r2 = ((x.unsqueeze(-2) - y.unsqueeze(-3)) / lengthscale.unsqueeze(-2)).square().sum(-1)
    a = None if shape is None else shape[..., None, None]
    return outputscale[..., None, None] * FORMULAS[profile](r2, a)


def parameters(profile, batch=(), d=3):
    lengthscale = 0.5 + torch.rand(*batch, 1, d)
    shape = 0.5 + torch.rand(batch) if profile.shaped else None
    return [None if p is None else p.requires_grad_() for p in (lengthscale, 0.5 + torch.rand(batch), shape)]


def given(tensors):
    return [t for t in tensors if t is not None]


@pytest.fixture(params=[radial.TILE, 40], ids=["one tile", "many tiles"])
def tile(request, monkeypatch):
    monkeypatch.setattr(radial, "TILE", request.param)


@PROFILES
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_a_symmetric_matrix_and_all_its_derivatives_are_those_of_the_formula(profile, batch, tile):
    lengthscale, outputscale, shape = parameters(profile, batch)
    x = torch.randn(*batch, 17, 3, requires_grad=True)
    K = radial.radial(x / lengthscale, None, outputscale, profile(), shape)
    expect = formula(profile, x, x, lengthscale, outputscale, shape)
    assert_close(K, expect, atol=1e-13, rtol=0)
    assert_close(K.diagonal(dim1=-2, dim2=-1), outputscale[..., None].expand(*batch, 17), atol=0, rtol=0)
    G, wanted = torch.randn_like(K), given((x, lengthscale, outputscale, shape))
    pairs = zip(*(torch.autograd.grad((M * G).sum(), wanted) for M in (K, expect)), strict=True)
    for ours, theirs in pairs:
        assert_close(ours, theirs, atol=1e-11, rtol=1e-10)


@PROFILES
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_a_cross_matrix_and_all_its_derivatives_are_those_of_the_formula(profile, batch, tile):
    lengthscale, outputscale, shape = parameters(profile, batch)
    x, y = torch.randn(*batch, 9, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    K = radial.radial(x / lengthscale, y / lengthscale, outputscale, profile(), shape)
    expect = formula(profile, x, y, lengthscale, outputscale, shape)
    assert_close(K, expect, atol=1e-13, rtol=0)
    G, wanted = torch.randn_like(K), given((x, y, lengthscale, outputscale, shape))
    pairs = zip(*(torch.autograd.grad((M * G).sum(), wanted) for M in (K, expect)), strict=True)
    for ours, theirs in pairs:
        assert_close(ours, theirs, atol=1e-11, rtol=1e-10)


@PROFILES
def test_the_workspace_of_a_fit_has_the_values_and_derivatives_of_the_formula(profile, tile):
    lengthscale, outputscale, shape = parameters(profile)
    x = torch.randn(23, 3)
    gram = Gram(x, profile())
    scales = lengthscale.detach().numpy().ravel()
    for _ in range(2):  # its buffers are used again
        K = gram.fill(scales, outputscale.log().item(), None if shape is None else shape.item())
    expect = formula(profile, x, x, lengthscale, outputscale, shape)
    assert_close(K.tril(), expect.tril(), atol=1e-13, rtol=0)
    G = torch.randn(23, 23)
    G = G + G.mT
    slope, tilt = gram.pull(G)
    wanted = given((lengthscale, shape))
    theirs = torch.autograd.grad((expect * G).sum(), wanted)
    assert_close(torch.as_tensor(slope), (theirs[0] * lengthscale).flatten().detach(), atol=1e-11, rtol=1e-10)
    if shape is not None:
        assert_close(tilt, (theirs[1] * shape).item(), atol=1e-11, rtol=1e-10)


@PROFILES
def test_the_workspace_of_one_lengthscale_is_that_of_as_many_alike(profile, tile):
    _, outputscale, shape = parameters(profile)
    x, G = torch.randn(23, 3), torch.randn(23, 23)
    one, many = (Gram(x, profile(), shared=shared) for shared in (True, False))
    own = None if shape is None else shape.item()
    for length in (2.0, 0.7):
        Ks = [g.fill(np.full(k, length), outputscale.log().item(), own).tril() for g, k in ((one, 1), (many, 3))]
        assert_close(*Ks, atol=1e-13, rtol=0)
        (slope, tilt), (slopes, same) = (g.pull(G + G.mT) for g in (one, many))
        np.testing.assert_allclose(slope, slopes.sum(keepdims=True), rtol=1e-11)
        assert tilt == pytest.approx(same)


@PROFILES
def test_gradients_are_finite_where_points_coincide(profile):
    _, outputscale, shape = parameters(profile)
    x = torch.ones(4, 2, requires_grad=True)
    for other in (None, x * 1.0):
        K = radial.radial(x, other, outputscale, profile(), shape)
        assert_close(K, outputscale.expand(4, 4))
        for gradient in torch.autograd.grad(K.sum(), given((x, outputscale, shape)), retain_graph=True):
            assert gradient.isfinite().all()


@PROFILES
@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-9, 1e-6, 1e-4])
def test_points_that_nearly_coincide_keep_their_distance(profile, gap):
    _, outputscale, shape = parameters(profile)
    x = 3.0 * torch.randn(8, 2)
    y = x + gap  # may round: the true gap is the difference
    expect = formula(profile, x, y, torch.ones(1, 2), outputscale, shape)
    for K in (radial.radial(x, y, outputscale, profile(), shape), _joint(profile, x, y, outputscale, shape)):
        assert_close(K.diagonal(), expect.diagonal(), atol=2e-14, rtol=0)


def _joint(profile, x, y, outputscale, shape):
    """The cross block by way of the workspace."""
    gram = Gram(torch.cat([y, x]), profile())
    fill = gram.fill(torch.ones(2).numpy(), outputscale.log().item(), None if shape is None else shape.item())
    return fill[len(y) :, : len(y)]


@PROFILES
def test_points_far_from_the_origin_lose_nothing(profile):
    _, outputscale, shape = parameters(profile)
    x = torch.randn(6, 2)
    near, far = (radial.radial(x + shift, None, outputscale, profile(), shape) for shift in (0.0, 2.0**20))
    assert_close(near, far, atol=1e-8, rtol=0)  # x itself is rounded to 2^-33 there


def test_memory_beyond_the_matrix_is_that_of_a_tile():
    x, one = torch.randn(600, 8, requires_grad=True), torch.ones(())
    kept = {}  # storages are kept alive, so that none is counted for another

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                storage = result.untyped_storage()
                kept[storage.data_ptr()] = storage
            return result

    with Watch():
        K = radial.radial(x, None, one, profiles.Matern52())
        K.backward(torch.ones_like(K))
    large = [storage for storage in kept.values() if storage.nbytes() > 8 * radial.TILE]
    assert len(large) == 2  # the matrix and the gradient given to it


def test_evenly_spaced_points_on_a_line_keep_their_symmetry_at_short_lengthscales():
    """By halves such a matrix is decomposed in a third of the time; distances by products of rows lose it."""
    line = torch.linspace(0, 1, 400, dtype=torch.double)[:, None]
    K = torch.tril(Gram(line, profiles.Rbf(), shared=True).fill(np.array([0.01]), 0.0))
    assert centrosymmetric(K + torch.tril(K, -1).mT)
