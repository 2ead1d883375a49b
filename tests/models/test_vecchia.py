import numpy as np
import pytest
import torch
from gpytorch.kernels import PeriodicKernel, RBFKernel, ScaleKernel
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.kernels.stationary import RBF, Matern, RationalQuadratic
from kernelfield.linalg.dense import Dense
from kernelfield.models import vecchia, vecchia_errors
from kernelfield.models.conditioned import system
from kernelfield.models.process import Process
from kernelfield.models.vecchia import NearestNeighbourProcess
from tests.laws import density_integrates_to_cdf, obeys_posterior_laws

N = 60
KERNELS = [RBF(), Matern(0.5), Matern(2.5), RationalQuadratic(), ScaleKernel(RBFKernel()), RBF() + PeriodicKernel()]
HELD = {"noise": 0.02, "steps": 0}


@pytest.fixture
def data():
    X = torch.rand(N, 2)
    Y = torch.stack([torch.sin(6 * X[:, 0]) * X[:, 1], X[:, 1]], -1) + 0.1 * torch.randn(N, 2)
    return Data(X, Y)


def fit(model, data):
    return model.fit(data, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("kernel", "mean"), [*[(kernel, "constant") for kernel in KERNELS], (Matern(), "zero"), (RBF(), "linear")]
)
def test_with_all_rows_as_neighbours_it_is_the_exact_process(kernel, mean, data):
    data = Data(data.X, data.Y, torch.rand(N) + 0.5)
    X = torch.rand(3, 5, 2)
    exact = fit(Process(kernel, mean, **HELD), data)
    near = fit(NearestNeighbourProcess(kernel, mean, neighbours=N, **HELD), data)
    for _ in range(2):
        # Machine precision, times what the rows leave of their condition number.
        assert near.log_evidence == pytest.approx(exact.log_evidence, abs=1e-9)
        for noise in (False, True):
            law, law0 = near.posterior(X, noise=noise), exact.posterior(X, noise=noise)
            assert_close(law.mean, law0.mean, rtol=0, atol=1e-10)
            assert_close(law.variance, law0.variance, rtol=0, atol=1e-10)
            assert_close(law.covariance, law0.covariance, rtol=0, atol=1e-10)
        # And again once a few more rows came in, all of which are neighbours too.
        more = Data(torch.rand(4, 2), torch.rand(4, 2))
        exact, near = exact.condition(more), fit(NearestNeighbourProcess(kernel, mean, neighbours=N + 4, **HELD), data)
        near = near.condition(more)


def test_learning_with_all_rows_ends_where_the_exact_process_ends(data, monkeypatch):
    exact = fit(Process("rbf", restarts=1), data)
    monkeypatch.setattr(vecchia, "guess", lambda *settings, **more: (0.1, data, []))  # so that it climbs alone
    near = fit(NearestNeighbourProcess("rbf", neighbours=N), data)
    assert near.log_evidence == pytest.approx(exact.log_evidence, abs=1e-3)
    assert near.noise == pytest.approx(exact.noise, rel=0.02)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5])
def test_the_evidence_is_that_of_gpboost(nu):
    gpboost = pytest.importorskip("gpboost")
    X = torch.rand(400, 2)
    Y = torch.sin(6 * X[:, :1]) + 0.1 * torch.randn(400, 1)
    kernel = Matern(nu)
    kernel.lengthscale, kernel.outputscale = 0.3, 1.3
    ours = fit(NearestNeighbourProcess(kernel, "zero", neighbours=12, ordering="given", **HELD), Data(X, Y))
    settings = {"cov_function": "matern", "cov_fct_shape": nu, "gp_approx": "vecchia", "vecchia_ordering": "none"}
    theirs = gpboost.GPModel(gp_coords=X.numpy(), num_neighbors=12, **settings)
    loss = theirs.neg_log_likelihood(cov_pars=np.array([0.02, 1.3, 0.3]), y=Y.numpy()[:, 0])
    assert ours.log_evidence == pytest.approx(-loss, rel=1e-9)


