import math

import pytest
import torch
from scipy.stats import norm, rankdata
from torch import Tensor
from torch.testing import assert_close

from kernelfield.models.neural.diagnostics import (
    Diagnosis,
    autocovariance,
    bfmi,
    bulk_size,
    effective_size,
    normal_scores,
    rhat,
    split,
    tail_size,
)


def autoregressive(rho: float, shape: tuple[int, ...]) -> Tensor:
    """Stationary chains along the first axis with correlation rho^t and unit variance."""
    noise = torch.randn(shape)
    x = [noise[0]]
    for row in noise[1:]:
        x.append(rho * x[-1] + math.sqrt(1 - rho**2) * row)
    return torch.stack(x)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, -0.5])
def test_the_effective_size_of_autoregressive_chains_is_known(rho):
    n, c, q = 2000, 4, 60
    sizes = bulk_size(autoregressive(rho, (n, c, q)))
    expected = n * c * (1 - rho) / (1 + rho)
    error = 6 * sizes.std() / q**0.5
    # The estimate is biased by the truncation of its sum, by a few per cent at these lengths.
    assert abs(sizes.mean() - expected) < error + 0.06 * expected
    assert tail_size(autoregressive(rho, (n, c, 3))).min() > 0.5 * expected * (1 if rho >= 0 else 0.3)


def brute_size(x: Tensor) -> float:
    """Geyer's initial monotone sequence for chains (n, c), by loops."""
    n, c = x.shape
    gap = x - x.mean(0)
    covariance = [(gap[: n - t] * gap[t:]).sum(0).mean().item() / n for t in range(n)]
    within = x.var(0).mean().item()
    total = (n - 1) / n * within + x.mean(0).var().item()
    rho = [1.0] + [1 - (within - v) / total for v in covariance[1:]]
    time, least, t = -1.0, math.inf, 0
    while t + 1 < n and rho[t] + rho[t + 1] > 0:
        least = min(least, rho[t] + rho[t + 1])
        time += 2 * least
        t += 2
    if t < n and rho[t] > 0:
        time += rho[t]
    return n * c / max(time, 1 / math.log10(n * c))


@pytest.mark.parametrize("rho", [0.0, 0.8, -0.7])
def test_the_effective_size_is_that_of_a_plain_loop(rho):
    x = autoregressive(rho, (51, 3, 4))
    assert_close(effective_size(x), torch.tensor([brute_size(x[..., i]) for i in range(4)]))


def test_autocovariances_are_sums_of_products():
    x = torch.randn(9, 2)
    gap = x - x.mean(0)
    expected = torch.stack([(gap[: 9 - t] * gap[t:]).sum(0) / 9 for t in range(9)])
    assert_close(autocovariance(x), expected)


def test_normal_scores_are_quantiles_of_mean_ranks():
    x = torch.tensor([3.0, 1.0, 3.0, 2.0, 5.0, -1.0]).reshape(3, 2, 1)
    expected = norm.ppf((rankdata(x.flatten().numpy()) - 0.375) / 6.25)
    assert_close(normal_scores(x).flatten(), torch.tensor(expected))


def test_rhat_sees_chains_that_differ_in_place_in_scale_or_in_time():
    x = torch.randn(400, 4, 1)
    assert rhat(x).item() < 1.01
    place, scale, time = x.clone(), x.clone(), x.clone()
    place[:, 0] += 2
    scale[:, 0] *= 5
    time[200:] += 2
    for wrong in (place, scale, time):
        assert rhat(wrong).item() > 1.05
    # Ranks are the same to the digit; folded about the median they are not, and the greater of the two counts.
    assert_close(rhat(x.exp()), rhat(x), rtol=1e-2, atol=0)
    # The scores of ranks are the same; those of folded draws are others, of the same 1600 independent ones,
    # whose R-hat is one within a few thousandths.


def test_rhat_of_scores_by_hand():
    # Two chains, each of halves (a, b): with W and the variance of the four means from their definitions.
    x = torch.randn(10, 2, 1)
    z = normal_scores(split(x))[..., 0]
    within, between = z.var(0).mean(), 5 * z.mean(0).var()
    expected = ((4 / 5 * within + between / 5) / within).sqrt()
    assert rhat(x).item() >= expected.item() - 1e-12


def test_bfmi_of_independent_energies_is_two():
    energy = torch.randn(20_000, 3)
    assert_close(bfmi(energy), torch.full((3,), 2.0), atol=0.1, rtol=0)
    assert bfmi(energy.cumsum(0)).max() < 0.01


def test_constant_quantities_are_no_failure():
    x = torch.ones(20, 2, 1)
    assert rhat(x).item() == 1 and bulk_size(x).item() == 40


def test_a_diagnosis_complains_of_what_is_wrong_and_of_nothing_else():
    good = Diagnosis.of(torch.randn(200, 4, 3), accepted=torch.full((200, 4), 0.8), energy=torch.randn(200, 4))
    assert good.complaints == []
    x = torch.randn(200, 4, 3)
    x[:, 0] += 3
    bad = Diagnosis.of(x, divergent=torch.eye(200, 4), energy=torch.randn(200, 4).cumsum(0))
    assert [next(w for w in ("R-hat", "worth", "diverged", "E-BFMI") if w in c) for c in bad.complaints] == [
        "R-hat",
        "worth",
        "diverged",
        "E-BFMI",
    ]


def test_chains_that_never_move_have_not_converged():
    stuck = Diagnosis.of(torch.ones(20, 1, 2))
    assert stuck.bulk == 1 and stuck.rhat == math.inf and len(stuck.complaints) == 2


def test_too_few_draws_are_refused():
    with pytest.raises(ValueError, match="four draws a chain, got 3"):
        rhat(torch.randn(3, 2, 1))
