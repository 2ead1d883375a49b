"""Pathwise posteriors: samples by correcting prior draws, where structure makes priors cheap to draw.

Matheron's rule turns a joint draw of f at new points, f at the data and noise e there into a draw of
f given y = f + e:

    f(x) + k(x)' A^-1 (y - f - e),    A = K + noise.

A mean H b with a flat prior is no exception: y - f - e is predicted by universal kriging, trend included,
and the error that kriging makes on a simulated draw has the law of the error that it makes on
the data. So a path of `Pathwise` is that error, added to the posterior mean; it is linear in z, and
no matrix of all pairs of points is formed.

Source: Wilson, Borovitskiy, Terenin, Mostowsky & Deisenroth (2021), "Pathwise Conditioning of
Gaussian Processes".
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from kernelfield.core.posterior import Elliptical, Posterior


class Paths(Protocol):
    """Centred draws of a scaled Gaussian at n points."""

    @property
    def width(self) -> int:
        """The number of standard normals of one draw."""

    def __call__(self, z: Tensor) -> Tensor:
        """Noise (*s, *b, width) to deviations (*s, *b, n, m), linear in z."""


@dataclass(frozen=True, eq=False)
class Linear:
    """Paths by a linear function of noise; see `Paths`."""

    width: int
    function: Callable[[Tensor], Tensor]

    def __call__(self, z: Tensor) -> Tensor:
        return self.function(z)


@dataclass(frozen=True, eq=False)
class Pathwise(Posterior):
    """loc + unit * sqrt(s) path(z): the marginals of `law`, with its joint draws made by `paths`.

    law : an Elliptical of which the marginals are used; its scale need not be formed as a matrix.
    paths : deviations whose covariance is that scale, once per draw.

    >>> import torch
    >>> law = Elliptical(torch.zeros(2, 1), torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    >>> twins = Pathwise(law, Linear(1, lambda z: z[..., None].expand(*z.shape[:-1], 2, 1)))
    >>> twins.draw(torch.tensor([0.5])).flatten().tolist()
    [0.5, 0.5]
    """

    law: Elliptical
    paths: Paths

    @property
    def width(self) -> int:
        return self.law.mixing.width + self.paths.width

    @property
    def mean(self) -> Tensor:
        return self.law.mean

    @property
    def variance(self) -> Tensor:
        return self.law.variance

    @property
    def covariance(self) -> Tensor:
        """The joint covariance (n*m, n*m); the matrix of all pairs is formed. See `Elliptical.covariance`."""
        return self.law.covariance

    def draw(self, z: Tensor) -> Tensor:
        mixing = self.law.mixing
        head, body = z[..., : mixing.width], z[..., mixing.width :]
        values = self.paths(body)
        if mixing.width:
            values = values * mixing.scale(head).unsqueeze(-1)
        return self.law.loc + self.law.unit * values

    def cdf(self, y: Tensor) -> Tensor:
        return self.law.cdf(y)

    def log_prob(self, y: Tensor) -> Tensor:
        return self.law.log_prob(y)

    def quantile(self, p: float) -> Tensor:
        return self.law.quantile(p)

    def affine(self, scale: Tensor, shift: Tensor) -> "Pathwise":
        return replace(self, law=self.law.affine(scale, shift))
