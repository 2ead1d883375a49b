import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.stationary import RBF
from kernelfield.models.neural.functional_prior import FunctionalPrior, measurement_points, tune
from kernelfield.models.neural.network import multilayer
from kernelfield.models.neural.sampled import SGHMC
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.smooth import Erf
from tests.laws import obeys_posterior_laws


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_scales_of_a_network_are_recovered_from_its_process():
    X = torch.randn(60, 3)
    truth = Dense(1.7, 0.4) >> Erf() >> Dense(1.7, 0.4)
    tuned = tune(Dense(1.0, 1.0) >> Erf() >> Dense(1.0, 1.0), gram(truth, Points(X)), X)
    assert tuned.before > 10
    assert tuned.distance < 1e-6 * tuned.before
    assert_close(torch.tensor(tuned.architecture.scales()), torch.tensor([1.7, 0.4, 1.7, 0.4]), rtol=0.01, atol=0)


def test_a_kernel_of_another_family_is_approached():
    X = torch.linspace(-2, 2, 40)[:, None]
    target = RBF()(X).to_dense().detach()
    start = multilayer((50, 50), Erf())
    tuned = tune(start, target, X)
    assert tuned.distance < 0.5 * tuned.before
    # A search ends where its slope is small, not at the same digits.
    again = tune(tuned.architecture, target, X)
    assert_close(again.distance, tuned.distance, rtol=1e-2, atol=0)


def test_measurement_points_are_rows_and_points_of_the_box():
    X = torch.randn(100, 2)
    points = measurement_points(X, 40, generator())
    among = (points[:, None] == X).all(-1).any(-1)
    assert among[:28].all() and not among[28:].any() and len(points) == 40
    assert (points >= X.min(0).values).all() and (points <= X.max(0).values).all()


def test_a_network_with_a_tuned_prior_fits():
    X = torch.linspace(-2, 2, 30)[:, None]
    Y = torch.sin(2 * X) + 0.05 * torch.randn(30, 1)
    sampler = SGHMC(warmup=300, draws=20, thin=5, chains=2)
    fitted = FunctionalPrior(sampler=sampler, width=20, points=30).fit(Data(X, Y), generator=generator())
    assert sampler.network is None
    assert fitted.distance < fitted.before
    assert (fitted.posterior(X).mean - Y).square().mean() < 0.2 * Y.square().mean()
    obeys_posterior_laws(fitted.posterior(X[:3], noise=True))
    assert "Wasserstein" in fitted.notes()[0]
    assert set(fitted.hyperparameters()) == {"noise", "scales"}


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [(nn.Linear(1, 1), "convert.from_torch"), (Erf(), "no positive float field to tune")],
)
def test_what_has_no_scales_is_refused(architecture, sentence):
    with pytest.raises(ValueError, match=sentence):
        tune(architecture, torch.eye(3), torch.randn(3, 1))