def test_a_markov_process_in_order_needs_one_neighbour():
    X = torch.rand(200, 1).sort(0).values
    data = Data(X, torch.randn(200, 1))
    settings = {"mean": "zero", "noise": 1e-14, "steps": 0}
    exact = fit(Process(Matern(0.5), **settings), data)
    near = fit(NearestNeighbourProcess(Matern(0.5), neighbours=1, ordering="given", **settings), data)
    assert near.log_evidence == pytest.approx(exact.log_evidence, rel=1e-8)
    other = fit(NearestNeighbourProcess(Matern(0.5), neighbours=1, ordering="random", **settings), data)
    assert other.log_evidence != pytest.approx(exact.log_evidence, rel=1e-3)


@pytest.mark.parametrize("ordering", ["maximin", "random", "given"])
def test_the_divergence_from_the_exact_law_falls_with_neighbours(ordering):
    X = torch.rand(150, 2)
    data, kernel = Data(X, torch.randn(150, 1)), Matern(2.5)
    kernel.lengthscale = 0.3
    exact = Dense.of(system(kernel, 0.02, data)).logdet()
    settings = {"ordering": ordering, **HELD}
    fits = [fit(NearestNeighbourProcess(kernel, neighbours=k, **settings), data) for k in (2, 4, 8, 16, 32)]
    divergence = torch.stack([0.5 * (fitted.factor.logdet() - exact) for fitted in fits])
    assert (divergence.diff() < 0).all()
    assert divergence[-1] > 0
    assert divergence[-1] < 0.01 * divergence[0]


def test_the_estimated_loss_is_the_divergence_that_twice_the_neighbours_would_save():
    X = torch.rand(100, 3)
    data, kernel = Data(X, torch.randn(100, 2)), Matern(1.5)
    kernel.lengthscale = 0.5
    few, many = (fit(NearestNeighbourProcess(kernel, neighbours=k, ordering="given", **HELD), data) for k in (5, 10))
    gain = 0.5 * 2 * (few.factor.logdet() - many.factor.logdet()).item() / 100
    assert few.loss == pytest.approx(gain, rel=1e-9)  # all 100 rows are checked
    assert few.loss > vecchia.LOSS
    assert "twice the 5 neighbours would gain" in few.notes()[0]
    assert fit(NearestNeighbourProcess(kernel, neighbours=100, **HELD), data).notes() == []


@pytest.mark.parametrize("ordering", ["maximin", "random"])
def test_errors_of_predictions_have_the_covariance_that_is_stated(ordering):
    # Thousands of draws of process and noise, as outputs of one fit with few neighbours.
    n, q, draws = 80, 12, 6000
    X, new = torch.rand(n, 2), torch.rand(q, 2)
    weight = torch.rand(n) + 0.5
    kernel = Matern(1.5)
    kernel.lengthscale = 0.4
    half = torch.linalg.cholesky(kernel(torch.cat([X, new])).to_dense().detach() + 1e-10 * torch.eye(n + q))
    f = half @ torch.randn(n + q, draws)
    Y = f[:n] + (0.05 / weight).sqrt()[:, None] * torch.randn(n, draws)
    model = NearestNeighbourProcess(kernel, "zero", noise=0.05, neighbours=2, ordering=ordering, steps=0)
    fitted = fit(model, Data(X, Y[:, :1], weight))
    one = fitted.posterior(new)
    errors = f[n:] - fit(model, Data(X, Y, weight)).posterior(new).mean
    size = one.variance.sqrt()
    seen, stated = errors @ errors.mT / draws, one.covariance
    six = 6 * ((stated.square() + size.square() @ size.square().mT) / draws).sqrt()
    assert ((seen - stated).abs() <= six).all()
    alone = torch.stack([fitted.posterior(x[None]).variance[0] for x in new])
    assert_close(alone, one.variance, rtol=1e-12, atol=0)  # whatever is asked together
    inside = (errors.abs() <= 1.6448536 * size).double().mean()
    assert inside.item() == pytest.approx(0.9, abs=0.02)  # draws are independent, points of one are not


@pytest.mark.parametrize("mean", ["zero", "linear"])
def test_predictions_are_a_posterior_with_joint_draws(mean, data):
    fitted = fit(NearestNeighbourProcess(Matern(), mean, neighbours=8, **HELD), data)
    for noise in (False, True):
        law = fitted.posterior(torch.rand(2, 3, 2), noise=noise)
        obeys_posterior_laws(law)
        density_integrates_to_cdf(law)


