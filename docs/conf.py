"""How the manual is built: `make docs`."""

import re

from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

from kernelfield.core.version import __version__

project = "kernelfield"
author = copyright = "the kernelfield developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"kernelfield {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_google_docstring = False
autodoc_default_options = {
    "members": True,
    # Made by scikit-learn.
    "exclude-members": "set_fit_request, set_partial_fit_request, set_predict_request, set_score_request",
}

NUMPYDOC = re.compile(r"^(Parameters|Returns|Attributes|Examples)$", re.MULTILINE)
PROMPT = re.compile(r"^\s*>>> ")
FIELD = re.compile(r"^(\w+) :(?: |$)")


def plain_docstring(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Read a docstring as it is written here: plain text, indented formulas, doctests.

    Stars and bars are shapes and norms in it, not markup. Estimators have numpydoc sections,
    which napoleon reads.
    """
    text = "\n".join(lines)
    if NUMPYDOC.search(text):
        return
    lines[:] = "\n\n".join(_block(block) for block in re.split(r"\n\s*\n", text) if block.strip()).splitlines()
    lines.append("")


def _block(block: str) -> str:
    if PROMPT.match(block):
        return re.sub(r"^\s+", "", block, flags=re.MULTILINE) if block.startswith(" ") else block
    rows = block.split("\n")
    if rows[0].startswith("  "):
        return "::\n\n" + "\n".join(f"    {row}" for row in rows)
    if len(rows) > 1 and _listing(rows):
        return "\n".join(f"| {_escaped(row)}" for row in rows)
    return "\n".join(_escaped(row.strip()) for row in rows)


def _listing(rows: list[str]) -> bool:
    """Whether the rows of a block stand for themselves, as the fields of a record do."""
    return any(FIELD.match(row) or row.startswith("  ") or re.match(r"^\w+ {2,}", row) for row in rows)


def _escaped(row: str) -> str:
    row = re.sub(r"`([^`]+)`", r"``\1``", re.sub(r"``", "`", row))
    parts = re.split(r"(``[^`]+``)", row)
    return "".join(part if part.startswith("``") else re.sub(r"([*|_\\])", r"\\\1", part) for part in parts)


def short_signature(app: object, what: str, name: str, obj: object, options: object, *texts: str) -> tuple[str, ...]:
    """Write ArrayLike by its name, not as the union of a dozen private types that it stands for."""
    return tuple(text and text.replace(stringify_annotation(ArrayLike, "smart"), "ArrayLike") for text in texts)


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", plain_docstring, priority=100)
    app.connect("autodoc-process-signature", short_signature)
