"""Problems with known solutions: of high frequency, of many scales, and classics.

P1-P7, A1-A3 and T1 are those of Fang et al. (2024), "Solving High Frequency and Multi-Scale PDEs with Gaussian
Processes"; sources follow from the exact solution by automatic differentiation, and values are
given on every side. Beside them: Helmholtz' equation, heat, Burgers and Poisson on an L-shaped domain.
Burgers has no elementary solution: its reference is a Fourier sine series whose coefficients
satisfy a system of ordinary differential equations, solved here to ten digits (`viscous_burgers`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from kernelfield.pde.problem import Field, Nonlinear, Problem, Term

TWO_PI = 2 * math.pi
LINE = ((0.0, TWO_PI),)
UNIT = ((0.0, 1.0),)
VISCOSITY = 0.02
MODES = 256  # of the reference for Burgers, whose front is about the viscosity wide


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A problem, the grid that the literature solves it on, and what it shows."""

    problem: Problem
    grid: tuple[int, ...]
    what: str


def manufactured(
    name: str,
    exact: Field,
    domain: tuple[tuple[float, float], ...],
    operator: Sequence[Term],
    *,
    nonlinear: Callable[[Tensor], Tensor] | Nonlinear | None = None,
    axes: tuple[str, ...] = (),
    sides: Sequence[str] = (),
) -> Problem:
    """The problem that has this solution, with its values on every side, or on some.

    >>> problem = manufactured("sine", lambda X: X[:, 0].sin(), UNIT, [Term(1.0, (2,))])
    >>> round(problem.source(torch.tensor([[0.5]], dtype=torch.double)).item(), 4)  # -sin(1/2)
    -0.4794
    """

    def source(X: Tensor) -> Tensor:
        at = X.detach().requires_grad_(True)
        with torch.enable_grad():
            value = blank.residual(at, lambda orders: _derivative(exact(at), at, orders))
        return value.detach()

    boundary = dict.fromkeys(sides, exact) if sides else exact
    blank = Problem(name, domain, tuple(operator), _zero, boundary, nonlinear, exact, axes)
    return Problem(name, domain, tuple(operator), source, boundary, nonlinear, exact, axes)


def _zero(X: Tensor) -> Tensor:
    return X.new_zeros(len(X))


def _derivative(value: Tensor, at: Tensor, orders: Sequence[int]) -> Tensor:
    for axis, order in enumerate(orders):
        for _ in range(order):
            if not value.requires_grad:  # a constant
                return torch.zeros_like(value)
            value = torch.autograd.grad(value.sum(), at, create_graph=True)[0][:, axis]
    return value


def benchmarks() -> dict[str, Benchmark]:
    """All problems by name."""
    rows = [*_poisson_on_a_line(), *_allen_cahn(), *_in_the_plane(), *_classics()]
    return {row.problem.name: row for row in rows}


def _poisson_on_a_line() -> list[Benchmark]:
    second = [Term(1.0, (2,))]
    return [
        Benchmark(manufactured(name, exact, domain, second), (grid,), what)
        for name, exact, domain, grid, what in (
            ("P1", lambda X: (100 * X[:, 0]).sin(), LINE, 400, "one high frequency"),
            ("P2", lambda X: (6 * X[:, 0]).sin() * (100 * X[:, 0]).cos(), LINE, 400, "a modulated wave"),
            ("P3", lambda X: X[:, 0] * (200 * X[:, 0]).sin(), LINE, 900, "a wave that grows"),
            ("P4", _three_scales, UNIT, 900, "three scales"),
            ("P5", lambda X: (500 * X[:, 0]).sin() - 2 * (X[:, 0] - 0.5) ** 2, UNIT, 400, "a wave on a parabola"),
        )
    ]


def _three_scales(X: Tensor) -> Tensor:
    x = X[:, 0]
    return x.sin() + 0.1 * (20 * x).sin() + 0.05 * (100 * x).sin()


def _reaction(u: Tensor) -> Tensor:
    return u * (u.square() - 1)


def _allen_cahn() -> list[Benchmark]:
    def one(name: str, exact: Field) -> Benchmark:
        problem = manufactured(name, exact, LINE, [Term(1.0, (2,))], nonlinear=_reaction)
        return Benchmark(problem, (400,), "Allen-Cahn, steady")

    return [
        one("A1", lambda X: (100 * X[:, 0]).sin()),
        one("A2", lambda X: (6 * X[:, 0]).sin() * (100 * X[:, 0]).cos()),
    ]


def _in_the_plane() -> list[Benchmark]:
    laplacian = [Term(1.0, (2, 0)), Term(1.0, (0, 2))]

    def h(x: Tensor) -> Tensor:
        return x.sin() + 0.1 * (20 * x).sin() + (100 * x).cos()

    def g(x: Tensor) -> Tensor:
        return (6 * x).sin() * (20 * x).cos()

    return [
        Benchmark(
            # Not through prod, whose second derivative in torch is wrong where a factor is nearly zero.
            manufactured("P6", lambda X: (100 * X[:, 0]).sin() * (100 * X[:, 1]).sin(), LINE * 2, laplacian),
            (400, 400),
            "one high frequency",
        ),
        Benchmark(
            manufactured("P7", lambda X: g(X[:, 0]) + g(X[:, 1]), LINE * 2, laplacian), (200, 200), "modulated waves"
        ),
        Benchmark(
            manufactured("A3", lambda X: h(X[:, 0]) * h(X[:, 1]), UNIT * 2, laplacian, nonlinear=_reaction),
            (400, 400),
            "Allen-Cahn, steady",
        ),
        Benchmark(
            manufactured(
                "T1", lambda X: (X[:, 0] - 200 * X[:, 1]).sin(), UNIT * 2, [Term(200.0, (1, 0)), Term(1.0, (0, 1))]
            ),
            (200, 200),
            "transport at speed 200",
        ),
    ]


