"""Joint scores are those of scoringrules and SciPy, proper, and see correlations that marginals hide."""

import math

import numpy as np
import pytest
import scoringrules
import torch
from scipy import integrate, stats
from torch.testing import assert_close

from kernelfield.core.convolved import Convolved
from kernelfield.core.mixing import InverseGamma
from kernelfield.core.pathwise import Linear, Pathwise
from kernelfield.core.posterior import Binned, Draws, Elliptical, Posterior
from kernelfield.core.quantiles import Quantiles
from kernelfield.uq.crps import expected_score
from kernelfield.uq.joint import (
    absolute_moment,
    dawid_sebastiani,
    energy_score,
    evaluate_joint,
    joint_nll,
    mahalanobis_pit,
    variogram_score,
)
from kernelfield.uq.laws import Sample
from kernelfield.uq.parts import BlockDiagonal, blocks


def gaussian(n: int = 3, m: int = 2, **more) -> Elliptical:
    root = torch.randn(n * m, n * m)
    return Elliptical(torch.randn(n, m), root @ root.mT + torch.eye(n * m), **more)


def many(law: Posterior, count: int, seed: int = 0) -> torch.Tensor:
    return law.rsample((count,), torch.Generator().manual_seed(seed))


def of_rows(law: Elliptical, count: int, seed: int = 0) -> torch.Tensor:
    """Draws (count, n, m) of a law whose rows are independent, without the matrix of all of them."""
    return many(blocks(law), count, seed).flatten(1, 2)


def pairs(correlation: float, n: int) -> Elliptical:
    """Standard normals in pairs, the two outputs of a row."""
    pair = torch.tensor([[1.0, correlation], [correlation, 1.0]])
    return Elliptical(torch.zeros(n, 2), BlockDiagonal(pair.expand(n, 2, 2)))


@pytest.mark.parametrize("k", [2, 7, 8])
def test_scores_of_a_sample_are_the_fair_ones_of_scoringrules(k):
    values, y, weights = torch.randn(k, 3, 2), torch.randn(3, 2), torch.rand(6, 6)
    law, arrays = Sample(values), (y.flatten().numpy(), values.flatten(1).numpy())
    fair = scoringrules.es_ensemble(*arrays, estimator="fair")
    assert energy_score(law, y).item() == pytest.approx(float(fair))
    fair = scoringrules.vs_ensemble(*arrays, p=0.7, estimator="fair")
    assert variogram_score(law, y, order=0.7).item() == pytest.approx(float(fair))
    fair = scoringrules.vs_ensemble(*arrays, weights.numpy(), p=0.5, estimator="fair")
    assert variogram_score(law, y, weights=weights).item() == pytest.approx(float(fair))


def test_the_dawid_sebastiani_score_is_that_of_scoringrules():
    values, y = torch.randn(20, 3, 2), torch.randn(3, 2)
    oracle = scoringrules.dssmv_ensemble(y.flatten().numpy(), values.flatten(1).numpy())
    assert dawid_sebastiani(Sample(values), y).item() == pytest.approx(float(oracle))


def test_the_dawid_sebastiani_score_of_a_gaussian_is_twice_its_nll_but_for_a_constant():
    law, y = gaussian(unit=torch.tensor([0.5, 3.0])), torch.randn(3, 2)
    assert_close(dawid_sebastiani(law, y), 2 * 6 * joint_nll(law, y) - 6 * math.log(2 * math.pi))


