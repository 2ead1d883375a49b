"""Kernels over (x, r): their mixture of exponentials, positive definite, and what they say of curves that decay."""

import copy
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from gpytorch.kernels import MaternKernel, ScaleKernel
from scipy.integrate import quad
from scipy.stats import gamma, spearmanr
from torch import Tensor
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.estimators.records import Reader, Writer
from kernelfield.kernels.learning_curve import IndependentRungs, LearningCurve, decay
from kernelfield.kernels.stationary import RBF, Matern, dimension_scaled
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.process import Process
from tests.laws import obeys_kernel_laws

RUNGS = (1 / 81, 1 / 27, 1 / 9, 1 / 3, 1.0)


def rows(n: int, seed: int, *, d: int = 2, steps: tuple[float, ...] = RUNGS) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    r = torch.tensor(steps)[torch.randint(len(steps), (n, 1), generator=generator)]
    return torch.cat([torch.rand(n, d, generator=generator), r], 1)


KERNELS = {
    "learning curve": lambda: LearningCurve.of(Matern(ard_num_dims=2), inputs=2),
    "of gpytorch's kernels": lambda: LearningCurve.of(ScaleKernel(MaternKernel(1.5)), inputs=2),
    "of different kernels": lambda: LearningCurve(RBF(active_dims=(0,)), Matern(0.5, active_dims=(1, 0))),
    "rungs": lambda: IndependentRungs(Matern(ard_num_dims=2, active_dims=(0, 1)), RUNGS),
    "rungs of gpytorch's kernel": lambda: IndependentRungs(ScaleKernel(MaternKernel(active_dims=(1,))), RUNGS),
}


@pytest.mark.parametrize("make", KERNELS.values(), ids=KERNELS)
def test_laws(make) -> None:
    obeys_kernel_laws(make(), rows(40, 0), rows(7, 1))


@pytest.mark.parametrize("power", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("rate", [0.05, 2.0])
def test_decay_is_a_mixture_of_exponentials(power: float, rate: float) -> None:
    ends = np.concatenate([[0.0], np.logspace(-9, 4, 27)])  # decades, as the mass lies near zero for late steps
    for r in (0.0, 0.1, 1.0, 7.0):

        def density(v: float, r: float = r) -> float:
            """exp(-lambda r) under the gamma law, in v = (rate lambda)^power, where its density is bounded."""
            return math.exp(-(1 + r / rate) * v ** (1 / power)) / math.gamma(power + 1)

        mean = sum(quad(density, low, high, epsrel=1e-10)[0] for low, high in pairwise(ends))
        value = decay(torch.tensor(r), torch.tensor(power), torch.tensor(rate)).item()
        assert value == pytest.approx(mean, rel=1e-6)


def test_the_covariance_is_that_of_simulated_curves() -> None:
    """f = g + gamma kappa(r, 0) + h, h a sum of many decays exp(-lambda r), each with its own draw over x."""
    kernel = LearningCurve.of(RBF(), inputs=1)
    kernel.power, kernel.rate, kernel.common = 1.5, 0.4, 0.7
    kernel.level.outputscale, kernel.change.outputscale = 2.0, 1.3
    kernel.level.lengthscale, kernel.change.lengthscale = 0.5, 0.9
    points = torch.tensor([[0.0, 0.0], [0.3, 0.2], [0.0, 1.0], [0.8, 3.0]])
    x, r = points[:, :1], points[:, 1]
    random, draws = torch.Generator().manual_seed(0), 200_000
    root = [torch.linalg.cholesky(k(x).to_dense() + 1e-10 * torch.eye(4)) for k in (RBF(), RBF())]
    for part, k in zip(range(2), (kernel.level, kernel.change), strict=True):
        plain = RBF()
        plain.lengthscale, plain.outputscale = k.lengthscale.detach(), k.outputscale.detach()
        root[part] = torch.linalg.cholesky(plain(x).to_dense() + 1e-10 * torch.eye(4))
    g, h = (torch.randn(draws, 4, generator=random) @ factor.mT.detach() for factor in root)
    speed = torch.from_numpy(gamma(1.5, scale=1 / 0.4).rvs(size=(draws, 1), random_state=0))
    shared = 0.7**0.5 * torch.randn(draws, 1, generator=random) * (0.4 / (0.4 + r)) ** 1.5
    values = g + shared + h * torch.exp(-speed * r)
    products = values.unsqueeze(-1) * values.unsqueeze(-2)
    error = products.std(0) / draws**0.5
    assert ((products.mean(0) - kernel(points).to_dense()).abs() < 6 * error).all()


def test_curves_meet_their_level_in_the_end() -> None:
    kernel = LearningCurve.of(Matern(), inputs=2)
    x = torch.rand(5, 2)
    late = torch.cat([x, torch.full((5, 1), 1e9)], 1)
    assert_close(kernel(late).to_dense(), kernel.level(late).to_dense(), atol=1e-7, rtol=0)


def test_gradients_are_those_of_differences() -> None:
    kernel = LearningCurve.of(Matern(), inputs=2)
    X = rows(6, 3)
    weight = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    slopes = torch.autograd.grad((weight * kernel(X).to_dense()).sum(), list(kernel.parameters()))
    for (name, raw), slope in zip(kernel.named_parameters(), slopes, strict=True):
        ends = []
        for step in (1e-5, -1e-5):
            moved = copy.deepcopy(kernel)
            moved.get_parameter(name).data += step
            ends.append((weight * moved(X).to_dense()).sum().item())
        assert slope.sum().item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-9), raw.shape


