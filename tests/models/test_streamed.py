"""Rows that come in batches give the process that they give together."""

import math

import pytest
import torch
from sklearn.base import clone
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.collapsed import bound
from kernelfield.models.orthogonal import SphericalProcess
from kernelfield.models.random_features import RandomFeatureProcess
from kernelfield.models.sparse import SparseProcess
from kernelfield.models.streamed import noise_reach, settle

MODELS = {
    "fourier": RandomFeatureProcess(count=40, restarts=1, steps=15),
    "network": RandomFeatureProcess(features="network", count=40, restarts=1, steps=30),
    "universal": RandomFeatureProcess(features="universal", function="cos", count=40, restarts=1, steps=15),
    "linear trend": RandomFeatureProcess(count=40, restarts=1, steps=15, mean="linear"),
    "sparse": SparseProcess(inducing=20, restarts=1, steps=5),
    "spherical": SphericalProcess(features=10, inputs=10, law="apart", restarts=1, steps=3),
}


@pytest.fixture
def data() -> Data:
    X = torch.rand(240, 2) * 2 - 1
    return Data(X, torch.sin(3 * X[:, :1]) + X[:, 1:] ** 2 + 0.1 * torch.randn(240, 1), 0.5 + torch.rand(240))


def part(data: Data, start: int, stop: int) -> Data:
    assert data.weight is not None
    return Data(data.X[start:stop], data.Y[start:stop], data.weight[start:stop])


def learned(learner, data: Data, size: int):
    for start in range(0, len(data.X), size):
        learner.step(part(data, start, start + size))
    return learner


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", MODELS)
def test_batches_give_the_posterior_of_the_rows_together(name: str, data: Data) -> None:
    model, X = MODELS[name], torch.rand(30, 2)
    law = model.fit(data, generator=seeded()).posterior(X)
    streamed = learned(model.learner(data, 240, generator=seeded()), data, 90).surrogate().posterior(X)
    assert_close(streamed.mean, law.mean, rtol=1e-8, atol=1e-8)
    assert_close(streamed.variance, law.variance, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_a_learner_goes_on_from_a_state_to_the_last_bit(name: str, data: Data) -> None:
    model, sample = MODELS[name], part(data, 0, 150)
    straight = learned(model.learner(sample, 240, generator=seeded()), data, 90).surrogate()
    first = learned(model.learner(sample, 240, generator=seeded()), part(data, 0, 180), 90)
    second = model.learner(sample, 240, generator=seeded())
    second.restore({key: tensor.clone() for key, tensor in first.state().items()})
    second = learned(second, part(data, 180, 240), 90).surrogate()
    X = torch.rand(9, 2)
    assert torch.equal(second.posterior(X).mean, straight.posterior(X).mean)
    assert torch.equal(second.posterior(X).variance, straight.posterior(X).variance)
    assert second.noise == straight.noise


def test_a_state_carries_the_choices_of_the_sample(data: Data) -> None:
    model = MODELS["fourier"]
    one = learned(model.learner(part(data, 0, 150), 240, generator=seeded()), data, 90)
    other = model.learner(part(data, 100, 250), 240, generator=torch.Generator().manual_seed(1))
    other.restore(one.state())
    X = torch.rand(9, 2)
    assert torch.equal(other.surrogate().posterior(X).mean, one.surrogate().posterior(X).mean)


@pytest.mark.parametrize("name", ["fourier", "sparse"])
def test_noise_is_settled_by_all_rows(name: str, data: Data) -> None:
    """The sample says that the noise is small; all rows say how large it is, by the bound on a grid."""
    quiet = Data(data.X[:100], torch.sin(3 * data.X[:100, :1]) + data.X[:100, 1:] ** 2 + 0.01 * torch.randn(100, 1))
    model = clone(MODELS[name]).set_params(steps=15)  # of five steps the noise of the start says nothing
    started = model.fit(quiet, generator=seeded())
    fitted = learned(model.learner(quiet, 240, generator=seeded()), data, 100).surrogate()
    assert fitted.noise > 1.2 * started.noise
    values = [bound(fitted.moments, torch.tensor(fitted.noise * r), fitted.basis.groups, 1) for r in (0.95, 1.0, 1.05)]
    assert values[1] > max(values[0], values[2])


def test_a_noise_that_is_known_stays(data: Data) -> None:
    model = SparseProcess(inducing=20, restarts=1, steps=5, noise=0.05, learn_noise=False)
    assert learned(
        model.learner(part(data, 0, 150), 240, generator=seeded()), data, 90
    ).surrogate().noise == pytest.approx(0.05, rel=1e-12)


def test_the_scale_and_noise_that_settle_finds_are_those_of_dense_algebra() -> None:
    """Of a mean of zero and k features, the evidence is N(0, v Phi'Phi + s I): its best v and s on a fine grid."""
    torch.manual_seed(1)
    phi, n = torch.randn(3, 60), 60
    y = phi.mT @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.5 * torch.randn(60, 1)
    fitted = MODELS["network"].fit(Data(torch.randn(60, 2), y), generator=seeded())
    sums = type(fitted.moments)(phi @ phi.mT, phi @ y, y.mT @ y, torch.zeros(()), torch.zeros(()), n)
    scale, noise, _ = settle(sums, 1, [(1.0, 0.1)], ((1e-3, 1e3), noise_reach(sums, 1)), 200)

    def evidence(v: float, s: float) -> float:
        law = torch.distributions.MultivariateNormal(torch.zeros(n), v * phi.mT @ phi + s * torch.eye(n))
        return law.log_prob(y[:, 0]).item()

    best = evidence(scale, noise)
    assert math.isclose(best, bound(sums.rescaled(scale), torch.tensor(noise), (3,), 1).item(), rel_tol=1e-9)
    for step in (0.97, 1.03):
        assert evidence(scale * step, noise) < best
        assert evidence(scale, noise * step) < best


@pytest.mark.parametrize("name", ["fourier", "network", "universal"])
def test_a_rescaled_basis_has_the_rescaled_sums(name: str, data: Data) -> None:
    fitted = MODELS[name].fit(data, generator=seeded())
    basis = fitted.basis.rescaled(2.5)
    assert basis is not None
    assert_close(basis.cross(data.X), 2.5**0.5 * fitted.basis.cross(data.X))
    assert_close(fitted.moments.rescaled(2.5).C, 2.5**0.5 * fitted.moments.C)


def test_a_state_of_other_settings_is_refused(data: Data) -> None:
    one = learned(MODELS["fourier"].learner(data, 240, generator=seeded()), data, 90)
    other = RandomFeatureProcess(count=30, restarts=1, steps=0).learner(data, 240, generator=seeded())
    with pytest.raises(ValueError, match="of other settings"):
        other.restore(one.state())
    with pytest.raises(ValueError, match="no rows have been learned"):
        other.surrogate()
