import math

import pytest
import torch
from scipy import optimize, stats
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.models.neural.likelihoods import Gaussian, Heteroscedastic, Softmax, held_out_noise, mixture_noise

K, B, M = 3, 5, 2


def targets():
    return torch.randn(K, B, M), torch.randn(B, M), torch.rand(B) + 0.5


def test_gaussian_loss_is_the_density_of_scipy():
    values, Y, weight = targets()
    noise = torch.rand(K, M) + 0.1
    for w in (None, weight):
        std = (noise[:, None, :] / (torch.ones(B) if w is None else w)[:, None]).sqrt()
        expected = -torch.as_tensor(stats.norm.logpdf(Y, values, std)).sum(-1).mean(-1)
        assert_close(Gaussian().loss(values, Y, w, noise), expected)
        batch = None if w is None else w.expand(K, B)
        assert_close(Gaussian().loss(values, Y.expand(K, B, M), batch, noise), expected)
    assert_close(Gaussian(0.3).loss(values, Y), Gaussian().loss(values, Y, None, torch.full((K, M), 0.3)))


def test_heteroscedastic_loss_is_the_density_of_scipy():
    values, Y, weight = targets()
    law = Heteroscedastic(0.0)
    both = torch.cat([values, 0.3 * torch.randn(K, B, M)], -1)
    variance = law.variance(both)
    assert_close(variance.log(), both[..., M:], rtol=1e-2, atol=0)  # bends by (0.9 / 15)^2 / 3 at most
    for w in (None, weight):
        std = (variance / (torch.ones(B) if w is None else w)[:, None]).sqrt()
        expected = -torch.as_tensor(stats.norm.logpdf(Y, values, std)).sum(-1).mean(-1)
        assert_close(law.loss(both, Y, w), expected)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_gradient_of_beta_nll_is_that_by_hand(beta):
    """d/dmu = v^beta (mu - y) / v and d/dlog v = v^beta (1 - (y - mu)^2 / v) / 2, over the rows."""
    mu, Y, weight = torch.randn(1, B, 1), torch.randn(B, 1), torch.rand(B) + 0.5
    raw = torch.randn(1, B, 1)
    v = Heteroscedastic().variance(torch.cat([mu, raw], -1)) / weight[:, None]
    both = torch.cat([mu, raw], -1).requires_grad_()
    Heteroscedastic(beta).loss(both, Y, weight).sum().backward()
    bend = 1 - torch.tanh(raw / 15).square()
    expected = torch.cat([v**beta * (mu - Y) / v, v**beta * (1 - (Y - mu).square() / v) / 2 * bend], -1) / B
    assert_close(both.grad, expected)


def test_variances_far_out_of_range_stay_finite_in_single_precision():
    values = torch.tensor([[[0.0, 1e6], [0.0, -1e6]]], dtype=torch.float32).requires_grad_()
    loss = Heteroscedastic(1.0).loss(values, torch.zeros(2, 1))
    loss.sum().backward()
    assert loss.isfinite().all() and values.grad.isfinite().all()


def test_softmax_loss_is_cross_entropy():
    values, labels = torch.randn(K, B, 4), torch.randint(4, (B,))
    expected = torch.stack([torch.nn.functional.cross_entropy(v, labels) for v in values])
    assert_close(Softmax().loss(values, torch.eye(4)[labels]), expected)


def test_noise_starts_from_a_share_of_the_spread_and_weights_are_copies():
    Y, weight = torch.randn(4, 2), torch.tensor([1.0, 2.0, 1.0, 3.0])
    copied = Y.repeat_interleave(weight.long(), 0)
    assert_close(Gaussian().start(Y, weight), 0.1 * copied.var(0, correction=0))
    assert (Gaussian().start(torch.full((3, 1), 5.0)) > 0).all()
    assert (Gaussian().start(torch.zeros(3, 1, dtype=torch.float32)) > 0).all()
    assert_close(Gaussian(0.2).start(Y), torch.full((2,), 0.2))
    assert Heteroscedastic().start(Y) is None and not Heteroscedastic().learned and Gaussian().learned


