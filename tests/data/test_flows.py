"""Flows against exact solutions, other integrators and what the equations conserve."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from sklearn.gaussian_process.kernels import Matern

from kernelfield.data import flows
from kernelfield.data.flows import Burgers, Flow, NavierStokes, PeriodicField, flow_sample

LAW = PeriodicField()
VORTICES = PeriodicField(modes=2, size=4.0)


def grid(points: int, axes: int = 1) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(points) / points] * axes, indexing="ij"))


def one_wave(x: np.ndarray, t: float, viscosity: float) -> np.ndarray:
    """The solution of Burgers' equation that Cole and Hopf's -2 v phi_x / phi makes of phi = 1 + c(t) cos(2 pi x)."""
    c = 0.9 * np.exp(-viscosity * (2 * np.pi) ** 2 * t)
    return 4 * np.pi * viscosity * c * np.sin(2 * np.pi * x) / (1 + c * np.cos(2 * np.pi * x))


def cole_hopf(coefficients: np.ndarray, law: PeriodicField, x: float, t: float, viscosity: float) -> float:
    """The solution at one place from a random start: a ratio of integrals over the heat kernel."""
    k = law.waves(1)[:, 0]
    cosines, sines = np.split(coefficients, 2)

    def start(y: float) -> float:
        return float(np.cos(2 * np.pi * k * y) @ cosines + np.sin(2 * np.pi * k * y) @ sines)

    def integral_of_start(y: float) -> float:
        rate = 2 * np.pi * k
        return float((np.sin(rate * y) / rate) @ cosines + ((1 - np.cos(rate * y)) / rate) @ sines)

    def weight(y: float) -> float:
        return math.exp(-((x - y) ** 2) / (4 * viscosity * t) - integral_of_start(y) / (2 * viscosity))

    far = 9 * math.sqrt(2 * viscosity * t)  # the kernel is e^-40 there, the other factor less than e^25
    above, below = (
        quad(f, x - far, x + far, epsabs=0, epsrel=1e-11, limit=400)[0]
        for f in (lambda y: start(y) * weight(y), weight)
    )
    return above / below


def energy(vorticity: np.ndarray) -> float:
    """The mean of |V|^2 / 2."""
    points = vorticity.shape[-1]
    k = 2 * np.pi * np.fft.fftfreq(points, 1 / points)
    squares = k[:, None] ** 2 + k**2
    squares[0, 0] = np.inf
    return float((np.abs(np.fft.fft2(vorticity) / points**2) ** 2 / squares).sum() / 2)


def enstrophy(vorticity: np.ndarray) -> float:
    return float((vorticity**2).mean() / 2)


def smooth_vorticity(points: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    return VORTICES.values(VORTICES.draw(1, 2, rng), 2, points=points)


def order(flow: Flow, start: np.ndarray) -> float:
    """The order of convergence between 1 / steps and half of it."""
    coarse, middle, fine = (replace(flow, steps=flow.steps * factor).solve(start) for factor in (1, 2, 4))
    return math.log2(np.abs(coarse - middle).max() / np.abs(middle - fine).max())


def test_burgers_converges_to_the_solution_of_cole_and_hopf_faster_than_any_power():
    errors = []
    for points in (16, 32, 64):
        flow, x = Burgers(0.05, 0.2, points, 400), grid(points)[0]
        kept = np.fft.irfft(np.fft.rfft(one_wave(x, 0.0, 0.05)) * (np.fft.rfftfreq(points, 1 / points) < points / 3))
        end = flow._inverse(
            flows._marched(
                flow._forward(torch.as_tensor(kept)), -0.05 * flow._squares, flow.rate, flow.time, flow.steps
            )
        )
        errors.append(np.abs(end.numpy() - one_wave(x, 0.2, 0.05)).max())
    # Coefficients fall by a fixed factor a wavenumber: twice the points square the error.
    assert errors[1] < 30 * errors[0] ** 2
    assert errors[2] < 1e-9


def test_burgers_from_a_random_start_is_the_ratio_of_integrals_of_cole_and_hopf():
    coefficients = LAW.draw(2, 1, np.random.default_rng(1))
    flow = Burgers(steps=800)
    end = flow.solve(LAW.values(coefficients, 1, points=flow.points))
    for row, u in zip(coefficients, end, strict=True):
        exact = [cole_hopf(row, LAW, i / flow.points, flow.time, flow.viscosity) for i in (0, 37, 90)]
        np.testing.assert_allclose(u[[0, 37, 90]], exact, atol=1e-7)


def test_a_moving_frame_moves_the_solution_of_burgers():
    start = LAW.values(LAW.draw(3, 1, np.random.default_rng(0)), 1, points=128)
    flow = Burgers(time=0.25, steps=400)
    np.testing.assert_allclose(flow.solve(start + 0.5) - 0.5, np.roll(flow.solve(start), 16, axis=-1), atol=1e-6)


def test_a_taylor_green_vortex_decays_and_does_nothing_else():
    x, y = grid(16, 2)
    start = np.sin(2 * np.pi * x) * np.cos(4 * np.pi * y) * 3
    flow = NavierStokes(viscosity=0.01, time=1.0, points=16, steps=30, forcing=0.0)
    decay = math.exp(-0.01 * 5 * (2 * math.pi) ** 2)
    np.testing.assert_allclose(flow.solve(start[None])[0], decay * start, atol=1e-13)


def test_the_force_spins_up_the_laminar_flow_that_is_known_in_closed_form():
    x, y = grid(16, 2)
    phase, rate = 2 * np.pi * (x + y), 0.01 * 8 * np.pi**2
    flow = NavierStokes(viscosity=0.01, time=2.0, points=16, steps=20, forcing=0.3)
    exact = 0.3 * (np.sin(phase) + np.cos(phase)) * (1 - math.exp(-2 * rate)) / rate
    np.testing.assert_allclose(flow.solve(np.zeros((1, 16, 16)))[0], exact, atol=1e-13)


def test_navier_stokes_is_the_sum_over_all_triads_of_waves():
    """The interactions of waves p + q = k one by one, solved by another integrator."""
    points, viscosity, forcing = 10, 0.02, 0.2
    reach = range(-3, 4)
    waves = [(a, b) for a in reach for b in reach]
    place = {k: i for i, k in enumerate(waves)}
    triads = [
        (place[(p[0] + q[0], p[1] + q[1])], place[p], place[q], (p[0] * q[1] - p[1] * q[0]) / (p[0] ** 2 + p[1] ** 2))
        for p in waves
        for q in waves
        if p != (0, 0) and (p[0] + q[0], p[1] + q[1]) in place
    ]
    into, left, right, factor = (np.array(column) for column in zip(*triads, strict=True))
    damping = viscosity * (2 * np.pi) ** 2 * np.array([a * a + b * b for a, b in waves])
    force = np.zeros(len(waves), complex)
    force[place[(1, 1)]], force[place[(-1, -1)]] = forcing * (0.5 - 0.5j), forcing * (0.5 + 0.5j)

    def slope(_: float, w: np.ndarray) -> np.ndarray:
        # psi_p = w_p / |2 pi p|^2 and V_p = 2 pi i (p_y, -p_x) psi_p, so that V.grad w = sum (p x q) / |p|^2 w_p w_q.
        change = force - damping * w
        np.subtract.at(change, into, factor * w[left] * w[right])
        return change

    start = VORTICES.values(VORTICES.draw(1, 2, np.random.default_rng(0)), 2, points=points)[0] / 4
    spectrum = np.fft.fft2(start) / points**2
    begin = np.array([spectrum[k] for k in waves])
    end = solve_ivp(slope, (0, 1), begin, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    ours = _marched_without_questions(NavierStokes(viscosity, 1.0, points, 200, forcing), start)
    found = np.fft.fft2(ours) / points**2
    np.testing.assert_allclose(np.array([found[k] for k in waves]), end, atol=1e-9)
    assert np.abs(end - np.exp(-damping) * begin).max() > 0.01  # the waves did interact


def _marched_without_questions(flow: Flow, start: np.ndarray) -> np.ndarray:
    """The end of a flow on a grid that is too coarse for `solve`."""
    spectrum = flow._forward(torch.as_tensor(start))
    end = flows._marched(spectrum, -flow.viscosity * flow._squares, flow.rate, flow.time, flow.steps)
    return flow._inverse(end).numpy()


def test_without_viscosity_energy_and_enstrophy_stay():
    start = smooth_vorticity(32)
    flow = NavierStokes(viscosity=0.0, time=0.3, points=32, steps=200, forcing=0.0)
    end = _marched_without_questions(flow, start)
    assert np.abs(end - start).max() > 0.1 * np.abs(start).max()
    assert energy(end) == pytest.approx(energy(start), rel=1e-10)
    assert enstrophy(end) == pytest.approx(enstrophy(start), rel=1e-10)


def test_the_energy_that_viscosity_takes_is_that_of_the_balance():
    """d energy / dt = -2 v enstrophy in an unforced flow, by Gauss and Legendre's rule in time."""
    start = smooth_vorticity(32)
    nodes, weights = np.polynomial.legendre.leggauss(5)
    flow = NavierStokes(viscosity=0.01, time=0.4, points=32, steps=120, forcing=0.0)
    between = [enstrophy(replace(flow, time=0.2 * (1 + node)).solve(start)) for node in nodes]
    lost = 2 * flow.viscosity * 0.2 * weights @ np.array(between)
    assert energy(start) - energy(flow.solve(start)) == pytest.approx(lost, rel=1e-7)


