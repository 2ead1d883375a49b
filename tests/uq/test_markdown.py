"""Markdown shows names as they are, whatever they hold."""

import pytest

from kernelfield.uq.markdown import escaped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain 5.1% (ok)", "plain 5.1% (ok)"),
        ("a|b", "a\\|b"),
        ("<script>", "\\<script\\>"),
        ("*x* _y_ `z` [u](v)", "\\*x\\* \\_y\\_ \\`z\\` \\[u\\](v)"),
        ("two\nlines\t here", "two lines here"),
        ("&amp;", "\\&amp;"),
    ],
)
def test_text_is_escaped_into_one_line(text, shown):
    assert escaped(text) == shown
