"""What ranks do in the tests: functions of (ranks, *args), found by name in each process."""

import os
import signal
import time
from unittest import mock

import numpy as np
import pandas
import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.data.streams import TableStream
from kernelfield.estimators.streaming import Progress
from kernelfield.kernels.partitioned import partitioned
from kernelfield.kernels.stationary import Matern
from kernelfield.linalg.iterative import conjugate_gradients, log_determinant
from kernelfield.linalg.ranks import Ranks, here
from kernelfield.models import iterative_fit
from kernelfield.models.iterative_evidence import StochasticEvidence
from kernelfield.models.neural.likelihoods import Gaussian
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.train import Training, train
from kernelfield.models.process import Process
from kernelfield.models.random_features import RandomFeatureProcess
from kernelfield.models.slope_search import Evaluation
from kernelfield.models.svgp import VariationalProcess
from kernelfield.streaming import fit_stream

POINTS, NOISE = 97, 0.5  # a number of rows that no number of ranks divides


def exchanges(ranks: Ranks) -> dict[str, Tensor]:
    """One of each exchange, of numbers that tell who gave them."""
    mine = torch.arange(7.0)[ranks.rows(7)][:, None] * torch.ones(2)
    assert here() is ranks
    ranks.barrier()
    return {
        "sum": ranks.sum(torch.tensor([1.0, ranks.rank])),
        "gather": ranks.gather(mine, 7),
        "gather unequal": ranks.gather(torch.full((ranks.rank, 1), ranks.rank)),
        "broadcast": ranks.broadcast(torch.tensor([ranks.rank + 5, ranks.rank])),
        "transposed": ranks.sum(torch.arange(6.0).reshape(2, 3).mT),
        "single": ranks.sum(torch.tensor([0.1 + ranks.rank], dtype=torch.float32)),
    }


def given() -> tuple[Matern, Tensor, Tensor, Tensor]:
    """A kernel, its points, other points and vectors."""
    generator = torch.Generator().manual_seed(3)
    X, Z, V = (torch.randn(n, k, generator=generator) for n, k in ((POINTS, 3), (11, 3), (POINTS, 4)))
    kernel = Matern(2.5, ard_num_dims=3).double()
    kernel.lengthscale = torch.tensor([0.5, 1.0, 2.0])
    return kernel, X, Z, V


def process(ranks: Ranks, products: int = 100) -> dict[str, Tensor]:
    """All that an exact process asks of a kernel matrix, by products alone."""
    kernel, X, Z, V = given()
    K = partitioned(kernel, X, ranks=ranks, products=products)
    apply = lambda B: K(B) + NOISE * B  # noqa: E731
    solved = conjugate_gradients(apply, V, tolerance=1e-13, quiet=True).X
    volume = log_determinant(apply, V[:, 0], probes=4, steps=15, generator=torch.Generator().manual_seed(0))
    return {
        "product": K(V),
        "rows": K.rows(torch.tensor([5, 90, 2, 41])),
        "one row": K.rows(torch.tensor([7])),
        "diagonal": K.diagonal,
        "solution": solved,
        "log determinant": torch.tensor([volume.value, volume.error]),
        "gradient": torch.cat([part.flatten() for part in K.pull(solved, V)]),
        "prediction": K.cross(Z, solved),
    }


def meet(ranks: Ranks, doomed: int, how: str) -> None:
    """Meet again and again, until one of them dies or stops."""
    for step in range(10**6):
        ranks.sum(torch.tensor([float(step)]))
        if step == 5 and ranks.rank == doomed:
            if how == "stops":
                time.sleep(ranks.timeout + 8)
            os.kill(os.getpid(), signal.SIGKILL)


