"""The lunar lander, where its packages are installed."""

import numpy as np
import pytest

from kernelfield.bo.problems import lander as ours
from kernelfield.bo.problems.catalogue import problem


def test_without_gymnasium_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "gymnasium", None)
    with pytest.raises(ImportError, match=r"kernelfield\[lunar\]"):
        problem("lunar-lander")


def test_the_usual_weights_act_as_the_heuristic_of_the_environment() -> None:
    pytest.importorskip("Box2D", reason="the lunar lander needs box2d")
    lander = pytest.importorskip("gymnasium.envs.box2d.lunar_lander", reason="the lunar lander needs gymnasium")

    class Discrete:
        unwrapped = property(lambda self: self)
        continuous = False

    generator = np.random.default_rng(0)
    states = generator.normal(0, 0.5, (500, 8))
    states[:, 6:] = generator.integers(0, 2, (500, 2))
    weights = list(ours.USUAL)
    actions = [ours.action(state, weights) for state in states]
    assert actions == [lander.heuristic(Discrete(), state) for state in states]
    assert len(set(actions)) == 4


def test_the_usual_weights_land_and_none_at_all_do_not() -> None:
    pytest.importorskip("Box2D", reason="the lunar lander needs box2d")
    pytest.importorskip("pygame", reason="the lunar lander needs pygame")
    one = problem("lunar-lander", flights=3)
    usual = dict(zip(one.space.parameters, ours.USUAL, strict=True))
    nothing = dict.fromkeys(usual, 0.0)
    assert one(usual).values[0] > 200 > one(nothing).values[0]
    assert one(usual) == one(usual)
