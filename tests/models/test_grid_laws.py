"""A process on a grid has the law of the dense process, on tables that hypothesis makes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.kernels.grid import GridKernel
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.models.grid import GridProcess
from kernelfield.models.process import Process
from tests.linalg.drawn import CASES

KERNELS = {"rbf": RBF, "matern12": lambda: Matern(0.5), "matern52": Matern}


@st.composite
def tables(draw):
    """A table of one to three axes in any units and order, its rows thinned, repeated and weighted, and a kernel."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    sizes = draw(st.lists(st.integers(2, 6), min_size=1, max_size=3))
    axes, kernels = [], []
    for m in sizes:
        unit, origin = 10.0 ** draw(st.integers(-4, 4)), draw(st.sampled_from([0.0, 1.0, -20.0]))
        axes.append(unit * (origin + (0.2 + torch.rand(m)).cumsum(0)))
        kernels.append(KERNELS[draw(st.sampled_from(sorted(KERNELS)))]())
        kernels[-1].lengthscale = unit * m * 10.0 ** draw(st.floats(-1, 0.5))
    X = torch.cartesian_prod(*axes).reshape(-1, len(sizes))
    kept = torch.randperm(len(X))[: max(len(X) - draw(st.integers(0, len(X) // 3)), 4)]
    kept = torch.cat([kept, kept[: draw(st.integers(0, 3))]])
    kernel = GridKernel(kernels)
    size = 10.0 ** draw(st.floats(-4, 4))
    kernel.outputscale = size
    Y = size**0.5 * (3 + torch.randn(len(kept), draw(st.integers(1, 2))))
    weight = 10 ** (4 * torch.rand(len(kept)) - 2) if draw(st.booleans()) else None
    noise = size * 10.0 ** draw(st.floats(-4, 2))
    return kernel, noise, Data(X[kept], Y, weight)


@CASES
@given(tables(), st.sampled_from(["zero", "constant", "linear"]), st.sampled_from([Unit(), InverseGamma(2.0, 3.0)]))
def test_a_grid_has_the_law_of_the_dense_process(table, mean, mixing):
    kernel, noise, data = table
    options = {"mean": mean, "mixing": mixing, "noise": noise, "steps": 0}
    grid, dense = (model(kernel, **options).fit(data, generator=torch.Generator()) for model in (GridProcess, Process))
    assert grid.log_evidence == pytest.approx(dense.log_evidence, rel=1e-8, abs=1e-6)
    assert grid.scale_law.mean == pytest.approx(dense.scale_law.mean, rel=1e-7)
    low, high = data.X.amin(0), data.X.amax(0)
    new = torch.cat([low + (high - low) * (2 * torch.rand(5, len(low)) - 0.5), data.X[:2]])
    size = kernel.outputscale.item()
    for noisy in (False, True):
        law, expected = (fitted.posterior(new, noise=noisy) for fitted in (grid, dense))
        assert ((law.mean - expected.mean).abs().max() <= 1e-7 * expected.mean.abs().max()).item()
        gap = (law.covariance - expected.covariance).abs().max()
        assert (gap <= 1e-7 * (size + expected.variance.max())).item()
        near = (law.variance - expected.variance).abs() <= 1e-7 * (size + expected.variance)
        assert near.all()


@CASES
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_rows_and_columns_means_nothing(table, order):
    kernel, noise, data = table
    rows = torch.tensor(order.sample(range(len(data.X)), len(data.X)))
    columns = order.sample(range(data.X.shape[1]), data.X.shape[1])
    turned = GridKernel([kernel.axes[c] for c in columns])
    turned.outputscale = kernel.outputscale.item()
    weight = None if data.weight is None else data.weight[rows]
    first = GridProcess(kernel, noise=noise, steps=0).fit(data, generator=torch.Generator())
    other = Data(data.X[rows][:, columns], data.Y[rows], weight)
    second = GridProcess(turned, noise=noise, steps=0).fit(other, generator=torch.Generator())
    assert second.log_evidence == pytest.approx(first.log_evidence, rel=1e-8, abs=1e-6)
    gap = (second.posterior(other.X).mean - first.posterior(data.X[rows]).mean).abs().max()
    assert (gap <= 1e-7 * data.Y.abs().max()).item()
