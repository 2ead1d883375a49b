"""Structures of weights: laws of the matrices, and the one kernel that they share."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from kernelfield.nets.algebra import Concat, Residual
from kernelfield.nets.attention import Attention
from kernelfield.nets.conv import Conv
from kernelfield.nets.dense import Affine, Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.pooling import Flatten, GlobalAvgPool
from kernelfield.nets.quadrature import Tanh
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.weights import STRUCTURES, redraw, standard

DEEP = Dense(1.5, 0.2) >> Tanh() >> Dense(1.5, 0.2) >> Tanh() >> Dense(1.5, 0.2) >> Tanh() >> Dense(1.5, 0.2)
IMAGES = Conv((3,), 1.5, 0.2) >> Relu() >> Conv((3,), 1.4, 0.1) >> Relu() >> GlobalAvgPool() >> Dense(1.1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(arch, x: Tensor, width: int, count: int, structure: str, outputs: int = 2) -> Tensor:
    """Outputs (count, n, o) of redrawn networks."""
    module, random = arch.module(x.shape[-1], width, outputs)[0], generator(1)
    module(x)
    with torch.no_grad():
        return torch.stack([redraw(module, structure, generator=random)(x) for _ in range(count)])


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("shape", [(12, 12), (20, 8), (8, 20), (3, 16), (1, 9)])
def test_entries_have_variance_one_and_no_correlation(structure: str, shape: tuple[int, int]) -> None:
    random, count = generator(), 2000
    Z = torch.stack([standard(*shape, structure, 0.25, random) for _ in range(count)])
    assert Z.shape == (count, *shape)
    others = [Z[:, 0, 0], Z[:, 0, -1], Z[:, -1, 0], Z[:, -1, -1]]
    for i, a in enumerate(others):
        assert a.mean().abs() <= 6 * a.std() / count**0.5
        for b in others[i:]:
            product = a * b
            one = 1.0 if b is a or (product == a.square()).all() else 0.0
            assert (product.mean() - one).abs() <= 6 * product.std() / count**0.5


def test_structures_are_what_their_names_say() -> None:
    random = generator()
    Q = standard(6, 10, "orthogonal", 0.25, random)
    assert_close(Q @ Q.mT, 10 * torch.eye(6))
    assert torch.linalg.matrix_rank(standard(32, 40, "low_rank", 0.25, random)) == 10
    Z = standard(40, 20, "block_sparse", 0.25, random)
    assert (Z != 0).double().mean() == 0.25
    assert ((Z != 0).sum(0) == 10).all() and ((Z != 0).sum(1) == 5).all()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_wide_networks_of_any_structure_have_the_kernel_of_their_architecture(structure: str) -> None:
    x = torch.tensor([[1.0, 0.3, -0.5], [0.2, -1.0, 0.4]])
    f = draws(DEEP, x, 64, 1000, structure).movedim(-1, 1).flatten(0, 1)  # the outputs are uncorrelated
    products = f[:, :, None] * f[:, None, :]
    truth = gram(DEEP, Points(x))
    error = products.std(0) / len(f) ** 0.5
    assert ((products.mean(0) - truth).abs() <= 6 * error + 0.03 * truth.max()).all()


@pytest.mark.parametrize("structure", ["orthogonal", "low_rank", "block_sparse"])
def test_convolutions_may_have_structure_too(structure: str) -> None:
    x = torch.randn(2, 5, 2)
    f = draws(IMAGES, x, 48, 500, structure).movedim(-1, 1).flatten(0, 1)
    products = f[:, :, None] * f[:, None, :]
    truth = gram(IMAGES, Points(x, space=1))
    error = products.std(0) / len(f) ** 0.5
    assert ((products.mean(0) - truth).abs() <= 6 * error + 0.02 * truth.max()).all()


@pytest.mark.slow
def test_the_way_to_the_gaussian_depends_on_the_structure() -> None:
    """Excess kurtosis: a low rank has more than orthogonal weights, and less of it at a larger width."""
    x, count = torch.tensor([[1.0, 0.3, -0.5]]), 6000

    def kurtosis(structure: str, width: int) -> tuple[float, float]:
        f = draws(DEEP, x, width, count, structure, outputs=16)[:, 0]
        square, fourth = f.square().mean(), (f**4).mean(1)
        return (fourth.mean() / square**2).item() - 3, (6 * fourth.std() / count**0.5 / square**2).item()

    (low, e1), (orthogonal, e2) = kurtosis("low_rank", 32), kurtosis("orthogonal", 32)
    wide, e3 = kurtosis("low_rank", 128)
    assert low - orthogonal > math.hypot(e1, e2)
    assert low - wide > math.hypot(e1, e3)


def test_the_layers_that_see_the_inputs_stay_independent() -> None:
    first = Concat((Dense(1.0) >> Relu() >> Dense(1.0), Dense(0.5) >> Relu() >> Dense(1.0)))
    module = (first >> Relu() >> Dense(1.0)).module(8, 8, 8)[0]
    redrawn = redraw(module, "orthogonal", generator=generator())
    layers = [layer for layer in redrawn.modules() if isinstance(layer, Affine)]

    def is_orthogonal(W: Tensor) -> bool:
        M = W @ W.mT if len(W) <= W.shape[1] else W.mT @ W
        return bool(torch.allclose(M, M[0, 0] * torch.eye(len(M))))

    assert [is_orthogonal(layer.weight.data) for layer in layers] == [False, True, False, True, True]


def test_a_redraw_is_reproducible_and_leaves_the_network_alone() -> None:
    arch = Dense(1.2, 0.3, width=6) >> Relu() >> Residual(Relu() >> Dense(0.7, 0.0)) >> Dense((0.5,) * 6)
    module, x = arch.module(3, 6, 2)[0], torch.randn(4, 3)
    before = module(x)
    one, same, other = (redraw(module, generator=generator(seed)) for seed in (1, 1, 2))
    assert_close(one(x), same(x), rtol=0, atol=0)
    assert not torch.allclose(one(x), other(x))
    assert_close(module(x), before, rtol=0, atol=0)
    assert (one[-1].weight != module[-1].weight).all()


def test_networks_in_single_precision_stay_in_it() -> None:
    module = DEEP.module(3, 8, 1)[0].float()
    assert all(p.dtype == torch.float32 for p in redraw(module, "low_rank", generator=generator()).parameters())


def test_attention_and_its_embeddings_are_redrawn() -> None:
    arch = Dense(1.0) >> Attention(position="sum", positions=(4,)) >> GlobalAvgPool() >> Dense(1.0)
    module = arch.module(3, 8, 1)[0]
    redrawn = redraw(module, "orthogonal", generator=generator(3))
    assert all((p != q).all() for p, q in zip(module.parameters(), redrawn.parameters(), strict=True))


def test_what_cannot_be_drawn_is_named() -> None:
    module = (Dense(1.0) >> Relu() >> Dense(1.0)).module(3, 4, 1)[0]
    with pytest.raises(ValueError, match="one of iid, orthogonal, low_rank, block_sparse, got 'toeplitz'"):
        redraw(module, "toeplitz", generator=generator())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 0 and at most 1, got 0"):
        redraw(module, share=0.0, generator=generator())
    with pytest.raises(ValueError, match="cannot draw the weight of a Linear"):
        redraw(nn.Sequential(nn.Linear(3, 1)), generator=generator())
    with pytest.raises(ValueError, match="call the module once first"):
        redraw((Conv((3,)) >> Flatten() >> Dense()).module(3, 4, 1)[0], generator=generator())
