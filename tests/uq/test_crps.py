"""Every CRPS agrees with its definition, integrated by SciPy, and with values known by hand."""

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import scoringrules
import torch
from scipy import integrate, optimize, stats
from torch.testing import assert_close

from kernelfield.core.convolved import Convolved
from kernelfield.core.mixing import InverseGamma, Mixing, Unit
from kernelfield.core.pathwise import Linear, Pathwise
from kernelfield.core.posterior import Binned, Draws, Elliptical, Posterior
from kernelfield.core.quantiles import Quantiles
from kernelfield.uq.crps import expected_score
from kernelfield.uq.laws import Sample


@dataclass(frozen=True)
class TwoScales(Mixing):
    """s is one of two numbers with equal probability: an equal mixture of two Gaussians."""

    small: float
    large: float
    width = 1

    @property
    def mean(self):
        return (self.small + self.large) / 2

    def scale(self, z):
        return torch.where(z < 0, self.small, self.large).sqrt()

    def cdf(self, t):
        return sum(torch.special.ndtr(t / math.sqrt(s)) for s in (self.small, self.large)) / 2

    def quantile(self, p):
        def root(level: float) -> float:
            reach = 10 * math.sqrt(self.large)
            return optimize.brentq(lambda t: self.cdf(torch.tensor(t)).item() - level, -reach, reach)

        return p.new_tensor([root(level) for level in p.flatten().tolist()]).reshape(p.shape)

    def log_density(self, t):
        parts = [Unit().log_density(t / math.sqrt(s)) - 0.5 * math.log(s) for s in (self.small, self.large)]
        return torch.stack(parts).logsumexp(0) - math.log(2)

    def log_expectation(self, S, N):
        raise NotImplementedError

    def condition(self, S, N):
        raise NotImplementedError


def elliptical(mixing: Mixing, n: int = 3, m: int = 2) -> Elliptical:
    root = torch.randn(n * m, n * m)
    return Elliptical(torch.randn(n, m), root @ root.mT + torch.eye(n * m), mixing, torch.tensor([0.5, 3.0]))


def draws(noise: float) -> Draws:
    return Draws(torch.randn(4, 3, 2), torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor(noise))


def binned() -> Binned:
    return Binned(torch.randn(3, 2, 8), torch.randn(2, 9).sort(-1).values)


def quantiles(*atoms: int) -> Quantiles:
    """At seven levels, of which those of `atoms` equal the next."""
    values = torch.randn(3, 2, 7).sort(-1).values
    for index in atoms:
        values[..., index + 1] = values[..., index]
    return Quantiles(torch.tensor([0.01, 0.1, 0.2, 0.5, 0.7, 0.9, 0.95]), values)


FAMILIES = {
    "gaussian": lambda: elliptical(Unit()),
    "student, df 1.4": lambda: elliptical(InverseGamma(0.7, 2.0)),
    "student, df 6": lambda: elliptical(InverseGamma(3.0, 0.4)),
    "two scales": lambda: elliptical(TwoScales(0.04, 4.0)),
    "noisy functions": lambda: draws(0.3),
    "members": lambda: Draws(torch.randn(4, 3, 2), torch.tensor([0.1, 0.2, 0.3, 0.4]), 0.1 + torch.rand(4, 3, 2)),
    "functions": lambda: draws(0.0),
    "histogram": binned,
    "histogram with tails": lambda: replace(binned(), tails=True),
    "quantiles": lambda: quantiles(),
    "quantiles with atoms": lambda: quantiles(0, 3, 5),
    "student noise, nu 1.2": lambda: Convolved(elliptical(Unit()), 0.4, 1.2),
    "student noise, nu 6": lambda: Convolved(elliptical(Unit()), torch.tensor([0.1, 9.0]), 6.0),
}


