"""Every mixing law that is known by its density, against SciPy, mpmath and closed forms."""

import math
import pickle

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mp
from scipy import stats
from scipy.special import logsumexp
from torch.testing import assert_close

from kernelfield.core.mixing import InverseGamma
from kernelfield.core.mixing_density import Grid, LogDensity, Tilted
from kernelfield.core.mixing_laws import BetaPrime, BurrXII, Gamma, HalfCauchy, LogNormal

mp.dps = 25


def by_closed_form(law, S, N):
    """log E of a gamma law: a Bessel function."""
    a, b = mp.mpf(law.alpha), mp.mpf(law.beta)
    order, x = a - mp.mpf(N) / 2, mp.sqrt(2 * b * S)
    return mp.log(2 * b**a / mp.gamma(a) * (mp.mpf(S) / (2 * b)) ** (order / 2) * mp.besselk(order, x))


def by_mpmath(density):
    """log E by tanh-sinh quadrature of many digits about the mode of the integrand."""

    def log_expectation(law, S, N):
        def log_f(u):
            return density(mp.exp(u)) + u - mp.mpf(N) / 2 * u - mp.mpf(S) / 2 * mp.exp(-u)

        mode = max((mp.mpf(i) / 2 for i in range(-40, 41)), key=log_f)
        for step in (0.1, 0.02, 0.004):
            mode = max((mode + i * step for i in range(-5, 6)), key=log_f)
        width = min(1.0, 2 / math.sqrt(N + 1))
        marks = [mode + width * step for step in (-700, -150, -30, -12, -6, -3, 0, 3, 6, 12, 30, 150, 700)]
        top = log_f(mode)
        return top + mp.log(mp.quad(lambda u: mp.exp(log_f(u) - top), marks))

    return log_expectation


def burr(c, d, unit):
    return by_mpmath(lambda s: mp.log(c * d / unit) + (c - 1) * mp.log(s / unit) - (d + 1) * mp.log1p((s / unit) ** c))


def log_normal(std, unit):
    return by_mpmath(lambda s: -0.5 * (mp.log(s / unit) / std) ** 2 - mp.log(std * s * mp.sqrt(2 * mp.pi)))


def beta_prime(a, b, unit):
    return by_mpmath(lambda s: (a - 1) * mp.log(s / unit) - (a + b) * mp.log1p(s / unit) - mp.log(unit * mp.beta(a, b)))


def inverse_gamma(law, S, N):
    a, b = mp.mpf(2.5), mp.mpf(0.4)
    return mp.loggamma(a + mp.mpf(N) / 2) - mp.loggamma(a) + a * mp.log(b) - (a + mp.mpf(N) / 2) * mp.log(b + S / 2)


class RootOfCauchy:
    """The square of a half-Cauchy variable, in the terms of SciPy's distributions."""

    root = stats.halfcauchy(scale=1.5)

    def pdf(self, s):
        return self.root.pdf(s**0.5) / (2 * s**0.5)

    def logpdf(self, s):
        return np.log(self.pdf(s))

    def cdf(self, s):
        return self.root.cdf(s**0.5)

    def mean(self):
        return math.inf


# Trapezoidal sums of analytic functions converge exponentially: this step is a fifth of the narrowest width.
GRID, STEP = np.linspace(-200, 200, 160_001, retstep=True)
USER = LogDensity(lambda s, a: -(a + 1) * s.log() - 0.4 / s, {"a": 2.5})
LAWS = {  # the law, the distribution of s by SciPy, log E by mpmath
    "gamma": (Gamma(1.5, 2.0), stats.gamma(1.5, scale=0.5), by_closed_form),
    "laplace": (Gamma(1.0, 0.5), stats.gamma(1.0, scale=2.0), by_closed_form),
    "singular gamma": (Gamma(0.3, 1.0), stats.gamma(0.3), by_closed_form),
    "burr": (BurrXII(2.0, 1.5, 0.7), stats.burr12(2.0, 1.5, scale=0.7), burr(2.0, 1.5, 0.7)),
    "heavy burr": (BurrXII(0.8, 0.6), stats.burr12(0.8, 0.6), burr(0.8, 0.6, 1.0)),
    "log-normal": (LogNormal(1.3, 2.0), stats.lognorm(1.3, scale=2.0), log_normal(1.3, 2.0)),
    "narrow": (LogNormal(0.01, 30.0), stats.lognorm(0.01, scale=30.0), log_normal(0.01, 30.0)),
    "beta prime": (BetaPrime(0.7, 1.4, 3.0), stats.betaprime(0.7, 1.4, scale=3.0), beta_prime(0.7, 1.4, 3.0)),
    "half-cauchy": (HalfCauchy(1.5), RootOfCauchy(), beta_prime(0.5, 0.5, 1.5**2)),
    "user's": (USER, stats.invgamma(2.5, scale=0.4), inverse_gamma),
}
EVERY = pytest.mark.parametrize("name", LAWS)
DATA = [(0.6, 1), (4.0, 10), (150.0, 100), (900.0, 1000), (2e4, 10_000)]


