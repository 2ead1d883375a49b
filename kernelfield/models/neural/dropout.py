"""Monte-Carlo dropout: a network trained with dropout, whose masks are drawn for predictions too.

A mask switches units of a layer off, each with its probability 1 - q, and divides the others by q.
In training each row of each mini-batch has masks of its own. In a prediction a mask belongs to a
function: the k functions of the law have k masks, each the same for all points, so that draws are
functions of x and their values at different points are dependent. For one linear layer with
weights w and masks on its inputs, f(x) = sum_i w_i m_i x_i / q has

    mean  w'x    and    covariance  (1 - q) / q sum_i w_i^2 x_i x_i'.

The noise is the variance that suits rows which were held out of the training, under the average
over masks, see `held_out_noise`. Of fewer than 100 rows none is held out: five more networks, each
trained without a fifth of the rows, are judged by it.

Source: Gal & Ghahramani (2016), "Dropout as a Bayesian Approximation: Representing Model
Uncertainty in Deep Learning".
"""

import copy
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import vmap

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.posterior import Draws
from kernelfield.models.neural.batches import FEW, crosses, folds, held_out, unseen
from kernelfield.models.neural.ensemble import kalman
from kernelfield.models.neural.likelihoods import Gaussian, held_out_noise
from kernelfield.models.neural.network import CHUNK, RELU, Network
from kernelfield.models.neural.train import Training, train
from kernelfield.nets.algebra import Layer, Serial
from kernelfield.nets.dense import Dense, Dropout
from kernelfield.nets.functional import called


def thinned(keep: float = 0.95) -> Serial:
    """The default network: three hidden layers of 128 rectifiers, each of which is thinned."""
    hidden = Dense(2**0.5, 0.1, 128) >> RELU >> Dropout(keep)
    return hidden >> hidden >> hidden >> Dense(1.0, 0.1)


@dataclass(eq=False, repr=False)
class MCDropout(Model):
    """A network with dropout, in training and in predictions.

    network : an architecture of `kernelfield.nets` with `Dropout` layers, or a torch module with
        `nn.Dropout`; None is three hidden layers of 128 rectifiers, each followed by dropout.
    width : of the layers of an architecture that leave theirs open.
    keep : the probability to keep a unit, in the default network.
    draws : masks, and so functions, of a prediction.
    noise : variance of the observation noise, in squared units of Y; None learns it.
    held_out : the share of rows from which the noise is learned, and the network is not. Fewer than
        100 rows are all fitted, and other networks learn the noise; 0 takes what the training learned.
    training : how.

    Errors: ValueError for a network without dropout or a value out of its range, and those of
    `Network` and `train`.

    >>> X = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
    >>> model = MCDropout(draws=20, training=Training(steps=200))
    >>> fitted = model.fit(Data(X, torch.sin(3 * X)), generator=torch.Generator().manual_seed(0))
    >>> fitted.posterior(X).values.shape
    torch.Size([20, 30, 1])
    """

    network: Layer | nn.Module | None = None
    width: int = 128
    keep: float = 0.95
    draws: int = 100
    noise: float | None = None
    held_out: float = 0.1
    training: Training = field(default_factory=Training)

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedDropout":
        if self.draws < 2:
            raise ValueError(f"draws must be at least 2 masks, got {self.draws}")
        likelihood, m = Gaussian(self.noise), data.Y.shape[1]
        architecture = thinned(self.keep) if self.network is None else self.network
        network = Network(architecture, data.X.shape[1], m, self.width)
        if not _thinned_shapes(network):
            raise ValueError(
                "the network has no dropout to draw masks from; put Dropout(0.95) behind its hidden activations"
            )
        share = self.held_out if self.noise is None else 0.0
        fitted, judged = held_out(data, share, generator)
        done = train(
            network, fitted, likelihood, self.training, generator=generator, evaluate=_Noisy(network, generator)
        )
        masks = _masks(network, self.draws, generator)
        surrogate = FittedDropout(
            network, done.parameters[0], masks, torch.as_tensor(done.noise)[0], None, tuple(done.notes)
        )
        if judged is not None:
            return replace(surrogate, noise=held_out_noise(surrogate.values(judged.X), judged, data))
        if not crosses(len(data.X), share):
            return surrogate
        return replace(surrogate, noise=held_out_noise(self._crossed(surrogate, data, generator), data, data))

    def _crossed(self, like: "FittedDropout", data: Data, generator: torch.Generator) -> Tensor:
        """Functions (k, n, m) of networks that have not seen the rows at which they are evaluated."""
        seen = folds(len(data.X), generator)
        done = train(
            like.network,
            data,
            Gaussian(),
            Training(**{**self.training.get_params(), "batch": self.training.batch or FEW}),
            members=len(seen),
            generator=generator,
            rows=seen,
            evaluate=_Noisy(like.network, generator),
        )
        values = [replace(like, parameters=theta).values(data.X) for theta in done.parameters]
        return unseen(torch.stack(values), seen)


