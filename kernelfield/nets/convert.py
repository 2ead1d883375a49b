"""Architectures of torch modules: the infinitely wide form of a finite network.

`from_torch` reads containers and layers by their type, not their code, so a module with a forward
of its own is refused, by its path; residual blocks are written with `ResidualModule`. The scales
of a layer of weights W (m, n) and biases B are read from what they were initialised with,

    w = sqrt(n mean(W^2)),    b = sqrt(mean(B^2)),

or given. Both parameterisations have the same NNGP; torch's own layers are trained as "standard"
ones, whose NTK grows with the widths, which "standard" takes from the module.

torch has channels in front of the positions of an image, (n, c, H, W), kernelfield behind them:
the architecture of a module that takes x takes Points(x.movedim(1, -1), space=2). The order in
which positions are flattened does not matter to a kernel.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kernelfield.nets.activation import Activation, Pointwise
from kernelfield.nets.algebra import (
    Added,
    Concat,
    Identity,
    Joined,
    Layer,
    Multiplied,
    Product,
    Rescaled,
    Residual,
    Scale,
    Serial,
)
from kernelfield.nets.conv import Conv, ConvLocal, Convolution, ConvTranspose, LocalConvolution, TransposedConvolution
from kernelfield.nets.dense import Affine, Dense, Dropout
from kernelfield.nets.norm import LayerNorm, Normalisation
from kernelfield.nets.pooling import (
    AvgPool,
    Flatten,
    GlobalAvgPool,
    GlobalMean,
    GlobalSum,
    GlobalSumPool,
    SumPool,
    WindowSum,
)
from kernelfield.nets.quadrature import Elu, Mish, Selu, Sigmoid, Silu, Softplus, Tanh
from kernelfield.nets.rectifiers import LeakyRelu, Relu
from kernelfield.nets.smooth import Gelu

Parameterization = Literal["ntk", "standard"]
PARAMETERIZATIONS = ("ntk", "standard")


class ResidualModule(nn.Module):
    """skip(x) + branch(x); the skip path is the identity unless a module is given."""

    def __init__(self, branch: nn.Module, skip: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.skip = nn.Identity() if skip is None else skip

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.branch(x)


def from_torch(
    module: nn.Module,
    *,
    scales: tuple[float, float | None] | None = None,
    parameterization: Parameterization = "ntk",
) -> Layer:
    """The architecture of a torch module.

    scales: (w, b) of all layers of torch's own; None reads them from the weights. Modules made by
    `Layer.module` keep theirs, and their parameterisation.

    Errors: ValueError naming the module, and where it stands, that has no architecture.

    >>> from_torch(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)), scales=(1.5, 0.1)).steps[1]
    Relu()
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"module must be a torch module such as nn.Sequential(nn.Linear(3, 8), ...), got {module!r}")
    if parameterization not in PARAMETERIZATIONS:
        raise ValueError(f"parameterization must be 'ntk' or 'standard', got {parameterization!r}")
    return _Reader(scales, parameterization).layer(module, "")


class _Reader:
    """Reads modules in the order of the forward pass, and keeps count of what torch's shapes mean.

    axes: the position axes behind torch's channels; zero where channels are last.
    pooled: whether a global pooling has left nothing to flatten.
    """

    def __init__(self, scales: tuple[float, float | None] | None, parameterization: str) -> None:
        self.scales, self.standard = scales, parameterization == "standard"
        self.axes, self.pooled = 0, False

    def layer(self, module: nn.Module, path: str) -> Layer:
        if any(is_lazy(p) for p in module.parameters(recurse=False)):
            raise ValueError(f"{_named(module, path)} has weights without a size: call the network once first")
        for kind, read in READERS.items():
            if type(module) is kind:
                return read(self, module, path)
        raise ValueError(
            f"{_named(module, path)} has no infinitely wide form here: write it with layers of "
            f"{', '.join(k.__name__ for k in READERS if not k.__name__.startswith('_'))}"
        )

    def refuse(self, module: nn.Module, path: str, reason: str) -> ValueError:
        return ValueError(f"{_named(module, path)} has no infinitely wide form here: {reason}")

    def branches(self, modules: list[tuple[str, nn.Module]], path: str) -> list[Layer]:
        """Modules that read one input side by side."""
        axes, pooled = self.axes, self.pooled
        layers = []
        for name, module in modules:
            self.axes, self.pooled = axes, pooled
            layers.append(self.layer(module, _joined(path, name)))
        return layers

    def spread(self, module: Any) -> tuple[float, float | None]:
        """The scales (w, b) of a layer of torch's own."""
        if self.scales is not None:
            w, b = self.scales
            return float(w), None if module.bias is None or b is None else float(b)
        rows = module.weight.detach().flatten(1)
        w = math.sqrt(rows.shape[1] * rows.square().mean().item())
        return w, None if module.bias is None else math.sqrt(module.bias.detach().square().mean().item())


