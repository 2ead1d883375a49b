"""Formulas of kernels for KeOps, written out on dense tensors that have its operations and no others."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from gpytorch.kernels import Kernel
from torch import Tensor
from torch.testing import assert_close

from kernelfield.kernels.entries import entries
from kernelfield.linalg import tiled
from kernelfield.linalg.tiled import Lazy
from tests.kernels.test_products import FUSED, D, moved


@dataclass(frozen=True)
class Written:
    """What KeOps calls a lazy tensor: vectors (n1 or 1, n2 or 1, c) of each pair, or of all."""

    t: Tensor

    def _with(self, other: Any, do: Callable[[Any, Any], Tensor]) -> "Written":
        return Written(do(self.t, other.t if isinstance(other, Written) else other))

    def __add__(self, other: Any) -> "Written":
        return self._with(other, operator.add)

    def __sub__(self, other: Any) -> "Written":
        return self._with(other, operator.sub)

    def __mul__(self, other: Any) -> "Written":
        return self._with(other, operator.mul)

    def __truediv__(self, other: Any) -> "Written":
        assert isinstance(other, Written), "KeOps divides by integers in single precision"
        return self._with(other, operator.truediv)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "Written":
        return Written(-self.t)

    def exp(self) -> "Written":
        return Written(self.t.exp())

    def log(self) -> "Written":
        return Written(self.t.log())

    def sqrt(self) -> "Written":
        return Written(self.t.sqrt())

    def norm2(self) -> "Written":
        return Written(self.t.norm(dim=-1, keepdim=True))

    def atan2(self, other: "Written") -> "Written":
        return self._with(other, torch.atan2)

    def sqdist(self, other: "Written") -> "Written":
        return Written((self.t - other.t).square().sum(-1, keepdim=True))

    def sum(self, axis: int) -> "Written":
        assert axis == -1
        return Written(self.t.sum(-1, keepdim=True))

    def elem(self, place: int) -> "Written":
        return Written(self.t[..., place : place + 1])


WRITTEN = Lazy(lambda t: Written(t[:, None, :]), lambda t: Written(t[None, :, :]), Written)
WITHOUT = {"any smoothness", "ntk with biases", "network plus rbf"}


@pytest.mark.parametrize("name", [name for name in FUSED if name not in WITHOUT])
def test_formulas_are_the_matrix(name: str) -> None:
    kernel: Kernel = moved(FUSED[name])
    x1, x2 = torch.randn(20, D), torch.randn(15, D)
    x2[:3] = x1[:3]  # where angles and distances are zero
    x2[3] = -x1[3]
    made = entries(kernel, x1, x2)
    assert made.obstacle is None
    assert_close(made.formula(WRITTEN).t[..., 0].detach(), tiled.dense(made), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_what_has_no_formula_says_why(name: str) -> None:
    assert entries(FUSED[name](), torch.randn(3, D)).obstacle
