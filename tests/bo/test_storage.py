"""Storages open or say why not, without a password; trials without a sign of life are queued again."""

import time
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from kernelfield.bo import storage as module
from kernelfield.bo.storage import (
    FAILURE,
    HISTORY,
    RETRIES,
    Journal,
    give_up,
    give_up_stale,
    heart,
    network,
    open_storage,
    open_study,
    repeated,
    shown,
    without_advice,
)

SECRET = "hun7/qzx@wvk"
UNIT = FloatDistribution(0.0, 1.0)


def study_in(storage: BaseStorage, name: str = "s") -> optuna.Study:
    return open_study(storage, name, ["minimize"], {"x": UNIT}, RandomSampler(seed=0))


def asked(study: optuna.Study) -> optuna.Trial:
    with without_advice():
        trial = study.ask()
    trial.suggest_float("x", 0, 1)
    return trial


@pytest.fixture(params=["sqlite", "journal"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"sqlite": f"sqlite:///{tmp_path}/s.db", "journal": f"journal:{tmp_path}/s.jsonl"}[request.param]


def test_addresses_name_their_storages(tmp_path: Path) -> None:
    assert isinstance(open_storage(None), InMemoryStorage)
    assert heart(open_storage(None)) is None
    for path in (f"journal:{tmp_path}/a", f"{tmp_path}/b.journal", f"{tmp_path}/c.log"):
        assert isinstance(open_storage(path), Journal)
    assert heart(open_storage(f"sqlite:///{tmp_path}/d.db", beat=3)).get_heartbeat_interval() == 3  # type: ignore[union-attr]


def test_a_path_is_no_address(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a storage is an address, such as 'sqlite:///study.db'"):
        open_storage(tmp_path / "s.db")  # type: ignore[arg-type]


def test_a_study_is_taken_up_again(url: str) -> None:
    study = study_in(open_storage(url))
    study.tell(asked(study), 2.0)
    again = study_in(open_storage(url))
    assert [trial.value for trial in again.trials] == [2.0]
    assert len(study_in(open_storage(url), "another").trials) == 0


def test_a_study_of_other_directions_or_parameters_is_refused(url: str) -> None:
    storage = open_storage(url)
    study = study_in(storage)
    with pytest.raises(ValueError, match="'s' is there already and is to minimize, not to maximize and minimize"):
        open_study(storage, "s", ["maximize", "minimize"], {"x": UNIT}, RandomSampler())
    open_study(storage, "s", ["minimize"], {"y": UNIT}, RandomSampler())  # nothing speaks against it yet
    study.tell(asked(study), 1.0)
    with pytest.raises(ValueError, match="other parameters: its trial 0 has 'x', the space only 'y'; give this one"):
        open_study(storage, "s", ["minimize"], {"y": UNIT}, RandomSampler())
    for other in (IntDistribution(0, 1), FloatDistribution(0.1, 1.0, log=True), CategoricalDistribution([0.0, 1.0])):
        with pytest.raises(
            ValueError, match="there already with another 'x': its trial 0 has it in Float.*; give this"
        ):
            open_study(storage, "s", ["minimize"], {"x": other}, RandomSampler())
    assert len(open_study(storage, "s", ["minimize"], {"x": FloatDistribution(0.0, 9.0)}, RandomSampler()).trials) == 1


def test_a_trial_without_a_sign_of_life_fails_and_is_queued_again(url: str) -> None:
    storage = open_storage(url, beat=1, grace=1)
    living = heart(storage)
    assert living is not None
    study = study_in(storage)
    dead, alive, silent = (asked(study) for _ in range(3))
    for one in (dead, alive):
        living.record_heartbeat(one._trial_id)
    assert give_up_stale(study) == 0
    time.sleep(2.2)  # SQLite keeps whole seconds
    living.record_heartbeat(alive._trial_id)
    assert give_up_stale(study) == 1
    trials = study.trials
    assert [trial.state for trial in trials] == [
        TrialState.FAIL,
        TrialState.RUNNING,
        TrialState.RUNNING,  # nobody has said that it would give signs of life
        TrialState.WAITING,
    ]
    assert trials[0].user_attrs[FAILURE] == "its process no longer answered; queued again"
    assert trials[3].params == dead.params
    assert repeated(trials) == {0}
    assert asked(study).params == dead.params
    assert give_up_stale(study) == 0
    assert silent.number == 2


def test_a_point_whose_process_dies_each_time_is_given_up_at_last(url: str) -> None:
    study = study_in(open_storage(url))
    first = asked(study)
    assert give_up(study, first._trial_id, "gone", most=RETRIES)
    for count in range(RETRIES):
        one = asked(study)
        assert one.params == first.params
        assert len(study.trials[one.number].system_attrs[HISTORY]) == count + 1
        assert give_up(study, one._trial_id, "gone", most=RETRIES)
    assert study.trials[-1].user_attrs[FAILURE] == "gone; given up"
    assert repeated(study.trials) == set(range(RETRIES))
    assert asked(study).params != first.params


def test_a_trial_that_has_ended_is_not_given_up(url: str) -> None:
    study = study_in(open_storage(url))
    trial = asked(study)
    study.tell(trial, 1.0)
    assert not give_up(study, trial._trial_id, "gone")
    assert [one.state for one in study.trials] == [TrialState.COMPLETE]
    living = heart(study._storage)
    assert living is not None
    living.record_heartbeat(trial._trial_id)  # a beat that comes late is no error


def test_no_address_is_shown_with_its_password() -> None:
    assert shown(f"postgresql://me:{SECRET}@host:5432/db") == "postgresql://me:***@host:5432/db"
    assert (
        shown(f"postgresql://host/db?user=me&password={SECRET}&x=1") == "postgresql://host/db?user=me&password=***&x=1"
    )
    assert shown("sqlite:///a.db") == "sqlite:///a.db"


UNREACHABLE = {
    "no server": (f"postgresql://me:{SECRET.replace('@', '')}@127.0.0.1:1/db", "cannot be used: .*refused"),
    "a password with an @": (
        f"postgresql://me:{SECRET}@127.0.0.1:1/db",
        "has an @ too many; write one in a password as %40",
    ),
    "a password in its own letters": ("postgresql://me:hun7%2Fqzx%40wvk@127.0.0.1:1/db", "cannot be used: .*refused"),
    "a port of words": ("postgresql://me:hun7@host:port/db", "is no address of a storage"),
    "an unknown kind": ("nosuch://me:hun7@host/db", "cannot be used"),
    "no address": ("me-at-host", "is no address of a storage; write sqlite:///FILE.db"),
    "an option": ("postgresql://127.0.0.1:1/db?password=hun7/qzx", "cannot be used: .*refused"),
    "an option with an @": (f"postgresql://127.0.0.1:1/db?password={SECRET}", "has an @ too many"),
}


@pytest.mark.parametrize(("address", "sentence"), UNREACHABLE.values(), ids=UNREACHABLE)
def test_a_storage_that_cannot_be_reached_is_named_without_its_password(address: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        open_storage(address)
    said = str(raised.value) + str(raised.value.__cause__)
    assert not any(part in said for part in ("hun7", "qzx", "wvk"))


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'kernelfield\[postgresql\]'") as raised:
        open_storage("postgresql://me:hun7@host/db")
    assert "hun7" not in str(raised.value)
    with pytest.raises(ImportError, match="the driver of mysql is not installed"):
        open_storage("mysql://me:hun7@host/db")


def test_a_file_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for address in (f"sqlite:///{tmp_path}/no/a.db", f"journal:{tmp_path}/no/a"):
        with pytest.raises(ValueError, match="the folder .*no of the storage .* does not exist; make it first"):
            open_storage(address)
    (tmp_path / "text.db").write_text("no database " * 100)
    with pytest.raises(ValueError, match="text.db cannot be used: file is not a database"):
        open_storage(f"sqlite:///{tmp_path}/text.db")
    (tmp_path / "text.log").write_text("no journal\n" * 3)
    with pytest.raises(ValueError, match="is no journal of Optuna's"):
        open_storage(f"{tmp_path}/text.log")


def test_sqlite_on_a_network_share_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = tmp_path / "a share"
    share.mkdir()
    mounts = tmp_path / "mounts"
    place = str(share).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {place} nfs4 rw 0 0\n")
    monkeypatch.setattr(module, "MOUNTS", mounts)
    assert network(share / "s.db") == "nfs4"
    assert network(tmp_path / "s.db") is None
    with pytest.warns(
        UserWarning, match=r"lies on a network file system \(nfs4\).*use journal:.*s\.journal or a Postgre"
    ):
        open_storage(f"sqlite:///{share}/s.db")
    open_storage(f"sqlite:///{tmp_path}/s.db")
    open_storage(f"journal:{share}/s.journal")
    monkeypatch.setattr(module, "MOUNTS", tmp_path / "not there")
    assert network(share / "s.db") is None
