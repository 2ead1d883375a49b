"""Slopes of a long search, kept in a folder as they are found: a search that was killed goes on to the same end.

    slopes.safetensors    what was asked, the seed, where the search began, the gradient of each evaluation and the
                          solution that the next one starts from; written whole or not at all

A search takes its steps anew by the slopes that are there, which costs nothing, and evaluates those that are not. Of
several ranks the first one alone reads and writes.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.core.files import require_writable, write_whole
from kernelfield.linalg.ranks import Ranks
from kernelfield.models.slope_search import Evaluation

NAME = "slopes.safetensors"
ADDRESS = re.compile(" at 0x[0-9a-f]+")  # in the words of an object, another one in each process


class Resumable(Protocol):
    """A loss, known by its slopes, that starts each from what the last one left."""

    def __call__(self, theta: np.ndarray) -> Evaluation: ...

    def state(self) -> dict[str, Tensor]:
        """What the last evaluation left, by name."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""


@dataclass
class SlopeRecord:
    """The slopes of a search so far, and the file that has them.

    request : what the search depends on, in words; seed, of its random vectors.
    """

    file: Path
    request: dict[str, str]
    ranks: Ranks
    seed: int
    kept: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str, request: dict[str, str], seed: int, ranks: Ranks) -> "SlopeRecord":
        """The record that a folder holds, with its own seed, or a new one.

        Errors, on all ranks: ValueError if it is of another request or cannot be read; OSError if it cannot be written.
        """
        file = Path(folder) / NAME
        content, complaint = b"", None
        if ranks.rank == 0:
            try:
                content = _content(file, request)
            except (ValueError, OSError) as error:
                complaint = error
        said = _told(str(complaint or "").encode(), ranks)
        if said:
            raise ValueError(said.decode()) if complaint is None else complaint
        content = _told(content, ranks)
        kept = load(content) if content else {}
        return cls(file, request, ranks, int(kept["seed"]) if kept else seed, kept)

    @property
    def begun(self) -> bool:
        """Whether some slopes are there."""
        return bool(self.kept)

    def start(self, theta: np.ndarray, hessian: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the search began, which is here if it has not."""
        if self.begun:
            return self.kept["theta"].numpy(), self.kept["hessian"].numpy()
        self.kept = {"seed": torch.tensor(self.seed), "theta": torch.tensor(theta), "hessian": torch.tensor(hessian)}
        return theta, hessian

    def loss(self, evidence: Resumable) -> "KeptLoss":
        """The loss, of which known evaluations are not made again."""
        return KeptLoss(evidence, self)

    def add(self, found: Evaluation, state: dict[str, Tensor]) -> None:
        """Write down one evaluation more, and what it left."""
        one = {
            "gradients": torch.tensor(found.gradient)[None],
            "iterations": torch.tensor([found.iterations]),
            "residuals": torch.tensor([found.residual], dtype=torch.float64),
        }
        self.kept |= {
            name: torch.cat([self.kept[name], row]) if name in self.kept else row for name, row in one.items()
        }
        self.kept |= {f"state.{name}": value.detach().cpu().contiguous() for name, value in state.items()}
        if self.ranks.rank == 0:
            write_whole(self.file, save(self.kept, metadata=self.request))

    def evaluations(self) -> list[Evaluation]:
        """Those that are there, in their order."""
        if "gradients" not in self.kept:
            return []
        parts = zip(*(self.kept[name] for name in ("gradients", "iterations", "residuals")), strict=True)
        return [Evaluation(slope.numpy(), int(count), float(worst)) for slope, count, worst in parts]

    def state(self) -> dict[str, Tensor]:
        """What the last of them left."""
        return {name.removeprefix("state."): t for name, t in self.kept.items() if name.startswith("state.")}


class KeptLoss:
    """A loss with a record; see `SlopeRecord.loss`."""

    def __init__(self, evidence: Resumable, record: SlopeRecord) -> None:
        self.evidence, self.record = evidence, record
        self.known = record.evaluations()
        if self.known:
            evidence.restore(record.state())

    def __call__(self, theta: np.ndarray) -> Evaluation:
        if self.known:
            return self.known.pop(0)
        found = self.evidence(theta)
        self.record.add(found, self.evidence.state())
        return found


def request_of(data: Data, **settings: object) -> dict[str, str]:
    """What a search depends on, in words: settings, and the rows by their checksums."""
    weight = {} if data.weight is None else {"weights": _sum(data.weight)}
    rows = {"rows": " x ".join(map(str, data.X.shape)), "inputs": _sum(data.X), "targets": _sum(data.Y)}
    return {name: _worded(value) for name, value in settings.items()} | rows | weight


def _worded(value: object) -> str:
    if isinstance(value, torch.nn.Module):
        parts = {name: _sum(tensor) for name, tensor in value.state_dict().items()}
        free = [name for name, parameter in value.named_parameters() if parameter.requires_grad]
        choices = {name: _choices(part) for name, part in value.named_modules()}
        words = ADDRESS.sub("", repr((str(value), parts, free, choices)))
        return f"{type(value).__name__} {hashlib.sha256(words.encode()).hexdigest()[:16]}"
    return repr(value)


def _choices(part: torch.nn.Module) -> dict[str, object]:
    """What a module was made with beside its tensors, such as the smoothness of a kernel."""
    return {name: value for name, value in vars(part).items() if not name.startswith("_") and name != "training"}


def _sum(tensor: Tensor) -> str:
    """A checksum."""
    return hashlib.sha256(save({"": tensor.detach().cpu().contiguous()})).hexdigest()[:16]


def _content(file: Path, request: dict[str, str]) -> bytes:
    """The record that a file holds, or nothing where there is none."""
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        require_writable(file)
        return b""
    try:
        with safe_open(file, "pt") as opened:
            before = opened.metadata() or {}
        content = file.read_bytes()
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}); give an empty folder to begin anew") from error
    for name in [*request, *before]:
        was, now = before.get(name, "absent"), request.get(name, "absent")
        if was != now:
            raise ValueError(
                f"the checkpoint {file.parent} is of another fit: {name} was {was} and is {now} now; give the same "
                "settings and data to go on, or an empty folder to begin anew"
            )
    return content


def _told(content: bytes, ranks: Ranks) -> bytes:
    """The content that the first rank has, on every rank."""
    if ranks.world == 1:
        return content
    size = int(ranks.broadcast(torch.tensor(len(content))))
    if not size:
        return b""
    message = torch.zeros(size, dtype=torch.uint8)
    if ranks.rank == 0:
        message = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return ranks.broadcast(message).numpy().tobytes()
