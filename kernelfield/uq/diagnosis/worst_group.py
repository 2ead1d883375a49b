"""Worst group: an automatic search for the rows whose intervals fail most, and an honest test of what it found.

Whoever looks at enough groups finds one that fails by chance. So rows are split in two halves at
random. On the first half groups are proposed, by the nodes of a shallow regression tree and by
slabs, which are the rows between two values of a weighted sum of columns. The group whose misses
exceed what was promised by most standard errors is taken, among those with at least a stated
share of rows. Only the second half, which the search never saw, tells whether it fails: the number
of misses in the group is held against its exact law.

Trees are grown on what was missed less what was promised, and on the surprise |2 pit - 1|. Slabs go
along random directions of one to three columns (so that one can say them), and look at all
intervals between 50 equally full cuts.

Source: Cauchois, Gupta & Duchi (2021), "Knowing What You Know: Valid and Validated Confidence
Sets in Multiclass and Multilabel Prediction", for the worst slab and for its validation on other rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from sklearn.tree import DecisionTreeRegressor

from kernelfield.uq.calibration import CONFIDENCE
from kernelfield.uq.classes import ClassEvaluation
from kernelfield.uq.diagnosis.columns import FEWEST, checked, grouping, is_numeric
from kernelfield.uq.diagnosis.counts import FLOOR, Count, binomial, poisson_binomial, stated
from kernelfield.uq.diagnosis.rules import Category, Condition, Range, Slab, filled, holds, shortest, worded
from kernelfield.uq.promises import main_promise
from kernelfield.uq.scores import Evaluation

LEAST = 0.05  # share of rows that a group must have
ENOUGH = 10 * FEWEST  # rows without which halves are too small to search and to test
ROWS = 20_000  # that the search looks at
WORK = 2_000_000  # numbers that it looks at, if there are many columns
DEPTH = 3  # of a tree, and conditions of its groups
DIRECTIONS = 300  # of slabs
CUTS = 50  # of a slab's sum
WIDEST = 3  # columns of a slab
LEAD = 1.0  # standard errors by which a slab must beat a tree, being harder to read and chosen from more


@dataclass(frozen=True)
class WorstGroup:
    """The group that fails most.

    words           which rows, such as "age > 61.5 and site is Bern"
    method          "tree" or "slab": how it was found
    least           share of rows that a group had to have
    searched        rows of the first half that the search looked at
    found_count     of these, in the group
    found_coverage  their share inside the intervals, too low because the group was chosen for it
    count           rows of the group in the second half
    coverage        their share inside the intervals, an honest estimate; NaN if there are none
    low, high       its 95% interval (Clopper-Pearson)
    promised        share that should be inside: 0.9 as a rule, or the mean confidence of classes
    p_value         of the exact one-sided test on the second half
    """

    words: str
    method: str
    least: float
    searched: int
    found_count: int
    found_coverage: float
    count: int
    coverage: float
    low: float
    high: float
    promised: float
    p_value: float

    @property
    def sentence(self) -> str:
        """What was found, where, and what it is worth."""
        if not self.count:
            return f"The search proposed the rows with {self.words}, of which the second half holds none."
        return (
            f"Of all groups of at least {self.least:.0%} of the rows, those with {self.words} did worst in the half "
            f"that was searched: {self.found_coverage:.1%} of {self.found_count:,}, which says nothing, as they were "
            f"chosen for it. In the other half it is {self.coverage:.1%} of {self.count:,} against {self.promised:.1%} "
            f"promised ({stated(self.p_value)})."
        )


def worst_group(
    evaluation: Evaluation,
    columns: Mapping[str, np.ndarray],
    *,
    dates: Sequence[str] = (),
    least: float = LEAST,
    seed: int = 0,
) -> WorstGroup:
    """The rows whose intervals hold the fewest values, by columns (n,) of numbers or text, for one output.

    Intervals are those of 90%, or what laws given by quantiles promise (`kernelfield.uq.promises`).

    Those called `dates` hold days since 1970-01-01, and are written as dates.

    Errors: ValueError for fewer than 200 rows, no column, one of another length, a share
    `least` that is not between 0 and 0.5, or laws that promise no interval.
    """
    promise = main_promise(evaluation)
    if promise is None:
        raise ValueError("the laws promise no interval that could fail; give quantiles of at least two levels")
    missed = ~promise.holds(evaluation)
    pit = evaluation.pit[:, 0]
    targets = [missed.astype(np.float64)]
    if np.isfinite(pit).all():
        targets.append(np.abs(2 * pit - 1))
    return _searched(missed, np.full(len(missed), 1 - promise.share), targets, columns, dates, least, seed)


def worst_class_group(
    evaluation: ClassEvaluation,
    columns: Mapping[str, np.ndarray],
    *,
    dates: Sequence[str] = (),
    least: float = LEAST,
    seed: int = 0,
) -> WorstGroup:
    """The rows whose most probable class is right least often, compared with its probability."""
    wrong, expected = ~evaluation.right, 1 - evaluation.confidence
    return _searched(wrong, expected, [wrong - expected], columns, dates, least, seed)


Rule = tuple[Condition, ...]


@dataclass(frozen=True, eq=False)
class _Split:
    """What a column of the tree's inputs means: places among the levels of a number, or one category of a text."""

    name: str
    levels: np.ndarray | None = None
    fill: float = 0.0
    label: str = ""
    code: int = 0


