import pytest
import torch
from torch.testing import assert_close

from kernelfield.models.neural.set_transformer import Architecture, SetTransformer

SMALL = Architecture(layers=2, width=16, heads=2, bins=10, metrics=2, directions=3, summary=8)


def network() -> SetTransformer:
    return SetTransformer(SMALL).double()


def tables(b: int = 2, n: int = 7, t: int = 4, d: int = 3) -> tuple[torch.Tensor, ...]:
    return torch.randn(b, n, d), torch.randn(b, n), torch.randn(b, n), torch.randn(b, t, d), torch.zeros(b, t)


def test_the_order_of_rows_does_not_matter():
    net, (X, Y, w, at, latent) = network(), tables()
    order = torch.randperm(7)
    assert_close(net(X[:, order], Y[:, order], w[:, order], at, latent), net(X, Y, w, at, latent))


def test_the_order_of_columns_does_not_matter():
    net, (X, Y, w, at, latent) = network(), tables()
    order = torch.tensor([2, 0, 1])
    assert_close(net(X[..., order], Y, w, at[..., order], latent), net(X, Y, w, at, latent))


def test_queries_do_not_see_each_other():
    net, (X, Y, w, at, latent) = network(), tables()
    whole = net(X, Y, w, at, latent)
    for i in range(4):
        assert_close(net(X, Y, w, at[:, [i]], latent[:, [i]]), whole[:, [i]])


def test_tasks_of_a_batch_do_not_see_each_other():
    net, arguments = network(), tables()
    assert_close(net(*(t[1:] for t in arguments)), net(*arguments)[1:])


@pytest.mark.parametrize("part", range(5))
def test_everything_that_is_given_counts(part):
    net, arguments = network(), list(tables())
    before = net(*arguments)
    arguments[part] = arguments[part].clone()
    arguments[part][0, 0] += 1.0
    change = (net(*arguments) - before).abs()
    assert change[0, 0].max() > 1e-6
    assert change[1].max() == 0


@pytest.mark.parametrize("d", [1, 40])
@pytest.mark.parametrize("n", [0, 1, 30])
def test_any_number_of_rows_and_columns_will_do(n, d):
    net = network()
    out = net(*tables(n=n, d=d))
    assert out.shape == (2, 4, 10)
    assert out.isfinite().all()
    for gradient in torch.autograd.grad(out.square().sum(), list(net.parameters()), materialize_grads=True):
        assert gradient.isfinite().all()


def test_equal_rows_have_finite_slopes():
    X = torch.ones(1, 5, 2, requires_grad=True)
    out = network()(X, torch.randn(1, 5), torch.zeros(1, 5), X[:, :2], torch.zeros(1, 2))
    assert torch.autograd.grad(out.sum(), X)[0].isfinite().all()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"layers": 0}, "layers must be a whole number of at least 1, got 0"),
        ({"width": 10, "heads": 4}, "the width 10 must be a multiple of the number of heads, 4"),
    ],
)
def test_sizes_that_cannot_be_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Architecture(**settings)
