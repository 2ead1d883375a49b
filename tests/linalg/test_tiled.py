"""Products by tiles, against the matrix written down."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from kernelfield.linalg import tiled
from kernelfield.linalg.entries import Radial
from kernelfield.linalg.profiles import Matern32

N1, N2, D, K = 75, 61, 3, 2


@pytest.fixture(params=["one tile", "many tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many tiles":
        monkeypatch.setattr(tiled, "ROWS", 16)
        monkeypatch.setattr(tiled, "BYTES", 16 * 24 * 8)


def written(z1: Tensor, z2: Tensor) -> Tensor:
    """Matern-3/2, with a smooth square root where points meet."""
    squares = (z1[:, None] - z2).square().sum(-1)
    u = torch.where(squares > 0, 3 * squares, 1).sqrt() * (squares > 0)
    return (1 + u) * torch.exp(-u)


def points(symmetric: bool, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    z1 = torch.randn(N1, D, dtype=dtype)
    return z1, z1 if symmetric else torch.randn(N2, D, dtype=dtype)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_products_are_those_of_the_matrix(tiles: None, symmetric: bool, dtype: torch.dtype) -> None:
    z1, z2 = points(symmetric, dtype)
    entries = Radial(z1, None if symmetric else z2, Matern32())
    K_, V, U = written(z1.double(), z2.double()), torch.randn(len(z2), K), torch.randn(len(z1), K)
    tolerance = {"rtol": 0, "atol": 1e3 * torch.finfo(dtype).eps}  # of sums of some seventy rounded terms
    assert_close(tiled.multiply(entries, V.to(dtype)).double(), K_ @ V, **tolerance)
    assert_close(tiled.multiply_transposed(entries, U.to(dtype)).double(), K_.mT @ U, **tolerance)
    assert_close(tiled.dense(entries).double(), K_, **tolerance)


@pytest.mark.parametrize("symmetric", [True, False])
def test_slopes_are_those_of_automatic_differentiation(tiles: None, symmetric: bool) -> None:
    z1, z2 = points(symmetric)
    z1.requires_grad_()
    z2.requires_grad_()
    A, B = torch.randn(len(z1), K), torch.randn(len(z2), K)
    entries = Radial(z1, None if symmetric else z2, Matern32())
    leaves = [z1] if symmetric else [z1, z2]
    wanted = torch.autograd.grad((A * (written(z1, z2) @ B)).sum(), leaves)
    assert_close(tiled.slopes(entries, A, B), list(wanted))


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_product_is_differentiable_in_points_and_in_what_it_multiplies(tiles: None, symmetric: bool) -> None:
    z1, z2 = points(symmetric)
    V = torch.randn(len(z2), K, requires_grad=True)
    weights = torch.randn(len(z1), K)
    z1.requires_grad_()
    found = tiled.product(Radial(z1, None if symmetric else z2, Matern32()), V)
    both = [torch.autograd.grad((weights * Y).sum(), [z1, V]) for Y in (found, written(z1, z2) @ V)]
    assert_close(*both)


def test_slopes_that_nobody_asks_for_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    z1, _ = points(True)
    monkeypatch.delattr(tiled, "slopes")
    V = torch.randn(N1, K, requires_grad=True)
    tiled.product(Radial(z1, None, Matern32()), V).sum().backward()
    assert_close(V.grad, written(z1, z1).sum(0)[:, None].expand(-1, K))


class Largest(TorchDispatchMode):
    """The number of entries of the largest array that an operation returned."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.size = max(self.size, result.numel())
        return result


def test_no_array_is_larger_than_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "BYTES", 2**17)
    z = torch.randn(600, D, requires_grad=True)
    V = torch.randn(600, K, requires_grad=True)
    with Largest() as seen:
        tiled.product(Radial(z, None, Matern32()), V).sum().backward()
    square = tiled.ROWS**2  # on the diagonal
    assert seen.size <= max(2**17 * torch.get_num_threads() // 8, square)


def test_the_tiles_of_a_symmetric_matrix_are_its_lower_half_once(tiles: None) -> None:
    z, _ = points(True)
    count = torch.zeros(N1, N1)
    for rows, columns in tiled.tiles(Radial(z, None, Matern32())):
        count[rows, columns] += 1
        if rows != columns:
            count[columns, rows] += 1
    assert (count == 1).all()


@pytest.mark.parametrize(
    ("V", "said"),
    [
        (torch.zeros(N1 + 1, 1), f"multiplies {N1} rows"),
        (torch.zeros(N1), "got an array of shape"),
        (torch.zeros(N1, 1, dtype=torch.float32), "torch.float64 and the array to multiply torch.float32"),
    ],
)
def test_what_does_not_fit_is_refused(V: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiled.multiply(Radial(points(True)[0], None, Matern32()), V)
