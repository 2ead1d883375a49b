"""Frequencies found in data: three periodograms against each other, least squares, and known waves."""

import warnings

import numpy as np
import pytest

from kernelfield.kernels.spectral_start import AboveNyquist, _direct, capped, find_waves, nyquist, periodogram

TRUE = (3.0, 7.5, 40.0)


def three_sines(seed, x):
    rng = np.random.default_rng(seed)
    waves = [np.sin(2 * np.pi * f * x + p) for f, p in zip(TRUE, rng.uniform(0, 2 * np.pi, 3), strict=True)]
    return sum(waves) + 0.3 * rng.normal(size=x.shape)


def found(x, y, most=8, seed=0):
    return find_waves(x, y, most, capped(None, x), np.random.default_rng(seed))


@pytest.mark.parametrize("seeds", [range(3), pytest.param(range(3, 20), marks=pytest.mark.slow)], ids=len)
def test_the_right_frequencies_come_out_of_irregular_points_for_every_seed(seeds):
    for seed in seeds:
        x = np.random.default_rng(100 + seed).uniform(0, 1, (400, 1))
        waves = found(x, three_sines(seed, x))
        assert np.abs(np.sort(waves.frequencies[:3, 0]) - TRUE).max() < 0.25, seed
        assert len(waves.powers) <= 5, "more waves than noise would make"
        assert waves.powers[:3] == pytest.approx(0.5, rel=0.25)
        assert waves.noise == pytest.approx(0.09, rel=0.35)


def test_and_out_of_regular_ones():
    x = np.linspace(0, 1, 400)[:, None]
    assert np.sort(found(x, three_sines(0, x)).frequencies[:3, 0]) == pytest.approx(TRUE, abs=0.15)


def test_noise_alone_has_few_waves():
    counts = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.uniform(0, 1, (200, 1))
        counts.append(len(found(x, rng.normal(size=(200, 1))).powers))
    assert sum(counts) <= 3  # of 20, at a false-alarm probability of 1% each


@pytest.mark.parametrize("regular", [True, False])
def test_the_periodogram_is_half_the_fall_of_the_sum_of_squares(regular):
    rng = np.random.default_rng(0)
    # At these frequencies cosine and sine are orthogonal on the regular points, as an FFT takes them to be.
    x = np.arange(64)[:, None] / 32 if regular else rng.uniform(0, 2, (64, 1))
    Y = rng.normal(size=(64, 2))
    F = np.arange(2, 31)[:, None] / 2
    expect = []
    for f in F:
        basis = np.column_stack([np.cos(2 * np.pi * x[:, 0] * f), np.sin(2 * np.pi * x[:, 0] * f)])
        rest = Y - basis @ np.linalg.lstsq(basis, Y, rcond=None)[0]
        expect.append(0.5 * ((Y**2).sum() - (rest**2).sum()))
    assert _direct(x, Y, F) == pytest.approx(expect, rel=1e-9)
    assert periodogram(x, Y, F) == pytest.approx(expect, rel=1e-9)


def test_a_plane_wave_is_found_in_its_direction():
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 1, (300, 2))
    y = np.sin(2 * np.pi * X @ [3.2, -4.1]) + 0.2 * rng.normal(size=300)
    frequency = found(X, y[:, None]).frequencies[0]
    assert frequency * np.sign(frequency[0]) == pytest.approx([3.2, -4.1], abs=0.1)


def test_waves_in_four_inputs_are_looked_for_along_each_as_well():
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 1, (600, 4))
    frequency = found(X, np.sin(2 * np.pi * 1.8 * X[:, 2:3]), most=2).frequencies[0]
    assert np.abs(frequency) == pytest.approx([0, 0, 1.8, 0], abs=0.15)


NYQUIST = {
    "regular": (np.arange(11.0)[:, None] / 10, [5.0]),
    "grid": (np.stack(np.meshgrid(np.arange(5.0), np.arange(9.0) / 2), -1).reshape(-1, 2), [0.5, 1.0]),
    "constant": (np.column_stack([np.arange(11.0), np.ones(11)]), [0.5, 0.0]),
    "close pairs": (np.concatenate([np.arange(10.0), np.arange(10.0) + 1e-9])[:, None], [19 / (2 * 9)]),
}


@pytest.mark.parametrize("case", NYQUIST.values(), ids=NYQUIST)
def test_nyquist(case):
    points, expect = case
    assert nyquist(points) == pytest.approx(expect)


def test_a_limit_above_nyquist_is_capped_with_a_warning_and_below_it_kept():
    x = np.arange(11.0)[:, None]
    with pytest.warns(AboveNyquist, match="max_frequency = 3 is above the Nyquist frequency of the data, 0.5"):
        assert capped(3.0, x) == [0.5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert capped(0.2, x) == [0.2]
    with pytest.raises(ValueError, match="max_frequency must be positive, got -1"):
        capped(-1.0, x)


@pytest.mark.parametrize("y", [np.zeros((20, 1)), np.ones((20, 1)), np.linspace(0, 1, 20)[:, None]])
def test_targets_without_waves_have_none(y):
    assert not len(found(np.linspace(0, 1, 20)[:, None], y).powers)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_few_points_are_no_mistake(n):
    x = np.linspace(0, 1, n)[:, None]
    assert len(found(x, np.sin(9 * x)).powers) <= 1
