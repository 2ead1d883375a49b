from itertools import islice

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.neural import batches as module
from kernelfield.models.neural.batches import Rows, batches, held_out


def numbered(n: int = 10, offset: bool = False) -> Rows:
    """Rows that say in each of their parts which they are, and offsets which member's too."""
    number = torch.arange(n, dtype=torch.float64)
    fixed = 100 * torch.arange(2.0)[:, None, None] + number[:, None] if offset else None
    return Rows.of(Data(number[:, None], 2 * number[:, None], 3 * number + 1), fixed, torch.float64)


def test_members_go_through_their_rows_again_and_again():
    seen = [torch.arange(10), torch.tensor([1, 3, 5, 7])]
    taken = list(islice(batches(numbered(offset=True), seen, 4, [0, 1]), 10))
    for j, own in enumerate(seen):
        numbers = torch.cat([batch.X[j, :, 0] for batch in taken]).long()
        orders = numbers[: len(numbers) // len(own) * len(own)].unflatten(0, (-1, len(own)))
        assert_close(orders.sort(-1).values, own.expand(len(orders), -1))
        assert len(orders) > 2 and not torch.equal(orders[0], orders[1])
    for batch in taken:
        assert batch.X.shape == (2, 4, 1) and batch.weight.shape == (2, 4)
        assert_close(batch.Y, 2 * batch.X)
        assert_close(batch.weight, 3 * batch.X[..., 0] + 1)
        assert_close(batch.offset, batch.X + torch.tensor([0.0, 100.0])[:, None, None])


def test_what_is_gathered_at_once_does_not_matter(monkeypatch):
    seen = [torch.arange(10)] * 2
    first = list(islice(batches(numbered(), seen, 4, [0, 1]), 20))
    monkeypatch.setattr(module, "BLOCK", 1)
    for one, other in zip(first, batches(numbered(), seen, 4, [0, 1]), strict=False):
        assert torch.equal(one.X, other.X)
    alone = next(batches(numbered(), seen[1:], 4, [1]))
    assert torch.equal(alone.X[0], first[0].X[1])


def test_batches_are_no_larger_than_what_a_member_sees():
    seen = [torch.arange(3), torch.arange(8)]
    assert next(batches(numbered(), seen, 64, [0, 1])).X.shape == (2, 3, 1)
    whole = next(batches(numbered(), [torch.arange(10)] * 2, None, [0, 1]))
    assert_close(whole.X[1, :, 0], torch.arange(10.0))
    with pytest.raises(ValueError, match="equally many rows"):
        next(batches(numbered(), seen, None, [0, 1]))


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_are_fitted_or_held_out(weighted):
    X = torch.arange(50.0)[:, None]
    data = Data(X, 2 * X, X[:, 0] + 1 if weighted else None)
    fitted, judged = held_out(data, 0.2, torch.Generator().manual_seed(0))
    assert len(judged.X) == 10
    assert_close(torch.cat([fitted.X, judged.X]).sort(0).values, X)
    for part in (fitted, judged):
        assert_close(part.Y, 2 * part.X)
        assert (part.weight is None) if not weighted else torch.equal(part.weight, part.X[:, 0] + 1)


def test_few_rows_are_all_fitted():
    few = Data(torch.zeros(19, 1), torch.zeros(19, 1))
    assert held_out(few, 0.2, torch.Generator()) == (few, None)
    some = Data(torch.zeros(40, 1), torch.zeros(40, 1))
    assert held_out(some, 0.0, torch.Generator()) == (some, None)
    with pytest.raises(ValueError, match="held_out must be a share .* got -0.1"):
        held_out(some, -0.1, torch.Generator())
