"""The model that finds its own starts."""

import math

import pytest
import torch

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.kernels.spectral import SpectralMixture, SpectralProduct
from kernelfield.kernels.spectral_start import AboveNyquist
from kernelfield.models.process import Process
from kernelfield.models.spectral import Spectral


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def two_sines(n=90):
    X = torch.rand(n, 1, generator=seeded())
    noise = 0.1 * torch.randn(n, 1, generator=seeded(1))
    return Data(X, torch.sin(2 * math.pi * 5 * X) + torch.sin(2 * math.pi * 11.5 * X) + noise)


def test_it_extrapolates_two_sines_and_says_which_frequencies_survived():
    fitted = Spectral(4, restarts=2, steps=60).fit(two_sines(), generator=seeded())
    first = sorted(abs(peak.frequency[0]) for peak in fitted.kernel.peaks(least=0.05))
    assert first == pytest.approx([5, 11.5], abs=0.05)
    new = torch.linspace(1, 1.4, 40)[:, None]
    truth = torch.sin(2 * math.pi * 5 * new) + torch.sin(2 * math.pi * 11.5 * new)
    law = fitted.posterior(new, noise=True)
    assert (law.mean - truth).square().mean().sqrt() < 0.2
    assert len(fitted.searches) == 3


def test_its_evidence_is_better_than_that_of_starts_that_do_not_look_at_the_data():
    data = two_sines()
    ours = Spectral(3, restarts=1, steps=40).fit(data, generator=seeded())
    blind = Process(SpectralMixture(3), restarts=3, steps=49).fit(data, generator=seeded())
    assert ours.log_evidence > blind.log_evidence + 30


@pytest.mark.parametrize("structure", ["mixture", "product"])
@pytest.mark.parametrize("density", ["gaussian", "student_t"])
def test_two_inputs_and_two_outputs(structure, density):
    X = torch.rand(80, 2, generator=seeded())
    wave = torch.sin(2 * math.pi * X @ torch.tensor([[2.0], [1.5]]))
    model = Spectral(2, density=density, structure=structure, mixing=InverseGamma.student(5.0), restarts=1, steps=15)
    fitted = model.fit(Data(X, torch.cat([wave, -wave], 1)), generator=seeded())
    assert isinstance(fitted.kernel, SpectralMixture if structure == "mixture" else SpectralProduct)
    assert fitted.posterior(X[:4]).mean.shape == (4, 2)
    assert (fitted.posterior(X).mean[:, :1] - wave).square().mean() < 0.05


def test_an_estimator_with_it_is_stored_and_comes_back_the_same(tmp_path):
    data = two_sines(40)
    regressor = FieldRegressor(Spectral(2, restarts=1, steps=5), random_state=0)
    regressor.fit(data.X.numpy(), data.Y[:, 0].numpy())
    save(regressor, tmp_path / "model")
    again = load(tmp_path / "model")
    assert (again.predict(data.X.numpy()) == regressor.predict(data.X.numpy())).all()
    assert again.model.components == 2


def of_six_inputs(seed, n):
    X = torch.randn(n, 6, generator=seeded(seed))
    smooth = torch.sin(X[:, :1]) + 0.5 * X[:, 1:2] * X[:, 2:3]
    return Data(X, smooth + 0.3 * torch.randn(n, 1, generator=seeded(seed + 1)))


def test_components_that_the_evidence_does_not_pay_for_stay_out_and_intervals_hold():
    fitted = Spectral(restarts=2).fit(of_six_inputs(0, 150), generator=seeded())
    new = of_six_inputs(10, 400)
    law = fitted.posterior(new.X, noise=True)
    held = ((new.Y - law.mean).abs() < 1.645 * law.variance.sqrt()).double().mean()
    assert fitted.kernel.components <= 2
    assert held > 0.85  # of 0.9; with all eight components a quarter of it


def test_components_join_while_the_evidence_pays_for_them():
    X = torch.rand(120, 2, generator=seeded())  # a sum over the inputs, which no single component is
    noise = 0.05 * torch.randn(120, 1, generator=seeded(1))
    data = Data(X, torch.sin(15 * X[:, :1]) + torch.sin(12 * X[:, 1:]) + noise)
    fits = [Spectral(Q, restarts=1, steps=60, max_frequency=0.1).fit(data, generator=seeded()) for Q in (1, 4)]
    assert [fitted.kernel.components for fitted in fits] == [1, 2]
    assert fits[1].log_evidence - fits[0].log_evidence > 100


def test_the_same_seed_gives_the_same_fit():
    fits = [Spectral(3, restarts=2, steps=5).fit(two_sines(30), generator=seeded(3)) for _ in range(2)]
    assert fits[0].log_evidence == fits[1].log_evidence


@pytest.mark.parametrize("Y", [torch.zeros(12, 1), torch.ones(12, 1)])
def test_constant_targets_are_fitted(Y):
    X = torch.linspace(0, 1, 12)[:, None]
    assert Spectral(2, restarts=2, steps=5).fit(Data(X, Y), generator=seeded()).posterior(X).mean.isfinite().all()


@pytest.mark.parametrize(("structure", "most"), [("mixture", 6), ("product", 5)])
def test_no_more_components_are_tried_than_data_have_numbers_for(structure, most):
    data = Data(torch.rand(30, 2, generator=seeded()), torch.randn(30, 1, generator=seeded(1)))
    asked, few = (
        Spectral(Q, structure=structure, restarts=1, steps=20).fit(data, generator=seeded()) for Q in (40, most)
    )
    assert asked.log_evidence == few.log_evidence
    assert asked.kernel.components <= most


def test_fewer_numbers_than_a_component_has_parameters_are_refused():
    with pytest.raises(ValueError, match="a component of 1 inputs has 3 parameters and the data 2 numbers; give it"):
        Spectral(1).fit(two_sines(2), generator=seeded())


def test_a_limit_above_nyquist_warns():
    with pytest.warns(AboveNyquist, match="max_frequency = 900"):
        Spectral(2, max_frequency=900.0, restarts=1, steps=2).fit(two_sines(30), generator=seeded())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"components": 0}, "components must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"structure": "sum"}, "structure must be 'mixture' or 'product', got 'sum'"),
        ({"density": "box"}, "density must be 'gaussian' or 'student_t', got 'box'"),
        ({"noise": -1.0}, "noise must be a positive variance"),
    ],
)
def test_mistakes_are_refused_with_their_value(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Spectral(**settings).fit(two_sines(30), generator=seeded())
