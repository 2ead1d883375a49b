"""Products with the matrix of a kernel, any of GPyTorch's, that is stored only where that pays.

>>> from kernelfield.kernels.stationary import RBF
>>> K = kernel_product(RBF(), torch.linspace(0, 1, 200)[:, None], products=1)
>>> K.method, K(torch.ones(200, 2)).shape, K.diagonal.sum().item()
('tiled', torch.Size([200, 2]), 200.0)
"""

import copy
from abc import ABC, abstractmethod
from functools import cached_property
from importlib import import_module
from types import ModuleType

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.kernels.entries import entries
from kernelfield.linalg import tiled
from kernelfield.linalg.choose import Choice, choose
from kernelfield.linalg.product import KernelProduct
from kernelfield.linalg.thin import thin
from kernelfield.linalg.tiled import Entries


def kernel_product(
    kernel: Kernel, X: Tensor, *, method: str = "auto", products: int = 100, memory: int | None = None
) -> KernelProduct:
    """The matrix of a kernel, as it is now, at X (n, d), by its products.

    method : "auto", "stored", "tiled" or "keops"; see `linalg.choose`. products : how many are expected.
    memory : bytes that may be taken for free, if not those that the device reports.

    Errors: those of `choose`; ValueError for a batch of kernels or of points.
    """
    _require_points(X)
    held = copy.deepcopy(kernel)
    points = X.detach()
    with torch.no_grad():
        held(points[:1]).to_dense()  # a kernel knows best what is wrong with its inputs
    with torch.enable_grad():
        own = entries(held, points)
    choice = choose(
        len(X),
        passes=own.passes,
        products=products,
        dtype=own.roots[0].dtype,
        device=X.device,
        obstacle=own.obstacle,
        memory=memory,
        method=method,
    )
    return BY_METHOD[choice.method](held, points, own, choice)


def kernel_matmul(kernel: Kernel, X1: Tensor, X2: Tensor | None, V: Tensor, *, method: str = "tiled") -> Tensor:
    """K(X1, X2) V (n1, k) for V (n2, k), differentiable once in the points, in V and in the kernel's parameters.

    X2 : None for X1 with itself, of which half the work is done. method : "tiled" or "keops". Memory is that of the
    arrays named, and of a few tiles.

    Errors: ValueError for a batch of kernels or of points, for other methods, and for arrays that do not fit.

    >>> from kernelfield.kernels.stationary import RBF
    >>> X = torch.zeros(1, 1, requires_grad=True)
    >>> kernel_matmul(RBF(), X, torch.ones(1, 1), torch.ones(1, 1)).sum().backward()
    >>> round(X.grad.item(), 4)  # exp(-1/2)
    0.6065
    """
    if method not in ("tiled", "keops"):
        raise ValueError(f"method must be 'tiled' or 'keops', got {method!r}")
    _require_points(X1)
    if X2 is not None:
        _require_points(X2)
        if X1.shape[1] != X2.shape[1]:
            raise ValueError(f"X1 has {X1.shape[1]} columns and X2 {X2.shape[1]}; give points of the same inputs")
    own = entries(kernel, X1, X2)
    choose(len(X1), passes=own.passes, obstacle=own.obstacle, method=method)
    return (tiled if method == "tiled" else _keops()).product(own, V)


def _require_points(X: Tensor) -> None:
    if X.ndim != 2:
        raise ValueError(f"products are with the matrix of points (n, d), got an array of shape {tuple(X.shape)}")


class Products(ABC):
    """A `KernelProduct`; what all methods share."""

    def __init__(self, kernel: Kernel, X: Tensor, own: Entries, choice: Choice) -> None:
        self.kernel, self.X, self.entries = kernel, X, own
        self.method, self.reason = choice.method, choice.reason
        self.parameters = [p for p in kernel.parameters() if p.requires_grad]

    @abstractmethod
    def __call__(self, V: Tensor) -> Tensor:
        """K V (n, k)."""

    def rows(self, index: Tensor) -> Tensor:
        with torch.no_grad():
            K = tiled.dense(entries(self.kernel, self.X[index], self.X))
        K[torch.arange(len(index), device=K.device), index] = self.diagonal[index]
        return K

    @cached_property
    def diagonal(self) -> Tensor:
        with torch.no_grad():
            return self.entries.diagonal()

    def cross(self, X: Tensor, V: Tensor) -> Tensor:
        with torch.no_grad():
            return tiled.multiply(entries(self.kernel, X, self.X), V)

    def pull(self, A: Tensor, B: Tensor) -> list[Tensor]:
        return self._by_roots(self.entries, A, B)

    def pull_cross(self, X: Tensor, A: Tensor, B: Tensor) -> list[Tensor]:
        """The gradient of sum(A o (K(X, points) B)), A (q, k) and B (n, k), in the order of `pull`."""
        with torch.enable_grad():
            own = entries(self.kernel, X.detach(), self.X)
        return self._by_roots(own, A, B)

    def _by_roots(self, own: Entries, A: Tensor, B: Tensor) -> list[Tensor]:
        found = zip(own.roots, tiled.slopes(own, A, B), strict=True)
        return self._by_parameters([(root, slope) for root, slope in found if root.requires_grad])

    def _by_parameters(self, outputs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """What slopes in some outputs are worth in the parameters."""
        if not outputs or not self.parameters:
            return [torch.zeros_like(p) for p in self.parameters]
        roots, slopes = zip(*outputs, strict=True)
        return list(
            torch.autograd.grad(
                roots, self.parameters, slopes, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        )


class Tiled(Products):
    """Entries are computed for each product."""

    def __call__(self, V: Tensor) -> Tensor:
        return tiled.multiply(self.entries, V)


class Stored(Products):
    """The matrix is kept."""

    @cached_property
    def matrix(self) -> Tensor:
        """K (n, n)."""
        return tiled.dense(self.entries)

    def __call__(self, V: Tensor) -> Tensor:
        tiled.require_alike(self.entries, V, len(self.X))
        return thin(self.matrix, V)

    def rows(self, index: Tensor) -> Tensor:
        return self.matrix[index]


class Compiled(Products):
    """One loop over all pairs, compiled by KeOps."""

    def __call__(self, V: Tensor) -> Tensor:
        with torch.no_grad():
            return _keops().product(self.entries, V)

    def cross(self, X: Tensor, V: Tensor) -> Tensor:
        with torch.no_grad():
            return _keops().product(entries(self.kernel, X, self.X), V)

    def pull(self, A: Tensor, B: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            return self._by_parameters([(_keops().product(self.entries, B), A)])


BY_METHOD: dict[str, type[Products]] = {"tiled": Tiled, "stored": Stored, "keops": Compiled}


def _keops() -> ModuleType:
    return import_module("kernelfield.linalg.keops")