def test_the_energy_score_of_a_single_value_is_the_crps():
    law, y = Elliptical(torch.zeros(1, 1), torch.eye(1)), torch.tensor([[0.7]])
    drawn = energy_score(law, y, draws=200_000)
    assert drawn.item() == pytest.approx(expected_score(law, y).item(), abs=6 / 200_000**0.5)
    sample = Sample(torch.randn(9, 1, 1))
    assert_close(energy_score(sample, y), expected_score(sample, y)[0, 0])


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("mean", [0.0, -1.3, 9.0])
def test_absolute_moments_are_integrals(order, mean):
    value = integrate.quad(lambda x: abs(x) ** order * stats.norm.pdf(x, mean, 0.7), -20, 20, points=[0, mean])[0]
    assert absolute_moment(torch.tensor(mean), torch.tensor(0.7), order).item() == pytest.approx(value, rel=1e-6)
    assert absolute_moment(torch.tensor(mean), torch.tensor(0.0), order).item() == pytest.approx(abs(mean) ** order)


def test_the_variogram_score_of_a_gaussian_is_the_mean_of_those_of_its_samples():
    law, y = gaussian(), torch.randn(3, 2)
    values = law.rsample((2000, 8), torch.Generator().manual_seed(1))
    scores = variogram_score(Sample(values), y.expand(2000, 3, 2))
    error = scores.std() / len(scores) ** 0.5
    assert abs(scores.mean() - variogram_score(law, y)) < 6 * error


@pytest.mark.parametrize("score", [energy_score, variogram_score, joint_nll, dawid_sebastiani])
def test_scores_prefer_the_law_that_the_values_came_from(score):
    law, n = pairs(0.8, 4000), 4000
    y = of_rows(law, 1)[0].unsqueeze(1)
    own, *others = (
        score(Elliptical(torch.zeros(n, 1, 2), scale), y)
        for scale in (
            law.scale.blocks,
            pairs(0.0, n).scale.blocks,
            pairs(-0.5, n).scale.blocks,
            1.5 * law.scale.blocks,
        )
    )
    for other in others:
        gain = other - own
        assert gain.mean() > 3 * gain.std() / n**0.5


def test_joint_densities_are_scipy_s():
    law, y = gaussian(), torch.randn(3, 2)
    oracle = stats.multivariate_normal(law.mean.flatten(), law.scale).logpdf(y.flatten())
    assert joint_nll(law, y).item() == pytest.approx(-oracle / 6)
    student = gaussian(mixing=InverseGamma.student(5.0))
    oracle = stats.multivariate_t(student.mean.flatten(), student.scale, 5.0).logpdf(y.flatten())
    assert joint_nll(student, y).item() == pytest.approx(-oracle / 6)
    assert_close(joint_nll(Pathwise(law, Linear(1, lambda z: z)), y), joint_nll(law, y))


@pytest.mark.parametrize("noise", [torch.tensor([0.3, 2.0]), 0.1 + torch.rand(2, 3, 2)], ids=["shared", "each"])
def test_the_joint_density_of_functions_is_a_mixture_of_products(noise):
    law, y = Draws(torch.randn(2, 3, 2), torch.tensor([0.3, 0.7]), noise), torch.randn(3, 2)
    std = np.sqrt(noise.expand(2, 3, 2).numpy())
    each = stats.norm(law.values.numpy(), std).pdf(y.numpy()).prod((1, 2))
    assert joint_nll(law, y).item() == pytest.approx(-math.log(each @ [0.3, 0.7]) / 6)


def test_what_is_independent_or_not_known():
    y = torch.zeros(3, 2)
    law = Binned(torch.randn(3, 2, 4), torch.linspace(-2, 2, 5).expand(2, -1))
    assert_close(joint_nll(law, y), -law.log_prob(y).mean())
    assert joint_nll(Sample(torch.randn(9, 3, 2)), y).isnan()
    assert joint_nll(Convolved(gaussian(), 0.3, 4.0), y).isnan()
    with pytest.raises(ValueError, match=r"no density; use posterior\(X, noise=True\)"):
        joint_nll(Draws(torch.randn(2, 3, 2), torch.full((2,), 0.5), torch.tensor(0.0)), y)


