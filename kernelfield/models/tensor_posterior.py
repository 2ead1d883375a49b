"""The law of a tensor with continuous indices: sums of products of independent Gaussians.

f_c = sum_j W_jc prod_k u_k[j_k](t_k), its factors independent of each other, has the exact mean
sum_j E[W_jc] prod_k E[u_k[j_k]]. With S = prod_k E[u_k u_k'] and a = prod_k E[u_k], entry by entry over pairs of
core entries, its exact variance is

    w' (S - a a') w + sum(V o S),    W_c ~ N(w, V),

in which S - a a' is gathered mode by mode as a sum of positive parts, D <- D o E[u u'] + a a' o cov(u): nothing
cancels where the variance is small. Draws are exact too: of whole factors, multiplied. Such a law has
no density in closed form; `cdf`, `log_prob` and `quantile` are those of the Gaussian with its
mean and variance, an approximation that is good where the factors are known well.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.core.mixing import Unit
from kernelfield.core.numerics import cholesky
from kernelfield.core.posterior import Posterior
from kernelfield.models.tensor_factors import BLOCK, Core, Mode


@dataclass(frozen=True, eq=False)
class Products(Posterior):
    """See the module docstring.

    modes : each at all times that are asked for, with their places (*b, n) among its times.
    cells (J, K) : the rank in each mode of the core's entries.
    noise : variance of an observation, before scaling; zero for f.
    scale, shift (m,) : the units.
    """

    modes: tuple[Mode, ...]
    places: tuple[Tensor, ...]
    cells: Tensor
    core: Core
    noise: float
    scale: Tensor
    shift: Tensor

    @property
    def width(self) -> int:
        observed = self.places[0].shape[-1] * len(self.scale) if self.noise else 0
        return sum(rows * len(mode.times) for mode, rows in self._factors) + self.core.mean.numel() + observed

    @property
    def _factors(self) -> list[tuple[Mode, int]]:
        """Each mode, and the normals that one of its times takes."""
        return [(mode, len(mode.lengthscales) * (mode.size + 1)) for mode in self.modes]

    @property
    def mean(self) -> Tensor:
        return self.scale * self._moments[0] + self.shift

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * (self._moments[1] + self.noise)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (*b, n, m) of f before scaling."""
        shape = self.places[0].shape
        flat = torch.stack([place.flatten() for place in self.places])
        blocks = flat.split(max(1, BLOCK // len(self.cells) ** 2), dim=1)
        found = [self._of_rows(rows) for rows in blocks] if flat.shape[1] else [(self.core.mean[:0],) * 2]
        mean, variance = (torch.cat(parts).unflatten(0, shape) for parts in zip(*found, strict=True))
        return mean, variance

    def _of_rows(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (n, m) at rows given by their places (K, n)."""
        entries = len(self.cells)
        a = self.scale.new_ones(places.shape[1], entries)
        D = a.new_zeros(len(a), entries, entries)
        for mode, place, ranks in zip(self.modes, places, self.cells.mT, strict=True):
            square, covariance = (M[place][:, ranks][:, :, ranks] for M in (mode.square, mode.covariance))
            D = D * square + a[:, :, None] * a[:, None] * covariance
            a = a * mode.mean[place][:, ranks]
        W, V = self.core.mean, self.core.covariance
        of_factors = torch.einsum("jc,njk,kc->nc", W, D, W)
        of_core = torch.einsum("njk,jk->n", D, V) + ((a @ V) * a).sum(1)
        return a @ W, (of_factors + of_core[:, None]).clamp_min(0)

    def draw(self, z: Tensor) -> Tensor:
        batch = self.places[0].shape[:-1]
        outer = z.shape[:-1]
        rest = z.reshape(-1, batch.numel(), self.width)  # (s, b, width)
        samples, members = rest.shape[:2]
        product = self.scale.new_ones(())
        for (mode, rows), place, ranks in zip(self._factors, self.places, self.cells.mT, strict=True):
            own, rest = rest.split([rows * len(mode.times), rest.shape[-1] - rows * len(mode.times)], -1)
            normals = own.reshape(samples * members, len(mode.times), rows).movedim(0, -1)
            paths = mode.system.draw(mode.linear, normals).unflatten(-1, (samples, members))
            each = torch.arange(members).to(place.device)[:, None]
            product = product * paths.movedim(-1, 0)[each, place.reshape(members, -1)][:, :, ranks]  # (b, n, J, s)
        entries = self.core.mean.numel()
        own, rest = rest[..., :entries], rest[..., entries:]
        W = self.core.mean + cholesky(self.core.covariance) @ own.unflatten(-1, self.core.mean.shape)
        values = torch.einsum("bnjs,sbjc->sbnc", product, W)
        if self.noise:
            values = values + self.noise**0.5 * rest.unflatten(-1, values.shape[-2:])
        return (self.scale * values + self.shift).reshape(*outer, *values.shape[-2:])

    def cdf(self, y: Tensor) -> Tensor:
        return Unit().cdf((y - self.mean) / self.variance.sqrt())

    def log_prob(self, y: Tensor) -> Tensor:
        spread = self.variance.sqrt()
        return Unit().log_density((y - self.mean) / spread) - spread.log()

    def quantile(self, p: float) -> Tensor:
        return self.mean + self.variance.sqrt() * Unit().quantile(torch.full_like(self.mean, p))

    def affine(self, scale: Tensor, shift: Tensor) -> "Products":
        return replace(self, scale=self.scale * scale, shift=self.shift * scale + shift)
