import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.neural.curvature import Tangent, explicit
from kernelfield.models.neural.laplace import FORMS, LaplaceNetwork
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.train import Training
from kernelfield.nets.quadrature import Tanh
from tests import laws

EXACT = {"rtol": 1e-10, "atol": 1e-10}
DELTA, NOISE = 0.7, 0.3
X, NEW = torch.randn(12, 3, generator=torch.Generator().manual_seed(1)), torch.randn(4, 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(outputs: int = 1, *, weighted: bool = False) -> tuple[Network, Data]:
    """A model that is linear in its parameters, and data."""
    Y = torch.randn(len(X), outputs, generator=generator(2)) + X[:, :1]
    weight = torch.rand(len(X), generator=generator(3)) + 0.5 if weighted else None
    return Network(nn.Linear(3, outputs), 3, outputs), Data(X, Y, weight)


def conjugate(network: Network, data: Data) -> tuple[Tensor, Tensor, Tensor]:
    """The posterior mean (p,) and covariance (p, p), and the log evidence, of Bayesian linear regression.

    Parameters are those of nn.Linear: the weights row by row, then the biases.
    """
    m, n = data.Y.shape[1], len(data.X)
    eye = torch.eye(m)
    Phi = torch.cat([torch.einsum("nd,kl->nkld", data.X, eye).flatten(2), eye.expand(n, m, m)], -1).flatten(0, 1)
    weight = torch.ones(n) if data.weight is None else data.weight
    spread = (NOISE / weight).repeat_interleave(m)
    prior = torch.diag(network.prior_std.square() / DELTA)
    covariance = torch.linalg.inv(torch.linalg.inv(prior) + Phi.mT @ (Phi / spread[:, None]))
    mean = covariance @ Phi.mT @ (data.Y.flatten() / spread)
    law = MultivariateNormal(torch.zeros(n * m), Phi @ prior @ Phi.mT + torch.diag(spread))
    return mean, covariance, law.log_prob(data.Y.flatten())


def model(form: str, **settings) -> LaplaceNetwork:
    return LaplaceNetwork(form=form, precision=DELTA, noise=NOISE, rank=50, subset=100, **settings)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", [form for form in FORMS if form != "diagonal"])
def test_a_linear_model_is_bayesian_linear_regression(form, outputs, weighted):
    network, data = linear(outputs, weighted=weighted)
    mean, covariance, evidence = conjugate(network, data)
    fitted = model(form).around(network, mean, data, generator=generator())
    assert_close(torch.tensor(fitted.log_evidence), evidence, **EXACT)
    law = fitted.posterior(NEW)
    eye = torch.eye(outputs)
    new = torch.cat([torch.einsum("nd,kl->nkld", NEW, eye).flatten(2), eye.expand(4, outputs, outputs)], -1).flatten(
        0, 1
    )
    assert_close(law.mean.flatten(), new @ mean, **EXACT)
    assert_close(law.covariance, new @ covariance @ new.mT, **EXACT)
    assert_close(law.variance.flatten(), (new @ covariance @ new.mT).diagonal(), **EXACT)
    noisy = fitted.posterior(NEW, noise=True)
    assert_close(noisy.covariance, law.covariance + NOISE * torch.eye(4 * outputs), **EXACT)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "diagonal"])
def test_a_linear_model_is_a_process_with_the_kernel_of_its_features(form):
    network, data = linear()
    mean, _, _ = conjugate(network, data)
    fitted = model(form).around(network, mean, data, generator=generator())
    Phi, new = (torch.cat([x, torch.ones(len(x), 1)], 1) * network.prior_std / DELTA**0.5 for x in (X, NEW))
    A = Phi @ Phi.mT + NOISE * torch.eye(len(X))
    gain = torch.linalg.solve(A, Phi @ new.mT).mT
    law = fitted.posterior(NEW)
    assert_close(law.mean, gain @ data.Y, **EXACT)
    assert_close(law.covariance, new @ new.mT - gain @ Phi @ new.mT, **EXACT)


def mode(outputs: int = 2) -> tuple[Network, Tensor, Data]:
    """A network with a hidden layer at some parameters, which need not be a mode."""
    network = Network(multilayer((5,), Tanh()), 3, outputs)
    theta = network.draw(1, generator(4))[0]
    return network, theta, Data(X, torch.randn(len(X), outputs, generator=generator(5)))


