"""Kernels over (x, r): what a run with the parameters x shows after r steps. The last column of the inputs is r.

    LearningCurve      f(x, r) = g(x) + gamma kappa(r, 0) + h(x, r),    h with covariance k_h(x, x') kappa(r, r'),
                       kappa(r, r') = beta^a / (r + r' + beta)^a
    IndependentRungs   [r = r'] (c_r k(x, x') + offset): a process with a mean of its own at each of a few r

A curve that decays as exp(-lambda r) with a rate lambda from a gamma law of shape a and rate beta has
E[exp(-lambda r) exp(-lambda r')] = kappa(r, r'): the kernel is a mixture of products of functions of one argument, thus
positive definite, and its draws fall from g(x) + gamma + h(x, 0) to the limit g(x) at mixed speeds. gamma is what all
curves lose, normal with the variance `common`, so that it adds common * kappa(r, 0) kappa(r', 0). r is in any
units, such as shares of the longest run; beta is in the same. A process that is smooth in x and r alike needs no class
of its own: it is a kernel of d + 1 columns.

Sources: Swersky, Snoek & Adams (2014), "Freeze-Thaw Bayesian Optimization", for the mixture of exponentials; Klein,
Tiao, Lienart, Archambeau & Seeger (2020), "Model-based Asynchronous Hyperparameter and Neural Architecture Search", for
what all curves lose; for independent rungs the documentation of Syne Tune, Salinas, Seeger, Klein, Perrone, Wistuba &
Archambeau (2022), "Syne Tune: A Library for Large Scale Hyperparameter Tuning and Reproducible Research".
"""

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from gpytorch.constraints import Interval, Positive
from gpytorch.kernels import Kernel
from gpytorch.priors import LogNormalPrior, Prior
from torch import Tensor, nn

from kernelfield.kernels.stationary import Stationary, logarithmic
from kernelfield.linalg.radial import Gram

NEAR = 1e-6  # of the largest rung: how far a step may lie from the rung that is meant


class StepKernel(Kernel):
    """What the kernels of this file share: parameters kept as logarithms, and inputs whose last column is r.

    Shapes: x1 (*b, n, d + 1), x2 (*b, k, d + 1); returns (*b, n, k), or (*b, n) with diag=True.
    """

    def _own(
        self, name: str, value: float, size: Sequence[int], constraint: Interval | None, prior: Prior | None
    ) -> None:
        bound = constraint or logarithmic()
        self.register_parameter(f"raw_{name}", nn.Parameter(bound.inverse_transform(torch.full(tuple(size), value))))
        self.register_constraint(f"raw_{name}", bound)
        if prior is not None:
            self.register_prior(f"{name}_prior", prior, partial(_get, name=name), partial(_set, name=name))

    def _value(self, name: str) -> Tensor:
        return getattr(self, f"raw_{name}_constraint").transform(getattr(self, f"raw_{name}"))

    def _assign(self, name: str, value: float | Tensor) -> None:
        raw = getattr(self, f"raw_{name}")
        value = torch.as_tensor(value).to(raw)
        bad = value[~((value > 0) & value.isfinite())]
        if len(bad.flatten()):
            raise ValueError(
                f"{name} must be positive and finite, got {bad.flatten()[0].item():g}; give a value above zero"
            )
        inverse = getattr(self, f"raw_{name}_constraint").inverse_transform(value)
        self.initialize(**{f"raw_{name}": inverse.expand_as(raw)})


