"""What solvers of partly observed grids share; the rest is proved through them, in test_latent."""

import torch
from torch.testing import assert_close

from kernelfield.linalg.kronecker import Kronecker, Pull, put
from kernelfield.linalg.latent import Latent
from kernelfield.linalg.partial import combine


def test_rows_are_put_where_they_belong():
    assert_close(put(torch.tensor([[1.0], [2.0]]), torch.tensor([3, 0]), 4), torch.tensor([[2.0], [0.0], [0.0], [1.0]]))


def test_gradients_add_up_with_their_weights():
    one, two = torch.ones(2, 2), torch.tensor(1.0)
    even = combine([Pull([one], two, two), Pull([3 * one], 5 * two, 7 * two)], [2.0, 1.0])
    assert_close(even.factors[0], 5 * one)
    assert (even.scale, even.noise) == (7.0, 9.0)
    separable = combine([Pull([one], two, [one[0]]), Pull([one], two, [2 * one[0]])], [1.0, 1.0])
    assert_close(separable.noise[0], 3 * one[0])


def test_probes_leave_nothing_to_chance_where_nothing_is_missing():
    """A~^-1 and S^-1 are then the same matrix, and every replicate is the gradient."""
    S = Kronecker.of([torch.eye(4) + 0.3, torch.eye(3) + 0.2], 0.1)
    solver, alpha = Latent.of(S, torch.ones(4, 3, dtype=torch.bool), probes=3), torch.randn(12, 2)
    expected = S.pull(alpha, c=0.4)
    for pull in solver.replicates(alpha, c=0.4):
        for found, wanted in zip(pull.factors, expected.factors, strict=True):
            assert_close(found, wanted)
        assert_close(pull.noise, expected.noise)
