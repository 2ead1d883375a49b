"""Regions of several outputs by directional quantiles in a learned latent space (ST-DQR).

1. A conditional variational autoencoder maps Y | x to a latent z whose law is about standard normal
   (`kernelfield.models.neural.variational_encoder`).
2. One network q(x, u) learns the quantile of u . z at level tau for all directions u at once, by the
   pinball loss with a direction drawn at each step. The region in the latent space is convex,

       R(x) = { z : u . z <= q(x, u) for all u },

   the intersection of half-spaces. With z ~ N(0, I_r) it is the ball of radius Phi^-1(tau), so that

       tau = Phi(sqrt(F^-1(level))),    F the distribution function of chi^2_r,

   is the level at which the region holds the share `level`.
3. Decoded, R(x) has any shape. `cloud` gives it as points: a ball of latent points goes through the
   decoder, with a flag for those in R(x). `kernelfield.uq.conformal.clouds` makes of it a region
   with a guarantee, by the distance of calibration rows to it.

Sources: Feldman, Bates & Romano (2023), "Calibrated Multiple-Output Quantile Regression with
Representation Learning"; Kong & Mizera (2012), "Quantile Tomography: Using Quantiles with Multivariate
Data", for the intersection; Paindaveine & Siman (2011), "On Directional Multiple-Output Quantile
Regression".
"""

import math
from dataclasses import dataclass, field

import torch
from scipy import stats
from torch import Tensor, nn

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.posterior import Draws
from kernelfield.models.neural.likelihoods import Likelihood
from kernelfield.models.neural.network import Network
from kernelfield.models.neural.stacked import stacked
from kernelfield.models.neural.train import Training, train
from kernelfield.models.neural.variational_encoder import VariationalEncoder, fit_encoder, perceptron, refreshed

BEYOND = 1.5  # how far the ball of latent points reaches, in radii of the region of a standard normal
CHUNK = 2**23  # numbers alive at a time where points meet directions


@dataclass(frozen=True)
class DirectionalPinball(Likelihood):
    """The pinball loss of u . z at level tau, for targets [mean, std] of z = mean + std e.

    Values are [q(x, u), u, e]: the loss reads the direction of a row and its noise from them.

    >>> values = torch.tensor([[[0.0, 1.0, 0.0]]])  # a quantile of zero in direction 1, and no noise
    >>> round(DirectionalPinball(0.9).loss(values, torch.tensor([[2.0, 1.0]])).item(), 4)
    1.8
    """

    tau: float

    def width(self, m: int) -> int:
        return 1

    def loss(self, values: Tensor, Y: Tensor, weight: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        mean, std = Y.chunk(2, -1)
        quantile, u, e = values.split([1, mean.shape[-1], mean.shape[-1]], -1)
        gap = (u * (mean + std * e)).sum(-1) - quantile[..., 0]
        loss = torch.maximum(self.tau * gap, (self.tau - 1) * gap)
        return (loss if weight is None else loss * weight).mean(-1)


@dataclass(eq=False, repr=False)
class DirectionalQuantiles(Model):
    """Quantile regions of several outputs together, of any shape.

    level : the share of Y that a region should hold; calibrate it on further rows.
    latent : the number r of latent dimensions; None is that of the outputs.
    width, layers : of the hidden layers of encoder, decoder and quantile network.
    training : of the autoencoder and, anew, of the quantile network.

    Units: X and Y standardised, as `FieldRegressor` gives them.
    Errors: ValueError for a level outside of (0, 1), or sizes below one.

    >>> X = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    >>> Y = torch.cat([torch.sin(3 * X), torch.cos(3 * X)], -1)
    >>> model = DirectionalQuantiles(width=8, training=Training(steps=20))
    >>> fitted = model.fit(Data(X, Y), generator=torch.Generator().manual_seed(0))
    >>> points, inside = fitted.cloud(X[:3], 100)
    >>> points.shape, inside.shape
    (torch.Size([3, 100, 2]), torch.Size([3, 100]))
    """

    level: float = 0.9
    latent: int | None = None
    width: int = 64
    layers: int = 2
    training: Training = field(default_factory=lambda: Training(steps=2500, batch=128, learning_rate=1e-2))

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedDirectionalQuantiles":
        if not 0 < self.level < 1:
            raise ValueError(f"level must be a share between 0 and 1, got {self.level}; write 0.9 for 90%")
        r = data.Y.shape[1] if self.latent is None else self.latent
        sizes = {"latent": r, "width": self.width, "layers": self.layers}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value}")
        encoder = fit_encoder(data, self.training, generator=generator, **sizes)
        tau = float(stats.norm.cdf(_radius(self.level, r)))
        with torch.no_grad():
            targets = torch.cat(encoder.encode(data.X, data.Y), -1)
        d = data.X.shape[1]
        network = Network(perceptron(d + r, 1, self.width, self.layers, nn.Tanh), d + r, 1)
        quantile = stacked(network)

        def values(parameters: Tensor, rows: Tensor) -> Tensor:
            return torch.cat([quantile(parameters, rows[..., : d + r]), rows[..., d:]], -1)

        def fresh(shape: torch.Size) -> Tensor:
            u, e = torch.randn(2, *shape, r, generator=generator)
            return torch.cat([nn.functional.normalize(u, dim=-1), e], -1)

        rows = torch.cat([data.X, fresh(data.X.shape[:1]).to(data.X)], -1)
        done = train(
            network,
            Data(rows, targets, data.weight),
            DirectionalPinball(tau),
            self.training,
            start=network.draw(1, generator),
            evaluate=refreshed(values, fresh),
            generator=generator,
        )
        notes = tuple(dict.fromkeys([*encoder.notes, *done.notes]))
        return FittedDirectionalQuantiles(encoder, network, done.parameters[0].to(data.X), self.level, notes)


