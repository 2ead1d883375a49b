"""Figures are deterministic, small, and in the page's colours."""

import io
import itertools
import re

import matplotlib.image as png
import numpy as np
import pytest
import torch

from kernelfield.core.posterior import Draws
from kernelfield.uq.arrays import law_from
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


def test_groups_of_equal_deviations_do_not_depend_on_the_order_of_rows():
    one = evaluation(400)
    one = Evaluation(**(one.arrays() | {"std": np.repeat([1.0, 2.0, 3.0], [90, 290, 20])[:, None]}))
    texts = [resolution(one.rows(order), prefix="f-", most=2000) for order in (slice(None), slice(None, None, -1))]
    lines = [re.findall(r'<path d="([^"]*)"[^>]*?style="[^"]*stroke: var\(--miss\)[^"]*', text) for text in texts]
    assert lines[0] and lines[0] == lines[1]


def test_laws_without_ends_are_drawn():
    one = evaluation(40)
    endless = one.arrays() | {"low": one.low - np.inf, "high": np.where(one.y > 0, np.inf, one.high)}
    assert predictions(Evaluation(**endless), prefix="f-", most=2000).startswith("<svg")
    with pytest.raises(ValueError, match="40 of 40 std are above 1e.150, the largest is 1e.300"):
        law_from(mean=one.mean, std=np.full((40, 1), 1e300))


def test_quantiles_are_drawn_as_points():
    y = np.random.default_rng(0).normal(size=100)
    told = evaluate(law_from(quantiles={p: np.full(100, p - 0.5) for p in (0.1, 0.25, 0.75, 0.9)}), y)
    assert len(curve(told).levels) == 2
    assert calibration(curve(told), prefix="f-").count("<use") > calibration(curve(evaluation(100)), prefix="f-").count(
        "<use"
    )