@EVERY
def test_the_density_is_that_of_scipy_and_integrates_to_one(name):
    law, oracle, _ = LAWS[name]
    s = [law.scale(torch.tensor(z)).item() ** 2 for z in (-3.0, -1.0, 0.2, 1.0, 3.0)]
    s += [math.exp(10.3), math.exp(20.6)]  # where log(1 + x) is nearly log x
    u = torch.tensor(s).log()
    expect = torch.tensor([oracle.pdf(value) * value for value in s])
    assert_close(law.log_density_of_log(u, *law.shapes.values()).exp(), expect, rtol=1e-10, atol=0)
    assert law.log_expectation(0.0, 0)[0] == pytest.approx(0.0, abs=1e-13)


@EVERY
def test_the_mean_is_that_of_scipy(name):
    law, oracle, _ = LAWS[name]
    heavy = name in ("heavy burr", "half-cauchy")
    assert law.mean == (math.inf if heavy else pytest.approx(oracle.mean(), rel=1e-10))
    # Quadrature agrees with the closed form, which also says where the mean is infinite.
    assert law.means(torch.zeros(1), 0).item() == (math.inf if heavy else pytest.approx(law.mean, rel=1e-11))


@EVERY
def test_the_marginal_is_the_mixture_of_normals(name):
    law, oracle, _ = LAWS[name]

    def mixed(function):
        return float((function(np.exp(GRID / 2)) * oracle.pdf(np.exp(GRID)) * np.exp(GRID)).sum() * STEP)

    t = torch.tensor([-4.0, 0.3, 2.0])
    cdf = [mixed(lambda root, x=x: stats.norm.cdf(x / root)) for x in t.tolist()]
    density = [mixed(lambda root, x=x: stats.norm.pdf(x / root) / root) for x in t.tolist()]
    assert_close(law.cdf(t), torch.tensor(cdf), atol=1e-10, rtol=0)
    assert_close(law.log_density(t).exp(), torch.tensor(density), atol=1e-12, rtol=1e-9)


@EVERY
def test_the_marginal_agrees_with_itself(name):
    law = LAWS[name][0]
    p = torch.tensor([[1e-6, 0.01, 0.3], [0.5, 0.77, 1 - 1e-6]])
    t = law.quantile(p)
    assert_close(law.cdf(t), p, atol=1e-13, rtol=1e-10)
    assert t[1, 0] == 0
    assert_close(law.quantile(1 - p), -t, rtol=1e-9, atol=1e-12)
    x = torch.tensor([-2.0, -0.4, 0.9], requires_grad=True)
    (slope,) = torch.autograd.grad(law.cdf(x).sum(), x)
    assert_close(slope, law.log_density(x).exp().detach(), atol=1e-12, rtol=1e-10)
    assert torch.autograd.gradcheck(law.log_density, (x,))


@EVERY
def test_normals_become_quantiles_of_s(name):
    law, oracle, _ = LAWS[name]
    z = torch.linspace(-4, 4, 33)
    level = torch.as_tensor(oracle.cdf(law.scale(z).square().numpy()))
    assert_close(level, torch.special.ndtr(z), atol=1e-12, rtol=1e-7)
    assert (law.scale(torch.linspace(-6, 6, 2001)).diff() >= 0).all()


@pytest.mark.parametrize(("S", "N"), DATA)
@EVERY
def test_the_expectation_is_that_of_a_fine_sum(name, S, N):
    law, oracle, _ = LAWS[name]
    log_p = oracle.logpdf(np.exp(GRID)) + GRID

    def log_sum(count):
        return logsumexp(log_p - count / 2 * GRID - S / 2 * np.exp(-GRID)) + math.log(STEP)

    value, slope = law.log_expectation(S, N)
    assert value == pytest.approx(log_sum(N), abs=1e-10, rel=1e-12)
    assert slope == pytest.approx(-math.exp(log_sum(N + 2) - log_sum(N)) / 2, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("S", "N"), DATA)
