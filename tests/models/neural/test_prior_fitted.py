"""The networks that come with the package, held against the exact posterior of their prior."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.neural.prior_checkpoint import Checkpoint, located, shipped
from kernelfield.models.neural.prior_fitted import PriorFitted
from kernelfield.models.neural.prior_training import recipes
from tests.laws import obeys_posterior_laws

SIZES = (1, 2, 3, 5, 8, 12, 16, 20)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(n: int = 30, d: int = 3, m: int = 1) -> Data:
    X = torch.randn(n, d)
    return Data(X, torch.sin(2 * X[:, :1]) + 0.1 * torch.randn(n, m))


def fitted(data: Data, **settings):
    return PriorFitted(**settings).fit(data, generator=generator())


def test_the_network_of_a_fixed_process_is_within_a_twentieth_of_a_nat_of_its_posterior():
    """The mean over y of the difference of log densities, which is positive but for the error of the mean."""
    net, prior = Checkpoint.load("rbf"), recipes()["rbf"].prior
    gaps = []
    for n in SIZES:
        tasks = prior.draw(80, n, 30, 1, generator(1000 + n))
        std = (tasks.variance + tasks.noise[:, None]).sqrt()
        y = tasks.mean + std * torch.randn(tasks.mean.shape)
        exact = torch.distributions.Normal(tasks.mean, std).log_prob(y)
        law = net.law(tasks.X, tasks.Y[..., None], tasks.at)
        gaps.append((exact - law.log_prob(y[..., None]).squeeze(-1)).mean().item())
    assert 0 < sum(gaps) / len(gaps) < 0.05


@pytest.mark.parametrize("name", shipped())
def test_the_order_of_rows_does_not_matter(name):
    data = table(18, 1)
    order, X = torch.randperm(18), torch.linspace(0, 1, 9)[:, None]
    law = fitted(data, checkpoint=name).posterior(X, noise=True)
    other = fitted(Data(data.X[order], data.Y[order]), checkpoint=name).posterior(X, noise=True)
    assert (law.mass - other.mass).abs().max() < 1e-5


@pytest.mark.parametrize("rows", [10, 100])
@pytest.mark.parametrize("name", shipped())
def test_densities_integrate_to_one(name, rows):
    law = fitted(table(18, 1), checkpoint=name, rows=rows).posterior(torch.linspace(-1, 1, 3)[:, None], noise=True)
    low, high = law.quantile(1e-7), law.quantile(1 - 1e-7)
    t = torch.linspace(0, 1, 20_001)[:, None, None]
    density = law.log_prob(low + t * (high - low)).exp()
    # Bins end between nodes: an error of the spacing times the jumps of the density.
    assert_close(torch.trapezoid(density, dx=5e-5, dim=0) * (high - low), torch.ones(3, 1), atol=2e-3, rtol=0)


@pytest.mark.parametrize("rows", [10, 100])
def test_posterior_laws(rows):
    data = table(30, 3, 2)
    obeys_posterior_laws(fitted(data, rows=rows).posterior(torch.randn(3, 3), noise=True))


@pytest.mark.parametrize("rows", [10, 100])
def test_points_and_batches_are_predicted_alone(rows):
    surrogate, X = fitted(table(), rows=rows), torch.randn(2, 5, 3)
    whole = surrogate.posterior(X)
    assert whole.mean.shape == (2, 5, 1)
    assert_close(surrogate.posterior(X[1, 2:3]).mean, whole.mean[1, 2:3], atol=1e-5, rtol=1e-5)
    assert_close(surrogate.posterior(X[1, 2:3]).quantile(0.9), whole.quantile(0.9)[1, 2:3], atol=1e-5, rtol=1e-5)


def test_nearest_rows_are_the_context():
    """Rows that are near to no point change nothing, where distances are not standardised by them."""
    X = torch.cat([torch.rand(30, 1), 50 + torch.rand(5, 1)])
    data = Data(X, torch.sin(5 * X))
    at = torch.rand(4, 1)
    near = fitted(Data(data.X[:30], data.Y[:30]), checkpoint="rbf").posterior(at)
    assert (fitted(data, checkpoint="rbf").posterior(at).mass - near.mass).abs().max() < 1e-5


def test_conditioning_is_fitting_all_rows():
    first, second, X = table(20), table(8), torch.randn(4, 3)
    grown = fitted(first).condition(second).posterior(X)
    assert_close(grown.mean, fitted(first.joined(second)).posterior(X).mean)


def test_a_row_of_little_weight_counts_little():
    data = table(20)
    wild = torch.cat([data.Y[:1] + 5.0, data.Y[1:]])
    weight = torch.ones(20)
    weight[0] = 0.02
    X = data.X[:1]
    plain, light, clean = (
        fitted(d).posterior(X).mean.item() for d in (Data(data.X, wild), Data(data.X, wild, weight), data)
    )
    assert abs(light - clean) < 0.5 * abs(plain - clean)


def test_notes_say_what_was_left_out():
    assert fitted(table(20)).notes() == []
    assert fitted(table(30), rows=7).notes() == ["each point is predicted from the 7 rows of 30 that are nearest to it"]
    assert "trained with at most 16 columns and has 40 here" in fitted(table(20, 40)).notes()[0]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rows": 0}, "rows must be at least 1, got 0"),
        ({"checkpoint": "rbf"}, "of a fixed prior on 1 column.s. and the data have 3; use 'general'"),
    ],
)
def test_what_a_network_cannot_take_is_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        fitted(table(), **settings)


@pytest.mark.parametrize("shape", [(2, 1, 1), (3, 50, 1), (10, 2, 3), (400, 4, 1)])
def test_the_estimator_takes_tables_of_many_shapes(shape):
    n, d, m = shape
    data = table(n, d, m)
    X, y = data.X.numpy(), data.Y.numpy()
    regressor = FieldRegressor(PriorFitted(), random_state=0).fit(X, y)
    mean, std = regressor.predict(X, return_std=True)
    assert mean.shape == std.shape == (n, m)
    assert (std > 0).all()
    if n > 100:
        assert ((mean - y) ** 2).mean() < 0.2 * y.var()


def test_constant_targets_are_predicted():
    data = table(150)
    regressor = FieldRegressor(PriorFitted(), random_state=0).fit(data.X.numpy(), 7.0 + 0 * data.Y.numpy())
    assert_close(torch.tensor(regressor.predict(data.X.numpy())), torch.full((150, 1), 7.0), rtol=1e-8, atol=0)


def test_a_checkpoint_may_be_a_path_or_its_text():
    data, file = table(6, 1), located("rbf")
    laws = [fitted(data, checkpoint=one).posterior(data.X) for one in ("rbf", file, str(file))]
    assert torch.equal(laws[0].logits, laws[1].logits) and torch.equal(laws[0].logits, laws[2].logits)


def test_a_saved_network_predicts_the_same(tmp_path):
    data = table(40)
    regressor = FieldRegressor(PriorFitted(rows=20), random_state=0).fit(data.X.numpy(), data.Y.numpy())
    save(regressor, tmp_path / "model")
    again = load(tmp_path / "model")
    assert (again.predict(data.X.numpy()) == regressor.predict(data.X.numpy())).all()
