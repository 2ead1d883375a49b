"""The kernel of a finite network in GPyTorch, and its NTK as a linear operator."""

import pickle

import pytest
import torch
from gpytorch.priors import GammaPrior
from linear_operator import settings
from torch import nn
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.empirical import EmpiricalKernel, EmpiricalNTK
from kernelfield.models.process import Process
from kernelfield.nets.empirical import empirical_gram, full_ntk
from tests.laws import obeys_kernel_laws


def network(outputs: int = 1) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, outputs))


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_kernel_obeys_the_laws_and_is_that_of_the_network(kind: str, outputs: int) -> None:
    module, x, y = network(outputs), torch.randn(5, 2), torch.randn(3, 2)
    kernel = EmpiricalKernel(module, kind=kind)
    kernel.outputscale = 1.7
    obeys_kernel_laws(kernel, x, y)
    assert_close(kernel(x, y).to_dense(), 1.7 * empirical_gram(module, x, y, kind=kind))
    assert_close(kernel(x, x.flip(0), diag=True), kernel(x, x.flip(0)).to_dense().diagonal())


def test_a_fit_learns_the_output_scale_and_leaves_the_network_alone() -> None:
    module, X = network(), torch.randn(60, 2)
    kernel = EmpiricalKernel(module)
    assert [name for name, _ in kernel.named_parameters()] == ["raw_outputscale"]
    before = [p.clone() for p in module.parameters()]
    f = 10 * torch.linalg.cholesky(kernel(X).to_dense().detach() + 1e-6 * torch.eye(60)) @ torch.randn(60, 1)
    fitted = Process(kernel, mean="zero", noise=0.01).fit(Data(X, f), generator=torch.Generator().manual_seed(0))
    assert 30 < fitted.kernel.outputscale.item() < 300
    assert all(p.grad is None and torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))


def test_the_kernel_has_slopes_in_the_inputs() -> None:
    kernel = EmpiricalKernel(network(2))
    x = torch.randn(3, 2, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: kernel(x).to_dense(), x)
    assert torch.autograd.gradcheck(lambda x: kernel(x, torch.ones(2, 2)).to_dense(), x)


def test_scales_and_inputs_broadcast_over_batches() -> None:
    module, x = network(), torch.randn(4, 5, 2)
    kernel = EmpiricalKernel(module, batch_shape=torch.Size([4]))
    kernel.outputscale = torch.tensor([1.0, 2.0, 3.0, 4.0])
    alone = EmpiricalKernel(module)
    for i, K in enumerate(kernel(x).to_dense()):
        assert_close(K, (i + 1) * alone(x[i]).to_dense())
    assert_close(kernel(x, diag=True), kernel(x).to_dense().diagonal(dim1=-2, dim2=-1))


def test_points_are_unfolded_for_networks_on_images() -> None:
    module = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 1))
    x = torch.randn(4, 6)
    K = EmpiricalKernel(module, shape=(2, 3))(x).to_dense()
    assert_close(K, empirical_gram(module, x.reshape(4, 2, 3), kind="ntk"))


def test_a_kernel_with_a_prior_is_pickled_with_its_network() -> None:
    kernel, x = EmpiricalKernel(network(), outputscale_prior=GammaPrior(2.0, 1.0)), torch.randn(4, 2)
    assert_close(pickle.loads(pickle.dumps(kernel))(x).to_dense(), kernel(x).to_dense())


def test_bad_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="got 'cnn'"):
        EmpiricalKernel(network(), kind="cnn")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="outputscale must be positive"):
        EmpiricalKernel(network()).outputscale = -1.0


def test_the_operator_is_the_ntk_in_point_major_order() -> None:
    module, x, y = network(3), torch.randn(5, 2), torch.randn(4, 2)
    for operator, T in (
        (EmpiricalNTK(x, module=module), full_ntk(module, x)),
        (EmpiricalNTK(x, y, module=module), full_ntk(module, x, y)),
    ):
        dense = T.permute(0, 2, 1, 3).reshape(operator.shape)
        assert dense[1 * 3 + 2, 2 * 3 + 0] == T[1, 2, 2, 0]
        assert_close(operator.to_dense(), dense)
        v = torch.randn(operator.shape[1], 2)
        assert_close(operator @ v, dense @ v)
        assert_close(operator @ v[:, 0], dense @ v[:, 0])
        assert_close(operator.mT @ torch.eye(len(dense)), dense.mT)
        assert_close(operator[2:7, 1:5].to_dense(), dense[2:7, 1:5])
        assert_close(operator[[0, 4, 2], [5, 1, 1]], dense[[0, 4, 2], [5, 1, 1]])
        assert_close(operator[3], dense[3])
    square = EmpiricalNTK(x, module=module)
    assert_close(square.diagonal(), square.to_dense().diagonal())


def test_conjugate_gradients_solve_with_the_operator() -> None:
    module, x, b = network(2), torch.randn(6, 2), torch.randn(12)
    operator = EmpiricalNTK(x, module=module).add_diagonal(torch.tensor(1.0))
    with settings.max_cholesky_size(1), settings.cg_tolerance(1e-4):
        solved = operator.solve(b)
    assert (operator.to_dense() @ solved - b).norm() < 1e-3 * b.norm()
