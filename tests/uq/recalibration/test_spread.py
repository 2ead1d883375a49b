"""Scaling of deviations finds the factor that simulation put in, by the closed form and by likelihood."""

import pytest
import torch
from scipy import optimize, stats
from torch.testing import assert_close

from kernelfield.core.mixing import InverseGamma
from kernelfield.core.posterior import Binned, Draws, Elliptical
from kernelfield.uq.recalibration.spread import StdScaling


def independent(mean: torch.Tensor, variance: torch.Tensor) -> Draws:
    return Draws(mean[None], torch.ones(1), variance)


def simulated(n: int = 2000) -> tuple[Draws, torch.Tensor]:
    """Predictions whose deviations are a third of and twice the right ones, off by 0.5 and nothing."""
    mean, std = torch.randn(n, 2), 0.2 + torch.rand(n, 2)
    y = mean + torch.tensor([0.5, 0.0]) + torch.tensor([3.0, 0.5]) * std * torch.randn(n, 2)
    return independent(mean, std.square()), y


def test_the_factor_of_a_gaussian_is_the_root_mean_square_of_z():
    law, y = simulated()
    fitted = StdScaling().fit(law, y)
    z = (y - law.mean) / law.variance.sqrt()
    assert_close(fitted.factor, z.square().mean(0).sqrt())
    assert_close(fitted.shift, torch.zeros(2))
    again = StdScaling().fit(fitted.apply(law), y)
    assert_close(again.factor, torch.ones(2))


def test_factor_and_shift_recover_what_was_put_in_within_six_standard_errors():
    law, y = simulated()
    fitted = StdScaling(shift=True).fit(law, y)
    assert ((fitted.factor / torch.tensor([3.0, 0.5]) - 1).abs() < 6 / (2 * len(y)) ** 0.5).all()
    error = fitted.factor / (1 / law.variance).sum(0).sqrt()
    assert ((fitted.shift - torch.tensor([0.5, 0.0])).abs() < 6 * error).all()


def test_no_other_factor_or_shift_is_likelier_for_a_gaussian():
    law, y = simulated(200)

    def loss(theta):
        std = theta[0] * law.variance.sqrt()[:, 0].numpy()
        return -stats.norm(law.mean[:, 0].numpy() + theta[1], std).logpdf(y[:, 0].numpy()).sum()

    best = optimize.minimize(loss, [2.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x
    fitted = StdScaling(shift=True).fit(law, y)
    assert_close(torch.stack([fitted.factor[0], fitted.shift[0]]), torch.from_numpy(best), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shift", [False, True])
def test_the_factor_of_a_student_t_is_that_of_scipy_s_likelihood(shift):
    n, df = 500, 3.0
    y = torch.from_numpy(stats.t(df, 0.7 if shift else 0.0, 2.5).rvs((n, 1), random_state=0))
    law = Elliptical(torch.zeros(n, 1), torch.eye(n), InverseGamma.student(df))
    fitted = StdScaling(shift=shift).fit(law, y)
    held = {"f0": df} if shift else {"f0": df, "floc": 0.0}
    _, loc, scale = stats.t.fit(y.numpy(), **held)
    assert fitted.factor.item() == pytest.approx(scale, rel=2e-4)
    assert fitted.shift.item() == pytest.approx(loc, abs=5e-4)


def test_moments_of_a_student_t_match_its_own_variance():
    law = Elliptical(torch.zeros(50, 1), torch.eye(50), InverseGamma.student(5.0))
    y = torch.randn(50, 1)
    factor = StdScaling(by="moments").fit(law, y).factor
    assert_close(factor, (y.square().mean(0) / (5 / 3)).sqrt())


def test_a_histogram_is_stretched_until_it_holds_all_values():
    """Of a uniform law on (-1, 1) the likeliest factor is the largest |y|."""
    law = Binned(torch.zeros(40, 1, 1), torch.tensor([[-1.0, 1.0]]))
    y = 3 * (2 * torch.rand(40, 1) - 1)
    assert StdScaling().fit(law, y).factor.item() == pytest.approx(y.abs().max().item(), rel=1e-4)


def test_samples_without_noise_are_scaled_by_moments():
    law, y = Draws(torch.randn(30, 100, 1), torch.full((30,), 1 / 30), torch.tensor(0.0)), 2 * torch.randn(100, 1)
    factor = StdScaling(by="moments").fit(law, y).factor
    assert_close(StdScaling(by="moments").fit(law, y).apply(law).variance, factor.square() * law.variance)
    with pytest.raises(ValueError, match="has no density"):
        StdScaling().fit(law, y)


def test_the_report_names_the_factor_and_its_error():
    fitted = StdScaling().fit(*simulated(800))
    assert fitted.rows == 800
    assert fitted.hyperparameters()["factor"] == fitted.factor.tolist()
    assert "800 held-out rows and known to about 2.5%" in fitted.notes()[0]


@pytest.mark.parametrize(
    ("choice", "y", "complaint"),
    [
        (StdScaling(), torch.zeros(5, 1), "at least 10 calibration rows, got 5; hold out 5 more"),
        (StdScaling(), torch.zeros(20, 1), "all 20 errors of output 0 are zero"),
        (StdScaling(), torch.full((20, 1), torch.nan), "y holds 20 entries that are NaN"),
        (StdScaling(by="rank"), torch.ones(20, 1), "'likelihood' or 'moments', got 'rank'"),
        (StdScaling(), torch.ones(20, 2), r"shape \(20, 1\), got \(20, 2\)"),
    ],
    ids=["few", "exact", "nan", "name", "shape"],
)
def test_bad_input_is_refused_in_a_sentence(choice, y, complaint):
    law = independent(torch.zeros(len(y), 1), torch.ones(len(y), 1))
    with pytest.raises(ValueError, match=complaint):
        choice.fit(law, y)


def test_laws_without_variance_and_of_other_outputs_are_refused():
    heavy = Elliptical(torch.zeros(20, 1), torch.eye(20), InverseGamma.student(2.0))
    with pytest.raises(ValueError, match="no variance to match"):
        StdScaling(by="moments").fit(heavy, torch.randn(20, 1))
    with pytest.raises(ValueError, match="20 predicted variances are not positive"):
        StdScaling().fit(independent(torch.zeros(20, 1), torch.zeros(20, 1)), torch.randn(20, 1))
    law, y = simulated(50)
    with pytest.raises(ValueError, match="learned for 2 outputs, got a law of 1"):
        StdScaling().fit(law, y).apply(heavy)