def networks(ranks: Ranks, members: int, weighted: bool) -> dict[str, Tensor]:
    """Networks trained by all ranks: members apart, or of fewer of them the rows of each batch."""
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(50, 3, generator=generator)
    Y = torch.randn(50, 2, generator=generator) + X[:, :2]
    data = Data(X, Y, torch.rand(50, generator=generator) + 0.5 if weighted else None)
    training = Training(steps=40, batch=9, learning_rate=0.01, precision="double", held_out=0.2, clip=1.0)
    network = Network(multilayer((8,)), 3, 2)
    found = train(
        network, data, Gaussian(), training, members=members, generator=generator, penalty=lambda p: p.square().sum(1)
    )
    assert found.noise is not None
    return {"parameters": found.parameters, "noise": found.noise, "losses": found.losses}


def sums(ranks: Ranks) -> dict[str, Tensor]:
    """A process in random features, from sums over rows of which each rank has some."""
    data = table()
    model = RandomFeatureProcess(count=30, features="fourier", steps=20, restarts=1)
    sample = Data(data.X[:40], data.Y[:40])
    learner = model.learner(sample, len(data.X), generator=torch.Generator().manual_seed(0))
    own = ranks.rows(len(data.X))
    for batch in torch.arange(own.start, own.stop).split(13):
        learner.step(Data(data.X[batch], data.Y[batch]))
    law = learner.surrogate().posterior(data.X[:9], noise=True)
    return {"mean": law.mean, "variance": law.variance}


def inducing(ranks: Ranks) -> dict[str, Tensor]:
    """A variational process, whose batches are shared out by rows."""
    data = table()
    model = VariationalProcess("rbf", inducing=12, batch=40, epochs=2, least_steps=1, steps=10, restarts=1)
    sample = Data(data.X[:60], data.Y[:60])
    learner = model.learner(sample, len(data.X), generator=torch.Generator().manual_seed(0), ranks=ranks)
    for _ in range(learner.passes):
        for batch in torch.arange(len(data.X)).split(40):
            own = batch[ranks.rows(len(batch))]
            learner.step(Data(data.X[own], data.Y[own]))
    law = learner.surrogate().posterior(data.X[:9], noise=True)
    return {"mean": law.mean, "variance": law.variance}


def stream(ranks: Ranks, folder: str, doomed: int) -> dict[str, Tensor]:
    """A fit with a checkpoint after each turn; a doomed rank dies in the third of four, before it is kept."""
    passed = []

    def watch(progress: Progress) -> None:
        passed.append(progress.rows if progress.stage == "learning" else 0)
        if ranks.rank == doomed and sum(passed) >= 3 * 2**17:
            os.kill(os.getpid(), signal.SIGKILL)

    model = RandomFeatureProcess(count=8, steps=5, restarts=1)
    rows = TableStream.open(f"{folder}/rows.parquet")
    fit = fit_stream(model, rows, "y", checkpoint=f"{folder}/checkpoint", every=1e-9, watch=watch)
    law = fit.model.estimator.posterior(pandas.DataFrame({"x": torch.linspace(0, 1, 9).numpy()}))
    return {"mean": law.mean, "variance": law.variance, "begun": torch.tensor(next(p for p in passed if p))}


def exact(ranks: Ranks, folder: str | None, doomed: int) -> dict[str, Tensor]:
    """An exact process fitted with a checkpoint; a doomed rank dies in the third evaluation on all rows."""
    called, evaluate = [], StochasticEvidence.__call__

    def counted(evidence: StochasticEvidence, theta: np.ndarray) -> Evaluation:
        called.append(theta)
        if ranks.rank == doomed and len(called) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return evaluate(evidence, theta)

    data = table()
    model = Process("rbf", solver="distributed", restarts=1, steps=4, checkpoint=folder)
    with mock.patch.object(StochasticEvidence, "__call__", counted), mock.patch.object(iterative_fit, "SAMPLE", 60):
        fitted = model.fit(data, generator=torch.Generator().manual_seed(0))
    law = fitted.posterior(data.X[:9], noise=True)
    return {"mean": law.mean, "variance": law.variance, "evaluations": torch.tensor(len(called))}


def table() -> Data:
    generator = torch.Generator().manual_seed(2)
    X = torch.rand(200, 2, generator=generator)
    return Data(X, torch.sin(5 * X[:, :1]) + 0.1 * torch.randn(200, 1, generator=generator))
