"""A command on several ranks: one speaks, and whoever fails says why."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kernelfield.commands.console import out
from kernelfield.commands.launch import PLACE, launched
from kernelfield.linalg.ranks import ALONE, here

RUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "kernelfield"]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "OMP_NUM_THREADS": "1", "KERNELFIELD_TIMEOUT": "60"}
    return subprocess.run([*RUN, *words], cwd=folder, env=given, capture_output=True, text=True, timeout=240)


def test_one_process_joins_nobody() -> None:
    with launched("solve") as ranks:
        assert ranks is ALONE is here() and not out.quiet


def test_a_command_that_cannot_be_shared_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernelfield.commands.launch.join", lambda **_: type("Two", (), {"world": 2})())
    with pytest.raises(ValueError, match="solve runs in one process, and 2 were started"), launched("solve"):
        pass


@pytest.mark.slow
def test_torchrun_fits_once_and_speaks_once(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((300, 2))
    pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": np.sin(5 * x[:, 0])}).to_csv(tmp_path / "t.csv", index=False)
    words = ("fit", "t.csv", "--target", "y", "--model", "random-features", "--checkpoint", "kept")
    done = run(tmp_path, *words, "-o", "model", "--json", "scores.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("learned from") == 1
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert np.isfinite(scores["rmse"] if "rmse" in scores else next(iter(scores.values())))
    failed = run(tmp_path, "fit", "t.csv", "--target", "z", "-o", "other")
    assert failed.returncode == 1 and failed.stderr.count("error: ") == 1 and not (tmp_path / "other").exists()
