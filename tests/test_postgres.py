"""Studies are stored in a PostgreSQL of the tests' own, which leaves nothing behind."""

import tempfile
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage

from tests.postgres import Server, missing, server


def quiet(url: str) -> RDBStorage:
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})


def test_a_study_outlives_its_connection(postgres: str) -> None:
    first = quiet(postgres)
    study = optuna.create_study(study_name="s", storage=first)
    study.add_trial(
        optuna.create_trial(
            params={"x": 0.25}, distributions={"x": optuna.distributions.FloatDistribution(0, 1)}, value=2.0
        )
    )
    first.engine.dispose()
    second = quiet(postgres)
    again = optuna.load_study(study_name="s", storage=second)
    assert [trial.params for trial in again.trials] == [{"x": 0.25}]
    assert again.best_value == 2.0
    second.engine.dispose()


def test_each_test_has_a_database_of_its_own(postgres: str, postgres_server: Server) -> None:
    storage = quiet(postgres)
    assert optuna.get_all_study_names(storage) == []
    storage.engine.dispose()
    assert postgres_server.ready()


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_a_server_stops_and_its_directory_goes_when_a_test_fails() -> None:
    seen: list[Path] = []

    def fail() -> None:
        with server() as running:
            process = (running.folder / "data" / "postmaster.pid").read_text().split()[0]
            seen.extend([running.folder, Path("/proc") / process])
            assert running.ready() and all(path.exists() for path in seen)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(seen) == 2
    assert not any(path.exists() for path in seen)


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_a_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.postgres.HASTE", ("no_such_setting=1",))
    folders: list[str] = []
    make = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **options: folders.append(make(**options)) or folders[-1])
    with pytest.raises(RuntimeError, match="no_such_setting"), server():
        pass
    assert len(folders) == 1
    assert not Path(folders[0]).exists()
