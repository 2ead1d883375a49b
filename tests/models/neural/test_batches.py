from itertools import islice

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.neural import batches as module
from kernelfield.models.neural.batches import Rows, batches, crosses, folds, held_out, unseen
from kernelfield.models.neural.dropout import MCDropout
from kernelfield.models.neural.last_layer import LastLayer
from kernelfield.models.neural.network import RELU, multilayer
from kernelfield.models.neural.swag import SWAG
from kernelfield.models.neural.train import Training
from kernelfield.nets.dense import Dense, Dropout


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
    X = torch.arange(150.0)[:, None]
    data = Data(X, 2 * X, X[:, 0] + 1 if weighted else None)
    fitted, judged = held_out(data, 0.2, torch.Generator().manual_seed(0))
    assert len(judged.X) == 30
    assert_close(torch.cat([fitted.X, judged.X]).sort(0).values, X)
    for part in (fitted, judged):
        assert_close(part.Y, 2 * part.X)
        assert (part.weight is None) if not weighted else torch.equal(part.weight, part.X[:, 0] + 1)


def test_few_rows_are_all_fitted():
    few = Data(torch.zeros(99, 1), torch.zeros(99, 1))
    assert held_out(few, 0.2, torch.Generator()) == (few, None)
    some = Data(torch.zeros(140, 1), torch.zeros(140, 1))
    assert held_out(some, 0.0, torch.Generator()) == (some, None)
    with pytest.raises(ValueError, match="held_out must be a share .* got -0.1"):
        held_out(some, -0.1, torch.Generator())


@pytest.mark.parametrize("n", [2, 4, 23])
def test_each_row_is_judged_by_a_network_that_has_not_seen_it(n):
    seen = folds(n, torch.Generator().manual_seed(0))
    assert seen.shape == (min(5, n), n)
    assert ((~seen).sum(0) == 1).all()
    assert (~seen).sum(1).max() - (~seen).sum(1).min() <= 1
    assert not torch.equal(seen, folds(n, torch.Generator().manual_seed(1)))
    values = torch.arange(len(seen))[:, None, None, None].expand(-1, 3, n, 2).double()  # a network says its number
    judged = unseen(values, seen)
    assert judged.shape == (3, n, 2)
    assert (judged[0, :, 0] == (~seen).nonzero()[:, 0][(~seen).nonzero()[:, 1].argsort()]).all()


def test_few_rows_judge_by_turns_but_for_a_single_one():
    assert crosses(2, 0.1) and crosses(99, 0.1)
    assert not (crosses(1, 0.1) or crosses(100, 0.1) or crosses(50, 0.0))


SHORT = Training(steps=400, learning_rate=1e-2)


@pytest.mark.parametrize(
    "model",
    [
        LastLayer(multilayer((32, 32)), training=SHORT),
        SWAG(multilayer((32, 32)), training=SHORT),
        MCDropout(Dense(1.4, 0.1, 32) >> RELU >> Dropout(0.9) >> Dense(1.0), training=SHORT),
    ],
    ids=lambda model: type(model).__name__,
)
def test_intervals_of_networks_that_learned_few_rows_by_heart_hold_their_share(model):
    """Eight sets of 200 new values; the share in 90% intervals varies by 0.1 from set to set, by 0.04 on average."""
    n, shares = 10, []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        X = torch.randn(n + 200, 2, generator=generator, dtype=torch.double)
        Y = torch.sin(1.5 * X[:, :1]) + 0.3 * torch.randn(n + 200, 1, generator=generator, dtype=torch.double)
        fitted = model.fit(Data(X[:n], Y[:n]), generator=generator)
        law = fitted.posterior(X[n:], noise=True)
        shares.append(((law.cdf(Y[n:]) - 0.5).abs() < 0.45).double().mean().item())
    assert 0.75 < sum(shares) / len(shares) < 0.98
