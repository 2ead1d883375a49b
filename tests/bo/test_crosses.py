import pytest
import torch
from gpytorch.kernels import MaternKernel, ScaleKernel
from torch.testing import assert_close

from kernelfield.bo.at_step import AtStep
from kernelfield.bo.crosses import CurveCross, RadialCross, crossing
from kernelfield.bo.moments import GraphMoments, ProcessMoments, moments
from kernelfield.core.contracts import Data
from kernelfield.kernels.learning_curve import LearningCurve
from kernelfield.kernels.stationary import RBF, Matern, RationalQuadratic
from kernelfield.models.process import Process

ROWS = torch.rand(14, 4, generator=torch.Generator().manual_seed(0))
X = torch.rand(6, 3, generator=torch.Generator().manual_seed(1))
STEP = torch.tensor(0.7)
CURVE = LearningCurve.of(Matern(ard_num_dims=3), inputs=3)


def test_a_curve_at_one_step_is_its_kernel_and_its_slopes() -> None:
    kernel = LearningCurve(RationalQuadratic(active_dims=(0, 1, 2)), Matern(1.5, active_dims=(0, 1, 2)))
    kernel.power, kernel.rate, kernel.common = 1.7, 0.3, 2.0
    cross = crossing(kernel, ROWS, STEP)
    assert isinstance(cross, CurveCross)
    points = X.clone().requires_grad_()
    rows = torch.cat([points, STEP.expand(6, 1)], 1)
    K, G = kernel(rows, ROWS).to_dense(), torch.randn(6, 14)
    assert_close(cross.fill(X), K.detach())
    assert_close(cross.prior.expand(6), kernel(rows, diag=True).detach())
    assert_close(cross.pull(G), torch.autograd.grad((G * K).sum(), points)[0])


@pytest.mark.parametrize("mean", ["constant", "zero", "linear"])
def test_moments_at_a_step_are_those_of_automatic_differentiation(mean: str) -> None:
    data = Data(ROWS, torch.sin(3 * ROWS).sum(1, keepdim=True))
    at = AtStep(Process(CURVE, mean=mean, steps=4, restarts=1).fit(data, generator=torch.Generator()), STEP)  # type: ignore[arg-type]
    closed, graph = moments(at), GraphMoments(at.posterior, 0)
    assert isinstance(closed, GraphMoments if mean == "linear" else ProcessMoments)
    (mean_1, std_1), (mean_2, std_2) = closed.values(X), graph.values(X)
    assert_close(mean_1, mean_2)
    assert_close(std_1, std_2)
    one, other = closed.at(X), graph.at(X)
    dmean, dstd = torch.rand(2, 6, generator=torch.Generator().manual_seed(2))
    assert_close(one.pull(dmean, dstd), other.pull(dmean, dstd), rtol=1e-8, atol=1e-10)


def test_only_what_sees_exactly_the_points_is_in_closed_form() -> None:
    assert isinstance(crossing(Matern(ard_num_dims=4), ROWS), RadialCross)
    assert crossing(Matern(active_dims=(0, 1)), ROWS) is None
    assert crossing(ScaleKernel(MaternKernel()), ROWS) is None
    assert isinstance(crossing(CURVE, ROWS, STEP), CurveCross)
    assert crossing(LearningCurve(RBF(), RBF()), ROWS, STEP) is None  # they see the steps as well
    assert crossing(LearningCurve(RBF(active_dims=(1, 0, 2)), RBF(active_dims=(0, 1, 2))), ROWS, STEP) is None
    assert crossing(RBF(), ROWS, STEP) is None
