import math

import numpy as np
import pytest
import torch
from botorch.test_functions import Hartmann
from gpytorch.priors import GammaPrior

from kernelfield.bo.fitting import Fitted, Record, fit, recipe
from kernelfield.bo.problems.catalogue import problem
from kernelfield.kernels.stationary import RBF
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.train import Training
from kernelfield.models.process import Process


def trials(n: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    X = torch.rand(n, 3, generator=torch.Generator().manual_seed(seed))
    return X, 100 + 30 * torch.sin(3 * X).sum(1)


def fitted(model: Process, n: int = 25, record: Record | None = None) -> Fitted:
    return fit(model, *trials(n), record=record, generator=torch.Generator().manual_seed(0))


def test_surrogates_speak_of_the_cube_and_the_values_as_they_are() -> None:
    X, y = trials(40)
    one = fitted(Process(), 40).surrogate
    assert one.posterior(X).mean[:, 0] == pytest.approx(y, abs=0.5)


def test_priors_are_those_of_the_cube_wherever_the_trials_lie() -> None:
    """Trials in a corner: lengthscales would follow their spread if it were the data that scaled them."""
    X, y = trials(12)
    corner = fit(Process(steps=0), 0.01 * X, y, generator=torch.Generator()).surrogate
    whole = fit(Process(steps=0), X, y, generator=torch.Generator()).surrogate
    for one in (corner, whole):
        assert one.inner.kernel.lengthscale.flatten() == pytest.approx([math.sqrt(3)] * 3)


@pytest.mark.parametrize("kernel", ["matern52", "nngp"])
def test_the_next_fit_starts_where_the_last_one_ended(kernel: str) -> None:
    model = Process(kernel, steps=30, restarts=1)
    first = fitted(model)
    again = fit(Process(kernel, steps=0), *trials(25), record=first.record, generator=torch.Generator().manual_seed(0))
    assert again.surrogate.inner.log_evidence == pytest.approx(first.surrogate.inner.log_evidence, rel=1e-9)
    assert again.surrogate.inner.noise == pytest.approx(first.surrogate.inner.noise)


def test_many_trials_are_learned_from_again_when_they_have_grown_by_a_tenth() -> None:
    record = Record(200, 0.01, (0.0,) * 4)
    assert Record(90, 0.01, ()).due(91)
    assert not record.due(219)
    assert record.due(220)
    held = fitted(Process(), 201, record)
    assert held.record.rows == 200
    assert held.record.parameters == pytest.approx(record.parameters)
    assert not held.surrogate.inner.searches
    learned = fitted(Process(), 201, Record(150, 0.01, (0.0,) * 4))
    assert learned.record.rows == 201


def test_a_record_of_another_space_is_passed_over() -> None:
    found = fitted(Process(steps=5), 20, Record(20, 0.1, (0.0, 0.0)))
    assert found.record.rows == 20
    assert len(found.record.parameters) == 4


def test_known_noise_is_the_noise_of_the_process() -> None:
    X, y = trials(20)
    noise = torch.linspace(0.5, 1.5, 20).to(X)
    one = fit(Process(), X, y, noise=noise, generator=torch.Generator().manual_seed(0)).surrogate
    each = one.inner.noise / one.inner.data.weight * one.to_model_y.scale.square()
    torch.testing.assert_close(each, noise)


def test_known_noise_outlives_the_hyperparameters_of_the_last_fit() -> None:
    X, y = trials(20)
    learned = fit(Process(), X, y, generator=torch.Generator().manual_seed(0))
    again = fit(
        Process(), X, y, noise=torch.ones(20), record=learned.record, generator=torch.Generator().manual_seed(0)
    )
    assert again.record.noise == pytest.approx(1 / again.surrogate.to_model_y.scale.item() ** 2)


def test_a_value_with_an_enormous_noise_says_next_to_nothing() -> None:
    X, y = trials(20)
    noise = torch.full((20,), 1e-2)
    noise[3] = 1e6
    wrong = y.clone()
    wrong[3] += 1000
    kept = fit(Process(), X, wrong, noise=noise, generator=torch.Generator().manual_seed(0)).surrogate
    assert kept.posterior(X).mean[[0, 1, 2, 4], 0] == pytest.approx(y[[0, 1, 2, 4]], abs=25)
    assert kept.posterior(X).mean[3, 0].item() == pytest.approx(y[3].item(), abs=60)
    assert kept.inner.noise * kept.to_model_y.scale.square().item() < 1  # of the next value


def test_networks_take_the_ratios_of_known_noises() -> None:
    X, y = trials(20)
    model = Ensemble(members=2, training=Training(steps=5))
    one, other = (
        fit(model, X, y, noise=size * torch.linspace(1, 2, 20).to(X), generator=torch.Generator().manual_seed(0))
        for size in (1.0, 10.0)
    )
    torch.testing.assert_close(one.surrogate.posterior(X).mean, other.surrogate.posterior(X).mean)


def test_constant_values_can_be_fitted() -> None:
    X, y = trials(6)
    one = fit(Process(), X, torch.full_like(y, 4.0), generator=torch.Generator().manual_seed(0)).surrogate
    assert one.posterior(X).mean.flatten() == pytest.approx([4.0] * 6)


def test_a_network_takes_no_function_for_noise() -> None:
    """Of fifteen values in six dimensions an evidence alone puts all of their variance into noise."""
    X = torch.from_numpy(np.random.default_rng(0).uniform(size=(15, 6)))
    y = Hartmann()(X)
    plain, one = (
        fit(model, X, y, generator=torch.Generator().manual_seed(0)).surrogate
        for model in (Process("nngp", noise_prior=GammaPrior(1.0, 1e-6)), Process("nngp"))
    )
    assert plain.inner.noise > 0.5
    assert one.inner.noise < 0.1
    away = torch.rand(100, 6, generator=torch.Generator().manual_seed(1))
    unsure, sure = (each.posterior(away).variance.sqrt().mean() for each in (one, plain))
    assert unsure > 0.4 * y.std() > sure


def test_a_network_learns_the_noise_that_trials_show() -> None:
    X, y = trials(60)
    noisy = y + 20 * torch.randn(60, generator=torch.Generator().manual_seed(1))
    one = fit(Process("nngp"), X, noisy, generator=torch.Generator().manual_seed(0)).surrogate
    learned = one.inner.noise**0.5 * one.to_model_y.scale.item()
    # Sixty values tell a deviation to within a tenth; the prior draws it down by as much.
    assert learned == pytest.approx(20, rel=0.3)


@pytest.mark.parametrize("noise", [None, torch.ones(20)])
def test_a_network_takes_outliers_too(noise: torch.Tensor | None) -> None:
    X, y = trials(20)
    wrong = y.index_add(0, torch.tensor([3]), torch.tensor([1000.0]).to(y))
    one = fit(Process("nngp", noise="student_t", steps=20), X, wrong, noise=noise, generator=torch.Generator())
    gap = (one.surrogate.posterior(X).mean[:, 0] - y).abs()
    assert gap.median() < 0.5 * y.std()
    assert gap[3] < 500


def test_two_hundred_inputs_leave_a_network_unsure() -> None:
    """With input scales as free as those of few inputs the deviation is a quarter of the error."""
    question = problem("polynomial")
    draws = np.random.default_rng(0).uniform(size=(120, 200))
    y = np.array([question(dict(zip(question.space.parameters, x, strict=True))).values[0] for x in draws.tolist()])
    X, Y = torch.from_numpy(draws), torch.from_numpy(y)
    law = fit(Process("nngp"), X[:60], Y[:60], generator=torch.Generator().manual_seed(0)).surrogate.posterior(X[60:])
    gap = law.mean.flatten() - Y[60:]
    assert gap.square().mean() < 0.95 * Y[60:].var()
    assert 0.5 < (gap.square() / law.variance.flatten()).mean() < 2


def test_a_recipe_is_a_name_a_model_or_a_kernel() -> None:
    assert isinstance(recipe("ensemble"), Ensemble)
    model = Process("rbf")
    assert recipe(model) is model
    kernel = RBF(ard_num_dims=3)
    assert recipe("gp", kernel).kernel is kernel
    with pytest.raises(ValueError, match="did you mean"):
        recipe("ensembel")
    with pytest.raises(ValueError, match="kernel must be .* got 'rbff'"):
        recipe("gp", "rbff")
    with pytest.raises(ValueError, match="got 'nngp'"):
        recipe("nngp", kernel)
    with pytest.raises(ValueError, match="got 3"):
        recipe(3)  # type: ignore[arg-type]
