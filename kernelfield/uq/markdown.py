"""A report as a few lines of Markdown, for the log of a pipeline or the text of a change."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kernelfield.uq.words import CLASSES, REGRESSION, WHOLE, number

MARKS = {"good": "🟢", "bad": "🔴", "open": "⚪"}
GRADES = {"good": "good", "bad": "bad", "open": "not judged"}  # colour alone says nothing to some readers
SPECIAL = "\\`*_[]<>#|~&$@"


def summary(content: Mapping[str, Any]) -> str:
    """The content of `Report.to_dict()` or `ClassReport.to_dict()`: lights, scores, advice and notes."""
    return "\n".join(_lines(content)) + "\n"


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    targets = content.get("target") or ", ".join(output["name"] for output in content["outputs"])
    yield f"## {escaped(content['model'])}: {escaped(targets)}"
    yield ""
    learned = f"learned from {content['n_train']:,} rows, " if content["n_train"] else ""
    yield f"{learned}tested on {content['n_test']:,} row{'' if content['n_test'] == 1 else 's'}.".capitalize()
    yield ""
    yield from _table(("", "Question", "Answer"), [_light(one) for one in content["verdicts"]])
    yield ""
    known = CLASSES if "target" in content else REGRESSION
    rows = [_score(name, label, form, content) for name, label, _, form in known]
    whole = _whole(content)
    rows += [_score(name, label, form, content) for name, label, _, form in WHOLE if name in whole]
    yield from _table(("Score", "Model", "95% interval", "Baseline"), rows)
    for title, sentences in (("What to do", content["advice"]), ("Notes", content["notes"])):
        if sentences:
            yield from ("", f"### {title}", "", *(f"- {escaped(sentence)}" for sentence in sentences))


def escaped(text: object) -> str:
    """Text that Markdown shows as it is, in one line.

    >>> escaped("a|b <script>")
    'a\\\\|b \\\\<script\\\\>'
    """
    line = " ".join(str(text).split())
    return "".join(f"\\{letter}" if letter in SPECIAL else letter for letter in line)


def _light(verdict: Mapping[str, Any]) -> tuple[str, str, str]:
    said = f"{MARKS[verdict['grade']]} {GRADES[verdict['grade']]}"
    return said, escaped(verdict["title"]), escaped(verdict["sentence"])


def _score(name: str, label: str, form: str, content: Mapping[str, Any]) -> tuple[str, ...]:
    whole = _whole(content).get(name)
    interval = whole or content["intervals"].get(name) or {"low": None, "high": None}
    known = None not in (interval["low"], interval["high"])
    ends = f"{number(interval['low'], form)} to {number(interval['high'], form)}" if known else ""
    if whole:
        ends = f"{ends}; {number(whole['chance'], form)} by chance".removeprefix("; ")
    if name not in content["scores"]:
        return label, number(interval["value"], form), ends, ""
    return label, number(content["scores"][name], form), ends, number(content["baseline"][name], form)


def _whole(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Scores that are no means over rows; of several outputs each has its own, and they are left out."""
    outputs = content.get("outputs", [content])
    return outputs[0]["whole"] if len(outputs) == 1 else {}


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
