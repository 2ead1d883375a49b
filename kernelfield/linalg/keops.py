"""Products with kernel matrices by KeOps, which compiles a formula into one loop over all pairs.

A sum or a product of kernels is one formula. Each formula, precision and number of columns is compiled on first use,
in seconds to a minute, and kept in a folder of the user's. On a CPU tiles are several times faster, so there this is
for those who ask for it. KeOps has no error function, which networks of erf need, and no tanh.

Source: Charlier et al. (2021), "Kernel Operations on the GPU, with Autodiff, without Memory Overflows".
"""

import os

from torch import Tensor

from kernelfield.linalg.tiled import Entries, Lazy

os.environ.setdefault("KEOPS_VERBOSE", "0")  # else it writes to the standard output as soon as it is imported

try:
    import pykeops
    from pykeops.torch import LazyTensor
except ImportError as error:
    raise ImportError("products by KeOps need pykeops and a C++ compiler; pip install 'kernelfield[keops]'") from error

pykeops.set_verbose(False)


def product(entries: Entries, V: Tensor) -> Tensor:
    """K V (n1, k) for V (n2, k), differentiable in V and in the entries' roots.

    Errors: NotImplementedError for entries without a formula, saying why.
    """
    if entries.obstacle is not None:
        raise NotImplementedError(entries.obstacle)
    return entries.formula(LAZY) @ V.contiguous()


def _rows(t: Tensor) -> LazyTensor:
    return LazyTensor(t.contiguous()[:, None, :])


def _columns(t: Tensor) -> LazyTensor:
    return LazyTensor(t.contiguous()[None, :, :])


LAZY = Lazy(_rows, _columns, LazyTensor)
