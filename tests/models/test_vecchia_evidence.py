import numpy as np
import pytest
import torch
from gpytorch.kernels import PeriodicKernel, RBFKernel, ScaleKernel
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import Unit
from kernelfield.kernels.stationary import RBF, Matern, RationalQuadratic, dimension_scaled
from kernelfield.models.covariance import covariance
from kernelfield.models.evidence import Objective, Trend
from kernelfield.models.neighbours import earlier
from kernelfield.models.vecchia_evidence import ByGraph, Closed, Conditionals, NeighbourObjective, slopes_of

N, D = 40, 3
KERNELS = {
    "rbf": lambda: RBF(ard_num_dims=D),
    "matern12": lambda: Matern(0.5),
    "matern52 with a prior": lambda: dimension_scaled("matern52", torch.ones(D)),
    "rq": lambda: RationalQuadratic(ard_num_dims=D),
    "of some inputs": lambda: Matern(1.5, active_dims=[2, 0], ard_num_dims=2),
    "held in part": lambda: held(RBF(ard_num_dims=D)),
    "scaled": lambda: ScaleKernel(RBFKernel(ard_num_dims=D)),
    "sum": lambda: Matern() + ScaleKernel(PeriodicKernel()),
}


def held(kernel):
    kernel.raw_outputscale.requires_grad_(False)
    return kernel


@pytest.fixture
def data():
    X = torch.randn(N, D)
    Y = torch.stack([torch.sin(2 * X[:, 0]), X[:, 1] * X[:, 2]], -1) + 0.1 * torch.randn(N, 2)
    return Data(X, Y, torch.rand(N) + 0.5)


def conditionals(data, count, mean="linear", rows=None):
    rows = torch.arange(len(data.X)) if rows is None else rows
    return Conditionals(data, Trend.of(mean, data.X), earlier(data.X, count, rows), rows)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("mean", ["zero", "constant", "linear"])
def test_with_all_rows_before_it_is_the_evidence_of_the_exact_process(name, mean, data):
    kernel = KERNELS[name]()
    case = conditionals(data, N - 1, mean)
    ours = NeighbourObjective(kernel, data, case, 0.3, learn=True)
    exact = Objective(covariance(kernel, data.X), data, case.trend, Unit(), 0.3, learn=True)
    theta = ours.start() + 0.1
    (value, slope), (value0, slope0) = ours(theta), exact(theta)
    assert value == pytest.approx(value0, abs=1e-12)
    free = [low < high for low, high in ours.bounds()]  # the exact one may leave slopes of held parameters out
    np.testing.assert_allclose(slope[free], slope0[free], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", KERNELS)
def test_the_slope_is_that_of_differences(name, data):
    ours = NeighbourObjective(KERNELS[name](), data, conditionals(data, 7), 0.3, learn=True)
    theta, step = ours.start() + 0.1, 1e-5
    _, slope = ours(theta)
    for i, (low, high) in enumerate(ours.bounds()):
        if low < high:
            move = step * np.eye(len(theta))[i]
            # Differences of step h err by h^2 and by rounding over h.
            assert slope[i] == pytest.approx((ours(theta + move)[0] - ours(theta - move)[0]) / (2 * step), abs=1e-8)


@pytest.mark.parametrize("name", ["rbf", "matern12", "rq", "of some inputs"])
def test_one_pass_gives_what_the_graph_gives(name, data):
    kernel, case = KERNELS[name](), conditionals(data, 7)
    raw = covariance(kernel, data.X).raw
    assert isinstance(slopes_of(kernel, case), Closed)
    (value, slope, noise), (value0, slope0, noise0) = (kind(kernel, case)(raw, 0.3) for kind in (Closed, ByGraph))
    assert value == pytest.approx(value0, rel=1e-12)
    np.testing.assert_allclose(slope, slope0, rtol=1e-9, atol=1e-9)
    assert noise == pytest.approx(noise0, rel=1e-10)


def test_parts_of_the_rows_sum_to_the_whole(data):
    kernel = RBF(ard_num_dims=D)
    raw = covariance(kernel, data.X).raw
    whole = Closed(kernel, conditionals(data, 5, "zero"))(raw, 0.2)
    parts = [Closed(kernel, conditionals(data, 5, "zero", rows))(raw, 0.2) for rows in torch.randperm(N).split(13)]
    assert whole[0] == pytest.approx(sum(part[0] for part in parts), rel=1e-12)
    np.testing.assert_allclose(whole[1], sum(part[1] for part in parts), rtol=1e-10)
    objective = NeighbourObjective(kernel, data, conditionals(data, 5, "zero", torch.arange(10)), 0.2, learn=True)
    assert objective.share == 4


def test_chunks_of_rows_change_nothing(data, monkeypatch):
    kernel, case = RBF(ard_num_dims=D), conditionals(data, 5)
    raw = covariance(kernel, data.X).raw
    whole = Closed(kernel, case)(raw, 0.2)
    monkeypatch.setattr("kernelfield.linalg.sparse_factor.CHUNK", 150)
    parts = Closed(kernel, case)(raw, 0.2)
    assert whole[0] == pytest.approx(parts[0], rel=1e-12)
    np.testing.assert_allclose(whole[1], parts[1], rtol=1e-9, atol=1e-12)


def test_twins_of_rows_have_an_evidence(data):
    X = data.X.repeat(2, 1)
    twins = Data(X, data.Y.repeat(2, 1))
    for kernel in (Matern(0.5), RBF(ard_num_dims=D)):
        objective = NeighbourObjective(kernel, twins, conditionals(twins, 6), 1e-3, learn=True)
        value, slope = objective(objective.start())
        assert np.isfinite(value)
        assert_close(torch.tensor(slope).isfinite().all(), torch.tensor(True))
