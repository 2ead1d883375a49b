"""The jitter ladder: enough for rounding, never for a wrong matrix; and memory, asked for first."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.numerics import (
    NotPositiveDefinite,
    cholesky,
    free_memory,
    placed,
    require_memory,
    require_room,
    rounding,
    schur,
    slow_functions,
    threads_for,
)

REGULAR = torch.tensor([[4.0, 2.0], [2.0, 3.0]], dtype=torch.float64)
SINGULAR = torch.ones(2, 2, dtype=torch.float64) - 1e-13 * torch.eye(2, dtype=torch.float64)


def test_a_regular_matrix_is_factored_exactly():
    assert_close(cholesky(REGULAR), torch.tensor([[2.0, 0.0], [1.0, 2**0.5]], dtype=torch.float64))


def test_only_the_lower_triangle_is_read():
    assert_close(cholesky(REGULAR.tril()), cholesky(REGULAR), atol=0, rtol=0)


def test_a_singular_matrix_is_factored_to_within_the_ladder():
    factor = cholesky(SINGULAR)
    assert_close(factor @ factor.mT, SINGULAR, atol=1e-6, rtol=0)


def test_a_neighbour_in_the_batch_changes_nothing():
    assert_close(cholesky(torch.stack([REGULAR, SINGULAR]))[0], cholesky(REGULAR), atol=0, rtol=0)


def test_an_indefinite_matrix_is_an_error_that_names_the_eigenvalue_and_the_remedy():
    with pytest.raises(NotPositiveDefinite, match="eigenvalue is -1; raise the noise"):
        cholesky(torch.diag(torch.tensor([1.0, -1.0])))


def test_a_matrix_with_nan_is_named_as_such():
    with pytest.raises(NotPositiveDefinite, match="NaN or infinite"):
        cholesky(torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]]))


def test_schur_stays_positive_when_the_difference_vanishes():
    half = torch.linalg.cholesky(REGULAR).mT
    cholesky(schur(REGULAR, half))
    assert (rounding(REGULAR.diagonal(), half) > 0).all()


def test_memory_is_refused_before_it_is_allocated():
    free = free_memory(torch.device("cpu"))
    require_memory(free // 2, torch.device("cpu"), what="half", remedy="none")
    with pytest.raises(MemoryError, match=r"a fit needs about .* GiB of memory and .* GiB are free; use less"):
        require_memory(2 * free, torch.device("cpu"), what="a fit", remedy="use less")


def test_rows_that_there_is_room_for_are_counted(monkeypatch):
    monkeypatch.setattr("kernelfield.core.numerics.free_memory", lambda device: 10_000)
    require_room(33, 8, torch.device("cpu"), what="a fit")
    with pytest.raises(MemoryError, match=r"a fit needs about .*; fit a random sample of at most 33 rows instead"):
        require_room(34, 8, torch.device("cpu"), what="a fit")


@pytest.mark.parametrize(("n", "expected"), [(10, 1), (5000, 2)])
def test_small_loops_run_on_one_thread_and_leave_the_others_as_they_were(n, expected):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(n):
            inside = torch.get_num_threads()
        assert (inside, torch.get_num_threads()) == (expected, 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("maker", "mkl", "slow"),
    [("AuthenticAMD", True, True), ("AuthenticAMD", False, False), ("GenuineIntel", True, False)],
)
def test_functions_are_slow_where_mkl_serves_others(maker, mkl, slow, monkeypatch):
    monkeypatch.setattr("pathlib.Path.exists", lambda self: False)
    monkeypatch.setattr("platform.processor", lambda: f"a processor of {maker}")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert slow_functions.__wrapped__() == slow


def test_tensors_of_a_file_have_memory_of_their_own():
    whole = torch.arange(9.0)
    part = placed({"part": whole[1:]})["part"]
    assert torch.equal(part, whole[1:])
    assert part.data_ptr() % 16 == 0
    assert part.untyped_storage().nbytes() == part.nbytes