def test_close_points_of_a_smooth_process_can_be_drawn_together():
    X = torch.linspace(0, 1, 200)[:, None]
    kernel = RBF()
    kernel.lengthscale = 0.3
    model = NearestNeighbourProcess(kernel, "zero", noise=1e-6, neighbours=12, steps=0)
    law = fit(model, Data(X, torch.sin(6 * X))).posterior(torch.linspace(0, 1, 150)[:, None])
    paths = law.rsample((3,), torch.Generator().manual_seed(0))
    assert (paths - law.mean).abs().max() < 6 * law.variance.sqrt().max()


@pytest.mark.parametrize("shape", [(0, 2), (0, 3, 2), (2, 0, 2)])
def test_no_points_have_a_law_too(data, shape):
    law = fit(NearestNeighbourProcess(Matern(), neighbours=6, **HELD), data).posterior(torch.rand(shape))
    assert law.variance.shape == (*shape[:-1], data.Y.shape[1])
    assert law.covariance.shape[:-2] == shape[:-2] and not law.covariance.numel()


def test_chunks_of_the_joint_covariance_change_nothing(data, monkeypatch):
    fitted, X = fit(NearestNeighbourProcess(Matern(), neighbours=6, **HELD), data), torch.rand(9, 2)
    whole = fitted.posterior(X)
    monkeypatch.setattr(vecchia, "CHUNK", 40)
    monkeypatch.setattr(vecchia_errors, "CHUNK", 40)
    parts = fitted.posterior(X)
    assert_close(parts.mean, whole.mean)
    assert_close(parts.covariance, whole.covariance)


def test_predictions_can_be_differentiated_in_their_inputs(data):
    fitted = fit(NearestNeighbourProcess(RBF(), neighbours=9, **HELD), data)

    def answers(X):
        law = fitted.posterior(X)
        return law.mean, law.variance, law.covariance

    assert torch.autograd.gradcheck(answers, torch.rand(3, 2).requires_grad_())


def test_more_rows_lean_on_all_before_them(data):
    kernel = Matern()
    model = NearestNeighbourProcess(kernel, neighbours=7, ordering="given", **HELD)
    whole = fit(model, data)
    part = fit(model, Data(data.X[:50], data.Y[:50])).condition(Data(data.X[50:], data.Y[50:]))
    assert part.log_evidence == pytest.approx(whole.log_evidence, rel=1e-12)
    assert_close(part.posterior(data.X).mean, whole.posterior(data.X).mean)
    assert_close(part.posterior(data.X).variance, whole.posterior(data.X).variance)


def test_a_weight_of_two_is_two_rows(data):
    one = Data(data.X, data.Y, torch.full((N,), 2.0))
    two = Data(data.X.repeat(2, 1), data.Y.repeat(2, 1))
    laws = [
        fit(NearestNeighbourProcess(Matern(), "zero", neighbours=k, **HELD), rows).posterior(torch.full((1, 2), 0.5))
        for k, rows in ((10, one), (20, two))
    ]
    assert_close(laws[0].mean, laws[1].mean)
    assert_close(laws[0].variance, laws[1].variance)


def test_twins_and_constant_columns_can_be_fitted(data):
    X = torch.cat([data.X, torch.ones(N, 1)], -1).repeat(3, 1)
    twins = Data(X, data.Y.repeat(3, 1))
    for mean in ("constant", "linear"):
        fitted = fit(NearestNeighbourProcess(mean=mean, neighbours=10, restarts=1, steps=5), twins)
        law = fitted.posterior(X)
        assert law.mean.isfinite().all()
        assert (law.variance > 0).all()


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("d", [1, 50])
def test_few_rows_many_inputs_and_equal_targets_can_be_fitted(n, d):
    X = torch.randn(n, d)
    for Y in (torch.full((n, 2), 7.0), torch.randn(n, 2)):
        law = fit(NearestNeighbourProcess(restarts=1, steps=3), Data(X, Y)).posterior(X)
        assert law.mean.isfinite().all()
        assert (law.variance >= 0).all()


def test_many_inputs_that_matter_are_noted():
    X = torch.randn(100, 20)
    kernel = RBF()
    kernel.lengthscale = 6.0
    fitted = fit(NearestNeighbourProcess(kernel, neighbours=15, **HELD), Data(X, X[:, :1]))
    assert "use a SparseProcess where many inputs matter" in fitted.notes()[-1]


