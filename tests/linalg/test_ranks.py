"""Ranks meet, and find out when one of them is no more."""

import pickle
import time

import pytest
import torch
from torch.testing import assert_close

from kernelfield.linalg.ranks import ALONE, RankLost, Ranks, here, join, leave
from tests.distributed import tasks
from tests.distributed.jobs import together

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "KERNELFIELD_TIMEOUT")


@pytest.fixture(autouse=True)
def outside_of_any_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("world", [2, 4])
def test_exchanges_give_every_rank_the_same(world: int) -> None:
    answers = together(tasks.exchanges, world)
    for answer in answers:
        assert_close(answer["sum"], torch.tensor([float(world), sum(range(world))]), rtol=0, atol=0)
        assert_close(answer["gather"], torch.arange(7.0)[:, None].expand(7, 2), rtol=0, atol=0)
        expected = torch.tensor([[rank] for rank in range(world) for _ in range(rank)])
        assert torch.equal(answer["gather unequal"], expected)
        assert answer["broadcast"].tolist() == [5, 0]
        assert torch.equal(answer["transposed"], world * torch.arange(6.0).reshape(2, 3).mT)
        assert answer["single"].dtype == torch.float32
        assert torch.equal(answer["single"], answers[0]["single"])


def test_one_process_is_a_world_of_its_own() -> None:
    rows = torch.randn(3, 2)
    assert join() is ALONE is here()
    assert ALONE.sum(rows) is rows and ALONE.gather(rows, 3) is rows and ALONE.broadcast(rows) is rows
    ALONE.barrier()
    leave()
    assert ALONE.rows(3) == slice(0, 3)
    assert pickle.loads(pickle.dumps(Ranks(2, 3))) is ALONE  # a place is that of the process, wherever it came from


@pytest.mark.parametrize("n", [4, 5, 6, 7, 1001])
def test_rows_are_shared_out_in_order(n: int) -> None:
    parts = [Ranks(rank, 4).rows(n) for rank in range(4)]
    assert [row for part in parts for row in range(n)[part]] == list(range(n))
    assert [part.stop - part.start for part in parts] == Ranks(0, 4).parts(n)
    assert max(Ranks(0, 4).parts(n)) - min(Ranks(0, 4).parts(n)) <= 1


def test_a_world_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="3 rows cannot be shared out among 4 ranks; start at most 3"):
        Ranks(0, 4).rows(3)
    with pytest.raises(ValueError, match="rank 2 of a world of 2 there is not; ranks run from 0 to 1"):
        join("file:///nowhere", rank=2, world=2)
    with pytest.raises(ValueError, match="timeout must be a positive number of seconds, got -1"):
        join(timeout=-1)
    monkeypatch.setenv("KERNELFIELD_TIMEOUT", "soon")
    with pytest.raises(ValueError, match="timeout must be a positive number of seconds, got soon"):
        join()
    monkeypatch.delenv("KERNELFIELD_TIMEOUT")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="WORLD_SIZE in the environment must be a whole number, got 'two'"):
        join()


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(
        ValueError, match="rank 5 needs GPU number 1 of its machine, which has 1; start at most 1 ranks"
    ):
        join("file:///nowhere", rank=5, world=8, device="cuda")


def test_ranks_that_do_not_come_are_missed(tmp_path) -> None:
    began = time.monotonic()
    with pytest.raises(RankLost, match=r"rank 0 did not meet the others of 2 at file://.* within 1 s; start all of"):
        join(f"file://{tmp_path}/meeting", rank=0, world=2, timeout=1)
    assert time.monotonic() - began < 10
    assert here() is ALONE
    with pytest.raises(ValueError, match="rank 0 is taken; number the ranks from 0 to 1"):
        join(f"file://{tmp_path}/meeting", rank=0, world=2, timeout=1)


def test_ranks_that_were_told_of_different_worlds_do_not_begin(tmp_path) -> None:
    with pytest.raises(RankLost):
        join(f"file://{tmp_path}/meeting", rank=0, world=2, timeout=1)
    with pytest.raises(ValueError, match="rank 0 was told of 2 ranks in all, rank 1 of 3; tell all the same"):
        join(f"file://{tmp_path}/meeting", rank=1, world=3, timeout=1)


@pytest.mark.parametrize("how", ["dies", "stops"])
def test_a_rank_that_is_lost_ends_the_work_of_the_others(how: str) -> None:
    began = time.monotonic()
    answers = together(tasks.meet, 3, 1, how, timeout=2)
    assert time.monotonic() - began < 30
    for rank in (0, 2):
        assert isinstance(answers[rank], RankLost)
        assert "a sum over 3 ranks came to no end: rank 1 did not answer a roll call" in str(answers[rank])
    assert answers[1] == -9
