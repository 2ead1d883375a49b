"""Where studies are kept: Optuna's storages, opened so that many processes and machines can share one.

    None                                  in memory, gone at the end
    sqlite:///study.db                    a file; processes of one machine
    journal:study.journal, study.log      a file that only grows; processes of machines that share a folder
    postgresql://user:password@host/base  a server; any number of processes and machines

A process that runs trials gives a sign of life for each every BEAT seconds. Trials without one for GRACE seconds
are given up and queued again, by whoever is there. No message holds a password.
"""

import math
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

from kernelfield.bo.history import TOLD

try:
    from optuna import Study, create_study, create_trial
    from optuna.distributions import BaseDistribution, check_distribution_compatibility
    from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
    from optuna.storages._heartbeat import BaseHeartbeat, is_heartbeat_enabled
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    from optuna.trial import FrozenTrial, TrialState
    from sqlalchemy import Connection, Engine, event
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError
except ImportError as error:
    raise ImportError("optimisation needs botorch and optuna; pip install 'kernelfield[bo]'") from error

BEAT = 10  # seconds between signs of life
GRACE = 60  # seconds without one after which a trial is given up
PATIENCE = 120  # seconds that a process waits for a file that others write to
ATTEMPTS = 8  # to make tables that others are making too
CONNECT = 10  # seconds to reach a server
RETRIES = 3  # of a trial whose process dies each time
FAILURE = "kernelfield:failure"  # user attribute: why a trial failed
HISTORY = "retry_history"  # system attribute, as Optuna's: the numbers of the trials that this one repeats
ALIVE = "kernelfield:alive"  # system attribute in a journal: when a trial last gave a sign of life
NETWORK = ("nfs", "cifs", "smb", "sshfs", "lustre", "gpfs", "beegfs", "glusterfs", "ceph", "9p", "afs", "fuse.s3fs")
MOUNTS = Path("/proc/mounts")
STORAGE_ERRORS = (StorageInternalError, SQLAlchemyError, OSError)


def open_storage(url: str | None, *, beat: int = BEAT, grace: int = GRACE) -> BaseStorage:
    """The storage of an address; see the module docstring.

    Errors: ValueError for an address of no known form, or of a storage that cannot be reached;
    ImportError, with the remedy, without the driver of a database.
    """
    if url is None:
        return InMemoryStorage()
    if not isinstance(url, str):
        raise ValueError(f"a storage is an address, such as 'sqlite:///study.db', or one of Optuna's, got {url!r}")
    if url.startswith("journal:") or url.endswith((".journal", ".log")):
        return _journal(Path(url.removeprefix("journal:")), beat, grace)
    place = _parsed(url)
    if place.get_backend_name() == "sqlite":
        return _sqlite(place, beat, grace)
    return _server(place, beat, grace)


def shown(url: str) -> str:
    """An address without its password.

    >>> shown("postgresql://me:secret@host/trials")
    'postgresql://me:***@host/trials'
    """
    without = re.sub(r"(password|sslpassword)=[^&]*", r"\1=***", url, flags=re.IGNORECASE)
    return re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:***@", without)


