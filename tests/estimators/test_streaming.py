"""A fit to batches is the fit to the rows, and a fit that was stopped ends where it would have ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from kernelfield.estimators.checkpoints import LEARNER, START, STREAM
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.estimators.streaming import Arrays, Overview, Progress, fit_batches
from kernelfield.models.process import Process
from kernelfield.models.random_features import RandomFeatureProcess
from kernelfield.models.sparse import SparseProcess
from kernelfield.models.svgp import VariationalProcess

MODEL = RandomFeatureProcess(count=16, restarts=1, steps=2)
ROWS = 1000


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernelfield.estimators.streaming.BLOCK", 64)
    monkeypatch.setattr("kernelfield.core.streaming.Learner.batch", 64)


@dataclass(frozen=True)
class Rows:
    """Arrays as a source; every tenth row lacks a target where `gaps`."""

    seed: int = 0
    rows: int = ROWS
    gaps: bool = False
    sampled: int = 200

    @property
    def identity(self) -> dict[str, object]:
        return {"rows": self.rows, "files": {"a.parquet": f"{self.seed} bytes"}}

    @property
    def columns(self) -> list[str]:
        return ["a", "b"]

    @property
    def total(self) -> int:
        return self.rows

    def arrays(self) -> Arrays:
        rng = np.random.default_rng(self.seed)
        X = rng.uniform(5, 9, (self.rows, 2))
        return X, 100 + 3 * np.sin(X[:, :1]) + X[:, 1:] + 0.1 * rng.standard_normal((self.rows, 1))

    def overview(self, watch: Callable[[int], None]) -> Overview:
        watch(self.rows)
        X, Y = self._kept(slice(None))
        return Overview(
            X[: self.sampled], Y[: self.sampled], len(X), self.rows - len(X), X.mean(0), X.std(0), Y.mean(0), Y.std(0)
        )

    def batches(self, size: int, start: int) -> Iterator[Arrays]:
        for first in range(start, self.rows, size):
            yield self._kept(slice(first, first + size))

    def _kept(self, part: slice) -> Arrays:
        X, Y = (array[part] for array in self.arrays())
        known = np.arange(self.rows)[part] % 10 > 0 if self.gaps else np.full(len(X), True)
        return X[known], Y[known]


def test_the_rows_in_batches_give_the_fit_to_all_of_them() -> None:
    source = Rows(sampled=ROWS)
    X, Y = source.arrays()
    for model in (MODEL, SparseProcess(inducing=10, restarts=1, steps=2)):
        whole = FieldRegressor(model, random_state=0).fit(named(X), Y[:, 0])
        seed = int(np.random.RandomState(0).randint(2**31))  # what the estimator hands to its generator
        streamed = fit_batches(model, source, seed=seed)
        for one, other in zip(
            streamed.predict(named(X[:50]), return_std=True), whole.predict(named(X[:50]), return_std=True), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-8)
        assert streamed.n_samples_fit_ == ROWS


def test_the_estimator_is_one_like_others(tmp_path: Path) -> None:
    fitted = fit_batches(MODEL, Rows(gaps=True))
    assert fitted.n_samples_fit_ == 900
    assert fitted.notes_[0] == "100 rows were left out for want of a target"
    assert list(fitted.feature_names_in_) == ["a", "b"]
    X, Y = Rows(gaps=True).arrays()
    mean = fitted.predict(named(X))
    assert mean.shape == (ROWS,)
    assert np.sqrt(np.mean((mean - Y[:, 0]) ** 2)) < 0.3
    save(fitted, tmp_path / "m")
    np.testing.assert_array_equal(load(tmp_path / "m").predict(named(X)), mean)


class Counts(Rows):
    def arrays(self) -> Arrays:
        X, Y = super().arrays()
        return X, np.random.default_rng(1).poisson(np.exp(Y - 105))


def test_counts_are_not_standardised() -> None:
    model = VariationalProcess("rbf", "poisson", inducing=6, epochs=1, least_steps=10, restarts=1, steps=5)
    fitted = fit_batches(model, Counts())
    X, Y = Counts().arrays()
    mean = fitted.predict(named(X))
    assert mean.mean() == pytest.approx(Y.mean(), rel=0.1)  # 1000 rows of a few counts each
    law = fitted.posterior(named(X[:5]))
    np.testing.assert_array_equal(law.quantile(0.9), law.quantile(0.9).round())


def named(X: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(X, columns=["a", "b"])


def stopping(at: int, number: int) -> Callable[[Progress], None]:
    """A watch that sends a signal to its own process at the so-many-th word of learning."""
    count = [0]

    def watch(progress: Progress) -> None:
        count[0] += progress.stage == "learning"
        if count[0] == at:
            os.kill(os.getpid(), number)

    return watch


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_fit_that_is_told_to_stop_keeps_what_it_has_and_goes_on(
    tmp_path: Path, number: int, expected: type[BaseException]
) -> None:
    before = signal.getsignal(number)
    straight = fit_batches(MODEL, Rows())
    with pytest.raises(expected):
        fit_batches(MODEL, Rows(), checkpoint=tmp_path / "c", watch=stopping(4, number))
    assert signal.getsignal(number) is before
    # The word of the fourth batch is heard before the fifth begins.
    assert load_file(tmp_path / "c" / LEARNER)["place"].tolist()[:3] == [0, 4 * 64, 64]
    told: list[Progress] = []
    again = fit_batches(MODEL, Rows(), checkpoint=tmp_path / "c", watch=told.append)
    assert next(word.rows for word in told if word.stage == "learning") == 4 * 64
    assert not any(word.stage == "reading" for word in told)  # the first pass is not made again
    X = Rows().arrays()[0]
    np.testing.assert_array_equal(again.predict(named(X)), straight.predict(named(X)))
    assert again.surrogate_.inner.noise == straight.surrogate_.inner.noise


CHILD = """
import os, signal, sys
import torch
torch.set_default_dtype(torch.float64)
import kernelfield.estimators.streaming as streaming
from kernelfield.core.streaming import Learner
from tests.estimators.test_streaming import MODEL, Rows, stopping
streaming.BLOCK = Learner.batch = 64
streaming.fit_batches(MODEL, Rows(), checkpoint=sys.argv[1], every=0.0, watch=stopping(7, signal.SIGKILL))
"""


@pytest.mark.slow  # a process of its own imports all
def test_a_fit_that_was_killed_ends_at_the_same_bits(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "c")], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert 0 < load_file(tmp_path / "c" / LEARNER)["place"][1] <= 7 * 64
    X = Rows().arrays()[0]
    again = fit_batches(MODEL, Rows(), checkpoint=tmp_path / "c")
    np.testing.assert_array_equal(again.predict(named(X)), fit_batches(MODEL, Rows()).predict(named(X)))
    assert {path.name for path in (tmp_path / "c").iterdir()} == {STREAM, START, LEARNER}


def test_a_checkpoint_of_another_fit_is_refused_with_what_differs(tmp_path: Path) -> None:
    fit_batches(MODEL, Rows(), checkpoint=tmp_path)
    done = fit_batches(MODEL, Rows(), checkpoint=tmp_path)  # a finished one gives its result at once
    assert done.n_samples_fit_ == ROWS
    other = RandomFeatureProcess(count=18, restarts=1, steps=2)
    for model, source, seed, words in (
        (other, Rows(), 0, "model.count was 16 and is 18 now"),
        (SparseProcess(), Rows(), 0, "model.class was RandomFeatureProcess and is SparseProcess now"),
        (MODEL, Rows(), 1, "seed was 0 and is 1 now"),
        (MODEL, Rows(rows=999), 0, "rows was 1000 and is 999 now"),
        (MODEL, Rows(seed=3), 0, r"files.a.parquet was 0 bytes and is 3 bytes now"),
    ):
        with pytest.raises(ValueError, match=words):
            fit_batches(model, source, seed=seed, checkpoint=tmp_path)
    (tmp_path / LEARNER).write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="cannot be read"):
        fit_batches(MODEL, Rows(), checkpoint=tmp_path)
    (tmp_path / STREAM).write_text("{}")
    with pytest.raises(ValueError, match="is no checkpoint"):
        fit_batches(MODEL, Rows(), checkpoint=tmp_path)
    (tmp_path / STREAM).unlink()
    with pytest.raises(ValueError, match="give an empty folder"):
        fit_batches(MODEL, Rows(), checkpoint=tmp_path)


def test_what_cannot_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="Process learns from all rows at once; to stream, take"):
        fit_batches(Process(), Rows())
    with pytest.raises(ValueError, match="at least 2 rows with a target, got 1"):
        fit_batches(MODEL, replace(Rows(), rows=1))
