"""Forms against dense algebra, for weighed rows and several precisions; the models' tests hold the rest."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kernelfield.models.neural.curvature import Tangent, explicit, weighed
from kernelfield.models.neural.laplace_forms import Functional, LowRank, Rotated, Weights
from kernelfield.models.neural.network import Network, multilayer

NETWORK = Network(multilayer((5, 4)), 3, 2)
TANGENT = Tangent(NETWORK, NETWORK.draw(1, torch.Generator().manual_seed(0))[0])
X, NEW = (torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (20, 5))
ROOT = torch.rand(20, 1, 1, generator=torch.Generator().manual_seed(3)) + 0.5
PRECISION, NOISE = torch.tensor([0.5, 2.0, 1.0]), torch.tensor(0.2)
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def jacobian(x: Tensor, root: Tensor | None = None) -> Tensor:
    return explicit(weighed(TANGENT.shares(x), root)).flatten(0, 1)


def expected(H: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """The price and the joint law at NEW, for a curvature H (p, p)."""
    P = precision.expand(3).repeat_interleave(torch.tensor(TANGENT.sizes))
    J = jacobian(NEW)
    joint = J @ torch.linalg.solve(torch.diag(P) + H / NOISE, J.mT)
    return torch.logdet(torch.eye(len(P)) + H / P[:, None] / NOISE), joint


def curvature() -> Tensor:
    J = jacobian(X, ROOT)
    return J.mT @ J


def kronecker_factors() -> Tensor:
    """The block-diagonal of B kron A / n by loops over rows and outputs."""
    blocks, total = [], ROOT.square().sum()
    for slopes, h in ((s.slopes, s.h) for s in TANGENT.shares(X)):
        A = sum(w * torch.outer(row, row) for w, row in zip(ROOT.square().flatten(), h, strict=True))
        B = sum(w * s.mT @ s for w, s in zip(ROOT.square().flatten(), slopes, strict=True))
        blocks.append(torch.kron(B, A) / total)
    return torch.block_diag(*blocks)


FORMS = {
    "weights": (lambda: Weights.of(TANGENT, X, ROOT), curvature),
    "functional": (lambda: Functional.of(TANGENT, X, ROOT, layers=True, rows=20), curvature),
    "low rank": (lambda: LowRank.of(TANGENT, X, ROOT, 60, torch.Generator().manual_seed(0)), curvature),
    "kronecker": (lambda: Rotated.kronecker(TANGENT, X, ROOT), kronecker_factors),
    "diagonal": (lambda: Rotated.diagonal(TANGENT, X, ROOT), lambda: torch.diag(curvature().diagonal())),
}


@pytest.mark.parametrize("precision", [PRECISION, PRECISION[:1]])
@pytest.mark.parametrize("name", FORMS)
def test_forms_are_their_matrices(name, precision):
    make, matrix = FORMS[name]
    price, joint = expected(matrix(), precision)
    form = make()
    assert_close(form.logdet(precision, NOISE), price, **EXACT)
    law = form.law(precision, NOISE)
    shares = TANGENT.shares(NEW)
    assert_close(law.joint(shares), joint, **EXACT)
    blocks = torch.stack([joint[i : i + 2, i : i + 2] for i in range(0, 10, 2)])
    assert_close(law.blocks(shares), blocks, **EXACT)


@pytest.mark.parametrize("name", FORMS)
def test_prices_can_be_differentiated(name):
    form = FORMS[name][0]()
    assert torch.autograd.gradcheck(form.logdet, (PRECISION.clone().requires_grad_(), NOISE.clone().requires_grad_()))
    assert torch.autograd.gradcheck(
        form.logdet, (PRECISION[:1].clone().requires_grad_(), NOISE.clone().requires_grad_())
    )


def test_a_low_rank_keeps_the_largest_eigenvalues():
    form = LowRank.of(TANGENT, X, ROOT, 4, torch.Generator().manual_seed(0))
    values, vectors = torch.linalg.eigh(curvature())
    assert_close(form.eigenvalues, values[-4:], rtol=1e-6, atol=0)
    kept = vectors[:, -4:]
    assert_close(form.U @ form.U.mT, kept @ kept.mT, rtol=0, atol=1e-4)
    price, joint = expected(form.U * form.eigenvalues @ form.U.mT, PRECISION)
    assert_close(form.logdet(PRECISION, NOISE), price, **EXACT)
    assert_close(form.law(PRECISION, NOISE).joint(TANGENT.shares(NEW)), joint, **EXACT)


@pytest.mark.parametrize("name", FORMS)
def test_little_room_gives_the_same(name, monkeypatch):
    make, _ = FORMS[name]
    price, joint = make().logdet(PRECISION, NOISE), make().law(PRECISION, NOISE).joint(TANGENT.shares(NEW))
    for module in ("curvature", "laplace_forms"):
        monkeypatch.setattr(f"kernelfield.models.neural.{module}.LIMIT", 150)
    assert_close(make().logdet(PRECISION, NOISE), price, **EXACT)
    assert_close(make().law(PRECISION, NOISE).joint(TANGENT.shares(NEW)), joint, **EXACT)


def test_matrices_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr("kernelfield.core.numerics.free_memory", lambda device: 100)
    with pytest.raises(MemoryError, match="curvature of 54 parameters.*form='kronecker'"):
        Weights.of(TANGENT, X, None)
    with pytest.raises(MemoryError, match="kernel matrix of 40 outputs.*smaller subset"):
        Functional.of(TANGENT, X, None, layers=False, rows=20)
