"""Predictive resampling gives the posterior where Bayes' rule updates, whichever way it goes there."""

import pytest
import torch
from scipy import stats

from kernelfield.core.contracts import Data, Surrogate
from kernelfield.core.mixing import InverseGamma
from kernelfield.core.posterior import Elliptical
from kernelfield.kernels.stationary import Matern
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.network import multilayer
from kernelfield.models.neural.train import Training
from kernelfield.models.predictive_resampling import OfCompleted, OfLimit, predictive_resampling
from kernelfield.models.process import Process

ORIGIN = torch.zeros(1, 1)


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def level_of(rows: int, total: float) -> tuple[Surrogate, Data]:
    """A conjugate model: y = b + e with b ~ N(0, 4) and e ~ N(0, 1), as a process at one input."""
    noise = torch.randn(rows, 1)
    data = Data(torch.zeros(rows, 1), total / rows + noise - noise.mean())
    kernel = Matern(2.5)
    kernel.outputscale = 4.0
    return Process(kernel, mean="zero", noise=1.0, steps=0).fit(data, generator=source()), data


def smooth(outputs: int = 1, **choices) -> tuple[Surrogate, Data]:
    X = torch.linspace(-1, 1, 6)[:, None]
    data = Data(X, torch.cat([torch.sin(2 * X), X.square()], 1)[:, :outputs])
    return Process("rbf", noise=0.3, steps=0, **choices).fit(data, generator=source()), data


