"""Kernels of all reference architectures, value by value."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets.gram import diagonal, gram
from tests.golden import CASES, architecture, expected, points

# The reference's quadrature of 60 nodes is this far from the integral on its longest row, where
# test_quadrature has better oracles.
REFERENCE_ERROR = {"numerical_tanh_d1": 1e-2, "numerical_softplus_d1": 3e-8, "numerical_sigmoid_d1": 2e-6}


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("name", CASES)
def test_values_of_the_reference(name, kind):
    case = CASES[name]
    arch, first, second = architecture(case["spec"]), points(case["x1"], case), points(case["x2"], case)
    for pair, other in (("11", None), ("12", second)):
        if kind + pair in case.get("non_finite", ()):
            continue
        wanted = expected(case, kind, pair)
        found = gram(arch, first, other, kind=kind)
        rtol, atol = REFERENCE_ERROR.get(name, 1e-10), 1e-12 * float(wanted.abs().max())
        if pair == "11":  # the reference itself loses digits where an input meets itself
            assert_close(found.diagonal(), wanted.diagonal(), rtol=max(rtol, 1e-9), atol=atol)
            found = torch.where(torch.eye(len(found), dtype=torch.bool), wanted, found)
        assert_close(found, wanted, rtol=rtol, atol=atol)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("name", CASES)
def test_matrices_are_symmetric_positive_and_have_their_diagonal(name, kind):
    case = CASES[name]
    arch, first = architecture(case["spec"]), points(case["x1"], case)
    K = gram(arch, first, kind=kind)
    assert torch.equal(K, K.mT)
    assert K.isfinite().all()
    assert torch.linalg.eigvalsh(K).min() >= -1e-12 * K.trace()
    assert_close(diagonal(arch, first, kind=kind), K.diagonal(), rtol=1e-12, atol=0)
