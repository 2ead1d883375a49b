"""Products with matrices of kernels, against the dense matrix that GPyTorch makes of them."""

from collections.abc import Callable
from importlib.util import find_spec
from shutil import which

import gpytorch
import pytest
import torch
from gpytorch.kernels import Kernel, LinearKernel, MaternKernel, PeriodicKernel, RBFKernel, RQKernel, ScaleKernel
from torch import Tensor
from torch.testing import assert_close

from kernelfield.kernels.entries import Called, entries
from kernelfield.kernels.grid import GridKernel
from kernelfield.kernels.matern import GeneralMatern
from kernelfield.kernels.network import NetworkKernel
from kernelfield.kernels.products import kernel_matmul, kernel_product
from kernelfield.kernels.spectral import SpectralMixture, SpectralProduct
from kernelfield.kernels.stationary import RBF, Matern, RationalQuadratic
from kernelfield.linalg import tiled
from kernelfield.nets.algebra import Layer
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import LeakyRelu, Relu
from kernelfield.nets.smooth import Erf

N, D, K = 70, 3, 2


@pytest.fixture(autouse=True)
def many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "ROWS", 16)
    monkeypatch.setattr(tiled, "BYTES", 16 * 24 * 8)
    monkeypatch.setattr(tiled, "COARSE", 2)


def spectrum(made: SpectralMixture | SpectralProduct) -> Kernel:
    made.frequencies, made.lengthscales = torch.rand(2, D) - 0.5, torch.rand(2, D) + 0.5
    return made


def stack(activation: Layer, b: float | None) -> Layer:
    weights = (0.9, 1.2, 0.8)
    return Dense(weights, b) >> activation >> Dense(1.3, b) >> activation >> Dense(1.1)


FUSED: dict[str, Callable[[], Kernel]] = {
    "rbf": lambda: RBF(ard_num_dims=D),
    "matern12": lambda: Matern(0.5),
    "matern32": lambda: Matern(1.5),
    "matern52": lambda: Matern(2.5, ard_num_dims=D),
    "rq": RationalQuadratic,
    "any smoothness": lambda: GeneralMatern(1.3),
    "of gpytorch": lambda: ScaleKernel(RBFKernel() + MaternKernel(1.5) * MaternKernel(0.5) + RQKernel()),
    "columns": lambda: RBF(active_dims=[1]) * Matern(active_dims=[0, 2]) + ScaleKernel(RBFKernel(active_dims=[2])),
    "columns of a scaled kernel": lambda: ScaleKernel(RBFKernel(), active_dims=torch.tensor([0, 2])),
    "axes": lambda: GridKernel([RBF(), Matern(0.5), RationalQuadratic()]),
    "spectral": lambda: spectrum(SpectralMixture(2, dims=D)),
    "student": lambda: spectrum(SpectralMixture(2, dims=D, density="student_t", nu=1.5)),
    "spectral product": lambda: spectrum(SpectralProduct(2, dims=D)),
    "nngp": lambda: NetworkKernel(stack(Relu(), None), "nngp"),
    "ntk": lambda: NetworkKernel(stack(LeakyRelu(0.2), None), "ntk"),
    "ntk with biases": lambda: NetworkKernel(stack(Relu(), 0.4), "ntk"),
    "network plus rbf": lambda: NetworkKernel(stack(Relu(), 0.4)) + RBF(),
}
CALLED: dict[str, Callable[[], Kernel]] = {
    "linear": LinearKernel,
    "periodic": lambda: PeriodicKernel(ard_num_dims=D),
    "erf": lambda: NetworkKernel(stack(Erf(), 0.4)),
    "columns of a called kernel": lambda: PeriodicKernel(active_dims=(2, 0), ard_num_dims=2),
    "student of smoothness 7/2": lambda: spectrum(SpectralMixture(2, dims=D, density="student_t", nu=3.5)),
}


def moved(make: Callable[[], Kernel]) -> Kernel:
    """A kernel with parameters of no special values."""
    kernel = make()
    for parameter in kernel.parameters():
        parameter.data += 0.1 * torch.rand_like(parameter)
    return kernel


