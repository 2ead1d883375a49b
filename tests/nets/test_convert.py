"""Architectures read from torch modules, against those written by hand and wide networks."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from kernelfield.nets.algebra import Concat, Layer, Product, Residual, Scale, Serial
from kernelfield.nets.conv import Conv
from kernelfield.nets.convert import ResidualModule, from_torch
from kernelfield.nets.dense import Affine, Dense, Dropout
from kernelfield.nets.empirical import monte_carlo
from kernelfield.nets.gram import gram
from kernelfield.nets.norm import LayerNorm
from kernelfield.nets.points import Points
from kernelfield.nets.pooling import AvgPool, Flatten, GlobalAvgPool
from kernelfield.nets.quadrature import Elu, Mish, Selu, Sigmoid, Silu, Softplus, Tanh
from kernelfield.nets.rectifiers import LeakyRelu, Relu
from kernelfield.nets.smooth import Erf, Gelu

D, C = Dense(1.2, 0.3), Conv((3, 3), 1.2, 0.3, "SAME", (1, 1))
MODULES = {
    "dense": (lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)), D >> Relu() >> D),
    "nested": (
        lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 8), nn.Tanh()), nn.Identity(), nn.Linear(8, 1)),
        Serial((D >> Tanh(), D)),
    ),
    "without bias": (lambda: nn.Linear(3, 8, bias=False), Dense(1.2)),
    "residual": (
        lambda: nn.Sequential(nn.Linear(3, 8), ResidualModule(nn.Sequential(nn.ReLU(), nn.Linear(8, 8)))),
        D >> Residual(Relu() >> D),
    ),
    "projection": (
        lambda: ResidualModule(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 8)), nn.Linear(3, 8)),
        Residual(D >> Relu() >> D, D),
    ),
    "normalised": (
        lambda: nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.GELU(), nn.Dropout(0.25), nn.Linear(8, 1)),
        D >> LayerNorm((-1,)) >> Gelu() >> Dropout(0.75) >> D,
    ),
    "images": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 1)
        ),
        C >> Relu() >> AvgPool((2, 2), (2, 2)) >> Flatten() >> D,
    ),
    "pooled images": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
        ),
        Conv((3, 3), 1.2, 0.3, "VALID", (2, 2)) >> Relu() >> GlobalAvgPool() >> D,
    ),
    "circular sequences": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 4, 3, padding="same", padding_mode="circular"), nn.LayerNorm((4, 5)), nn.ReLU(), nn.Flatten()
        ),
        Conv((3,), 1.2, 0.3, "CIRCULAR", (1,)) >> LayerNorm((-2, -1)) >> Relu() >> Flatten(),
    ),
}
ACTIVATIONS = {
    nn.ReLU(): Relu(),
    nn.LeakyReLU(0.1): LeakyRelu(0.1),
    nn.PReLU(init=0.3): LeakyRelu(0.3),
    nn.ELU(): Elu(),
    nn.ELU(0.5): Elu(0.5),
    nn.SELU(): Selu(),
    nn.GELU(): Gelu(),
    nn.Tanh(): Tanh(),
    nn.Sigmoid(): Sigmoid(),
    nn.Softplus(): Softplus(),
    nn.SiLU(): Silu(),
    nn.Mish(): Mish(),
}
OURS = {
    "dense": (Dense((0.5, 1.0, 2.0), 0.1) >> Relu() >> Dense(1.1, 0.0) >> Scale(0.7) >> Erf() >> Dense(), ()),
    "standard": (Dense(1.3, 0.2, width=6) >> LeakyRelu(0.1) >> Dense(0.8, width=1), ()),
    "residual": (Dense(1.1) >> Residual(LayerNorm() >> Relu() >> Dense(0.9), Dense(0.4)) >> Relu() >> Dense(), ()),
    "concat": (Dense() >> Concat((Relu() >> Dense(0.3), Erf() >> Dense(2.0)), (1, 3)) >> Dense(0.5), ()),
    "product": (Product((Dense(0.3, 0.2), Dense(1.4))) >> Dense(1.1), ()),
    "images": (Conv((3, 3), 1.2, 0.3) >> Relu() >> AvgPool((2, 2)) >> Flatten() >> Dense(1.3), (4, 4)),
    "pooled": (Conv((3,), 1.2, padding="CIRCULAR", strides=2) >> Relu() >> GlobalAvgPool() >> Dense(1.3), (6,)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_becomes_the_architecture_one_would_write(name: str) -> None:
    make, arch = MODULES[name]
    assert from_torch(make(), scales=(1.2, 0.3)) == arch


@pytest.mark.parametrize("module", ACTIVATIONS, ids=str)
def test_activations_are_the_same_functions(module: nn.Module) -> None:
    u = torch.linspace(-3, 3, 41)
    found = from_torch(module)
    assert found == ACTIVATIONS[module]
    assert_close(found.phi(u), module(u).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OURS)
def test_modules_of_architectures_are_read_back(name: str) -> None:
    arch, space = OURS[name]
    x = torch.randn(4, *space, 3)
    module, _ = arch.module(3, 8, 1)
    module(x)
    points = Points(x, space=len(space))
    for kind in ("nngp", "ntk"):
        assert_close(gram(from_torch(module), points, kind=kind), gram(arch, points, kind=kind))


def test_scales_are_read_from_the_weights() -> None:
    layer = nn.Linear(200, 300)
    nn.init.normal_(layer.weight, std=1.4 / 200**0.5)
    nn.init.normal_(layer.bias, std=0.2)
    found = from_torch(layer)
    assert abs(found.w - 1.4) < 0.03 and abs(found.b - 0.2) < 0.05
    nn.init.zeros_(layer.bias)
    assert from_torch(layer).b == 0.0
    torch_default = from_torch(nn.Linear(400, 400))
    assert_close(torch_default.w, 3**-0.5, rtol=0.02, atol=0)
    images = nn.Conv2d(8, 64, 3)
    assert_close(from_torch(images).w, 3**-0.5, rtol=0.05, atol=0)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_wide_networks_of_torch_have_the_kernel_that_is_read_from_them(kind: str) -> None:
    """The standard parameterisation: torch's gradients are those of the weights themselves."""
    width, x = 200, torch.randn(3, 4)

    def network() -> nn.Module:
        block = ResidualModule(nn.Sequential(nn.ReLU(), nn.Linear(width, width)))
        return nn.Sequential(nn.Linear(4, width), block, nn.Tanh(), nn.Linear(width, 4))

    # Uniform weights: w^2 = 1 / 3, and biases of the standard deviation 1 / sqrt(3 fan_in).
    found = monte_carlo((network() for _ in range(60)), x, kind=kind)
    arch = from_torch(network(), parameterization="standard")
    assert [layer.width for layer in (arch.steps[0], arch.steps[-1])] == [width, 4]
    truth = gram(arch, Points(x), kind=kind)
    assert ((found.mean - truth).abs() <= 6 * found.error + 0.06 * truth.abs().max()).all()


