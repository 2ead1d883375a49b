"""A report is strict JSON and one page that stands alone, whatever it is named and however little it is about."""

import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import metadata

import numpy as np
import pytest
import torch

from kernelfield.core.mixing import InverseGamma, Mixing
from kernelfield.core.posterior import Draws, Elliptical
from kernelfield.uq.report import Report, provenance
from kernelfield.uq.scores import baseline, evaluate

VOID = {"meta", "br", "link", "img", "hr"}


def report(
    n: int = 40, m: int = 1, *, constant: bool = False, mixing: Mixing | None = None, **changes: object
) -> Report:
    random = torch.Generator().manual_seed(11)
    mean, noise = torch.randn(2, n, m, generator=random)
    y = torch.full((n, m), 5.0) if constant else mean + 0.5 * noise
    law = Draws(mean.unsqueeze(0), torch.ones(1), torch.tensor(0.25))
    if mixing is not None:
        law = Elliptical(mean, 0.25 * torch.eye(n * m), mixing)
    content = {
        "model": "gp",
        "outputs": [f"y{j}" for j in range(m)],
        "evaluation": evaluate(law, y),
        "baseline": baseline(y.numpy(), y.numpy()),
        "n_train": 354,
        "seconds": {"fit": 1.5, "predict": 0.01},
        "hyperparameters": {"noise": 0.1, "lengthscale": [1.0, 2.0]},
        "features": ["age", "bmi"],
        "provenance": {"seed": 0, "date": "2026-01-01T00:00:00+00:00"},
        "notes": ["12 rows with a missing target were dropped."],
    }
    return Report(**(content | changes))


class Page(HTMLParser):
    """The open and closed tags, ids, references and text of a page; unbalanced tags are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.references += [value for name, value in attributes if name in ("href", "src", "aria-labelledby")]
        self.references += re.findall(r"url\(([^)]*)\)", " ".join(value or "" for value in values.values()))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


CASES = {
    "plain": {},
    "three outputs": {"m": 3},
    "one row": {"n": 1},
    "two rows": {"n": 2},
    "a constant target": {"constant": True},
    "no variance": {"mixing": InverseGamma(0.8, 1.0)},
    "few facts": {"seconds": {}, "hyperparameters": {}, "features": [], "provenance": {}, "notes": []},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_page_is_balanced_and_refers_to_nothing_but_itself(case):
    content = report(**case)
    page = Page(content.to_html())
    assert len(page.ids) == len(set(page.ids))
    assert {reference.removeprefix("#") for reference in page.references} <= set(page.ids)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert (
        page.tags.count("svg") == page.tags.count("figcaption") == len(content.outputs) * (3 + ("mixing" not in case))
    )


def test_the_page_holds_no_address():
    text = report().to_html()
    assert "http" not in text
    assert "@import" not in text


def test_every_figure_draws_numbers():
    assert not re.search(r"\bnan\b|\binf\b", " ".join(re.findall(r"<svg.*?</svg>", report().to_html(), re.DOTALL)))


def test_names_are_text_and_never_markup():
    bad = "<script>alert('x')</script>"
    names = {"model": bad, "outputs": [bad], "features": [bad, "b"], "notes": [bad]}
    text = report(hyperparameters={bad: [1.0, 2.0]}, provenance={bad: bad}, seconds={bad: 1.0}, **names).to_html()
    assert "<script" not in text
    page = Page(text)
    assert sum(data.count(bad) for data in page.text) >= 8


def test_the_page_answers_first_and_shows_every_score():
    content = report(400)
    text = " ".join(Page(content.to_html()).text)
    verdict = content.to_dict()["verdicts"][0]
    assert text.index(verdict["title"]) < text.index("CRPS")
    for name in ("rmse", "mae", "nll", "crps", "interval90", "sharpness90"):
        assert f"{content.evaluation.scores()[name]:#.4g}".replace("-", "\N{MINUS SIGN}") in text
    for part in ("12 rows with a missing target", "lengthscale", "age", "2026-01-01"):
        assert part in text


def test_the_same_report_gives_the_same_page():
    assert report().to_html() == report().to_html()


def test_a_large_test_set_makes_a_small_page():
    n = 100_000
    mean = torch.randn(1, n, 1)
    y = mean[0] + torch.randn(n, 1)
    evaluation = evaluate(Draws(mean, torch.ones(1), torch.tensor(1.0)), y)
    page = report(evaluation=evaluation, baseline=baseline(y.numpy(), y.numpy())).to_html()
    assert len(page) < 1.5e6
    assert "2,000 of 100,000 points" in page


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_numbers_are_strict_json(case):
    content = report(**case)
    plain = json.loads(json.dumps(content.to_dict(), allow_nan=False))
    assert plain == content.to_dict()
    assert (plain["model"], plain["n_train"], plain["n_test"]) == ("gp", 354, len(content.evaluation.y))
    assert plain["scores"].keys() == plain["baseline"].keys()
    assert plain["scores"].keys() >= {"rmse", "mae", "r2", "nll", "crps", "interval90", "coverage90"}
    assert plain.keys() >= {"seconds", "hyperparameters", "provenance", "notes", "verdicts", "skill"}
    assert [output["name"] for output in plain["outputs"]] == list(content.outputs)
    assert len(plain["outputs"][0]["calibration"]["levels"]) == len(plain["outputs"][0]["calibration"]["low"]) == 99


def test_what_is_not_finite_is_null():
    plain = report(1, hyperparameters={"a": float("nan"), "b": [float("inf"), np.float64(1.0)]}).to_dict()
    assert plain["scores"]["r2"] is None
    assert plain["hyperparameters"] == {"a": None, "b": [None, 1.0]}


def test_skill_is_the_share_of_the_baseline_s_score_that_is_saved():
    content = report()
    own, other = content.evaluation.scores()["crps"], content.baseline.scores()["crps"]
    assert content.skill()["crps"] == pytest.approx((other - own) / other)


def test_each_output_has_its_own_scores():
    content = report(m=2)
    assert content.to_dict()["outputs"][1]["scores"] == content.evaluation.output(1).scores()


def test_evaluations_of_other_rows_are_refused():
    with pytest.raises(ValueError, match="same values"):
        report(baseline=report(39).baseline)


def test_a_name_is_needed_for_each_output():
    with pytest.raises(ValueError, match=r"a name for each of 1 outputs, got \['a', 'b'\]"):
        report(outputs=["a", "b"])


def test_provenance_names_the_file_and_not_its_folder(tmp_path):
    path = tmp_path / "yacht.csv"
    path.write_bytes(b"x,y\n1,2\n")
    source = provenance(seed=3, data=path)
    assert (source["data"], source["seed"]) == ("yacht.csv", 3)
    assert source["sha256"] == hashlib.sha256(b"x,y\n1,2\n").hexdigest()
    assert source["torch"] == metadata.version("torch")
    assert str(tmp_path) not in json.dumps(source)


def test_numbers_need_neither_matplotlib_nor_jinja2():
    code = "import sys, kernelfield.uq.report; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_names_the_extra(package, monkeypatch):
    for name in ("kernelfield.uq.page", "kernelfield.uq.plots"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'kernelfield\[report\]'"):
        report().to_html()
