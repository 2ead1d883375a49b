"""The Matern kernel of any smoothness against closed forms, Bessel functions, limits and differences."""

import math
import pickle

import mpmath
import pytest
import torch
from gpytorch.constraints import Interval
from gpytorch.priors import GammaPrior
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.special import log_bessel_k
from kernelfield.kernels.matern import GammaMixture, GeneralMatern
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.models.process import Process
from tests.laws import obeys_kernel_laws

ORIGIN = torch.zeros(1, 1)
R = torch.cat([torch.zeros(1), torch.logspace(-7, 2, 300)])[:, None]


def profile(kernel, r=R):
    return kernel(r, ORIGIN).to_dense()[:, 0]


@pytest.mark.parametrize("nu", [0.05, 0.5, 1.0, 2.2, 60.0])
def test_laws(nu):
    kernel = GeneralMatern(nu, ard_num_dims=3)
    kernel.lengthscale = torch.tensor([0.5, 1.0, 2.0])
    obeys_kernel_laws(kernel, torch.randn(6, 3), torch.randn(4, 3))


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_closed_forms_to_thirteen_digits(nu):
    assert_close(profile(GeneralMatern(nu)), profile(Matern(nu)), rtol=0, atol=1e-14)
    x, y = torch.randn(7, 3), torch.randn(5, 3)
    ours, theirs = GeneralMatern(nu, ard_num_dims=3), Matern(nu, ard_num_dims=3)
    for kernel in (ours, theirs):
        kernel.lengthscale, kernel.outputscale = torch.tensor([0.5, 1.0, 2.0]), 1.7
    assert_close(ours(x, y).to_dense(), theirs(x, y).to_dense(), rtol=0, atol=1e-13)
    assert_close(ours(x).to_dense(), theirs(x).to_dense(), rtol=0, atol=1e-13)
    weights = torch.randn(7, 7)
    slopes = [
        torch.autograd.grad((kernel(z).to_dense() * weights).sum(), (z, kernel.raw_lengthscale, kernel.raw_outputscale))
        for kernel in (ours, theirs)
        for z in [x.clone().requires_grad_()]
    ]
    for one, other in zip(*slopes, strict=True):
        assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nu", [0.05, 0.3, 1.0, 3.7, 25.0])
def test_other_orders_are_bessel_functions(nu):
    u = math.sqrt(2 * nu) * R[1:, 0]
    direct = (1 - nu) * math.log(2) - math.lgamma(nu) + nu * u.log() + log_bessel_k(nu, u)
    # The direct form cancels terms of the size of lgamma(nu), at most 54.
    assert_close(profile(GeneralMatern(nu))[1:], direct.exp(), rtol=0, atol=2e-13)


@pytest.mark.parametrize(("nu", "r"), [(0.3, 1e-3), (0.9, 0.7), (7.7, 1.2), (400.0, 0.8)])
def test_values_are_those_of_mpmath(nu, r):
    with mpmath.workdps(40):
        order, u = mpmath.mpf(nu), mpmath.sqrt(2 * mpmath.mpf(nu)) * mpmath.mpf(r)
        exact = float(2 ** (1 - order) / mpmath.gamma(order) * u**order * mpmath.besselk(order, u))
    assert profile(GeneralMatern(nu), torch.tensor([[r]])).item() == pytest.approx(exact, abs=1e-14)


def test_a_large_order_is_nearly_the_rbf_and_converges_like_its_inverse():
    gaps = [(profile(GeneralMatern(nu)) - profile(RBF())).abs().max().item() for nu in (100.0, 1000.0)]
    assert gaps[1] < 1e-3
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize("nu", [0.4, 1.0, 2.2, 30.0])
def test_derivatives_are_those_of_differences(nu):
    x, y = torch.randn(4, 2), torch.randn(3, 2)
    kernel = GeneralMatern(ard_num_dims=2)

    def matrix(x, y, log_nu, log_lengthscale):
        values = {"raw_nu": log_nu, "raw_lengthscale": log_lengthscale}
        crossed = torch.func.functional_call(_Dense(kernel), {f"kernel.{k}": v for k, v in values.items()}, (x, y))
        square = torch.func.functional_call(_Dense(kernel), {f"kernel.{k}": v for k, v in values.items()}, (x, x))
        return crossed, square

    inputs = (x, y, torch.tensor(nu).log(), torch.tensor([[0.2, -0.3]]))
    assert torch.autograd.gradcheck(matrix, [t.clone().requires_grad_() for t in inputs])


class _Dense(torch.nn.Module):
    def __init__(self, kernel):
        super().__init__()
        self.kernel = kernel

    def forward(self, x, y):
        return self.kernel(x, y).to_dense()


