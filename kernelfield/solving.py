"""Solving as a command: from the name of a problem, or a file with one, to the files that hold its solution.

solution.npz   places along the axes by their names, mean, std and exact on their grid
solution.png   a picture
solution.json  how good it is and how it came about
"""

import io
import json
import math
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np

from kernelfield.core.files import require_writable, require_writable_folder, write_whole
from kernelfield.core.version import __version__
from kernelfield.pde.benchmarks import benchmarks
from kernelfield.pde.equation import read_equation, written
from kernelfield.pde.expression import near
from kernelfield.pde.picture import draw_solution
from kernelfield.pde.problem import TEST_POINTS, Problem
from kernelfield.pde.solution import Solution
from kernelfield.pde.solve import solve
from kernelfield.pde.tabulated import Tabulated, tabulate

LINE = 3000  # places along a single axis, for the swings of problems of high frequency
HEADINGS = ("name", "equation", "domain", "what it is")
FILES = ("solution.npz", "solution.png", "solution.json")


def listing() -> list[tuple[str, str, str, str]]:
    """Name, equation, domain and what it shows of each named problem."""
    rows = ((one.problem, one.what) for one in benchmarks().values())
    return [(problem.name, written(problem), domain(problem), what) for problem, what in rows]


def posed(name: str | None, file: Path | None = None) -> Problem:
    """The problem of a name, or the one that a file describes.

    Errors: ValueError for an unknown name, with the nearest; those of `read_equation`.
    """
    if file is not None:
        return read_equation(file)
    known = benchmarks()
    if name not in known:
        raise ValueError(f"there is no problem {name!r}{near(str(name), known)}")
    return known[name].problem


def domain(problem: Problem) -> str:
    """The box of a problem in words, multiples of pi as such."""
    alike: dict[tuple[float, float], list[str]] = {}
    for name, ends in zip(problem.names, problem.domain, strict=True):
        alike.setdefault(ends, []).append(name)
    box = "; ".join(f"{', '.join(names)} in [{_number(low)}, {_number(high)}]" for (low, high), names in alike.items())
    return box if problem.inside is None else f"part of {box}"


def _number(value: float) -> str:
    turns = value / math.pi
    if value and turns == round(turns):
        return f"{'' if turns == 1 else '-' if turns == -1 else round(turns)}π"
    return f"{value:g}"


def run(
    problem: Problem,
    folder: Path,
    *,
    solver: str = "auto",
    nodes: Sequence[int] | None = None,
    seed: int = 0,
    picture: bool = True,
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Solve a problem and write its files; returns the record and the files.

    The folder is checked before the work and made after it; each file appears whole, the record last. Without a
    picture, that of an earlier solution is removed. nodes : along each axis, one for all or one for each.

    Errors: those of the solver; OSError of `core/files`; ImportError, with the remedy, if a picture
    needs what is not installed.
    """
    _prepare(folder, picture=picture)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        solution = solve(problem, solver=solver, grid=_grid(nodes, problem), seed=seed)
        table = tabulate(solution, LINE if problem.dims == 1 else TEST_POINTS.get(problem.dims, 10))
        content = record(solution, table) | {"seed": seed, "version": __version__}
    said = [solution.message, *(str(warning.message) for warning in caught)]
    content["notes"] = [note for note in dict.fromkeys(said) if note]
    arrays, drawn = _packed(table), _drawn(solution, table, caption(content)) if picture else None
    values, image, report = (folder / name for name in FILES)
    folder.mkdir(exist_ok=True)
    write_whole(values, arrays)
    if drawn is None:
        image.unlink(missing_ok=True)
    else:
        write_whole(image, drawn)
    write_whole(report, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return content, {"Solution": values} | ({"Picture": image} if picture else {}) | {"JSON": report}


def _grid(nodes: Sequence[int] | None, problem: Problem) -> int | list[int] | None:
    if not nodes:
        return None
    if len(nodes) not in (1, problem.dims):
        axes = ", ".join(problem.names)
        raise ValueError(f"nodes must be given once, or for each of the axes {axes}, got {len(nodes)} numbers")
    return nodes[0] if len(nodes) == 1 else list(nodes)


def _prepare(folder: Path, *, picture: bool) -> None:
    if picture:
        import_module("kernelfield.uq.plots")
    if not folder.exists():
        require_writable_folder(folder.resolve().parent)
        return
    for name in FILES:
        require_writable(folder / name)


def _packed(table: Tabulated) -> bytes:
    buffer, fields = io.BytesIO(), table.arrays()
    np.savez_compressed(buffer, **cast(dict[str, Any], fields))
    return buffer.getvalue()


def _drawn(solution: Solution, table: Tabulated, words: str) -> bytes:
    # Matplotlib is optional; all else here works without it.
    painter: Callable[..., bytes] = import_module("kernelfield.uq.plots").picture
    return painter(lambda figure: draw_solution(figure, solution, table, words))


def record(solution: Solution, table: Tabulated) -> dict[str, Any]:
    """What is known of a solution, in types of JSON; null is what cannot be known."""
    problem = solution.problem
    known = problem.exact is not None
    return {
        "problem": problem.name,
        "equation": written(problem),
        "domain": {name: list(ends) for name, ends in zip(problem.names, problem.domain, strict=True)},
        "method": solution.method,
        "relative_l2": _finite(solution.relative_l2()) if known else None,
        "offset_residual": _finite(solution.offset_residual),
        "coverage95": _finite(solution.coverage()) if known and table.std is not None else None,
        "seconds": solution.seconds,
        "condition": _finite(max(solution.condition.values(), default=math.nan)),
        "conditions": {name: _finite(value) for name, value in solution.condition.items()},
        "converged": solution.converged,
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def caption(content: dict[str, Any]) -> str:
    """The figures of a record in one line."""
    parts = [(content["relative_l2"], "relative error {:.1e}"), (content["coverage95"], "{:.0%} within the 95% band")]
    parts.append((content["offset_residual"], "residual between the nodes {:.1e}"))
    return ", ".join(words.format(value) for value, words in parts if value is not None)
