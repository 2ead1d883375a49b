"""Finite networks as functions of a vector of parameters.

A `Network` is an architecture with its sizes. It draws parameters, as rows of a matrix (k, p), and
evaluates the k functions they stand for at once; surrogates hold such matrices and nothing else.

    network = Network(multilayer((32, 32)), inputs=3, outputs=1)
    theta = network.draw(5, generator)           (5, p)
    network.values(theta, X)                     (5, n, 1)

The prior of a parameter is a centred Gaussian, whose standard deviation is that with which the
architecture draws it: one for the weights of the NTK parameterisation, w / sqrt(fan_in) for those
of the standard one. A torch module says nothing of a prior: weights then have 1 / sqrt(fan_in),
biases one.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm

from kernelfield.nets.algebra import Layer, Serial
from kernelfield.nets.dense import Affine, Dense
from kernelfield.nets.functional import called
from kernelfield.nets.rectifiers import Relu

RELU = Relu()
CHUNK = 2**25  # numbers of activations, about, that are alive at a time


def multilayer(
    widths: Sequence[int] = (128, 128, 128), activation: Layer = RELU, *, w: float = 2**0.5, b: float = 0.1
) -> Serial:
    """Dense hidden layers of given widths in the standard parameterisation, and an output layer.

    w: the scale of the hidden weights; the root of two keeps the size of signals behind rectifiers.
    b: the scale of the biases. It is where training starts, and for a Bayesian network what it
        believes: with small ones and an odd activation, that functions are nearly odd.

    Errors: ValueError for no hidden layer, or one without units.

    >>> len(multilayer((8, 4)).steps)
    5
    """
    if not widths or min(widths) < 1:
        raise ValueError(f"widths must name at least one hidden layer of at least one unit, got {tuple(widths)}")
    hidden = [Dense(w, b, width) >> activation for width in widths]
    return reduce(lambda a, b: a >> b, hidden) >> Dense(1.0, b)


@dataclass(frozen=True, eq=False)
class Network:
    """An architecture with its sizes.

    architecture: a `Layer` of `kernelfield.nets`, or a torch module from (n, inputs) to (n, outputs).
    width: of the layers of a `Layer` that leave theirs open.

    Errors: ValueError, at the first use, for a module that cannot take `inputs` columns, gives
        another number of outputs, normalises over batches, or has nothing to train.

    >>> network = Network(multilayer((8,)), inputs=2, outputs=1)
    >>> network.size
    33
    >>> theta = network.draw(3, torch.Generator().manual_seed(0))
    >>> network.values(theta, torch.zeros(5, 2, dtype=torch.float64)).shape
    torch.Size([3, 5, 1])
    """

    architecture: Layer | nn.Module
    inputs: int
    outputs: int
    width: int = 128

    def draw(self, members: int, generator: torch.Generator) -> Tensor:
        """Parameters (members, p) of networks with fresh random weights, in double precision on the CPU."""
        return torch.stack([flat(self._fresh(generator)) for _ in range(members)])

    def start(self, generator: torch.Generator) -> Tensor:
        """Parameters (p,) to train from: those of a torch module are kept, a `Layer` draws its own."""
        if isinstance(self.architecture, nn.Module):
            return flat(self.skeleton)
        return self.draw(1, generator)[0]

    def values(self, parameters: Tensor, X: Tensor) -> Tensor:
        """The outputs (*k, n, m) of networks with parameters (*k, p) at X (n, d); no `k` for a vector."""
        if parameters.ndim == 1:
            return self.call(parameters, X)
        members = parameters.flatten(0, -2)
        size = max(1, CHUNK // max(1, len(X) * self.activity))
        values = vmap(self.call, in_dims=(0, None), chunk_size=size)(members, X)
        return values.unflatten(0, parameters.shape[:-1])

    def call(self, parameters: Tensor, X: Tensor) -> Tensor:
        """The outputs (n, m) of one network, as a function that torch.func can differentiate."""
        return called(self.skeleton, {**self._buffers(X), **self.named(parameters)}, X)

    def named(self, parameters: Tensor) -> dict[str, Tensor]:
        """Parameters (*k, p) as tensors by name, (*k, *shape) each; views, not copies."""
        parts = parameters.split([math.prod(shape) for shape in self.shapes.values()], -1)
        return {
            name: part.reshape(*part.shape[:-1], *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def module(self, parameters: Tensor) -> nn.Module:
        """A torch module of its own with parameters (p,), of their data type and on their device."""
        module = copy.deepcopy(self.skeleton).to(parameters)
        with torch.no_grad():
            for name, value in self.named(parameters).items():
                module.get_parameter(name).copy_(value)
        return module.eval()

    @cached_property
    def skeleton(self) -> nn.Module:
        """One module of the architecture; its parameters serve as names and shapes."""
        return self._made(torch.Generator().manual_seed(0)).double().eval()

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """The shapes of the parameters that are trained, by name."""
        return {name: p.shape for name, p in self.skeleton.named_parameters() if p.requires_grad}

    @cached_property
    def size(self) -> int:
        """The number p of parameters."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def activity(self) -> int:
        """About how many numbers one row becomes on its way through a network."""
        return sum(max(shape[0], 1) for shape in self.shapes.values() if shape) + self.outputs

    @cached_property
    def prior_std(self) -> Tensor:
        """The standard deviations (p,) with which the architecture draws parameters."""
        module, stds = self.skeleton, []
        for name, shape in self.shapes.items():
            owner, _, label = name.rpartition(".")
            layer = module.get_submodule(owner)
            std: float | Tensor
            if isinstance(layer, Affine):
                std = layer.spreads[label == "bias"]
            elif isinstance(self.architecture, Layer) or len(shape) < 2:
                std = 1.0
            else:
                std = 1 / math.sqrt(math.prod(shape[1:]))
            stds.append(torch.as_tensor(std, dtype=torch.float64).expand(shape).flatten())
        return torch.cat(stds)

    def _fresh(self, generator: torch.Generator) -> nn.Module:
        """A module with random weights of its own."""
        module = self._made(generator)
        if isinstance(self.architecture, nn.Module):
            with _seeded(generator):
                for layer in module.modules():
                    # Torch's layers have this method by convention and no class in common.
                    reset = getattr(layer, "reset_parameters", None)
                    if callable(reset):
                        reset()
        return module

    def _made(self, generator: torch.Generator) -> nn.Module:
        """A module that takes `inputs` columns and gives `outputs`."""
        with _seeded(generator):
            if isinstance(self.architecture, nn.Module):
                module = copy.deepcopy(self.architecture)
            else:
                module, _ = self.architecture.module(self.inputs, self.width, self.outputs)
            first = next((p for p in module.parameters() if not nn.parameter.is_lazy(p)), torch.zeros(()))
            with torch.no_grad():
                try:
                    found = module.eval()(first.new_zeros(2, self.inputs)).shape
                except (RuntimeError, ValueError, IndexError, TypeError) as error:
                    raise ValueError(
                        f"the network cannot take rows of {self.inputs} inputs: {error}; check its first layer"
                    ) from error
        if found != (2, self.outputs):
            raise ValueError(
                f"the network must give {self.outputs} outputs a row, shape (2, {self.outputs}) for two rows, got "
                f"{tuple(found)}; change its last layer"
            )
        _refuse_unfit(module)
        return module

    def _buffers(self, X: Tensor) -> dict[str, Tensor]:
        """What is not trained, on the device and of the type of X."""
        fixed = [(n, p.detach()) for n, p in self.skeleton.named_parameters() if not p.requires_grad]
        fixed += list(self.skeleton.named_buffers())
        return {n: b.to(X.device, X.dtype if b.is_floating_point() else b.dtype) for n, b in fixed}


def flat(module: nn.Module) -> Tensor:
    """The trained parameters of a module as one vector (p,), in double precision."""
    return torch.cat([p.detach().flatten().double() for p in module.parameters() if p.requires_grad])


def _refuse_unfit(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm):
            raise ValueError(
                f"layer {name!r} is a {type(layer).__name__}, which mixes the rows of a batch, so that the network "
                "is no function of one input; use LayerNorm"
            )
    if not any(p.requires_grad for p in module.parameters()):
        raise ValueError(f"{type(module).__name__} has no parameters to train")


@contextmanager
def _seeded(generator: torch.Generator) -> Iterator[None]:
    """Torch's own random numbers follow the generator inside, and are as before after it."""
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
