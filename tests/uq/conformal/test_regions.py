"""Regions hold the promised share, have the size they say, and are what scipy's laws say they are."""

import math

import pytest
import torch
from scipy import stats

from kernelfield.core.posterior import Draws, Elliptical
from kernelfield.uq.conformal.regions import Boxes, Ellipsoids, output_covariance

CHOICES = {
    "law": Ellipsoids(),
    "residuals": Ellipsoids("residuals"),
    "rank": Boxes(),
    "bonferroni": Boxes("bonferroni"),
}
SPREAD = torch.tensor([[1.0, 0.8], [0.8, 2.0]])


def rows(n: int, spread: torch.Tensor = SPREAD) -> tuple[Elliptical, torch.Tensor]:
    """Laws whose size and place differ from row to row, and values of Student's t that they take for Gaussian."""
    m = len(spread)
    mean, size = torch.randn(n, 1, m), torch.rand(n, 1, 1) + 0.5
    tails = (5 / torch.distributions.Chi2(torch.tensor(5.0)).sample((n, 1))).sqrt()
    y = mean[:, 0] + size[:, 0] * tails * (torch.randn(n, m) @ torch.linalg.cholesky(spread).T)
    return Elliptical(mean, size.square() * spread), y


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_the_coverage_of_many_splits_is_that_of_the_theory(choice) -> None:
    splits, n, test, level = 300, 60, 100, 0.8
    shares = []
    for seed in range(splits):
        law, y = rows(n)
        new, y_new = rows(test)
        fitted = choice.fit(law, y, generator=torch.Generator().manual_seed(seed))
        shares.append(fitted.contains(new, y_new, level).double().mean().item())
    mean = sum(shares) / splits
    if isinstance(choice, Ellipsoids):
        exact = fitted.coverage_law(level)
        assert exact.rows == (n if choice.shape == "law" else n - 18)
        variance = stats.betabinom(test, exact.rank, exact.rows + 1 - exact.rank).var() / test**2
        assert abs(mean - exact.mean) < 6 * (variance / splits) ** 0.5
    else:  # promised is the level at least; what outputs have in common is paid for by Bonferroni alone
        error = 6 * torch.tensor(shares).std().item() / splits**0.5
        assert level - error < mean < level + (0.05 if choice.score == "rank" else 0.12)


