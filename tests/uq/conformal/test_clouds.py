"""Regions as clouds of points: distances, growth, volumes and the promised share."""

import math

import pytest
import torch
from scipy import stats

from kernelfield.uq.conformal.clouds import Cloud, calibrated, gap_of


def disc(n: int, radius: float, *, reach: float = 3.0, side: int = 61) -> Cloud:
    """n times the points of a square, of which those of a disc are inside."""
    line = torch.linspace(-reach, reach, side)
    points = torch.cartesian_prod(line, line)
    inside = points.norm(dim=1) <= radius
    own = points.expand(n, -1, -1), inside.expand(n, -1)
    return Cloud(*own, gap_of(*own))


def test_distances_are_those_to_the_edge_up_to_the_gap() -> None:
    cloud = disc(1, 2.0)
    y = 1.5 * torch.randn(1, 500, 2)
    exact = y.norm(dim=-1) - 2.0
    assert cloud.gap == pytest.approx(0.1)
    assert (cloud.distance(y) - exact).abs().max() < 2 * cloud.gap


def test_a_value_beside_a_flat_cloud_is_outside() -> None:
    line = torch.linspace(-3, 3, 301)
    cloud = Cloud(torch.stack([line, 0 * line], -1)[None], (line.abs() < 2)[None], gap=0.02)
    near, far, beside = cloud.distance(torch.tensor([[[0.0, 0.001], [3.0, 0.0], [0.0, 5.0]]]))[0].tolist()
    assert near < -1.9
    assert far == pytest.approx(1.0, abs=0.03)
    assert beside == pytest.approx(5.0)


@pytest.mark.parametrize("radius", [0.5, 1.5, 2.8])
def test_regions_grow_or_shrink_to_the_same_size(radius, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernelfield.uq.conformal.clouds.GRID", 60)
    n = 2000
    cloud = disc(1, radius, side=41)
    y = torch.randn(n, 2)
    scores = cloud.distance(y[None])[0]
    fitted = calibrated(Cloud(cloud.points.expand(3, -1, -1), cloud.inside.expand(3, -1), cloud.gap), y[:3])
    fitted = type(fitted)(scores.sort().values)
    exact = math.sqrt(stats.chi2.ppf(0.9, 2))
    assert fitted.volume(cloud, 0.9, probes=5000).item() == pytest.approx(math.pi * exact**2, rel=0.15)
    (polygon,) = fitted.outline(cloud, 0.9)[0]
    assert (polygon.norm(dim=1) - exact).abs().max() < 0.3
    assert fitted.contains(disc(200, radius, side=31), torch.randn(200, 2), 0.9).double().mean() > 0.8


def test_the_coverage_of_many_splits_is_that_of_the_theory() -> None:
    splits, n, test, level = 300, 40, 50, 0.8
    cloud = disc(1, 1.0, side=31)
    y = torch.randn(splits, n + test, 2) * torch.tensor([0.5, 2.0])
    scores = cloud.distance(y.reshape(1, -1, 2)).reshape(splits, n + test)
    shares = []
    for own in scores:
        fitted = calibrated(disc(1, 1.0, side=5), torch.zeros(1, 2))
        fitted = type(fitted)(own[:n].sort().values)
        shares.append((own[n:] <= fitted.bound(level)).double().mean().item())
    exact = fitted.coverage_law(level)
    variance = stats.betabinom(test, exact.rank, n + 1 - exact.rank).var() / test**2
    assert abs(sum(shares) / splits - exact.mean) < 6 * (variance / splits) ** 0.5


def test_blocks_of_rows_are_the_rows_together(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud, y = disc(5, 1.0, side=21), torch.randn(5, 2)
    fitted = calibrated(cloud, y)
    whole = fitted.volume(cloud, 0.5, probes=300)
    monkeypatch.setattr("kernelfield.uq.conformal.clouds.CHUNK", 1)
    torch.testing.assert_close(calibrated(cloud, y).scores, fitted.scores)
    torch.testing.assert_close(fitted.volume(cloud, 0.5, probes=300), whole)


def test_clouds_without_inner_points_are_empty_regions() -> None:
    cloud = Cloud(torch.randn(1, 10, 2), torch.zeros(1, 10, dtype=torch.bool), gap=0.1)
    assert cloud.distance(torch.zeros(1, 1, 2)).item() == math.inf
    fitted = calibrated(disc(9, 1.0, side=21), torch.randn(9, 2))
    assert fitted.volume(cloud, 0.9).item() == 0


def test_shapes_that_do_not_agree_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(3, 4, 2\) and \(3, 5\)"):
        Cloud(torch.zeros(3, 4, 2), torch.zeros(3, 5, dtype=torch.bool), 0.1)
    with pytest.raises(ValueError, match=r"need values y \(2, 2\)"):
        calibrated(disc(2, 1.0, side=5), torch.zeros(3, 2))
    line = torch.linspace(-1, 1, 9).reshape(1, 9, 1)
    cloud = Cloud(line.expand(9, -1, -1), (line.abs() < 0.5)[..., 0].expand(9, -1), 0.2)
    fitted = calibrated(cloud, torch.zeros(9, 1))
    with pytest.raises(ValueError, match="two outputs, got 1"):
        fitted.outline(cloud, 0.9)
