"""Taylor models: networks expanded in their parameters.

With D the move of the parameters from where they were, f(x; theta_0 + t D) is a function of t,
and its Taylor polynomial at t = 1,

    sum_{k <= degree} (1 / k!) d^k/dt^k f(x; theta_0 + t D) at t = 0,

is a network again, trained in place of the first. Degree one is the linear model that a wide
network stays close to; its NTK is the one at theta_0, wherever it moves.

Sources: Lee et al. (2019), "Wide Neural Networks of Any Depth Evolve as Linear Models Under
Gradient Descent", eq. (6); Bai & Lee (2020), "Beyond Linearization", eq. (2).
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import jvp

from kernelfield.nets.functional import called
from kernelfield.nets.jacobian import refuse_unready

Jet = Callable[[Tensor], tuple[Tensor, ...]]


def linearize(module: nn.Module) -> "Taylor":
    """f(x; theta_0) + J(x) (theta - theta_0), around the present parameters."""
    return taylor(module, 1)


def taylor(module: nn.Module, degree: int) -> "Taylor":
    """The Taylor model of some degree around the present parameters.

    Errors: ValueError for a negative degree, and for a module that is random in training mode.

    >>> square = taylor(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), 2)
    >>> [name for name, _ in square.named_parameters()][0]
    'moved.0.weight'
    """
    return Taylor(module, degree)


class Taylor(nn.Module):
    """See `taylor`. `moved` is a copy of the module whose parameters are those that train."""

    def __init__(self, module: nn.Module, degree: int) -> None:
        if degree < 0:
            raise ValueError(f"the degree of a Taylor model must not be negative, got {degree}")
        refuse_unready(module)
        super().__init__()
        self.degree = degree
        self.moved = copy.deepcopy(module)
        for name, p in module.named_parameters():
            self.register_buffer(_origin(name), p.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        origins = {name: self.get_buffer(_origin(name)) for name, _ in self.moved.named_parameters()}
        steps = {name: p - origins[name] for name, p in self.moved.named_parameters()}

        def value(t: Tensor) -> tuple[Tensor, ...]:
            theta = {name: origin + t * steps[name] for name, origin in origins.items()}
            return (called(self.moved, theta, x),)

        jet: Jet = value
        for _ in range(self.degree):
            jet = _derived(jet)
        zero = torch.zeros((), dtype=x.dtype, device=x.device)
        terms = [term / math.factorial(k) for k, term in enumerate(jet(zero))]
        return torch.stack(terms).sum(0)


def _derived(jet: Jet) -> Jet:
    """A function and its derivatives, with one derivative more."""

    def more(t: Tensor) -> tuple[Tensor, ...]:
        both = jvp(jet, (t,), (torch.ones_like(t),))
        return (*both[0], both[1][-1])

    return more


def _origin(name: str) -> str:
    """A buffer's name for a parameter's; the dots of paths are not allowed in it."""
    return "origin_" + name.replace(".", "__")
