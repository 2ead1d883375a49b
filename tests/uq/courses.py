"""Made-up courses of optimisations: random searches that grow keener, with a surrogate that says how sure it is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kernelfield.uq.search import Course, Parameter
from kernelfield.uq.search_report import SearchReport, Slice

BRANIN = 0.39788735772973816  # its least value
SPACE = (
    Parameter("x<1>", "real", -5.0, 10.0),
    Parameter("rate", "log", 1e-4, 1.0),
    Parameter("width", "integer", 1, 64),
    Parameter("kind $a_", "categorical", choices=("relu", "erf", None, True)),
)
MESSAGE = "ValueError: <script>document.title = 'broken'</script> & more\n  in line 3"


def branin(x: float, y: float) -> float:
    """On [-5, 10] x [0, 15]."""
    bend = y - 5.1 * x**2 / (4 * np.pi**2) + 5 * x / np.pi - 6
    return float(bend**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10)


def course(
    n: int, *, m: int = 1, boast: float = 1.0, constrained: bool = False, failing: float = 0.0, extra: int = 0
) -> Course:
    """Of n trials of m objectives, whose predicted deviations are true ones times `boast`."""
    rng = np.random.default_rng(n + m)
    params = [_suggested(rng, trial / n, extra) for trial in range(n)]
    truth = np.array([_objectives(one, m) for one in params]).reshape(n, m)
    std = rng.uniform(0.5, 2.0, (n, m)) * (5 / (1 + 5 * np.arange(n) / max(n, 1)))[:, None]
    means = truth + std * rng.standard_normal((n, m))
    means[: n // 10] = np.nan
    failed = rng.uniform(size=n) < failing
    states = ["failed" if bad else "complete" for bad in failed]
    if n > 5:
        states[-1], states[n // 2] = "running", "pruned"
    values = np.where(np.array([state == "complete" for state in states])[:, None], truth, np.nan)
    broken = np.array([[one["x<1>"] - 6.0, -1.0] for one in params]).reshape(n, 2)
    return Course(
        [*SPACE, *(Parameter(f"p{i}", "real", 0, 1) for i in range(extra))],
        params,
        values,
        ["minimize", "maximize", "minimize", "maximize"][:m],
        states,
        objectives=["loss", "speed", "memory", "reach"][:m],
        messages=[MESSAGE if state == "failed" else "" for state in states],
        constraints=broken if constrained else None,
        seconds=rng.lognormal(1, 1, n),
        means=means,
        stds=std * boast,
        acquisition=np.where(np.isnan(means[:, 0]), np.nan, -np.arange(n) / 10.0 + rng.standard_normal(n)),
        optimum=BRANIN if m == 1 else None,
    )


def _suggested(rng: np.random.Generator, keen: float, extra: int) -> dict[str, Any]:
    """A draw from the space, nearer to a minimum of Branin's function the keener it is."""
    kept = 1 - 0.9 * keen
    one: dict[str, Any] = {
        "x<1>": float(np.pi + kept * (rng.uniform(-5, 10) - np.pi)),
        "rate": float(10 ** (kept * rng.uniform(-4, 0) - 2 * (1 - kept))),
        "kind $a_": SPACE[3].choices[rng.integers(4)],
    }
    if one["kind $a_"] != "erf":
        one["width"] = int(rng.integers(1, 65))
    return one | {f"p{i}": float(rng.uniform()) for i in range(extra)}


def _objectives(one: Mapping[str, Any], m: int) -> list[float]:
    y = 2.275 + 3 * (np.log10(one["rate"]) + 2)
    loss = branin(one["x<1>"], y)
    return [loss, 3 * y - 0.1 * loss, abs(one["x<1>"]) + y**2 / 10, -y][:m]


def slices(made: Course, names: Sequence[str]) -> list[Slice]:
    """Parabolas, as deep as the course has objectives."""
    m, by_name = len(made.directions), {parameter.name: parameter for parameter in made.parameters}
    found = []
    for name in names:
        parameter = by_name[name]
        if parameter.kind == "categorical":
            grid: Sequence[Any] = parameter.choices
        else:
            ends = (parameter.low, parameter.high)
            grid = np.geomspace(*ends, 30) if parameter.kind == "log" else np.linspace(*ends, 30)
        at = np.linspace(-1, 1, len(grid))[:, None] * np.ones(m)
        found.append(Slice(name, grid, 60 * at**2, 5 + 10 * np.abs(at)))
    return found


def report(made: Course, **more: Any) -> SearchReport:
    """With slices, importances and provenance."""
    names = [parameter.name for parameter in made.parameters]
    weights = {name: 1.0 / (1 + place) ** 1.5 for place, name in enumerate(names)}
    whole = sum(weights.values())
    given: dict[str, Any] = {
        "title": "tuning <of> a & b",
        "surrogate": "gp",
        "slices": slices(made, names[:16]),
        "importances": {name: weight / whole for name, weight in weights.items()},
        "hyperparameters": {"noise": 0.01, "lengthscale": [0.5] * len(names)},
        "provenance": {"seed": 0, "storage": "sqlite:///study.db", "versions": {"kernelfield": "1"}, "data": None},
        "notes": ["two trials ran twice"],
    }
    return SearchReport(made, **(given | more))
