"""Taylor models, against polynomials and the networks they approximate."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from kernelfield.nets.empirical import empirical_ntk
from kernelfield.nets.taylor import linearize, taylor


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def move(module: nn.Module, size: float) -> Tensor:
    """Add a fixed direction to all parameters."""
    direction = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p += size * torch.randn(p.shape, generator=direction)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_the_error_of_a_taylor_model_has_the_next_order(degree: int) -> None:
    x, errors = torch.randn(4, 3), []
    module = network()
    for size in (0.02, 0.01):
        model = taylor(module, degree)
        assert_close(model(x), module(x))
        moved = taylor(module, 0).moved
        move(moved, size)
        move(model.moved, size)
        errors.append((model(x) - moved(x)).abs().max().item())
    assert abs(errors[0] / errors[1] / 2 ** (degree + 1) - 1) < 0.25


def test_a_network_that_is_a_polynomial_is_its_own_taylor_model() -> None:
    x = torch.randn(4, 3)
    model = taylor(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)), 2)
    move(model.moved, 1.0)
    assert_close(model(x), model.moved(x))


def test_the_linear_model_keeps_its_ntk_wherever_it_moves() -> None:
    x, module = torch.randn(4, 3), network()
    linear = linearize(module)
    move(linear.moved, 0.7)
    assert_close(empirical_ntk(linear, x), empirical_ntk(module, x))


def test_a_linear_model_trains_as_the_ntk_says() -> None:
    """One step of gradient descent on half the squared error changes f by -rate NTK (f - y)."""
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    x, y = torch.randn(4, 3), torch.randn(4, 1)
    linear = linearize(module)
    before = linear(x)
    (0.5 * (before - y).square().sum()).backward()
    torch.optim.SGD(linear.parameters(), lr=0.1).step()
    assert_close(linear(x), before - 0.1 * empirical_ntk(module, x) @ (before - y))


def test_a_model_is_saved_and_loaded_with_its_origin() -> None:
    x, module = torch.randn(4, 3), network()
    model = linearize(module)
    move(model.moved, 0.5)
    other = linearize(network())
    other.load_state_dict(model.state_dict())
    assert_close(other(x), model(x))


def test_impossible_expansions_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        taylor(network(), -1)
    with pytest.raises(ValueError, match="training mode"):
        linearize(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
