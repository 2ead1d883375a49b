"""What all reports write down alike: where a result comes from, and values as JSON has them."""

import hashlib
import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np

FORMAT = 2  # of reports as JSON; it counts up where a key changes its meaning or goes away
PACKAGES = ("kernelfield", "torch", "gpytorch", "numpy", "scikit-learn")


def provenance(*, seed: int | None = None, data: Path | None = None) -> dict[str, str | int | None]:
    """Where a result comes from: the date, versions, platform, seed, and the data file's name and SHA-256."""
    source: dict[str, str | int | None] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "seed": seed}
    if data is not None:
        with open(data, "rb") as file:
            source |= {"data": data.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    source |= {package: _version(package) for package in PACKAGES}
    return source | {"python": platform.python_version(), "platform": platform.platform()}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a source folder
        return "not installed"


def plain(value: object) -> object:
    """A value as JSON has it: null for what has no finite value."""
    match value:
        case Mapping():
            return {str(name): plain(item) for name, item in value.items()}
        case np.ndarray() | np.generic():
            return plain(value.tolist())
        case list() | tuple():
            return [plain(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


def heading(kind: str) -> dict[str, object]:
    """What a report's JSON begins with: "regression" or "classes", and the format that its schema describes."""
    return {"report": kind, "format": FORMAT}
