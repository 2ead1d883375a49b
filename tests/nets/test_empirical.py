"""Kernels of finite networks, against Jacobians taken one number at a time and golden values."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from kernelfield.nets import jacobian
from kernelfield.nets.algebra import Residual
from kernelfield.nets.dense import Dense
from kernelfield.nets.empirical import (
    empirical_diagonal,
    empirical_gram,
    empirical_nngp,
    empirical_ntk,
    full_diagonal,
    full_ntk,
    gradient_features,
    monte_carlo,
    ntk_product,
)
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.weights import redraw

GOLDEN = Path(__file__).parent.parent / "data" / "infinite_width.json"


class Tied(nn.Module):
    """The same matrix twice, once through its layer and once without."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) @ self.layer.weight


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.sin(self.layer(x)))


class Folded(nn.Module):
    """A layer that sees the positions of an input as if they were inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x.flatten(0, 1))).unflatten(0, (len(x), -1)).sum(1)


def shared() -> nn.Module:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second)


def frozen() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    module[0].weight.requires_grad_(False)
    return module


NETWORKS = {
    "dense": (lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)), (3,)),
    "ours": (lambda: (Dense(1.3, 0.2) >> Relu() >> Residual(Relu() >> Dense(1.1)) >> Dense()).module(3, 5, 2)[0], (3,)),
    "one weight per input": (lambda: (Dense((0.5, 1.0, 2.0), 0.1) >> Relu() >> Dense()).module(3, 5, 1)[0], (3,)),
    "standard": (lambda: (Dense(1.3, 0.2, width=5) >> Relu() >> Dense(b=0.0)).module(3, 5, 2)[0], (3,)),
    "in place": (lambda: nn.Sequential(nn.Linear(3, 6), nn.ReLU(inplace=True), nn.Linear(6, 1)), (3,)),
    "positions": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Flatten(), nn.Linear(20, 2)), (5, 3)),
    "convolution": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)), (3, 5)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2)), (3,)),
    "tied": (Tied, (3,)),
    "twice": (Twice, (3,)),
    "shared": (shared, (3,)),
    "frozen": (frozen, (3,)),
    "folded": (Folded, (2, 3)),
    "no axis of outputs": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)), (3,)),
}


def rows(module: nn.Module, x: Tensor) -> Tensor:
    """The Jacobian (n, o, p), one output of one input at a time."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    result = []
    for one in x:
        f = module(one[None]).reshape(-1)
        grads = [torch.autograd.grad(v, parameters, retain_graph=True, materialize_grads=True) for v in f]
        result.append(torch.stack([torch.cat([g.flatten() for g in grad]) for grad in grads]))
    return torch.stack(result)


