"""The conditional autoencoder: its bound, and a linear Gaussian case whose noise and law are known."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from kernelfield.core.contracts import Data
from kernelfield.models.neural.train import Training
from kernelfield.models.neural.variational_encoder import Autoencoder, EvidenceBound, fit_encoder


def test_the_loss_is_the_negative_evidence_bound() -> None:
    n, m, r = 7, 2, 3
    y, fitted, mean, log_std = torch.randn(n, m), torch.randn(n, m), torch.randn(n, r), torch.randn(n, r)
    noise = torch.tensor([[0.3, 2.0]])
    likelihood = Independent(Normal(fitted, noise.sqrt().expand(n, m)), 1).log_prob(y)
    divergence = kl_divergence(Independent(Normal(mean, log_std.exp()), 1), Independent(Normal(0 * mean, 1.0), 1))
    values = torch.cat([fitted, mean, log_std], -1)[None]
    loss = EvidenceBound(r).loss(values, y, noise=noise)
    assert loss.item() == pytest.approx(-(likelihood - divergence).mean().item(), rel=1e-12)


def test_an_autoencoder_gives_what_its_parts_are() -> None:
    module = Autoencoder(1, 2, 3, width=8, layers=2).double()
    rows = torch.randn(5, 6)
    x, y, e = rows.split([1, 2, 3], 1)
    mean, raw = module.encoder(torch.cat([x, y], 1)).chunk(2, 1)
    log_std = 6 * torch.tanh(raw / 6)
    expected = torch.cat([module.decoder(torch.cat([x, mean + log_std.exp() * e], 1)), mean, log_std], 1)
    torch.testing.assert_close(module(rows), expected)


def test_training_finds_the_law_of_a_line_with_noise() -> None:
    generator = torch.Generator().manual_seed(1)
    X, z = torch.rand(1500, 1), torch.randn(1500, 1)
    Y = X + torch.cat([z, -z], 1) + 0.3 * torch.randn(1500, 2)  # a covariance of rank one and noise
    training = Training(steps=800, batch=128, learning_rate=1e-2)
    encoder = fit_encoder(Data(X, Y), training, latent=1, width=16, layers=1, generator=generator)
    assert encoder.latent == 1
    torch.testing.assert_close(encoder.noise, torch.full((2,), 0.09), rtol=0.25, atol=0)
    with torch.no_grad():
        decoded = encoder.decode(X, torch.randn(1500, 1))
        mean, std = encoder.encode(X, Y)
    torch.testing.assert_close(torch.cov((decoded - X).T), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), rtol=0.2, atol=0)
    # The exact posterior of z: precision 1 + 2 / 0.09, in either direction of the latent line.
    assert std.mean().item() == pytest.approx((1 + 2 / 0.09) ** -0.5, rel=0.15)
    assert abs(torch.corrcoef(torch.cat([mean, z], 1).T)[0, 1].item()) > 0.95
