"""Fits that ranks share are the fits of one process."""

import pytest
from torch.testing import assert_close

from kernelfield.linalg.ranks import ALONE
from tests.distributed import tasks
from tests.distributed.jobs import together


def agree(answers, alone, tolerance=1e-10):
    for name, value in alone.items():
        assert_close(answers[0][name], value, rtol=0, atol=tolerance, equal_nan=True)
        for other in answers[1:]:
            assert_close(other[name], answers[0][name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("members", "weighted", "world"),
    [pytest.param(1, False, 2, marks=pytest.mark.slow), (1, True, 4), (3, False, 2)],
    ids=["rows of a batch", "weighted rows of uneven parts", "members"],
)
def test_networks(members: int, weighted: bool, world: int) -> None:
    alone = tasks.networks(ALONE, members, weighted)
    assert (alone["losses"].nanmean(1)[-5:].mean() < alone["losses"].nanmean(1)[:5].mean()).item()
    agree(together(tasks.networks, world, members, weighted), alone)


def test_sums_over_rows_of_which_each_rank_has_some() -> None:
    alone = tasks.sums(ALONE)
    agree(together(tasks.sums, 4), alone)


def test_a_variational_process() -> None:
    alone = tasks.inducing(ALONE)
    agree(together(tasks.inducing, 2), alone, tolerance=1e-8)
