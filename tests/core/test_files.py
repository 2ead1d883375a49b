"""Files appear whole or not at all, and a bad path is refused before the work."""

import os
import stat
from pathlib import Path

import pytest

from kernelfield.core.files import require_writable, write_whole


@pytest.mark.parametrize(("content", "expected"), [("häh\n", "häh\n".encode()), (b"\x00\r\n", b"\x00\r\n"), ("", b"")])
def test_text_is_written_as_utf8_and_bytes_as_they_are(content: str | bytes, expected: bytes, tmp_path: Path) -> None:
    write_whole(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == expected


def test_a_file_replaces_an_older_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for content in ("first and long", "second"):
        write_whole(str(tmp_path / "file"), content)
        assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "second"


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "file", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_whole(tmp_path / "whole", "text")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "whole")]
    assert modes[0] == modes[1]


def test_a_link_keeps_pointing_at_the_file_that_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_whole(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text"


def folder(tmp: Path) -> Path:
    (tmp / "folder").mkdir()
    return tmp / "folder"


def under_a_file(tmp: Path) -> Path:
    (tmp / "file").touch()
    return tmp / "file" / "report.html"


def pipe(tmp: Path) -> Path:
    os.mkfifo(tmp / "pipe")
    return tmp / "pipe"


BAD = {
    "a folder": (folder, IsADirectoryError, "is a folder; give the name of a file"),
    "an absent folder": (lambda tmp: tmp / "a" / "b.html", FileNotFoundError, "/a does not exist; make it first"),
    "a file as a folder": (under_a_file, NotADirectoryError, "is not a folder"),
    "a pipe": (pipe, OSError, "is not a regular file"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_a_path_that_cannot_be_written_is_refused_with_the_remedy(case, tmp_path: Path) -> None:
    make, error, sentence = case
    path = make(tmp_path)
    with pytest.raises(error, match=sentence):
        require_writable(path)
    with pytest.raises(error, match=sentence):
        write_whole(path, "text")


def test_a_write_protected_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch(mode=0o444)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # it always grants the superuser
    with pytest.raises(PermissionError, match="is write-protected; remove it"):
        require_writable(tmp_path / "file")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(13, "Permission denied"), "no permission to write in the folder"),
        (OSError(30, "Read-only file system"), "cannot write in the folder .*: Read-only file system"),
    ],
)
def test_a_folder_that_takes_no_files_is_refused(error, sentence, tmp_path: Path, monkeypatch) -> None:
    def denied(path: Path) -> None:
        raise error

    monkeypatch.setattr(Path, "touch", denied)
    with pytest.raises(type(error), match=sentence):
        require_writable(tmp_path / "report.html")


def test_checking_a_path_leaves_no_trace(tmp_path: Path) -> None:
    require_writable(tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
