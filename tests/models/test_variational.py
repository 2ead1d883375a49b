"""The variational bound against quadrature and PyTorch's divergences, and what heavy tails do."""

import numpy as np
import pytest
import torch
from torch.distributions import Gamma, MultivariateNormal, kl_divergence
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.kernels.stationary import RBF
from kernelfield.models.process import Process
from kernelfield.models.variational import Bound, VariationalClassifier, chosen
from tests.laws import obeys_posterior_laws

X = torch.randn(40, 2, generator=torch.Generator().manual_seed(3), dtype=torch.double)
LABELS = (X[:, 0] > 0.3).long() + (X[:, 1] > 0).long()
LAWS = {"gaussian": Unit(), "heavy tails": InverseGamma(2.0, 2.0)}
laws = pytest.mark.parametrize("mixing", LAWS.values(), ids=LAWS)


def data():
    return Data(X, torch.nn.functional.one_hot(LABELS, 3).double())


def random_bound(mixing, seed=0):
    generator = torch.Generator().manual_seed(seed)
    bound = Bound(RBF(), X[:5], 3, mixing).double()
    with torch.no_grad():
        bound.mean.copy_(torch.randn(3, 5, generator=generator))
        bound.factor.add_(0.3 * torch.randn(3, 5, 5, generator=generator))
        bound.log_law.add_(torch.tensor([0.3, -0.2])[: len(bound.log_law)])
    return bound


def test_the_divergence_of_the_gaussian_form_is_pytorch_s():
    bound = random_bound(Unit())
    prior = MultivariateNormal(torch.zeros(5), torch.eye(5))
    T = bound.factor.tril()
    expect = sum(kl_divergence(MultivariateNormal(m, t @ t.mT), prior) for m, t in zip(bound.mean, T, strict=True))
    assert_close(bound.divergence(), expect)


def test_the_divergence_of_the_heavy_tailed_form_is_an_average_over_s():
    """KL(q(v, s) | p(v, s)) = KL(q(s) | p(s)) + E KL(q(v | s) | p(v | s)), the first of Gamma laws of 1 / s."""
    bound = random_bound(LAWS["heavy tails"])
    a, b = bound.log_law.detach().exp()
    q, p = Gamma(a, b), Gamma(torch.tensor(2.0), torch.tensor(2.0))
    T, s = bound.factor.detach().tril(), torch.logspace(-4, 4, 4001)
    given = torch.zeros_like(s)
    for m, t in zip(bound.mean.detach(), T, strict=True):
        S = t @ t.mT
        given += 0.5 * (S.trace() - 5 - S.logdet() + m.square().sum() / s)
    density = q.log_prob(1 / s).exp() / s**2
    average = torch.trapezoid(density * given, s)
    assert_close(bound.divergence().detach(), kl_divergence(q, p) + average, rtol=1e-4, atol=0)


@laws
def test_the_bound_is_below_the_evidence_of_one_row(mixing):
    """One row at an inducing input, whose prior probabilities are equal: the evidence is log(1/3)."""
    x, y = X[:1], torch.tensor([[0.0, 1.0, 0.0]])
    bound = Bound(RBF(), x, 3, mixing).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        start = np.mean([bound(x, y, 1, generator).item() for _ in range(200)])
    assert start < np.log(1 / 3)
    optimiser = torch.optim.Adam([bound.mean, bound.factor, bound.log_law], lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        (-bound(x, y, 1, generator)).backward()
        optimiser.step()
    with torch.no_grad():
        end = np.mean([bound(x, y, 1, generator).item() for _ in range(200)])
    assert start < end < np.log(1 / 3) + 0.01
    assert end > np.log(1 / 3) - 0.2  # a Gaussian is not the law of f given a label


def test_the_scale_variable_is_drawn_from_its_law_and_shared_by_the_classes():
    bound = random_bound(LAWS["heavy tails"])
    root = bound._root_s(4000, 10, torch.Generator().manual_seed(0))
    assert root.shape == (4000, 1, 10)  # the axis of the classes is broadcast
    a, b = bound.log_law.detach().exp()
    precision = root.detach().pow(-2).flatten()
    assert precision.mean() == pytest.approx((a / b).item(), abs=6 * (a.sqrt() / b / 200).item())
    slope = torch.autograd.grad(root.pow(-2).mean(), bound.log_law)[0]
    assert_close(slope, torch.stack([a / b, -a / b]), rtol=0.05, atol=0)  # of E[1 / s] = a / b in log a and log b


@laws
def test_the_law_of_the_latent_functions_obeys_the_laws_of_posteriors(mixing):
    bound = random_bound(mixing)
    with torch.no_grad():
        bound.log_law[:1] += 1.0  # enough moments for the variance of a sample to settle
    law = bound.fitted().posterior(X[:3] + 0.1)
    obeys_posterior_laws(law)
    assert law.mixing.width == (0 if isinstance(mixing, Unit) else 1)


@laws
def test_the_law_has_the_whitened_form_of_the_docstring(mixing):
    fitted = random_bound(mixing).fitted()
    law = fitted.posterior(X[:4])
    K = fitted.kernel(fitted.Z).to_dense()
    L = torch.linalg.cholesky(K + 1e-6 * torch.diag(K.diagonal()))
    w = torch.linalg.solve(L, fitted.kernel(fitted.Z, X[:4]).to_dense())
    prior = fitted.kernel(X[:4]).to_dense()
    for c in range(3):
        S = fitted.factor[c] @ fitted.factor[c].mT
        assert_close(law.mean[:, c], w.mT @ fitted.mean[:, c])
        assert_close(law.scale.to_dense()[c::3, c::3], prior - w.mT @ w + w.mT @ S @ w, rtol=1e-6, atol=1e-8)


@laws
def test_a_fit_learns_and_reports_its_law(mixing):
    fitted = VariationalClassifier(mixing=mixing, inducing=20, least_steps=100, epochs=1, rate=0.1).fit(
        data(), generator=torch.Generator().manual_seed(0)
    )
    assert (fitted.probabilities(X).argmax(-1) == LABELS).double().mean() > 0.9
    assert ("alpha" in fitted.hyperparameters()) == isinstance(mixing, InverseGamma)


def test_inducing_inputs_are_rows_in_proportion_to_their_classes():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    rows = torch.arange(100.0)[:, None]
    Z = chosen(Data(rows, torch.nn.functional.one_hot(labels).double()), 20, torch.Generator().manual_seed(0))
    counts = torch.bincount(labels[Z[:, 0].long()], minlength=3)
    assert_close(counts, torch.tensor([12, 6, 2]), atol=1, rtol=0)
    assert len(Z.unique()) == 20


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (VariationalClassifier(inducing=0), "inducing must be at least 1, got 0"),
        (VariationalClassifier(rate=-1.0), "rate must be positive, got -1"),
        (VariationalClassifier(mixing=Process()), "mixing must be Unit"),
    ],
)
def test_bad_choices_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(data(), generator=torch.Generator())
