"""The version, the pins, the import and the printed examples agree with the code."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kernelfield.core.version import __version__
from kernelfield.models.zoo import CLASSIFIERS, MODELS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Not needed by estimators. pykeops is not either, but GPyTorch imports it where it is installed.
OPTIONAL = {"botorch", "jinja2", "matplotlib", "optuna", "typer"}  # rich comes with parts of scikit-learn


def required() -> dict[str, Requirement]:
    """Every requirement that setup.cfg names, our own extras aside."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split("\n")
    for extra in config["options.extras_require"].values():
        lines += extra.split("\n")
    parsed = [Requirement(line) for line in lines if line.strip()]
    return {canonicalize_name(r.name): r for r in parsed if r.name != "kernelfield"}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def test_the_changelog_is_at_the_version_of_the_package() -> None:
    versions = re.findall(r"^## \[(\d[^]]*)]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert versions[0] == __version__


def test_the_constraints_pin_every_requirement_to_a_version_it_allows() -> None:
    pins = pinned()
    for name, requirement in required().items():
        assert name in pins, f"constraints.txt does not pin {name}"
        assert pins[name] in requirement.specifier, f"{requirement} does not allow {pins[name]}"


def test_the_constraints_pin_nothing_that_is_not_required() -> None:
    assert set(pinned()) == set(required())


def test_the_metadata_name_ranges_and_no_pins() -> None:
    for requirement in required().values():
        assert {s.operator for s in requirement.specifier} == {">="}, str(requirement)


def test_no_public_name_but_those_of_optimisation_needs_an_optional_package() -> None:
    program = """
import sys, kernelfield
homes = kernelfield._HOMES
public = [getattr(kernelfield, name) for name in homes if not homes[name].startswith("bo.")]
print(*{name.split(".")[0] for name in sys.modules})
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not OPTIONAL & set(run.stdout.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_python_on_a_page_runs(page: Path, as_a_user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_links_on_a_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_proof_that_the_papers_page_names_exists() -> None:
    proofs = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "docs" / "papers.md").read_text())
    assert proofs
    for file, name in proofs:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file} has no {name}"


def test_every_paper_has_its_title_in_its_row_or_in_one_above() -> None:
    titled: set[str] = set()
    for row in re.findall(r"^\| (.+?) \| ", (ROOT / "docs" / "papers.md").read_text(), flags=re.MULTILINE)[1:]:
        for paper in row.split("; "):
            if paper.endswith(", as above"):
                assert paper.removesuffix(", as above") in titled, f"{paper} is not above"
            elif not paper.startswith("the same, "):
                authors, *title = re.split(r", (?=[\"*])", paper, maxsplit=1)
                assert title, f"{paper} has no title"
                titled.add(authors)


def test_the_page_on_choosing_a_model_lists_all_that_have_a_name() -> None:
    rows = re.findall(r"^\| `(\S+)` \|", (ROOT / "docs" / "choose_a_model.md").read_text(), flags=re.MULTILINE)
    assert set(rows) == {*MODELS, *CLASSIFIERS}
