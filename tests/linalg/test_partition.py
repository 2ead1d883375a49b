"""A kernel matrix whose rows are shared out is the same matrix."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.kernels.partitioned import partitioned
from kernelfield.linalg.ranks import ALONE, Ranks
from tests.distributed import tasks
from tests.distributed.jobs import together

TIGHT = {"rtol": 0, "atol": 1e-10}


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    return tasks.process(ALONE)


def test_one_rank_agrees_with_dense_algebra(alone: dict[str, torch.Tensor]) -> None:
    kernel, X, Z, V = tasks.given()
    K = kernel(X).to_dense()
    A = K.detach() + tasks.NOISE * torch.eye(len(X))
    solved = torch.linalg.solve(A, V)
    (K * (solved @ V.mT)).sum().backward()
    parameters = [p for p in kernel.parameters() if p.requires_grad]
    expected = {
        "product": K.detach() @ V,
        "rows": K.detach()[[5, 90, 2, 41]],
        "one row": K.detach()[[7]],
        "diagonal": K.detach().diagonal(),
        "solution": solved,
        "gradient": torch.cat([p.grad.flatten() for p in parameters]),
        "prediction": kernel(Z, X).to_dense().detach() @ solved,
    }
    for name, value in expected.items():
        assert_close(alone[name], value, **TIGHT, msg=lambda said, name=name: f"{name}: {said}")
    value, error = alone["log determinant"].tolist()
    assert abs(value - torch.logdet(A).item()) < 6 * error


@pytest.mark.parametrize(("world", "products"), [(2, 1), (4, 100)], ids=["computed", "kept"])
def test_more_ranks_give_the_same_answers(alone: dict[str, torch.Tensor], world: int, products: int) -> None:
    answers = together(tasks.process, world, products)
    for name, value in alone.items():
        tight = {"rtol": 0, "atol": 1e-10 * value.abs().max().clamp_min(1).item()}  # of an answer's size
        assert_close(answers[0][name], value, **tight, msg=lambda said, name=name: f"{name}: {said}")
        assert all(torch.equal(answers[0][name], other[name]) for other in answers[1:]), name


def test_rows_are_kept_where_they_fit_and_are_used() -> None:
    kernel, X, _, _ = tasks.given()
    few, many = (partitioned(kernel, X, ranks=ALONE, products=count) for count in (1, 100))
    assert few.kept is None and "computes its 97 rows for each product: 1 products are too few" in few.reason
    assert many.kept is not None and many.kept.shape == (97, 97) and "keeps its 97 rows" in many.reason
    # A machine cannot hold a hundred thousand ranks' worth of this.
    crowded = partitioned(kernel, X, ranks=Ranks(neighbours=10**10), products=100)
    assert crowded.kept is None and "would not fit" in crowded.reason


def test_more_ranks_than_rows_are_refused() -> None:
    kernel, X, _, _ = tasks.given()
    with pytest.raises(ValueError, match="97 rows cannot be shared out among 98 ranks; start at most 97"):
        partitioned(kernel, X, ranks=Ranks(0, 98))
