import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from kernelfield.models.neural import prior_training
from kernelfield.models.neural.prior_checkpoint import Checkpoint
from kernelfield.models.neural.prior_training import Recipe, pretrain, recipes, standardised
from kernelfield.models.neural.set_transformer import Architecture
from kernelfield.models.neural.task_priors import ProcessTasks, Scales, Tables, TaskPrior

SMALL = Architecture(layers=1, width=16, heads=2, bins=20, metrics=2, directions=3, summary=8)
FUNCTIONS = ((1.0, ProcessTasks("rbf", Scales((2.0, 4.0)))),)
PRIOR = TaskPrior(FUNCTIONS, Tables(), (4, 8), (1, 2), (0.01, 0.02), weighted=0.5, central=0.5)
RECIPE = Recipe(PRIOR, SMALL, steps=6, tokens=160, queries=8)


@pytest.fixture(autouse=True)
def few_tasks_set_the_bins(monkeypatch) -> None:
    monkeypatch.setattr(prior_training, "SURVEY", 100)


def equal(one: Checkpoint, other: Checkpoint) -> bool:
    return all(torch.equal(one.parameters[name], value) for name, value in other.parameters.items())


def test_training_learns_what_the_context_tells(tmp_path):
    """After a moment the law at queries is better than the prior's, which is worth zero here."""
    recipe = replace(RECIPE, steps=150, learning_rate=5e-3)
    net = pretrain(recipe, tmp_path / "net")
    tasks = PRIOR.draw(200, 8, 6, 1, torch.Generator().manual_seed(5))
    law = net.law(tasks.X, tasks.Y[..., None], tasks.at, weight=tasks.log_weight.exp(), noise=False)
    y = tasks.mean[..., None]
    shift, scale = tasks.Y.mean(-1)[:, None, None], tasks.Y.std(-1)[:, None, None]
    baseline = torch.distributions.Normal(shift, scale).log_prob(y)
    assert (law.log_prob(y) - baseline).mean() > 0.2
    assert (law.mean - y).square().mean() < 0.7 * (shift - y).square().mean()


def test_a_run_that_was_interrupted_ends_where_it_would_have_ended(tmp_path, monkeypatch):
    whole = pretrain(RECIPE, tmp_path / "whole")
    monkeypatch.setattr(prior_training, "KEEP", 0.0)
    advance, path = prior_training._Run.advance, tmp_path / "net"

    def interrupted(run):
        if run.step == 3:
            raise KeyboardInterrupt
        advance(run)

    monkeypatch.setattr(prior_training._Run, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(RECIPE, path)
    assert [item.name for item in tmp_path.iterdir() if item.name != "whole"] == ["net.state"]
    monkeypatch.setattr(prior_training._Run, "advance", advance)
    assert equal(pretrain(RECIPE, path), whole)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["net", "whole"]
    assert equal(Checkpoint.load(path), whole)


def test_the_state_of_another_run_is_refused(tmp_path):
    run = prior_training._Run.begin(RECIPE, 1)
    run.keep(tmp_path / "net.state")
    with pytest.raises(ValueError, match="the state of another training; remove it"):
        pretrain(RECIPE, tmp_path / "net", seed=0)
    (tmp_path / "net.state").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no state of a training"):
        pretrain(RECIPE, tmp_path / "net")


def test_a_loss_that_is_not_finite_names_the_step_and_the_rate(tmp_path):
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step \d+ with the learning rate 1e\+30; lower it"):
        pretrain(replace(RECIPE, learning_rate=1e30, clip=1e30), tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_seeds_differ(tmp_path):
    first, again, other = (pretrain(replace(RECIPE, steps=1), tmp_path / "net", seed=seed) for seed in (0, 0, 1))
    assert equal(first, again)
    assert not equal(first, other)


def test_laws_are_stated_in_the_units_that_contexts_are_brought_to():
    tasks = PRIOR.draw(3, 8, 5, 2, torch.Generator().manual_seed(0))
    moved = replace(tasks, Y=100 + 5 * tasks.Y, mean=100 + 5 * tasks.mean, variance=25 * tasks.variance)
    for one, other in zip(standardised(tasks, True)[:2], standardised(moved, True)[:2], strict=True):
        assert_close(one, other)
    mean, variance, _ = standardised(tasks, False)
    assert torch.equal(mean, tasks.mean)
    assert torch.equal(variance, tasks.variance)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"steps": 0}, "steps must be at least 1, got 0"), ({"learning_rate": -1.0}, "must be positive, got -1.0")],
)
def test_recipes_that_train_nothing_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(RECIPE, **settings)


def test_each_step_is_told_once_those_of_an_earlier_run_too(tmp_path):
    path, told = tmp_path / "net", []
    run = prior_training._Run.begin(RECIPE, 0)
    run.advance()
    run.advance()
    run.keep(prior_training.unfinished(path))
    pretrain(RECIPE, path, tick=told.append)
    assert told == [2, 1, 1, 1, 1]


def test_an_unknown_prior_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="no prior is called 'rfb'; there are general, processes, networks, rbf"):
        prior_training.recipe("rfb")


def test_the_name_of_a_recipe_is_the_same_in_every_process():
    """Else a run could not be resumed."""
    code = "from kernelfield.models.neural.prior_training import recipes; print(repr(recipes()))"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert elsewhere.strip() == repr(recipes())