def test_steps_are_of_fourth_order():
    start = LAW.values(LAW.draw(1, 1, np.random.default_rng(0)), 1, points=64)
    assert order(Burgers(0.05, 0.2, 64, 60), start) == pytest.approx(4, abs=0.25)
    assert order(NavierStokes(0.01, 1.0, 32, 60, 0.4), smooth_vorticity(32)) == pytest.approx(4, abs=0.25)


@pytest.mark.parametrize("smoothness", [0.5, 1.5, 2.5])
def test_the_covariance_of_many_waves_is_that_of_the_periodic_matern_process(smoothness):
    law = PeriodicField(modes=400, size=1.3, length=0.2, smoothness=smoothness)
    apart = np.array([0.0, 0.05, 0.2, 0.5])
    ours = np.cos(2 * np.pi * apart[:, None] * law.waves(1)[:, 0]) @ law.deviations(1) ** 2
    kernel, shifts = Matern(0.2, nu=smoothness), np.arange(-30, 31)
    fine = np.arange(2000) / 2000
    wound = kernel((np.concatenate([apart, fine])[:, None] + shifts).reshape(-1, 1), [[0.0]]).reshape(-1, len(shifts))
    whole = wound.sum(1)
    exact = whole[: len(apart)] - whole[len(apart) :].mean()  # the mean of a field is no part of ours
    # Waves above 400 hold a few thousandths of the roughest process, 2 / (pi^2 l 400), and none of the others.
    np.testing.assert_allclose(ours, 1.3**2 * exact / exact[0], atol=1e-2 if smoothness == 0.5 else 2e-5)


