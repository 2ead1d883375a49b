"""All quantiles of y given x by one network f(x, t) that takes the level t as one more input.

The pinball loss of a forecast q of y at the level t is

    pinball(y - q, t) = max(t (y - q), (t - 1) (y - q)),

least on average at the quantile. Networks are trained on it at levels that are drawn anew for each
row of each mini-batch, one in each of a few equal parts of (0, 1), and are kept from crossing by a
penalty on slopes in the level that are negative,

    mean over levels of pinball(y - f(x, t), t) + crossing * max(0, -df/dz),    crossing = log n.

Units are rectified quadratic ones (ReQU), max(u, 0)^2, under which f and the penalty have continuous
gradients; the slope is carried along with the values, in forward mode. Where the paper gives the
network the level t, here it gets the normal score z = ndtri(t), as the quantiles of a Gaussian
law are a straight line in it and a slope in z has the sign of one in t. Average the quantiles of a
few such networks and they still do not cross. Those that do, if any, are put in order.

Rectified quadratics grow fast: beyond the data each input is held at the edge of its range there.

Source: Shen, Jiao, Lin, Horowitz & Huang (2024), "Nonparametric Estimation of Non-Crossing Quantile
Regression Process with Deep ReQU Neural Networks"; Chernozhukov, Fernandez-Val & Galichon (2010),
"Quantile and Probability Curves Without Crossing", for the order.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.quantiles import Quantiles, crossed, rearranged, reordered, require_noise
from kernelfield.models.neural.batches import LEAST
from kernelfield.models.neural.ensemble import last_layer
from kernelfield.models.neural.likelihoods import Likelihood
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.train import Training, train
from kernelfield.nets.dense import Affine
from kernelfield.nets.polynomials import ReQU

KEEP = (2 / 3) ** 0.5  # with this scale of weights, signals behind rectified quadratics keep their size
EDGE = 1e-3  # levels nearer to 0 or 1 than this are not trained on
REACH, SCORES = 3.0, 31  # of the law: quantiles at so many normal scores from -REACH to REACH
THIN = 1e-4  # of the spread of the targets: the least standard deviation of a law, which thus has a density


def patient() -> Training:
    """The default training, which ends when a tenth of the rows are predicted no better.

    Its large learning rate is for targets with little noise: networks start from the law of all targets,
    and one that has not come to its end leaves intervals too wide.
    """
    return Training(steps=2000, learning_rate=2e-2, held_out=0.1, clip=10.0)


@dataclass(eq=False, repr=False)
class QuantileNetwork(Model):
    """Networks f(x, t) of ReQU units that give the quantile of y at x and any level t, averaged.

    widths : of the hidden layers.
    members : networks that are trained apart, and whose quantiles are averaged.
    crossing : the factor of the penalty on quantiles that cross; None is log n, 0 has none.
    levels : drawn for each row of a mini-batch.
    training : how. Fewer than 20 rows are all fitted, with none held out.

    Weights count rows: a row of weight 2 is two rows.
    Errors: ValueError for a value out of its range, and those of `train`.

    >>> X = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    >>> noise = torch.randn(200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> model = QuantileNetwork(members=1, training=Training(steps=400, learning_rate=3e-3))
    >>> fitted = model.fit(Data(X, (1.5 + X) * noise), generator=torch.Generator().manual_seed(0))
    >>> left, right = fitted.posterior(X[[20, 180]], noise=True).variance.sqrt().flatten().tolist()
    >>> right > 2 * left
    True
    """

    widths: tuple[int, ...] = (32, 32)
    members: int = 4
    crossing: float | None = None
    levels: int = 4
    training: Training = field(default_factory=patient)

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedQuantileNetwork":
        n, (d, m) = len(data.X), (data.X.shape[1], data.Y.shape[1])
        crossing = self._crossing(n)
        network = Network(multilayer(self.widths, ReQU(), w=KEEP), d + 1, m)
        spread = data.Y.std(0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)
        start = network.draw(self.members, generator).masked_fill(last_layer(network), 0.0)
        done = train(
            network,
            Data(data.X, data.Y, None if data.weight is None else data.weight / data.weight.mean()),
            Pinball(crossing),
            replace(self.training, held_out=0.0) if n < LEAST else self.training,
            generator=generator,
            start=start,
            evaluate=AtLevels(network, spread, self.levels, generator),
            judge=AtLevels(network, spread, self.levels),
        )
        fitted = FittedQuantileNetwork(
            network,
            done.parameters,
            torch.stack([data.X.amin(0), data.X.amax(0)]),
            spread,
            crossing,
            tuple(done.notes),
        )
        return replace(fitted, crossed=crossed(fitted.quantiles(data.X, fitted.scores)))

    def _crossing(self, n: int) -> float:
        """The factor of the penalty, once all settings are known to be in range."""
        if self.members < 1:
            raise ValueError(f"members must be at least 1, got {self.members}")
        if self.levels < 1:
            raise ValueError(f"levels must be at least 1 for each row of a mini-batch, got {self.levels}")
        if self.crossing is None:
            return math.log(n)
        if not (self.crossing >= 0 and math.isfinite(self.crossing)):
            raise ValueError(f"crossing must be finite and not negative, got {self.crossing}; 0 has no penalty")
        return float(self.crossing)


@dataclass(frozen=True, eq=False)
class FittedQuantileNetwork(Surrogate):
    """Parameters (k, p) of networks of (x, z), and the range (2, d) of the inputs that they have seen.

    spread (m,): the standard deviations of the targets, those of a network of zeros; crossed: the share
    of neighbouring quantiles at the rows of the fit that were in the wrong order.
    """

    network: Network
    parameters: Tensor
    seen: Tensor
    spread: Tensor
    crossing: float
    remarks: tuple[str, ...] = ()
    crossed: float = 0.0

    @property
    def outputs(self) -> int:
        return self.network.outputs

    def footprint(self, rows: int) -> int:
        return SCORES * self.network.activity * len(self.parameters)

    def posterior(self, X: Tensor, *, noise: bool = False) -> Quantiles:
        require_noise(noise)
        scores = self.scores.to(X)
        values = rearranged(self.quantiles(X, scores)) + THIN * self.spread.to(X)[:, None] * scores
        return Quantiles(torch.special.ndtr(scores), values)

    @property
    def scores(self) -> Tensor:
        """The normal scores (s,) of the quantiles that make a law."""
        return torch.linspace(-REACH, REACH, SCORES, dtype=torch.float64)

    def quantiles(self, X: Tensor, scores: Tensor) -> Tensor:
        """The quantiles (*b, n, m, s) at X (*b, n, d) as the networks give them, which may cross."""
        low, high = self.seen.to(X)
        rows = torch.minimum(torch.maximum(X, low), high).flatten(0, -2)
        levels = scores.to(X).expand(1, len(rows), -1)
        values, _ = quantiles_and_slopes(self.network, self.spread.to(X), self.parameters.to(X), rows, levels)
        return values.mean(0).mT.unflatten(0, X.shape[:-1])

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {"crossing": self.crossing}

    def notes(self) -> list[str]:
        return [*self.remarks, *reordered(self.crossed)]


@dataclass(frozen=True)
class Pinball(Likelihood):
    """The pinball loss of quantiles at the levels that `AtLevels` gives beside them, and what crossing costs.

    >>> values = torch.tensor([[[0.0, 1.0, 0.9], [0.0, -2.0, 0.9]]])  # a quantile, its slope and its level, twice
    >>> round(Pinball(10.0).loss(values, torch.ones(1, 1)).item(), 4)  # 0.9 + 10 (0 + 2) / 2
    10.9
    """

    crossing: float

    def width(self, m: int) -> int:
        return m

    def loss(self, values: Tensor, Y: Tensor, weight: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        rows, m = Y.shape[-2:]
        quantiles, slopes, level = values.unflatten(-2, (rows, -1)).split([m, m, 1], -1)
        gap = Y.unsqueeze(-2) - quantiles
        loss = torch.maximum(level * gap, (level - 1) * gap) + self.crossing * slopes.neg().clamp_min(0)
        each = loss.mean(-2).sum(-1)
        return (each if weight is None else each * weight).mean(-1)


@dataclass(frozen=True, eq=False)
class AtLevels:
    """Evaluates networks with parameters (k, p) at X (k, b, d), each row at levels of its own.

    The answer (k, b l, 2 m + 1) has l quantiles of each row, their slopes in the normal score of the
    level, and the level. It is drawn from each of l equal parts of (0, 1); without a generator it is
    their middle.
    """

    network: Network
    spread: Tensor
    levels: int
    generator: torch.Generator | None = None

    def __call__(self, parameters: Tensor, X: Tensor) -> Tensor:
        shape = (*X.shape[:2], self.levels)
        part = torch.arange(self.levels).to(X)
        inside = torch.tensor(0.5) if self.generator is None else torch.rand(shape, generator=self.generator)
        level = ((part + inside.to(X)) / self.levels).clamp(EDGE, 1 - EDGE).expand(shape)
        values, slopes = quantiles_and_slopes(
            self.network, self.spread.to(X), parameters, X, torch.special.ndtri(level)
        )
        return torch.cat([values, slopes, level.unsqueeze(-1)], -1).flatten(1, 2)


def quantiles_and_slopes(
    network: Network, spread: Tensor, parameters: Tensor, X: Tensor, scores: Tensor
) -> tuple[Tensor, Tensor]:
    """f and df/dz (k, b, l, m) of networks with parameters (k, p) at X (k, b, d) and scores (k, b, l).

    Affine layers move slopes by their weights; behind a rectified quadratic they are 2 max(u, 0) du.
    """
    (first, bias), *layers = _layers(network, parameters)
    inputs = (X @ first[..., :-1].mT + bias.unsqueeze(-2)).unsqueeze(-2)  # once, whatever the levels
    towards = first[:, None, None, :, -1]
    values = inputs + scores.unsqueeze(-1) * towards
    slopes = towards.expand(values.shape)
    values, slopes = values.flatten(1, 2), slopes.flatten(1, 2)
    for weight, bias in layers:
        positive = values.clamp_min(0)
        values, slopes = positive.square(), 2 * positive * slopes
        values, slopes = torch.baddbmm(bias.unsqueeze(-2), values, weight.mT), torch.bmm(slopes, weight.mT)
    shape = tuple(scores.shape[1:])
    return values.unflatten(1, shape) + spread * scores.unsqueeze(-1), slopes.unflatten(1, shape) + spread


def _layers(network: Network, parameters: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Weights (k, out, in) and biases (k, out) of the affine layers, their gains included."""
    named, found = network.named(parameters), []
    for name, layer in network.skeleton.named_modules():
        if isinstance(layer, Affine):
            gains = [torch.as_tensor(gain).to(parameters) for gain in layer.gains]
            found.append((gains[0] * named[f"{name}.weight"], gains[1] * named[f"{name}.bias"]))
    return found
