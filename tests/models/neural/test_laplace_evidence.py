import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.neural.laplace_evidence import Fitness, LaplaceEvidence


class Price:
    """log|I + P^-1 H / v| of a diagonal H."""

    def logdet(self, precision: Tensor, noise: Tensor) -> Tensor:
        return torch.log1p(torch.tensor([5.0, 40.0]) / (precision * noise)).sum()


def evidence() -> LaplaceEvidence:
    return LaplaceEvidence(Price(), torch.tensor([0.5, 3.0]), Fitness(misfit=4.0, count=20, constant=0.0))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_fitness_of_gaussian_noise_is_its_log_likelihood(weighted):
    weight = torch.rand(6) + 0.5
    data = Data(torch.zeros(6, 1), torch.randn(6, 2), weight if weighted else None)
    values, noise = torch.randn(6, 2), torch.tensor(0.3)
    spread = noise / (weight[:, None] if weighted else 1)
    expected = Normal(values, spread.sqrt() if weighted else noise.sqrt()).log_prob(data.Y).sum()
    assert_close(Fitness.gaussian(data, values)(noise), expected)


def test_the_fitness_of_classes_knows_no_noise():
    Y, values = torch.eye(3)[[0, 2]], torch.randn(2, 3)
    expected = -torch.nn.functional.cross_entropy(values, Y, reduction="sum")
    assert_close(Fitness.classes(Data(torch.zeros(2, 1), Y), values)(torch.tensor(1.0)), expected)


@pytest.mark.parametrize(("precision", "noise"), [(True, True), (True, False), (False, True), (False, False)])
def test_what_is_learned_is_best_and_what_is_not_stays(precision, noise):
    start = torch.tensor([1.0, 2.0]), torch.tensor(0.3)
    tuned = evidence().tuned(*start, learn_precision=precision, learn_noise=noise, size=1.0)
    assert math.isclose(tuned.log_evidence, evidence()(tuned.precision, tuned.noise).item(), rel_tol=1e-9)
    for name, learned, begin in (("precision", precision, start[0]), ("noise", noise, start[1])):
        found = getattr(tuned, name)
        if not learned:
            assert_close(found, begin)
            continue
        values = {"precision": tuned.precision, "noise": tuned.noise}
        for factor in (0.95, 1.05):
            assert evidence()(**{**values, name: factor * found}) < tuned.log_evidence
    assert bool(tuned.searches) == (precision or noise)


def test_the_best_precision_obeys_mackays_equation():
    # d_l s_l = gamma_l, the number of parameters of the layer that the data determine.
    tuned = evidence().tuned(torch.ones(2), torch.tensor(0.1), learn_precision=True, learn_noise=True, size=1.0)
    gamma = torch.tensor([5.0, 40.0]) / (torch.tensor([5.0, 40.0]) + tuned.precision * tuned.noise)
    # Both hold where the slope of the evidence is zero; the search ends when it is small.
    assert_close(tuned.precision * torch.tensor([0.5, 3.0]), gamma, rtol=1e-3, atol=0)
    assert_close(tuned.noise, 4.0 / (20 - gamma.sum()), rtol=1e-3, atol=0)