@dataclass(frozen=True, eq=False)
class FittedDropout(Surrogate):
    """Parameters (p,) of a network, the masks (k, units) of its functions, and the noise (m,).

    transform (k, k): as in `FittedEnsemble`.
    """

    network: Network
    parameters: Tensor
    masks: Tensor
    noise: Tensor
    transform: Tensor | None = None
    remarks: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        return self.network.outputs

    def footprint(self, rows: int) -> int:
        return self.network.activity

    def posterior(self, X: Tensor, *, noise: bool = False) -> Draws:
        values = self.values(X)
        k = len(self.masks)
        return Draws(values, values.new_full((k,), 1 / k), self.noise.to(X) if noise else values.new_zeros(()))

    def values(self, X: Tensor) -> Tensor:
        """The functions of the masks (*b, k, n, m) at X (*b, n, d)."""
        rows, parameters = X.flatten(0, -2), self.network.named(self.parameters.to(X))
        module = self._masked.to(X)
        fixed = {n: p.detach() for n, p in module.named_parameters() if not p.requires_grad}

        def one(masks: dict[str, Tensor]) -> Tensor:
            for part in module.modules():
                if isinstance(part, _Mask):
                    part.turn = 0
            return called(module, {**fixed, **parameters, **masks}, rows)

        size = max(1, CHUNK // max(1, len(rows) * self.network.activity))
        values = vmap(one, chunk_size=size)(self._named(self.masks.to(X)))
        if self.transform is not None:
            values = torch.einsum("ij,jnm->inm", self.transform.to(values), values)
        return values.unflatten(1, X.shape[:-1]).movedim(0, -3)

    def condition(self, data: Data) -> "FittedDropout":
        """The functions moved by an ensemble Kalman update, see `kalman`; the noise stays."""
        moved = kalman(self.values(data.X), self.noise.to(data.X), data)
        return replace(self, transform=moved if self.transform is None else moved @ self.transform)

    def hyperparameters(self) -> dict[str, float | list[float]]:
        values = self.noise.tolist()
        return {"noise": values[0] if len(values) == 1 else values}

    def notes(self) -> list[str]:
        return list(self.remarks)

    @cached_property
    def _masked(self) -> nn.Module:
        """The network with a buffer of one mask in the place of each dropout."""
        module = copy.deepcopy(self.network.skeleton)
        masks = {name: _Mask(shapes) for name, shapes in _thinned_shapes(self.network).items()}
        known = {id(module.get_submodule(name)): mask for name, mask in masks.items()}
        for path, layer in list(module.named_modules(remove_duplicate=False)):
            if id(layer) in known:
                owner, _, label = path.rpartition(".")
                setattr(module.get_submodule(owner), label, known[id(layer)])
        return module

    def _named(self, masks: Tensor) -> dict[str, Tensor]:
        turns = _turns(self.network)
        parts = masks.split([shape.numel() for _, _, shape in turns], -1)
        return {f"{n}.mask{i}": part.unflatten(-1, s) for (n, i, s), part in zip(turns, parts, strict=True)}


class _Mask(nn.Module):
    """Inputs times a mask, the same for all rows; of several, each in its turn of a pass."""

    def __init__(self, shapes: list[torch.Size]) -> None:
        super().__init__()
        self.turn = 0
        for i, shape in enumerate(shapes):
            self.register_buffer(f"mask{i}", torch.ones(shape, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.turn += 1
        return x * self.get_buffer(f"mask{self.turn - 1}")


class _Noisy:
    """Networks (k, p) with dropout at work, whose random numbers follow a generator."""

    def __init__(self, network: Network, generator: torch.Generator) -> None:
        self.network, self.seeds = network, generator
        self.module = copy.deepcopy(network.skeleton).train()

    def __call__(self, parameters: Tensor, X: Tensor) -> Tensor:
        seed = int(torch.randint(2**62, (1,), generator=self.seeds, device=self.seeds.device))
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed formats the whole stack where there is no device: a third of a small step.
            (torch.default_generator if X.device.type == "cpu" else torch).manual_seed(seed)
            module = self.module.to(X)
            if len(parameters) == 1:
                return called(module, self.network.named(parameters[0]), X[0])[None]
            each = vmap(lambda one, x: called(module, one, x), randomness="different")
            return each(self.network.named(parameters), X)


def _turns(network: Network) -> list[tuple[str, int, torch.Size]]:
    """The dropouts of a pass: their names, how often each was met before, and the shapes of their masks."""
    return [(name, i, shape) for name, shapes in _thinned_shapes(network).items() for i, shape in enumerate(shapes)]


def _thinned_shapes(network: Network) -> dict[str, list[torch.Size]]:
    """The shapes of what dropouts see of one row, each time in turn, by their names."""
    shapes: dict[str, list[torch.Size]] = {}
    hooks = []
    for name, module in network.skeleton.named_modules():
        if type(module) is nn.Dropout:
            hooks.append(
                module.register_forward_hook(
                    lambda module, inputs, output, name=name: shapes.setdefault(name, []).append(output.shape[1:])
                )
            )
    try:
        with torch.no_grad():
            network.skeleton(torch.zeros(1, network.inputs, dtype=torch.float64))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _masks(network: Network, draws: int, generator: torch.Generator) -> Tensor:
    """Masks (k, units) of all dropouts side by side: zero, or one over the probability to keep."""
    parts = []
    for name, _, shape in _turns(network):
        dropped = float(network.skeleton.get_submodule(name).p)  # type: ignore[arg-type]
        uniform = torch.rand(draws, shape.numel(), generator=generator, dtype=torch.float64, device=generator.device)
        parts.append((uniform >= dropped).double() / (1 - dropped))
    return torch.cat(parts, -1).cpu()
