"""A product with a few columns is the same product."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.linalg.thin import thin


@pytest.mark.parametrize("k", [0, 1, 2, 18])
@pytest.mark.parametrize("turned", [False, True])
def test_it_is_the_product(k, turned):
    A, B = torch.randn(30, 7), torch.randn(7, k)
    if turned:
        A = torch.randn(7, 30).mT
    assert_close(thin(A, B), A @ B)
    assert thin(A, B).mT.is_contiguous()


def test_its_slopes_are_the_product_s():
    A, B = torch.randn(5, 4, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    assert torch.autograd.gradcheck(thin, (A, B))