def _radius(level: float, r: int) -> float:
    """Of the ball that holds the share `level` of a standard normal in r dimensions."""
    return math.sqrt(stats.chi2.ppf(level, r))


@dataclass(frozen=True, eq=False)
class FittedDirectionalQuantiles(Surrogate):
    """A trained autoencoder with the quantiles of its latent space."""

    encoder: VariationalEncoder
    network: Network
    parameters: Tensor
    level: float
    remarks: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        return len(self.encoder.noise)

    def footprint(self, rows: int) -> int:
        return DRAWS * (self.outputs + self.network.activity)

    def posterior(self, X: Tensor, *, noise: bool = False) -> Draws:
        """The law of the autoencoder as a mixture: decoded points of a standard normal, each with the noise.

        The function behind y has no law of its own here, so that noise=False leaves out what is not decoded.
        """
        z = torch.special.ndtri(_sobol(DRAWS, self.encoder.latent)).to(X)
        at = X.unsqueeze(-3).expand(*X.shape[:-2], DRAWS, *X.shape[-2:])
        with torch.no_grad():
            values = self.encoder.decode(at, z[:, None].expand(*at.shape[:-1], -1))
        variance = self.encoder.noise if noise else torch.zeros_like(self.encoder.noise)
        return Draws(values, X.new_full((DRAWS,), 1 / DRAWS), variance.expand(*X.shape[:-1], -1))

    def quantiles(self, X: Tensor, directions: Tensor) -> Tensor:
        """q(x, u) (n, c) at X (n, d) for unit directions (c, r)."""
        n, c = len(X), len(directions)
        rows = torch.cat([X[:, None].expand(-1, c, -1), directions.expand(n, -1, -1)], -1)
        with torch.no_grad():
            return self.network.values(self.parameters, rows.flatten(0, 1))[:, 0].unflatten(0, (n, c))

    def cloud(self, X: Tensor, size: int = 1024, *, directions: int = 256) -> tuple[Tensor, Tensor]:
        """Decoded latent points (n, size, m), and which of them (n, size) lie in the region of their x.

        size : points of a ball in the latent space, which are the same for each x.
        directions : half-spaces whose intersection the region is.
        """
        r = self.encoder.latent
        u, z = unit_vectors(directions, r).to(X), (BEYOND * _radius(self.level, r) * ball(size, r)).to(X)
        along = z @ u.mT
        points, inside = [], []
        for rows in X.split(max(1, CHUNK // (size * directions))):
            excess = (along - self.quantiles(rows, u)[:, None]).amax(-1)
            # Quantiles of opposite directions may cross and leave nothing: then the nearest point is left.
            inside.append(excess <= excess.amin(-1, keepdim=True).clamp_min(0))
            at = rows[:, None].expand(-1, size, -1)
            with torch.no_grad():
                points.append(self.encoder.decode(at, z.expand(len(rows), -1, -1)))
        return torch.cat(points), torch.cat(inside)

    def notes(self) -> list[str]:
        return list(self.remarks)


DRAWS = 256  # points that stand for the standard normal of a latent space


def unit_vectors(count: int, r: int) -> Tensor:
    """Directions (count, r) that are spread evenly over the sphere.

    >>> unit_vectors(4, 2).round().abs().int().tolist()
    [[1, 0], [0, 1], [1, 0], [0, 1]]
    """
    if r == 1:
        return torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    if r == 2:
        angle = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
        return torch.stack([angle.cos(), angle.sin()], -1)
    return nn.functional.normalize(torch.special.ndtri(_sobol(count, r)), dim=-1)


def ball(count: int, r: int) -> Tensor:
    """Points (count, r) that fill the unit ball evenly."""
    cube = _sobol(count, r + 1)
    if r == 1:
        return 2 * cube[:, :1] - 1
    return nn.functional.normalize(torch.special.ndtri(cube[:, :r]), dim=-1) * cube[:, r:] ** (1 / r)


def _sobol(count: int, r: int) -> Tensor:
    """Points (count, r) of the open unit cube, the same each time."""
    points = torch.quasirandom.SobolEngine(r, scramble=True, seed=0).draw(count, dtype=torch.float64)
    return points.clamp(1e-9, 1 - 1e-9)
