"""Distillation of a network into a smaller one."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from kernelfield.bo.problems.catalogue import problem
from kernelfield.bo.problems.learning import SHAPES, WEIGHTS, divergence, student, teacher


@pytest.mark.slow
def test_a_student_without_weights_is_as_far_as_the_teachers_entropy_says() -> None:
    one = problem("distillation")
    assert len(one.space.parameters) == WEIGHTS == 3830
    _, answers = teacher(0)
    entropy = -(answers.exp() * answers).sum(-1).mean().item()
    found = one.function(dict.fromkeys(one.space.parameters, 0.0)).values[0]
    assert found == pytest.approx(math.log(10) - entropy, rel=1e-10)


def test_the_teacher_knows_its_digits_and_is_made_once() -> None:
    images, answers = teacher(0)
    known = torch.from_numpy(load_digits().target[: len(images)])
    assert (answers.argmax(-1) == known).double().mean() > 0.95
    torch.testing.assert_close(answers.logsumexp(-1), torch.zeros(len(answers)))
    assert teacher(0)[1] is answers


def test_the_student_is_a_network_of_torchs_layers() -> None:
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 12, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(192, 10),
        torch.nn.LogSoftmax(-1),
    )
    assert tuple(tuple(p.shape) for p in layers.parameters()) == SHAPES
    weights = torch.nn.utils.parameters_to_vector(layers.parameters()).detach()
    images = teacher(0)[0][:7]
    torch.testing.assert_close(student(weights, images), layers(images).detach())


def test_the_divergence_is_zero_of_itself_and_that_by_hand() -> None:
    p, q = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    by_hand = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    truth, guess = (torch.from_numpy(np.log(v))[None] for v in (p, q))
    assert divergence(truth, guess) == pytest.approx(by_hand)
    assert divergence(truth, truth) == 0.0