def by_definition(law: Posterior, y: torch.Tensor) -> torch.Tensor:
    """The integral of (F(x) - 1[x >= y])^2, point by point, from the law's own cdf."""

    def height(x: float, i: int, j: int, above: float) -> float:
        return (law.cdf(torch.full_like(y, x))[i, j].item() - above) ** 2

    def ends(i: int, j: int) -> list[float]:
        match law:  # jumps and kinks, between which the integrand is smooth
            case Draws() if not law.noise.any():
                corners = law.values[:, i, j]
            case Binned():
                corners = law.edges[j]
            case Quantiles():
                corners = torch.cat([law.values[i, j], law.mean[i, j] + torch.arange(-4, 5)])
            case _:
                corners = law.mean[i, j] + torch.arange(-4, 5)
        return sorted([*corners.tolist(), y[i, j].item()])

    total = torch.zeros_like(y)
    for i, j in torch.cartesian_prod(torch.arange(y.shape[0]), torch.arange(y.shape[1])).tolist():
        cuts = [-math.inf, *ends(i, j), math.inf]
        for low, high in itertools.pairwise(cuts):
            above = float(low >= y[i, j].item())
            total[i, j] += integrate.quad(height, low, high, args=(i, j, above), epsabs=1e-9, limit=400)[0]
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_is_the_squared_distance_between_step_and_cdf(family):
    law = FAMILIES[family]()
    y = law.mean + torch.tensor([[0.1, -3.0], [2.0, 0.0], [-0.7, 9.0]])
    assert_close(expected_score(law, y), by_definition(law, y), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_is_in_the_units_of_y(family):
    law, y = FAMILIES[family](), torch.randn(3, 2)
    scale, shift = torch.tensor([3.0, 0.2]), torch.tensor([1.0, -5.0])
    assert_close(expected_score(law.affine(scale, shift), y * scale + shift), expected_score(law, y) * scale)


@pytest.mark.parametrize(
    "family",
    [
        "gaussian",
        "student, df 6",
        "noisy functions",
        "members",
        "functions",
        "histogram",
        "histogram with tails",
        "quantiles",
    ],
)
def test_the_score_is_the_mean_distance_less_half_the_distance_of_two_draws(family):
    law, y = FAMILIES[family](), torch.randn(3, 2)
    first, second = law.rsample((2, 200_000), torch.Generator().manual_seed(1))
    terms = (first - y).abs() - (first - second).abs() / 2
    error = terms.std(0) / len(terms) ** 0.5
    assert ((terms.mean(0) - expected_score(law, y)).abs() < 6 * error).all()


def test_a_calibrated_gaussian_scores_its_deviation_over_root_pi():
    law = Elliptical(torch.zeros(1, 1), torch.full((1, 1), 4.0))
    score = lambda y: expected_score(law, torch.tensor([[y]])).item()  # noqa: E731
    mean = integrate.quad(lambda y: score(y) * stats.norm.pdf(y, scale=2), -20, 20)[0]
    assert mean / 2 == pytest.approx(0.564190, abs=5e-7)


def test_the_cauchy_law_has_its_closed_form():
    """d crps / dy = 2 F(y) - 1 = 2 atan(y) / pi, and crps(0) = 2 log(2) / pi."""
    t = torch.tensor([[0.0], [0.3], [5.0], [1e4]])
    law = Elliptical(torch.zeros(4, 1), torch.eye(4), InverseGamma.student(1.0))
    expected = 2 / math.pi * (math.log(2) + t * t.atan() - t.square().log1p() / 2)
    assert_close(expected_score(law, t), expected, rtol=1e-6, atol=0)


def test_student_noise_about_a_known_function_has_the_score_of_the_student_t():
    t = torch.tensor([[0.0], [0.3], [5.0], [1e4]])
    known = Elliptical(torch.zeros(4, 1), torch.zeros(4, 4))
    for nu in (0.8, 1.0, 3.0, 40.0):
        law = Elliptical(torch.zeros(4, 1), 0.25 * torch.eye(4), InverseGamma.student(nu))
        assert_close(expected_score(Convolved(known, 0.25, nu), t), expected_score(law, t), rtol=1e-6, atol=0)


def test_many_degrees_of_freedom_are_a_gaussian():
    t = torch.linspace(-3, 3, 7)[:, None]
    student, gaussian = (
        Elliptical(torch.zeros(7, 1), torch.eye(7), mixing) for mixing in (InverseGamma.student(1e9), Unit())
    )
    assert_close(expected_score(student, t), expected_score(gaussian, t), rtol=1e-6, atol=1e-8)


def test_too_heavy_a_tail_has_an_infinite_score():
    law = Elliptical(torch.zeros(1, 1), torch.eye(1), InverseGamma.student(0.5))
    assert expected_score(law, torch.zeros(1, 1)).isinf().all()


def test_quadrature_over_two_scales_is_the_mixture_of_two_gaussians():
    """Far values need the sinh stretch: F rises within 0.2 of zero and y lies at 200."""
    y = torch.tensor([[0.0], [0.05], [1.0], [200.0]])
    law = Elliptical(torch.zeros(4, 1), torch.eye(4), TwoScales(0.04, 4.0))
    std = [0.2, 2.0]
    near = sum(2 * s * stats.norm.pdf(y / s) + y.numpy() * (2 * stats.norm.cdf(y / s) - 1) for s in std) / 2
    apart = sum(math.sqrt(a**2 + b**2) * math.sqrt(2 / math.pi) for a in std for b in std) / 8
    assert_close(expected_score(law, y), torch.as_tensor(near) - apart, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "law",
    [
        Elliptical(torch.tensor([[1.0], [2.0]]), torch.zeros(2, 2)),
        Elliptical(torch.tensor([[1.0], [2.0]]), torch.zeros(2, 2), InverseGamma.student(3.0)),
        Draws(torch.tensor([[[1.0], [2.0]]]), torch.ones(1), torch.tensor(0.0)),
        Draws(torch.tensor([[[1.0], [2.0]]]), torch.ones(1), torch.tensor([[0.0], [0.0]])),
    ],
    ids=["gaussian", "student", "function", "function with a noise each"],
)
def test_a_point_prediction_scores_its_absolute_error(law):
    assert_close(expected_score(law, torch.tensor([[1.0], [5.0]])), torch.tensor([[0.0], [3.0]]))


def test_members_without_noise_at_some_outputs_score_as_their_limit():
    law = Draws(torch.randn(3, 2, 2), torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.0, 1.0]))
    small = Draws(law.values, law.weights, torch.tensor([1e-20, 1.0]))
    y = torch.randn(2, 2)
    assert_close(expected_score(law, y), expected_score(small, y), rtol=1e-8, atol=1e-8)


