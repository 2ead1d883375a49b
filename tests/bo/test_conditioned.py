"""Conditioning of a posterior against a refit of the same surrogate, and against dense algebra."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kernelfield.bo.conditioned import Belief, Chosen, chosen, joint_covariance, noise_variance, noisier, weighted
from kernelfield.core.contracts import Data, Surrogate
from kernelfield.core.mixing import InverseGamma
from kernelfield.core.mixing_laws import Gamma
from kernelfield.core.posterior import Binned, Draws, Elliptical
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.process import Process
from tests.bo.surrogates import fitted, points, rows

EXACT = ["gp", "nngp", "spectral", "student", "last layer", "ensemble"]


def more(count: int = 3, outputs: int = 1) -> Data:
    X = points(count, seed=20)
    return Data(X, 10 + 3 * torch.randn(count, outputs, generator=torch.Generator().manual_seed(5)))


def same_law(belief: Belief, refitted: Surrogate, x: Tensor, *, noise: bool) -> None:
    law, expected = belief.law(x, noise=noise), refitted.posterior(x, noise=noise)
    assert_close(law.mean, expected.mean, atol=1e-8, rtol=1e-8)
    assert_close(joint_covariance(law), joint_covariance(expected), atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("name", EXACT)
def test_a_belief_is_the_surrogate_conditioned_on_the_same_rows(name: str, outputs: int, noise: bool) -> None:
    data, x = more(outputs=outputs), points(5, seed=21)
    belief = Belief(fitted(name, outputs)).told(data.X, data.Y)
    same_law(belief, fitted(name, outputs).condition(data), x, noise=noise)


@pytest.mark.parametrize("name", EXACT)
def test_what_was_told_in_two_steps_is_what_was_told_at_once(name: str) -> None:
    data, x = more(4), points(5, seed=21)
    belief = Belief(fitted(name)).told(data.X[:1], data.Y[:1]).told(data.X[1:], data.Y[1:])
    same_law(belief, fitted(name).condition(data), x, noise=False)


@pytest.mark.parametrize("name", ["gp", "student", "last layer", "ensemble"])
def test_each_fantasy_is_conditioned_by_itself(name: str) -> None:
    new, x = points(2, 3, seed=22), points(4, 1, 5, seed=23)
    Y = 10 + torch.randn(4, 2, 3, 1, generator=torch.Generator().manual_seed(1))
    law = Belief(fitted(name)).told(new, Y).law(x)
    assert law.mean.shape == law.variance.shape == (4, 2, 5, 1)
    for f in range(4):
        for b in range(2):
            alone = fitted(name).condition(Data(new[b], Y[f, b])).posterior(x[f, 0])
            assert_close(law.mean[f, b], alone.mean, atol=1e-8, rtol=1e-8)
            assert_close(law.variance[f, b], alone.variance, atol=1e-8, rtol=1e-7)


def test_a_student_t_law_keeps_its_tails_when_it_is_told_more() -> None:
    data, x = more(), points(2, seed=21)
    law = Belief(fitted("student")).told(data.X, data.Y).law(x)
    expected = fitted("student").condition(data).posterior(x)
    assert isinstance(law, Elliptical) and isinstance(law.mixing, InverseGamma)
    assert law.mixing.df == expected.mixing.df
    for p in (0.01, 0.3, 0.999):
        assert_close(law.quantile(p), expected.quantile(p), atol=1e-8, rtol=1e-8)


def test_another_scale_mixture_is_told_more_by_its_moments() -> None:
    data, x = more(), points(2, seed=21)
    surrogate = Process("rbf", mixing=Gamma(2.0, 2.0), noise=0.1, steps=0).fit(rows(), generator=torch.Generator())
    law, expected = Belief(surrogate).told(data.X, data.Y).law(x), surrogate.condition(data).posterior(x)
    assert_close(law.mean, expected.mean, atol=1e-8, rtol=1e-8)
    assert_close(law.covariance, expected.covariance, atol=1e-7, rtol=1e-6)


def test_a_noise_of_its_own_is_that_of_a_row_with_a_weight() -> None:
    data, x = more(outputs=2), points(4, seed=21)
    process = Process("matern32", noise=0.2, steps=0).fit(rows(2), generator=torch.Generator())
    variances = torch.tensor([0.01, 0.2, 3.0])
    belief = Belief(process).told(data.X, data.Y, variances[:, None])
    same_law(belief, process.condition(replace(data, weight=0.2 / variances)), x, noise=False)


def test_a_process_told_of_values_without_noise_passes_through_them() -> None:
    data = more(2)
    belief = Belief(fitted("gp")).told(data.X, data.Y, torch.zeros(2, 1))
    assert_close(belief.law(data.X).mean, data.Y, atol=1e-8, rtol=0)
    members = Belief(fitted("ensemble")).told(data.X, data.Y, torch.zeros(2, 1)).law(data.X).values
    assert_close(members, data.Y.expand(len(members), 2, 1), atol=1e-3, rtol=0)


def test_an_ensemble_moves_by_the_gain_of_its_own_covariance() -> None:
    values = torch.randn(9, 7, 2)
    weights = torch.rand(9).softmax(0)
    prior = Draws(values, weights, torch.zeros(()))

    class Finite(Surrogate):
        outputs = 2

        def posterior(self, X: Tensor, *, noise: bool = False) -> Draws:
            return prior

    Y, noise = torch.randn(3, 2), torch.rand(3, 2)
    law = Belief(Finite()).told(torch.zeros(3, 1), Y, noise).law(torch.zeros(4, 1))
    flat = values.flatten(1)
    mean = weights @ flat
    C = (weights[:, None] * (flat - mean)).mT @ (flat - mean)
    gain = C[6:, :6] @ torch.linalg.inv(C[:6, :6] + torch.diag(noise.flatten()))
    assert_close(law.mean.flatten(), mean[6:] + gain @ (Y.flatten() - mean[:6]))
    assert_close(joint_covariance(law), C[6:, 6:] - gain @ C[:6, 6:])


def test_gradients_reach_new_points_values_and_points() -> None:
    def mean(new: Tensor, Y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        law = Belief(surrogate).told(new, Y).law(x)
        return law.mean, law.variance

    for name in ("gp", "student", "last layer", "ensemble"):
        surrogate = fitted(name)
        inputs = [t.requires_grad_() for t in (points(2, seed=30), 10 + torch.rand(3, 2, 1), points(2, seed=31))]
        # A variance is what is left of larger numbers, so that its finite differences have few digits.
        assert torch.autograd.gradcheck(mean, inputs, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["gp", "student", "sparse", "last layer", "ensemble"])
def test_the_variance_of_the_noise_is_what_noise_adds(name: str) -> None:
    x, surrogate = points(2, 3), fitted(name, 2)
    added = surrogate.posterior(x, noise=True).variance - surrogate.posterior(x).variance
    assert_close(noise_variance(surrogate, x).expand(added.shape), added)


def laws() -> dict[str, Elliptical | Draws]:
    root = torch.randn(6, 6)
    values, own = torch.randn(5, 3, 2), torch.rand(5, 3, 2)
    weights = torch.rand(5).softmax(0)
    return {
        "gaussian": Elliptical(torch.randn(3, 2), root @ root.mT, unit=torch.tensor([1.5, 0.4])),
        "student": Elliptical(torch.randn(3, 2), root @ root.mT, InverseGamma.student(7.0)),
        "functions": Draws(values, weights, torch.rand(3, 2)),
        "noisy functions": Draws(values, weights, own),
    }


@pytest.mark.parametrize("name", laws())
def test_weighted_sums_choices_and_noise_have_the_moments_of_dense_algebra(name: str) -> None:
    law = laws()[name]
    mean, C = law.mean.flatten(), joint_covariance(law)
    assert_close(C.diagonal(), law.variance.flatten())
    w = torch.tensor([0.3, -2.0])
    A = torch.kron(torch.eye(3), w)
    assert_close(weighted(law, w, 1.0).mean[:, 0], A @ mean + 1)
    assert_close(joint_covariance(weighted(law, w, 1.0)), A @ C @ A.mT)
    assert_close(chosen(law, [1]).mean[:, 0], law.mean[:, 1])
    assert_close(joint_covariance(chosen(law, [1])), C[1::2, 1::2])
    swapped = chosen(law, [1, 0])
    assert_close(swapped.variance, law.variance.flip(-1))
    noise = torch.tensor([[0.5, 2.0]])
    latent = replace(law, noise=torch.zeros(())) if isinstance(law, Draws) else law
    assert_close(joint_covariance(noisier(latent, noise)) - joint_covariance(latent), torch.diag(noise.repeat(1, 3)[0]))


def test_outputs_of_a_histogram_are_chosen() -> None:
    law = Binned(torch.randn(3, 2, 4), torch.tensor([[0.0, 1, 2, 3, 4], [0, 2, 4, 6, 8]]))
    assert_close(chosen(law, [1]).mean, law.mean[:, 1:])
    assert_close(joint_covariance(law), torch.diag(law.variance.flatten()))


def test_a_surrogate_of_chosen_outputs_takes_in_data() -> None:
    data, x = more(outputs=2), points(4, seed=21)
    part = Belief(Chosen(fitted("last layer", 2), (1,))).told(data.X, data.Y[:, 1:])
    whole = Belief(fitted("last layer", 2)).told(data.X, data.Y)
    assert_close(part.law(x).mean, whole.law(x).mean[:, 1:])
    weight = torch.tensor([0.5, 2.0, 1.0])
    heavy, expected = (s.condition(replace(data, weight=weight)) for s in (Belief(fitted("gp", 2)), fitted("gp", 2)))
    assert_close(heavy.posterior(x).mean, expected.posterior(x).mean)
    assert_close(whole.chosen([1]).law(x).variance, whole.law(x).variance[:, 1:])


def test_a_law_without_joint_covariance_says_so() -> None:
    class Histogram(Surrogate):
        outputs = 1

        def posterior(self, X: Tensor, *, noise: bool = False) -> Binned:
            return Binned(torch.zeros(*X.shape[:-1], 1, 4), torch.arange(5.0)[None])

    belief = Belief(Histogram()).told(points(1), torch.ones(1, 1))
    with pytest.raises(ValueError, match="Binned says nothing of how points depend"):
        belief.law(points(2))


def test_an_infinite_variance_cannot_be_conditioned_by_moments() -> None:
    data = rows()
    surrogate = Process("rbf", mixing=InverseGamma.student(1.0), noise=0.1, steps=0, mean="zero").fit(
        Data(data.X[:1], data.Y[:1]), generator=torch.Generator()
    )
    assert isinstance(surrogate, FittedProcess)
    with pytest.raises(ValueError, match="infinite"):
        Belief(surrogate).told(data.X[1:2], data.Y[1:2]).law(data.X[2:3])
