"""The law of y = f + e for a Gaussian f and Student-t noise e, each row with a scale of its own.

    f ~ N(loc, C),    e_ij | w_i ~ N(0, noise / w_i),    w_i ~ Gamma(nu / 2, nu / 2),

so that e has the t law with nu degrees of freedom and the squared scale `noise`, and the m values
of a row share one w. Given w, y is Gaussian; marginals are therefore integrals over u = log w,

    F(y) = int p(u) Phi((y - loc) / sqrt(v + noise e^-u)) du,    p(u) ~ exp(a (u - e^u)),  a = nu / 2,

made by the trapezoidal rule. Their integrands are analytic in the strip |Im u| < pi / 2, and fall
no slower than exp(a (u - e^u)) on the right and, left of u0 = log(a / (a + t^2 / 2)), with t the
distance of y from loc in units of sqrt(noise), on the left; the substitution
u = x - exp(-(x - u0) - 2) makes the slow fall there a quick one. The sum is right to about 1e-13,
relative to the density or to the smaller of F and 1 - F, out to any t.

Source: Trefethen & Weideman (2014), "The Exponentially Convergent Trapezoidal Rule".
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from scipy import special
from torch import Tensor

from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.core.posterior import Elliptical, Posterior

FALL = 45.0  # nats below the greatest value where an integrand is dropped
STEP = 0.22  # of the sum, for few degrees of freedom: the strip is about three wide
SHARE = 0.55  # of the step in the integrand's width, for many of them
PAIRED = 18.0  # nats below which a pair of scales is dropped
ENTRIES = 2**21  # of the tables of values at nodes that are held at once
STEPS = 100  # for a quantile at most, of which the last few are Newton's
CLOSE = 1e-13  # relative change of a quantile that is rounding


@dataclass(frozen=True, eq=False)
class Convolved(Posterior):
    """The law of a Gaussian vector plus Student-t noise.

    latent, the law of f; noise, the squared scale of the noise, a positive number or one an
    output (m,); nu its degrees of freedom. Quantiles and densities are those of a quadrature
    that is right to 1e-10 and better; draws are exact.

    Errors: ValueError for a latent law that is not Gaussian, or noise or nu that is not positive
    and finite.

    >>> law = Convolved(Elliptical(torch.zeros(1, 1), 2 * torch.eye(1)), 0.5, 3.0)
    >>> law.variance.item()  # 2 + 0.5 * 3 / (3 - 2)
    3.5
    """

    latent: Elliptical
    noise: Tensor | float
    nu: float

    def __post_init__(self) -> None:
        if self.latent.mixing != Unit():
            raise ValueError(f"the law of f must be Gaussian, got one with {self.latent.mixing}; give Elliptical(...)")
        noise = torch.as_tensor(self.noise)
        if not ((noise > 0) & noise.isfinite()).all():
            raise ValueError(f"noise must be a positive squared scale, the least is {noise.min().item():g}")
        if not (self.nu > 0 and math.isfinite(self.nu)):
            raise ValueError(f"nu must be a positive number of degrees of freedom, got {self.nu:g}")

    @property
    def width(self) -> int:
        n, m = self.latent.mean.shape[-2:]
        return n * (2 * m + 1)

    @property
    def mean(self) -> Tensor:
        """Marginal means; where nu is at most one, medians, as there are no means."""
        return self.latent.mean

    @property
    def variance(self) -> Tensor:
        return self.latent.variance + self._noise_variance

    @property
    def covariance(self) -> Tensor:
        """The joint covariance (*b, n*m, n*m), point-major, in squared units of y.

        Errors: ValueError where it does not exist, nu being two or less.
        """
        if self.nu <= 2:
            raise ValueError(
                f"the variance is infinite for nu = {self.nu:g}, so that there is no covariance; "
                "use quantiles or samples, or posterior(X) for the covariance of f"
            )
        return self.latent.covariance + torch.diag_embed(self._noise_variance.flatten(-2))

    @property
    def _noise_variance(self) -> Tensor:
        ratio = self.nu / (self.nu - 2) if self.nu > 2 else math.inf
        return (torch.as_tensor(self.noise).to(self.mean) * ratio).expand(self.mean.shape)

    def draw(self, z: Tensor) -> Tensor:
        n, m = self.mean.shape[-2:]
        # The normals of a row stay together, so that adding points keeps earlier noise in place.
        of_f, of_w, of_e = z.unflatten(-1, (n, 2 * m + 1)).split([m, 1, m], -1)
        size = torch.as_tensor(self.noise).to(z).sqrt() * InverseGamma.student(self.nu).scale(of_w)
        return self.latent.draw(of_f.flatten(-2)) + size * of_e

    def cdf(self, y: Tensor) -> Tensor:
        def level(gap: Tensor, std: Tensor, log_mass: Tensor) -> Tensor:
            return _below(gap[:, None] / std) @ log_mass.exp()

        return self._at(y, level)

    def log_prob(self, y: Tensor) -> Tensor:
        def density(gap: Tensor, std: Tensor, log_mass: Tensor) -> Tensor:
            return (Unit().log_density(gap[:, None] / std) - std.log() + log_mass).logsumexp(-1)

        return self._at(y, density)

    def quantile(self, p: float) -> Tensor:
        tail = min(p, 1 - p)
        if tail == 0.5:
            return self.mean
        # P(|f + e| > x + y) is at most P(|f| > x) + P(|e| > y), and f + e is more spread than either.
        ends = [(-special.ndtri(part), -special.stdtrit(self.nu, part)) for part in (tail, tail / 2)]
        variance, noise = self._variances()
        std, scale = variance.sqrt().flatten(), noise.sqrt().flatten()
        low = torch.maximum(std * ends[0][0], scale * ends[0][1])
        high = std * ends[1][0] + scale * ends[1][1]

        def solve(reach: Tensor, start: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
            return _upper_quantile(tail, start, reach, *self._table(reach, variance, noise))

        found = _in_pieces(solve, high, low, variance.flatten(), noise.flatten())
        distance = found.reshape(self.mean.shape)
        return self.mean + (distance if p > 0.5 else -distance)

    def affine(self, scale: Tensor, shift: Tensor) -> "Convolved":
        return replace(self, latent=self.latent.affine(scale, shift), noise=self.noise * scale.square())

    def gaussians(self) -> tuple[Tensor, Tensor]:
        """The Gaussians about the mean whose mixture each marginal is: their std (*b, n, m, k) and masses (k,)."""
        variance, noise = self._variances()
        # Sums over pairs of them bend where both scales are equal, so the nodes stay close until masses
        # of pairs, w^(nu - 1/2) with the smaller deviation, are negligible.
        depth = PAIRED / max(self.nu - 0.5, 0.3)
        u, log_mass = _nodes(self.nu, self.nu * math.expm1(depth), (variance / noise).max().item(), math.inf)
        mass = log_mass.exp().to(variance)
        return (variance.unsqueeze(-1) + noise.unsqueeze(-1) * (-u.to(variance)).exp()).sqrt(), mass

    def _variances(self) -> tuple[Tensor, Tensor]:
        """Of f and the squared scale of the noise, both (*b, n, m)."""
        variance = self.latent.variance
        return variance, torch.as_tensor(self.noise).to(variance).expand(variance.shape)

    def _at(self, y: Tensor, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """function(gap (k,), std (k, nodes), log masses) of each entry of y."""
        gap, variance, noise = torch.broadcast_tensors(y - self.mean, *self._variances())

        def piece(gap: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
            return function(gap, *self._table(gap, variance, noise))

        return _in_pieces(piece, *(t.flatten() for t in (gap, variance, noise))).reshape(gap.shape)

    def _table(self, gap: Tensor, variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Standard deviations (k, nodes) of the Gaussians and the logarithms of their masses (nodes,)."""
        with torch.no_grad():
            square = torch.where(gap.isfinite(), gap, 0.0).square()
            extremes = [square / noise, variance / noise, torch.where(square > 0, square / variance, 0.0)]
            nodes = _nodes(self.nu, *(values.max().item() for values in extremes))
        u, log_mass = (t.to(gap) for t in nodes)
        return (variance[:, None] + noise[:, None] * (-u).exp()).sqrt(), log_mass


