"""Recurrent networks against sums over time, brute force over all pairs of times, and wide networks."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kernelfield.nets.algebra import Identity
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import diagonal, gram
from kernelfield.nets.points import Points
from kernelfield.nets.pooling import Flatten, GlobalAvgPool
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.recurrent import Recurrent
from tests.laws import agrees_with_wide_networks, has_right_gradients

W, U, B, V = 1.2, 0.9, 0.3, 1.1
LAST = Recurrent(Relu(), W, U, B) >> Dense(V)
POOLED = Recurrent(Relu(), W, U, B, every=True) >> GlobalAvgPool() >> Dense(V)
STACKED = Recurrent(Relu(), W, U, every=True) >> Dense(1.2, 0.1) >> Recurrent(Relu(), W, U, B) >> Dense(V)
ARCHS = {
    "last state": LAST,
    "mean state": POOLED,
    "all states": Recurrent(Relu(), W, U, B, every=True) >> Flatten() >> Dense(V),
    "stacked": STACKED,
    "embedded": Dense(1.2) >> Relu() >> Recurrent(Relu(), W, U) >> Dense(V),
}


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_wide_networks_have_the_nngp_and_ntk(arch):
    agrees_with_wide_networks(arch, Points(torch.randn(3, 4, 2), 1), width=128, networks=50)


def test_a_linear_network_sums_over_time():
    """h(T) = sum_k W^k U x(T - k): the NTK counts the k + 1 factors of each term, and the readout."""
    x = torch.randn(3, 5, 4)
    arch = Recurrent(Identity(), W, U) >> Dense(V)
    terms = [V**2 * W ** (2 * k) * U**2 * x[:, -1 - k] @ x[:, -1 - k].T / 4 for k in range(5)]
    assert_close(gram(arch, Points(x, 1)), sum(terms), rtol=1e-12, atol=1e-13)
    tangent = sum((k + 2) * term for k, term in enumerate(terms))
    assert_close(gram(arch, Points(x, 1), kind="ntk"), tangent, rtol=1e-12, atol=1e-13)


def relu_dual(H: Tensor, std1: Tensor, std2: Tensor) -> tuple[Tensor, Tensor]:
    theta = torch.acos((H / (std1 * std2)).clamp(-1, 1))
    slope = (math.pi - theta) / (2 * math.pi)
    return std1 * std2 * theta.sin() / (2 * math.pi) + slope * H, slope


def brute_force(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs (t, r) of the NNGP and the NTK of hidden states of x (L, c) and y (M, c), by Yang's
    backward recursion for the NTK: a sum over the pairs of times (t - k, r - k)."""

    def forward(x, y):
        H = torch.zeros(len(x) + 1, len(y) + 1)
        C = torch.zeros_like(H)
        return H, C

    variances = []
    for z in (x, y):
        q, c = torch.zeros(len(z) + 1), 0.0
        for t in range(1, len(z) + 1):
            q[t] = W**2 * c + U**2 * z[t - 1].square().mean() + B**2
            c = q[t] / 2
        variances.append(q.sqrt())
    H, C = forward(x, y)
    slope, K, T = torch.zeros_like(H), torch.zeros(len(x), len(y)), torch.zeros(len(x), len(y))
    for t in range(1, len(x) + 1):
        for r in range(1, len(y) + 1):
            H[t, r] = W**2 * C[t - 1, r - 1] + U**2 * (x[t - 1] @ y[r - 1]) / x.shape[1] + B**2
            C[t, r], slope[t, r] = relu_dual(H[t, r], variances[0][t], variances[1][r])
            K[t - 1, r - 1], D = C[t, r], 1.0
            for k in range(min(t, r)):  # backwards: D is the covariance of the gradients at h(t - k), h(r - k)
                D = D * slope[t - k, r - k] * (W**2 if k else 1)
                T[t - 1, r - 1] += D * H[t - k, r - k]
    return K, T


def test_all_pairs_of_times_agree_with_yangs_backward_recursion():
    x, y = torch.randn(2, 4, 3), torch.randn(3, 5, 3)
    pairs = [[brute_force(a, b) for b in y] for a in x]
    K, T = (torch.stack([torch.stack([pair[i].mean() for pair in row]) for row in pairs]) for i in (0, 1))
    assert_close(gram(POOLED, Points(x, 1), Points(y, 1)), V**2 * K, rtol=1e-12, atol=0)
    assert_close(gram(POOLED, Points(x, 1), Points(y, 1), kind="ntk"), V**2 * (K + T), rtol=1e-12, atol=0)


