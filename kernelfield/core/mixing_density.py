"""Mixing laws that are known by their density, through quadrature over log s.

With u = log s and p the density of u, everything that is asked of a law is an integral

    M(S, N) = int p(u) exp(-N u / 2 - S exp(-u) / 2) du

or follows from one: log E[s^(-N/2) exp(-S / (2 s))] = log M(S, N), with the slope
-M(S, N + 2) / 2 M(S, N) in S; the density of sqrt(s) z at t, M(t^2, 1) / sqrt(2 pi); the mean
M(0, -2). The law of s given data has the density p(u) exp(-N u / 2 - S exp(-u) / 2) / M(S, N),
so that it is a law of this kind again. Derivatives in shapes are those of log p, averaged over
the integrand. Each integral is made where its integrand is, by `core.integration`, and is right
to about 1e-13, relative for densities and moments, absolute for distribution functions. Samples
from the prior of s, in contrast, miss its posterior when data are many.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernelfield.core.integration import NODES, Rule, rule_for
from kernelfield.core.mixing import Mixing

TOGETHER = 256  # integrals on shared points
ENTRIES = 2**22  # of the tables of values at points that are held at once
STEPS = 100  # for a quantile at most, of which the last few are Newton's
CLOSE = 1e-8  # of log t: a Newton step after which the next one is below rounding


class _Mixture(Mixing):
    """A law of s as points and masses, as far as the marginal of sqrt(s) z is concerned."""

    width = 1

    @property
    @abstractmethod
    def _masses(self) -> tuple[Tensor, Tensor]:
        """log s (k,) and probabilities (k,), in double precision on the CPU."""

    @abstractmethod
    def _log_moments(self, S: Tensor, N: Tensor) -> Tensor:
        """log M(S, N) (j,) for S (j,), of which it is a differentiable function, and N (j,)."""

    def cdf(self, t: Tensor) -> Tensor:
        u, mass = self._masses
        return self._in_pieces(t, len(u), lambda part: torch.special.ndtr(part[:, None] * (-u / 2).exp()) @ mass)

    def log_density(self, t: Tensor) -> Tensor:
        def moments(part: Tensor) -> Tensor:
            return self._log_moments(part.square(), torch.ones_like(part))

        value = self._in_pieces(t, ENTRIES // TOGETHER, moments)
        return value - 0.5 * math.log(2 * math.pi)

    def _in_pieces(self, t: Tensor, size: int, function: Callable[[Tensor], Tensor]) -> Tensor:
        """function of each entry of t, so many at once that tables of `size` columns stay small."""
        flat = t.double().cpu().flatten()
        parts = [function(part) for part in flat.split(max(1, ENTRIES // size))]
        return torch.cat(parts).reshape(t.shape).to(t)

    def quantile(self, p: Tensor) -> Tensor:
        levels, place = p.detach().double().cpu().unique(return_inverse=True)
        tail = torch.minimum(levels, 1 - levels)
        found = torch.cat([self._upper_quantile(part) for part in tail.split(TOGETHER)])
        return (torch.where(levels < 0.5, -found, found)[place]).reshape(p.shape).to(p)

    def _upper_quantile(self, tail: Tensor) -> Tensor:
        """The t >= 0 (k,) with P(sqrt(s) z > t) = tail (k,), by Newton steps in log t that a bracket guards."""
        u, mass = self._masses
        low, high = torch.full_like(tail, u.min().item() / 2 - 40), torch.full_like(tail, u.max().item() / 2 + 5)
        x = (low + high) / 2
        outer, middle = tail < 0.25, tail == 0.5
        for _ in range(STEPS):
            reach = (x[:, None] - u / 2).exp()
            outside = torch.special.erfc(reach / math.sqrt(2)) @ mass
            inside = torch.special.erf(reach / math.sqrt(2)) @ mass
            slope = math.sqrt(2 / math.pi) * (reach * (-reach.square() / 2).exp()) @ mass
            # Each side in the logarithm of its small part, which keeps relative accuracy.
            gap = torch.where(outer, (2 * tail).log() - outside.log(), inside.log() - torch.log1p(-2 * tail))
            rate = slope / torch.where(outer, outside, inside)
            low, high = torch.where(gap < 0, x, low), torch.where(gap < 0, high, x)
            newton = x - gap / rate
            close = (newton - x).abs() <= CLOSE
            x = torch.where(close | ((low < newton) & (newton < high)), newton, (low + high) / 2)
            if (close | middle).all():
                break
        return torch.where(middle, 0.0, x.exp())

    def log_expectation(self, S: float, N: int) -> tuple[float, float]:
        value, following = self._log_moments(_vector(S, S), _vector(N, N + 2)).tolist()
        self._require_integral(value, S, N)
        return value, -0.5 * math.exp(following - value) if math.isfinite(following) else -math.inf

    def _require_integral(self, value: float, S: float, N: int) -> None:
        if not math.isfinite(value):
            raise ValueError(
                f"{N} observations with the quadratic form {S:g} have no density under {self}, whose mass near "
                "s = 0 is too large for residuals that are zero; use an InverseGamma, or drop a target that is constant"
            )

    def means(self, S: Tensor, N: int) -> Tensor:
        def ratio(part: Tensor) -> Tensor:
            lower, upper = (self._log_moments(part, torch.full_like(part, n)) for n in (N, N - 2))
            return (upper - lower).exp()

        return self._in_pieces(S, ENTRIES // TOGETHER, ratio)


class Density(_Mixture):
    """A law of s with a density; subclasses are dataclasses that give `log_density_of_log`."""

    @abstractmethod
    def log_density_of_log(self, u: Tensor, *shapes: Any) -> Tensor:
        """The log density of u = log s at u (k,), given the shapes in order, as numbers or tensors."""

    def _log_p(self, u: Tensor) -> Tensor:
        return self.log_density_of_log(u, *self.shapes.values())

    @cached_property
    def _rule(self) -> Rule:
        rule = rule_for(lambda u: self._log_p(u)[:, None])
        if not rule.finite.all():
            raise ValueError(f"{self} has mass where s or 1/s is beyond 1e304, or none at all; bound s")
        return rule

    @cached_property
    def _masses(self) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.no_grad():
            return self._rule.u, (self._rule.log_weight + self._log_p(self._rule.u)).exp()

    @property
    def mean(self) -> float:
        return self._log_moments(_vector(0.0), _vector(-2)).exp().item()

    def _log_moments(self, S: Tensor, N: Tensor) -> Tensor:
        rule = self._moment_rule(S.detach(), N)
        value = rule.log_integral(_tilted(self._log_p(rule.u), rule.u, S, N))
        return torch.where(rule.finite, value, math.inf)

    def _moment_rule(self, S: Tensor, N: Tensor) -> Rule:
        return rule_for(lambda u: _tilted(self._log_p(u), u, S, N))

    def score(self, S: float, N: int) -> tuple[float, ...]:
        form, count = _vector(S), _vector(N)
        rule = self._moment_rule(form, count)
        with torch.inference_mode(False), torch.enable_grad():
            logs = [_vector(math.log(value)).requires_grad_() for value in self.shapes.values()]
            log_p = self.log_density_of_log(rule.u, *(value.exp() for value in logs))
            value = rule.log_integral(_tilted(log_p, rule.u, form, count)).sum()
            slopes = torch.autograd.grad(value, logs) if logs else ()
        return tuple(slope.item() for slope in slopes)

    def condition(self, S: float, N: int) -> "Tilted":
        return Tilted(self, S, N)

    def scale(self, z: Tensor) -> Tensor:
        panels, at = self._panels, z.detach().double().cpu().flatten().contiguous()
        below, above = torch.special.ndtr(at), torch.special.ndtr(-at)
        # The smaller side of each level keeps its relative accuracy.
        left = torch.searchsorted(panels.below, below) - 1
        right = len(panels.above) - 1 - torch.searchsorted(panels.above.flip(0), above)
        i = torch.where(at < 0, left, right).clamp(0, len(panels.series) - 1)
        mass = torch.where(at < 0, below - panels.below[i], panels.above[i] - above)
        x = _inverted(panels.series[i], mass)
        u = panels.edges[i] + (panels.edges[i + 1] - panels.edges[i]) * (1 + x) / 2
        return (u / 2).exp().reshape(z.shape).to(z)

    @cached_property
    def _panels(self) -> "_Panels":
        with torch.inference_mode(False), torch.no_grad():
            rule = self._rule
            density = self._log_p(rule.u).exp().unflatten(0, (-1, len(NODES)))
            series = rule.edges.diff()[:, None] / 2 * (density @ _TO_SERIES.mT)
            mass, zero = 2 * series[:, 0], series.new_zeros(1)
            below, above = mass.cumsum(0), mass.flip(0).cumsum(0).flip(0)
            return _Panels(rule.edges, torch.cat([zero, below]), torch.cat([above, zero]), series)


@dataclass(frozen=True, eq=False)
class _Panels:
    """A density of u in pieces: its Legendre series (p, 21) between edges, and the mass on both sides of these."""

    edges: Tensor
    below: Tensor
    above: Tensor
    series: Tensor


def _inverted(series: Tensor, mass: Tensor) -> Tensor:
    """The x in [-1, 1] up to which the integral of each series (k, 21) is `mass` (k,)."""
    integral = series @ _TO_INTEGRAL.mT
    low, high = torch.full_like(mass, -1.0), torch.ones_like(mass)
    x = (mass / series[:, 0] - 1).nan_to_num(0.0).clamp(-1, 1)
    for _ in range(STEPS):
        legendre = [torch.ones_like(x), x]
        for k in range(1, len(NODES)):
            legendre.append(((2 * k + 1) * x * legendre[k] - k * legendre[k - 1]) / (k + 1))
        basis = torch.stack(legendre, -1)
        gap = (basis * integral).sum(-1) - mass
        low, high = torch.where(gap < 0, x, low), torch.where(gap < 0, high, x)
        newton = x - gap / (basis[:, :-1] * series).sum(-1)
        close = (newton - x).abs() <= CLOSE
        x = torch.where(close | ((low < newton) & (newton < high)), newton, (low + high) / 2)
        if (close | (high - low <= CLOSE)).all():
            break
    return x


@dataclass(frozen=True)
class Tilted(Density):
    """The law of s given N observations with the quadratic form S, under a prior law of s.

    Errors: ValueError if there is none, S being zero and the prior's mass near s = 0 too large.
    """

    prior: Density
    S: float
    N: int

    def __post_init__(self) -> None:
        _ = self._log_evidence  # fail here, not in a prediction

    @cached_property
    def _log_evidence(self) -> float:
        return self.prior.log_expectation(self.S, self.N)[0]

    def log_density_of_log(self, u: Tensor, *shapes: Any) -> Tensor:
        tilt = _tilted(self.prior._log_p(u), u, _vector(self.S), _vector(self.N))
        return tilt.squeeze(1) - self._log_evidence

    def condition(self, S: float, N: int) -> "Tilted":
        return Tilted(self.prior, self.S + S, self.N + N)


@dataclass(frozen=True)
class LogDensity(Density):
    """The law of s with a log density of the user's, up to a constant.

    function : of a tensor of s and of `parameters` by name; minus infinity where there is no mass.
        It is asked from s = 1e-304 to 1e304. To learn the parameters it must be made of torch's
        functions.
    parameters : positive numbers, the shapes of the law. A unit of s among them is better held
        inside of the function, as the output scale of the kernel does the same.

    Errors: ValueError for a density that does not integrate, is not a number, or whose parameters
    are not positive.

    >>> law = LogDensity(lambda s, power: -power * torch.log1p(s * s), {"power": 2.0})
    >>> round(law.mean, 6)  # 2 / pi
    0.63662
    """

    function: Callable[..., Tensor]
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.parameters.items():
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} of a LogDensity must be positive and finite, got {value}")
        rule = self._normaliser
        if not rule.finite.all():
            raise ValueError(
                "the density of s does not integrate: s times it has not fallen to 1e-13 of its peak at "
                f"s = 1e-304 and 1e304, with {dict(self.parameters)}; give a proper law"
            )

    @property
    def shapes(self) -> dict[str, float]:
        return dict(self.parameters)

    def reshaped(self, values: Sequence[float]) -> "LogDensity":
        return LogDensity(self.function, dict(zip(self.parameters, values, strict=True)))

    def log_density_of_log(self, u: Tensor, *shapes: Any) -> Tensor:
        return self._raw(u, *shapes) - self._log_constant(*shapes)

    def _raw(self, u: Tensor, *shapes: Any) -> Tensor:
        s = u.exp()
        value = torch.as_tensor(self.function(s, **dict(zip(self.parameters, shapes, strict=True))))
        if value.shape != s.shape:
            raise ValueError(f"a log density of {len(s)} values of s must have their shape, got {tuple(value.shape)}")
        wrong = value.isnan() | (value == math.inf)
        if wrong.any():
            raise ValueError(f"the log density of s is {value[wrong][0].item()} at s = {s[wrong][0].item():g}")
        return value + u

    def _log_constant(self, *shapes: Any) -> Tensor:
        rule = self._normaliser
        return rule.log_integral(self._raw(rule.u, *shapes)[:, None])

    @cached_property
    def _normaliser(self) -> Rule:
        return rule_for(lambda u: self._raw(u, *self.shapes.values())[:, None])


@dataclass(frozen=True)
class Grid(_Mixture):
    """s is one of finitely many numbers: a finite mixture of Gaussians of one shape.

    weights : in any unit; none are equal weights.

    Errors: ValueError for values that are not positive, weights that are negative or all zero,
    and numbers of them that differ.

    >>> Grid((1.0, 4.0), (3.0, 1.0)).mean
    1.75
    """

    values: tuple[float, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        weights = (1.0,) * len(self.values) if self.weights is None else self.weights
        if not self.values or len(weights) != len(self.values):
            raise ValueError(f"a Grid needs one weight a value, got {len(self.values)} values, {len(weights)} weights")
        for value in self.values:
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"values of a Grid must be positive and finite, got {value}")
        if not (min(weights) >= 0 and 0 < sum(weights) < math.inf):
            raise ValueError(f"weights of a Grid must be zero or more and not all zero, got {weights}")

    @cached_property
    def _masses(self) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False):
            values = torch.tensor(self.values, dtype=torch.float64)
            weights = torch.ones_like(values) if self.weights is None else values.new_tensor(self.weights)
            values, order = values.sort()
            return values.log(), (weights / weights.sum())[order]

    @property
    def mean(self) -> float:
        u, mass = self._masses
        return (u.exp() @ mass).item()

    def scale(self, z: Tensor) -> Tensor:
        u, mass = self._masses
        level = torch.special.ndtr(z.detach().double().cpu())
        place = torch.searchsorted(mass.cumsum(0), level).clamp_max(len(u) - 1)
        return (u[place] / 2).exp().to(z)

    def _log_moments(self, S: Tensor, N: Tensor) -> Tensor:
        u, mass = self._masses
        return _tilted(mass.log(), u, S, N).logsumexp(0)

    def condition(self, S: float, N: int) -> "Grid":
        u, mass = self._masses
        weights = _tilted(mass.log(), u, _vector(S), _vector(N)).softmax(0)
        return Grid(tuple(u.exp().tolist()), tuple(weights.flatten().tolist()))


def _tilted(log_p: Tensor, u: Tensor, S: Tensor, N: Tensor) -> Tensor:
    """log of p(u) exp(-N u / 2 - S exp(-u) / 2) at u (k,), for S (j,) and N (j,); shape (k, j)."""
    return (log_p - 0.5 * N[:, None] * u - 0.5 * S[:, None] * (-u).exp()).mT


def _vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


_COUNT = len(NODES)
# From values at the points of a panel to their Legendre series, and on to that of its integral from the left.
_TO_SERIES = torch.as_tensor(np.linalg.inv(np.polynomial.legendre.legvander(NODES.numpy(), _COUNT - 1)))
_TO_INTEGRAL = torch.as_tensor(np.polynomial.legendre.legint(np.eye(_COUNT), lbnd=-1))