def _sequential(reader: _Reader, module: nn.Sequential, path: str) -> Layer:
    layers = [reader.layer(part, _joined(path, name)) for name, part in module.named_children()]
    return Serial(tuple(layer for layer in layers if not isinstance(layer, Identity)))


def _residual(reader: _Reader, module: ResidualModule, path: str) -> Layer:
    skip, branch = reader.branches([("skip", module.skip), ("branch", module.branch)], path)
    return Residual(branch, skip)


def _linear(reader: _Reader, module: nn.Linear, path: str) -> Layer:
    if reader.axes:
        raise reader.refuse(module, path, "it acts on the last position axis: put nn.Flatten() before it")
    w, b = reader.spread(module)
    return Dense(w, b, width=module.out_features if reader.standard else None)


def _convolution(reader: _Reader, module: Any, path: str) -> Layer:
    window = tuple(module.kernel_size)
    if set(module.dilation) != {1} or module.groups != 1:
        raise reader.refuse(module, path, f"dilation={module.dilation} and groups={module.groups} must be one")
    centred = module.padding == "same" or tuple(module.padding) == tuple((k - 1) // 2 for k in window)
    odd = all(k % 2 for k in window)
    if module.padding == "valid" or (module.padding != "same" and not any(module.padding)):
        padding = "VALID"
    elif centred and odd and set(module.stride) == {1} and module.padding_mode in ("zeros", "circular"):
        padding = "SAME" if module.padding_mode == "zeros" else "CIRCULAR"
    else:
        raise reader.refuse(
            module,
            path,
            f"padding={module.padding} must be zero, or (k - 1) / 2 with odd windows, strides of one and "
            f"padding_mode zeros or circular, got strides {module.stride} and {module.padding_mode}",
        )
    reader.axes = len(window)
    w, b = reader.spread(module)
    return Conv(window, w, b, padding, tuple(module.stride), module.out_channels if reader.standard else None)


def _pooling(reader: _Reader, module: Any, path: str) -> Layer:
    axes = int(type(module).__name__[-2])
    window, strides, pads = (
        v if isinstance(v, tuple) else (v,) * axes for v in (module.kernel_size, module.stride, module.padding)
    )
    if any(pads) or module.ceil_mode or getattr(module, "divisor_override", None) is not None:
        raise reader.refuse(module, path, "its windows must not be padded or divided by another number")
    reader.axes = axes
    return AvgPool(tuple(window), tuple(strides))


def _global_pooling(reader: _Reader, module: Any, path: str) -> Layer:
    size = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,)
    if set(size) != {1}:
        raise reader.refuse(module, path, f"output_size={module.output_size} must be 1, the mean over all positions")
    reader.axes, reader.pooled = 0, True
    return GlobalAvgPool()


def _flatten(reader: _Reader, module: nn.Flatten, path: str) -> Layer:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise reader.refuse(module, path, "it must flatten all axes but the first, as nn.Flatten() does")
    pooled, reader.axes, reader.pooled = reader.pooled, 0, True
    return Identity() if pooled else Flatten()


def _layer_norm(reader: _Reader, module: nn.LayerNorm, path: str) -> Layer:
    trained = module.elementwise_affine and (
        (module.weight != 1).any() or (module.bias is not None and (module.bias != 0).any())
    )
    if trained:
        raise reader.refuse(module, path, "its weights must be ones and its biases zeros, as they are initialised")
    k = len(module.normalized_shape)
    if reader.axes and k != reader.axes + 1:
        raise reader.refuse(module, path, f"behind convolutions it must normalise all {reader.axes + 1} axes, not {k}")
    return LayerNorm(tuple(range(-k, 0)))


def _dropout(reader: _Reader, module: nn.Dropout, path: str) -> Layer:
    return Dropout(1 - module.p) if module.p else Identity()


def _identity(reader: _Reader, module: nn.Identity, path: str) -> Layer:
    return Identity()