def test_the_last_states_agree_with_yangs_backward_recursion():
    x, y = torch.randn(2, 5, 3), torch.randn(3, 5, 3)
    pairs = [[brute_force(a, b) for b in y] for a in x]
    K, T = (torch.stack([torch.stack([pair[i][-1, -1] for pair in row]) for row in pairs]) for i in (0, 1))
    assert_close(gram(LAST, Points(x, 1), Points(y, 1)), V**2 * K, rtol=1e-12, atol=0)
    assert_close(gram(LAST, Points(x, 1), Points(y, 1), kind="ntk"), V**2 * (K + T), rtol=1e-12, atol=0)


def test_sequences_filled_up_in_front_are_shorter_ones():
    """The last states of sequences of lengths 3 and 5, and the mean of all states."""
    x, y, rest = torch.randn(3, 2), torch.randn(5, 2), torch.randn(2, 2)
    present = torch.tensor([[False, False, True, True, True], [True] * 5])
    both = Points(torch.stack([torch.cat([rest, x]), y]), 1, present)
    K, T = brute_force(x, y)
    for arch, pool in ((LAST, lambda m: m[-1, -1]), (POOLED, torch.mean)):
        assert_close(gram(arch, both)[0, 1], V**2 * pool(K), rtol=1e-12, atol=0)
        assert_close(gram(arch, both, kind="ntk")[0, 1], V**2 * pool(K + T), rtol=1e-12, atol=0)
        for kind in ("nngp", "ntk"):
            alone = gram(arch, Points(x[None], 1), kind=kind)[0, 0]
            assert_close(gram(arch, both, kind=kind)[0, 0], alone, rtol=1e-12, atol=0)


def test_items_missing_behind_do_not_matter_to_the_states_before():
    x = torch.randn(3, 5, 2)
    present = torch.tensor([True, True, True, False, False]).expand(3, -1)
    for kind in ("nngp", "ntk"):
        filled = gram(POOLED, Points(x, 1, present), kind=kind)
        assert_close(filled, gram(POOLED, Points(x[:, :3], 1), kind=kind), rtol=1e-12, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [LAST, POOLED, STACKED], ids=["last state", "mean state", "stacked"])
def test_gradients_of_squares_pairs_and_diagonals(arch):
    has_right_gradients(arch, torch.randn(2, 2, 2), torch.randn(1, 2, 2), "ntk", space=1)


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_gradients_in_scales_and_inputs(arch):
    x, scales = torch.randn(2, 3, 2).requires_grad_(), torch.tensor(arch.scales()).requires_grad_()

    def kernel(x, scales):
        return gram(arch, Points(x, 1), kind="ntk", scales=scales)

    assert torch.autograd.gradcheck(kernel, (x, scales), fast_mode=True)


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_gradients_are_finite_where_sequences_meet_or_vanish(arch):
    x = torch.randn(4, 3, 2)
    x[1], x[2], x[3], x[0, 0] = x[0], -x[0], 0, 0
    for kind in ("nngp", "ntk"):
        leaf = x.clone().requires_grad_()
        K = gram(arch, Points(leaf, 1), kind=kind)
        assert K.isfinite().all()
        assert torch.autograd.grad(K.square().sum(), leaf)[0].isfinite().all()


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_the_diagonal_and_a_copy_are_those_of_the_matrix(arch, kind):
    x = torch.randn(3, 4, 2)
    K = gram(arch, Points(x, 1), kind=kind)
    assert_close(diagonal(arch, Points(x, 1), kind=kind), K.diagonal(), rtol=1e-13, atol=0)
    assert_close(gram(arch, Points(x, 1), Points(x.clone(), 1), kind=kind), K, rtol=1e-13, atol=1e-13)


def test_last_states_need_no_pairs_of_different_times():
    """On 1000 items, all pairs of times of three sequences would be nine million moments."""
    x = Points(torch.randn(3, 1000, 2), 1)
    assert gram(Recurrent(Relu(), 1.0, 0.5) >> Dense(), x, kind="nngp").isfinite().all()


def test_inputs_that_are_no_sequences_are_refused():
    with pytest.raises(ValueError, match="not inputs with 0 axes of positions"):
        gram(LAST, Points(torch.randn(2, 3)))
    with pytest.raises(ValueError, match="not inputs with 2 axes of positions"):
        gram(LAST, Points(torch.randn(2, 3, 3, 1), 2))


def test_gaps_and_missing_ends_are_refused():
    gap = torch.tensor([[True, False, True]])
    for arch in (LAST, POOLED):
        with pytest.raises(ValueError, match="must not skip items"):
            gram(arch, Points(torch.randn(1, 3, 2), 1, gap))
    with pytest.raises(ValueError, match="in front, not behind"):
        gram(LAST, Points(torch.randn(1, 3, 2), 1, torch.tensor([[True, True, False]])))


def test_a_negative_scale_is_refused():
    with pytest.raises(ValueError, match="scales of a Recurrent must be finite and not negative, got -1.0"):
        Recurrent(Relu(), w=-1.0)
