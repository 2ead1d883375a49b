"""Machine parts: the optima by elimination, and by a solver."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from kernelfield.bo.problems.catalogue import problem


def test_the_vessel_of_least_cost_is_found_by_going_through_all_thicknesses() -> None:
    """With both thicknesses given, the volume fixes the length for each radius that they bear."""
    one, best = problem("pressure-vessel"), math.inf
    for shell in np.arange(0.25, 1.5, 0.0625):
        for head in np.arange(0.25, 1.0, 0.0625):
            widest = min(shell / 0.0193, head / 0.00954, 50.0)
            for radius in np.append(np.linspace(20.0, widest, 30), widest):
                length = max((1296000 - 4 / 3 * math.pi * radius**3) / (math.pi * radius**2), 150.0)
                if length <= 200 and radius <= widest:
                    parameters = {"shell": shell, "head": head, "radius": radius, "length": length}
                    best = min(best, one.function(parameters).values[0])
    assert one.optimum == pytest.approx(best, rel=1e-9)
    assert one.optimum == pytest.approx(6059.714335, abs=1e-6)


@pytest.mark.parametrize(("name", "known"), [("spring", 0.0126652), ("speed-reducer", 2996.348165)])
def test_a_solver_started_from_a_worse_design_ends_at_the_optimum(name: str, known: float) -> None:
    one = problem(name)
    assert one.optimum == pytest.approx(known, rel=1e-5)
    centre = one.space.encode([one.solution])[0]
    free = np.array([i for i, key in enumerate(one.space.parameters) if key != "teeth"])
    names, low, high = zip(*((key, d.low, d.high) for key, d in one.space.parameters.items()), strict=True)

    def outcome(z: np.ndarray) -> tuple[float, np.ndarray]:
        x = centre.copy()
        x[free] = z.clip(0, 1)
        values = np.array(low) + x * (np.array(high) - np.array(low))
        found = one.function(dict(zip(names, values.tolist(), strict=True)))
        return found.values[0] / one.optimum, np.array(found.constraints)

    bounds = [(0.0, 1.0)] * len(free)
    least = np.maximum(np.abs(outcome(np.full(len(free), 0.5))[1]), 1.0)
    solved = minimize(
        lambda z: outcome(z)[0],
        (centre[free] + 0.02).clip(0, 1),
        bounds=bounds,
        constraints=[{"type": "ineq", "fun": lambda z: -outcome(z)[1] / least}],
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 300},
    )
    assert solved.fun == pytest.approx(1.0, abs=1e-4)  # differences for slopes
