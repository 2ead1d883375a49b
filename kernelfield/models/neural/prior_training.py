"""Training of prior-fitted networks: a set transformer learns to answer tasks drawn from a prior.

    kernelfield pretrain --prior general -o general.safetensors

Each step draws a batch of tasks, standardises them as predictions will, and takes a step of AdamW on the
mean loss of the bar distribution over queries, half of them asking for f and the others for y.
Steps take their random numbers from (seed, step) alone, so that a run that was interrupted and
resumed ends where it would have ended. Files are written whole or not at all.

Source: Mueller, Hollmann, Pineda Arango, Grabocka & Hutter (2022), "Transformers Can Do Bayesian
Inference", algorithm 1; Loshchilov & Hutter (2019), "Decoupled Weight Decay Regularization".
"""

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from torch import Tensor

from kernelfield.core.files import require_writable, write_whole
from kernelfield.core.numerics import placed
from kernelfield.models.neural.bar_distribution import cross_entropy, equal_mass_edges, gaussian_masses
from kernelfield.models.neural.prior_checkpoint import Checkpoint, Units
from kernelfield.models.neural.set_transformer import Architecture, SetTransformer
from kernelfield.models.neural.task_priors import Box, NetworkTasks, ProcessTasks, Scales, Tables, TaskPrior, Tasks
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.smooth import Erf

KEEP = 60.0  # seconds between states from which a run can be resumed
WARM = 0.05  # the share of steps over which the learning rate rises
SURVEY = 2000  # tasks from whose targets the edges of the bins are taken

_log = logging.getLogger("kernelfield.models.fit")


