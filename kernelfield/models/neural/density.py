"""The posterior of a network's parameters as a log density, in coordinates where the prior is standard normal.

A position z of a chain holds the parameters divided by their prior standard deviations, then for
each tensor of parameters the logarithm of a factor of its own, if these are learned, and for each
output whose noise is learned the logarithm of its variance, standardised likewise:

    theta = prior_std exp(SCALE_SPREAD z_2) z_1,    log noise_j = centre_j + NOISE_SPREAD z_3j
    log p(z | data) = -|z|^2 / 2 - sum_i nll(y_i; f(x_i; theta), noise / weight_i),    z ~ N(0, I)

The factors let the data say how large the weights of a layer are: with scales that are held, a
function that varies faster than the prior thinks is taken for noise. The centre of the noise is a
tenth of the variance of the targets, and two of the standard deviations of its logarithm are a
factor of fifty.

Source: Neal (1996), "Bayesian Learning for Neural Networks", section 3.1, for scales that are sampled.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.models.neural.likelihoods import Likelihood
from kernelfield.models.neural.network import Network
from kernelfield.models.neural.stacked import Stacked, stacked

NOISE_SPREAD = 2.0  # of the logarithm of the noise
SCALE_SPREAD = 1.0  # of the logarithm of the factor of a tensor


@dataclass(frozen=True, eq=False)
class NetworkDensity:
    """The log posterior of k positions (k, p) at once, in the data type and on the device of the data.

    prior_std: that of the network's parameters; centre (m,): the logarithm of the noise where the
    prior has it, None where no noise is learned; owners (p,): the number of the tensor to which a
    parameter belongs, None where scales are held.
    """

    network: Network
    data: Data
    likelihood: Likelihood
    prior_std: Tensor
    centre: Tensor | None
    owners: Tensor | None = None

    @classmethod
    def of(
        cls,
        network: Network,
        data: Data,
        likelihood: Likelihood,
        *,
        scale: float = 1.0,
        learn_scales: bool = False,
        dtype: torch.dtype,
    ) -> "NetworkDensity":
        """The density in a precision of its own, with the prior of the network widened by `scale`."""
        X, Y, weight = data.X.to(dtype), data.Y.to(dtype), None if data.weight is None else data.weight.to(dtype)
        noise = likelihood.start(data.Y, data.weight) if likelihood.learned else None
        prior_std = (scale * network.prior_std).to(X)
        centre = None if noise is None else noise.log().to(X)
        counts = torch.tensor([math.prod(shape) for shape in network.shapes.values()])
        owners = torch.arange(len(counts)).repeat_interleave(counts).to(X.device) if learn_scales else None
        return cls(network, Data(X, Y, weight), likelihood, prior_std, centre, owners)

    @property
    def size(self) -> int:
        """The length p of a position."""
        return self.first_noise + (0 if self.centre is None else len(self.centre))

    @property
    def first_noise(self) -> int:
        """Where the logarithms of the noise begin in a position."""
        return len(self.prior_std) + (0 if self.owners is None else len(self.network.shapes))

    def __call__(self, z: Tensor) -> Tensor:
        """The log densities (k,), in nats, up to a constant."""
        X, Y, weight = self.data.X, self.data.Y, self.data.weight
        return self._posterior(z, X.expand(len(z), *X.shape), Y, weight)

    def at_rows(self, z: Tensor, rows: Tensor) -> Tensor:
        """The log densities (k,) of which each chain sees rows (k, b) of its own, which stand for all n."""
        weight = None if self.data.weight is None else self.data.weight[rows]
        return self._posterior(z, self.data.X[rows], self.data.Y[rows], weight)

    def _posterior(self, z: Tensor, X: Tensor, Y: Tensor, weight: Tensor | None) -> Tensor:
        loss = self.likelihood.loss(self.evaluate(self.parameters(z), X), Y, weight, self.noise(z))
        return -z.square().sum(-1) / 2 - len(self.data.X) * loss

    def parameters(self, z: Tensor) -> Tensor:
        """The parameters (*k, p) of the networks at positions."""
        p = len(self.prior_std)
        theta = z[..., :p] * self.prior_std
        return theta if self.owners is None else theta * self._factors(z[..., p : self.first_noise])

    def noise(self, z: Tensor) -> Tensor | None:
        """The variances (*k, m) of the noise at positions; None where none is learned."""
        if self.centre is None:
            return None
        return (self.centre + NOISE_SPREAD * z[..., self.first_noise :]).exp()

    def position(self, parameters: Tensor, noise: Tensor | None) -> Tensor:
        """The positions (*k, p) that have these parameters, and noise (*k, m)."""
        fixed = self.prior_std == 0  # such a parameter is zero, wherever its coordinate is
        z = parameters.to(self.prior_std) / torch.where(fixed, torch.ones_like(self.prior_std), self.prior_std)
        if self.owners is not None:
            # The factors that make the parameters of a tensor as large as the prior has them.
            sums = z.new_zeros(*z.shape[:-1], len(self.network.shapes)).index_add_(-1, self.owners, z.square())
            own = ((sums + 2) / (self.owners.bincount() + 2)).log() / (2 * SCALE_SPREAD)
            z = torch.cat([z / self._factors(own), own], -1)
        if self.centre is None or noise is None:
            return z
        return torch.cat([z, (noise.to(z).log() - self.centre) / NOISE_SPREAD], -1)

    def _factors(self, own: Tensor) -> Tensor:
        """The factors (*k, p) of parameters, from those of tensors (*k, t), as logarithms over SCALE_SPREAD."""
        return (SCALE_SPREAD * own).exp()[..., self.owners]

    def draw(self, members: int, generator: torch.Generator) -> Tensor:
        """Positions (k, p) drawn from the prior."""
        z = torch.randn(members, self.size, generator=generator, dtype=self.prior_std.dtype)
        return z.to(self.prior_std.device)

    @cached_property
    def evaluate(self) -> Stacked:
        """The networks, many at once."""
        return stacked(self.network)