def test_a_conjugate_level_has_its_posterior_less_what_was_cut_off() -> None:
    surrogate, data = level_of(10, 11.3)
    draws, steps = 4000, 2000
    found = predictive_resampling(
        surrogate, OfLimit(ORIGIN), data=data, draws=draws, steps=steps, inputs="shared", generator=source(1)
    )
    exact, left = 1 / 10.25, 1 / (10.25 + steps)  # precisions: a quarter of the prior, one for each row
    values = found.values[:, 0, 0]
    assert found.update == "gaussian"
    assert abs(values.mean().item() - 11.3 / 10.25) < 6 * (exact / draws) ** 0.5
    variance_error = (exact - left) * (2 / draws) ** 0.5
    assert abs(values.var().item() - (exact - left)) < 6 * variance_error
    assert found.variance_error.item() == pytest.approx(variance_error, rel=0.2)
    assert found.remaining.item() == pytest.approx(left, rel=6 * (2 / draws) ** 0.5 + 0.01)
    assert stats.kstest(values.numpy(), stats.norm(11.3 / 10.25, (exact - left) ** 0.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("inputs", ["bootstrap", "shared"])
def test_a_function_and_its_integral_have_the_posterior_of_the_process(inputs) -> None:
    surrogate, data = smooth()
    grid = torch.linspace(-1, 1, 9)[:, None]
    weights = torch.full((9,), 0.25)
    weights[[0, -1]] /= 2  # the trapezoidal rule
    draws, steps = 500, 400
    functional = OfLimit(grid, lambda law: torch.cat([law.mean[..., 0], law.mean[..., 0] @ weights[:, None]], -1))
    found = predictive_resampling(
        surrogate, functional, data=data, draws=draws, steps=steps, inputs=inputs, generator=source(2)
    )
    law = surrogate.posterior(grid)
    to = torch.cat([torch.eye(9), weights[None]])
    mean, variance = to @ law.mean[:, 0], (to @ law.covariance @ to.T).diagonal()
    assert ((found.mean - mean).abs() < 6 * (variance / draws).sqrt()).all()
    error = variance * (2 / draws) ** 0.5
    assert ((found.values.var(0) + found.remaining - variance).abs() < 6 * error + 0.2 * found.remaining).all()


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("inputs", ["bootstrap", "empirical", "shared"])
def test_rank_one_updates_are_conditioning_one_by_one(outputs, inputs) -> None:
    surrogate, data = smooth(outputs)
    functionals = [
        OfLimit(torch.tensor([[0.1], [3.0]]), lambda law: torch.cat([law.mean, law.variance, law.quantile(0.9)], -1)),
        OfCompleted(lambda data: torch.cat([data.X.mean(0), data.Y.mean(0), data.Y.std(0)])),
    ]
    for functional in functionals:
        fast, slow = (
            predictive_resampling(
                surrogate, functional, data=data, draws=3, steps=20, inputs=inputs, update=update, generator=source(3)
            )
            for update in ("gaussian", "condition")
        )
        assert (fast.update, slow.update) == ("gaussian", "condition")
        torch.testing.assert_close(fast.values, slow.values, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(fast.halfway, slow.halfway, rtol=1e-7, atol=1e-9)


def test_chains_in_parts_are_the_chains_together(monkeypatch: pytest.MonkeyPatch) -> None:
    surrogate, data = smooth()
    ask = dict(data=data, draws=7, steps=10)
    whole = predictive_resampling(surrogate, OfLimit(ORIGIN), generator=source(), **ask)
    monkeypatch.setattr("kernelfield.models.predictive_resampling.CHUNK", 100)
    parts = predictive_resampling(surrogate, OfLimit(ORIGIN), generator=source(), **ask)
    torch.testing.assert_close(whole.values, parts.values, rtol=1e-12, atol=1e-12)


def test_a_block_of_rows_has_the_law_of_single_ones() -> None:
    surrogate, data = level_of(5, 2.0)
    found = predictive_resampling(
        surrogate, OfLimit(ORIGIN), data=data, draws=150, steps=20, block=10, update="condition", generator=source(4)
    )
    variance = 1 / 5.25 - 1 / 25.25
    assert abs(found.values.var().item() - variance) < 6 * variance * (2 / 150) ** 0.5


def test_a_student_t_process_is_conditioned_and_not_taken_for_a_gaussian() -> None:
    surrogate, data = smooth(mixing=InverseGamma.student(5.0))
    found = predictive_resampling(surrogate, OfLimit(ORIGIN), data=data, draws=2, steps=4, generator=source())
    assert found.update == "condition"
    with pytest.raises(ValueError, match="FittedProcess is not that of a joint Gaussian"):
        predictive_resampling(surrogate, OfLimit(ORIGIN), data=data, update="gaussian", generator=source())


class Fixed(Surrogate):
    """A predictor of standard normals that learns nothing."""

    outputs = 1

    def posterior(self, X, *, noise=False) -> Elliptical:
        return Elliptical(torch.zeros(len(X), 1), torch.eye(len(X)))


def test_what_cannot_be_conditioned_goes_by_copulas_or_a_refit() -> None:
    data = Data(torch.linspace(0, 1, 12)[:, None], torch.linspace(0, 1, 12)[:, None])
    ask = dict(data=data, draws=2, steps=4)
    found = predictive_resampling(Fixed(), OfLimit(ORIGIN), generator=source(), **ask)
    assert found.update == "copula"
    with pytest.raises(ValueError, match="update=a Model to refit"):
        predictive_resampling(Fixed(), OfCompleted(lambda data: data.Y.mean()), generator=source(), **ask)
    model = Ensemble(multilayer((4,)), members=2, training=Training(steps=5))
    surrogate = model.fit(data, generator=source())
    again = predictive_resampling(surrogate, OfLimit(ORIGIN), update=model, block=2, generator=source(), **ask)
    assert again.update == "refit"
    assert again.values.std() > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 1}, "got 500, 1 and 1"),
        ({"inputs": "all"}, "got 'all'"),
        ({"update": "bayes"}, "got 'bayes'"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message) -> None:
    surrogate, data = smooth()
    with pytest.raises(ValueError, match=message):
        predictive_resampling(surrogate, OfLimit(ORIGIN), data=data, generator=source(), **wrong)