def test_the_fields_have_the_size_and_the_waves_of_their_law():
    law = replace(VORTICES, length=0.1)
    fields = law.values(law.draw(4000, 2, np.random.default_rng(0)), 2, points=8)
    # 4000 fields: six standard errors of a variance are 6 sqrt(2 / 4000) of it.
    np.testing.assert_allclose(fields.var(axis=0), 16.0, rtol=0.14)
    spectrum = np.abs(np.fft.fft2(fields))
    k = np.fft.fftfreq(8, 1 / 8)
    far = k[:, None] ** 2 + k**2 > 4
    assert spectrum[:, far].max() < 1e-10
    assert np.abs(fields.mean(axis=(1, 2))).max() < 1e-12


def test_a_sample_is_that_of_its_generator_whatever_its_size_and_the_blocks(monkeypatch: pytest.MonkeyPatch):
    def sample(n: int) -> tuple[np.ndarray, np.ndarray]:
        return flow_sample(Burgers(points=64, viscosity=0.05), LAW, n, np.random.default_rng(5), sensors=8)

    X, Y = sample(6)
    monkeypatch.setattr(flows, "BLOCK", 2 * 64)
    again, few = sample(6), sample(4)
    np.testing.assert_array_equal(X, again[0])
    np.testing.assert_allclose(Y, again[1], atol=1e-13)
    np.testing.assert_array_equal(X[:4], few[0])
    np.testing.assert_allclose(Y[:4], few[1], atol=1e-13)