@EVERY
def test_the_expectation_is_that_of_many_digits(name, S, N):
    law, _, oracle = LAWS[name]
    value, slope = law.log_expectation(S, N)
    expect = oracle(law, S, N)
    assert value == pytest.approx(float(expect), abs=1e-10, rel=1e-13)
    assert slope == pytest.approx(float(-mpmath.exp(oracle(law, S, N + 2) - expect) / 2), rel=1e-10)


@EVERY
def test_shapes_are_differentiated(name):
    law, h = LAWS[name][0], 1e-5
    values = list(law.shapes.values())
    for S, N in ((0.0, 0), *DATA[:3]):
        score = law.score(S, N)
        assert len(score) == len(values)
        for i, slope in enumerate(score):
            ends = [
                law.reshaped([v * math.exp(sign * h * (i == j)) for j, v in enumerate(values)]).log_expectation(S, N)[0]
                for sign in (1, -1)
            ]
            # Central differences err by h^2 and by the rounding of a hundred nats over h.
            assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=2e-8)


@EVERY
def test_data_in_two_parts_teach_as_much_as_in_one(name):
    law = LAWS[name][0]
    once, twice = law.condition(7.0, 12), law.condition(5.0, 4).condition(2.0, 8)
    t = torch.tensor([-1.0, 0.2, 3.0])
    assert_close(once.log_density(t), twice.log_density(t), atol=1e-12, rtol=1e-12)
    assert once.log_expectation(3.0, 5)[0] == pytest.approx(
        law.log_expectation(10.0, 17)[0] - law.log_expectation(7.0, 12)[0], abs=1e-12
    )
    assert once.mean == pytest.approx(law.means(torch.tensor([1.0, 7.0]), 12)[1].item(), rel=1e-12)
    assert once.mean == pytest.approx(math.exp(law.log_expectation(7.0, 10)[0] - law.log_expectation(7.0, 12)[0]))


@EVERY
def test_a_law_learned_keeps_its_unit_and_can_be_pickled(name):
    law = LAWS[name][0]
    assert law.reshaped(list(law.shapes.values())) == law
    if name == "gamma":
        assert law.reshaped([7.0]).mean == pytest.approx(law.mean)
    if name != "user's":
        again = pickle.loads(pickle.dumps(law.condition(3.0, 4)))
        assert again.mean == law.condition(3.0, 4).mean


def test_a_density_by_the_user_is_the_closed_form():
    exact = InverseGamma(2.5, 0.4)
    t = torch.linspace(-8, 8, 33)
    for mine, theirs in ((USER, exact), (USER.condition(40.0, 60), exact.condition(40.0, 60))):
        assert mine.mean == pytest.approx(theirs.mean, rel=1e-11)
        assert_close(mine.cdf(t), theirs.cdf(t), atol=1e-11, rtol=0)
        assert_close(mine.log_density(t), theirs.log_density(t), atol=1e-10, rtol=0)
        assert_close(mine.quantile(theirs.cdf(t / 4)), t / 4, atol=1e-9, rtol=1e-9)
        assert_close(mine.scale(t / 2), theirs.scale(t / 2), atol=0, rtol=1e-6)


@pytest.mark.parametrize("law", [InverseGamma(2.5, 0.4), InverseGamma(0.7, 3.0)])
def test_the_shape_of_an_inverse_gamma_is_differentiated(law):
    h = 1e-5
    for S, N in ((0.0, 0), *DATA):
        up, down = (law.reshaped([law.alpha * math.exp(sign * h)]).log_expectation(S, N)[0] for sign in (1, -1))
        assert law.score(S, N)[0] == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-6)
        assert law.means(torch.tensor([S]), N).item() == pytest.approx(law.condition(S, N).mean)
    assert law.reshaped([9.0]).spread == pytest.approx(law.spread)


def test_far_outliers_have_the_density_of_the_tail():
    # Of a Burr XII with the power c d, sqrt(s) z has a tail of the power 2 c d + 1.
    law, far = BurrXII(2.0, 1.5), torch.tensor([1e4, 1e5])
    drop = law.log_density(far).diff().item()
    assert drop == pytest.approx(-7 * math.log(10), rel=1e-6)
    assert Gamma(0.5, 1.0).log_density(torch.zeros(1)).item() == math.inf
    # The horseshoe's density grows like a logarithm at zero.
    assert HalfCauchy().log_density(torch.tensor([0.0])).item() == math.inf


