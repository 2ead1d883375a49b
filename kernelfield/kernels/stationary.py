"""Stationary kernels: Matern, RBF and rational quadratic, with lengthscales and an output scale.

    k(x, x') = outputscale * profile(r),    r^2 = sum_d (x_d - x'_d)^2 / lengthscale_d^2

The profiles are in `linalg.profiles`, derivatives and tiling in `linalg.radial`. Parameters are kept as
logarithms, in which the evidence is far closer to a quadratic than in GPyTorch's softplus.

Sources: Rasmussen & Williams (2006), section 4.2; for the lengthscale prior Hvarfner,
Hellsten & Nardi (2024), "Vanilla Bayesian Optimization Performs Great in High Dimensions",
section 4.2: log-normal with location sqrt(2) + log(d) / 2 and scale sqrt(3) on a unit cube.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from gpytorch.constraints import Interval, Positive
from gpytorch.kernels import Kernel
from gpytorch.priors import LogNormalPrior, Prior
from torch import Tensor

from kernelfield.core.numerics import broadcast
from kernelfield.linalg import profiles, radial
from kernelfield.linalg.profiles import Profile
from kernelfield.linalg.radial import Gram


class Stationary(Kernel):
    """What the kernels of this file share; see the module docstring.

    Shapes: x1 (*b, n, d), x2 (*b, k, d); returns (*b, n, k), or (*b, n) with diag=True.
    Units: lengthscales in those of the inputs, the output scale in squared units of y.
    Errors: ValueError for a parameter that is not positive, RuntimeError by GPyTorch where
        the number of lengthscales is neither one nor d.
    """

    has_lengthscale = True
    is_stationary = True

    def __init__(
        self,
        *,
        outputscale_prior: Prior | None = None,
        outputscale_constraint: Interval | None = None,
        lengthscale_constraint: Interval | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(lengthscale_constraint=lengthscale_constraint or logarithmic(), **kwargs)
        self._own("outputscale", self.batch_shape, outputscale_constraint, outputscale_prior)

    @property
    def profile(self) -> Profile:
        """The radial function, without parameters."""
        raise NotImplementedError

    @property
    def raw_shape(self) -> Tensor | None:
        """The parameter behind the shape of the profile, or None where it has no shape."""
        return None

    def _own(self, name: str, size: torch.Size, constraint: Interval | None, prior: Prior | None) -> None:
        self.register_parameter(f"raw_{name}", torch.nn.Parameter(torch.zeros(size)))
        self.register_constraint(f"raw_{name}", constraint or logarithmic())
        if prior is not None:
            get, put = (_get_outputscale, _set_outputscale) if name == "outputscale" else (_get_alpha, _set_alpha)
            self.register_prior(f"{name}_prior", prior, get, put)

    @property
    def outputscale(self) -> Tensor:
        """The variance of the process, shape (*batch_shape,)."""
        return self.raw_outputscale_constraint.transform(self.raw_outputscale)

    @outputscale.setter
    def outputscale(self, value: float | Tensor) -> None:
        self._assign("outputscale", value)

    def _set_lengthscale(self, value: float | Tensor) -> None:
        self._assign("lengthscale", value)

    def _assign(self, name: str, value: float | Tensor) -> None:
        raw = getattr(self, f"raw_{name}")
        value = torch.as_tensor(value).to(raw)
        if not (value > 0).all() or not value.isfinite().all():
            worst = value[~((value > 0) & value.isfinite())].flatten()[0].item()
            raise ValueError(f"{name} must be positive and finite, got {worst:g}; give a value above zero")
        self.initialize(**{f"raw_{name}": getattr(self, f"raw_{name}_constraint").inverse_transform(value)})

    def _shape(self) -> Tensor | None:
        return None

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        same = coincide(x1, x2)
        outputscale, shape = self.outputscale, self._shape()
        if diag and same:
            batch = broadcast(x1.shape[:-2], self.batch_shape)
            return outputscale[..., None].expand(*batch, x1.shape[-2])
        z1 = x1 / self.lengthscale
        if same:
            return radial.radial(z1, None, outputscale, self.profile, shape)
        z2 = x2 / self.lengthscale
        if not diag:
            return radial.radial(z1, z2, outputscale, self.profile, shape)
        pair_shape = None if shape is None else shape[..., None]
        pairs = radial.radial(z1.unsqueeze(-2), z2.unsqueeze(-2), outputscale[..., None], self.profile, pair_shape)
        return pairs[..., 0, 0]

    def gram(self, X: Tensor) -> Gram | None:
        """A workspace for the inner loop of a fit to X (n, d), or None where it does not apply.

        It does for one set of logarithmic parameters; other constraints and batches take the
        general way, through `forward`.
        """
        constraints = [c for _, _, c in self.named_parameters_and_constraints()]
        plain = all(type(c) is Positive and c._transform is torch.exp for c in constraints)
        if self.batch_shape or not plain:
            return None
        chosen = X if self.active_dims is None else X[:, self.active_dims]
        return Gram(chosen, self.profile, shared=self.raw_lengthscale.numel() == 1)


class RBF(Stationary):
    """The squared exponential, exp(-r^2 / 2): samples are infinitely smooth.

    >>> kernel = RBF()
    >>> round(kernel(torch.tensor([[0.0], [1.0]])).to_dense()[0, 1].item(), 4)
    0.6065
    """

    @property
    def profile(self) -> Profile:
        return profiles.Rbf()


class Matern(Stationary):
    """Matern of smoothness nu = 1/2, 3/2 or 5/2: samples have nu - 1/2 derivatives.

    Errors: ValueError for another nu.

    >>> kernel = Matern(nu=0.5)
    >>> round(kernel(torch.tensor([[0.0], [1.0]])).to_dense()[0, 1].item(), 4)
    0.3679
    """

    _PROFILES: ClassVar[dict[float, Callable[[], Profile]]] = {
        0.5: profiles.Matern12,
        1.5: profiles.Matern32,
        2.5: profiles.Matern52,
    }

    def __init__(self, nu: float = 2.5, **kwargs: Any) -> None:
        if nu not in self._PROFILES:
            raise ValueError(f"nu must be 0.5, 1.5 or 2.5, got {nu}")
        super().__init__(**kwargs)
        self.nu = nu

    @property
    def profile(self) -> Profile:
        return self._PROFILES[self.nu]()


class RationalQuadratic(Stationary):
    """(1 + r^2 / (2 alpha))^-alpha: a mixture of RBF kernels of many lengthscales.

    >>> kernel = RationalQuadratic()
    >>> round(kernel(torch.tensor([[0.0], [1.0]])).to_dense()[0, 1].item(), 4)
    0.6667
    """

    def __init__(
        self, *, alpha_prior: Prior | None = None, alpha_constraint: Interval | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._own("alpha", self.batch_shape, alpha_constraint, alpha_prior)

    @property
    def alpha(self) -> Tensor:
        """How evenly lengthscales are mixed, shape (*batch_shape,); infinity is the RBF."""
        return self.raw_alpha_constraint.transform(self.raw_alpha)

    @alpha.setter
    def alpha(self, value: float | Tensor) -> None:
        self._assign("alpha", value)

    def _shape(self) -> Tensor:
        return self.alpha

    @property
    def raw_shape(self) -> Tensor:
        return self.raw_alpha

    @property
    def profile(self) -> Profile:
        return profiles.RationalQuadratic()


def coincide(x1: Tensor, x2: Tensor) -> bool:
    """Whether two arguments of a kernel are one set of points, so that its matrix is symmetric.

    GPyTorch copies and expands its arguments. Values that are differentiated may differ next.
    """
    return x1 is x2 or (not x2.requires_grad and x1.shape == x2.shape and torch.equal(x1, x2))


def logarithmic() -> Positive:
    """The constraint of a positive parameter that is kept as its logarithm."""
    return Positive(transform=torch.exp, inv_transform=torch.log)


# Module-level, so that kernels with priors can be pickled.
def _get_outputscale(kernel: Stationary) -> Tensor:
    return kernel.outputscale


def _set_outputscale(kernel: Stationary, value: float | Tensor) -> None:
    kernel.outputscale = value


def _get_alpha(kernel: RationalQuadratic) -> Tensor:
    return kernel.alpha


def _set_alpha(kernel: RationalQuadratic, value: float | Tensor) -> None:
    kernel.alpha = value


NAMES = {
    "matern12": lambda **k: Matern(0.5, **k),
    "matern32": lambda **k: Matern(1.5, **k),
    "matern52": lambda **k: Matern(2.5, **k),
    "rbf": RBF,
    "rq": RationalQuadratic,
}


def dimension_scaled(name: str, spread: Tensor, inputs: int | None = None) -> Stationary:
    """A kernel by name, one lengthscale an input, with the lengthscale prior of Hvarfner et al.

    spread (d,): the standard deviations of the inputs. The prior is theirs for inputs that
    spread as uniform ones do, so it means the same in any units.
    inputs : the number of inputs of the function, where this kernel is a factor on d of them.

    >>> dimension_scaled("rbf", torch.ones(3)).ard_num_dims
    3
    """
    d = len(spread)
    location = math.sqrt(2) + math.log(inputs or d) / 2 + (math.sqrt(12) * spread).log()
    prior = LogNormalPrior(location, torch.full_like(location, math.sqrt(3)))
    kernel = NAMES[name](ard_num_dims=d, lengthscale_prior=prior)
    return kernel.to(spread)
