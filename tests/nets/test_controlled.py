"""Controlled networks against Bessel functions, explicit loops, iterated sums and finite networks."""

import math

import pytest
import torch
from scipy.special import iv
from torch.func import functional_call, jacrev
from torch.testing import assert_close

from kernelfield.kernels.network import NetworkKernel
from kernelfield.nets.algebra import Identity
from kernelfield.nets.controlled import Controlled
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import diagonal, gram
from kernelfield.nets.points import Points
from kernelfield.nets.rectifiers import LeakyRelu, Relu
from tests.laws import obeys_kernel_laws

RELU = Controlled(Relu(), w=1.1, b=0.3, start=0.8)
ARCHITECTURES = {
    "signature": Controlled(),
    "relu": RELU,
    "leaky": Controlled(LeakyRelu(0.2)),
    "from rest": Controlled(Relu(), b=0.5, start=0.0),
    "refined": Controlled(Relu(), b=0.3, refinement=1),
    "fresh": Controlled(Relu(), w=1.1, b=0.3, start=0.8, layers=3),
    "fresh refined": Controlled(Relu(), layers=6, refinement=1),
    "deeper": Controlled(Relu(), b=0.3) >> Relu() >> Dense(1.2, 0.1),
}
ALL = pytest.mark.parametrize("name", ARCHITECTURES)


def paths(*size):
    return Points(0.5 * torch.randn(*size).cumsum(-2), space=1)


def line(length, count):
    return Points(torch.linspace(0, length, count + 1)[None, :, None], space=1)


def test_lines_have_the_signature_kernel_of_lines_to_first_order():
    exact = iv(0, 2 * math.sqrt(1.3 * 0.9))  # sum (1.3 * 0.9)^k / k!^2
    errors = [exact - gram(Controlled(), line(1.3, T), line(0.9, T)).item() for T in (32, 64, 128)]
    assert errors[2] < 8e-3
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.05)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.03)


def test_refinement_is_a_path_of_more_steps():
    x, y = line(1.3, 8), line(0.9, 2)
    one = gram(Controlled(Relu(), b=0.5, refinement=3), x, y)
    assert_close(one, gram(Controlled(Relu(), b=0.5), line(1.3, 64), line(0.9, 16)))


def test_a_line_does_not_depend_on_its_speed_in_the_limit():
    slow, quick = torch.linspace(0, 1, 9), torch.linspace(0, 1, 9) ** 2
    z = line(0.7, 4)
    both = Points(torch.stack([slow, quick])[..., None], space=1)
    coarse, fine = (gram(Controlled(Relu(), b=0.5, refinement=r), both, z).flatten() for r in (2, 5))
    assert (fine[0] - fine[1]).abs() < 0.15 * (coarse[0] - coarse[1]).abs()


def test_without_activation_it_is_the_product_of_iterated_sums():
    # The levels of x are sums over increasing steps of tensor products of increments.
    x, y = torch.randn(4, 2), torch.randn(6, 2)

    def levels(path):
        sums = [torch.ones(())] + [torch.zeros(2**k) for k in range(1, 7)]
        for step in path.diff(dim=0):
            new = [torch.outer(sums[k - 1].reshape(-1), step).reshape(-1) for k in range(1, 7)]
            sums = [sums[0], *(s + n for s, n in zip(sums[1:], new, strict=True))]
        return torch.cat([s.reshape(-1) for s in sums])

    found = gram(Controlled(), Points(x[None], 1), Points(y[None], 1))
    assert_close(found.squeeze(), levels(x) @ levels(y))


def arc_cosine(p, q, r):
    if p * r == 0:
        return 0.0
    kappa = min(1.0, max(-1.0, q / math.sqrt(p * r)))
    return math.sqrt(p * r) * (math.sqrt(1 - kappa**2) + (math.pi - math.acos(kappa)) * kappa) / (2 * math.pi)


def by_loops(x, y, w, b, start):
    """The recursion of the module docstring, one number at a time."""

    def grid(s, t, var1, var2):
        K = [[start**2] * (len(t) + 1) for _ in range(len(s) + 1)]
        for i in range(len(s)):
            for j in range(len(t)):
                V = arc_cosine(var1(K, i), K[i][j], var2(K, j))
                K[i + 1][j + 1] = K[i + 1][j] + K[i][j + 1] - K[i][j] + (w**2 * V + b**2) * float(s[i] @ t[j])
        return K

    def own(s):
        K = {(i, 0): start**2 for i in range(len(s) + 1)} | {(0, j): start**2 for j in range(len(s) + 1)}
        for total in range(1, len(s) + 1):  # the square of this size, its last row and column last
            for j in range(1, total + 1):
                i = total
                V = arc_cosine(K[i - 1, i - 1], K[i - 1, j - 1], K[j - 1, j - 1])
                K[i, j] = K[i, j - 1] + K[i - 1, j] - K[i - 1, j - 1] + (w**2 * V + b**2) * float(s[i - 1] @ s[j - 1])
                K[j, i] = K[i, j]
        return [K[i, i] for i in range(len(s) + 1)]

    s, t = x.diff(dim=0), y.diff(dim=0)
    var1, var2 = own(s), own(t)
    return grid(s, t, lambda K, i: var1[i], lambda K, j: var2[j])[-1][-1]