def test_a_sample_shows_the_solution_where_its_sensors_are():
    flow = NavierStokes(points=16, viscosity=0.05)
    X, Y = flow_sample(flow, replace(VORTICES, size=1.0), 3, np.random.default_rng(0), sensors=4)
    end = flow.solve(VORTICES.values(X, 2, points=16))
    np.testing.assert_array_equal(Y.reshape(3, 4, 4), end[:, ::4, ::4])


def fronts(points: int) -> np.ndarray:
    return 3 * np.sin(2 * np.pi * grid(points))


REFUSED = {
    "modes": (lambda: PeriodicField(modes=0), "modes must be a whole number of at least 1, got 0"),
    "half a mode": (lambda: PeriodicField(modes=2.5), "modes must be a whole number .* got 2.5"),
    "length": (lambda: PeriodicField(length=-1.0), "length must be positive and finite, got -1"),
    "size": (lambda: PeriodicField(size=math.inf), "size must be positive and finite, got inf"),
    "viscosity": (lambda: Burgers(viscosity=-0.1), "viscosity must be finite and not negative, got -0.1"),
    "odd points": (lambda: Burgers(points=33), "even number of at least 8, got 33"),
    "steps": (lambda: NavierStokes(steps=0), "steps must be a whole number of at least 1, got 0"),
    "forcing": (lambda: NavierStokes(forcing=math.nan), "forcing must be finite, got nan"),
    "shape": (lambda: Burgers(points=64).solve(np.zeros((2, 32))), r"fields \(n, 64\), got \(2, 32\)"),
    "plane": (lambda: NavierStokes(points=16).solve(np.zeros((16, 16))), r"fields \(n, 16, 16\), got \(16, 16\)"),
    "infinite": (lambda: Burgers().solve(np.full((1, 128), np.inf)), "128 values of the fields at the start"),
    "rough": (
        lambda: Burgers(points=16).solve(np.sin(12 * np.pi * grid(16))),
        "1 of 1 fields are finer at the start than 16 points show",
    ),
    "front": (lambda: Burgers(0.005, points=64, steps=400).solve(fronts(64)), "finer at the end .*; take more points"),
    "fast": (lambda: Burgers(points=64, steps=20).solve(fronts(64)), "2.9 cells a step at the start; take at least 58"),
    "coefficients": (lambda: LAW.values(np.zeros((2, 3)), 1, points=8), r"\(n, 8\) for waves up to 4, got \(2, 3\)"),
    "no rows": (lambda: flow_sample(Burgers(), LAW, 0, np.random.default_rng(0)), "at least 1 row, got 0"),
    "sensors": (
        lambda: flow_sample(Burgers(), LAW, 1, np.random.default_rng(0), sensors=5),
        "sensors must divide the 128 points of the grid, got 5",
    ),
    "waves": (
        lambda: flow_sample(Burgers(points=8), LAW, 1, np.random.default_rng(0), sensors=4),
        "8 points do not keep waves up to 4; take 14 or more",
    ),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_solved_is_refused_with_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()
