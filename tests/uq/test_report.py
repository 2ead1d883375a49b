"""A report is strict JSON and one page that stands alone, whatever it is named and however little it is about."""

import json
import re
import subprocess
import sys
from pathlib import Path

import html5lib
import jsonschema
import numpy as np
import pytest
import torch
from scipy import stats

import kernelfield.uq.report
from kernelfield.core.mixing import InverseGamma, Mixing
from kernelfield.core.posterior import Draws, Elliptical
from kernelfield.uq.lights import LIGHTS
from kernelfield.uq.remedies import remedies
from kernelfield.uq.report import NUMBERS, Report
from kernelfield.uq.rows import Rows
from kernelfield.uq.scores import baseline, evaluate

SCHEMA = json.loads((Path(kernelfield.uq.report.__file__).parent / "report.schema.json").read_text())
HTML = "{http://www.w3.org/1999/xhtml}"


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
        "evaluation": evaluate(
            law, y, latent=None if mixing else Draws(mean.unsqueeze(0), torch.ones(1), torch.tensor(0.1))
        ),
        "baseline": baseline(y.numpy(), y.numpy()),
        "n_train": 354,
        "seconds": {"fit": 1.5, "predict": 0.01},
        "hyperparameters": {"noise": 0.1, "lengthscale": [1.0, 2.0]},
        "features": ["age", "bmi"],
        "provenance": {"seed": 0, "date": "2026-01-01T00:00:00+00:00"},
        "notes": ["12 rows with a missing target were dropped."],
    }
    return Report(**(content | changes))


