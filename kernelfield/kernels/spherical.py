"""Kernels on the sphere, of inputs with a constant of one beside them.

    x~ = (x / lengthscale, 1),    r = |x~|,    k(x, x') = outputscale (r r')^p kappa(x~.x~' / (r r'))

The arc-cosine kernel is that of an infinitely wide ReLU network without further biases, which is
homogeneous, p = 1; its odd levels from three on are zero behind one layer. The Matern kernel sees
directions alone, p = 0, and is the sum of its levels up to a degree that depends on the inputs.

Sources: Cho & Saul (2009), "Kernel Methods for Deep Learning"; Dutordoir et al. (2021), and
`kernelfield.kernels.zonal` for the levels.
"""

import math
from functools import lru_cache
from typing import Any, Literal

import torch
from gpytorch.constraints import Interval
from gpytorch.kernels import Kernel
from gpytorch.priors import LogNormalPrior, Prior
from torch import Tensor

from kernelfield.kernels.stationary import logarithmic
from kernelfield.kernels.zonal import levels_of, matern_levels, multiplicities, zonal
from kernelfield.nets.rectifiers import Relu, fold

MOST_LEVELS = 24  # of a series
MOST_HARMONICS = 1e5  # of one level; a few hundred features cannot tell more apart
NONE = 1e-13  # a level below this is rounding, in units of what rounding is there: the root of 1 / N_n