@pytest.mark.parametrize("prior", ["one", "layers"])
def test_forms_that_lose_nothing_agree(prior):
    network, theta, data = mode()
    # 32 parameters and 24 outputs, then 60: both sides of "full".
    for part in (data, Data(torch.cat([X, NEW, X + 1]), torch.randn(28, 2))):
        fits = [
            model(form, prior=prior).around(network, theta, part, generator=generator())
            for form in ("full", "low_rank", "functional")
        ]
        for other in fits[1:]:
            assert_close(other.posterior(NEW).covariance, fits[0].posterior(NEW).covariance, **EXACT)
            assert_close(other.posterior(NEW).variance, fits[0].posterior(NEW).variance, **EXACT)
            assert math.isclose(other.log_evidence, fits[0].log_evidence, rel_tol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_marginals_are_the_diagonal_of_the_joint_law_in_batches_too(form):
    network, theta, data = mode()
    fitted = LaplaceNetwork(form=form, precision=DELTA, noise=NOISE, rank=6, subset=7).around(
        network, theta, data, generator=generator()
    )
    batch = torch.stack([NEW, NEW - 1])
    law = fitted.posterior(batch, noise=True)
    assert law.mean.shape == (2, 4, 2) and law.covariance.shape == (2, 8, 8)
    assert_close(law.variance.flatten(1), law.covariance.diagonal(dim1=-2, dim2=-1), **EXACT)
    assert_close(law.covariance[1], fitted.posterior(NEW - 1, noise=True).covariance)
    laws.obeys_posterior_laws(fitted.posterior(NEW[:2]))


def test_the_diagonal_form_is_the_diagonal_of_the_curvature():
    network, theta, data = mode()
    fitted = model("diagonal").around(network, theta, data, generator=generator())
    tangent = Tangent(network, theta)
    J, new = (explicit(tangent.shares(x)).flatten(0, 1) for x in (X, NEW))
    variance = 1 / (DELTA + J.square().sum(0) / NOISE)
    assert_close(fitted.posterior(NEW).covariance, (new * variance) @ new.mT, **EXACT)


def test_the_last_layer_alone_is_linear_regression_on_its_inputs():
    network, theta, data = mode(1)
    fitted = model("last_layer").around(network, theta, data, generator=generator())
    weights = network.named(theta)
    names = list(weights)
    hidden = [torch.tanh(x @ weights[names[0]].mT + weights[names[1]]) for x in (X, NEW)]
    # The last layer has the NTK parameterisation: its parameters are standard normal before the data.
    Phi, new = (torch.cat([h / 5**0.5, torch.full((len(h), 1), 0.1)], 1) / DELTA**0.5 for h in hidden)
    expected = new @ torch.linalg.inv(torch.eye(6) + Phi.mT @ Phi / NOISE) @ new.mT
    assert_close(fitted.posterior(NEW).covariance, expected, **EXACT)


@pytest.mark.parametrize("prior", ["one", "layers"])
@pytest.mark.parametrize("form", FORMS)
def test_tuning_ends_where_the_evidence_is_flat_or_bounded(form, prior):
    network, theta, data = mode()
    start = LaplaceNetwork(form=form, prior=prior, subset=7, rank=6, precision=1.0, noise=0.1)
    tuned = LaplaceNetwork(form=form, prior=prior, subset=7, rank=6)
    fits = [m.around(network, theta, data, generator=generator()) for m in (start, tuned)]
    assert fits[1].log_evidence > fits[0].log_evidence
    assert len(fits[1].precision) == (2 if prior == "layers" and form != "last_layer" else 1)
    best = fits[1]
    for factor in (0.8, 1.25):
        if best.precision.numel() == 1 and best.precision.item() < 1e7:
            moved = LaplaceNetwork(
                form=form, subset=7, rank=6, precision=factor * best.precision.item(), noise=best.noise.item()
            ).around(network, theta, data, generator=generator())
            assert moved.log_evidence < best.log_evidence
        moved = LaplaceNetwork(form=form, prior=prior, subset=7, rank=6, noise=factor * best.noise.item()).around(
            network, theta, data, generator=generator()
        )
        assert moved.log_evidence < best.log_evidence + 1e-6


def test_evidence_by_one_block_is_exact_and_by_several_a_lower_bound():
    network, theta, data = mode()
    settings = {"precision": DELTA, "noise": NOISE}
    exact = LaplaceNetwork(**settings).around(network, theta, data, generator=generator()).log_evidence
    values = [
        LaplaceNetwork(evidence="blocks", block=size, **settings).around(network, theta, data, generator=generator())
        for size in (12, 6, 1)
    ]
    assert math.isclose(values[0].log_evidence, exact, rel_tol=1e-10)
    assert exact > values[1].log_evidence > values[2].log_evidence


@pytest.mark.parametrize("form", FORMS)
def test_the_law_can_be_differentiated_in_the_inputs(form):
    network, theta, data = mode()
    fitted = model(form).around(network, theta, data, generator=generator())

    def law(x: Tensor) -> Tensor:
        posterior = fitted.posterior(x)
        return torch.cat([posterior.mean.flatten(), posterior.variance.flatten(), posterior.covariance.flatten()])

    assert torch.autograd.gradcheck(law, NEW[:2].clone().requires_grad_())
    assert not law(NEW[:2]).requires_grad


def test_a_fit_finds_the_function_and_its_noise():
    x = torch.linspace(-1, 1, 80)[:, None]
    y = torch.sin(3 * x) + 0.1 * torch.randn(80, 1, generator=generator(1))
    training = Training(steps=300, learning_rate=1e-2)
    fitted = LaplaceNetwork(training=training, rounds=3).fit(Data(x, y), generator=generator())
    assert 0.005 < fitted.noise.item() < 0.02  # 0.01, to five standard errors
    law = fitted.posterior(torch.linspace(-0.9, 0.9, 7)[:, None])
    truth = torch.sin(3 * torch.linspace(-0.9, 0.9, 7)[:, None])
    assert ((law.mean - truth).abs() < 5 * law.variance.sqrt()).all()
    assert set(fitted.hyperparameters()) == {"noise", "precision"}


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows_and_constant_targets_have_a_law(rows):
    training = Training(steps=20)
    for Y in (torch.zeros(rows, 2), torch.randn(rows, 2)):
        fitted = LaplaceNetwork(training=training).fit(Data(X[:rows], Y), generator=generator())
        law = fitted.posterior(NEW, noise=True)
        assert law.mean.isfinite().all() and (law.variance > 0).all() and law.variance.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"form": "kfac"}, "form must be one of full, .*, got 'kfac'"),
        ({"prior": "two"}, "prior must be one of one, layers, got 'two'"),
        ({"precision": 0.0}, "precision must be positive, got 0.0"),
        ({"noise": -1.0}, "noise must be a positive variance, got -1.0"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"training": Training(steps=2)}, "5 rounds need at least as many steps of training, got 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        LaplaceNetwork(**settings).fit(Data(X, X[:, :1]), generator=generator())
