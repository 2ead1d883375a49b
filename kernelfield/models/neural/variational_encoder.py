"""A conditional variational autoencoder: the law of m outputs given x as a map of a standard normal z.

    y = D(x, z) + e,    z ~ N(0, I_r),    e_j ~ N(0, v_j),
    q(z | x, y) = N(mean(x, y), diag std(x, y)^2)

Decoder D, encoder and noise v are trained to make the evidence lower bound of a row large,

    log p(y | x) >= E_q log N(y; D(x, z), v) - KL(q(z | x, y) || N(0, I)).

The noise is learned and not set, so that there is no weight of the divergence to choose. A shape of
Y | x that is bent, skewed or in pieces becomes a round one in z, where half-spaces describe it.

Sources: Kingma & Welling (2014), "Auto-Encoding Variational Bayes"; Sohn, Lee & Yan (2015), "Learning
Structured Output Representation using Deep Conditional Generative Models"; Rybkin, Daniilidis & Levine
(2021), "Simple and Effective VAE Training with Calibrated Decoders".
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernelfield.core.contracts import Data
from kernelfield.models.neural.likelihoods import Gaussian, Likelihood
from kernelfield.models.neural.network import Network
from kernelfield.models.neural.stacked import Stacked
from kernelfield.models.neural.train import Training, train

LOG_REACH = 6.0  # the logarithm of an encoder's std bends towards plus and minus this


def perceptron(inputs: int, outputs: int, width: int, layers: int, activation: type[nn.Module]) -> nn.Sequential:
    """Hidden layers of one activation, and a linear one."""
    steps: list[nn.Module] = []
    for i in range(layers):
        steps += [nn.Linear(width if i else inputs, width), activation()]
    return nn.Sequential(*steps, nn.Linear(width, outputs))


class Autoencoder(nn.Module):
    """From rows [x, y, e] with e (r,) standard normal to [D(x, z), mean, log std], z = mean + std e.

    The activations are smooth rectifiers, through which level sets have no corners.
    """

    def __init__(self, inputs: int, outputs: int, latent: int, width: int, layers: int) -> None:
        super().__init__()
        self.sizes = [inputs, outputs, latent]
        self.encoder = perceptron(inputs + outputs, 2 * latent, width, layers, nn.SiLU)
        self.decoder = perceptron(inputs + latent, outputs, width, layers, nn.SiLU)

    def forward(self, rows: Tensor) -> Tensor:
        return autoencoded(dict(self.named_parameters()), rows, self.sizes)


def autoencoded(named: dict[str, Tensor], rows: Tensor, sizes: list[int]) -> Tensor:
    """What an `Autoencoder` makes of rows (*b, n, d + m + r), given its parameters (*b, *shape) by name.

    Its own products in place of torch.func's mapping over a module: a step of training takes half the time.
    """
    x, y, e = rows.split(sizes, -1)
    mean, log_std = encoded(named, x, y)
    return torch.cat([decoded(named, x, mean + log_std.exp() * e), mean, log_std], -1)


def encoded(named: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log std (*b, n, r) of z."""
    mean, raw = _values(named, "encoder.", torch.cat([x, y], -1)).chunk(2, -1)
    return mean, LOG_REACH * torch.tanh(raw / LOG_REACH)


def decoded(named: dict[str, Tensor], x: Tensor, z: Tensor) -> Tensor:
    """The outputs (*b, n, m) without noise."""
    return _values(named, "decoder.", torch.cat([x, z], -1))


def _values(named: dict[str, Tensor], part: str, rows: Tensor) -> Tensor:
    own = [value for name, value in named.items() if name.startswith(part)]
    for weights, biases in zip(own[::2], own[1::2], strict=True):
        rows = rows @ weights.mT + biases.unsqueeze(-2)
        if biases is not own[-1]:
            rows = nn.functional.silu(rows)
    return rows


@dataclass(frozen=True)
class EvidenceBound(Likelihood):
    """The negative evidence lower bound of a row, of one draw of z; values are those of an `Autoencoder`.

    >>> values = torch.tensor([[[1.0, 0.0, 0.0]]])  # reconstructed, with the posterior equal to the prior
    >>> round(EvidenceBound(latent=1).loss(values, torch.tensor([[1.0]]), noise=torch.ones(1, 1)).item(), 4)
    0.9189
    """

    latent: int

    def width(self, m: int) -> int:
        return m + 2 * self.latent

    def loss(self, values: Tensor, Y: Tensor, weight: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        y, mean, log_std = values.split([Y.shape[-1], self.latent, self.latent], -1)
        divergence = 0.5 * (mean.square() + (2 * log_std).exp() - 1).sum(-1) - log_std.sum(-1)
        return Gaussian().loss(y, Y, weight, noise) + divergence.mean(-1)

    @property
    def learned(self) -> bool:
        return True

    def start(self, Y: Tensor, weight: Tensor | None = None) -> Tensor | None:
        return Gaussian().start(Y, weight)


def fit_encoder(
    data: Data, training: Training, *, latent: int, width: int, layers: int, generator: torch.Generator
) -> "VariationalEncoder":
    """Train an autoencoder with a latent space of r = `latent` dimensions on standardised data."""
    d, m = data.X.shape[1], data.Y.shape[1]
    network = Network(Autoencoder(d, m, latent, width, layers), d + m + latent, m + 2 * latent)
    rows = torch.cat([data.X, data.Y, torch.zeros(len(data.X), latent).to(data.X)], -1)
    done = train(
        network,
        Data(rows, data.Y, data.weight),
        EvidenceBound(latent),
        training,
        start=network.draw(1, generator),
        evaluate=refreshed(
            lambda parameters, rows: autoencoded(network.named(parameters), rows, [d, m, latent]),
            lambda shape: torch.randn(*shape, latent, generator=generator),
        ),
        generator=generator,
    )
    if done.noise is None:
        raise RuntimeError("training gave no noise")
    return VariationalEncoder(network, done.parameters[0].to(data.X), done.noise[0].to(data.X), tuple(done.notes))


def refreshed(evaluate: Stacked, fresh: Callable[[torch.Size], Tensor]) -> Stacked:
    """What evaluates networks on rows whose last columns are drawn anew at each step.

    fresh : from a shape (k, b) to those columns (k, b, c).
    """

    def values(parameters: Tensor, X: Tensor) -> Tensor:
        drawn = fresh(X.shape[:-1]).to(X)
        return evaluate(parameters, torch.cat([X[..., : X.shape[-1] - drawn.shape[-1]], drawn], -1))

    return values


@dataclass(frozen=True, eq=False)
class VariationalEncoder:
    """A trained autoencoder. noise (m,): the variances of what it does not decode."""

    network: Network
    parameters: Tensor
    noise: Tensor
    notes: tuple[str, ...] = ()

    @property
    def latent(self) -> int:
        """The number r of latent dimensions."""
        return (self.network.outputs - len(self.noise)) // 2

    def encode(self, X: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (n, r) of z given X (n, d) and Y (n, m)."""
        mean, log_std = encoded(self.network.named(self.parameters), X, Y)
        return mean, log_std.exp()

    def decode(self, X: Tensor, Z: Tensor) -> Tensor:
        """Outputs without noise (*b, m) at X (*b, d) and Z (*b, r)."""
        return decoded(self.network.named(self.parameters), X, Z)