def drawn(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    make, shape = NETWORKS[name]
    return make(), torch.randn(5, *shape), torch.randn(3, *shape)


@pytest.mark.parametrize("limit", [1, 100, 2**25])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_ntk_is_the_product_of_jacobians_whatever_the_memory(name: str, limit: int) -> None:
    module, x, y = drawn(name)
    J, H = rows(module, x), rows(module, y)
    truth = torch.einsum("ikp,jlp->ijkl", J, H)
    assert_close(full_ntk(module, x, y, limit=limit), truth)
    assert_close(full_ntk(module, x, limit=limit), torch.einsum("ikp,jlp->ijkl", J, J))
    assert_close(empirical_ntk(module, x, y, limit=limit), truth.diagonal(dim1=2, dim2=3).mean(-1))
    assert_close(full_diagonal(module, x, limit=limit), J.square().sum(-1))
    V = torch.randn(3, J.shape[1], 4)
    assert_close(ntk_product(module, x, y, V, limit=limit), torch.einsum("ijkl,jlc->ikc", truth, V))
    assert_close(ntk_product(module, x, y, V[..., 0]), torch.einsum("ijkl,jl->ik", truth, V[..., 0]))


@pytest.mark.parametrize("limit", [100, 2**25])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_matrix_is_symmetric_to_the_last_bit_and_has_its_diagonal(name: str, limit: int) -> None:
    module, x, _ = drawn(name)
    for kind in ("nngp", "ntk"):
        K = empirical_gram(module, x, kind=kind, limit=limit)
        assert (K == K.mT).all() or kind == "nngp"
        assert_close(K, empirical_gram(module, x, x.clone(), kind=kind))
        assert_close(empirical_diagonal(module, x, kind=kind, limit=limit), K.diagonal())
    T = full_ntk(module, x, limit=limit)
    assert (T == T.permute(1, 0, 3, 2)).all()


def test_a_network_of_the_reference_library_has_its_kernels() -> None:
    golden = json.loads(GOLDEN.read_text())["empirical"]
    layers: list[nn.Module] = []
    for W, B in zip(golden["W"], golden["B"], strict=True):
        layer = nn.Linear(len(W), len(B))
        layer.weight.data = torch.tensor(W).mT.contiguous()
        layer.bias.data = torch.tensor(B)
        layers += [_Gains(layer), nn.Tanh()]
    module = nn.Sequential(*layers[:-1])
    x, y = torch.tensor(golden["x1"]), torch.tensor(golden["x2"])
    assert_close(full_ntk(module, x, y), torch.tensor(golden["ntk_full_impl1"]), rtol=1e-12, atol=1e-12)
    assert_close(empirical_ntk(module, x), torch.tensor(golden["ntk_trace"]), rtol=1e-12, atol=1e-12)
    assert_close(empirical_nngp(module, x), torch.tensor(golden["nngp_trace"]), rtol=1e-12, atol=1e-12)
    product = ntk_product(module, x, y, torch.tensor(golden["vp_cotangent"]))
    assert_close(product, torch.tensor(golden["ntk_vp"]), rtol=1e-12, atol=1e-12)


class _Gains(nn.Module):
    """h W 1.3 / sqrt(fan_in) + 0.2 b."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight * (1.3 / self.layer.in_features**0.5)
        return nn.functional.linear(x, weight, 0.2 * self.layer.bias)


def test_dense_layers_are_taken_by_their_factors() -> None:
    factored = {name: type(jacobian.groups(*drawn(name)[:2], 2**25)[0]) is jacobian.Factored for name in NETWORKS}
    assert [name for name, found in factored.items() if not found] == ["tied", "twice", "shared", "folded"]


def test_kernels_have_slopes_in_the_inputs_and_leave_parameters_alone() -> None:
    module, x, y = drawn("layer norm")
    x.requires_grad_()
    for f in (empirical_ntk, empirical_nngp):
        assert torch.autograd.gradcheck(lambda x, f=f: f(module, x), x)
        assert torch.autograd.gradcheck(lambda x, f=f: f(module, x, y), x)
        f(module, x).sum().backward()
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_of_plain_inputs_carry_no_graph(name: str) -> None:
    module, x, y = drawn(name)
    assert not empirical_ntk(module, x, y).requires_grad
    assert not full_diagonal(module, x).requires_grad
    shares = [share for group in jacobian.groups(module, x, 2**25) for share in group.shares(x)]
    assert not any(share.slopes.requires_grad or share.h.requires_grad for share in shares)


def test_the_memory_limit_bounds_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = nn.Sequential(nn.Conv1d(1, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 4)), torch.randn(40, 1, 6)
    held: list[int] = []
    for kind in (jacobian.Explicit, jacobian.Factored):
        kept = kind.shares

        def counted(self: jacobian.Group, x: Tensor, kept=kept) -> list[jacobian.Share]:
            shares = kept(self, x)
            held.append(sum(s.slopes.numel() + s.h.numel() for s in shares))
            return shares

        monkeypatch.setattr(kind, "shares", counted)
    empirical_ntk(module, x, limit=600)
    assert max(held) <= 600
    assert len(held) > 4


def test_features_are_unbiased_and_their_error_falls_with_the_root_of_their_number() -> None:
    module, x, _ = drawn("dense")
    truth = full_ntk(module, x)
    errors = []
    for size in (100, 400, 1600):
        generator = torch.Generator().manual_seed(3)
        draws = [gradient_features(module, x, size, generator) for _ in range(12)]
        kernels = torch.stack([torch.einsum("iks,jls->ijkl", F, F) for F in draws])
        off = (kernels - truth).square().mean(0).sqrt()
        assert ((kernels.mean(0) - truth).abs() <= 6 * off / 12**0.5 + 1e-12).all()
        errors.append(off.mean().item())
    slope = (torch.tensor(errors[2] / errors[0]).log() / torch.tensor(16.0).log()).item()
    assert abs(slope + 0.5) < 0.1


def test_features_do_not_depend_on_the_batch() -> None:
    module, x, _ = drawn("convolution")
    whole = gradient_features(module, x, 7, torch.Generator().manual_seed(5))
    part = gradient_features(module, x[2:4], 7, torch.Generator().manual_seed(5))
    assert whole.shape == (5, 2, 7)
    assert_close(whole[2:4], part)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_random_networks_have_the_kernel_of_their_architecture_in_the_mean(kind: str) -> None:
    arch = Dense(1.3, 0.2) >> Relu() >> Dense(1.1, 0.1) >> Relu() >> Dense(0.9, 0.1)
    x = torch.randn(4, 3)
    generator, width = torch.Generator().manual_seed(7), 256

    def networks() -> Iterator[nn.Module]:
        module = arch.module(3, width, 4)[0]
        for _ in range(60):
            yield redraw(module, generator=generator)

    found = monte_carlo(networks(), x, kind=kind)
    assert found.count == 60 and found.error.shape == (4, 4)
    truth = gram(arch, Points(x), kind=kind)
    assert ((found.mean - truth).abs() <= 6 * found.error + truth.abs() / width).all()


def test_an_estimate_is_the_mean_and_its_standard_error() -> None:
    networks, x = [nn.Linear(3, 2) for _ in range(5)], torch.randn(4, 3)
    values = torch.stack([empirical_nngp(n, x).detach() for n in networks])
    found = monte_carlo(networks, x)
    assert_close(found.mean, values.mean(0))
    assert_close(found.error, values.std(0) / 5**0.5)
    with pytest.raises(ValueError, match="two networks or more, got 1"):
        monte_carlo(networks[:1], x)


def test_what_has_no_kernel_is_named() -> None:
    x = torch.randn(2, 3)
    with pytest.raises(ValueError, match="'1' is in training mode.*eval"):
        empirical_ntk(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), x)
    with pytest.raises(ValueError, match="BatchNorm1d"):
        empirical_nngp(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), x)
    with pytest.raises(ValueError, match="no parameters that require gradients"):
        empirical_ntk(nn.Tanh(), x)
    with pytest.raises(ValueError, match="kind must be 'nngp' or 'ntk', got 'cnn'"):
        empirical_gram(nn.Linear(3, 1), x, kind="cnn")  # type: ignore[arg-type]