def test_the_sweep_is_the_recursion_written_out():
    x, y = paths(3, 7, 2), paths(2, 5, 2)
    expect = torch.tensor([[by_loops(p, q, 1.1, 0.3, 0.8) for q in y.x] for p in x.x])
    assert_close(gram(RELU, x, y), expect)
    assert_close(diagonal(RELU, x), torch.tensor([by_loops(p, p, 1.1, 0.3, 0.8) for p in x.x]))


@ALL
def test_a_network_on_paths_is_a_kernel_of_flat_rows(name):
    kernel = NetworkKernel(ARCHITECTURES[name], shape=(4, 2))
    obeys_kernel_laws(kernel, paths(6, 4, 2).x.flatten(1), paths(3, 4, 2).x.flatten(1))


@ALL
def test_gradients_are_those_of_differences(name):
    arch, x, y = ARCHITECTURES[name], paths(2, 4, 2).x, paths(2, 4, 2).x
    scales = torch.tensor(arch.scales()).requires_grad_()

    def value(x, y, scales):
        return gram(arch, Points(x, 1), Points(y, 1), scales=scales), gram(arch, Points(x, 1), scales=scales)

    assert torch.autograd.gradcheck(value, (x.requires_grad_(), y.requires_grad_(), scales), fast_mode=True)


@ALL
def test_gradients_are_finite_at_equal_opposite_and_constant_paths(name):
    x = paths(1, 4, 2).x
    x = torch.cat([x, x, -x, 0 * x]).requires_grad_()
    K = gram(ARCHITECTURES[name], Points(x, 1))
    assert K.isfinite().all()
    assert torch.autograd.grad(K.sum(), x)[0].isfinite().all()


def test_a_path_may_be_padded_or_continued_by_its_last_point():
    x, z = paths(3, 5, 2), paths(2, 9, 2)
    continued = torch.cat([x.x, x.x[:, -1:].expand(-1, 4, -1)], 1)
    present = (torch.arange(9) < 5).expand(3, 9)
    padded = Points(torch.cat([x.x, torch.randn(3, 4, 2)], 1), 1, present)
    expect = gram(RELU, x, z)
    assert_close(gram(RELU, Points(continued, 1), z), expect)
    assert_close(gram(RELU, padded, z), expect)
    late = Points(padded.x.flip(1), 1, present.flip(1))
    assert_close(gram(RELU, late, z), gram(RELU, Points(x.x.flip(1), 1), z))


def covariances(arch, x, width, count):
    """The covariance of the outputs of each of some finite networks (count, n, n)."""
    outputs = [arch.module(x.shape[-1], width, width)[0](x) for _ in range(count)]
    return torch.stack([y @ y.mT / width for y in outputs])


@pytest.mark.parametrize("name", ["signature", "relu", "refined", "fresh", "fresh refined", "deeper"])
def test_wide_networks_driven_by_paths_have_the_kernel(name):
    arch, x = ARCHITECTURES[name], paths(3, 4, 2)
    with torch.no_grad():
        found = covariances(arch, x.x, 128, 50)
    error = (found.mean(0) - gram(arch, x)).abs()
    assert (error < 6 * found.std(0) / 50**0.5).all()
    assert (found.std(0) / 50**0.5).max() < 0.06 * gram(arch, x).max()


@pytest.mark.parametrize("name", ["fresh", "fresh refined"])
def test_the_tangent_kernel_is_that_of_wide_networks(name):
    arch, x = ARCHITECTURES[name], paths(3, 4, 2)
    found = []
    for _ in range(20):
        module, _ = arch.module(2, 128, 8)
        parameters = {k: p.detach() for k, p in module.named_parameters()}
        jacobian = jacrev(lambda p, m=module: functional_call(m, p, (x.x,)))(parameters)
        flat = torch.cat([part.flatten(2) for part in jacobian.values()], 2)
        found.append(torch.einsum("iop,jop->ij", flat, flat) / 8)  # the mean over outputs
    found = torch.stack(found)
    assert ((found.mean(0) - gram(arch, x, kind="ntk")).abs() < 6 * found.std(0) / 20**0.5).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Controlled(Dense()), r"phi must be an activation such as Relu\(\), or Identity\(\), got Dense"),
        (lambda: Controlled(w=-1.0), "scales of a Controlled must be finite and not negative, got -1"),
        (lambda: Controlled(refinement=-1), "refinement=-1"),
        (lambda: Controlled(layers=0), "layers=0"),
        (lambda: gram(Controlled(), paths(2, 1, 3)), r"at least two positions, got the shape \(1, 3\)"),
        (lambda: gram(Controlled(layers=5), paths(2, 5, 3)), "layers=5 reads as many steps, the paths have 4"),
        (lambda: gram(Controlled(), Points(torch.randn(3, 2))), "it must be the first layer"),
        (lambda: gram(Dense() >> Controlled(), paths(2, 5, 3)), "it must be the first layer"),
        (lambda: gram(Controlled(), paths(2, 5, 3), kind="ntk"), "give layers=, the number of steps, or .*'nngp'"),
    ],
)
def test_what_cannot_be_computed_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_identity_is_the_default_and_scales_come_in_the_order_of_the_fields():
    assert Controlled().phi == Identity()
    assert Controlled(LeakyRelu(0.2), w=1.1, b=0.3, start=0.8).scales() == [0.2, 1.1, 0.3, 0.8]
