"""Optimism over weights: linear models by dense algebra, Laplace's law and a general optimiser for networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.testing import assert_close

from kernelfield.bo.acquisition import Situation, acquisition
from kernelfield.bo.fitting import fit
from kernelfield.bo.history import History
from kernelfield.bo.optimistic import (
    FIRST,
    Ellipsoid,
    GreatestValue,
    Weights,
    greatest_value,
    linearised_bound,
    weights,
)
from kernelfield.bo.search import Budget
from kernelfield.bo.space import Space
from kernelfield.bo.suggestion import Settings, suggest
from kernelfield.core.contracts import Data, Model
from kernelfield.estimators.scaling import Scaled
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.laplace import LaplaceNetwork
from kernelfield.models.neural.last_layer import LastLayer
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.train import Training
from kernelfield.models.process import Process
from kernelfield.nets.quadrature import Tanh

WIDTH = 2.0
SMOOTH, QUICK = multilayer((12,), Tanh(), w=1.0, b=1.0), Training(steps=200, learning_rate=2e-2)
MODELS: dict[str, Model] = {
    "laplace": LaplaceNetwork(SMOOTH, training=QUICK, rounds=2),
    "laplace layers": LaplaceNetwork(SMOOTH, prior="layers", training=QUICK, rounds=2),
    "laplace kronecker": LaplaceNetwork(SMOOTH, form="kronecker", training=QUICK, rounds=2),
    "last layer": LastLayer(SMOOTH, training=QUICK),
    "ensemble": Ensemble(SMOOTH, members=3, training=QUICK),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def linear(d: int) -> Weights:
    """A linear function of d inputs, with a prior that is not the same for all."""
    network = Network(nn.Linear(d, 1, bias=False), d, 1)
    return Weights(network, random(d) - 0.5, 0.5 + random(d, seed=1), torch.tensor(0.3))


def small(hidden: int = 2) -> Weights:
    """A network of tanh units of one input."""
    network = Network(nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, 1)), 1, 1)
    p = 3 * hidden + 1
    return Weights(network, torch.linspace(-1, 1.5, p), 0.5 + random(p, seed=1), torch.tensor(0.02))


def jacobian(prior: Weights, X: Tensor) -> Tensor:
    assert prior.network.size == len(prior.parameters)  # which makes its module, outside of any transformation
    return torch.func.jacrev(lambda w: prior.network.call(w, X)[:, 0])(prior.parameters)


def dense(prior: Weights, X: Tensor) -> Tensor:
    """Sigma (p, p)."""
    J = jacobian(prior, X)
    return torch.diag(prior.spread**-2) + J.mT @ J / prior.noise


def scaled(name: str, n: int = 12, d: int = 1) -> tuple[Scaled, Tensor, Tensor]:
    """A fit in units far from standard ones, and its rows."""
    X = random(n, d, seed=3)
    y = 3 * torch.sin(6 * X).sum(1) + 10
    return fit(MODELS[name], X, y, generator=torch.Generator().manual_seed(0)).surrogate, X, y


@pytest.mark.parametrize("n", [3, 5, 9])
def test_of_a_linear_function_both_are_the_bound_of_linear_bandits(n: int) -> None:
    prior, X, y, points = linear(5), random(n, 5, seed=2), random(n, seed=3), random(20, 5, seed=4) - 0.5
    Sigma = dense(prior, X)
    right = X.mT @ (X @ prior.parameters + y - X @ prior.parameters) / prior.noise + prior.parameters / prior.spread**2
    centre = torch.linalg.solve(Sigma, right)  # the source's own form
    bound = points @ centre + WIDTH * (points * torch.linalg.solve(Sigma, points.mT).mT).sum(1).sqrt()
    ellipsoid = Ellipsoid.around(prior, X, y)
    assert_close(ellipsoid.centre, centre)
    found, slopes = GreatestValue(ellipsoid, WIDTH).slopes(points)
    assert_close(found, bound)
    z = nn.functional.normalize(torch.randn(5000, 5), dim=1) * WIDTH * random(5000, 1, seed=5) ** 0.2
    inside = centre + torch.linalg.solve(torch.linalg.cholesky(Sigma).mT, z.mT).mT
    sampled = (points @ inside.mT).amax(1)
    assert (sampled <= found + 1e-12).all() and (found - sampled).min() < 0.1
    # The slope of the bound in x is the weight at which it is attained.
    assert_close((slopes * points).sum(1), bound)


@pytest.mark.parametrize("n", [4, 30])
def test_products_with_the_inverse_are_those_of_dense_algebra(n: int) -> None:
    prior, X, y = small(), random(n, 1), random(n, seed=2)
    pending, G = random(3, 1, seed=6), torch.randn(8, 7)
    J, Sigma = jacobian(prior, X), dense(prior, X)
    gap = y - prior.network.call(prior.parameters, X)[:, 0]
    shift = torch.linalg.solve(Sigma, J.mT @ gap / prior.noise)
    for ellipsoid, matrix in (
        (Ellipsoid.around(prior, X, y), Sigma),
        (Ellipsoid.around(prior, X, y).joined(pending), dense(prior, torch.cat([X, pending]))),
        (Ellipsoid.around(prior, X, y).joined(pending[:0]), Sigma),
    ):
        assert_close(ellipsoid.shift, shift, rtol=1e-8, atol=1e-10)
        inverse = torch.linalg.solve(matrix, G.mT).mT
        product, length = ellipsoid.solved(prior.spread * G)
        assert_close(prior.spread * product, inverse, rtol=1e-8, atol=1e-10)
        assert_close(length.square(), (G * inverse).sum(1), rtol=1e-8, atol=1e-10)
        assert len(ellipsoid.rows) <= min(n + 3, 7)


@pytest.mark.parametrize("name", ["laplace", "laplace layers"])
def test_the_linearised_bound_is_that_of_laplace_with_all_weights(name: str) -> None:
    surrogate, X, y = scaled(name)
    points, none = random(30, 1, seed=8) * 1.5 - 0.2, X[:0]
    law = surrogate.posterior(points)
    mean, std = law.mean[:, 0].detach(), law.variance[:, 0].detach().sqrt()
    # Where the network meets all targets, its values are the mean; elsewhere the std is the same.
    met = linearised_bound(surrogate, X, surrogate.posterior(X).mean[:, 0].detach(), none, WIDTH)
    assert_close(met.values(points), mean + WIDTH * std, rtol=1e-6, atol=1e-6)
    found = linearised_bound(surrogate, X, y, none, WIDTH).values(points)
    centre = linearised_bound(surrogate, X, y, none, 0.0).values(points)
    assert_close(found - centre, WIDTH * std, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_the_linearised_mean_is_that_of_a_process_about_the_network(name: str) -> None:
    surrogate, X, y = scaled(name, n=10, d=2)
    prior, points = weights(surrogate.inner), random(15, 2, seed=8)
    x, at = surrogate.to_model_X(X), surrogate.to_model_X(points)
    A, B = (jacobian(prior, rows) * prior.spread for rows in (x, at))
    gap = surrogate.to_model_y(y[:, None])[:, 0] - prior.network.call(prior.parameters, x)[:, 0]
    K = A @ A.mT + prior.noise * torch.eye(len(A))
    mean = prior.network.call(prior.parameters, at)[:, 0] + B @ A.mT @ torch.linalg.solve(K, gap)
    found = linearised_bound(surrogate, X, y, X[:0], 0.0).values(points)
    assert_close(surrogate.to_model_y(found[:, None])[:, 0], mean, rtol=1e-6, atol=1e-6)


def test_the_network_of_a_surrogate_is_the_one_it_predicts_with() -> None:
    points = random(6, 1, seed=9)
    for name in ("laplace", "laplace kronecker", "last layer"):
        inner = scaled(name)[0].inner
        prior = weights(inner)
        assert_close(prior.network.call(prior.parameters, points), inner.posterior(points).mean, rtol=1e-9, atol=1e-9)
    inner = scaled("ensemble")[0].inner
    prior = weights(inner)
    first = inner.posterior(points).values[0]
    assert_close(prior.network.call(prior.parameters, points), first)


def test_the_greatest_value_is_that_of_a_general_optimiser() -> None:
    prior, X = small(), random(4, 1)
    ellipsoid = Ellipsoid.around(prior, X, torch.sin(5 * X[:, 0]))
    points = torch.linspace(-0.5, 1.5, 5)[:, None]
    found = GreatestValue(ellipsoid, 1.0).values(points)
    factor = torch.linalg.cholesky(dense(prior, X))

    def at(z: Tensor, x: Tensor) -> Tensor:
        return prior.network.call(ellipsoid.centre + torch.linalg.solve(factor.mT, z), x[None])[0, 0]

    best = []
    for x in points:
        value = torch.func.grad_and_value(lambda z, x=x: -at(z, x))
        starts = 0.5 * np.random.default_rng(0).normal(size=(8, 7)) / 7**0.5
        ends = [
            minimize(
                lambda z, value=value: [t.numpy() for t in value(torch.from_numpy(z))[::-1]],
                start,
                jac=True,
                method="SLSQP",
                constraints={"type": "ineq", "fun": lambda z: 1 - z @ z, "jac": lambda z: -2 * z},
                options={"ftol": 1e-12, "maxiter": 300},
            )
            for start in starts
        ]
        best.append(max(-one.fun for one in ends if one.success))
    assert_close(found, torch.tensor(best), rtol=1e-4, atol=1e-4)  # the climb ends at 1e-5 of the bonus
    sampled = nn.functional.normalize(torch.randn(500, 7), dim=1)
    theta = ellipsoid.centre + torch.linalg.solve(factor.mT, sampled.mT).mT
    assert (prior.network.values(theta, points)[..., 0].amax(0) <= found + 1e-6).all()
    centre = prior.network.call(ellipsoid.centre, points)[:, 0]
    assert (centre < found).all()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("make", [linearised_bound, greatest_value])
def test_slopes_are_those_of_central_differences(make, name: str) -> None:
    surrogate, X, y = scaled(name, n=12, d=2)
    bound = make(surrogate, X, y, random(2, 2, seed=4), 0.5)
    points, step = random(6, 2, seed=7), 1e-3 if make is greatest_value else 1e-5
    value, slope = bound.slopes(points)
    assert_close(bound.values(points), value)
    for j in range(2):
        move = torch.zeros(2).index_fill(0, torch.tensor(j), step)
        found = (bound.values(points + move) - bound.values(points - move)) / (2 * step)
        # A climb ends at 1e-5 of the bonus, which a difference divides by the step.
        tight = 1e-6 if make is linearised_bound else 5e-2
        assert ((found - slope[:, j]).abs() <= tight * slope.norm(dim=1) + tight).float().mean() > 0.8


def test_where_to_look_costs_a_few_slopes_and_is_no_more_than_the_greatest_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prior, X, y = small(), random(12, 1), random(12, seed=2)
    aim, points, calls = GreatestValue(Ellipsoid.around(prior, X, y), WIDTH), random(40, 1, seed=5), []
    least, _ = aim._slopes(torch.zeros(40, 7), points)
    slopes = GreatestValue._slopes
    monkeypatch.setattr(GreatestValue, "_slopes", lambda *given: calls.append(None) or slopes(*given))
    rough, cost = aim.rough(points), len(calls)
    greatest = aim.values(points)
    assert cost == FIRST + 1 < len(calls) - cost
    assert (least <= rough).all() and (rough <= greatest + 1e-12).all()
    assert (greatest - rough).mean() < 0.1 * (greatest - least).mean()


def test_a_value_is_of_its_own_point_alone() -> None:
    surrogate, X, y = scaled("laplace")
    bound, points = greatest_value(surrogate, X, y, X[:0], WIDTH), random(7, 1, seed=7)
    assert_close(bound.values(points), torch.cat([bound.values(x[None]) for x in points]))


@pytest.mark.parametrize("make", [linearised_bound, greatest_value])
def test_a_trial_that_runs_is_taken_to_end_as_expected(make) -> None:
    surrogate, X, y = scaled("laplace")
    pending = torch.tensor([[1.4]])
    free, waiting = (make(surrogate, X, y, some, 0.5).values(pending).item() for some in (X[:0], pending))
    centre = linearised_bound(surrogate, X, y, pending, 0.0).values(pending).item()
    assert centre == pytest.approx(linearised_bound(surrogate, X, y, X[:0], 0.0).values(pending).item())
    assert centre < waiting < free - 0.1 * (free - centre)


def test_a_trial_of_weight_two_is_two_trials() -> None:
    prior, X, points = small(), random(6, 1, seed=2), random(5, 7, seed=8)
    y, times = torch.sin(5 * X[:, 0]), torch.tensor([1, 2, 1, 3, 1, 1])
    once = Ellipsoid.around(prior, X, y, weight=times.double())
    often = Ellipsoid.around(prior, X.repeat_interleave(times, 0), y.repeat_interleave(times))
    assert_close(once.centre, often.centre)
    assert_close(once.solved(points), often.solved(points))


@pytest.mark.parametrize("make", ["ntk_ucb", "go_ucb"])
def test_a_trial_whose_known_noise_is_enormous_bounds_nothing(make: str) -> None:
    surrogate, X, y = scaled("laplace")
    pending, weight = X[:0], torch.ones(len(X)).index_fill(0, torch.tensor(4), 1e-12)
    situation = Situation([surrogate], [], X, y[:, None], X[:, :0], pending, weight=weight)
    rest, plain = torch.arange(len(X)) != 4, situation.standard
    expected = {"ntk_ucb": linearised_bound, "go_ucb": greatest_value}[make](
        plain.objectives[0], X[rest], plain.Y[rest, 0], pending, WIDTH
    )
    points = random(6, 1, seed=7)
    assert_close(acquisition(make, situation).values(points), expected.values(points), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["ntk_ucb", pytest.param("go_ucb", marks=pytest.mark.slow)])
def test_a_loop_finds_the_greatest_value_of_a_function(name: str) -> None:
    space, rows = Space.of({"x": (0.0, 1.0)}), torch.tensor([[0.05], [0.5], [0.95]]).numpy()
    settings = Settings(MODELS["laplace"], acquisition=name, budget=Budget(raw=32, starts=2, steps=8))

    def truth(x: np.ndarray) -> np.ndarray:
        return np.sin(7 * x) + x  # with peaks at 0.24 and 1, 0.25 apart in value

    for i in range(6):
        known = History(rows, truth(rows), np.empty((len(rows), 0)), None, np.empty((0, 1)), None)
        told = suggest(space, known, settings, np.ones(1), seed=i)
        rows = np.concatenate([rows, [[told.parameters["x"]]]])
    grid = truth(np.linspace(0, 1, 1001))
    assert truth(rows).max() > grid.max() - 0.02 * np.ptp(grid)


def test_what_is_no_trained_network_is_refused() -> None:
    X, y = random(8, 1), random(8, seed=1)
    process = fit(Process(steps=0, noise=0.1), X, y, generator=torch.Generator()).surrogate
    with pytest.raises(ValueError, match="FittedProcess has none; take surrogate='laplace'"):
        greatest_value(process, X, y, X[:0], WIDTH)
    two = LastLayer(SMOOTH, training=QUICK).fit(Data(X, torch.stack([y, y], 1)), generator=torch.Generator())
    with pytest.raises(ValueError, match="one output, got 2"):
        weights(two)
    ensemble = scaled("ensemble")[0].inner
    with pytest.raises(ValueError, match="FittedEnsemble has none"):
        weights(replace(ensemble, noise=None))
