"""Fitted estimators in a folder of two files: model.json and tensors.safetensors.

Unlike pickle, `load` runs nothing that a file says: it fills objects of known classes with
numbers. What is loaded predicts the same numbers, bit for bit, on the same machine.

model.json holds the record of the estimator (`records`) and SHA-256 checksums of itself and
of all other files. They tell accidents and stray edits; they are no signature, and whoever can
write the folder can write its checksums.
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch import Tensor

from kernelfield.core.files import require_writable_folder
from kernelfield.core.numerics import placed
from kernelfield.core.version import __version__
from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.calibrated_classifier import CalibratedClassifier
from kernelfield.estimators.classifier import FieldClassifier
from kernelfield.estimators.records import ESTIMATORS, Reader, Writer
from kernelfield.estimators.regions import MultiOutputRegion
from kernelfield.estimators.regressor import FieldRegressor, usable_device
from kernelfield.estimators.resampled import Resampled

Estimator = FieldRegressor | FieldClassifier | Calibrated | CalibratedClassifier | MultiOutputRegion

FORMAT = "kernelfield model"
FORMAT_VERSION = 1
MODEL, TENSORS = "model.json", "tensors.safetensors"


def save(estimator: Estimator, path: str | Path, *, extra: Mapping[str, str] | None = None) -> None:
    """Write a fitted or unfitted estimator to a folder, whole or not at all.

    extra : texts to keep beside it, by file name; `load_extra` reads them. A saved model at
    `path` is replaced; nothing else is. A RandomState is not kept: random_state is then None.

    Errors: ValueError for an object that cannot be saved and those of `require_savable`.
    """
    target = require_savable(path)
    if ESTIMATORS.get(type(estimator).__name__) is not type(estimator):
        kinds = ", ".join(ESTIMATORS)
        raise ValueError(f"save takes a {kinds}, got a {type(estimator).__name__}; keep others with joblib.dump")
    texts = dict(extra or {})
    for name in texts:
        if name in ("", MODEL, TENSORS) or Path(name).name != name or name.startswith("."):
            raise ValueError(f"an extra file needs a plain name of its own, got {name!r}")
    writer = Writer()
    body = writer.record(estimator, type(estimator).__name__)
    part = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    part.mkdir()
    try:
        device = next((str(one.device) for one in reversed(_inner(estimator))), "cpu")
        _write(part, body, writer.tensors, texts, device)
        _swap(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load(path: str | Path, *, device: str | None = None) -> Any:
    """Read an estimator that `save` wrote.

    device : where its tensors go, such as "cpu"; None is where they were.

    Errors: FileNotFoundError if there is nothing at `path`; ValueError if it is no saved model,
    of a newer format, changed since it was written, or of a device that is absent.
    """
    folder = Path(path)
    document = _document(folder)
    _check_file(folder, TENSORS, document["files"])
    try:
        tensors = placed(load_file(folder / TENSORS))
    except SafetensorError as error:
        raise ValueError(f"{folder / TENSORS} cannot be read: {error}; save the model again") from error
    saved_on = document["device"]
    try:
        target = usable_device(device or saved_on)
    except ValueError as error:
        raise ValueError(
            f"{path} was saved on {saved_on!r}; load(path, device='cpu') reads it here ({error})"
        ) from error
    estimator = Reader(tensors, None if device is None else target).value(document["estimator"])
    if device is not None:
        for one in _inner(estimator):
            one.set_params(device=device)
    return estimator


def load_extra(path: str | Path, name: str) -> str:
    """Read a text that was saved beside an estimator.

    Errors: as for `load`; ValueError if there is no text of this name, listing those there are.
    """
    files = _document(Path(path))["files"]
    if name not in files or name == TENSORS:
        others = sorted(files.keys() - {TENSORS})
        raise ValueError(f"no text {name!r} was saved in {path}, only {', '.join(others) or 'none at all'}")
    _check_file(Path(path), name, files)
    return (Path(path) / name).read_bytes().decode()


def require_savable(path: str | Path) -> Path:
    """Check that a model can be saved at `path`, before the work whose result it will hold.

    Returns the path with links resolved.

    Errors: FileExistsError if something other than a saved model is there; FileNotFoundError,
    NotADirectoryError or PermissionError if its parent cannot be written.
    """
    target = Path(path).resolve()
    if target.exists():
        strangers = _strangers(target)
        if strangers:
            raise FileExistsError(f"{path} {strangers}; give a path that is free")
    require_writable_folder(target.parent)
    return target


def _strangers(target: Path) -> str:
    """Why a path must not be replaced, or an empty text if it is a saved model and nothing else."""
    if not target.is_dir():
        return "is a file"
    try:
        document = json.loads((target / MODEL).read_bytes())
        known = {MODEL, *document["files"]} if document["format"] == FORMAT else set()
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    if not known:
        return "is a folder that is not a saved model" if any(target.iterdir()) else ""
    foreign = sorted(item.name for item in target.iterdir() if item.name not in known)
    return f"also holds {', '.join(foreign)}, which saving a model there would remove" if foreign else ""


def _inner(estimator: Any) -> list[FieldRegressor | FieldClassifier]:
    """The estimators that hold tensors: it itself, or those inside a calibrated one."""
    if isinstance(estimator, FieldRegressor | FieldClassifier):
        return [estimator]
    inside = [vars(estimator).get(name) for name in ("estimator", "estimator_")]
    calibrator = vars(estimator).get("calibrator_")
    if isinstance(calibrator, Resampled):
        inside += calibrator.members or []
    return [one for one in inside if isinstance(one, FieldRegressor | FieldClassifier)]


def _write(folder: Path, body: Any, tensors: dict[str, Tensor], texts: dict[str, str], device: str) -> None:
    (folder / TENSORS).write_bytes(serialized(tensors))  # `save_file` would keep it from other users
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode())
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kernelfield": __version__,
        "device": device,
        "files": {name: _sha256(folder / name) for name in (TENSORS, *texts)},
        "estimator": body,
    }
    (folder / MODEL).write_text(_rendered(document), encoding="utf-8")


def _swap(part: Path, target: Path) -> None:
    """Put a finished folder in the place of an older one, which comes back if that fails."""
    if not target.exists():
        part.rename(target)
        return
    old = part.with_suffix(".old")
    target.rename(old)
    try:
        part.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def _rendered(document: dict[str, Any]) -> str:
    """The text of model.json: the document with its own checksum, spelt in one way only."""
    signed = {**document, "sha256": hashlib.sha256(_text(document).encode()).hexdigest()}
    return _text(signed)


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1) + "\n"


def _document(folder: Path) -> dict[str, Any]:
    """The content of model.json, once it is known to be ours, of a version we read, and whole."""
    if not folder.exists():
        raise FileNotFoundError(f"there is nothing at {folder}; check the path")
    if not (folder / MODEL).is_file():
        raise ValueError(f"{folder} is not a saved model: it has no {MODEL}; give the folder that save wrote")
    data = (folder / MODEL).read_bytes()
    changed = f"{folder / MODEL} was changed since it was saved; save the model again"
    try:
        document = json.loads(data)
        _check_format(document, folder)
        document.pop("sha256", None)
        if _rendered(document).encode() != data:
            raise ValueError(changed)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(changed) from error
    return document


def _check_format(document: Any, folder: Path) -> None:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{folder} is not a saved model of kernelfield; give the folder that save wrote")
    version, writer = document.get("format_version"), document.get("kernelfield")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{folder} was written by kernelfield {writer} in format {version}, and kernelfield {__version__} "
            f"reads format {FORMAT_VERSION}; upgrade kernelfield, or save the model again with this version"
        )


def _check_file(folder: Path, name: str, files: dict[str, str]) -> None:
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{path} is missing; save the model again")
    if _sha256(path) != files[name]:
        raise ValueError(f"{path} was changed since it was saved; save the model again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