def test_a_uniform_law_can_be_given_by_its_density():
    law = LogDensity(lambda s: torch.where((s > 1) & (s < 2), 0.0, -math.inf))
    assert law.mean == pytest.approx(1.5, rel=1e-11)
    z = torch.linspace(-3, 3, 13)
    assert_close(law.scale(z).square(), 1 + torch.special.ndtr(z), atol=1e-11, rtol=0)


def test_a_grid_is_a_finite_mixture():
    law, t = Grid((4.0, 0.25, 1.0), (1.0, 2.0, 1.0)), torch.linspace(-5, 5, 21)
    parts = [(0.25, stats.norm(scale=2.0)), (0.5, stats.norm(scale=0.5)), (0.25, stats.norm())]
    assert_close(law.cdf(t), torch.as_tensor(sum(w * part.cdf(t) for w, part in parts)))
    assert_close(law.log_density(t).exp(), torch.as_tensor(sum(w * part.pdf(t) for w, part in parts)))
    assert_close(law.cdf(law.quantile(torch.tensor([0.1, 0.6]))), torch.tensor([0.1, 0.6]))
    assert law.mean == pytest.approx(1.375)
    assert law.scale(torch.tensor([-0.1, 0.1, 0.6, 0.7])).tolist() == [0.5, 1.0, 1.0, 2.0]
    weights = [w * s ** (-1.5) * math.exp(-2 / s) for w, s in ((2, 0.25), (1, 1.0), (1, 4.0))]
    value, slope = law.log_expectation(4.0, 3)
    assert value == pytest.approx(math.log(sum(weights) / 4))
    assert slope == pytest.approx(-0.5 * sum(w / s for w, s in zip(weights, (0.25, 1, 4), strict=True)) / sum(weights))
    expect = sum(w * s for w, s in zip(weights, (0.25, 1, 4), strict=True)) / sum(weights)
    assert law.condition(4.0, 3).mean == pytest.approx(expect)
    assert law.means(torch.tensor([4.0]), 3).item() == pytest.approx(expect)
    assert Grid((1.0, 3.0)).mean == 2.0


def test_a_law_that_is_created_in_inference_mode_has_gradients_later():
    law = BurrXII(2.0, 1.5)
    with torch.inference_mode():
        law.cdf(torch.zeros(1))
        assert len(law.score(3.0, 4)) == 2
    x = torch.tensor([0.5], requires_grad=True)
    (slope,) = torch.autograd.grad(law.cdf(x).sum(), x)
    assert slope.item() == pytest.approx(law.log_density(x).exp().item())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gamma(0.0, 1.0), "alpha of Gamma must be positive and finite, got 0.0"),
        (lambda: Gamma(1.0, -2.0), "beta of Gamma .* got -2.0"),
        (lambda: BurrXII(1.0, math.nan), "d of BurrXII .* got nan"),
        (lambda: LogNormal(math.inf), "std of LogNormal .* got inf"),
        (lambda: BetaPrime(1.0, 1.0, 0.0), "unit of BetaPrime .* got 0.0"),
        (lambda: HalfCauchy(-1.0), "spread of HalfCauchy .* got -1.0"),
        (lambda: LogDensity(lambda s: -s.log()), "does not integrate"),
        (lambda: LogDensity(lambda s: torch.zeros_like(s)), "does not integrate"),
        (lambda: LogDensity(lambda s: torch.full_like(s, -math.inf)), "the density of s is zero wherever"),
        (lambda: LogDensity(lambda s: s * math.nan), "the log density of s is nan at s = 9.8"),
        (lambda: LogDensity(lambda s: torch.zeros(3)), r"must have their shape, got \(3,\)"),
        (lambda: LogDensity(lambda s, a: -a * s, {"a": 0.0}), "a of a LogDensity must be positive and finite, got 0.0"),
        (lambda: Grid(()), "one weight a value, got 0 values"),
        (lambda: Grid((1.0, 2.0), (1.0,)), "got 2 values, 1 weights"),
        (lambda: Grid((1.0, -2.0)), "values of a Grid must be positive and finite, got -2.0"),
        (lambda: Grid((1.0, 2.0), (0.0, 0.0)), "weights of a Grid"),
        (lambda: Tilted(BurrXII(2.0, 1.0), 0.0, 50), "50 observations with the quadratic form 0 have no density"),
        (lambda: BurrXII(0.01, 0.01).cdf(torch.zeros(1)), "has mass where s or 1/s is beyond 1e304"),
    ],
)
def test_what_is_no_law_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
