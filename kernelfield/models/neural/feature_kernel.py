"""A kernel of what a network makes of its inputs, and networks that keep inputs apart.

    k(x, x') = base(phi((x - centre) / spread), phi((x' - centre) / spread))

A network trained by the evidence alone may map inputs onto each other, whereupon the process is as
sure between the data as on them (feature collapse). Its linear layers W can be held to a spectral
norm of at most c by

    W / max(1, |W| / c),

with the norm exact, by a singular value decomposition: at the sizes of hidden layers it costs less
than the covariance matrix of a batch, and the bound then holds at every step, not in the long run
of a power iteration. In residual blocks x + V a(W x), with a activation of slopes at most s,
distances change by factors between 1 - s c^2 and 1 + s c^2 a block.

Sources: Wilson, Hu, Salakhutdinov & Xing (2016), "Deep Kernel Learning"; Behrmann et al. (2019),
"Invertible Residual Networks"; Liu et al. (2020), "Simple and Principled Uncertainty Estimation
with Deterministic Deep Learning via Distance Awareness"; van Amersfoort et al. (2021), "On Feature
Collapse and Deep Kernel Learning for Single Forward Pass Uncertainty".
"""

import math
import operator
from functools import reduce
from typing import Any

import torch
from gpytorch.kernels import Kernel
from torch import Tensor, nn

from kernelfield.kernels.stationary import coincide
from kernelfield.models.covariance import matrix
from kernelfield.models.neural.network import Network
from kernelfield.nets.algebra import Layer, Residual
from kernelfield.nets.dense import Affine, Dense
from kernelfield.nets.smooth import Gelu

GELU = Gelu()


def residual_map(size: int, *, width: int = 64, blocks: int = 2) -> Layer:
    """Residual blocks from `size` features to as many, which start as the identity.

    Errors: ValueError for sizes below one.

    >>> network = Network(residual_map(3, width=8), inputs=3, outputs=3)
    >>> X = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    >>> network.values(network.start(torch.Generator()), X).tolist()
    [[1.0, -2.0, 0.5]]
    """
    if min(size, width, blocks) < 1:
        raise ValueError(f"size, width and blocks must be at least 1, got {size}, {width} and {blocks}")
    block = Residual(Dense(2**0.5, 0.1, width) >> GELU >> Dense(0.0, 0.0, size))
    return reduce(operator.rshift, [block] * blocks)


class FeatureKernel(Kernel):
    """A GPyTorch kernel on the outputs of a network; see the module docstring.

    base_kernel: a kernel of `network.outputs` inputs.
    features: the parameters (p,) of the network to start from.
    centre, spread: (d,), by which inputs are made of order one.
    bound: the largest spectral norm of a linear layer, or None.

    Shapes: x1 (*b, n, d), x2 (*b, k, d); returns (*b, n, k), or (*b, n) with diag=True.
    Errors: ValueError for a bound that is not positive.
    """

    def __init__(
        self,
        base_kernel: Kernel,
        network: Network,
        features: Tensor,
        centre: Tensor,
        spread: Tensor,
        *,
        bound: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require_bound(bound)
        self.base_kernel, self.network, self.bound = base_kernel, network, bound
        self.features = nn.Parameter(features.detach().clone())
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        z1 = self.map(x1)
        z2 = z1 if coincide(x1, x2) else self.map(x2)
        return self.base_kernel(z1, z2, diag=True) if diag else matrix(self.base_kernel, z1, z2)

    def map(self, x: Tensor) -> Tensor:
        """The features (*b, n, q) of x (*b, n, d)."""
        rows = ((x - self.centre) / self.spread).reshape(-1, x.shape[-1])
        return self.network.call(self.bounded(), rows).unflatten(0, x.shape[:-1])

    def bounded(self) -> Tensor:
        """The parameters (p,) with the spectral norms of all linear layers held to the bound."""
        return self.features if self.bound is None else bounded(self.network, self.features, self.bound)

    def settled(self) -> "FeatureKernel":
        """This kernel with the bound worked into its parameters, where nothing is learned any more."""
        made = FeatureKernel(self.base_kernel, self.network, self.bounded(), self.centre, self.spread)
        return made.requires_grad_(False)


def bounded(network: Network, parameters: Tensor, bound: float) -> Tensor:
    """Parameters (p,) with each linear layer W divided by max(1, |W| / bound), |W| its spectral norm."""
    values = network.named(parameters)
    for name, layer in network.skeleton.named_modules():
        key = f"{name}.weight" if name else "weight"
        if not isinstance(layer, Affine | nn.Linear) or key not in values:
            continue
        gain = layer.gains[0] if isinstance(layer, Affine) else 1.0
        norm = torch.linalg.matrix_norm(gain * values[key], 2)
        values[key] = values[key] / (norm / bound).clamp_min(1)
    return torch.cat([value.flatten() for value in values.values()])


def require_bound(bound: float | None) -> None:
    """Errors: ValueError for a bound that is not positive and finite."""
    if bound is not None and not (bound > 0 and math.isfinite(bound)):
        raise ValueError(f"the bound of spectral norms must be positive, got {bound:g}; give a value such as 0.9")