def test_the_bound_of_many_gaussian_rows_is_the_quantile_of_chi_squared() -> None:
    n = 20_000
    y = torch.randn(n, 2) @ torch.linalg.cholesky(SPREAD).T
    law = Elliptical(torch.zeros(n, 1, 2), SPREAD.expand(n, 2, 2))
    new = Elliptical(torch.zeros(1, 1, 2), SPREAD[None])
    exact = stats.chi2.ppf(0.9, 2)
    error = 6 * (0.9 * 0.1 / n) ** 0.5 / stats.chi2.pdf(exact, 2)
    fitted = Ellipsoids().fit(law, y)
    assert abs(fitted.bound(0.9) - exact) < error
    area = math.pi * fitted.bound(0.9) * torch.linalg.det(SPREAD).sqrt().item()
    assert fitted.volume(new, 0.9).item() == pytest.approx(area, rel=1e-12)
    # Laws that take the outputs for independent give the same ellipse by their residuals.
    apart = Elliptical(torch.zeros(n, 1, 2), torch.diag_embed(SPREAD.diagonal()).expand(n, 2, 2))
    lone = Elliptical(torch.zeros(1, 1, 2), torch.diag_embed(SPREAD.diagonal())[None])
    residual = Ellipsoids("residuals").fit(apart, y, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(residual.covariance(lone)[0], SPREAD, rtol=0.1, atol=0.05)
    assert residual.volume(lone, 0.9).item() == pytest.approx(area, rel=0.05)


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("m", [1, 2, 3])
def test_a_volume_is_the_share_of_a_box_that_is_inside(choice, m) -> None:
    A = torch.randn(m, m)
    spread = A @ A.T + 0.2 * torch.eye(m)
    law, y = rows(80, spread)
    fitted = choice.fit(law, y, generator=torch.Generator().manual_seed(1))
    one = Elliptical(law.loc[:1], law.scale[:1])
    reach = 12 * one.variance.sqrt()[0, 0]
    count = 200_000
    points = one.mean[0] + reach * (2 * torch.rand(count, m) - 1)
    many = Elliptical(one.loc.expand(count, 1, m), one.scale.expand(count, m, m))
    share = fitted.contains(many, points, 0.8).double().mean().item()
    volume = share * (2 * reach).prod().item()
    error = 6 * ((1 - share) / share / count) ** 0.5
    assert fitted.volume(one, 0.8).item() == pytest.approx(volume, rel=error)


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_an_outline_is_the_edge_and_has_the_area(choice) -> None:
    law, y = rows(40)
    fitted = choice.fit(law, y, generator=torch.Generator().manual_seed(1))
    new, _ = rows(2)
    for i, polygon in enumerate(fitted.outline(new, 0.8)):
        x, z = polygon.T
        area = 0.5 * (x * z.roll(-1) - z * x.roll(-1)).sum().item()
        assert area == pytest.approx(fitted.volume(new, 0.8)[i].item(), rel=1e-3)
        centre = new.mean[i]
        k = len(polygon)
        at = Elliptical(new.loc[i].expand(k, 1, 2), new.scale[i].expand(k, 2, 2))
        assert fitted.contains(at, centre + 0.999 * (polygon - centre), 0.8).all()
        assert not fitted.contains(at, centre + 1.001 * (polygon - centre), 0.8).any()


def test_outputs_that_go_together_need_less_than_bonferroni_and_boxes_more_than_ellipses() -> None:
    spread = torch.tensor([[1.0, 0.95], [0.95, 1.0]])
    law, y = rows(400, spread)
    new, _ = rows(5, spread)
    ellipse, rank, bonferroni = (CHOICES[name].fit(law, y).volume(new, 0.9) for name in ("law", "rank", "bonferroni"))
    assert (2 * ellipse < rank).all()
    assert (rank < bonferroni).all()


def test_the_rank_of_one_output_is_allowed_for() -> None:
    law, y = rows(100, torch.ones(1, 1))
    places = Boxes().fit(law, y)
    assert places.bound(0.9).item() == places.scores[91, 0].item()  # the 92nd where the 91st would do


def test_every_law_gives_the_covariance_between_its_outputs() -> None:
    law, _ = rows(6)
    blocks = torch.block_diag(*law.scale)
    torch.testing.assert_close(output_covariance(Elliptical(law.loc[:, 0], blocks)), law.scale)
    values, noise = torch.randn(5, 4, 2), torch.tensor([0.1, 0.2])
    draws = Draws(values, torch.full((5,), 0.2), noise.expand(4, 2))
    expected = torch.stack([torch.cov(values[:, i].T, correction=0) for i in range(4)]) + torch.diag(noise)
    torch.testing.assert_close(output_covariance(draws), expected)
    single = Draws(values.movedim(0, 1)[:, :, None], torch.full((5,), 0.2), noise.expand(4, 1, 2))
    torch.testing.assert_close(output_covariance(single), expected)


def test_what_cannot_be_a_region_is_refused() -> None:
    law, y = rows(30)
    with pytest.raises(ValueError, match="needs at least 99 calibration rows, got 30"):
        Ellipsoids().fit(law, y).bound(0.99)
    with pytest.raises(ValueError, match="got 'diagonal'"):
        Ellipsoids("diagonal").fit(law, y)
    with pytest.raises(ValueError, match="got 'max'"):
        Boxes("max").fit(law, y)
    with pytest.raises(ValueError, match="needs more than 2 rows for itself"):
        Ellipsoids("residuals", share=0.05).fit(law, y)
    with pytest.raises(ValueError, match=r"\(30, 2\), got \(30, 1\)"):
        Boxes().fit(law, y[:, :1])
    with pytest.raises(ValueError, match="y holds 2 entries"):
        Ellipsoids().fit(law, y.index_fill(0, torch.tensor([3]), math.nan))
    wide, values = rows(30, torch.eye(3))
    fitted = Ellipsoids().fit(wide, values)
    with pytest.raises(ValueError, match="two outputs, got 3"):
        fitted.outline(wide, 0.8)
    many = Elliptical(torch.zeros(3000, 2), torch.eye(6000))
    with pytest.raises(ValueError, match="posterior"):
        output_covariance(many)