LAWS = {
    "gaussian": lambda: gaussian(unit=torch.tensor([0.5, 3.0])),
    "student": lambda: gaussian(mixing=InverseGamma(2.5, 4.0), unit=torch.tensor([0.5, 3.0])),
    "functions": lambda: Draws(torch.randn(3, 3, 2), torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.1, 1.0])),
    "student noise": lambda: Convolved(gaussian(), 0.5, 4.0),
    "quantiles": lambda: Quantiles(torch.tensor([0.1, 0.5, 0.9]), torch.randn(3, 2, 3).sort(-1).values),
}


@pytest.mark.parametrize("name", LAWS)
def test_distances_of_values_of_the_law_itself_are_uniform(name):
    law = LAWS[name]()
    y = many(law, 400, 3)
    levels = [mahalanobis_pit(law, one, draws=400).item() for one in y]
    assert stats.kstest(levels, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("k", [7, 30])
def test_distances_among_a_sample_are_uniform_and_see_a_wrong_correlation(k):
    y, right, wrong = (of_rows(pairs(r, 4000), s, i) for i, (r, s) in enumerate([(0.8, 1), (0.8, k), (0.0, k)]))
    as_vectors = lambda values: values.movedim(0, 1).unsqueeze(-1)  # noqa: E731
    own, other = (mahalanobis_pit(Sample(as_vectors(one)), y[0].unsqueeze(-1)) for one in (right, wrong))
    assert stats.kstest(own.numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(other.numpy(), "uniform").pvalue < 1e-6


def test_an_evaluation_says_what_correlations_are_worth():
    """Half of -log(1 - r^2) / 2 nats each, for values of the law itself."""
    law = pairs(0.8, 5000)
    y = of_rows(law, 1)[0]
    result = evaluate_joint(law, y)
    gain = result.marginal_nll - result.nll
    assert result.scores()["gain"] == pytest.approx(-math.log(0.36) / 4, abs=6 * gain.std() / 5000**0.5)
    assert "predicted correlations are worth 0.2" in result.sentence
    assert stats.kstest(result.pit, "uniform").pvalue > 1e-3
    assert "are wrong and cost" in evaluate_joint(pairs(-0.8, 5000), y).sentence
    assert "no clear gain" in evaluate_joint(pairs(0.0, 5000), of_rows(pairs(0.0, 5000), 1)[0]).sentence


def test_blocks_of_points_are_scored_as_they_are_alone():
    law, y = gaussian(6, 1), torch.randn(6, 1)
    result = evaluate_joint(law, y, size=3)
    for index in range(2):
        span = slice(3 * index, 3 * index + 3)
        alone = Elliptical(law.loc[span], law.scale[span, span])
        assert result.nll[index] == pytest.approx(joint_nll(alone, y[span]).item())
        assert result.variogram[index] == pytest.approx(variogram_score(alone, y[span]).item())
        assert result.pit[index] == pytest.approx(mahalanobis_pit(alone, y[span]).item())


def test_what_a_sample_cannot_say_is_nan():
    few = evaluate_joint(Sample(torch.randn(2, 5, 2)), torch.randn(5, 2))
    scores = few.scores()
    assert np.isfinite([scores["energy"], scores["variogram"]]).all()
    assert np.isnan([scores["nll"], scores["gain"], scores["dawid_sebastiani"], *few.pit]).all()
    assert "no joint density" in few.sentence


def test_draws_are_taken_in_pieces(monkeypatch):
    law, y = LAWS["functions"](), torch.randn(3, 2)
    whole = energy_score(law, y, draws=4000)
    monkeypatch.setattr("kernelfield.uq.joint.ENTRIES", 60)
    assert energy_score(law, y, draws=4000).item() == pytest.approx(whole.item(), abs=6 * 2 * 2 / 4000**0.5)


def test_too_few_draws_and_single_values_are_refused():
    with pytest.raises(ValueError, match="more than 6 draws, got 6"):
        dawid_sebastiani(Sample(torch.randn(6, 3, 2)), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="blocks of 1 point hold one value"):
        evaluate_joint(gaussian(4, 1), torch.zeros(4, 1))
