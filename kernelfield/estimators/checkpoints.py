"""A fit under way in a folder of three files, each written whole or not at all.

    stream.json           what was asked, of which data; another request is refused with what differs
    start.safetensors     what the first pass over the data found
    learner.safetensors   the state of the learner, with the rows that it has seen

The state and its place in the stream are one file, so that no interruption can part them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from kernelfield.core.files import require_writable_folder, write_whole
from kernelfield.core.numerics import placed
from kernelfield.core.streaming import Learner
from kernelfield.core.version import __version__
from kernelfield.linalg.ranks import ALONE, Ranks

FORMAT = "kernelfield stream 1"
STREAM, START, LEARNER = "stream.json", "start.safetensors", "learner.safetensors"
_STATE, _PLACE = "learner.", "place"


@dataclass(frozen=True)
class Checkpoint:
    """A folder with the beginning of a fit; see the module docstring."""

    folder: Path

    @classmethod
    def open(cls, path: str | Path, request: Mapping[str, Any]) -> "Checkpoint":
        """The checkpoint of a request, or an empty folder for one.

        Errors: ValueError if it is of another request, or no checkpoint; OSError if it cannot be written.
        """
        folder = Path(path)
        require_writable_folder(folder.resolve().parent)
        folder.mkdir(exist_ok=True)
        require_writable_folder(folder)
        store = cls(folder)
        if (folder / STREAM).exists():
            store._require_same(request)
        else:
            others = sorted(item.name for item in folder.iterdir() if item.name != START and item.name[0] != ".")
            if others:
                raise ValueError(f"{folder} holds {', '.join(others[:3])} and is no checkpoint; give an empty folder")
        return store

    def start(self) -> dict[str, np.ndarray] | None:
        """What the first pass found, where it came to its end."""
        if not (self.folder / STREAM).exists():
            return None
        return {name: tensor.numpy() for name, tensor in self._read(START).items()}

    def begin(self, request: Mapping[str, Any], start: Mapping[str, np.ndarray]) -> None:
        """Write down what was asked and found; the folder is a checkpoint from here on."""
        found = {name: torch.from_numpy(np.array(value, order="C")) for name, value in start.items()}
        write_whole(self.folder / START, save(found))
        document = {"format": FORMAT, "kernelfield": __version__, "request": request}
        write_whole(self.folder / STREAM, json.dumps(document, indent=1) + "\n")

    def keep(self, learner: Learner, turn: int, row: int, ranks: Ranks = ALONE) -> None:
        """Write down a learner, and that it has seen so many passes and rows of the next; the first rank writes."""
        state = {f"{_STATE}{name}": tensor.contiguous().cpu() for name, tensor in learner.state().items()}
        if ranks.rank == 0:
            place = torch.tensor([turn, row, learner.batch, ranks.world])
            write_whole(self.folder / LEARNER, save({**state, _PLACE: place}))

    def restore(self, learner: Learner, ranks: Ranks = ALONE) -> tuple[int, int]:
        """Bring a learner to where it was; passes and rows that it has seen.

        Errors: ValueError if it would go on otherwise than it began.
        """
        here = (self.folder / LEARNER).exists()
        if ranks.sum(torch.tensor(int(here))) not in (0, ranks.world):
            raise ValueError(f"not all ranks find the checkpoint {self.folder}; give a folder that all machines share")
        if not here:
            return 0, 0
        tensors = self._read(LEARNER)
        turn, row, batch, world = tensors.pop(_PLACE).tolist()
        if world != ranks.world and row and learner.apart:
            raise ValueError(
                f"the checkpoint {self.folder} was kept by {world} ranks in the middle of their rows, and this job has "
                f"{ranks.world}; start {world}"
            )
        if batch != learner.batch:
            raise ValueError(
                f"the checkpoint {self.folder} took {batch} rows a step and this run takes {learner.batch}; "
                "go on with the version that began it, or give an empty folder"
            )
        learner.restore({name.removeprefix(_STATE): tensor for name, tensor in tensors.items()})
        return turn, row

    def _read(self, name: str) -> dict[str, Tensor]:
        try:
            return placed(load_file(self.folder / name))
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{self.folder / name} cannot be read ({error}); give an empty folder to begin anew"
            ) from error

    def _require_same(self, request: Mapping[str, Any]) -> None:
        try:
            document = json.loads((self.folder / STREAM).read_text())
            if document["format"] != FORMAT:
                raise ValueError(f"it has the format {document['format']!r}, and this program reads {FORMAT!r}")
            before = document["request"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.folder / STREAM} is no checkpoint ({error}); give an empty folder") from error
        different = _difference(before, json.loads(json.dumps(request)))
        if different is not None:
            name, was, now = different
            raise ValueError(
                f"the checkpoint {self.folder} is of another fit: {name} was {was} and is {now} now; give the same "
                "settings and data to go on, or an empty folder to begin anew"
            )


def _difference(old: Any, new: Any, name: str = "") -> tuple[str, str, str] | None:
    """The first place where two JSON values differ, and what is there."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = name if key in ("fields", "data") else f"{name}.{key}".removeprefix(".")
            found = _difference(old.get(key, "absent"), new.get(key, "absent"), inner)
            if found is not None:
                return found
        return None
    return None if old == new else (name, _short(old), _short(new))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