def _below(t: Tensor) -> Tensor:
    """The normal distribution function; torch's own loses the figures of its lower tail."""
    return 0.5 * torch.special.erfc(-t / math.sqrt(2))


def _in_pieces(function: Callable[..., Tensor], *columns: Tensor) -> Tensor:
    """function of columns (k,), so many rows at once that tables of some hundred nodes stay small."""
    parts = zip(*(column.split(ENTRIES // 256) for column in columns), strict=True)
    return torch.cat([function(*part) for part in parts])


def _nodes(nu: float, reach: float, ratio: float, pull: float) -> tuple[Tensor, Tensor]:
    """Nodes u = log w (k,) and the logarithms of their masses, in double precision on the CPU.

    reach : the greatest squared distance from the mean, and ratio the greatest variance of f, both
        in squared scales of the noise; pull, the greatest squared distance in variances of f.

    The slope in u that the distance adds to that of log p is at most t^2 e^u / 2, and at most
    pull / 8. Where f varies much more than e, the latter keeps the sum short. A variance of f moves
    the poles of the integrand, at noise e^-u = -v, to the left, where for many degrees of freedom
    nothing is left.
    """
    a = nu / 2
    right, left = _falls(a)
    tail = -math.log1p(reach / nu)
    if pull / 8 <= a / 2:
        tail, left = max(tail, -math.log(2)), _falls(a / 2)[1]
    if a * math.log1p(ratio) < FALL:
        tail = min(tail, -math.log1p(ratio))
    start = tail - left
    if left > math.exp(-2):
        start = max(start, tail - 2 - math.log(left))
    step = min(STEP, SHARE / math.sqrt(a + 0.5))
    x = torch.arange(start, math.log1p(0.5 / a) + right + 0.2 + step, step, dtype=torch.float64)
    bend = (tail - 2 - x).exp()
    u = x - bend
    return u, (a * (u - torch.expm1(u)) + torch.log1p(bend)).log_softmax(0)


def _falls(a: float) -> tuple[float, float]:
    """Distances d to the right and left over which a (e^d - 1 - d) surely comes to FALL."""
    right = math.sqrt(2 * FALL / a)
    if right > 2.5:  # then e^d - 1 - d > e^d / 2 at d = log(2 FALL / a)
        right = math.log(2 * FALL / a)
    left = math.sqrt(3 * FALL / a)
    return right, left if left < 1 else 1 + FALL / a


def _upper_quantile(tail: float, low: Tensor, high: Tensor, std: Tensor, log_mass: Tensor) -> Tensor:
    """The x (k,) above the mean with P(y > mean + x) = tail, by Newton steps that a bracket guards."""
    mass, x = log_mass.exp(), low
    for _ in range(STEPS):
        t = x[:, None] / std
        outside = _below(-t) @ mass
        density = (Unit().log_density(t).exp() / std) @ mass
        gap = outside.log() - math.log(tail)
        low, high = torch.where(gap > 0, x, low), torch.where(gap > 0, high, x)
        newton = x + gap * outside / density
        close = (newton - x).abs() <= CLOSE * high
        x = torch.where(close | ((low < newton) & (newton < high)), newton, (low + high) / 2)
        if close.all():
            break
    return x