@dataclass(frozen=True)
class Recipe:
    """What to train, and how long.

    tokens: rows and queries of a batch, together; queries: of each task. standardise: whether
    each context is brought to mean zero and variance one. clip: the largest norm of a gradient.

    Errors: ValueError for settings that leave nothing to train.
    """

    prior: TaskPrior
    architecture: Architecture = field(default_factory=Architecture)
    standardise: bool = True
    steps: int = 2000
    tokens: int = 2048
    queries: int = 24
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    clip: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "tokens", "queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")

    def batch(self, generator: torch.Generator) -> Tasks:
        """The tasks of a step."""
        rows, columns = self.prior.sizes(generator)
        tasks = max(1, self.tokens // (rows + self.queries))
        return self.prior.draw(tasks, rows, self.queries, columns, generator)


def silent(steps: int) -> None:
    """A tick that nobody hears."""


def pretrain(recipe: Recipe, path: str | Path, *, seed: int = 0, tick: Callable[[int], None] = silent) -> Checkpoint:
    """Train a network and write its checkpoint to `path`; a run that was interrupted goes on where it was.

    The state of an unfinished run lies beside it, in `unfinished(path)`, and is removed at the end.
    tick: is told the steps done since it was last called, those of an earlier run at first.

    Errors: ValueError where the loss is not finite, with the step, and where a state belongs to
        another recipe; those of `require_writable`.
    """
    target = require_writable(path)
    state = unfinished(target)
    run = _Run.begin(recipe, seed)
    if state.exists():
        run.resume(state)
        tick(run.step)
    written = time.monotonic()
    while run.step < recipe.steps:
        run.advance()
        tick(1)
        if time.monotonic() - written > KEEP and run.step < recipe.steps:
            run.keep(state)
            written = time.monotonic()
    checkpoint = run.checkpoint()
    checkpoint.save(target)
    state.unlink(missing_ok=True)
    return checkpoint


def unfinished(path: str | Path) -> Path:
    """Where the state of a training lies whose checkpoint will be at `path`.

    >>> unfinished("net.safetensors").name
    'net.safetensors.state'
    """
    target = Path(path).resolve()
    return target.with_name(target.name + ".state")


class _Run:
    """A training under way: the one thing here that changes."""

    def __init__(self, recipe: Recipe, seed: int, module: SetTransformer, edges: Tensor) -> None:
        self.recipe, self.seed, self.module, self.edges = recipe, seed, module, edges
        self.optimiser = torch.optim.AdamW(
            module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.step, self.seconds, self.loss, self.reported = 0, 0.0, math.nan, 0.0

    @classmethod
    def begin(cls, recipe: Recipe, seed: int) -> "_Run":
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = SetTransformer(recipe.architecture).float()
        return cls(recipe, seed, module, _edges(recipe, generator))

    def advance(self) -> None:
        """One step."""
        began = time.process_time()
        generator = torch.Generator().manual_seed((self.seed << 32) + self.step + 1)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * _schedule(self.step / self.recipe.steps)
        loss = _loss(self.module, self.recipe, self.edges, generator)
        value = loss.item()
        if not math.isfinite(value):
            raise ValueError(
                f"the loss is {value} at step {self.step} with the learning rate {self.recipe.learning_rate:g}; "
                "lower it"
            )
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.recipe.clip)
        self.optimiser.step()
        self.step += 1
        self.seconds += time.process_time() - began
        self.loss = value if math.isnan(self.loss) else 0.99 * self.loss + 0.01 * value
        if time.monotonic() - self.reported > 1 or self.step == self.recipe.steps:
            self.reported = time.monotonic()
            _log.info("step %d of %d, loss %.3f", self.step, self.recipe.steps, self.loss)

    def checkpoint(self) -> Checkpoint:
        recipe = self.recipe
        parameters = {name: value.detach().clone() for name, value in self.module.named_parameters()}
        training = (
            f"{self.step} steps of {recipe.tokens} tokens in {self.seconds:.0f} s of CPU time, loss {self.loss:.3f}"
        )
        return Checkpoint(
            recipe.architecture,
            parameters,
            self.edges,
            recipe.standardise,
            recipe.prior.rows[1],
            recipe.prior.columns[1],
            repr(recipe.prior),
            training,
        )

    def keep(self, path: Path) -> None:
        """Write all that is needed to go on."""
        tensors = {f"value.{name}": value.detach() for name, value in self.module.named_parameters()}
        for i, slots in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{name}": value for name, value in slots.items()}
        facts = {"step": self.step, "seconds": self.seconds, "loss": self.loss, "recipe": self._name()}
        write_whole(path, serialized(tensors, metadata={"state": json.dumps(facts)}))

    def resume(self, path: Path) -> None:
        """Go on from a state that `keep` wrote."""
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {}).get("state", "{}"))
                tensors = placed({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118, no mapping
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no state of a training: {error}; remove it to begin anew") from error
        if facts.get("recipe") != self._name():
            raise ValueError(f"{path} is the state of another training; remove it to begin anew, or give another path")
        self.step, self.seconds, self.loss = facts["step"], facts["seconds"], facts["loss"]
        values = {name.removeprefix("value."): value for name, value in tensors.items() if name.startswith("value.")}
        self.module.load_state_dict(values)
        plan = self.optimiser.state_dict()
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, i, slot = name.split(".")
                plan["state"].setdefault(int(i), {})[slot] = value
        self.optimiser.load_state_dict(plan)
        _log.info("resumed at step %d of %d", self.step, self.recipe.steps)

    def _name(self) -> str:
        return f"{self.recipe!r}, seed {self.seed}"


def _loss(module: SetTransformer, recipe: Recipe, edges: Tensor, generator: torch.Generator) -> Tensor:
    tasks = recipe.batch(generator)
    mean, variance, units = standardised(tasks, recipe.standardise)
    latent = (torch.rand(mean.shape, generator=generator) < 0.5).to(mean)
    spread = variance + (1 - latent) * tasks.noise[:, None] / units.scale.squeeze(-1).square()
    masses = gaussian_masses(mean.float(), spread.float(), edges.float())
    table = (units.inputs(tasks.X), units.targets(tasks.Y[..., None]).squeeze(-1), tasks.log_weight)
    arguments = (t.float() for t in (*table, units.inputs(tasks.at), latent))
    return cross_entropy(module(*arguments), masses, edges.float())


def standardised(tasks: Tasks, standardise: bool) -> tuple[Tensor, Tensor, Units]:
    """Mean and variance (b, t) of f in the units of the context, and those units."""
    Y = tasks.Y[..., None]
    units = Units.of(tasks.X, Y, tasks.log_weight) if standardise else Units.plain(tasks.X, Y)
    mean = units.targets(tasks.mean[..., None]).squeeze(-1)
    return mean, tasks.variance / units.scale.squeeze(-1).square(), units


def _edges(recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Bins of equal mass under the prior law of targets."""
    values: list[Tensor] = []
    while sum(map(len, values)) < max(SURVEY, 8 * recipe.architecture.bins) * recipe.queries:
        tasks = recipe.batch(generator)
        mean, variance, units = standardised(tasks, recipe.standardise)
        spread = variance + tasks.noise[:, None] / units.scale.squeeze(-1).square()
        z = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        values.append((mean + spread.sqrt() * z).flatten())
    return equal_mass_edges(torch.cat(values), recipe.architecture.bins)


def _schedule(t: float) -> float:
    """The share of the learning rate at time t in [0, 1]: a linear rise, then half a cosine."""
    return t / WARM + 1e-3 if t < WARM else 0.5 + 0.5 * math.cos(math.pi * (t - WARM) / (1 - WARM))


def recipe(name: str) -> Recipe:
    """What to train, by name: that of a checkpoint that comes with the package, or a part of the general one.

    Errors: ValueError for an unknown name.

    >>> recipe("networks").prior.rows
    (3, 100)
    """
    known = recipes()
    if name not in known:
        raise ValueError(f"no prior is called {name!r}; there are {', '.join(known)}")
    return known[name]


def recipes() -> dict[str, Recipe]:
    """The recipes that have a name: "general" and "rbf" are those of the checkpoints that come with the package."""
    fixed = ProcessTasks("rbf", Scales((0.2, 0.2), spread=0.0, kept=1.0))
    line = TaskPrior(((1.0, fixed),), Box(), rows=(1, 20), columns=(1, 1), noise=(0.01, 0.01), even=True)
    inside = Scales((0.3, 2.0), per_column=True)
    relu = Dense(2**0.5, 0.5) >> Relu() >> Dense(2**0.5, 0.2) >> Relu() >> Dense(1.0)
    erf = Dense(2**0.5, 0.5) >> Erf() >> Dense(2**0.5, 0.2) >> Erf() >> Dense(1.0)
    processes = (
        (0.2, ProcessTasks("rbf")),
        (0.1, ProcessTasks("matern12")),
        (0.15, ProcessTasks("matern32")),
        (0.2, ProcessTasks("matern52")),
    )
    networks = (
        (0.2, ProcessTasks(relu, inside)),
        (0.1, ProcessTasks(erf, inside)),
        (0.05, NetworkTasks(Dense(2**0.5, 0.5, 32) >> Relu() >> Dense(1.0), inside)),
    )
    laws = {"general": (*processes, *networks), "processes": processes, "networks": networks}
    tables = {
        name: TaskPrior(functions, Tables(), (3, 100), (1, 16), (5e-4, 1.0), weighted=0.2, central=0.3)
        for name, functions in laws.items()
    }
    return {
        **{name: Recipe(prior, steps=2000) for name, prior in tables.items()},
        "rbf": Recipe(line, Architecture(metrics=2, directions=4), standardise=False, steps=3600, tokens=1152),
    }
