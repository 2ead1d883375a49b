"""Scale mixtures of Gaussian processes as kernels, for models that know kernels alone.

A function f = sqrt(s) g, with g of a Gaussian process with the kernel K and s of a mixing law,
has the covariance E[s] K. Any model that takes a kernel can use that, as the Gaussian process
of the same covariance; `process` gives the model that also knows the law.

Source: Lee, Yun, Yang & Lee (2022), "Scale Mixtures of Neural Network Gaussian Processes".
"""

import copy
import math
from typing import Any

from gpytorch.kernels import Kernel
from linear_operator import LinearOperator
from torch import Tensor

from kernelfield.core.mixing import Mixing
from kernelfield.models.process import Process


class ScaleMixtureKernel(Kernel):
    """The covariance E[s] K of a scale mixture, as a GPyTorch kernel.

    base_kernel : K, whose hyperparameters are learned as in any kernel.
    mixing : the law of s, which is held.

    Errors: ValueError if E[s] is infinite, as there is no covariance then.

    >>> import torch
    >>> from gpytorch.kernels import RBFKernel
    >>> from kernelfield.core.mixing import InverseGamma
    >>> kernel = ScaleMixtureKernel(RBFKernel(), InverseGamma.student(4.0))
    >>> kernel(torch.zeros(1, 1)).to_dense().item()  # the variance of a Student-t, df / (df - 2)
    2.0
    >>> kernel.process(noise=0.01).mixing
    InverseGamma(alpha=2.0, beta=2.0)
    """

    def __init__(self, base_kernel: Kernel, mixing: Mixing, **kwargs: Any) -> None:
        if not math.isfinite(mixing.mean):
            raise ValueError(
                f"E[s] is {mixing.mean} under {mixing}, so that there is no covariance; "
                "use Process(kernel, mixing=...), which needs none"
            )
        if base_kernel.active_dims is not None:
            kwargs["active_dims"] = base_kernel.active_dims
        super().__init__(**kwargs)
        self.base_kernel, self.mixing = base_kernel, mixing

    @property
    def is_stationary(self) -> bool:
        return self.base_kernel.is_stationary

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor | LinearOperator:
        # Its active_dims were applied already.
        return self.mixing.mean * self.base_kernel.forward(x1, x2, diag=diag, **params)

    def num_outputs_per_input(self, x1: Tensor, x2: Tensor) -> int:
        return self.base_kernel.num_outputs_per_input(x1, x2)

    def process(self, **options: Any) -> Process:
        """The process with this law and a copy of K; the options are those of `Process`."""
        return Process(copy.deepcopy(self.base_kernel), mixing=self.mixing, **options)
