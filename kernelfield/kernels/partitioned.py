"""The matrix of a kernel, its rows shared out among ranks."""

from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.kernels.products import Tiled, kernel_product
from kernelfield.linalg.partition import Partition, partition
from kernelfield.linalg.ranks import Ranks, here


def partitioned(kernel: Kernel, X: Tensor, *, ranks: Ranks | None = None, products: int = 100) -> Partition:
    """The matrix of a kernel at X (n, d), of which each rank multiplies its rows.

    ranks : None takes those that this process has joined. products : how many are expected.

    Errors: ValueError for more ranks than rows, and those of `kernel_product`.

    >>> import torch
    >>> from kernelfield.kernels.stationary import Matern
    >>> X = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    >>> K = partitioned(Matern(2.5).double(), X)
    >>> K(X).shape, K.method
    (torch.Size([5, 1]), 'distributed')
    """
    local = kernel_product(kernel, X, method="tiled")
    assert isinstance(local, Tiled)
    return partition(local, X, here() if ranks is None else ranks, products=products)