def dense(kernel: Kernel, x1: Tensor, x2: Tensor) -> Tensor:
    """A sum is taken apart, as GPyTorch would add a jitter of its own to a dense summand."""
    if isinstance(kernel, gpytorch.kernels.AdditiveKernel):
        return torch.stack([dense(part, x1, x2) for part in kernel.kernels]).sum(0)
    return kernel(x1, x2).to_dense()


every = pytest.mark.parametrize("make", [*FUSED.values(), *CALLED.values()], ids=[*FUSED, *CALLED])


@every
def test_products_rows_and_slopes_are_those_of_the_matrix(make: Callable[[], Kernel]) -> None:
    agree(moved(make), "tiled")


@pytest.mark.parametrize("name", ["of gpytorch", "ntk", "periodic"])
def test_a_stored_matrix_has_the_same_products_rows_and_slopes(name: str) -> None:
    agree(moved({**FUSED, **CALLED}[name]), "stored")


def agree(kernel: Kernel, method: str) -> None:
    X, Z = torch.randn(N, D), torch.randn(20, D)
    A, B, C = torch.randn(N, K), torch.randn(N, K), torch.randn(20, K)
    matrix, cross = dense(kernel, X, X), dense(kernel, Z, X)
    product = kernel_product(kernel, X, method=method)
    assert product.method == method
    close = {"rtol": 1e-8, "atol": 1e-10}  # sums of terms that cancel
    assert_close(product(B), (matrix @ B).detach(), **close)
    assert_close(product.cross(Z, B), (cross @ B).detach(), **close)
    index = torch.tensor([3, 69, 0])
    assert_close(product.rows(index), matrix[index].detach(), **close)
    assert_close(product.diagonal, matrix.diagonal().detach(), rtol=1e-12, atol=0)
    assert torch.equal(product.rows(index)[range(3), index], product.diagonal[index])
    parameters = [p for p in kernel.parameters() if p.requires_grad]
    for found, wanted in (
        (product.pull(A, B), (A * (matrix @ B)).sum()),
        (product.pull_cross(Z, C, B), (C * (cross @ B)).sum()),
    ):
        slopes = torch.autograd.grad(wanted, parameters, allow_unused=True, materialize_grads=True)
        assert_close(found, list(slopes), rtol=1e-7, atol=1e-8)


