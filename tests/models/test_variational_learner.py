"""The steps of a variational process against the collapsed bound, and one rank against several."""

from dataclasses import dataclass, replace

import pytest
import torch
from gpytorch.priors import LogNormalPrior
from torch import Tensor
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.stationary import Matern
from kernelfield.linalg.ranks import ALONE, Ranks
from kernelfield.models.collapsed import Rows, slopes
from kernelfield.models.expansion import FittedExpansion
from kernelfield.models.fitted_variational import FittedVariationalProcess
from kernelfield.models.sparse import InducingInputs, SparseProcess
from kernelfield.models.svgp import VariationalProcess

X = torch.rand(60, 2, generator=torch.Generator().manual_seed(1))
XS = torch.rand(5, 2, generator=torch.Generator().manual_seed(2))


def targets(kind="gaussian"):
    f = torch.sin(6 * X[:, :1]) + X[:, 1:]
    match kind:
        case "poisson":
            return torch.poisson(f.exp(), torch.Generator().manual_seed(3))
        case "bernoulli":
            return (f > 0.5).double()
        case _:
            noise = 0.1 * torch.randn(60, 2, generator=torch.Generator().manual_seed(3))
            return torch.cat([f, X[:, :1].square()], 1) + noise


def data(kind="gaussian"):
    weight = 0.5 + torch.rand(60, generator=torch.Generator().manual_seed(4))
    return Data(X, targets(kind), weight)


def part(whole, rows):
    return Data(whole.X[rows], whole.Y[rows], whole.weight[rows])


def kernel():
    made = Matern(1.5, ard_num_dims=2, lengthscale_prior=LogNormalPrior(-1.0, 1.0))
    made.lengthscale = torch.tensor([0.4, 0.6])
    return made


def model(**settings):
    held = {"inducing": 9, "noise": 0.05, "steps": 0, "epochs": 4, "least_steps": 1, "batch": 20, "rate": 0.05}
    return VariationalProcess(kernel(), **{**held, **settings})


def learner(model, whole, ranks=ALONE):
    return model.learner(whole, len(whole.X), generator=torch.Generator().manual_seed(0), ranks=ranks)


def run(found, batches):
    return [found.step(batch) for batch in batches]


@pytest.mark.parametrize("mean", ["zero", "constant", "linear"])
def test_one_step_of_all_rows_gives_the_collapsed_bound_and_its_law(mean):
    started = learner(model(mean=mean, batch=60), data())
    started.law = replace(started.law, mean=torch.randn_like(started.law.mean))  # wherever it comes from
    collapsed = SparseProcess(kernel(), inducing=9, noise=0.05, steps=0, mean=mean)
    expect = collapsed.fit(data(), generator=torch.Generator().manual_seed(0))
    loss = started.step(data())
    assert -loss * 120 == pytest.approx(expect.log_bound, rel=1e-11)
    law = FittedVariationalProcess(
        expect.basis, replace(started.likelihood, noise=0.05), expect.trend, expect.centre, started.law, 0.0
    )
    for noise in (False, True):
        found, exact = law.posterior(XS, noise=noise), expect.posterior(XS, noise=noise)
        assert_close(found.mean, exact.mean, rtol=0, atol=1e-10)
        assert_close(found.covariance, exact.covariance, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mean", ["zero", "linear"])
def test_the_slopes_of_all_rows_are_those_of_the_collapsed_bound_and_the_priors(mean):
    started = learner(model(mean=mean, batch=60), data())
    Z = (started.places * started.unit).detach().requires_grad_()
    basis, wanted = InducingInputs(kernel(), Z), [*started.kernel.parameters()]
    own = [*basis.kernel.parameters()]
    trend, centre = started.start.trend, started.start.centre
    expect = slopes(basis, Rows.of(data(), trend, centre), 0.05, 2, [*own, Z])
    prior = basis.kernel.lengthscale_prior.log_prob(basis.kernel.lengthscale).sum()
    tilt = torch.autograd.grad(prior, own, allow_unused=True, materialize_grads=True)
    started.step(data())
    for parameter, slope, more in zip(wanted, expect.tensors, tilt, strict=False):
        assert_close(-parameter.grad * 120, slope + more, rtol=1e-6, atol=1e-6)
    assert_close(-started.places.grad * 120, expect.tensors[-1] * started.unit, rtol=1e-6, atol=1e-6)
    assert -started.logs.grad.item() * 120 == pytest.approx(expect.log_noise, rel=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "student_t", "poisson", "bernoulli"])