def _classics() -> list[Benchmark]:
    laplacian = [Term(1.0, (2, 0)), Term(1.0, (0, 2))]
    time_sides = ("x-", "x+", "t-")
    return [
        Benchmark(
            manufactured(
                "helmholtz",
                lambda X: (math.pi * X[:, 0]).sin() * (4 * math.pi * X[:, 1]).sin(),
                ((-1.0, 1.0),) * 2,
                [*laplacian, Term(1.0, (0, 0))],
            ),
            (64, 64),
            "Helmholtz' equation",
        ),
        Benchmark(
            Problem(
                "heat",
                ((0.0, 1.0), (0.0, 0.5)),
                (Term(1.0, (0, 1)), Term(-0.1, (2, 0))),
                _zero,
                dict.fromkeys(time_sides, _heat),
                exact=_heat,
                axes=("x", "t"),
            ),
            (48, 48),
            "the heat equation, time as an axis",
        ),
        Benchmark(viscous_burgers(VISCOSITY), (48, 32), "viscous Burgers, a front that forms"),
        Benchmark(
            Problem("L-shape", ((-1.0, 1.0),) * 2, tuple(laplacian), _zero, _corner, exact=_corner, inside=in_the_l),
            (33, 33),
            "Laplace's equation about a re-entrant corner, whose solution is singular there",
        ),
    ]


def _heat(X: Tensor) -> Tensor:
    x, t = X.unbind(-1)
    decay = 0.1 * math.pi**2 * t
    return (math.pi * x).sin() * (-decay).exp() + 0.5 * (3 * math.pi * x).sin() * (-9 * decay).exp()


def in_the_l(X: Tensor) -> Tensor:
    """The square [-1, 1]^2 without the quarter x > 0, y < 0."""
    return (X[:, 0] <= 0) | (X[:, 1] >= 0)


def _corner(X: Tensor) -> Tensor:
    """r^(2/3) sin(2 theta / 3), harmonic, with theta from the upper side of the removed quarter."""
    x, y = X.unbind(-1)
    theta = torch.atan2(y, x)
    theta = torch.where(theta < -1e-9, theta + TWO_PI, theta)
    return (x.square() + y.square()).clamp_min(1e-300) ** (1 / 3) * (2 * theta / 3).sin()


def viscous_burgers(viscosity: float) -> Problem:
    """u_t + u u_x = viscosity u_xx on [-1, 1] x [0, 1], u = -sin(pi x) at first and 0 at both ends."""

    def initial(X: Tensor) -> Tensor:
        return -(math.pi * X[:, 0]).sin()

    def exact(X: Tensor) -> Tensor:
        return _burgers_at(viscosity, X)

    return Problem(
        "burgers",
        ((-1.0, 1.0), (0.0, 1.0)),
        (Term(1.0, (0, 1)), Term(-viscosity, (2, 0))),
        _zero,
        {"t-": initial, "x-": _zero, "x+": _zero},
        Nonlinear(lambda X, u, u_x: u * u_x, ((0, 0), (1, 0))),
        exact,
        ("x", "t"),
    )


@lru_cache(maxsize=4)
def _burgers_series(viscosity: float):  # type: ignore[no-untyped-def]
    """Coefficients of sin(pi k x), k = 1..MODES, as a function of t: an odd, periodic solution.

    The product is taken on 4 MODES points, which keeps it free of aliasing.
    """
    k = np.arange(1, MODES + 1)
    points = 4 * MODES

    def full(sines: np.ndarray) -> np.ndarray:
        # u = sum b_k sin(pi k x) has the Fourier coefficients -i b_k / 2.
        spectrum = np.zeros(points // 2 + 1, complex)
        spectrum[1 : MODES + 1] = -0.5j * sines * points
        return np.fft.irfft(spectrum, points)

    def slope(_: float, b: np.ndarray) -> np.ndarray:
        flux = np.fft.rfft(0.5 * full(b) ** 2)[1 : MODES + 1].real / points  # even: cosines, of twice this size
        return 2 * math.pi * k * flux - viscosity * (math.pi * k) ** 2 * b

    begin = np.zeros(MODES)
    begin[0] = -1.0
    return solve_ivp(slope, (0.0, 1.0), begin, method="BDF", rtol=1e-10, atol=1e-12, dense_output=True).sol


def _burgers_at(viscosity: float, X: Tensor) -> Tensor:
    x, t = X.detach().cpu().numpy().T
    times, which = np.unique(t, return_inverse=True)
    k = np.arange(1, MODES + 1)
    places, where = np.unique(x, return_inverse=True)
    table = np.sin(math.pi * places[:, None] * k) @ _burgers_series(viscosity)(times)
    return torch.from_numpy(table[where, which]).to(X)