@every
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_product_is_differentiable_in_everything(make: Callable[[], Kernel], symmetric: bool) -> None:
    kernel, X1 = moved(make), torch.randn(N, D, requires_grad=True)
    X2 = X1 if symmetric else torch.randn(40, D, requires_grad=True)
    V, weights = torch.randn(len(X2), K, requires_grad=True), torch.randn(N, K)
    leaves = [X1, V, *([] if symmetric else [X2]), *(p for p in kernel.parameters() if p.requires_grad)]
    results = kernel_matmul(kernel, X1, None if symmetric else X2, V), dense(kernel, X1, X2) @ V
    found, wanted = (
        torch.autograd.grad((weights * result).sum(), leaves, allow_unused=True, materialize_grads=True)
        for result in results
    )
    assert_close(found, wanted, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_kernels_are_taken_apart_and_not_called(make: Callable[[], Kernel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Called, "__init__", lambda *arguments: pytest.fail("a kernel is called"))
    entries(make(), torch.randn(4, D))


@pytest.mark.parametrize("make", CALLED.values(), ids=CALLED)
def test_other_kernels_are_called(make: Callable[[], Kernel]) -> None:
    assert isinstance(entries(make(), torch.randn(4, D)), Called)


@pytest.mark.parametrize("name", ["rbf", "matern52", "spectral", "ntk with biases", "periodic"])
def test_single_precision_stays_single_and_near(name: str) -> None:
    kernel, X, V = moved({**FUSED, **CALLED}[name]), torch.randn(N, D), torch.randn(N, K)
    exact = kernel_product(kernel, X, method="tiled")(V)
    found = kernel_product(kernel.float(), X.float(), method="tiled")(V.float())
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()  # a hundred rounding errors


def test_a_product_is_of_the_kernel_as_it_was() -> None:
    kernel, X, V = RBF(), torch.randn(N, D), torch.randn(N, 1)
    products = [kernel_product(kernel, X, method=method) for method in ("tiled", "stored")]
    before = [(product(V), product.pull(V, V)) for product in products]
    kernel.lengthscale = 3.0
    assert_close([(product(V), product.pull(V, V)) for product in products], before, rtol=0, atol=0)
    assert not torch.allclose(kernel_product(kernel, X)(V), before[0][0])


def test_parameters_that_are_held_have_no_slope() -> None:
    kernel = RBF() * Matern()
    kernel.kernels[0].raw_lengthscale.requires_grad_(False)
    X, V = torch.randn(N, D), torch.randn(N, 1)
    slopes = kernel_product(kernel, X).pull(V, V)
    names = [name for name, p in kernel.named_parameters() if p.requires_grad]
    assert len(slopes) == len(names) == 3
    for parameter in kernel.parameters():
        parameter.requires_grad_(False)
    assert kernel_product(kernel, X).pull(V, V) == []


def test_the_choice_follows_the_price_of_the_kernel() -> None:
    """Of few products, those with an RBF do not pay for the matrix, and those with a deep network do."""
    X = torch.randn(N, D)
    cheap, dear = (kernel_product(FUSED[name](), X, products=8) for name in ("rbf", "ntk"))
    assert (cheap.method, dear.method) == ("tiled", "stored")
    assert kernel_product(FUSED["ntk"](), X, memory=100).method == "tiled"


def test_batches_and_other_mistakes_are_refused() -> None:
    X = torch.randn(N, D)
    with pytest.raises(ValueError, match="a batch of shape"):
        kernel_product(RBF(batch_shape=torch.Size([2])), X)
    with pytest.raises(ValueError, match=r"points \(n, d\)"):
        kernel_product(RBF(), X[None])
    with pytest.raises(ValueError, match="for 2 inputs and got 3"):
        kernel_product(SpectralMixture(1, dims=2), X)
    with pytest.raises(ValueError, match="'tiled' or 'keops', got 'stored'"):
        kernel_matmul(RBF(), X, None, X, method="stored")
    for X1, X2 in ((X[None], None), (X, X[None])):
        with pytest.raises(ValueError, match=r"points \(n, d\)"):
            kernel_matmul(RBF(), X1, X2, X)
    with pytest.raises(ValueError, match="X1 has 3 columns and X2 2"):
        kernel_matmul(RBF(), X, X[:, :2], X)
    for method in ("tiled", "stored"):
        for V, said in ((X[:4], "multiplies 70 rows"), (X[:, 0], "multiplies 70 rows"), (X.float(), "convert one")):
            with pytest.raises(ValueError, match=said):
                kernel_product(RBF(), X, method=method)(V)
    with pytest.raises(MemoryError, match="method='tiled'"):
        kernel_product(RBF(), X, method="stored", memory=1000)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pykeops") is None or which("c++") is None, reason="needs pykeops and a C++ compiler")
@pytest.mark.parametrize("name", ["spectral", "ntk", "nngp"])
def test_keops_gives_the_same_products_and_slopes(name: str) -> None:
    kernel, X = moved(FUSED[name]), torch.randn(N, D)
    A, B = torch.randn(N, K), torch.randn(N, K)
    lazy, ours = (kernel_product(kernel, X, method=method) for method in ("keops", "tiled"))
    assert_close(lazy(B), ours(B))
    assert_close(lazy.cross(X[:5], B), ours.cross(X[:5], B))
    assert_close(lazy.pull(A, B), ours.pull(A, B), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "said"), [("erf", "no formula in KeOps"), ("ntk with biases", "biases")])
def test_kernels_that_keops_has_no_formula_for_are_refused(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kernel_product({**FUSED, **CALLED}[name](), torch.randn(N, D), method="keops")
