import numpy as np
import pytest
import torch
from gpytorch.kernels import PeriodicKernel, RBFKernel, ScaleKernel
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.models.process import Process
from kernelfield.models.sparse import SparseProcess

XS = torch.linspace(-2.5, 2.5, 9)[:, None]


@pytest.fixture
def data():
    X = torch.linspace(-2, 2, 40)[:, None]
    return Data(X, torch.sin(3 * X) + 0.1 * torch.randn(40, 1))


def fit(model, data):
    return model.fit(data, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mean", ["zero", "constant", "linear"])
def test_with_all_inputs_it_is_the_exact_process(data, mean):
    kernel = Matern(1.5)
    exact = fit(Process(kernel, mean=mean, noise=0.02, steps=0), data)
    sparse = fit(SparseProcess(kernel, mean=mean, noise=0.02, steps=0, inducing=40), data)
    # What the inducing values lack is their small noise, 1e-8 of the variance, in 40 rows of noise 0.02.
    assert sparse.log_bound == pytest.approx(exact.log_evidence, abs=40 * 2e-3)
    assert sparse.log_bound <= exact.log_evidence + 1e-9
    assert_close(sparse.posterior(XS).mean, exact.posterior(XS).mean, rtol=0, atol=1e-3)
    assert_close(sparse.posterior(XS).covariance, exact.posterior(XS).covariance, rtol=0, atol=1e-3)


def test_more_inducing_inputs_never_lower_the_bound(data):
    kernel = RBF()
    exact = fit(Process(kernel, noise=0.02, steps=0), data).log_evidence
    bounds = [fit(SparseProcess(kernel, noise=0.02, steps=0, inducing=k), data).log_bound for k in (1, 2, 4, 6, 9)]
    assert (np.diff(bounds) > 0).all()
    assert bounds[-1] <= exact
    assert bounds[-1] == pytest.approx(exact, abs=0.5)


@pytest.mark.parametrize("choice", ["variance", "kmeans"])
@pytest.mark.parametrize("move", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_learning_ends_near_the_exact_process(data, choice, move):
    exact = fit(Process("rbf"), data)
    sparse = fit(SparseProcess("rbf", inducing=15, choice=choice, move=move), data)
    assert sparse.log_bound == pytest.approx(exact.log_evidence, abs=0.05 * 40)
    assert sparse.noise == pytest.approx(exact.noise, rel=0.2)
    assert_close(sparse.posterior(XS[1:-1]).mean, exact.posterior(XS[1:-1]).mean, rtol=0, atol=0.05)


@pytest.mark.slow
def test_moving_inducing_inputs_raises_the_bound(data):
    few = {move: fit(SparseProcess("rbf", inducing=5, move=move), data) for move in (False, True)}
    assert few[True].log_bound > few[False].log_bound + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [lambda: ScaleKernel(RBFKernel()), lambda: Matern() + ScaleKernel(PeriodicKernel())])
def test_any_gpytorch_kernel_can_be_fitted(kernel, data):
    given = kernel()
    fitted = fit(SparseProcess(given, inducing=15, restarts=2), data)
    assert (fitted.posterior(data.X).mean - data.Y).square().mean() < 0.02
    assert all(p.requires_grad for p in given.parameters())


def test_held_parameters_stay_where_they_were_put(data):
    kernel = RBF()
    kernel.lengthscale = 0.6
    kernel.raw_lengthscale.requires_grad_(False)
    fitted = fit(SparseProcess(kernel, noise=0.02, learn_noise=False, inducing=15), data)
    assert fitted.kernel.lengthscale.item() == pytest.approx(0.6)
    assert fitted.noise == 0.02
    assert fitted.kernel.outputscale.item() != pytest.approx(1.0)
    assert fit(SparseProcess(kernel.requires_grad_(False), learn_noise=False, inducing=15), data).searches == ()


@pytest.mark.slow
def test_many_rows_are_learned_from_a_sample_and_then_from_all():
    X = torch.rand(3000, 2)
    data = Data(X, torch.sin(6 * X[:, :1]) * X[:, 1:] + 0.1 * torch.randn(3000, 1))
    fitted = fit(SparseProcess("rbf", inducing=60, restarts=2), data)
    assert fitted.noise == pytest.approx(0.01, rel=0.15)  # three standard errors are 8%
    truth = torch.sin(6 * X[:, :1]) * X[:, 1:]
    assert (fitted.posterior(X).mean - truth).square().mean().sqrt() < 0.03


def test_a_weight_of_two_is_two_rows_of_the_fit():
    X = torch.rand(30, 1)
    Y = torch.sin(6 * X) + 0.1 * torch.randn(30, 1)
    kernel = RBF()
    one = fit(SparseProcess(kernel, steps=0, inducing=9), Data(X, Y, torch.full((30,), 2.0)))
    two = fit(SparseProcess(kernel, steps=0, inducing=9), Data(X.repeat(2, 1), Y.repeat(2, 1)))
    assert_close(one.posterior(X).mean, two.posterior(X).mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("d", [1, 50])
def test_few_rows_many_inputs_and_equal_targets_can_be_fitted(n, d):
    X = torch.randn(n, d)
    for Y in (torch.full((n, 2), 7.0), torch.randn(n, 2)):
        law = fit(SparseProcess(restarts=1, steps=3), Data(X, Y)).posterior(X)
        assert law.mean.isfinite().all()
        assert (law.variance >= 0).all()


def test_the_same_seed_gives_the_same_numbers(data):
    first, second = (fit(SparseProcess(inducing=12, restarts=2, steps=10), data) for _ in range(2))
    assert_close(first.posterior(XS).mean, second.posterior(XS).mean, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (SparseProcess(inducing=0), "inducing must be at least 1, got 0"),
        (SparseProcess(choice="random"), "choice must be 'variance' or 'kmeans', got 'random'"),
        (SparseProcess(noise=0.0), "noise must be a positive variance, got 0"),
        (SparseProcess("cubic"), "kernel must be a GPyTorch kernel or one of .*, got 'cubic'"),
        (SparseProcess(restarts=0), "restarts must be at least 1, got 0"),
    ],
)
def test_a_wrong_choice_is_named_with_its_remedy(model, words, data):
    with pytest.raises(ValueError, match=words):
        fit(model, data)


def test_a_noise_far_below_what_inducing_inputs_leave_is_no_trap():
    """Of 512 rows without noise the exact process learns that there is none; 15 inducing inputs leave a tenth."""
    X = torch.rand(900, 3, generator=torch.Generator().manual_seed(0)) * 4 - 2
    Y = torch.sin(2 * X[:, :1]) + torch.cos(X @ torch.tensor([[1.0], [-0.5], [0.7]]))
    kernel = RBF(ard_num_dims=3)  # without a prior, which would hold the lengthscales
    kernel.lengthscale = 1.0
    model = SparseProcess(kernel, inducing=15, restarts=1, steps=20)
    fitted = model.fit(Data(X, Y), generator=torch.Generator().manual_seed(0))
    assert fitted.noise < 0.1 * Y.var()