def test_convolutions_of_torch_have_the_kernel_that_is_read_from_them() -> None:
    x = torch.randn(3, 2, 5, 5)

    def network() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(2, 64, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(256, 8)
        )

    found = monte_carlo((network() for _ in range(60)), x)
    truth = gram(from_torch(network()), Points(x.movedim(1, -1), space=2))
    assert ((found.mean - truth).abs() <= 6 * found.error + 0.1 * truth.abs().max()).all()


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Custom(), "the module Custom has no"),
        (nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))), "MaxPool2d at '1.1'"),
        (nn.Sequential(ResidualModule(nn.Sequential(Custom()))), "Custom at '0.branch.0'"),
        (nn.BatchNorm1d(3), "BatchNorm1d"),
        (nn.GELU("tanh"), "approximate='tanh'"),
        (nn.Softplus(2.0), "beta=2.0"),
        (nn.Conv2d(3, 3, 3, padding=2), "padding=\\(2, 2\\)"),
        (nn.Conv2d(3, 3, 3, padding=1, stride=2), "strides \\(2, 2\\)"),
        (nn.Conv1d(4, 4, 3, groups=2), "groups=2"),
        (nn.AvgPool2d(3, padding=1), "must not be padded"),
        (nn.AdaptiveAvgPool2d(2), "output_size=2 must be 1"),
        (nn.Flatten(0), "all axes but the first"),
        (nn.Sequential(nn.Conv1d(3, 4, 3), nn.Linear(4, 1)), "Linear at '1'.*nn.Flatten"),
        (nn.Sequential(nn.Conv1d(3, 4, 3), nn.LayerNorm(4)), "must normalise all 2 axes"),
        (nn.LazyLinear(3), "call the network once first"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_an_unsupported_module_is_named_with_its_path(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_torch(module)


def test_trained_norms_and_unknown_parameterisations_are_refused() -> None:
    norm = nn.LayerNorm(3)
    nn.init.constant_(norm.weight, 2.0)
    with pytest.raises(ValueError, match="must be ones"):
        from_torch(norm)
    slopes = nn.PReLU(2)
    slopes.weight.data[0] = 0.1
    with pytest.raises(ValueError, match="one slope"):
        from_torch(slopes)
    with pytest.raises(ValueError, match="'ntk' or 'standard', got 'mup'"):
        from_torch(nn.ReLU(), parameterization="mup")  # type: ignore[arg-type]
    assert isinstance(OURS["dense"][0].module(3, 4, 1)[0][0], Affine) and isinstance(D, Layer)
