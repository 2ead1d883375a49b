"""Search in a pool by a matrix of covariances."""

import math

import pytest
import torch

from kernelfield.bo.pools import PoolSearch, log_improvement


def gram(members: int = 60) -> torch.Tensor:
    x = torch.linspace(0, 1, members)
    return torch.exp(-((x[:, None] - x) ** 2) / (2 * 0.15**2)) + 1e-8 * torch.eye(members)


def test_the_improvement_beside_chosen_ones_is_that_of_a_simulation() -> None:
    mean, best = torch.tensor([0.3, 0.5, -0.2]), torch.tensor(0.4)
    half = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    K = half @ half.mT
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(200_000, 1, generator=generator)
    found = log_improvement(mean, K, [1], best, z).exp()
    f = mean + torch.randn(200_000, 3, generator=generator) @ half.mT
    gain = (f - torch.maximum(best, f[:, 1:2])).clamp_min(0)
    error = gain.std(0) / 200_000**0.5
    assert (found - gain.mean(0))[[0, 2]].abs().max() < 6 * 1.5 * error.max()  # both are simulations
    assert found[1] < 1e-6
    alone = log_improvement(mean, K, [], best, z[:, :0]).exp()
    gain = (f - best).clamp_min(0)
    assert ((alone - gain.mean(0)).abs() < 6 * gain.std(0) / 200_000**0.5).all()


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_of_sixty_is_found_with_a_third_of_them(direction: str) -> None:
    sign = 1.0 if direction == "maximize" else -1.0
    x = torch.linspace(0, 1, 60)
    truth = sign * (torch.sin(9 * x) + 0.5 * x)
    for seed in range(3):
        search = PoolSearch(gram(), direction=direction, seed=seed)
        while len(search.told.values) < 20:
            for member in search.ask(min(3, 20 - len(search.told.values))):
                search.tell(member, truth[member].item())
        assert search.best[0] == int((sign * truth).argmax())


def test_members_are_asked_for_once_and_the_same_by_the_same_seed() -> None:
    def history(seed: int) -> list[int]:
        search = PoolSearch(gram(12), initial=3, seed=seed)
        found = search.ask(3)
        for member in found:
            search.tell(member, float(member % 5))
        found += search.ask(4) + search.ask(2)
        search.tell(found[4], None)
        return found + search.ask(3)

    assert sorted(history(0)) == list(range(12))
    assert history(0) == history(0) != history(1)


def test_bad_values_and_questions_are_refused() -> None:
    search = PoolSearch(gram(4))
    with pytest.raises(ValueError, match="got count=5"):
        search.ask(5)
    with pytest.raises(ValueError, match="nothing has been told"):
        _ = search.best
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"finite, got {bad:g}; tell None"):
            search.tell(0, bad)
    with pytest.raises(ValueError, match="got 'up'"):
        PoolSearch(gram(4), direction="up")
    with pytest.raises(ValueError, match="positive semi-definite"):
        PoolSearch(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))


def test_values_that_are_all_alike_are_no_trouble() -> None:
    search = PoolSearch(gram(10), initial=2)
    for _ in range(5):
        for member in search.ask():
            search.tell(member, 1.0)
    assert search.best[1] == 1.0