def test_a_killed_run_ends_at_the_same_numbers(kind):
    whole, choice = data(kind), model(likelihood=kind)
    batches = [part(whole, slice(start, start + 20)) for start in (0, 20, 40)]
    first = learner(choice, whole)
    passes = first.passes
    assert passes == 4 + (kind == "gaussian")
    for _ in range(passes):
        run(first, batches)
    for stop in (2, 5, 3 * passes - 1):
        killed, second = learner(choice, whole), learner(choice, whole)
        every = [batch for _ in range(passes) for batch in batches]
        run(killed, every[:stop])
        saved = {name: value.clone() for name, value in killed.state().items()}
        run(killed, every[stop:])  # what it does later does not change what was saved
        second.restore(saved)
        run(second, every[stop:])
        for name, value in first.state().items():
            assert torch.equal(value, second.state()[name]), name
        law, expect = (found.surrogate().posterior(XS) for found in (second, first))
        assert torch.equal(law.mean, expect.mean)
        assert torch.equal(law.variance, expect.variance)


def test_a_state_of_other_settings_is_refused():
    state = learner(model(), data()).state()
    with pytest.raises(ValueError, match=r"of other settings: places has the shape \(9, 2\) in it and \(5, 2\) here"):
        learner(model(inducing=5), data()).restore(state)
    del state["mean"]
    with pytest.raises(ValueError, match="mean has nothing in it"):
        learner(model(), data()).restore(state)


@dataclass(frozen=True, eq=False)
class Twins(Ranks):
    """Two ranks played one after the other: what the other one adds is known from before."""

    world: int = 2

    def sum(self, tensor: Tensor) -> Tensor:
        return 2 * tensor


@pytest.mark.parametrize("kind", ["gaussian", "poisson"])
def test_ranks_with_halves_of_the_rows_are_one_with_all(kind):
    """Two ranks that have the same rows are one that has all of them twice."""
    half = data(kind)
    both = Data(half.X.repeat(2, 1), half.Y.repeat(2, 1), half.weight.repeat(2))
    one, two = learner(model(likelihood=kind, batch=40), half), learner(model(likelihood=kind, batch=40), half, Twins())
    one.course = two.course = replace(one.course, rows=120)
    for start in (0, 20, 40):
        rows = torch.arange(start, start + 20)
        alone = one.step(part(both, torch.cat([rows, rows + 60])))
        assert two.step(part(half, rows)) == pytest.approx(alone, rel=1e-10)
    for name, value in one.state().items():
        assert_close(two.state()[name], value, rtol=1e-8, atol=1e-9)


def test_the_last_pass_gathers_the_best_law():
    found = learner(model(), data())
    batches = [part(data(), slice(start, start + 20)) for start in (0, 20, 40)]
    for _ in range(4):
        assert all(loss is not None for loss in run(found, batches))
    assert isinstance(found.surrogate(), FittedVariationalProcess)
    assert run(found, batches) == [None] * 3
    fitted = found.surrogate()
    assert isinstance(fitted, FittedExpansion)
    rows = Rows.of(data(), fitted.trend, fitted.centre)
    whole = FittedExpansion.of(fitted.basis, fitted.noise, fitted.trend, fitted.centre, rows)
    assert fitted.log_bound == pytest.approx(whole.log_bound, rel=1e-12)
    assert fitted.noise != 0.05
    assert not any(p.requires_grad for p in fitted.kernel.parameters())


@pytest.mark.parametrize(("share", "shorter"), [(0.1, 1.0), (4e-4, 0.1), (4e-6, 0.01)])
def test_steps_are_short_where_the_noise_is_small_beside_the_function(share, shorter):
    """At a law that stays, hyperparameters move f by a share of its size, which must not be many times the noise."""
    whole = Data(X, targets())
    size = learner(model(batch=60), whole).start.size
    started = learner(model(batch=60, noise=share * size), whole)
    before = started.places.detach().clone()
    started.step(whole)
    assert (started.places - before).abs().max().item() == pytest.approx(0.05 * shorter, rel=1e-3)


def test_the_noise_is_in_the_end_that_of_the_greatest_bound():
    found = learner(model(), data())
    for _ in range(found.passes):
        run(found, [part(data(), rows) for rows in torch.arange(60).split(20)])
    fitted = found.surrogate()
    for factor in (0.98, 1.02):
        assert fitted.log_bound > replace(fitted, noise=factor * fitted.noise).log_bound
    held = learner(model(learn_noise=False), data())
    for _ in range(held.passes):
        run(held, [part(data(), rows) for rows in torch.arange(60).split(20)])
    assert held.surrogate().noise == pytest.approx(0.05)
