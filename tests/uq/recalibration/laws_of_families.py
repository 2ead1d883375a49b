"""One law of each family, of six points and two outputs: what a recalibration must be able to take."""

import torch

from kernelfield.core.convolved import Convolved
from kernelfield.core.mixing import InverseGamma
from kernelfield.core.pathwise import Linear, Pathwise
from kernelfield.core.posterior import Binned, Draws, Elliptical, Posterior
from kernelfield.core.quantiles import Quantiles
from kernelfield.models.warped import Transformed
from kernelfield.models.warps import YeoJohnson

POINTS, OUTPUTS = 6, 2


def scale() -> torch.Tensor:
    A = torch.randn(POINTS * OUTPUTS, POINTS * OUTPUTS)
    return A @ A.mT / POINTS + 0.1 * torch.eye(POINTS * OUTPUTS)


def gaussian() -> Elliptical:
    return Elliptical(torch.randn(POINTS, OUTPUTS), scale(), unit=torch.tensor([1.5, 0.5]))


def student() -> Elliptical:
    return Elliptical(torch.randn(POINTS, OUTPUTS), scale(), InverseGamma.student(7.0))


def pathwise() -> Pathwise:
    A = torch.randn(POINTS * OUTPUTS, POINTS * OUTPUTS)
    law = Elliptical(torch.randn(POINTS, OUTPUTS), A @ A.mT, unit=torch.tensor([1.5, 0.5]))
    return Pathwise(law, Linear(POINTS * OUTPUTS, lambda z: (z @ A.mT).unflatten(-1, (POINTS, OUTPUTS))))


def members() -> Draws:
    weights = torch.tensor([0.5, 0.3, 0.2])
    return Draws(torch.randn(3, POINTS, OUTPUTS), weights, 0.2 + torch.rand(3, POINTS, OUTPUTS))


def one_function() -> Draws:
    return Draws(torch.randn(1, POINTS, OUTPUTS), torch.ones(1), 0.5 + torch.rand(POINTS, OUTPUTS))


def histogram() -> Binned:
    edges = torch.linspace(-3, 3, 13).expand(OUTPUTS, -1)
    return Binned(torch.randn(POINTS, OUTPUTS, 12), edges, tails=True)


def noisy_process() -> Convolved:
    return Convolved(Elliptical(torch.randn(POINTS, OUTPUTS), scale()), torch.tensor([0.3, 0.6]), 8.0)


def warped() -> Transformed:
    warp = YeoJohnson(
        *(torch.tensor(values) for values in ([0.6, 1.3], [0.0, 0.1], [1.0, 2.0], [0.1, 0.0], [1.0, 0.7]))
    )
    return Transformed(gaussian(), warp, torch.ones(OUTPUTS), torch.zeros(OUTPUTS))


def quantiles() -> Quantiles:
    values = (0.5 + torch.rand(POINTS, OUTPUTS, 4)).cumsum(-1) - 2.5
    return Quantiles(torch.tensor([0.1, 0.4, 0.6, 0.95]), values, torch.randn(POINTS, OUTPUTS))


FAMILIES = {
    make.__name__: make
    for make in (gaussian, student, pathwise, members, one_function, histogram, noisy_process, warped, quantiles)
}
CLOSED = [name for name in FAMILIES if name != "warped"]


def law_of(name: str) -> Posterior:
    return FAMILIES[name]()
