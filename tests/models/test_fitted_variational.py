import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.stationary import RBF
from kernelfield.models.evidence import Trend
from kernelfield.models.fitted_variational import FittedVariationalProcess
from kernelfield.models.likelihoods import Bernoulli, Gaussian, Poisson, StudentT
from kernelfield.models.natural_gradient import Coefficients
from kernelfield.models.sparse import InducingInputs

X = torch.linspace(-1, 1, 5)[:, None]


def fitted(likelihood, matrices):
    A = torch.randn(matrices, 5, 5)
    law = Coefficients.of(torch.randn(5, 2), A @ A.mT + torch.eye(5), 4)
    basis = InducingInputs(RBF().requires_grad_(False), torch.linspace(-1, 1, 4)[:, None])
    return FittedVariationalProcess(basis, likelihood, Trend.of("constant", X), torch.tensor([1.0, -1.0]), law, 0.0)


@pytest.mark.parametrize(("likelihood", "matrices"), [(Gaussian(0.2), 1), (Poisson(), 2)])
def test_the_law_is_that_of_dense_algebra(likelihood, matrices):
    process = fitted(likelihood, matrices)
    law, f = process.coefficients, process.posterior(X)
    K = process.kernel(process.basis.Z).to_dense()
    phi = torch.linalg.solve(torch.linalg.cholesky(K), process.kernel(process.basis.Z, X).to_dense())
    psi = torch.cat([phi, process.trend(X).mT])
    for j in range(2):
        inverse = torch.linalg.inv(law.precision[min(j, matrices - 1)])
        expect = process.kernel(X).to_dense() - phi.mT @ phi + psi.mT @ inverse @ psi
        assert_close(f.covariance[j::2, j::2], expect, rtol=1e-7, atol=1e-8)
        assert_close(f.mean[:, j], process.centre[j] + psi.mT @ law.mean[:, j], rtol=1e-7, atol=1e-8)


def test_the_law_of_y_has_the_noise_of_its_likelihood():
    for likelihood, extra in ((Gaussian(0.2), 0.2), (StudentT(0.2, 4.0), 0.4)):
        process = fitted(likelihood, 1)
        assert_close(process.posterior(X, noise=True).variance, process.posterior(X).variance + extra)


def test_more_rows_need_a_new_fit():
    with pytest.raises(NotImplementedError, match="likelihood Bernoulli has no closed form given more rows; refit"):
        fitted(Bernoulli(), 2).condition(Data(X, torch.zeros(5, 2)))