def test_noise_that_outweighs_the_function_is_noted():
    X = torch.rand(900, 2)
    kernel = RBF()
    kernel.lengthscale = 1.0
    settings = {"noise": 20.0, "steps": 0, "neighbours": 20}
    fitted = fit(NearestNeighbourProcess(kernel, **settings), Data(X, X[:, :1] + 20**0.5 * torch.randn(900, 1)))
    # A function that hardly varies among its neighbours is known as the mean of four times as many, and by its prior.
    assert 0.25 < fitted.gain < 0.5
    assert "4 times the 60 neighbours of a prediction would leave" in fitted.notes()[0]
    quiet = fit(NearestNeighbourProcess(kernel, noise=0.01, steps=0), Data(X, X[:, :1]))
    assert quiet.notes() == []


def test_held_parameters_stay_where_they_were_put(data):
    kernel = RBF()
    kernel.lengthscale = 0.6
    kernel.raw_lengthscale.requires_grad_(False)
    fitted = fit(NearestNeighbourProcess(kernel, noise=0.02, learn_noise=False, neighbours=9), data)
    assert fitted.kernel.lengthscale.item() == pytest.approx(0.6)
    assert fitted.noise == 0.02
    assert fitted.kernel.outputscale.item() != pytest.approx(1.0)
    assert fit(NearestNeighbourProcess(kernel.requires_grad_(False), learn_noise=False), data).searches == ()
    assert all(p.requires_grad for p in RBF().parameters())


@pytest.mark.slow
def test_many_rows_are_learned_from_a_part_and_then_from_all(monkeypatch):
    monkeypatch.setattr(vecchia, "PART", 1000)
    X = torch.rand(4000, 2)
    truth = torch.sin(6 * X[:, :1]) * X[:, 1:]
    data = Data(X, truth + 0.1 * torch.randn(4000, 1))
    fitted = fit(NearestNeighbourProcess("rbf", neighbours=20, restarts=2), data)
    assert fitted.noise == pytest.approx(0.01, rel=0.13)  # six standard errors
    assert (fitted.posterior(X).mean - truth).square().mean().sqrt() < 0.03
    new = torch.rand(2000, 2)
    law = fitted.posterior(new)
    inside = (law.mean - torch.sin(6 * new[:, :1]) * new[:, 1:]).abs() <= 1.96 * law.variance.sqrt()
    assert inside.double().mean() > 0.8


def test_the_same_seed_gives_the_same_numbers(data):
    first, second = (fit(NearestNeighbourProcess(neighbours=8, restarts=2, steps=10), data) for _ in range(2))
    assert_close(first.posterior(data.X).mean, second.posterior(data.X).mean, atol=0, rtol=0)


def test_an_estimator_with_it_predicts_and_comes_back_from_its_file(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.random((150, 2))
    y = 40 + 3 * np.sin(6 * X[:, 0]) + 0.1 * rng.standard_normal(150)
    fitted = FieldRegressor(NearestNeighbourProcess(neighbours=12, restarts=1), random_state=0).fit(X, y)
    mean, std, cov = fitted.predict(X, return_std=True, return_cov=True)
    assert np.sqrt(np.mean((mean - y) ** 2)) < 0.2
    np.testing.assert_allclose(np.sqrt(np.diagonal(cov)), std, rtol=1e-9)
    assert fitted.sample_y(X[:5], 3).shape == (5, 3)
    assert fitted.surrogate_.footprint(150) == 36**2
    save(fitted, tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(X, return_std=True), (mean, std))
    assert again.model.get_params() == fitted.model.get_params()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (NearestNeighbourProcess(neighbours=0), "neighbours must be at least 1, got 0"),
        (NearestNeighbourProcess(ordering="sorted"), "ordering must be 'maximin', 'random' or 'given', got 'sorted'"),
        (NearestNeighbourProcess(noise=0.0), "noise must be a positive variance, got 0"),
        (NearestNeighbourProcess("cubic"), "kernel must be a GPyTorch kernel or one of .*, got 'cubic'"),
        (NearestNeighbourProcess(restarts=0), "restarts must be at least 1, got 0"),
    ],
)
def test_a_wrong_choice_is_named_with_its_remedy(model, words, data):
    with pytest.raises(ValueError, match=words):
        fit(model, data)