def test_at_coincident_points_the_value_is_one_and_all_slopes_are_finite():
    x = torch.tensor([[0.3], [0.3], [1.0]], requires_grad=True)
    for nu in (0.1, 0.5, 1.0, 2.5):
        kernel = GeneralMatern(nu)
        K = kernel(x, x.detach()).to_dense()
        assert_close(K.diagonal(), torch.ones(3), rtol=0, atol=0)
        assert K[0, 1] == 1
        slopes = torch.autograd.grad(K[:2, :2].sum(), (x, *kernel.parameters()))
        assert_close(slopes[0], torch.zeros(3, 1), rtol=0, atol=0)
        assert all(slope.isfinite().all() for slope in slopes)


def test_batches_of_orders_are_their_members():
    x, y, nu = torch.randn(2, 5, 3), torch.randn(2, 4, 3), torch.tensor([0.6, 3.3])
    batched = GeneralMatern(nu, batch_shape=torch.Size([2]))
    K, C = batched(x).to_dense(), batched(x, y).to_dense()
    slopes = torch.autograd.grad(C.sum(), batched.raw_nu)[0]
    for b in range(2):
        alone = GeneralMatern(nu[b])
        assert_close(K[b], alone(x[b]).to_dense(), rtol=1e-13, atol=1e-13)
        member = alone(x[b], y[b]).to_dense()
        assert_close(C[b], member, rtol=1e-13, atol=1e-13)
        assert_close(slopes[b], torch.autograd.grad(member.sum(), alone.raw_nu)[0], rtol=1e-11, atol=1e-12)
    assert_close(
        batched(x, y, diag=False).to_dense()[:, :4, :4].diagonal(dim1=-2, dim2=-1), batched(x[:, :4], y, diag=True)
    )


def test_a_fit_learns_the_smoothness_the_data_were_drawn_with():
    X = torch.linspace(0, 20, 220)[:, None]
    found = []
    for nu in (0.5, 2.5):
        factor = torch.linalg.cholesky(Matern(nu)(X).to_dense().detach() + 1e-10 * torch.eye(220))
        data = Data(X, factor @ torch.randn(220, 3, generator=torch.Generator().manual_seed(1)))
        model = Process(GeneralMatern(1.2), mean="zero", noise=1e-4, learn_noise=False, restarts=1)
        fitted = model.fit(data, generator=torch.Generator().manual_seed(0))
        wrong = Process(Matern(1.5), mean="zero", noise=1e-4, learn_noise=False, restarts=1)
        assert fitted.log_evidence > wrong.fit(data, generator=torch.Generator().manual_seed(0)).log_evidence
        found.append(fitted.hyperparameters()["nu"])
    assert 0.35 < found[0] < 0.7
    assert 1.8 < found[1] < 3.5


def test_a_held_order_stays_and_the_fit_is_that_of_the_closed_form():
    X = torch.linspace(0, 3, 25)[:, None]
    data = Data(X, torch.sin(3 * X))
    fits = [
        Process(kernel, restarts=1).fit(data, generator=torch.Generator().manual_seed(0))
        for kernel in (GeneralMatern(1.5, learn_nu=False), Matern(1.5))
    ]
    assert fits[0].hyperparameters()["nu"] == pytest.approx(1.5, rel=1e-14)
    assert fits[0].log_evidence == pytest.approx(fits[1].log_evidence, rel=1e-5)


def test_the_order_may_be_bounded_and_have_a_prior():
    kernel = GeneralMatern(0.7, nu_constraint=Interval(0.1, 3.0), nu_prior=GammaPrior(2.0, 1.0))
    assert kernel.nu.item() == pytest.approx(0.7)
    X = torch.linspace(0, 3, 15)[:, None]
    fitted = Process(kernel, restarts=1).fit(Data(X, torch.sin(2 * X)), generator=torch.Generator().manual_seed(0))
    assert 0.1 < fitted.hyperparameters()["nu"] < 3.0
    copy = pickle.loads(pickle.dumps(kernel))
    assert_close(copy(X).to_dense(), kernel(X).to_dense(), rtol=0, atol=0)


@pytest.mark.parametrize("nu", [0.0, -1.0, math.inf])
def test_an_order_that_is_none_is_refused_with_its_value(nu):
    with pytest.raises(ValueError, match=f"nu must be positive and finite, got {nu:g}"):
        GeneralMatern(nu)


def test_the_weights_of_the_mixture_do_not_depend_on_the_other_pairs():
    a = torch.tensor([[1e-14, 0.5, 3.0]])
    K, S = torch.empty(2, 1, 3)
    GammaMixture().tile(a, torch.tensor(0.0), K, S, torch.tensor(0.6))
    alone, slope = torch.empty(2, 1, 1)
    GammaMixture().tile(a[:, 1:2], torch.tensor(0.0), alone, slope, torch.tensor(0.6))
    assert_close(K[:, 1:2], alone, rtol=1e-14, atol=0)
    assert_close(S[:, 1:2], slope, rtol=1e-14, atol=0)
