"""What is written to disk: a folder, whole or not at all, and texts beside a model."""

from pathlib import Path

import numpy as np
import pytest

from kernelfield.estimators import persistence
from kernelfield.estimators.persistence import load, load_extra, require_savable, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.process import Process

RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, (40, 3))


def fitted(model: Process | None = None) -> FieldRegressor:
    return FieldRegressor(model or Process(steps=3), random_state=1).fit(X, np.sin(X[:, 0]) + 100.0)


class TestFolder:
    """A folder appears whole or not at all, and replaces nothing but a saved model."""

    def test_a_model_replaces_an_older_one(self, tmp_path: Path) -> None:
        save(fitted(), tmp_path / "model", extra={"note.txt": "old"})
        newer = fitted(Process("rbf", steps=2))
        save(newer, str(tmp_path / "model"))
        assert [p.name for p in tmp_path.iterdir()] == ["model"]
        assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["model.json", "tensors.safetensors"]
        np.testing.assert_array_equal(load(tmp_path / "model").predict(X), newer.predict(X))

    def test_an_empty_folder_is_filled(self, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        save(fitted(), tmp_path / "model")
        load(tmp_path / "model")

    @pytest.mark.parametrize("step", ["serialized", "_swap"])
    def test_a_failure_on_the_way_keeps_the_old_model(self, step: str, tmp_path: Path, monkeypatch) -> None:
        old = fitted()
        save(old, tmp_path / "model")

        def fails(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(persistence, step, fails)
        with pytest.raises(OSError, match="No space left"):
            save(fitted(Process("rbf", steps=0)), tmp_path / "model")
        assert [p.name for p in tmp_path.iterdir()] == ["model"]
        np.testing.assert_array_equal(load(tmp_path / "model").predict(X), old.predict(X))

    def test_the_old_model_comes_back_if_the_new_one_cannot_take_its_place(self, tmp_path: Path, monkeypatch) -> None:
        old = fitted()
        save(old, tmp_path / "model")
        rename = Path.rename

        def refuses_the_new(self: Path, target: Path) -> Path:
            if self.suffix == ".part":
                raise OSError(5, "Input/output error")
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", refuses_the_new)
        with pytest.raises(OSError, match="Input/output"):
            save(fitted(Process("rbf", steps=0)), tmp_path / "model")
        monkeypatch.undo()
        assert [p.name for p in tmp_path.iterdir()] == ["model"]
        np.testing.assert_array_equal(load(tmp_path / "model").predict(X), old.predict(X))

    def test_files_have_the_permissions_of_any_new_file(self, tmp_path: Path) -> None:
        (tmp_path / "plain").mkdir()
        (tmp_path / "plain" / "file").touch()
        save(fitted(), tmp_path / "model", extra={"note.txt": ""})
        assert (tmp_path / "model").stat().st_mode == (tmp_path / "plain").stat().st_mode
        assert (tmp_path / "model" / "note.txt").stat().st_mode == (tmp_path / "plain" / "file").stat().st_mode

    def test_other_things_are_not_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "file").write_text("mine")
        save(fitted(), tmp_path / "model")
        (tmp_path / "model" / "thesis.tex").write_text("mine")
        cases = {
            "file": (FileExistsError, "is a file; give a path that is free"),
            "folder": (FileExistsError, "is a folder that is not a saved model"),
            "model": (FileExistsError, "also holds thesis.tex, which"),
            "absent/model": (FileNotFoundError, "absent does not exist; make it first"),
        }
        for name, (error, sentence) in cases.items():
            for attempt in (lambda path: save(fitted(), path), require_savable):
                with pytest.raises(error, match=sentence):
                    attempt(tmp_path / name)
        assert (tmp_path / "model" / "thesis.tex").read_text() == "mine"

    def test_asking_leaves_no_trace(self, tmp_path: Path) -> None:
        require_savable(tmp_path / "model")
        assert not list(tmp_path.iterdir())


class TestExtra:
    """Texts are kept beside a model."""

    def test_texts_come_back_as_they_were(self, tmp_path: Path) -> None:
        texts = {"encoding.json": '{"ä": 1}\r\n', "empty": ""}
        save(fitted(), tmp_path / "model", extra=texts)
        assert {name: load_extra(tmp_path / "model", name) for name in texts} == texts
        load(tmp_path / "model")

    @pytest.mark.parametrize("name", ["model.json", "tensors.safetensors", "a/b", "..", "", ".hidden", "/etc/passwd"])
    def test_a_name_that_is_not_plain_is_refused(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="plain name of its own"):
            save(fitted(), tmp_path / "model", extra={name: "text"})
        assert not list(tmp_path.iterdir())

    def test_a_text_that_was_not_saved_is_refused_with_those_that_were(self, tmp_path: Path) -> None:
        save(fitted(), tmp_path / "model", extra={"a.json": "", "b.json": ""})
        (tmp_path / "model" / "c.json").write_text("planted")
        for name in ("c.json", "../model/a.json", "model.json", "tensors.safetensors"):
            with pytest.raises(ValueError, match=r"only a.json, b.json"):
                load_extra(tmp_path / "model", name)

    def test_a_changed_text_is_refused(self, tmp_path: Path) -> None:
        save(fitted(), tmp_path / "model", extra={"a.json": "[1]"})
        (tmp_path / "model" / "a.json").write_text("[2]")
        with pytest.raises(ValueError, match=r"a.json was changed since it was saved"):
            load_extra(tmp_path / "model", "a.json")
