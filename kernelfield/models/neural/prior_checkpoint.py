"""Trained set transformers in files, and the laws they answer with.

A checkpoint is one safetensors file: the parameters, the edges of the bins, and as metadata a
JSON text with the version of the format, the architecture, the sizes it was trained for and the
prior in words. Reading it runs nothing that the file says.

Where a checkpoint standardises, inputs and targets of each context are brought to mean zero and
variance one, rows counted by their weights, and the law is stretched back: answers then do not
depend on the units of the context.
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialized
from torch import Tensor
from torch.func import functional_call

from kernelfield.core.files import write_whole
from kernelfield.core.numerics import placed
from kernelfield.core.posterior import Binned
from kernelfield.models.neural.set_transformer import Architecture, SetTransformer

FORMAT = "kernelfield prior-fitted network"
FORMAT_VERSION = 1
SHIPPED = Path(__file__).parent / "checkpoints"
TINY = 1e-9  # the spread, relative to their size, of targets that are all equal


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained set transformer.

    edges (bins + 1,), in standardised units where it standardises; rows and columns: the most of a
    context in training; prior and training: in words, for people.

    >>> checkpoint = Checkpoint.load("rbf")
    >>> X = torch.tensor([[0.0], [0.1], [0.2]], dtype=torch.double)
    >>> law = checkpoint.law(X, torch.sin(5 * X), torch.tensor([[0.15]], dtype=torch.double))
    >>> bool((law.mean - 0.68).abs() < 0.1)  # sin(0.75)
    True
    """

    architecture: Architecture
    parameters: dict[str, Tensor]
    edges: Tensor
    standardise: bool
    rows: int
    columns: int
    prior: str
    training: str = ""

    def law(
        self,
        X: Tensor,
        Y: Tensor,
        at: Tensor,
        *,
        weight: Tensor | None = None,
        noise: bool = True,
        floor: float | Tensor = 0.0,
    ) -> Binned:
        """The law of y (of f with noise=False) at `at`, given observations; many tasks in one pass.

        Shapes: X (*b, n, d), Y (*b, n, m), at (*b, t, d), weight (*b, n); the law is of (*b, t, m).
        floor: the least std to standardise targets by, so that a few equal ones claim no certainty.
        """
        batch = (*Y.shape[:-2], Y.shape[-1])  # outputs are tasks of their own with the same inputs

        def each(values: Tensor, rank: int) -> Tensor:
            """Values (*b, ...) of so many axes once for each output, in one batch."""
            alike = values.unsqueeze(-1 - rank).expand(*batch, *values.shape[-rank:])
            return alike.flatten(0, -1 - rank)

        log_weight = X.new_zeros(X.shape[:-1]) if weight is None else weight.log()
        units = Units.of(X, Y, log_weight, floor) if self.standardise else Units.plain(X, Y)
        logits = self.logits(
            each(units.inputs(X), 2),
            units.targets(Y).mT.flatten(0, -2),
            each(log_weight, 1),
            each(units.inputs(at), 2),
            each(at.new_full(at.shape[:-1], 0.0 if noise else 1.0), 1),
        )
        logits = logits.to(X).unflatten(0, batch).movedim(-3, -2)
        edges = units.scale.mT * self.edges.to(X) + units.shift.mT
        return Binned(logits, edges.unsqueeze(-3), tails=True)

    def logits(self, X: Tensor, Y: Tensor, log_weight: Tensor, at: Tensor, latent: Tensor) -> Tensor:
        """What the network gives, in its own precision and on the device of X; shapes as for `SetTransformer`."""
        parameters = {name: value.to(X.device) for name, value in self.parameters.items()}
        kind = self.parameters["nothing"].dtype
        arguments = tuple(t.to(kind) for t in (X, Y, log_weight, at, latent))
        return functional_call(_skeleton(self.architecture), parameters, arguments)

    @cached_property
    def size(self) -> int:
        """The number of parameters."""
        return sum(value.numel() for value in self.parameters.values())

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Errors: those of `kernelfield.core.files.require_writable`.
        """
        settings = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "architecture": asdict(self.architecture),
            **{name: getattr(self, name) for name in _WORDS},
        }
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.parameters.items()}
        write_whole(path, serialized({**tensors, _EDGES: self.edges}, metadata={"settings": json.dumps(settings)}))

    @classmethod
    def load(cls, checkpoint: str | Path) -> "Checkpoint":
        """Read a file, or one that comes with the package by its name.

        Errors: FileNotFoundError if there is none, naming those that come with the package; ValueError
            if it is something else, of another version, or not whole.
        """
        path = located(checkpoint)
        try:
            with safe_open(path, framework="pt") as file:
                settings = json.loads((file.metadata() or {}).get("settings", "null"))
                tensors = placed({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118, no mapping
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a checkpoint, or is damaged: {error}; train or copy it again") from error
        return cls._of(settings, tensors, path)

    @classmethod
    def _of(cls, settings: object, tensors: dict[str, Tensor], path: Path) -> "Checkpoint":
        if not isinstance(settings, dict) or settings.get("format") != FORMAT:
            raise ValueError(
                f"{path} is not a checkpoint of a prior-fitted network; give a file that its training wrote"
            )
        if settings.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format {settings.get('format_version')}, and this version reads {FORMAT_VERSION}; "
                "upgrade kernelfield, or train it again"
            )
        try:
            architecture = Architecture(**settings["architecture"])
            words = {name: settings[name] for name in _WORDS}
            edges = tensors.pop(_EDGES)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}; train or copy it again") from error
        expected = {name: value.shape for name, value in _skeleton(architecture).named_parameters()}
        if {name: value.shape for name, value in tensors.items()} != expected or len(edges) != architecture.bins + 1:
            raise ValueError(
                f"{path} is damaged: its parameters are not those of {architecture}; train or copy it again"
            )
        return cls(architecture, tensors, edges, **words)


_EDGES = "edges"
_WORDS = ("standardise", "rows", "columns", "prior", "training")


@dataclass(frozen=True, eq=False)
class Units:
    """What a context is standardised by: centre and spread of inputs (*b, 1, d), shift and scale of targets
    (*b, 1, m)."""

    centre: Tensor
    spread: Tensor
    shift: Tensor
    scale: Tensor

    @classmethod
    def of(cls, X: Tensor, Y: Tensor, log_weight: Tensor, floor: float | Tensor = 0.0) -> "Units":
        """Mean zero and variance one. Constant inputs are only shifted; targets that are all equal get a spread
        of nearly nothing, and a single one the spread one."""
        share = log_weight.softmax(-1).unsqueeze(-1)
        centre, shift = (share * X).sum(-2, keepdim=True), (share * Y).sum(-2, keepdim=True)
        spread, scale = ((share * (t - c).square()).sum(-2, keepdim=True).sqrt() for t, c in ((X, centre), (Y, shift)))
        rounding = 1e3 * torch.finfo(X.dtype).eps
        spread = torch.where(spread > rounding * centre.abs(), spread, 1.0)
        least = TINY * shift.abs().clamp_min(1.0) if Y.shape[-2] > 1 else torch.ones_like(shift)
        scale = torch.where(scale > rounding * shift.abs(), scale, least)
        return cls(centre, spread, shift, torch.maximum(scale, torch.as_tensor(floor).to(scale)))

    @classmethod
    def plain(cls, X: Tensor, Y: Tensor) -> "Units":
        """The units as given."""
        one, other = torch.ones_like(X[..., :1, :]), Y.new_ones(*Y.shape[:-2], 1, Y.shape[-1])
        return cls(0 * one, one, 0 * other, other)

    def inputs(self, X: Tensor) -> Tensor:
        return (X - self.centre) / self.spread

    def targets(self, Y: Tensor) -> Tensor:
        return (Y - self.shift) / self.scale


def shipped() -> list[str]:
    """The names of the checkpoints that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def located(checkpoint: str | Path) -> Path:
    """The file of a checkpoint, given by its path or, if it comes with the package, by its name.

    Errors: FileNotFoundError if there is none, naming those that come with the package.
    """
    if isinstance(checkpoint, str) and checkpoint in shipped():
        return SHIPPED / f"{checkpoint}.safetensors"
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint file {checkpoint}; give a path, or the name of one that comes with the "
            f"package: {', '.join(shipped())}"
        )
    return path


@lru_cache(maxsize=8)
def _skeleton(architecture: Architecture) -> SetTransformer:
    """A module of names and shapes, without values."""
    with torch.device("meta"):
        return SetTransformer(architecture).requires_grad_(False)
