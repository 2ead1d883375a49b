"""Covariances of a fit: what is done without a graph is what automatic differentiation does."""

import numpy as np
import pytest
import torch
from gpytorch.kernels import PeriodicKernel, RBFKernel, ScaleKernel
from gpytorch.priors import GammaPrior
from torch.testing import assert_close

from kernelfield.kernels.learning_curve import LearningCurve
from kernelfield.kernels.stationary import RBF, Matern, RationalQuadratic, dimension_scaled
from kernelfield.models.covariance import Covariance, Decaying, General, Radial, covariance, matrix

X = torch.rand(30, 3, generator=torch.Generator().manual_seed(0))
NAMED = dimension_scaled("matern52", torch.tensor([1.0, 0.3]))
CURVES = {
    "by name": LearningCurve.of(NAMED, inputs=2),
    "with shapes": LearningCurve(RationalQuadratic(active_dims=(0, 1)), Matern(0.5, active_dims=(1,))),
    "of the steps too": LearningCurve(RBF(), Matern(1.5, ard_num_dims=3)),
    "another prior": LearningCurve(RBF(), RBF(), rate_prior=GammaPrior(2.0, 3.0)),
}


def same_answers(one: Covariance, other: Covariance) -> None:
    """At parameters away from the start: the matrix, what a gradient in it is worth, and the prior."""
    order = [next(i for i, q in enumerate(other.raw) if q is p) for p in one.raw]
    pieces = np.split(other.start() + 0.3, np.cumsum([p.numel() for p in other.raw])[:-1])
    thetas = np.concatenate([pieces[i] for i in order]), np.concatenate(pieces)
    K, full = one.fill(thetas[0]), other.fill(thetas[1])
    assert_close(K.tril(), full.tril(), rtol=1e-9, atol=1e-12)
    root = torch.randn(30, 30, generator=torch.Generator().manual_seed(1))
    G = root + root.mT
    trace = (G * full).sum().item()
    (prior, tilt), (theirs, slope) = one.log_prior(thetas[0]), other.log_prior(thetas[1])
    assert prior == pytest.approx(theirs, rel=1e-10)
    for ours, graph in ((one.pull(G, trace), other.pull(G, trace)), (tilt, slope)):
        graph = np.split(np.broadcast_to(graph, len(thetas[1])), np.cumsum([p.numel() for p in other.raw])[:-1])
        assert np.allclose(ours, np.concatenate([graph[i] for i in order]), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kernel", CURVES.values(), ids=CURVES)
def test_a_learning_curve_needs_no_graph(kernel: LearningCurve) -> None:
    quick = covariance(kernel, X)
    assert isinstance(quick, Decaying)
    same_answers(quick, General(kernel, X))


def test_a_stationary_kernel_needs_no_graph() -> None:
    quick = covariance(NAMED, X[:, :2])
    assert isinstance(quick, Radial)
    same_answers(quick, General(NAMED, X[:, :2]))


def test_the_quick_prior_is_the_prior_of_gpytorch() -> None:
    for kernel in (NAMED, CURVES["by name"]):
        known = General(kernel, X[:, :2])
        theta = known.start() + 0.2
        value, _ = known.log_prior(theta)
        known.assign(theta)
        parts = [prior.log_prob(closure(module)).sum() for _, module, prior, closure, _ in kernel.named_priors()]
        assert value == pytest.approx(sum(part.item() for part in parts), rel=1e-12)


def test_what_is_held_stays_within_its_bounds() -> None:
    kernel = LearningCurve.of(NAMED, inputs=2)
    kernel.raw_rate.requires_grad_(False)
    known = covariance(kernel, X)
    low, high = np.array(known.bounds(1.0)).T
    assert low[1] == high[1] == known.start()[1]
    assert ((low <= known.start()) & (known.start() <= high)).all()
    assert known.scattered(1.0, 0.0, torch.Generator().manual_seed(0))[1] == known.start()[1]


@pytest.mark.parametrize(
    "kernel",
    [
        ScaleKernel(RBFKernel(), active_dims=torch.tensor([0, 2])),
        ScaleKernel(RBFKernel(active_dims=(1,)) * RBFKernel(), active_dims=torch.tensor([0, 2])),
        ScaleKernel(ScaleKernel(PeriodicKernel(active_dims=(2,)))),
    ],
)
def test_a_scaled_kernel_sees_the_inputs_that_it_is_given(kernel: ScaleKernel) -> None:
    assert_close(matrix(kernel, X, X[:5]), kernel(X, X[:5]).to_dense(), rtol=1e-12, atol=0)


def test_a_matrix_is_that_of_the_kernel_and_other_inputs_are_refused() -> None:
    kernel = Matern(2.5, ard_num_dims=3)
    kernel.lengthscale = torch.tensor([0.3, 0.7, 1.1])
    generator = torch.Generator().manual_seed(0)
    x1, x2 = torch.rand(2, 5, 3, generator=generator), torch.rand(4, 3, generator=generator)
    for other in (x1, x2):
        assert torch.equal(matrix(kernel, x1, other), kernel(x1, other).to_dense())
    with pytest.raises(RuntimeError):  # one column must not stand for all three
        matrix(kernel, x1[..., :1], x2[..., :1])
    chosen = Matern(2.5, ard_num_dims=2, active_dims=(0, 2))
    assert torch.equal(matrix(chosen, x1, x2), matrix(Matern(2.5, ard_num_dims=2), x1[..., [0, 2]], x2[..., [0, 2]]))
