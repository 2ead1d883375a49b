"""Names of a benchmark mean what they say, and the suites' problems exist."""

import pytest
from optuna.samplers import GPSampler

from kernelfield.bo.contestants import PAPER, SUITES, Protocol, check, named, posed, sampler, suite
from kernelfield.bo.optuna import FieldSampler
from kernelfield.bo.problems.catalogue import PROBLEMS
from kernelfield.bo.rivals import Proposing
from kernelfield.models.zoo import MODELS


def test_every_surrogate_of_the_zoo_and_every_rival_makes_a_sampler() -> None:
    question, protocol = posed("branin"), Protocol.of("fixed", "branin")
    for name in MODELS:
        assert isinstance(sampler(name, question, protocol, seed=0), FieldSampler)
    assert isinstance(sampler("optuna-gp", question, protocol, seed=0), GPSampler)
    assert isinstance(sampler("botorch", question, protocol, seed=0), Proposing)
    assert isinstance(sampler("gp", question, Protocol.of("paper", "branin"), seed=0), Proposing)


def test_suites_hold_problems_that_there_are() -> None:
    known = list(PROBLEMS)  # asking whether it holds one would make it
    assert all(named(name)[0] in known for names in SUITES.values() for name in names)
    assert set(PAPER) == set(suite("bnnbo"))
    assert [posed(name).constraints > 0 for name in suite("quality")].count(True) == 1
    assert sum(bool(posed(name).space.discrete) for name in suite("quality")) == 1


def test_protocols_count_as_the_paper_and_as_the_rule_say() -> None:
    branin = Protocol.of("paper", "branin")
    assert (branin.design, branin.batch, branin.trials) == (10, 10, 100)
    assert Protocol.of("paper", "network").trials == 600
    assert Protocol.of("fixed", "ackley").trials == 100
    assert Protocol.of("fixed", "ackley:dimensions=3") == Protocol("fixed", 8, 1, 50)


def test_settings_reach_the_problem_and_the_surrogate() -> None:
    assert posed("ackley:dimensions=3").space.columns == 3
    check("ensemble:members=3")
    check("gp:noise=student_t")


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda: Protocol.of("paper", "levy"), "does not have"),
        (lambda: Protocol.of("slow", "levy"), "must be 'fixed' or 'paper'"),
        (lambda: Protocol.of("fixed", "branin", trials=6), "leave none"),
        (lambda: Protocol("fixed", 0, 1, 3), "at least one point"),
        (lambda: suite("slow"), "bnnbo, quality"),
        (lambda: named("ackley:3"), "setting=value"),
        (lambda: check("botorch:q=2"), "no settings"),
        (lambda: check("botorhc"), "botorch"),
        (lambda: posed("ackley:size=3"), "dimensions"),
    ],
    ids=range(9),
)
def test_what_means_nothing_is_refused(attempt: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        attempt()  # type: ignore[operator]