def test_batches_score_as_their_members():
    law = Draws(torch.randn(5, 4, 3, 2), torch.full((4,), 0.25), torch.tensor(0.1))
    y = torch.randn(5, 3, 2)
    one = Draws(law.values[2], law.weights, law.noise)
    assert_close(expected_score(law, y)[2], expected_score(one, y[2]))


class Disguised(Posterior):
    """A law of whose family nothing is known."""

    width = draw = log_prob = affine = mean = variance = None

    def __init__(self, law: Posterior) -> None:
        self.law, self.cdf, self.quantile = law, law.cdf, law.quantile


Disguised.__abstractmethods__ = frozenset()


@pytest.mark.parametrize("family", ["gaussian", "student, df 6", "noisy functions", "histogram"])
def test_a_family_without_a_formula_is_scored_by_its_quantiles(family):
    law = FAMILIES[family]()
    y = law.mean + 2 * torch.randn_like(law.mean)
    # Four hundred straight pieces: 1e-4 of a smooth law, more where its density has corners.
    assert_close(expected_score(Disguised(law), y), expected_score(law, y), rtol=1e-3, atol=1e-4)


def test_quantiles_in_single_precision_do_not_reach_one():
    law = Elliptical(torch.zeros(3, 1, dtype=torch.float32), torch.eye(3, dtype=torch.float32))
    y = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float32)
    # Four hundred straight pieces, in single precision and with levels up to 1e-6: 1e-3 of a smooth law.
    assert_close(expected_score(Disguised(law), y), expected_score(law, y), rtol=1e-3, atol=0)


def test_the_joint_law_of_paths_does_not_matter():
    law = elliptical(Unit())
    y = torch.randn_like(law.mean)
    assert_close(expected_score(Pathwise(law, Linear(1, lambda z: z)), y), expected_score(law, y))


ORACLES = {  # a law, and what scoringrules says of it at y
    "gaussian": (
        Elliptical(torch.tensor([[0.5], [-2.0]]), torch.diag(torch.tensor([0.25, 9.0]))),
        lambda y: scoringrules.crps_normal(y, [[0.5], [-2.0]], [[0.5], [3.0]]),
    ),
    "student": (
        Elliptical(torch.tensor([[0.5], [-2.0]]), torch.diag(torch.tensor([0.25, 9.0])), InverseGamma.student(3.5)),
        lambda y: scoringrules.crps_t(y, 3.5, [[0.5], [-2.0]], [[0.5], [3.0]]),
    ),
    "mixture": (
        Draws(torch.tensor([0.5, -2.0]).reshape(2, 1, 1).expand(2, 2, 1), torch.tensor([0.3, 0.7]), torch.tensor(0.16)),
        lambda y: scoringrules.crps_mixnorm(y, [0.5, -2.0], [0.4, 0.4], [0.3, 0.7]),
    ),
    "two quantiles": (
        Quantiles(torch.tensor([0.25, 0.9]), torch.tensor(stats.norm.ppf([0.25, 0.9], 1.0, 2.0)).expand(2, 1, 2)),
        lambda y: scoringrules.crps_normal(y, 1.0, 2.0),
    ),
}


@pytest.mark.parametrize("name", ORACLES)
def test_scores_are_those_of_scoringrules(name):
    law, oracle = ORACLES[name]
    for y in (torch.tensor([[0.3], [-4.0]]), torch.tensor([[50.0], [-2.0]])):
        assert_close(expected_score(law, y), torch.as_tensor(oracle(y.numpy())), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("k", [2, 3, 40])
def test_the_score_of_a_sample_is_the_fair_one_of_scoringrules(k):
    values, y = torch.randn(k, 5, 2), torch.randn(5, 2)
    values[:, 0] = values[:, 0].round()  # ties
    fair = scoringrules.crps_ensemble(y.numpy(), values.numpy(), m_axis=0, estimator="fair")
    assert_close(expected_score(Sample(values), y), torch.as_tensor(fair))


def test_few_draws_score_on_average_as_the_law_that_they_came_from():
    """Three draws a time; the score of the finite set is too large by a sixth of E|f - f'|."""
    values = torch.randn(3, 200_000, 1, generator=torch.Generator().manual_seed(2))
    y = torch.full((200_000, 1), 0.4)
    scores = expected_score(Sample(values), y)
    exact = expected_score(Elliptical(torch.zeros(1, 1), torch.eye(1)), y[:1])
    error = scores.std() / len(scores) ** 0.5
    assert (scores.mean() - exact).abs() < 6 * error
    finite = expected_score(Draws(values, torch.full((3,), 1 / 3), torch.tensor(0.0)), y)
    assert_close(finite.mean() - scores.mean(), torch.tensor(2 / math.sqrt(math.pi) / 6), rtol=0, atol=float(6 * error))