class SphericalKernel(Kernel):
    """A zonal kernel of inputs lifted onto a sphere; see the module docstring.

    family : "arc-cosine", with `depth` layers, or "matern", with smoothness `nu` and a lengthscale on
        the sphere, `reach`, in radians.

    Shapes: x1 (*b, n, d), x2 (*b, k, d); returns (*b, n, k), or (*b, n) with diag=True.
    Units: lengthscales in those of the inputs, the output scale in squared units of y.
    Errors: ValueError for an unknown family, a depth below one or a nu that is not positive.

    >>> kernel = SphericalKernel(ard_num_dims=1)
    >>> round(kernel(torch.tensor([[0.0], [1.0]])).to_dense()[0, 1].item(), 4)  # sqrt(2) kappa(cos 45)
    1.0683
    """

    has_lengthscale = True

    def __init__(
        self,
        family: Literal["arc-cosine", "matern"] = "arc-cosine",
        *,
        depth: int = 1,
        nu: float = 1.5,
        outputscale_prior: Prior | None = None,
        outputscale_constraint: Interval | None = None,
        reach_prior: Prior | None = None,
        reach_constraint: Interval | None = None,
        lengthscale_constraint: Interval | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(lengthscale_constraint=lengthscale_constraint or logarithmic(), **kwargs)
        if family not in ("arc-cosine", "matern"):
            raise ValueError(f"family must be 'arc-cosine' or 'matern', got {family!r}")
        if depth < 1:
            raise ValueError(f"depth must be at least one layer, got {depth}")
        if not nu > 0:
            raise ValueError(f"nu must be positive, got {nu}; 1.5 is usual")
        self.family, self.depth, self.nu = family, depth, nu
        self._own("outputscale", outputscale_constraint, outputscale_prior)
        if family == "matern":
            self._own("reach", reach_constraint, reach_prior)

    def _own(self, name: str, constraint: Interval | None, prior: Prior | None) -> None:
        self.register_parameter(f"raw_{name}", torch.nn.Parameter(torch.zeros(self.batch_shape)))
        self.register_constraint(f"raw_{name}", constraint or logarithmic())
        if prior is not None:
            self.register_prior(f"{name}_prior", prior, *_ACCESS[name])

    @property
    def outputscale(self) -> Tensor:
        """The variance at x = 0, shape (*batch_shape,)."""
        return self.raw_outputscale_constraint.transform(self.raw_outputscale)

    @outputscale.setter
    def outputscale(self, value: float | Tensor) -> None:
        self._assign("outputscale", value)

    @property
    def reach(self) -> Tensor:
        """The lengthscale of the Matern kernel on the sphere, in radians."""
        return self.raw_reach_constraint.transform(self.raw_reach)

    @reach.setter
    def reach(self, value: float | Tensor) -> None:
        self._assign("reach", value)

    def _assign(self, name: str, value: float | Tensor) -> None:
        raw = getattr(self, f"raw_{name}")
        value = torch.as_tensor(value).to(raw).expand_as(raw)
        if not (value > 0).all() or not value.isfinite().all():
            raise ValueError(f"{name} must be positive and finite, got {value.min().item():g}; give a value above zero")
        self.initialize(**{f"raw_{name}": getattr(self, f"raw_{name}_constraint").inverse_transform(value)})

    def lifted(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Directions (*b, n, d + 1) and sizes r^p (*b, n) of rows x (*b, n, d)."""
        x = x / self.lengthscale
        r = (1 + x.square().sum(-1, keepdim=True)).sqrt()
        unit = torch.cat([x, torch.ones_like(r)], -1) / r
        return unit, r[..., 0] if self.family == "arc-cosine" else torch.ones_like(r[..., 0])

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        (u1, r1), (u2, r2) = self.lifted(x1), self.lifted(x2)
        if diag:
            t, sizes = (u1 * u2).sum(-1), r1 * r2
        else:
            t, sizes = u1 @ u2.mT, r1[..., :, None] * r2[..., None, :]
        scale = self.outputscale[..., None] if diag else self.outputscale[..., None, None]
        return scale * sizes * self.kappa(t, x1.shape[-1] + 1)

    def kappa(self, t: Tensor, d: int) -> Tensor:
        """The zonal kernel, one at t = 1, of cosines t in d dimensions."""
        if self.family == "matern":
            return zonal(t, self.levels(d), d)
        return _arc_cosine(t, self.depth)

    def levels(self, d: int) -> Tensor:
        """The levels (k + 1,) of kappa on the sphere in d dimensions, as many as `count`; none is negative."""
        if self.family == "matern":
            return matern_levels(d, count(d), self.nu, self.reach)
        return _arc_cosine_levels(d, self.depth).to(self.raw_outputscale)


def count(d: int) -> int:
    """The highest level that is kept on the sphere in d dimensions.

    >>> count(3), count(20)
    (24, 5)
    """
    return max(2, int((multiplicities(d, MOST_LEVELS) <= MOST_HARMONICS).sum()) - 1)


def _arc_cosine(t: Tensor, depth: int) -> Tensor:
    haversine = ((1 - t) / 2).clamp(0, 1)
    for _ in range(depth):
        haversine, _ = fold(haversine, Relu().kappa)
    return 1 - 2 * haversine


@lru_cache
def _arc_cosine_levels(d: int, depth: int) -> Tensor:
    values = levels_of(lambda t: _arc_cosine(t, depth), d, count(d))
    return torch.where(values * multiplicities(d, count(d)).sqrt() > NONE, values, 0.0)


def spherical_kernel(family: Literal["arc-cosine", "matern"], spread: Tensor, size: Tensor, **shape: Any) -> Kernel:
    """A spherical kernel for inputs of the standard deviations `spread` (d,) and targets of mean square `size`."""
    start = spread * len(spread) ** 0.5
    prior = LogNormalPrior(start.log(), torch.full_like(start, math.sqrt(3)))
    kernel = SphericalKernel(family, ard_num_dims=len(spread), lengthscale_prior=prior, **shape).to(spread)
    kernel.lengthscale, kernel.outputscale = start, size
    if family == "matern":
        kernel.reach = 2 * kernel.nu**0.5 / (len(spread) + 1)  # levels 0 and 1 then weigh alike in many dimensions
    return kernel


# Module-level, so that kernels with priors can be pickled.
def _get_outputscale(kernel: SphericalKernel) -> Tensor:
    return kernel.outputscale


def _set_outputscale(kernel: SphericalKernel, value: float | Tensor) -> None:
    kernel.outputscale = value


def _get_reach(kernel: SphericalKernel) -> Tensor:
    return kernel.reach


def _set_reach(kernel: SphericalKernel, value: float | Tensor) -> None:
    kernel.reach = value


_ACCESS = {"outputscale": (_get_outputscale, _set_outputscale), "reach": (_get_reach, _set_reach)}
