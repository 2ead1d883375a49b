"""The command that trains prior-fitted networks."""

from dataclasses import replace

from kernelfield.commands.console import boundary, err, out, print_files, say
from kernelfield.commands.options import Layers, MostColumns, MostRows, NewCheckpoint, PriorName, Seed, Steps, Width
from kernelfield.models.neural import prior_training
from kernelfield.models.neural.prior_training import Recipe
from kernelfield.progress import bar


def pretrain(
    output: NewCheckpoint,
    prior: PriorName = "general",
    rows: MostRows = None,
    columns: MostColumns = None,
    steps: Steps = None,
    layers: Layers = 4,
    width: Width = 64,
    seed: Seed = 0,
) -> None:
    """Train a network on a prior, for `fit --model prior-fitted:FILE`; go on with a run that was interrupted."""
    with boundary():
        recipe = _sized(prior_training.recipe(prior), rows, columns)
        recipe = replace(recipe, architecture=replace(recipe.architecture, layers=layers, width=width))
        if steps is not None:
            recipe = replace(recipe, steps=steps)
        state = prior_training.unfinished(output)
        if state.exists():
            say(f"going on from {state.name}, the state of a run that was interrupted")
        with bar(err, f"training on {prior}", recipe.steps) as tick:
            checkpoint = prior_training.pretrain(recipe, output, seed=seed, tick=tick)
        out.print(f"{prior}: {checkpoint.size} parameters, {checkpoint.training}", markup=False, soft_wrap=True)
        print_files(Checkpoint=output)


def _sized(recipe: Recipe, rows: int | None, columns: int | None) -> Recipe:
    """The recipe with tasks of at most so many rows and columns."""
    prior = recipe.prior
    sizes = _within("rows", prior.rows, rows), _within("columns", prior.columns, columns)
    return replace(recipe, prior=replace(prior, rows=sizes[0], columns=sizes[1]))


def _within(name: str, ends: tuple[int, int], most: int | None) -> tuple[int, int]:
    if most is None:
        return ends
    if most < ends[0]:
        raise ValueError(f"--{name} must be at least {ends[0]}, the least of this prior, got {most}")
    return ends[0], most