def _prelu(reader: _Reader, module: nn.PReLU, path: str) -> Layer:
    if (module.weight != module.weight[0]).any():
        raise reader.refuse(module, path, "all channels must have one slope")
    return LeakyRelu(module.weight[0].item())


def _gelu(reader: _Reader, module: nn.GELU, path: str) -> Layer:
    if module.approximate != "none":
        raise reader.refuse(module, path, f"approximate={module.approximate!r} must be 'none'")
    return Gelu()


def _softplus(reader: _Reader, module: nn.Softplus, path: str) -> Layer:
    if module.beta != 1:
        raise reader.refuse(module, path, f"beta={module.beta} must be 1")
    return Softplus()


def _fixed(activation: Activation) -> "Read":
    return lambda reader, module, path: activation


def _affine(reader: _Reader, module: Affine, path: str) -> Layer:
    w = tuple(module.w.tolist()) if isinstance(module.w, Tensor) else module.w
    width = module.fan_out if module.standard else None
    return Dense(w, None if module.bias is None else module.b, width, (module.widened, 1))


def _filters(reader: _Reader, module: Any, path: str) -> Layer:
    windows, b = module.windows, None if module.bias is None else module.b
    kind = {k.__name__: k for k in (Conv, ConvTranspose, ConvLocal)}[windows.layer]
    width = module.fan_out if module.standard else None
    return kind(windows.window, module.w, b, windows.padding, windows.strides, width, (module.widened, 1))


def _window_sum(reader: _Reader, module: Any, path: str) -> Layer:
    windows = module.windows
    kind = {k.__name__: k for k in (AvgPool, SumPool)}[windows.layer]
    return kind(windows.window, windows.strides, windows.padding)


def _joining(join: Callable[[nn.Module, list[Layer]], Layer]) -> "Read":
    def read(reader: _Reader, module: Any, path: str) -> Layer:
        named = list(module.branches.named_children())
        return join(module, reader.branches(named, _joined(path, "branches")))

    return read


def _sum(module: nn.Module, branches: list[Layer]) -> Layer:
    return Residual(branches[1], branches[0])


def _product(module: nn.Module, branches: list[Layer]) -> Layer:
    return Product(tuple(branches))


def _concat(module: Any, branches: list[Layer]) -> Layer:
    sizes = [[part.fan_out for part in branch.modules() if isinstance(part, Affine)][-1] for branch in module.branches]
    return Concat(tuple(branches), None if len(set(sizes)) == 1 else tuple(sizes))


def _named(module: nn.Module, path: str) -> str:
    return f"{type(module).__name__} at {path!r}" if path else f"the module {type(module).__name__}"


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


Read = Callable[[_Reader, Any, str], Layer]
READERS: dict[type[nn.Module], Read] = {
    nn.Sequential: _sequential,
    ResidualModule: _residual,
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.AvgPool1d: _pooling,
    nn.AvgPool2d: _pooling,
    nn.AvgPool3d: _pooling,
    nn.AdaptiveAvgPool1d: _global_pooling,
    nn.AdaptiveAvgPool2d: _global_pooling,
    nn.AdaptiveAvgPool3d: _global_pooling,
    nn.Flatten: _flatten,
    nn.LayerNorm: _layer_norm,
    nn.Dropout: _dropout,
    nn.Identity: _identity,
    nn.ReLU: _fixed(Relu()),
    nn.LeakyReLU: lambda reader, module, path: LeakyRelu(module.negative_slope),
    nn.PReLU: _prelu,
    nn.ELU: lambda reader, module, path: Elu(1 if module.alpha == 1 else module.alpha),
    nn.SELU: _fixed(Selu()),
    nn.GELU: _gelu,
    nn.Tanh: _fixed(Tanh()),
    nn.Sigmoid: _fixed(Sigmoid()),
    nn.Softplus: _softplus,
    nn.SiLU: _fixed(Silu()),
    nn.Mish: _fixed(Mish()),
    Affine: _affine,
    Pointwise: lambda reader, module, path: module.activation,
    Normalisation: lambda reader, module, path: LayerNorm(module.axes),
    Convolution: _filters,
    TransposedConvolution: _filters,
    LocalConvolution: _filters,
    WindowSum: _window_sum,
    GlobalMean: lambda reader, module, path: GlobalAvgPool(),
    GlobalSum: lambda reader, module, path: GlobalSumPool(),
    Added: _joining(_sum),
    Multiplied: _joining(_product),
    Joined: _joining(_concat),
    Rescaled: lambda reader, module, path: Scale(module.factor),
}