@dataclass(frozen=True)
class _Proposal:
    rule: Rule
    excess: float
    method: str


def _searched(
    missed: np.ndarray,
    expected: np.ndarray,
    targets: Sequence[np.ndarray],
    columns: Mapping[str, np.ndarray],
    dates: Sequence[str],
    least: float,
    seed: int,
) -> WorstGroup:
    n = len(missed)
    if n < ENOUGH:
        raise ValueError(f"the search for a worst group needs at least {ENOUGH} rows to split in halves, got {n}")
    if not 0 < least < 0.5:
        raise ValueError(f"least must be a share of rows between 0 and 0.5, got {least:g}")
    data, labels = _coded(checked(columns, n))
    if not data:
        raise ValueError("the search for a worst group needs a column, got none; pass features or groups")
    generator = np.random.default_rng(seed)
    order = generator.permutation(n)
    first, second = order[: n // 2], np.sort(order[n // 2 :])
    first = np.sort(first[: min(ROWS, max(WORK // len(data), ENOUGH))])
    seen = {name: values[first] for name, values in data.items()}
    spread = expected[first] * (1 - expected[first])
    parts = missed[first] - expected[first], np.maximum(spread, 1e-12)
    fewest = max(int(np.ceil(least * len(first))), FEWEST // 2)
    best = _better(
        list(_tree_groups(seen, labels, [target[first] for target in targets], parts, fewest, seed)),
        list(_slabs(seen, labels, parts, fewest, generator)),
    )
    return _tested(best, data, dates, missed, expected, first, second, least)


def _coded(columns: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """Columns that vary; text as codes, with the label of each."""
    data, labels = {}, {}
    for name, values in columns.items():
        if is_numeric(values):
            data[name] = values
        elif len((found := grouping(values)).labels) > 1:
            data[name], labels[name] = found.codes, found.labels
    return data, labels


def _better(trees: Sequence[_Proposal], slabs: Sequence[_Proposal]) -> _Proposal | None:
    by_excess = [max(made, key=lambda one: one.excess, default=None) for made in (trees, slabs)]
    tree, slab = by_excess
    if tree is None or slab is None:
        return tree or slab
    return slab if slab.excess > tree.excess + LEAD else tree


def _excess(rows: np.ndarray, parts: tuple[np.ndarray, np.ndarray]) -> float:
    over, spread = parts
    return float(over[rows].sum() / np.sqrt(spread[rows].sum()))


def _tree_groups(
    seen: Mapping[str, np.ndarray],
    labels: Mapping[str, tuple[str, ...]],
    targets: Sequence[np.ndarray],
    parts: tuple[np.ndarray, np.ndarray],
    fewest: int,
    seed: int,
) -> Iterator[_Proposal]:
    """The nodes of a tree for each target."""
    splits: list[_Split] = []
    table = []
    for name, values in seen.items():
        if name in labels:
            for code, label in enumerate(labels[name]):
                splits.append(_Split(name, label=label, code=code))
                table.append(values == code)
        else:
            fill = _middle(values)
            levels, places = np.unique(filled(values, fill), return_inverse=True)
            splits.append(_Split(name, levels=levels, fill=fill))
            table.append(places)  # trees compare in single precision, which places survive and values may not
    X = np.stack(table, axis=1).astype(np.float32)
    for target in targets:
        tree = DecisionTreeRegressor(max_depth=DEPTH, min_samples_leaf=fewest, random_state=seed).fit(X, target).tree_
        for rule in _paths(tree, splits):
            inside = holds(rule, seen)
            if inside.sum() >= fewest:
                yield _Proposal(rule, _excess(inside, parts), "tree")


def _paths(tree: Any, splits: Sequence[_Split], node: int = 0, rule: Rule = ()) -> Iterator[Rule]:
    """The rule of each node below the root."""
    if rule:
        yield rule
    if tree.children_left[node] < 0:
        return
    split, place = splits[tree.feature[node]], int(np.floor(tree.threshold[node]))
    for child, above in ((tree.children_left[node], False), (tree.children_right[node], True)):
        yield from _paths(tree, splits, child, _narrowed(rule, split, place, above))


def _narrowed(rule: Rule, split: _Split, place: int, above: bool) -> Rule:
    """The rule with one more condition, merged with that on the same column."""
    name, fill = split.name, split.fill
    if split.levels is None:
        return (*rule, Category(name, split.label, split.code, above))
    end = shortest(split.levels[place], split.levels[place + 1])
    old = next((one for one in rule if isinstance(one, Range) and one.name == name), Range(name, -np.inf, np.inf, fill))
    new = Range(name, end, old.high, fill) if above else Range(name, old.low, end, fill)
    return (*(one for one in rule if one is not old), new)


def _slabs(
    seen: Mapping[str, np.ndarray],
    labels: Mapping[str, tuple[str, ...]],
    parts: tuple[np.ndarray, np.ndarray],
    fewest: int,
    generator: np.random.Generator,
) -> Iterator[_Proposal]:
    """The worst slab of each of many directions."""
    fills = {name: _middle(values) for name, values in seen.items() if name not in labels}
    columns = {name: filled(seen[name], fill) for name, fill in fills.items()}
    scales = {name: float(np.std(values)) for name, values in columns.items()}
    names = [name for name, scale in scales.items() if np.isfinite(scale) and scale > 0]
    for _ in range(DIRECTIONS if len(names) > 1 else 0):
        chosen = [names[i] for i in generator.permutation(len(names))[: generator.integers(2, WIDEST + 1)]]
        direction = generator.standard_normal(len(chosen))
        direction *= np.copysign(1 / np.linalg.norm(direction), direction[0])  # its opposite has the same slabs
        weights = [float(f"{part / scales[name]:.3g}") for name, part in zip(chosen, direction, strict=True)]
        total = np.asarray(sum(weight * columns[name] for name, weight in zip(chosen, weights, strict=True)))
        found = _interval(total, parts, fewest)
        if found is not None:
            low, high, excess = found
            slab = Slab(tuple(chosen), tuple(weights), low, high, tuple(fills[name] for name in chosen))
            yield _Proposal((slab,), excess, "slab")


def _interval(
    total: np.ndarray, parts: tuple[np.ndarray, np.ndarray], fewest: int
) -> tuple[float, float, float] | None:
    """The ends of the interval of the largest excess, between any two cuts with enough rows between."""
    order = np.argsort(total)
    values = total[order]
    cuts = np.unique(np.linspace(0, len(values), CUTS + 1).astype(int))
    cuts = np.array([cut for cut in cuts if cut in (0, len(values)) or values[cut - 1] < values[cut]])
    over, spread = (np.concatenate([[0.0], np.cumsum(part[order])])[cuts] for part in parts)
    i, j = np.triu_indices(len(cuts), 1)
    wide = (cuts[j] - cuts[i] >= fewest) & (cuts[j] - cuts[i] < len(values))
    if not wide.any():
        return None
    i, j = i[wide], j[wide]
    excess = (over[j] - over[i]) / np.sqrt(spread[j] - spread[i])
    best = int(np.argmax(excess))
    ends = [
        -np.inf if cut == 0 else np.inf if cut == len(values) else shortest(values[cut - 1], values[cut])
        for cut in (cuts[i[best]], cuts[j[best]])
    ]
    return float(ends[0]), float(ends[1]), float(excess[best])


def _middle(values: np.ndarray) -> float:
    known = filled(values, np.nan)
    return float(np.nanmedian(known)) if np.isfinite(known).any() else 0.0


def _tested(
    best: _Proposal | None,
    data: Mapping[str, np.ndarray],
    dates: Sequence[str],
    missed: np.ndarray,
    expected: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    least: float,
) -> WorstGroup:
    inside = np.ones(len(missed), dtype=bool) if best is None else holds(best.rule, data)  # None if no column varies
    found, rows = first[inside[first]], second[inside[second]]
    n, x = len(rows), int(missed[rows].sum())
    promised = 1 - float(expected[rows].mean()) if n else float("nan")
    ends = stats.binomtest(n - x, n).proportion_ci(CONFIDENCE) if n else (float("nan"), float("nan"))
    return WorstGroup(
        words="any value" if best is None else worded(best.rule, data, dates),
        method="tree" if best is None else best.method,
        least=least,
        searched=len(first),
        found_count=len(found),
        found_coverage=1 - float(missed[found].mean()),
        count=n,
        coverage=1 - x / n if n else float("nan"),
        low=float(ends[0]),
        high=float(ends[1]),
        promised=promised,
        p_value=max(_law(expected[rows]).p_above(x), FLOOR) if n else 1.0,
    )


def _law(expected: np.ndarray) -> Count:
    same = float(np.ptp(expected)) == 0
    return binomial(len(expected), float(expected[0])) if same else poisson_binomial(expected)
