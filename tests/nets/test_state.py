import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets.dense import Dense
from kernelfield.nets.points import Points
from kernelfield.nets.positions import matching
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.state import CovState, Wanted, summed

SHAPES = {0: (), 1: (4,), 2: (3, 4)}


def state(space, full, *, paired=False, own=False, masked=False):
    points = []
    for n in (3, 3 if paired else 2):
        x = torch.randn(n, *SHAPES[space], 5)
        points.append(Points(x, space, torch.rand(x.shape[:-1]) > 0.3 if masked else None))
    make = CovState.of_pairs if paired else CovState.of_points
    return make(*points, Wanted(full=full, own=own, same=own)), points


def products(first, second, space, full):
    letters = {0: "nc,mc->nm", 1: "xnc,ymc->xynm", 2: "xinc,yjmc->xiyjnm"}[space]
    letters = letters if full or not space else {1: "xnc,xmc->xnm", 2: "xinc,ximc->xinm"}[space]
    return torch.einsum(letters, first.columns, second.columns) / first.channels


@pytest.mark.parametrize("space", [0, 1, 2])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_covariances_of_inputs_are_their_inner_products(space, full, masked):
    s, (first, second) = state(space, full, masked=masked)
    assert_close(s.covariance, products(first, second, space, full))
    squares = products(first, first, space, full), products(second, second, space, full)
    n = [torch.arange(len(p)) for p in (first, second)]
    square1, square2 = (q[..., i, i] for q, i in zip(squares, n, strict=True))
    if full and space:
        square1, square2 = (matching(q[..., None], space)[..., 0] for q in (square1, square2))
        shape = (*SHAPES[space], *SHAPES[space])
        square1 = square1.reshape(*SHAPES[space], *[1] * space, 3, 1).expand(*shape, 3, 2)
        square2 = square2.reshape(*[1] * space, *SHAPES[space], 1, 2).expand(*shape, 3, 2)
    else:
        square1, square2 = square1[..., :, None], square2[..., None, :]
    assert_close(s.distance, (square1 + square2) / 2 - s.covariance)


@pytest.mark.parametrize("space", [0, 1, 2])
@pytest.mark.parametrize("full", [False, True])
def test_pairs_are_the_diagonal_of_all(space, full):
    pairs, (first, second) = state(space, full, paired=True, own=True)
    everything = CovState.of_points(first, second, Wanted(full=full, own=True))
    n = torch.arange(3)
    assert_close(pairs.covariance[..., 0], everything.covariance[..., n, n])


def test_own_moments_are_those_of_each_input_with_itself():
    s, points = state(2, True, own=True)
    for side, p in ((s.first, points[0]), (s.second, points[1])):
        n = torch.arange(len(p))
        assert_close(side.own.covariance.flatten(-2), products(p, p, 2, True)[..., n, n])
        at_home = matching(side.own.haversine, 2)
        assert torch.equal(at_home, torch.zeros_like(at_home))


def test_a_state_is_what_its_distances_and_covariances_say():
    s, _ = state(1, True, masked=True)
    for after in (
        s.with_distance(s.std1, s.std2, s.distance, s.tangent),
        s.with_covariance(s.std1, s.std2, s.covariance, s.tangent),
    ):
        assert_close(after.covariance, s.covariance)
        assert_close(after.std1, s.std1)


def test_missing_positions_stay_zero():
    s, _ = state(2, True, masked=True)
    after = (Dense(1.1, 0.4) >> Relu() >> Dense(1.2, 0.3)).propagate(s)
    gone = ~(s.first.present & s.second.present)
    assert gone.any()
    for value in (after.covariance, after.tangent):
        assert torch.equal(value[gone], torch.zeros_like(value[gone]))


def test_a_pair_coincides_where_input_and_position_do():
    s, _ = state(2, True)
    assert s.coincident is None
    same = torch.eye(3, 2, dtype=torch.bool)
    twice = CovState(s.haversine, None, s.first, s.second, 2, True, same=same).coincident
    assert twice.sum() == 12 * 2
    assert matching(twice, 2)[..., same].all()
    assert torch.equal(CovState(s.haversine, None, s.first, s.second, 2, False, same=same).coincident, same)


@pytest.mark.parametrize("one", [(3, 1), (2, 3, 1), (1, 4), (3, 4), (1, 1)])
@pytest.mark.parametrize("other", [(1, 4), (2, 1, 4), (3, 1), (2, 3, 1), (3, 4), (1, 1)])
def test_sums_of_pairs_have_the_shape_of_a_side(one, other):
    values, weights, like = torch.randn(2, 3, 4), torch.randn(other), torch.empty(one)
    assert_close(summed(values, weights, like), (values * weights).sum_to_size(one))
