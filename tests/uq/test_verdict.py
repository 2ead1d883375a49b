"""Verdicts say what the figures say, and say nothing where chance would do."""

import pytest
import torch

from kernelfield.core.posterior import Draws
from kernelfield.uq.scores import Evaluation, baseline, evaluate
from kernelfield.uq.verdict import verdicts


def case(n: int, factor: float = 1.0, signal: float = 2.0, m: int = 1) -> tuple[Evaluation, Evaluation]:
    """A law that knows the signal, of a deviation wrong by a factor, and the baseline."""
    f, noise = torch.randn(2, n, m, generator=torch.Generator().manual_seed(1))
    y = signal * f + noise
    law = Draws(signal * f.unsqueeze(0), torch.ones(1), torch.tensor(factor**2))
    return evaluate(law, y), baseline(y.numpy(), y.numpy())


@pytest.mark.parametrize(
    ("factor", "grade", "words"),
    [(1.0, "good", "keep their promise"), (0.6, "bad", "too narrow"), (1.6, "bad", "too wide")],
)
def test_intervals_are_judged_by_their_band(factor, grade, words):
    honesty, _ = verdicts(*case(500, factor), ["y"])
    assert honesty.grade == grade
    assert words in honesty.title
    assert "of 500 test values" in honesty.sentence


def test_the_band_in_the_sentence_is_that_of_the_binomial_law():
    honesty, _ = verdicts(*case(100), ["y"])
    assert "84.0% to 95.0%" in honesty.sentence  # binom.ppf([0.025, 0.975], 100, 0.9) = 84, 95


def test_a_gain_beyond_chance_is_named_and_its_absence_too():
    assert verdicts(*case(300), ["y"])[1].title == "Better than the baseline"
    model, other = case(300)
    assert verdicts(other, model, ["y"])[1].title == "Worse than the baseline"
    assert verdicts(*case(300, signal=0.0), ["y"])[1].grade == "open"


def test_few_rows_are_not_judged():
    assert [verdict.grade for verdict in verdicts(*case(1), ["y"])] == ["open", "open"]
    assert verdicts(*case(19, 0.1), ["y"])[0].grade == "open"


def test_several_outputs_are_counted_and_the_failing_ones_named():
    right, wrong = case(500), case(500, 0.5)
    pair = [
        Evaluation(
            **{k: torch.cat([torch.as_tensor(v), torch.as_tensor(vars(b)[k])], 1).numpy() for k, v in vars(a).items()}
        )
        for a, b in zip(right, wrong, strict=True)
    ]
    honesty, gain = verdicts(*pair, ["first", "second"])
    assert (honesty.grade, honesty.title) == ("bad", "Intervals keep their promise for 1 of 2 outputs")
    assert honesty.sentence == "Except for second (intervals are too narrow)."
    assert (gain.grade, gain.sentence) == ("good", "This holds for each of them.")
