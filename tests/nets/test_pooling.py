import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from kernelfield.nets.conv import Conv
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import diagonal, gram
from kernelfield.nets.points import Points
from kernelfield.nets.pooling import AvgPool, Flatten, GlobalAvgPool, GlobalSumPool, SumPool
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.resize import Resize
from kernelfield.nets.state import CovState, Wanted
from tests.laws import agrees_with_wide_networks, has_right_gradients

POOLS = {
    "mean": (AvgPool((2, 2)), 2),
    "mean, overlapping": (AvgPool((2, 3), 1), 2),
    "mean, same": (AvgPool((3, 2), (2, 1), "SAME"), 2),
    "mean, circular": (AvgPool((3, 3), 2, "CIRCULAR"), 2),
    "sum": (SumPool((2, 3), (2, 1), "SAME"), 2),
    "sum of sequences": (SumPool((3,), 1), 1),
    "smaller": (Resize((2, 3), "linear"), 2),
    "larger": (Resize((6, -1), "linear"), 2),
    "cubic": (Resize((3, 7), "cubic"), 2),
    "nearest": (Resize((3,), "nearest"), 1),
}
PARAMETERS = list(POOLS.values())
SMALL = (3, 3)


def inputs(space, n=3, c=2, size=(4, 5)):
    return torch.randn(n, *size[:space], c)


def deep(pool, space):
    """A network with an activation behind the pooling, which needs its variances."""
    convolution = Conv((2,) * space, 1.3, 0.2) >> Relu()
    return convolution >> pool >> Conv((2,) * space, 1.2, 0.1) >> Relu() >> GlobalAvgPool() >> Dense()


def linear(pool, x):
    """The values x (n, *space, c) after pooling, by its finite module."""
    module, size = pool.module(x.shape[-1], 1, 1)
    assert size == x.shape[-1]
    return module(x)


@pytest.mark.slow
@pytest.mark.parametrize(("pool", "space"), PARAMETERS, ids=list(POOLS))
def test_wide_networks_have_the_kernel(pool, space):
    agrees_with_wide_networks(deep(pool, space), Points(inputs(space), space), width=100, networks=200)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize(("pool", "space"), PARAMETERS, ids=list(POOLS))
def test_slopes_are_those_of_differences(pool, space, kind):
    x, y = inputs(space, 2, 1, SMALL), inputs(space, 1, 1, SMALL)
    has_right_gradients(deep(pool, space), x, y, kind, space=space)


@pytest.mark.parametrize(("pool", "space"), PARAMETERS, ids=list(POOLS))
def test_what_a_pool_does_to_inputs_is_what_it_does_to_moments(pool, space):
    """Bare inputs have the covariances of their products, before a pool as behind it."""
    x, y = inputs(space), inputs(space, 2)
    f, g = linear(pool, x), linear(pool, y)
    for last, letters in ((GlobalSumPool(), "npc,mqc->nm"), (Flatten(), "npc,mpc->nm")):
        expect = torch.einsum(letters, f.flatten(1, -2), g.flatten(1, -2)) / x.shape[-1]
        expect = expect / f[0, ..., 0].numel() if isinstance(last, Flatten) else expect
        assert_close(gram(pool >> last, Points(x, space), Points(y, space)), expect)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("pool", "space"), PARAMETERS, ids=list(POOLS))
def test_covariances_of_pooled_inputs_are_their_inner_products_and_variances_too_where_asked_for(pool, space, own):
    points = Points(inputs(space), space), Points(inputs(space, 2), space)
    state = pool.propagate(CovState.of_points(*points, Wanted(full=True, own=own)))
    f, g = (linear(pool, p.x).flatten(1, -2) for p in points)
    covariance = state.covariance.flatten(space, -3).flatten(0, space - 1)
    assert_close(covariance, torch.einsum("npc,mqc->pqnm", f, g) / 2)
    if own:
        assert_close(state.std1.flatten(), f.square().mean(-1).mT.sqrt().flatten())
        assert_close(state.std2.flatten(), g.square().mean(-1).mT.sqrt().flatten())


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize(("pool", "space"), PARAMETERS, ids=list(POOLS))
def test_kernels_are_finite_exact_on_the_diagonal_and_smooth_at_equal_and_zero_images(pool, space, kind):
    x, arch = inputs(space), deep(pool, space)
    x = torch.stack([x[0], x[0], -x[0], torch.zeros_like(x[0]), x[1]]).requires_grad_()
    K = gram(arch, Points(x, space), kind=kind)
    assert_close(diagonal(arch, Points(x, space), kind=kind), K.diagonal(), rtol=1e-12, atol=0)
    assert torch.linalg.eigvalsh(K).min() >= -1e-12 * K.trace()
    (slope,) = torch.autograd.grad(K.sum(), x)
    assert slope.isfinite().all()
    single = gram(arch, Points(x.detach().float(), space), kind=kind).double()
    assert_close(single.diagonal(), K.diagonal(), rtol=1e-5, atol=0)