@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan, math.inf])
def test_noise_must_be_a_variance(noise):
    with pytest.raises(ValueError, match=f"positive variance, got {noise}"):
        Gaussian(noise)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"beta must lie between 0 and 1, got 1.5"):
        Heteroscedastic(1.5)
    with pytest.raises(ValueError, match="pass its present variances"):
        Gaussian().loss(torch.zeros(1, 2, 1), torch.zeros(2, 1))


def test_the_noise_of_one_function_is_its_mean_square():
    values, Y, weight = torch.randn(1, 50, 2), torch.randn(50, 2), torch.rand(50) + 0.5
    for w in (None, weight):
        expected = ((Y - values[0]).square() * (torch.ones(50) if w is None else w)[:, None]).mean(0)
        assert_close(mixture_noise(values, Y, w), expected, rtol=0.01, atol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_the_noise_of_a_mixture_is_the_most_probable_one(masked):
    """Against a search by SciPy, output by output; functions that disagree by more than the noise among them."""
    Y, weight = torch.randn(30, 2), torch.rand(30) + 0.5
    values = Y + torch.randn(5, 30, 2) * torch.tensor([0.1, 1.0])
    known = torch.rand(5, 30) < 0.5 if masked else torch.ones(5, 30, dtype=torch.bool)
    known[:, 0] = not masked  # a row that nobody may speak of
    found = mixture_noise(values, Y, weight, known if masked else None)
    for j in range(2):

        def loss(level: float, j: int = j) -> float:
            std = (math.exp(level) / weight).sqrt()
            density = torch.as_tensor(stats.norm.pdf(Y[:, j], values[..., j], std)) * known
            rows = known.any(0)
            return -float((density.sum(0)[rows] / known.sum(0)[rows]).log().sum())

        best = optimize.minimize_scalar(loss, bounds=(-9, 3), method="bounded", options={"xatol": 1e-6})
        assert loss(found[j].log().item()) < best.fun + 1e-3
        assert found[j].item() == pytest.approx(math.exp(best.x), rel=0.02)


def test_rows_that_every_function_knows_by_heart_still_tell_of_noise():
    values, Y = torch.zeros(3, 10, 1), torch.ones(10, 1)
    assert_close(mixture_noise(values, Y, None, torch.zeros(3, 10, dtype=torch.bool)), torch.ones(1), rtol=0.01, atol=0)


@pytest.mark.parametrize(("rows", "outputs"), [(2, 1), (2, 8), (5, 1), (5, 16)])
def test_few_rows_do_not_promise_less_noise_than_there_is(rows, outputs):
    """Of known errors, the mean loss of the noise that was learned stays near the best, 1/2 log v + 1/2."""
    best = torch.tensor([0.04, 0.3, 1.0, 0.1] * 4)[:outputs]
    losses, alone = [], []
    for _ in range(300):
        data = Data(torch.zeros(40, 1), torch.randn(40, outputs))
        Y = best.sqrt() * torch.randn(rows, outputs)
        values = torch.zeros(3, rows, outputs)
        found = held_out_noise(values, Data(torch.zeros(rows, 1), Y), data)
        losses.append(((found / best).log() + best / found).mean() / 2 - 0.5)
        found = mixture_noise(values, Y)
        alone.append(((found / best).log() + best / found).mean() / 2 - 0.5)
    assert torch.stack(losses).mean() < 0.6  # nats; 0.44 of eight outputs by two rows, the others less
    assert torch.stack(losses).mean() < 0.8 * torch.stack(alone).mean()


def test_many_held_out_rows_speak_for_themselves_in_any_units():
    Y, data = 0.1 * torch.randn(400, 2), Data(torch.zeros(9, 1), torch.randn(9, 2))
    judged, values = Data(torch.zeros(400, 1), Y), torch.zeros(2, 400, 2)
    found = held_out_noise(values, judged, data)
    assert_close(found, mixture_noise(values, Y), rtol=0.03, atol=0)
    unit = torch.tensor([1e3, 1e-4])
    scaled = held_out_noise(values, Data(judged.X, Y * unit), Data(data.X, data.Y * unit))
    assert_close(scaled, found * unit**2, rtol=0.01, atol=0)
    constant = held_out_noise(values[:, :2], Data(judged.X[:2], torch.zeros(2, 2)), Data(data.X, torch.ones(9, 2)))
    assert (constant > 0).all() and constant.isfinite().all()