def test_batches_are_single_kernels_side_by_side() -> None:
    batch = torch.Size([3])
    kernel = LearningCurve(
        Matern(batch_shape=batch, active_dims=(0,)), RBF(batch_shape=batch, active_dims=(0,)), batch_shape=batch
    )
    kernel.power, kernel.rate = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.1, 0.2, 0.9])
    X = rows(5, 4, d=1)
    single = LearningCurve(Matern(active_dims=(0,)), RBF(active_dims=(0,)))
    for i, (power, rate) in enumerate(zip(kernel.power, kernel.rate, strict=True)):
        single.power, single.rate = power.detach(), rate.detach()
        assert_close(kernel(X).to_dense()[i], single(X).to_dense())
    rungs = IndependentRungs(Matern(batch_shape=batch, active_dims=(0,)), RUNGS, batch_shape=batch)
    rungs.scales = torch.arange(1.0, 16.0).reshape(3, 5)
    assert_close(rungs(X, diag=True), rungs(X).to_dense().diagonal(dim1=-2, dim2=-1))
    assert rungs(X).to_dense().shape == (3, 5, 5)


@pytest.mark.parametrize("name", ["learning curve", "rungs"])
def test_kernels_are_saved_and_pickled_with_their_parameters(name: str) -> None:
    made = KERNELS[name]()
    kernel = made if name == "rungs" else LearningCurve.of(made.level, inputs=2)
    for i, p in enumerate(kernel.parameters()):
        torch.nn.init.constant_(p, 0.1 * i)
    writer = Writer()
    record = writer.record(kernel, "kernel")
    for twin in (Reader(writer.tensors).value(record), pickle.loads(pickle.dumps(kernel))):
        assert torch.equal(twin(rows(9, 5)).to_dense(), kernel(rows(9, 5)).to_dense())
        assert len(list(twin.named_priors())) == len(list(kernel.named_priors()))


BAD = {
    "a step below zero": (lambda: LearningCurve(RBF(), RBF())(torch.tensor([[0.0, -1.0]])).to_dense(), "at least 0"),
    "no rung": (lambda: IndependentRungs(RBF(), ()), "ascending steps"),
    "rungs in disorder": (lambda: IndependentRungs(RBF(), (3, 1)), r"got \(3.0, 1.0\)"),
    "another step": (lambda: IndependentRungs(RBF(), (1, 3))(torch.tensor([[0.0, 2.0]])).to_dense(), "got 2"),
    "no power": (lambda: setattr(LearningCurve(RBF(), RBF()), "power", 0.0), "power must be positive"),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_answered_in_a_sentence(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def curves(seed: int, n: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """Points (n, 3), exponential curves y = a(x) + b(x) exp(-c(x) r) at the rungs (n, 5), and the first 20 whole."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, 3, generator=generator)
    a, b = torch.sin(1.3 * X[:, 0]) + 0.5 * X[:, 1], 1.5 + 0.5 * torch.cos(X[:, 2])
    c = 12 * torch.exp(0.5 * X[:, 1])
    Y = a[:, None] + b[:, None] * torch.exp(-c[:, None] * torch.tensor(RUNGS))
    return X, Y + 0.01 * torch.randn(Y.shape, generator=generator), a


def fitted(kernel: LearningCurve | IndependentRungs, seed: int) -> tuple[FittedProcess, Tensor, Tensor]:
    """A process of curves, of which 20 are whole and 40 end at a ninth, and the unseen ends of those."""
    X, Y, _ = curves(seed)
    seen = torch.ones(Y.shape, dtype=torch.bool)
    seen[20:, 3:] = False
    trial, rung = seen.nonzero(as_tuple=True)
    rows = torch.cat([X[trial], torch.tensor(RUNGS)[rung, None]], 1)
    shift, scale = Y[seen].mean(), Y[seen].std()
    model = Process(kernel, restarts=1)
    process = model.fit(Data(rows, (Y[seen, None] - shift) / scale), generator=torch.Generator().manual_seed(seed))
    ends = torch.cat([X[20:], torch.ones(40, 1)], 1)
    return process, ends, (Y[20:, 4] - shift) / scale


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_ends_of_curves_are_foretold_from_their_first_ninth(seed: int) -> None:
    base = dimension_scaled("matern52", torch.ones(3))
    losses = []
    for kernel in (LearningCurve.of(base, inputs=3), IndependentRungs.of(base, RUNGS, inputs=3)):
        process, rows, ends = fitted(kernel, seed)
        law = process.posterior(rows, noise=True)
        losses.append(-torch.distributions.Normal(law.mean[:, 0], law.variance[:, 0].sqrt()).log_prob(ends).mean())
        if isinstance(kernel, LearningCurve):
            assert np.corrcoef(law.mean[:, 0], ends)[0, 1] > 0.9
            assert spearmanr(law.mean[:, 0], ends).statistic > 0.9
    assert losses[0] < losses[1] - 0.1
