import logging
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.neural import train as module
from kernelfield.models.neural.likelihoods import Gaussian, Heteroscedastic, Softmax
from kernelfield.models.neural.network import Network, flat, multilayer
from kernelfield.models.neural.train import Training, train
from kernelfield.nets.algebra import Residual
from kernelfield.nets.dense import Dense
from kernelfield.nets.norm import LayerNorm
from kernelfield.nets.rectifiers import Relu

EXACT = Training(steps=600, batch=None, learning_rate=0.1, precision="double")
ARCHITECTURES = {
    "multilayer": multilayer((8, 6)),
    "residual": Dense(1.0) >> Residual(Relu() >> Dense(1.0)) >> LayerNorm() >> Dense(1.0),
    "torch": nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(n: int = 30, d: int = 3, m: int = 2, weighted: bool = False) -> Data:
    X = torch.randn(n, d)
    Y = X @ torch.randn(d, m) + 0.5 * torch.randn(n, m)
    return Data(X, Y, torch.rand(n) + 0.5 if weighted else None)


def linear(d: int = 3, m: int = 2) -> Network:
    return Network(nn.Linear(d, m, bias=False), d, m)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_linear_network_with_a_gaussian_prior_is_ridge_regression(weighted):
    rows, noise, prior = data(weighted=weighted), 0.3, 0.2
    penalty = lambda theta: theta.square().sum(-1) / (2 * prior * len(rows.X))  # noqa: E731
    found = train(linear(), rows, Gaussian(noise), EXACT, members=2, generator=generator(), penalty=penalty)
    w = torch.ones(len(rows.X)) if rows.weight is None else rows.weight
    A = rows.X.T @ (w[:, None] * rows.X) / noise + torch.eye(3) / prior
    expected = torch.linalg.solve(A, rows.X.T @ (w[:, None] * rows.Y) / noise).T.flatten()
    assert_close(found.parameters, expected.expand(2, -1), rtol=1e-8, atol=1e-8)  # both members reach it
    assert_close(found.noise, torch.full((2, 2), noise))


@pytest.mark.parametrize("weighted", [False, True])
def test_learned_noise_is_the_mean_square_of_what_is_left(weighted):
    rows = data(weighted=weighted)
    found = train(linear(), rows, Gaussian(), EXACT, generator=generator())
    w = torch.ones(len(rows.X)) if rows.weight is None else rows.weight
    root = w.sqrt()[:, None]
    left = rows.Y - rows.X @ torch.linalg.lstsq(root * rows.X, root * rows.Y).solution
    assert_close(found.noise[0], (w[:, None] * left.square()).mean(0), rtol=1e-8, atol=0)


def test_offsets_anchors_and_fixed_parameters():
    rows, fixed, anchor = data(), torch.randn(2, 30, 2), torch.randn(2, 6)
    penalty = lambda theta: 0.01 * theta.square().sum(-1)  # noqa: E731
    found = train(
        linear(), rows, Gaussian(1.0), EXACT, members=2, generator=generator(),
        offset=lambda X: fixed, penalty=penalty, anchor=anchor,
    )  # fmt: skip
    A = rows.X.T @ rows.X / 30 + 0.02 * torch.eye(3)
    right = rows.X.T @ (rows.Y - fixed) / 30 + 0.02 * anchor.unflatten(-1, (2, 3)).mT
    assert_close(found.parameters, torch.linalg.solve(A, right).mT.flatten(1), rtol=1e-8, atol=1e-8)

    start, moves = torch.randn(1, 6), torch.tensor([1, 1, 0, 1, 1, 0]).bool()
    found = train(linear(), rows, Gaussian(1.0), EXACT, generator=generator(), start=start, trained=moves)
    assert torch.equal(found.parameters[:, ~moves], start[:, ~moves])
    rest = rows.Y - rows.X[:, 2:] @ start.unflatten(-1, (2, 3))[0, :, 2:].mT
    expected = torch.linalg.lstsq(rows.X[:, :2], rest).solution.T.flatten()
    assert_close(found.parameters[0, moves], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("optimiser", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_members_are_those_that_torch_trains_one_by_one(name, optimiser):
    """A plain loop over torch modules and torch's own optimisers, on the batches of each member."""
    net, rows = Network(ARCHITECTURES[name], 3, 2, width=7), data()
    settings = Training(
        steps=20, batch=8, learning_rate=0.01, optimiser=optimiser, weight_decay=0.01, clip=0.5, precision="double"
    )
    start = net.draw(3, generator())
    found = train(net, rows, Gaussian(), settings, members=3, generator=generator(1), start=start)
    seeds = torch.randint(2**62, (3,), generator=generator(1)).tolist()
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    extra = {"momentum": 0.9} if optimiser == "sgd" else {}
    for j in range(3):
        network, order = net.module(start[j]), generator(seeds[j])
        log_noise = (0.1 * rows.Y.var(0, correction=0)).log().requires_grad_()
        groups = [{"params": network.parameters()}, {"params": [log_noise], "lr": 0.1, "weight_decay": 0.0}]
        optimise = kinds[optimiser](groups, lr=0.01, weight_decay=0.01, **extra)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimise, 20)
        queue = torch.empty(0, dtype=torch.long)
        for _ in range(20):
            if len(queue) < 8:
                queue = torch.cat([queue, torch.randperm(30, generator=order)])
            batch, queue = queue[:8], queue[8:]
            optimise.zero_grad()
            law = torch.distributions.Normal(network(rows.X[batch]), (log_noise / 2).exp())
            (-law.log_prob(rows.Y[batch]).sum(-1).mean()).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimise.step()
            decay.step()
        assert_close(found.parameters[j], flat(network), rtol=1e-5, atol=1e-5)  # torch clips with 1e-6 in its divisor
        assert_close(found.noise[j], log_noise.detach().exp(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("precision", ["single", "double"])
def test_members_do_not_depend_on_their_company(monkeypatch, precision):
    net, rows = Network(multilayer((8,)), 3, 2), data()
    seen = torch.rand(4, 30, generator=generator(2)) < 0.8
    settings = Training(steps=60, batch=8, precision=precision, held_out=0.2)
    together = train(net, rows, Gaussian(), settings, members=4, generator=generator(), rows=seen)
    monkeypatch.setattr(module, "_room", lambda network, task: 3)
    apart = train(net, rows, Gaussian(), settings, members=4, generator=generator(), rows=seen)
    tolerance = 1e-4 if precision == "single" else 1e-10
    assert_close(together.parameters, apart.parameters, rtol=tolerance, atol=tolerance)
    assert_close(together.noise, apart.noise, rtol=tolerance, atol=0)
    assert together.parameters.dtype == torch.float64


def test_members_see_their_rows_alone():
    rows = data()
    seen = torch.zeros(2, 30, dtype=torch.bool)
    seen[0, :12], seen[1, 10:22] = True, True
    found = train(linear(), rows, Gaussian(1.0), EXACT, members=2, generator=generator(), rows=seen)
    for parameters, own in zip(found.parameters, seen, strict=True):
        expected = torch.linalg.lstsq(rows.X[own], rows.Y[own]).solution.T.flatten()
        assert_close(parameters, expected, rtol=1e-8, atol=1e-8)


def test_training_ends_where_the_held_out_rows_say_so():
    """Pure noise: whatever is learned is wrong, so that the best network is an early one."""
    rows = Data(torch.randn(40, 3), torch.randn(40, 1))
    net = Network(multilayer((64,)), 3, 1)
    settings = Training(steps=3000, batch=None, learning_rate=0.01, held_out=0.25, patience=0.1)
    found = train(net, rows, Gaussian(1.0), settings, members=3, generator=generator())
    whole = train(net, rows, Gaussian(1.0), Training(steps=600, batch=None, learning_rate=0.01), members=3,
                  generator=generator())  # fmt: skip
    assert "training stopped after" in found.notes[0] and found.losses.isnan().any()
    fresh = torch.randn(500, 3)
    assert (
        net.values(found.parameters, fresh).square().mean() < 0.7 * net.values(whole.parameters, fresh).square().mean()
    )


def test_a_member_whose_patience_has_ended_stays_where_it_was():
    """Both losses fall at steps 1 and 9; between them only the second is told anything worth its while."""
    best = module._Best(torch.zeros(2, 1), torch.zeros(2, 1), Training(steps=20, patience=0.2))
    course = {1: (1.0, 1.0), 4: (2.0, 0.9), 7: (2.0, 0.8), 9: (0.5, 0.5), 10: (math.nan, 0.6)}
    ends = []
    for step, losses in course.items():
        best.look(step, torch.tensor(losses), torch.full((2, 1), float(step)), torch.full((2, 1), -float(step)))
        ends.append(best.exhausted(step))
    assert best.leaf.flatten().tolist() == [1.0, 9.0] and best.log_noise.flatten().tolist() == [-1.0, -9.0]
    assert not any(ends) and best.exhausted(14)


def test_the_same_seed_gives_the_same_numbers():
    net, rows = Network(multilayer((8,)), 3, 2), data()
    first, again, other = (
        train(net, rows, Gaussian(), Training(steps=30), members=2, generator=generator(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first.parameters, again.parameters)
    assert not torch.equal(first.parameters, other.parameters)


def test_heads_of_variances_and_of_classes_are_learned():
    X = torch.rand(400, 1) * 2 - 1
    rows = Data(X, torch.sin(3 * X) + 0.05 * (1 + 9 * (X > 0)) * torch.randn(400, 1))
    net = Network(multilayer((32,)), 1, 2)
    found = train(net, rows, Heteroscedastic(), Training(steps=1000, learning_rate=0.01), generator=generator())
    std = Heteroscedastic().variance(net.values(found.parameters, torch.tensor([[-0.5], [0.5]]))).sqrt().flatten()
    assert_close(std, torch.tensor([0.05, 0.5]), rtol=0.4, atol=0)  # 200 rows each, and a network between them
    classes = Data(X, torch.eye(2)[(X[:, 0] > 0).long()])
    found = train(net, classes, Softmax(), Training(steps=200, learning_rate=0.01), generator=generator())
    assert (net.values(found.parameters, X)[0].argmax(-1) == (X[:, 0] > 0)).double().mean() > 0.97
    assert found.noise is None


@pytest.mark.parametrize("flushed", [False, True])
def test_the_processor_is_left_as_it_was(flushed):
    small = torch.tensor(1e-310)
    try:
        torch.set_flush_denormal(flushed)
        train(linear(), data(), Gaussian(), Training(steps=3), generator=generator())
        with pytest.raises(ValueError, match="not finite"):
            train(linear(), data(), Gaussian(1.0), Training(learning_rate=1e30, optimiser="sgd"), generator=generator())
        assert ((small / 2).item() == 0.0) == flushed
    finally:
        torch.set_flush_denormal(False)


def test_progress_is_told(caplog):
    with caplog.at_level(logging.INFO, "kernelfield.models.fit"):
        train(linear(), data(), Gaussian(), Training(steps=30), generator=generator())
    assert "training 1 networks of 6 parameters" in caplog.text and "step 30 of 30, loss" in caplog.text


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_rows_suffice(n):
    found = train(linear(), data(n), Gaussian(), Training(steps=10), members=2, generator=generator())
    assert found.parameters.isfinite().all()


def test_a_loss_that_is_not_finite_names_the_step_and_the_rate():
    settings = Training(steps=50, batch=None, learning_rate=1e30, optimiser="sgd", schedule="constant")
    with pytest.raises(ValueError, match=r"not finite at step \d of 50, at the learning rate 1e\+30"):
        train(linear(), data(), Gaussian(1.0), settings, generator=generator())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 0}, "steps must be .* got 0"),
        ({"batch": 0}, "batch must be .* got 0"),
        ({"learning_rate": math.nan}, "learning_rate must be positive, got nan"),
        ({"optimiser": "lion"}, "optimiser must be one of adam, adamw, sgd, got 'lion'"),
        ({"held_out": 1.0}, "held_out must be a share"),
        ({"held_out": 0.01}, "leaves 30 of 30 rows to fit and 0 to judge"),
        ({"patience": 0.0}, "patience must be a share"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative, got -1"),
        ({"clip": 0.0}, "clip must be positive, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        train(linear(), data(), Gaussian(), Training(**change), generator=generator())


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="needs a network of 4 outputs for 2 targets, got one of 2"):
        train(linear(), data(), Heteroscedastic(), Training(), generator=generator())
    seen = torch.ones(2, 30, dtype=torch.bool)
    seen[0, 0] = False
    with pytest.raises(ValueError, match="batch=None needs members that see equally many rows"):
        train(linear(), data(), Gaussian(), EXACT, members=2, generator=generator(), rows=seen)