def open_study(
    storage: BaseStorage,
    name: str,
    directions: Sequence[str],
    parameters: Mapping[str, BaseDistribution],
    sampler: BaseSampler,
) -> Study:
    """The study of a name, made if there is none yet.

    Errors: ValueError if it is there with other directions, or with trials of other parameters, or other kinds or
        choices of them; bounds may change.
    """
    wanted = cast(list[Literal["minimize", "maximize"]], list(directions))
    study = create_study(storage=storage, study_name=name, directions=wanted, sampler=sampler, load_if_exists=True)
    there = tuple(direction.name.lower() for direction in study.directions)
    if there != tuple(directions):
        raise ValueError(
            f"the study {name!r} is there already and is to {' and '.join(there)}, not to {' and '.join(directions)}; "
            "give this one another name"
        )
    trials = study.get_trials(deepcopy=False)
    others = {one: trial.number for trial in trials for one in trial.distributions}
    strange = [one for one in others if one not in parameters]
    if strange:
        raise ValueError(
            f"the study {name!r} is there already with other parameters: its trial {others[strange[0]]} has "
            f"{', '.join(map(repr, strange))}, the space only {', '.join(map(repr, parameters))}; "
            "give this one another name"
        )
    for one, number in others.items():
        before = trials[number].distributions[one]
        try:
            check_distribution_compatibility(before, parameters[one])
        except ValueError:
            raise ValueError(
                f"the study {name!r} is there already with another {one!r}: its trial {number} has it in {before}, "
                f"the space in {parameters[one]}; give this one another name"
            ) from None
    return study


def queue_again(study: Study, trial: FrozenTrial) -> None:
    """Queue the point of a trial that was not finished; what was said of it beforehand goes with it."""
    kept = {key: value for key, value in trial.system_attrs.items() if key.startswith((TOLD, "fixed_params"))}
    history = [*trial.system_attrs.get(HISTORY, []), trial.number]
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            system_attrs=kept | {HISTORY: history},
        )
    )


