"""Files that are written whole or not at all.

What is written goes to a hidden file in the same folder first and then takes the place of
the target in one step, so that no reader ever sees half a file and an interrupted run leaves
the old one as it was.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a text (as UTF-8) or bytes to a file, replacing one that exists.

    Errors: those of `require_writable`, and OSError where the disk fails; then nothing changed.
    """
    target = require_writable(path)
    data = content.encode() if isinstance(content, str) else content
    with neighbour(target) as part:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a crash could leave a renamed file without its content
        part.replace(target)


def require_writable(path: str | Path) -> Path:
    """Check that a file can be written, before the work whose result it will hold.

    Returns the path with links resolved. An existing file must be a regular one.

    Errors: IsADirectoryError, FileNotFoundError, NotADirectoryError, PermissionError or
    OSError, each with the path and the remedy.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file, such as {Path(path) / 'result'}")
    if target.exists() and not target.is_file():
        raise OSError(f"{path} is not a regular file and cannot be replaced in one step; give the name of a file")
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(f"{path} is write-protected; remove it, or give another name")
    require_writable_folder(target.parent)
    return target


def require_writable_folder(folder: Path) -> None:
    """Check that a file can be made in a folder, by making one and removing it.

    Errors: FileNotFoundError, NotADirectoryError, PermissionError or OSError, as above.
    """
    if not folder.exists():
        raise FileNotFoundError(f"the folder {folder} does not exist; make it first, or give another path")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder; give a path in a folder that exists")
    try:
        with neighbour(folder / "probe") as part:
            part.touch()
    except PermissionError as error:
        raise PermissionError(f"no permission to write in the folder {folder}; give a path elsewhere") from error
    except OSError as error:
        raise OSError(f"cannot write in the folder {folder}: {error.strerror}; give a path elsewhere") from error


@contextmanager
def neighbour(target: Path) -> Iterator[Path]:
    """A fresh hidden name beside `target`; a file left there at the end is removed.

    Unlike those of `tempfile`, a file made under it has the permissions the user's umask gives.
    """
    part = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)
