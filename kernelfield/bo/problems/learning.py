"""Distillation: the weights of a small network that is to answer as a larger one does.

The teacher, a network of one hidden layer, is trained on scikit-learn's digits when it is first needed, in about a
second. The student has two layers of convolutions and 3,830 weights, all of them parameters in [-1, 1], and

    f(w) = mean over images of KL(teacher | student),

in nats, is to be small. It is 0 for a student that answers as the teacher, and log 10 less the mean entropy of
the teacher for one that weighs all digits alike.

Source: after the problem of Li, Rudner & Wilson (2024), section 4, which is on images that have to be fetched.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from functools import cache

import torch
from optuna.distributions import FloatDistribution
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from kernelfield.bo.problems.catalogue import Outcome, Parameters, Problem
from kernelfield.bo.space import Space

IMAGES = 500  # that the student is compared on
HIDDEN, STEPS, RATE = 64, 200, 0.01  # of the teacher
SHAPES = ((16, 1, 3, 3), (16,), (12, 16, 3, 3), (12,), (10, 192), (10,))  # of the student's weights
WEIGHTS = sum(math.prod(shape) for shape in SHAPES)


def distillation(seed: int = 0) -> Problem:
    names = [f"w{i}" for i in range(WEIGHTS)]

    def function(parameters: Parameters) -> Outcome:
        images, answers = teacher(seed)
        weights = torch.tensor([parameters[name] for name in names], dtype=torch.double)
        return Outcome((divergence(answers, student(weights, images)),))

    return Problem(
        "distillation",
        "the weights of a small network that is to answer as a larger one",
        Space(dict.fromkeys(names, FloatDistribution(-1.0, 1.0))),
        ("minimize",),
        function,
        "after Li, Rudner & Wilson (2024), section 4",
    )


@cache
def teacher(seed: int) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 8, 8) and the log probabilities (n, 10) that the teacher gives them."""
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16.0)
    target = torch.from_numpy(digits.target)
    generator = torch.Generator().manual_seed(seed)
    sizes = (64, HIDDEN, 10)
    parameters = [
        part.requires_grad_()
        for fan, wide in itertools.pairwise(sizes)
        for part in (
            torch.randn(wide, fan, generator=generator, dtype=torch.double) * (2 / fan) ** 0.5,
            torch.zeros(wide, dtype=torch.double),
        )
    ]

    def answers(rows: Tensor) -> Tensor:
        hidden = functional.linear(rows.flatten(1), *parameters[:2]).relu()
        return functional.linear(hidden, *parameters[2:]).log_softmax(-1)

    optimiser = torch.optim.Adam(parameters, lr=RATE)
    with torch.enable_grad():
        for _ in range(STEPS):
            optimiser.zero_grad()
            functional.nll_loss(answers(images), target).backward()
            optimiser.step()
    few = images[:IMAGES]
    return few[:, None], answers(few).detach()


def student(weights: Tensor, images: Tensor) -> Tensor:
    """The log probabilities (n, 10) of a student with these weights (w,)."""
    parts = weights.split([math.prod(shape) for shape in SHAPES])
    first, first_bias, second, second_bias, last, last_bias = (
        part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True)
    )
    hidden = functional.max_pool2d(functional.conv2d(images, first, first_bias, padding=1).relu(), 2)
    hidden = functional.conv2d(hidden, second, second_bias, padding=1).relu()
    return functional.linear(hidden.flatten(1), last, last_bias).log_softmax(-1)


def divergence(truth: Tensor, guess: Tensor) -> float:
    """The mean over rows of KL(truth | guess), in nats, of log probabilities (n, k)."""
    return float((truth.exp() * (truth - guess)).sum(-1).mean())


MAKERS: Mapping[str, Callable[..., Problem]] = {"distillation": distillation}
