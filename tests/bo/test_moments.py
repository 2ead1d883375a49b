import pytest
import torch
from torch import Tensor

from kernelfield.bo.moments import GraphMoments, ProcessMoments, believed, moments
from kernelfield.core.contracts import Data, Surrogate
from kernelfield.core.mixing import InverseGamma
from kernelfield.core.posterior import Posterior
from kernelfield.estimators.scaling import Affine, Scaled
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.train import Training
from kernelfield.models.process import Process


def data(outputs: int = 1) -> Data:
    X = torch.rand(15, 3, generator=torch.Generator().manual_seed(0))
    Y = torch.stack([torch.sin(3 * X).sum(1), X.prod(1)], 1)[:, :outputs]
    return Data(X, Y)


MODELS = {
    "matern52": Process("matern52", steps=3, restarts=1),
    "matern32": Process("matern32", steps=3, restarts=1),
    "rbf": Process("rbf", noise=1e-3, steps=0),
    "rq": Process("rq", steps=3, restarts=1),
    "linear mean": Process("rbf", mean="linear", steps=3, restarts=1),
    "zero mean": Process("rbf", mean="zero", steps=3, restarts=1),
    "student": Process("matern52", mixing=InverseGamma.student(5.0), steps=3, restarts=1),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_closed_forms_are_those_of_automatic_differentiation(name: str) -> None:
    fitted = MODELS[name].fit(data(2), generator=torch.Generator().manual_seed(0))
    X = torch.rand(7, 3, generator=torch.Generator().manual_seed(1))
    dmean, dstd = torch.rand(2, 7, generator=torch.Generator().manual_seed(2))
    for output in range(2):
        closed, graph = moments(fitted, output).at(X), GraphMoments(fitted.posterior, output).at(X)
        assert isinstance(moments(fitted, output), ProcessMoments)
        assert torch.allclose(closed.mean, graph.mean, rtol=1e-12)
        assert torch.allclose(closed.std, graph.std, rtol=1e-9)
        assert torch.allclose(closed.pull(dmean, dstd), graph.pull(dmean, dstd), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("model", [Process("matern52", steps=3), Process("nngp", steps=1)], ids=["closed", "graph"])
def test_a_scaled_surrogate_answers_in_its_own_units(model: Process) -> None:
    scaled = Scaled(
        model.fit(data(), generator=torch.Generator().manual_seed(0)),
        Affine(torch.tensor([0.5, 0.2, 0.0]), torch.tensor([2.0, 0.5, 1.0])),
        Affine(torch.tensor([3.0]), torch.tensor([7.0])),
    )
    X = torch.rand(5, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    law = scaled.posterior(X)
    mean, std = law.mean[:, 0], law.variance[:, 0].sqrt()
    (slope,) = torch.autograd.grad((2 * mean + 3 * std).sum(), X)
    found = moments(scaled).at(X.detach())
    assert torch.allclose(found.mean, mean, rtol=1e-12)
    assert torch.allclose(found.std, std, rtol=1e-9)
    ones = torch.ones(5)
    assert torch.allclose(found.pull(2 * ones, 3 * ones), slope, rtol=1e-7, atol=1e-9)
    assert torch.equal(torch.stack(moments(scaled).values(X.detach())), torch.stack([found.mean, found.std]))


def test_kernels_on_some_columns_are_answered_through_the_graph() -> None:
    kernel = MODELS["rbf"].fit(data(), generator=torch.Generator()).kernel
    kernel.active_dims = torch.tensor([0, 1, 2])
    fitted = Process(kernel, steps=0).fit(data(), generator=torch.Generator())
    assert isinstance(moments(fitted), GraphMoments)


def test_pending_trials_leave_the_mean_and_shrink_the_spread() -> None:
    fitted = MODELS["matern52"].fit(data(), generator=torch.Generator().manual_seed(0))
    pending = torch.rand(2, 3, generator=torch.Generator().manual_seed(3))
    X = torch.cat([pending, torch.rand(4, 3, generator=torch.Generator().manual_seed(4))])
    mean, std = moments(fitted).values(X)
    after, less = believed(fitted, pending).values(X)
    assert (less[:2] < 0.5 * std[:2]).all()
    assert (less <= std + 1e-12).all()
    fixed = Process("matern52", mean="zero", steps=0).fit(data(), generator=torch.Generator())
    mean, after = (one.values(X)[0] for one in (moments(fixed), believed(fixed, pending)))
    assert torch.allclose(mean, after, atol=1e-9)  # what was expected comes as no news


class Stubborn(Surrogate):
    """A process that cannot take in data by itself."""

    def __init__(self, inner: Surrogate) -> None:
        self.inner = inner

    @property
    def outputs(self) -> int:
        return self.inner.outputs

    def posterior(self, X: Tensor, *, noise: bool = False) -> Posterior:
        return self.inner.posterior(X, noise=noise)


def test_a_surrogate_that_cannot_take_in_data_is_conditioned_through_its_joint_law() -> None:
    fitted = MODELS["matern52"].fit(data(), generator=torch.Generator().manual_seed(0))
    pending = torch.rand(3, 3, generator=torch.Generator().manual_seed(3))
    X = torch.rand(4, 3, generator=torch.Generator().manual_seed(4))
    exact, joint = believed(fitted, pending).values(X), believed(Stubborn(fitted), pending).values(X)
    assert torch.allclose(torch.stack(exact), torch.stack(joint), rtol=1e-6)


def test_an_ensemble_has_moments_with_slopes() -> None:
    model = Ensemble(members=4, training=Training(steps=30))
    fitted = model.fit(data(), generator=torch.Generator().manual_seed(0))
    X = torch.rand(3, 3, generator=torch.Generator().manual_seed(1))
    law = moments(fitted).at(X)
    slope = law.pull(torch.ones(3), torch.ones(3))
    step = 1e-5
    shift = torch.tensor([step, 0.0, 0.0])
    ahead, behind = (torch.stack(moments(fitted).values(X + sign * shift)).sum(0) for sign in (1, -1))
    # A difference may straddle the kink of a rectifier, where the slope is that of one side.
    assert torch.allclose(slope[:, 0], (ahead - behind) / (2 * step), rtol=1e-3, atol=1e-5)


def test_an_infinite_variance_is_refused_in_a_sentence() -> None:
    model = Process("rbf", mixing=InverseGamma(0.9, 1.0), noise=0.1, steps=0)
    fitted = model.fit(Data(data().X[:1], data().Y[:1]), generator=torch.Generator())
    if not torch.isinf(fitted.posterior(data().X).variance).any():
        pytest.fail("this law was to have no variance")
    with pytest.raises(ValueError, match="infinite variance"):
        GraphMoments(fitted.posterior, 0).values(data().X)