def test_sums_are_means_times_the_window():
    x = Points(inputs(2), 2)
    for kind in ("nngp", "ntk"):
        means = gram(Conv((2, 2)) >> Relu() >> AvgPool((2, 2), 1, "SAME") >> Dense() >> GlobalAvgPool(), x, kind=kind)
        sums = gram(Conv((2, 2)) >> Relu() >> SumPool((2, 2), 1, "SAME") >> Dense() >> GlobalSumPool(), x, kind=kind)
        assert_close(sums, means * (4 * 20) ** 2)


def test_variances_are_asked_for_where_an_activation_follows():
    pool = AvgPool((2, 2), 1) >> Dense(1.1, 0.1)
    assert not pool.wanted(Wanted()).own
    assert (pool >> Relu()).wanted(Wanted()).own
    x = Points(inputs(2), 2)
    linear = Conv((2, 2), 1.3, 0.2) >> Relu() >> pool >> Flatten() >> Dense(1.2)
    assert_close(gram(linear >> Relu(), x).diagonal(), gram(linear, x).diagonal() / 2)


@pytest.mark.parametrize(("new", "old"), [(3, 7), (7, 3), (4, 4), (2, 5), (1, 4)])
@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_resizing_is_that_of_torch_with_antialiasing(method, new, old):
    x = torch.randn(2, 1, old, 4)
    mode = {"linear": "bilinear", "cubic": "bicubic"}[method]
    expect = functional.interpolate(x, (new, 4), mode=mode, antialias=True, align_corners=False)
    found = linear(Resize((new, -1), method), x.movedim(1, -1)).movedim(-1, 1)
    assert_close(found, expect, rtol=1e-6, atol=1e-6)


def test_resizing_to_the_nearest_is_that_of_torch():
    x = torch.randn(2, 1, 5, 4)
    expect = functional.interpolate(x, (3, 7), mode="nearest-exact")
    assert_close(linear(Resize((3, 7), "nearest"), x.movedim(1, -1)).movedim(-1, 1), expect)


def test_global_means_leave_missing_positions_out():
    """The kernel is that of the shorter sequence where the end of a longer one is missing."""
    short = torch.randn(2, 4, 3)
    wide = torch.cat([short, torch.full((2, 3, 3), 7.0)], 1)
    present = torch.arange(7).expand(2, 7) < 4
    arch = Conv((3,), 1.3, 0.2) >> Relu() >> Conv((2,), 1.2) >> Relu()
    for last in (GlobalAvgPool(), GlobalSumPool()):
        for kind in ("nngp", "ntk"):
            K = gram(arch >> last >> Dense(), Points(wide, 1, present), Points(short, 1), kind=kind)
            assert_close(K, gram(arch >> last >> Dense(), Points(short, 1), kind=kind))


def test_inputs_without_positions_present_have_no_kernel():
    x = Points(torch.randn(2, 4, 3), 1, torch.tensor([[True] * 4, [False] * 4]))
    K = gram(Conv((3,), 1.3, 0.2) >> Relu() >> GlobalAvgPool() >> Dense(), x, kind="ntk")
    assert_close(K, K[0, 0] * torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_standard_layers_behind_flatten_count_positions_as_inputs():
    x = Points(torch.randn(2, 4, 3), 1)
    K, T = (gram(Flatten() >> layer, x, kind=k) for layer, k in ((Dense(), "nngp"), (Dense(width=1), "ntk")))
    assert_close(T, 12 * K)


ERRORS = [
    (GlobalAvgPool(), "its input has none"),
    (GlobalSumPool() >> Dense(), "its input has none"),
    (Flatten(), "its input has none"),
    (AvgPool((2, 2)), "its input has none"),
]


@pytest.mark.parametrize(("arch", "message"), ERRORS)
def test_vectors_have_nothing_to_pool(arch, message):
    with pytest.raises(ValueError, match=message):
        gram(arch, Points(torch.randn(2, 5)))


def test_mistakes_are_named():
    images = Points(inputs(2), 2)
    with pytest.raises(ValueError, match="2 position axes"):
        gram(AvgPool((2, 2)) >> Flatten(), Points(inputs(1), 1))
    with pytest.raises(ValueError, match="larger than its input"):
        gram(SumPool((5, 1)) >> Flatten(), images)
    with pytest.raises(ValueError, match="one size for each"):
        gram(Resize((3,)) >> Flatten(), images)
    with pytest.raises(ValueError, match="method must be one of"):
        Resize((3, 3), "lanczos")
    with pytest.raises(ValueError, match="positive integers"):
        Resize((0, 3))
    with pytest.raises(ValueError, match="padding must be"):
        AvgPool((2, 2), padding="REFLECT")
    with pytest.raises(ValueError, match="needs a Gaussian layer"):
        gram(Conv((2, 2)) >> Flatten() >> Relu() >> Dense(), images)
