"""Draws of tasks have the law that they say, and the law they state is the exact posterior."""

import math

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.network import NetworkKernel
from kernelfield.kernels.stationary import RBF
from kernelfield.models.neural.task_priors import Box, NetworkTasks, ProcessTasks, Scales, Tables, TaskPrior
from kernelfield.models.process import Process
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu

WIDE = Dense(1.4, 0.5) >> Relu() >> Dense(1.0)
LAWS = {
    "kernel": ProcessTasks(RBF(), None),
    "name": ProcessTasks("matern32"),
    "layers": ProcessTasks(WIDE, Scales(per_column=True)),
    "network": NetworkTasks(WIDE, width=16),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prior(law, **settings) -> TaskPrior:
    return TaskPrior(((1.0, law),), Tables(), (3, 9), (1, 4), (0.01, 0.5), **settings)


@pytest.mark.parametrize("kernel", [RBF(), WIDE])
def test_the_stated_law_is_the_exact_posterior(kernel):
    tasks = prior(ProcessTasks(kernel, None), weighted=1.0).draw(3, 6, 5, 2, generator())
    exact = NetworkKernel(kernel) if kernel is WIDE else kernel
    for i in range(3):
        data = Data(tasks.X[i], tasks.Y[i, :, None], tasks.log_weight[i].exp())
        model = Process(exact, mean="zero", noise=tasks.noise[i].item(), steps=0)
        law = model.fit(data, generator=generator()).posterior(tasks.at[i])
        assert_close(law.mean[:, 0], tasks.mean[i])
        assert_close(law.variance[:, 0], tasks.variance[i])


def test_contexts_have_the_covariance_of_the_kernel_and_the_noise():
    X, count = torch.randn(1, 4, 2), 20_000
    noise = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    Y, _, _ = LAWS["kernel"].given(
        X.expand(count, -1, -1), X.expand(count, -1, -1)[:, :1], noise.expand(count, -1), generator()
    )
    K = RBF()(X[0]).to_dense().detach() + torch.diag(noise[0])
    products = Y[:, :, None] * Y[:, None, :]
    assert ((products.mean(0) - K).abs() < 6 * products.std(0) / count**0.5).all()


def test_values_follow_the_law_that_is_stated():
    """Standardised by its own law, the context's last value is standard normal given the others."""
    X, noise = torch.randn(5000, 6, 2), torch.full((5000, 6), 0.05)
    law = LAWS["network"]
    Y, f, variance = law.given(X, X, noise, generator())
    assert not variance.any()
    z = (Y - f) / noise.sqrt()
    assert abs(z.mean().item()) < 6 / math.sqrt(z.numel())
    assert abs(z.var().item() - 1) < 6 * math.sqrt(2 / z.numel())
    size = NetworkKernel(WIDE)(X[:, 0] * 0 + 1e-9, diag=True).mean().item()  # at zero, whatever the scales
    at_zero, _, _ = law.given(0 * X, 0 * X, 0 * noise, generator())
    assert at_zero[:, 0].var().item() == pytest.approx(size, rel=6 * 2 / 5000**0.5)


@pytest.mark.parametrize("name", LAWS)
def test_a_seed_repeats_tasks_and_another_does_not(name):
    first, again, other = (prior(LAWS[name]).draw(4, 5, 3, 2, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.Y, again.Y)
    assert torch.equal(first.mean, again.mean)
    assert not torch.equal(first.Y, other.Y)
    assert first.X.shape == (4, 5, 2)
    assert first.mean.shape == first.variance.shape == (4, 3)


@pytest.mark.parametrize("per_column", [False, True])
def test_scales_share_a_lengthscale_among_columns(per_column):
    factors = Scales((0.5, 0.5), per_column=per_column).draw(200, 6, generator())
    assert factors.shape == (200, 1, 6)
    assert_close(factors.square().sum(-1), torch.full((200, 1), 4.0 * (6 if per_column else 1)))
    dropped = (factors == 0).double().mean().item()
    assert 0.25 < dropped < 0.45  # the share kept is uniform between 0.3 and 1


def test_lengthscales_are_log_uniform():
    lengths = 1 / Scales((0.2, 5.0), spread=0.0, kept=1.0).draw(20_000, 1, generator())
    place = (lengths.flatten().log() - math.log(0.2)) / math.log(25)
    assert place.min() >= 0 and place.max() <= 1
    assert abs(place.mean().item() - 0.5) < 6 / math.sqrt(12 * 20_000)


def test_tables_have_columns_of_about_mean_zero_and_variance_one():
    x = Tables().draw(400, 100, 5, generator())
    assert abs(x.mean().item()) < 0.05
    assert 0.9 < x.var().item() < 1.3
    assert (x[:, :, 0].sort(-1).values.diff(dim=-1) == 0).any()  # some columns have few values
    box = Box(2.0, 3.0).draw(5, 6, 7, generator())
    assert box.shape == (5, 6, 7) and box.min() >= 2 and box.max() <= 3


@pytest.mark.parametrize("even", [False, True])
def test_sizes_lie_in_their_ranges_and_reach_their_ends(even):
    g, law = generator(), prior(LAWS["kernel"], even=even)
    sizes = {law.sizes(g) for _ in range(2000)}
    assert {rows for rows, _ in sizes} == set(range(3, 10))
    assert {columns for _, columns in sizes} == {1, 2, 3, 4}


def test_laws_are_drawn_by_their_shares():
    loud, quiet = ProcessTasks(RBF(), None), ProcessTasks(_still(), None)
    mixed = TaskPrior(((3.0, loud), (1.0, quiet)), Tables(), (3, 3), (1, 1), (0.01, 0.01))
    g = generator()
    share = torch.cat([(mixed.draw(64, 3, 2, 1, g).variance[:, 0] < 1e-6).double() for _ in range(100)]).mean()
    assert abs(share.item() - 0.25) < 6 * math.sqrt(0.25 * 0.75 / 400)  # 400 groups of 16


def _still() -> RBF:
    kernel = RBF()
    kernel.outputscale = 1e-9
    return kernel


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: ProcessTasks("cosine"), "one of matern12, .* got 'cosine'"),
        (lambda: Scales((2.0, 1.0)), "lengthscale must lie between two positive numbers.* got .2.0, 1.0."),
        (lambda: Scales(kept=0.0), "kept must be a share .* got 0.0"),
        (lambda: TaskPrior((), Tables(), (1, 2), (1, 2), (1.0, 1.0)), "needs laws of functions"),
        (
            lambda: TaskPrior(((1.0, LAWS["name"]),), Tables(), (0, 2), (1, 2), (1.0, 1.0)),
            "rows must lie .* got .0, 2.",
        ),
    ],
)
def test_priors_that_cannot_be_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        wrong()
