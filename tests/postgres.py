"""PostgreSQL for tests: a server of its own in a temporary directory, reached by a socket there and gone at the end.

    with server() as running:
        url = running.create("trials")    postgresql+psycopg://..., an empty database

It runs as whoever runs the tests. As it refuses to run as root, root's tests run it as `postgres` or
`nobody`, in a directory of theirs. Nothing is kept, so that nothing need reach the disk.
"""

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DEBIAN = Path("/usr/lib/postgresql")  # a folder a version, not on the PATH
OWNER = "kernelfield"
SECONDS = 60.0  # to start
COUNT = itertools.count(1)
HASTE = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=200", "listen_addresses=")


@dataclass(frozen=True)
class Server:
    """A running server: its programs, the directory of its socket, and the user it runs as if not as we do."""

    programs: Path
    folder: Path
    user: dict[str, Any]

    def url(self, database: str) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://{OWNER}@/{database}?host={self.folder}"

    def create(self, database: str) -> str:
        """The URL of a new, empty database."""
        self.run("createdb", "-h", str(self.folder), "-U", OWNER, database)
        return self.url(database)

    def ready(self) -> bool:
        """Whether it answers."""
        return self._call("pg_isready", "-q", "-h", str(self.folder)).returncode == 0

    def run(self, program: str, *options: str) -> None:
        """Run one of its programs to a good end."""
        done = self._call(program, *options)
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stdout}")

    def start(self, program: str, *options: str, log: Any) -> subprocess.Popen[bytes]:
        """Start one of its programs; what it says goes to `log`."""
        command = [str(self.programs / program), *options]
        return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, **self.user)

    def _call(self, program: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.programs / program), *options]
        out: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.run(command, cwd=self.folder, check=False, **out, **self.user)


def missing() -> str | None:
    """Why there can be no server here, or None."""
    if _programs() is None:
        return "PostgreSQL is not installed; apt-get install postgresql"
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed; pip install 'psycopg[binary]'"
    if os.geteuid() == 0 and _account() is None:
        return "PostgreSQL does not run as root, and there is no user postgres or nobody"
    return None


@contextmanager
def server() -> Iterator[Server]:
    """A new server, stopped and its directory removed at the end, also of a test that fails."""
    programs, account = _programs(), _account() if os.geteuid() == 0 else None
    if programs is None:
        raise RuntimeError(str(missing()))
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: the path of a socket holds 107 letters
    user: dict[str, Any] = {}
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
        user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    made = Server(programs, folder, user)
    try:
        made.run("initdb", "-D", "data", "-U", OWNER, "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
        options = [word for setting in HASTE for word in ("-c", setting)]
        with open(folder / "log", "wb") as log:
            process = made.start("postgres", "-D", "data", "-k", str(folder), *options, log=log)
        try:
            _wait(made, process)
            yield made
        finally:
            process.send_signal(signal.SIGINT)  # without waiting for those who are connected
            process.wait(SECONDS)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A server for all tests of a process; they are skipped, with the reason, where there can be none."""
    if reason := missing():
        pytest.skip(reason)
    with server() as running:
        yield running


@pytest.fixture
def postgres(postgres_server: Server) -> str:
    """The URL of an empty database for one test."""
    return postgres_server.create(f"test{next(COUNT)}")


def _programs() -> Path | None:
    found = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    named = shutil.which("initdb")
    if found:
        return found[-1].parent
    return Path(named).resolve().parent if named else None


def _account() -> pwd.struct_passwd | None:
    by_name = {entry.pw_name: entry for entry in pwd.getpwall()}
    return by_name.get("postgres") or by_name.get("nobody")


def _wait(made: Server, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + SECONDS
    while not made.ready():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"PostgreSQL did not start: {(made.folder / 'log').read_text()[-2000:]}")
        time.sleep(0.05)
