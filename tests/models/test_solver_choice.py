"""A solver is chosen by counting, before anything is allocated."""

import pytest
import torch

from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.models import solver_choice
from kernelfield.models.solver_choice import BUDGET, EVALUATIONS, choose, product_for, rank_for, single_fits

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture
def memory(monkeypatch):
    def free(gib):
        for module in ("kernelfield.core.numerics", "kernelfield.models.solver_choice"):
            monkeypatch.setattr(f"{module}.free_memory", lambda device: int(gib * GIB))

    free(64)
    return free


def chosen(n, asked="auto", *, searching=True):
    return choose(asked, n, searching=searching, bytes_each=32, device=CPU)


def test_auto_takes_cholesky_up_to_its_budget(memory):
    last = int((BUDGET["cpu"] / EVALUATIONS) ** (1 / 3))
    assert 8_000 < last < 12_000
    assert chosen(last).solver == "cholesky"
    found = chosen(last + 2)
    assert found.solver == "iterative"
    assert "5e+13 operations, more than 5e+13" in found.reason


def test_a_fit_without_a_search_may_have_more_rows(memory):
    assert chosen(20_000, searching=False).solver == "cholesky"
    assert chosen(20_000).solver == "iterative"


def test_auto_takes_iterations_where_the_matrices_have_no_room(memory):
    memory(1)
    found = chosen(8_000)
    assert found.solver == "iterative"
    assert "1.9 GiB of memory" in found.reason


@pytest.mark.parametrize("solver", ["cholesky", "iterative", "keops", "distributed"])
def test_what_is_asked_for_is_done(solver, memory):
    found = chosen(2_000, solver)
    assert found.solver == solver
    assert found.reason == "asked for"


def test_a_matrix_without_room_names_the_other_solvers(memory):
    memory(1)
    with pytest.raises(
        MemoryError, match=r"an exact fit of 20000 rows needs about 11.9 GiB .*solver='iterative'.*5\d\d\d rows"
    ):
        chosen(20_000, "cholesky")


def test_vectors_without_room_name_the_models_that_need_none(memory):
    memory(0.5)
    with pytest.raises(MemoryError, match="an iterative fit of 200000 rows needs about .*SparseProcess"):
        chosen(200_000)


def test_an_unknown_solver_is_named(memory):
    with pytest.raises(ValueError, match="solver must be one of 'auto', .*, got 'qr'"):
        chosen(10, "qr")


def test_the_preconditioner_is_small_beside_the_matrix():
    assert rank_for(40_000) == 1000
    assert rank_for(400) == 100
    assert rank_for(2) == 1


def test_ranks_that_share_the_matrix_make_no_factor_of_it(memory):
    assert single_fits("iterative", 40_000, CPU)
    assert not single_fits("distributed", 40_000, CPU)
    memory(8)
    assert not single_fits("iterative", 40_000, CPU)


def test_a_matrix_that_would_crowd_its_factor_is_not_stored(memory, monkeypatch):
    asked = []
    monkeypatch.setattr(solver_choice, "kernel_product", lambda kernel, X, method, products: asked.append(method))
    memory(64e-3)
    product_for("iterative", RBF(), torch.zeros(1_000, 1), 10)
    product_for("iterative", RBF(), torch.zeros(2_000, 1), 10)
    product_for("keops", RBF(), torch.zeros(10, 1), 10)
    assert asked == ["auto", "tiled", "keops"]


@pytest.mark.parametrize("solver", ["iterative", "distributed"])
def test_products_and_their_gradients_are_those_of_the_matrix(solver):
    kernel, X = Matern(1.5, ard_num_dims=2), torch.rand(50, 2)
    A, B = torch.randn(50, 3), torch.randn(50, 3)
    product = product_for(solver, kernel, X, 10)
    K = kernel(X).to_dense()
    expect = torch.autograd.grad((A * (K @ B)).sum(), list(kernel.parameters()))
    torch.testing.assert_close(product(B), (K @ B).detach())
    for one, other in zip(product.pull(A, B), expect, strict=True):
        torch.testing.assert_close(one, other)


def test_nobody_looks_up_the_memory_for_a_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernelfield.models.solver_choice.free_memory", lambda device: 1 / 0)
    small = {"searching": True, "bytes_each": 32, "device": torch.device("cpu")}
    assert choose("auto", 100, **small).solver == "cholesky"
    with pytest.raises(ZeroDivisionError):
        choose("auto", 1_000, **small)
