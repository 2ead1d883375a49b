"""Infinitely deep networks: the functional equation, the singularity and the classifier."""

import math

import mpmath
import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets.polynomials import Hermite
from kernelfield.nets.quadrature import Tanh
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.singular import Dual, InfinitelyDeep, Power, Sinh, dual_of
from kernelfield.nets.smooth import Cos, Erf, Sin

DUALS: dict[str, tuple[Dual, float]] = {  # with the exponents that the paper gives them
    "d=1": (Power((0, 0.5, 0, 0, 0, 0, 0, 0.5)), 1.0),
    "d=2": (Power((0, 0.5, 0, 0.5)), 2.0),
    "d=4": (Power((0, 0.25, 0.5, 0.25)), 4.0),
    "d=8": (Power((0, 1 / 16, 7 / 8, 1 / 16)), 8.0),
    "sinh, d=2": (Sinh(2.676), 2.0),
    "sinh, d=4": (Sinh(6.13539), 4.0),
    "sinh, d=8": (Sinh(13.8258), 8.0),
    "erf": (dual_of(Erf()), -2 * math.log(0.91360) / math.log(1.22572)),
    "sin": (dual_of(Sin()), -2 * math.log(1 / math.sinh(1)) / math.log(1 / math.tanh(1))),
}


@pytest.mark.parametrize("name", DUALS)
def test_the_kernel_solves_schroeders_equation(name: str) -> None:
    dual, _ = DUALS[name]
    deep, A = InfinitelyDeep(dual), dual.taylor[1]
    d = torch.logspace(-12, -0.31, 40)
    _, log = deep.of_haversine(d / 2)
    _, after = deep.of_haversine(dual.complement(d) / 2)
    assert_close(after, log + math.log(A), rtol=1e-14, atol=1e-14)
    z = torch.linspace(-0.99, 0.99, 41)
    assert_close(deep.koenigs(dual.value(z)), A * deep.koenigs(z), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", DUALS)
def test_the_kernel_is_the_limit_of_deep_networks(name: str) -> None:
    """Against the definition, in many digits."""
    dual, _ = DUALS[name]
    deep = InfinitelyDeep(dual)
    with mpmath.workdps(60):
        for start in (0.9, 0.3, -0.4):
            z, A, L = mpmath.mpf(start), mpmath.mpf(dual.taylor[1]), 0
            while abs(z) > mpmath.mpf(10) ** -18:
                z, L = _exact(dual, z), L + 1
            assert_close(deep.koenigs(torch.tensor(start)).item(), float(z / A**L), rtol=1e-11, atol=0)


def _exact(dual: Dual, z: mpmath.mpf) -> mpmath.mpf:
    if isinstance(dual, Sinh):
        return mpmath.sinh(dual.a * z) / mpmath.sinh(dual.a)
    assert isinstance(dual, Power)
    return mpmath.polyval([mpmath.mpf(c) for c in reversed(dual.coefficients)], z)


@pytest.mark.parametrize("name", DUALS)
def test_the_kernel_has_its_exponent(name: str) -> None:
    dual, alpha = DUALS[name]
    deep = InfinitelyDeep(dual)
    assert abs(deep.exponent - alpha) < 2e-3 * alpha
    d = torch.tensor([1e-14, 1e-14 * dual.end_slope**8])  # whole periods of the bounded factor R
    _, log = deep.of_haversine(d / 2)
    slope = (log[1] - log[0]) / (d.sqrt().log()[1] - d.sqrt().log()[0])
    assert_close(slope.item(), -deep.exponent, rtol=1e-6, atol=0)


def test_duals_of_activations_are_their_closed_forms() -> None:
    z = torch.linspace(-1, 1, 21)
    assert_close(dual_of(Erf()).value(z), torch.asin(2 * z / 3) / math.asin(2 / 3), rtol=1e-12, atol=1e-14)
    assert_close(dual_of(Sin()).value(z), torch.sinh(z) / math.sinh(1), rtol=1e-12, atol=1e-14)
    assert_close(dual_of(Hermite(3)).value(z), z**3, rtol=1e-12, atol=1e-14)
    assert dual_of(Erf()).odd and dual_of(Sin()).odd


@pytest.mark.parametrize("name", DUALS)
def test_complements_do_not_cancel(name: str) -> None:
    dual, _ = DUALS[name]
    d = torch.logspace(-16, -1, 16)
    with mpmath.workdps(40):
        total = _exact(dual, mpmath.mpf(1))
        truth = [float(total - _exact(dual, 1 - mpmath.mpf(v))) for v in d.tolist()]
    assert_close(dual.complement(d), torch.tensor(truth), rtol=1e-13, atol=0)


def test_kernels_of_points_are_those_of_their_cosines() -> None:
    X, Z = torch.randn(5, 3), torch.randn(4, 3)
    deep = InfinitelyDeep(Sinh(2.676))
    cosine = torch.nn.functional.normalize(X) @ torch.nn.functional.normalize(Z).mT
    assert_close(deep.kernel(X, Z), deep.koenigs(cosine), rtol=1e-10, atol=1e-12)
    assert (deep.kernel(X, X).diagonal() == math.inf).all()
    assert (deep.kernel(X, -X).diagonal() == -math.inf).all()


def test_the_classifier_is_the_hilbert_kernel_vote() -> None:
    """Of four arcs with one label in ten wrong; on a quarter circle, where no two points are opposite."""
    generator = torch.Generator().manual_seed(0)

    def sample(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        angle = 0.5 * math.pi * torch.rand(n, generator=generator)
        truth = torch.where(torch.sin(6 * angle) > 0, 1.0, -1.0)
        flip = torch.where(torch.rand(n, generator=generator) < 0.1, -1.0, 1.0)
        return torch.stack([angle.cos(), angle.sin()], -1), truth[:, None], (truth * flip)[:, None]

    X, _, Y = sample(600)
    Z, truth, _ = sample(200)
    deep = InfinitelyDeep(DUALS["d=1"][0])
    assert ((deep.classify(X, Y, Z) > 0) == (truth > 0)).double().mean() > 0.9
    assert_close(deep.classify(X, Y, X[:50]), Y[:50])
    one_hot = torch.cat([Y > 0, Y < 0], -1).double()
    assert (deep.classify(X, one_hot, Z).argmax(-1) == (deep.classify(X, Y, Z) < 0)[:, 0]).double().mean() > 0.99


def test_other_limits_are_named() -> None:
    with pytest.raises(ValueError, match="majority"):
        InfinitelyDeep(dual_of(Cos()))
    with pytest.raises(ValueError, match="nearest neighbour"):
        InfinitelyDeep(dual_of(Hermite(2)))
    with pytest.raises(ValueError, match="linear network"):
        InfinitelyDeep(Power((0.0, 1.0)))
    with pytest.raises(ValueError, match="add up to 1"):
        Power((0.0, 0.5, 0.2))
    with pytest.raises(ValueError, match="needs more than 160 terms"):
        dual_of(Relu())
    assert not dual_of(Tanh(), 0.3).taylor[0]
