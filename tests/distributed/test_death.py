"""A rank that dies leaves a checkpoint from which the job goes on to the same answer."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch.testing import assert_close

from kernelfield.linalg.ranks import ALONE, RankLost
from tests.distributed import tasks
from tests.distributed.jobs import together


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Four turns of two ranks."""
    rng = np.random.default_rng(0)
    x = rng.random(8 * 2**16 - 5)
    y = np.sin(6 * x) + 0.1 * rng.standard_normal(len(x))  # without noise the sums hold few digits of what they tell
    pd.DataFrame({"x": x, "y": y}).to_parquet(tmp_path / "rows.parquet")
    return tmp_path


@pytest.mark.slow
def test_a_stream_goes_on_where_a_rank_has_died(rows: Path) -> None:
    died = together(tasks.stream, 2, str(rows), 1, timeout=10)
    assert isinstance(died[0], RankLost) and "rank 1 did not answer a roll call" in str(died[0])
    assert died[1] == -9
    (refused,) = together(tasks.stream, 1, str(rows), -1)
    assert isinstance(refused, ValueError) and "was kept by 2 ranks" in str(refused) and "start 2" in str(refused)
    went_on = together(tasks.stream, 2, str(rows), -1)
    assert went_on[0].pop("begun") == 2 * 2**17  # what the checkpoint had
    for part in rows.joinpath("checkpoint").iterdir():
        part.unlink()
    whole = tasks.stream(ALONE, str(rows), -1)
    for name, value in went_on[0].items():
        assert_close(value, whole[name], rtol=0, atol=1e-10)


def test_an_exact_process_goes_on_where_a_rank_has_died(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    whole = together(tasks.exact, 2, None, -1)[0]
    evaluations = whole.pop("evaluations")
    died = together(tasks.exact, 2, folder, 1, timeout=10)
    assert isinstance(died[0], RankLost) and died[1] == -9
    went_on = together(tasks.exact, 2, folder, -1)
    for answer in went_on:
        assert answer.pop("evaluations") == evaluations - 2  # two were kept
        for name, value in answer.items():
            assert_close(value, whole[name], rtol=0, atol=0)