def full(n: int = 400, m: int = 1, **changes: object) -> Report:
    """A report that has everything a report can have."""
    rng = np.random.default_rng(5)
    made = report(n, m)
    columns = {
        "age": rng.uniform(20, 80, n),
        "site": rng.choice(["Bern", "Rome", "Oslo"], n),
        "day": np.arange(n) * 1.0,
    }
    rows = Rows(columns, groups=["site"], time="day", outside=rng.uniform(1, 2, (n // 2, m)), origin="elsewhere.csv")
    other = torch.as_tensor(made.evaluation.mean + 0.2).unsqueeze(0)
    rival = evaluate(Draws(other, torch.ones(1), torch.tensor(0.25)), made.evaluation.y)

    def law_at(index: np.ndarray) -> Draws:
        mean = torch.as_tensor(made.evaluation.mean[index]).unsqueeze(0)
        return Draws(mean, torch.ones(1), torch.tensor(0.04))

    tried = remedies(law_at, made.evaluation.y)
    return report(n, m, **({"rows": rows, "others": {"worse": rival}, "remedies": tried} | changes))


class Page:
    """The tags, ids, references and text of a page, read as strictly as the standard of HTML says."""

    def __init__(self, text: str) -> None:
        tree = html5lib.HTMLParser(strict=True).parse(text)
        elements = [element for element in tree.iter() if isinstance(element.tag, str)]
        self.tags = [element.tag.rsplit("}")[-1] for element in elements]
        self.ids = [element.get("id") for element in elements if element.get("id")]
        names = ("href", "src", "aria-labelledby", "aria-describedby", "{http://www.w3.org/1999/xlink}href")
        self.references = [element.get(name) for element in elements for name in names if element.get(name)]
        for element in elements:
            self.references += re.findall(r"url\(([^)]*)\)", " ".join(element.attrib.values()))
        self.text = [
            text
            for element in elements
            if not element.tag.endswith("style")
            for text in (element.text, element.tail)
            if text
        ]


CASES = {
    "plain": {},
    "three outputs": {"m": 3},
    "one row": {"n": 1},
    "two rows": {"n": 2},
    "a constant target": {"constant": True},
    "no variance": {"mixing": InverseGamma(0.8, 1.0)},
    "few facts": {"seconds": {}, "hyperparameters": {}, "features": [], "provenance": {}, "notes": [], "n_train": None},
}
MADE = {name: lambda case=case: report(**case) for name, case in CASES.items()}
MADE |= {"everything": full, "everything of two outputs": lambda: full(m=2)}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_the_page_is_valid_and_refers_to_nothing_but_itself(make):
    content = make()
    page = Page(content.to_html())
    assert len(page.ids) == len(set(page.ids))
    assert {reference.removeprefix("#") for reference in page.references} <= set(page.ids)
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    assert page.tags.count("script") == 1
    assert page.tags.count("svg") == page.tags.count("figcaption") >= 2 * len(content.outputs)


def test_the_page_holds_no_address():
    text = full().to_html()
    assert "http" not in text
    assert "@import" not in text


def test_every_figure_draws_numbers():
    assert not re.search(r"\bnan\b|\binf\b", " ".join(re.findall(r"<svg.*?</svg>", full().to_html(), re.DOTALL)))


BAD = "<script>alert('x')</script>"


def test_names_are_text_and_never_markup():
    n = 250
    columns = {BAD: np.array([BAD, "b"] * (n // 2), dtype=object), "age": np.arange(n) * 1.0}
    made = report(
        n,
        rows=Rows(columns, groups=[BAD], time="age", outside=np.ones((5, 1)), origin=BAD),
        hyperparameters={BAD: [1.0, 2.0]},
        provenance={BAD: BAD},
        seconds={BAD: 1.0},
        model=BAD,
        outputs=[BAD],
        features=[BAD, "b"],
        notes=[BAD],
    )
    text = made.to_html()
    assert text.count("<script") == 1
    page = Page(text)
    assert sum(data.count(BAD) for data in page.text) >= 12
    assert BAD not in made.to_markdown()


def test_the_page_answers_first_and_shows_every_score_with_its_interval():
    content = report(400)
    text = " ".join(Page(content.to_html()).text)
    assert text.index(content.verdicts[0].title) < text.index("CRPS")
    for name in ("rmse", "mae", "nll", "crps", "interval90", "sharpness90"):
        for value in (content.scores()[name], content.intervals[name].low, content.intervals[name].high):
            assert f"{value:#.4g}".replace("-", "\N{MINUS SIGN}") in text
    for part in ("12 rows with a missing target", "lengthscale", "age", "2026-01-01"):
        assert part in text


def test_everything_that_is_known_has_its_section():
    made = full()
    text = " ".join(Page(made.to_html()).text)
    for name in (
        "Calibration",
        "Where it is right, and where not",
        "Sharpness and resolution",
        "What the uncertainty is made of",
        "Rows from elsewhere",
        "Over time",
        "Worst cases",
        "Other models",
        "Recalibration",
    ):
        assert name in text
    assert {verdict.name for verdict in made.verdicts} == set(LIGHTS)
    assert all(verdict.grade != "open" for verdict in made.verdicts)


def test_the_same_report_gives_the_same_page():
    assert full().to_html() == full().to_html()


def test_a_large_test_set_makes_a_small_page():
    n = 100_000
    mean = torch.randn(1, n, 1)
    y = mean[0] + torch.randn(n, 1)
    evaluation = evaluate(Draws(mean, torch.ones(1), torch.tensor(1.0)), y)
    page = report(evaluation=evaluation, baseline=baseline(y.numpy(), y.numpy())).to_html()
    assert len(page) < 1.5e6
    assert "2,000 of 100,000 points" in page


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_the_numbers_are_strict_json_of_the_schema(make):
    content = make()
    plain = json.loads(json.dumps(content.to_dict(), allow_nan=False))
    assert plain == content.to_dict()
    jsonschema.validate(plain, SCHEMA)
    assert (plain["model"], plain["n_test"]) == ("gp", len(content.evaluation.y))
    assert plain["scores"].keys() == plain["baseline"].keys()
    assert [output["name"] for output in plain["outputs"]] == list(content.outputs)


def test_the_schema_refuses_another_key_and_a_missing_one():
    plain = report().to_dict()
    for broken in (plain | {"more": 1}, {name: value for name, value in plain.items() if name != "skill"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, SCHEMA)


def test_what_is_not_finite_is_null():
    plain = report(1, hyperparameters={"a": float("nan"), "b": [float("inf"), np.float64(1.0)]}).to_dict()
    assert plain["scores"]["r2"] is None
    assert plain["hyperparameters"] == {"a": None, "b": [None, 1.0]}


def test_skill_is_the_share_of_the_baseline_s_score_that_is_saved():
    content = report()
    own, other = content.scores()["crps"], content.baseline.scores()["crps"]
    assert content.skill["crps"].value == pytest.approx((other - own) / other)
    assert content.skill["crps"].low < content.skill["crps"].value < content.skill["crps"].high


def test_each_output_has_its_own_scores():
    content = report(m=2)
    assert content.to_dict()["outputs"][1]["scores"] == content.evaluation.output(1).scores()


def test_another_model_is_held_against_this_one_on_the_same_rows():
    pair = full().pairs[0]
    assert (pair.model, pair.other, pair.loss) == ("worse", "gp", "CRPS")
    assert pair.difference.low > 0 and pair.clear


def test_the_numbers_for_conditions_are_those_of_the_report():
    made = full(remedies=())
    found = made.numbers()
    assert tuple(found) == NUMBERS
    assert found["coverage90"] == made.scores()["coverage90"]
    assert found["skill"] == made.skill["crps"].value
    assert found["red_lights"] == sum(verdict.grade == "bad" for verdict in made.verdicts)
    assert found["miscalibration"] == made.parts[0].calibration.area


def test_predicted_correlations_are_scored_where_they_are_given():
    rng = np.random.default_rng(0)
    covariance = 0.1 * np.eye(40) + np.ones((40, 40))
    y = rng.multivariate_normal(np.zeros(40), covariance)
    made = Report.from_arrays(y, mean=np.zeros(40), covariance=covariance)
    expected = -stats.multivariate_normal(np.zeros(20), covariance[:20, :20]).logpdf(y[:20]) / 20
    assert made.joint.nll[0] == pytest.approx(expected, rel=1e-8)
    assert made.to_dict()["joint"]["gain"] > 0.5
    assert "Predictions taken together" in made.to_html()
    jsonschema.validate(made.to_dict(), SCHEMA)


def test_markdown_says_the_verdicts_and_the_scores():
    made = full()
    text = made.to_markdown()
    assert text.startswith("## gp: y0\n")
    assert all(verdict.title in text for verdict in made.verdicts)
    assert f"| CRPS | {made.scores()['crps']:#.4g} |" in text


def test_evaluations_of_other_rows_are_refused():
    with pytest.raises(ValueError, match="same values"):
        report(baseline=report(39).baseline)
    with pytest.raises(ValueError, match="model and other must be evaluated on the same values"):
        report(others={"other": report(39).evaluation})
    with pytest.raises(ValueError, match="compared with are both called 'gp'; rename one"):
        report(others={"gp": report().evaluation})
    with pytest.raises(ValueError, match="column 'a' has 3 rows and the predictions have 40"):
        report(rows=Rows({"a": [1, 2, 3]}))


def test_a_name_is_needed_for_each_output():
    with pytest.raises(ValueError, match=r"a name for each of 1 outputs, got \['a', 'b'\]"):
        report(outputs=["a", "b"])


def test_numbers_need_neither_matplotlib_nor_jinja2():
    code = "import sys, kernelfield.uq.report; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.usefixtures("pages_forgotten")
@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_names_the_extra(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'kernelfield\[report\]'"):
        report().to_html()


def test_a_light_calls_the_baseline_what_it_is():
    y = np.linspace(-1, 1, 100)
    for train, rule in ((None, "of the test values themselves"), (y, "of the training targets")):
        report = Report.from_arrays(y, mean=-9 * y, std=np.ones(100), y_train=train)
        assert report.verdicts[1].grade == "bad"
        assert rule in report.verdicts[1].sentence and rule in " ".join(report.advice)


def test_columns_of_one_value_are_given_and_judge_nothing():
    rows = Rows({"site": np.full(100, "Bern")})
    light = Report.from_arrays(np.linspace(-1, 1, 100), mean=np.zeros(100), std=np.ones(100), rows=rows).verdicts[2]
    assert light.sentence.startswith("The only column given cannot be cut into groups")


def test_one_name_is_the_name_of_one_output():
    made = Report.from_arrays(
        [1.0, 2.0, 4.0], mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0], outputs="price", features="age"
    )
    assert made.to_dict()["outputs"][0]["name"] == "price" and made.to_dict()["features"] == ["age"]
    with pytest.raises(ValueError, match=r"each of 2 outputs, got \['price'\]"):
        Report.from_arrays(np.ones((3, 2)), mean=np.ones((3, 2)), std=np.ones((3, 2)), outputs="price")


def test_scores_that_are_no_means_have_intervals_in_every_form():
    made = full()
    found = made.to_dict()["outputs"][0]
    assert found["whole"].keys() == {"miscalibration", "ence", "correlation", "ause"}
    assert found["whole"]["miscalibration"]["value"] == found["calibration"]["area"]
    assert found["whole"]["ause"]["value"] == found["order"]["sparsified"]["ause"]
    assert "| AUSE |" in made.to_markdown() and "by chance" in made.to_markdown()
    text = " ".join(Page(made.to_html()).text)
    assert "AUSE" in text and "by chance" in text and made.parts[0].constant.sentence in text
    assert found["constant"]["skill"]["crps"]["value"] == made.parts[0].constant.skill["crps"].value
    assert "AUSE" not in full(m=2).to_markdown()  # of several outputs each has its own


def test_laws_given_by_few_quantiles_are_shown_at_these():
    y = np.random.default_rng(0).normal(size=300)
    made = Report.from_arrays(y, quantiles={p: np.full(300, stats.norm.ppf(p)) for p in (0.1, 0.9)})
    jsonschema.validate(json.loads(json.dumps(made.to_dict())), SCHEMA)
    assert made.to_dict()["outputs"][0]["calibration"]["coverage"]["levels"] == pytest.approx([0.8])
    text = " ".join(Page(made.to_html()).text)
    assert "Quantiles that were given" in text and "Where do values fall" not in text
