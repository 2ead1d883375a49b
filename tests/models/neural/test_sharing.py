"""Members are trained by processes of joblib's backends as they are in one."""

import joblib
import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.neural.likelihoods import Gaussian
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.sharing import Trained, divided, joined
from kernelfield.models.neural.train import Training, train


def trained(members: int = 5) -> Trained:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(30, 3, generator=generator)
    settings = Training(steps=40, batch=8, precision="double", held_out=0.2)
    network = Network(multilayer((6,)), 3, 1)
    penalty = lambda theta: theta.square().sum(1)  # noqa: E731
    return train(
        network, Data(X, X[:, :1]), Gaussian(), settings, members=members, generator=generator, penalty=penalty
    )


@pytest.mark.parametrize(
    ("backend", "jobs"), [("threading", 2), ("sequential", 1), pytest.param("loky", 2, marks=pytest.mark.slow)]
)
def test_members_do_not_depend_on_who_trains_them(backend: str, jobs: int) -> None:
    alone = trained()
    with joblib.parallel_config(backend, n_jobs=jobs):
        shared = trained()
    assert_close(shared.parameters, alone.parameters, rtol=0, atol=1e-10)
    assert_close(shared.noise, alone.noise, rtol=1e-10, atol=0)
    assert_close(shared.losses, alone.losses, rtol=1e-8, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize(("k", "most", "parts"), [(1, 5, 4), (7, 10, 2), (7, 2, 2), (10, 3, 4), (4, 4, 1)])
def test_members_are_divided_evenly(k: int, most: int, parts: int) -> None:
    found = divided(k, most, parts)
    sizes = [part.stop - part.start for part in found]
    assert [member for part in found for member in range(k)[part]] == list(range(k))
    assert max(sizes) <= most and max(sizes) - min(sizes) <= 1 and len(found) >= min(k, parts)


def test_notes_say_when_training_stopped() -> None:
    losses = torch.zeros(10, 3)
    losses[6:, 1:] = torch.nan
    parts = [Trained(torch.zeros(1, 2), None, losses[:, i : i + 1]) for i in range(3)]
    assert joined(parts).notes == ["training stopped after 6 of 10 steps"]
    assert joined(parts[:1]).notes == []
