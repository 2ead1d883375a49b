"""Figures are deterministic, small, and in the page's colours."""

import io
import itertools
import re

import matplotlib.image as png
import pytest
import torch

from kernelfield.core.posterior import Draws
from kernelfield.uq.calibration import curve, histogram
from kernelfield.uq.plots import COLOURS, DOTS, calibration, label, picture, predictions, resolution, svg, uniformity
from kernelfield.uq.scores import Evaluation, evaluate


def evaluation(n: int, scale: float = 1.0) -> Evaluation:
    random = torch.Generator().manual_seed(2)
    y = scale * torch.randn(n, 1, generator=random)
    law = Draws(y + scale * torch.randn(1, n, 1, generator=random), torch.ones(1), torch.tensor(scale**2))
    return evaluate(law, y)


FIGURES = {
    "calibration": lambda e, prefix: calibration(curve(e), prefix=prefix),
    "uniformity": lambda e, prefix: uniformity(histogram(e), prefix=prefix),
    "predictions": lambda e, prefix: predictions(e, prefix=prefix, most=2000),
    "resolution": lambda e, prefix: resolution(e, prefix=prefix, most=2000),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
@pytest.mark.parametrize(("n", "scale"), [(1, 1.0), (40, 1e-9), (40, 1e9), (5000, 1.0)])
def test_figures_are_elements_with_ids_and_colours_of_the_page(draw, n, scale):
    text = draw(evaluation(n, scale), "f-")
    assert text.startswith('<svg viewBox="')
    assert text.rstrip().endswith("</svg>")
    assert len(text) < 200_000
    assert all(found.startswith("f-") for found in re.findall(r'\bid="([^"]*)"', text))
    assert not any(colour in text for colour in COLOURS)
    assert "var(--ink)" in text


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES.keys())
def test_the_same_numbers_give_the_same_text(draw):
    assert draw(evaluation(3000), "f-") == draw(evaluation(3000), "f-")


def test_tick_labels_keep_their_digits():
    text = uniformity(histogram(evaluation(40)), prefix="f-")
    labels = [float(label) for label in re.findall(r"<text[^>]*>([0-9.]+)</text>", text)]
    rising = labels[6:]  # after the six of the horizontal axis
    steps = [high - low for low, high in itertools.pairwise(rising)]
    assert steps == pytest.approx([steps[0]] * len(steps))


def test_a_bar_is_drawn_for_each_point_and_misses_in_another_colour():
    few = evaluation(300)
    missed = int(((few.y < few.low) | (few.high < few.y)).sum())
    text = predictions(few, prefix="f-", most=2000)
    paths = re.findall(r'<path d="([^"]*)"[^>]*?style="[^"]*stroke: var\((--\w+)\)[^"]*', text)
    drawn = {
        name: [d.count("M") for d, colour in paths if colour == name and d.count("M") > 1]
        for name in ("--model", "--miss")
    }
    assert drawn == {"--model": [300 - missed] * 2, "--miss": [missed] * 2}


def test_a_picture_is_a_png_on_white_and_the_same_each_time():
    def draw(figure):
        figure.set_size_inches(2, 1)
        figure.subplots().plot([0, 1], [1, 0])

    first, second = picture(draw), picture(draw)
    assert first == second
    pixels = png.imread(io.BytesIO(first))
    assert pixels.shape[:2] == (DOTS, 2 * DOTS)
    assert (pixels[0, 0] == 1).all()


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a$x_$b", "a$x_$b"),
        (r"\$x", r"\$x"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("two\nlines\x00", "two lines "),
        ("学习率", "学习率"),
        (None, "None"),
        ("a" * 30, "a" * 23 + "…"),
    ],
)
def test_names_from_data_are_text_of_one_line(name, written):
    text = svg(lambda axes: axes.set_xlabel(label(name)), "f-")
    assert f">{written}</text>" in text