def repeated(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of trials whose points were queued again, and which therefore count for nothing."""
    return {number for trial in trials for number in trial.system_attrs.get(HISTORY, [])}


def give_up(study: Study, trial_id: int, why: str, *, most: float = math.inf) -> bool:
    """Mark a trial as failed, and queue its point again unless that has happened so often; False if it has ended."""
    storage = study._storage
    trial = storage.get_trial(trial_id)
    again = len(trial.system_attrs.get(HISTORY, [])) < most and bool(trial.params)
    try:
        storage.set_trial_user_attr(trial_id, FAILURE, f"{why}; {'queued again' if again else 'given up'}")
        if not storage.set_trial_state_values(trial_id, state=TrialState.FAIL):
            return False
    except UpdateFinishedTrialError:
        return False
    if again:
        queue_again(study, trial)
    return True


def give_up_stale(study: Study) -> int:
    """Give up the trials whose process no longer answers; how many."""
    living = heart(study._storage)
    if living is None:
        return 0
    stale = living._get_stale_trial_ids(study._study_id)
    return sum(give_up(study, one, "its process no longer answered", most=RETRIES) for one in stale)


def heart(storage: BaseStorage) -> BaseHeartbeat | None:
    """The storage, if its trials give signs of life."""
    return cast(BaseHeartbeat, storage) if is_heartbeat_enabled(storage) else None


class Journal(JournalStorage, BaseHeartbeat):
    """A journal whose trials give signs of life, as those of Optuna's databases do.

    They are times of the clocks of the machines that share it, which must agree to within the grace period.
    """

    def __init__(self, path: Path, beat: int, grace: int) -> None:
        super().__init__(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
        self._beat, self._grace = beat, grace

    def record_heartbeat(self, trial_id: int) -> None:
        with suppress(UpdateFinishedTrialError):  # it may have ended between two beats
            self.set_trial_system_attr(trial_id, ALIVE, time.time())

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        running = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        latest = time.time() - self._grace
        return [t._trial_id for t in running if t.system_attrs.get(ALIVE, latest) < latest]

    def get_heartbeat_interval(self) -> int:
        return self._beat

    def get_heartbeat_stale_trial_callback(self) -> Any:
        return queue_again


def _journal(path: Path, beat: int, grace: int) -> Journal:
    _require_folder(path)
    try:
        return Journal(path, beat, grace)
    except OSError as error:
        raise ValueError(f"the journal {path} cannot be opened: {error.strerror}") from error
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is no journal of Optuna's; give the name of another file") from error


def _sqlite(place: URL, beat: int, grace: int) -> RDBStorage:
    if place.database and place.database != ":memory:":
        path = Path(place.database)
        _require_folder(path)
        kind = network(path)
        if kind is not None:
            warnings.warn(
                f"{path} lies on a network file system ({kind}), where SQLite may be damaged by several writers; "
                f"use journal:{path.with_suffix('.journal')} or a PostgreSQL server",
                stacklevel=4,
            )
    storage = _database(place, beat, grace, {"connect_args": {"timeout": PATIENCE}})
    _write_in_turn(storage.engine)
    return storage


def _server(place: URL, beat: int, grace: int) -> RDBStorage:
    settings: dict[str, Any] = {"pool_pre_ping": True}
    if place.get_backend_name() == "postgresql":
        if place.drivername == "postgresql":
            place = place.set(drivername="postgresql+psycopg")
        settings["connect_args"] = {"connect_timeout": CONNECT}
        if place.drivername == "postgresql+psycopg" and find_spec("psycopg") is None:
            raise ImportError("a PostgreSQL storage needs psycopg; pip install 'kernelfield[postgresql]'")
    return _database(place, beat, grace, settings)


def _database(place: URL, beat: int, grace: int, settings: dict[str, Any]) -> RDBStorage:
    url = place.render_as_string(hide_password=False)
    for attempt in range(ATTEMPTS):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return RDBStorage(
                    url,
                    settings,
                    heartbeat_interval=beat,
                    grace_period=grace,
                    heartbeat_stale_trial_callback=queue_again,
                )
        except ImportError:
            raise ImportError(f"the driver of {place.drivername} is not installed; install it, or use sqlite") from None
        except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:
            why = _reason(error, place)
            # Of processes that make the tables at once, all but one fail.
            if attempt == ATTEMPTS - 1 or not re.search("exist|unique|duplicate|locked", why, re.IGNORECASE):
                raise ValueError(f"the storage {shown(url)} cannot be used: {why}") from None
            time.sleep(0.1 * 2**attempt)
    raise AssertionError


def _reason(error: Exception, place: URL) -> str:
    """The first line of what a driver says, without the password, whatever it says of it."""
    cause = getattr(error, "orig", None) or error
    line = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
    for secret in (place.password, place.query.get("password")):
        line = line.replace(str(secret), "***") if secret else line
    return line


def _write_in_turn(engine: Engine) -> None:
    """Let each transaction of SQLite wait for the file at its start.

    One that begins by reading and writes later fails at once, whatever its timeout, if another
    has written in between.
    """

    @event.listens_for(engine, "connect")
    def leave_transactions(connection: Any, record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections of before do not know this


def network(path: Path) -> str | None:
    """The kind of network file system that a path lies on, or None."""
    try:
        mounts = [line.split()[1:3] for line in MOUNTS.read_text().splitlines()]
    except OSError:  # a system that lists them elsewhere
        return None
    whole = path.absolute().parent.resolve()
    over = [(place, kind) for place, kind in mounts if whole.is_relative_to(place.replace("\\040", " "))]
    kind = max(over, key=lambda one: len(one[0]))[1] if over else ""
    return kind if any(word in kind for word in NETWORK) else None


def _parsed(url: str) -> URL:
    place, _, options = url.partition("?")
    if (
        place.count("@") > 1 or "@" in options
    ):  # what stands after the first one would be taken for the host, and be named
        raise ValueError(f"the address {shown(url)} has an @ too many; write one in a password as %40")
    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # whose words may hold the password
        raise ValueError(
            f"{shown(url)!r} is no address of a storage; write sqlite:///FILE.db, journal:FILE or "
            "postgresql://USER:PASSWORD@HOST/DATABASE"
        ) from None


def _require_folder(path: Path) -> None:
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"the folder {folder} of the storage {path} does not exist; make it first")


@contextmanager
def without_advice() -> Iterator[None]:
    """Keep back Optuna's word that signs of life are only given within Study.optimize; here they are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")
        yield