class LearningCurve(StepKernel):
    """Curves that decay to a level, both of which depend on x; see the module docstring.

    level, change : the kernels of g and of h's dependence on x, which are copied and never modified. `of` makes both
        from one kernel of x; here they see all columns unless their `active_dims` say otherwise.

    Errors: ValueError for a step below zero, or a parameter that is not positive.

    >>> from kernelfield.kernels.stationary import RBF
    >>> kernel = LearningCurve.of(RBF(), inputs=1)
    >>> kernel.power, kernel.rate, kernel.common = 1.0, 0.5, 2.0
    >>> rows = torch.tensor([[0.0, 0.0], [0.0, 0.5]])
    >>> kernel(rows).to_dense()[0, 1].item()  # 1 + (2 + 1) / 2, as kappa(0, 1/2) = 1/2
    2.5
    """

    def __init__(
        self,
        level: Kernel,
        change: Kernel,
        *,
        power_prior: Prior | None = None,
        power_constraint: Interval | None = None,
        rate_prior: Prior | None = None,
        rate_constraint: Interval | None = None,
        common_prior: Prior | None = None,
        common_constraint: Interval | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.level, self.change = copy.deepcopy(level), copy.deepcopy(change)
        own = self._batch_shape
        self._own("power", 1.0, own, power_constraint, power_prior)
        self._own("rate", 0.1, own, rate_constraint, rate_prior)
        self._own("common", 1.0, own, common_constraint, common_prior)

    @classmethod
    def of(cls, kernel: Kernel, *, inputs: int) -> "LearningCurve":
        """From a kernel of x of so many columns, with weak priors for r in shares of the longest run.

        >>> from kernelfield.kernels.stationary import Matern
        >>> LearningCurve.of(Matern(ard_num_dims=3), inputs=3).level.active_dims
        tensor([0, 1, 2])
        """
        part = _of_inputs(kernel, inputs)
        made = cls(
            part,
            part,
            power_prior=_log_normal(1.0, 1.0),
            rate_prior=_log_normal(0.1, 1.5),
            common_prior=_log_normal(1.0, 1.5),
        )
        return _like(made, kernel)

    @property
    def power(self) -> Tensor:
        """The shape a of the law of rates (*batch_shape,): curves flatten as r^-a."""
        return self._value("power")

    @power.setter
    def power(self, value: float | Tensor) -> None:
        self._assign("power", value)

    @property
    def rate(self) -> Tensor:
        """The rate beta of the law of rates (*batch_shape,), in units of r: rates average a / beta."""
        return self._value("rate")

    @rate.setter
    def rate(self, value: float | Tensor) -> None:
        self._assign("rate", value)

    @property
    def common(self) -> Tensor:
        """The variance of what all curves lose together, (*batch_shape,)."""
        return self._value("common")

    @common.setter
    def common(self, value: float | Tensor) -> None:
        self._assign("common", value)

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        r1, r2 = _steps(x1), _steps(x2)
        if diag:
            own = [p.unsqueeze(-1) for p in (self.power, self.rate, self.common)]
        else:
            own = [p[..., None, None] for p in (self.power, self.rate, self.common)]
            r1, r2 = r1.unsqueeze(-1), r2.unsqueeze(-2)
        power, rate, common = own
        level, change = (_matrix(part, x1, x2, diag) for part in (self.level, self.change))
        shared = common * decay(r1, power, rate) * decay(r2, power, rate)
        return level + torch.addcmul(shared, change, decay(r1 + r2, power, rate))

    def grams(self, X: Tensor) -> tuple[Gram, Gram] | None:
        """Workspaces for the inner loop of a fit to X (n, d + 1), or None where they do not apply."""
        own = [getattr(self, f"raw_{name}_constraint") for name in ("power", "rate", "common")]
        plain = all(type(bound) is Positive and bound._transform is torch.exp for bound in own)
        parts = (self.level, self.change)
        if not plain or self._batch_shape or self.active_dims is not None:
            return None
        level, change = (part.gram(X) if isinstance(part, Stationary) else None for part in parts)
        return None if level is None or change is None else (level, change)


def decay(r: Tensor, power: Tensor, rate: Tensor) -> Tensor:
    """beta^a / (r + beta)^a: the mean of exp(-lambda r) over the gamma law of shape a and rate beta.

    >>> decay(torch.tensor(3.0), torch.tensor(2.0), torch.tensor(1.0)).item()
    0.0625
    """
    return torch.exp(-power * torch.log1p(r / rate))


class IndependentRungs(StepKernel):
    """An independent process at each of a few steps, with a shape in common; see the module docstring.

    kernel : which is copied and never modified. `of` makes it from one of x; here it sees all columns unless its
        `active_dims` say otherwise.
    rungs : the steps that occur, in the units of the last column.

    Errors: ValueError for no rung, rungs that do not ascend, or a step that is none of them.

    >>> from kernelfield.kernels.stationary import RBF
    >>> kernel = IndependentRungs(RBF(active_dims=(0,)), rungs=(1.0, 3.0))
    >>> kernel.scales, kernel.offset = torch.tensor([1.0, 4.0]), 0.5
    >>> kernel(torch.tensor([[0.0, 1.0], [0.0, 3.0]])).to_dense().tolist()
    [[1.5, 0.0], [0.0, 4.5]]
    """

    def __init__(
        self,
        kernel: Kernel,
        rungs: Sequence[float],
        *,
        scales_prior: Prior | None = None,
        scales_constraint: Interval | None = None,
        offset_prior: Prior | None = None,
        offset_constraint: Interval | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rungs = tuple(float(r) for r in rungs)
        if not self.rungs or any(b <= a for a, b in zip(self.rungs, self.rungs[1:], strict=False)):
            raise ValueError(f"rungs must be ascending steps, such as (1, 3, 9), got {self.rungs}")
        self.kernel = copy.deepcopy(kernel)
        own = self._batch_shape
        self._own("scales", 1.0, (*own, len(self.rungs)), scales_constraint, scales_prior)
        self._own("offset", 1.0, own, offset_constraint, offset_prior)

    @classmethod
    def of(cls, kernel: Kernel, rungs: Sequence[float], *, inputs: int) -> "IndependentRungs":
        """From a kernel of x of so many columns, with weak priors; a stationary one keeps no output scale of its own.

        >>> from kernelfield.kernels.stationary import Matern
        >>> IndependentRungs.of(Matern(), (0.1, 1.0), inputs=3).kernel.raw_outputscale.requires_grad
        False
        """
        part = _of_inputs(kernel, inputs)
        if isinstance(part, Stationary):
            part.outputscale = torch.ones_like(part.outputscale)
            part.raw_outputscale.requires_grad_(False)
        made = cls(part, rungs, scales_prior=_log_normal(1.0, 1.5), offset_prior=_log_normal(1.0, 1.5))
        return _like(made, kernel)

    @property
    def scales(self) -> Tensor:
        """The variance c_r of each rung's process, (*batch_shape, rungs)."""
        return self._value("scales")

    @scales.setter
    def scales(self, value: float | Tensor) -> None:
        self._assign("scales", value)

    @property
    def offset(self) -> Tensor:
        """The variance of the rungs' means, (*batch_shape,)."""
        return self._value("offset")

    @offset.setter
    def offset(self, value: float | Tensor) -> None:
        self._assign("offset", value)

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        i, j = self._places(x1), self._places(x2)
        if diag:
            scale, same = _picked(self.scales, i), i == j
            return same * (scale * _matrix(self.kernel, x1, x2, True) + self.offset.unsqueeze(-1))
        scale, same = _picked(self.scales, i).unsqueeze(-1), i.unsqueeze(-1) == j.unsqueeze(-2)
        return same * (scale * _matrix(self.kernel, x1, x2, False) + self.offset[..., None, None])

    def _places(self, x: Tensor) -> Tensor:
        """Which rung each row (*b, n) stands on."""
        r, rungs = _steps(x), torch.tensor(self.rungs).to(x)
        gap, place = (r.unsqueeze(-1) - rungs).abs().min(-1)
        far = gap > NEAR * rungs[-1]
        if far.any():
            raise ValueError(f"a step must be one of the rungs {self.rungs}, got {r[far].flatten()[0].item():g}")
        return place


def _picked(scales: Tensor, place: Tensor) -> Tensor:
    """The scales (*b, n) of the rungs of rows (*b, n)."""
    batch = torch.broadcast_shapes(scales.shape[:-1], place.shape[:-1])
    return scales.expand(*batch, -1).gather(-1, place.expand(*batch, -1))


def _matrix(kernel: Kernel, x1: Tensor, x2: Tensor, diag: bool) -> Tensor:
    """A kernel's matrix, or its diagonal; of a stationary one without GPyTorch's lazy forms, which cost most of it."""
    if not isinstance(kernel, Stationary):
        return kernel(x1, x2, diag=True) if diag else kernel(x1, x2).to_dense()
    if kernel.active_dims is not None:
        x1, x2 = (x.index_select(-1, kernel.active_dims) for x in (x1, x2))
    return kernel.forward(x1, x2, diag)


def _steps(x: Tensor) -> Tensor:
    r = x[..., -1]
    if r.numel() and not r.min() >= 0:
        raise ValueError(f"the last column holds steps and must be at least 0, got {r.min().item():g}")
    return r


def _of_inputs(kernel: Kernel, inputs: int) -> Kernel:
    """A copy that sees the first columns alone, unless it chooses its own."""
    part = copy.deepcopy(kernel)
    if part.active_dims is None:
        part.active_dims = torch.arange(inputs)
    return part


def _like(made: StepKernel, kernel: Kernel) -> Any:
    example = next(kernel.parameters(), torch.empty(0))
    return made.to(device=example.device, dtype=example.dtype)


def _log_normal(median: float, spread: float) -> LogNormalPrior:
    return LogNormalPrior(torch.tensor(math.log(median)), torch.tensor(spread))


# Module-level, so that kernels with priors can be pickled.
def _get(kernel: StepKernel, *, name: str) -> Tensor:
    return kernel._value(name)


def _set(kernel: StepKernel, value: float | Tensor, *, name: str) -> None:
    kernel._assign(name, value)
