"""Reference kernels of infinitely wide networks, and the architectures they belong to.

The values were computed by neural-tangents 0.6.5 in double precision; each case holds a
specification, a list of [layer, arguments], and the kernels of its inputs.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernelfield.nets import quadrature
from kernelfield.nets.algebra import Concat, Layer, Product, Residual, Serial
from kernelfield.nets.attention import Attention
from kernelfield.nets.conv import Conv, ConvLocal, ConvTranspose
from kernelfield.nets.dense import Dense, Dropout
from kernelfield.nets.graph import GraphAggregate
from kernelfield.nets.norm import LayerNorm
from kernelfield.nets.points import Points
from kernelfield.nets.polynomials import Hermite, Monomial, Polynomial, RectifiedMonomial
from kernelfield.nets.pooling import AvgPool, Flatten, GlobalAvgPool, GlobalSumPool, SumPool
from kernelfield.nets.rectifiers import ABRelu, Abs, LeakyRelu, Relu, Sign
from kernelfield.nets.resize import Resize
from kernelfield.nets.smooth import Cos, Erf, Exp, ExpNormalized, Gabor, Gaussian, Gelu, Rbf, SigmoidLike, Sin

FILE = json.loads((Path(__file__).parent / "data" / "infinite_width.json").read_text())
CASES: dict[str, dict[str, Any]] = FILE["cases"]
Spec = list[list[Any]]

ACTIVATIONS: dict[str, Callable[..., Layer]] = {
    "relu": Relu,
    "abs": Abs,
    "sign": Sign,
    "leaky_relu": lambda alpha: LeakyRelu(alpha),
    "abrelu": ABRelu,
    "erf": Erf,
    "sigmoid_like": SigmoidLike,
    "gelu": Gelu,
    "sin": Sin,
    "cos": Cos,
    "rbf": Rbf,
    "gaussian": Gaussian,
    "exp": Exp,
    "exp_normalized": ExpNormalized,
    "gabor": Gabor,
    "monomial": Monomial,
    "rectified_monomial": RectifiedMonomial,
    "hermite": Hermite,
    "polynomial": lambda coef: Polynomial(tuple(coef)),
    "numerical": lambda fn, deg=None: NUMERICAL[fn](),
}
NUMERICAL: dict[str, Callable[[], Layer]] = {
    "tanh": quadrature.Tanh,
    "softplus": quadrature.Softplus,
    "sigmoid": quadrature.Sigmoid,
    "silu": quadrature.Silu,
    "cubic": lambda: quadrature.Elementwise(lambda u: u**3 - u),
}


def points(name: str, case: dict[str, Any]) -> Points:
    """The inputs called `name`, as a case reads them."""
    x = torch.tensor(FILE["inputs"][name])
    present = None
    if "mask_constant" in case:
        present = (x != case["mask_constant"]).all(-1)
    graph = None
    if "pattern" in case:
        graph = torch.tensor(FILE["inputs"][dict(zip((case["x1"], case["x2"]), case["pattern"], strict=True))[name]])
    return Points(x, x.ndim - 2, present, graph)


def architecture(spec: Spec) -> Layer:
    """The network of a specification."""
    return Serial(tuple(_layer(kind, arguments) for kind, arguments in spec))


def _layer(kind: str, given: dict[str, Any]) -> Layer:
    match kind:
        case "dense":
            return Dense(**_weights(given))
        case "act":
            return ACTIVATIONS[given["kind"]](**{k: v for k, v in given.items() if k != "kind"})
        case "conv" | "conv1d":
            return Conv(tuple(given["filter"]), **_weights(given), **_window(given))
        case "convT":
            return ConvTranspose(tuple(given["filter"]), **_weights(given), **_window(given))
        case "convlocal":
            return ConvLocal(tuple(given["filter"]), **_weights(given), **_window(given))
        case "avgpool" | "sumpool":
            ones = {"strides": [1] * len(given["window"])}  # what the reference takes where none are given
            return {"avgpool": AvgPool, "sumpool": SumPool}[kind](tuple(given["window"]), **_window(ones | given))
        case "resize":
            return Resize(tuple(given["shape"][1:-1]), given["method"])
        case "residual":
            skip = [architecture(given["skip"])] if given.get("skip") else []
            return Residual(architecture(given["branch"]), *skip)
        case "concat":
            widths = tuple(map(_width, given["branches"]))
            return Concat(tuple(map(architecture, given["branches"])), None if None in widths else widths)
        case "prod":
            return Product(tuple(map(architecture, given["branches"])))
        case "attn":
            return _attention(**given)
        case _:
            return PLAIN[kind](**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


PLAIN: dict[str, Callable[..., Layer]] = {
    "gap": GlobalAvgPool,
    "gsp": GlobalSumPool,
    "flatten": Flatten,
    "layernorm": LayerNorm,
    "dropout": Dropout,
    "aggregate": GraphAggregate,
}


def _weights(given: dict[str, Any]) -> dict[str, Any]:
    weights: dict[str, Any] = {"w": given.get("W_std", 1.0), "b": given.get("b_std")}
    if given.get("parameterization") == "standard":
        weights["width"] = given["width"]
        weights["scaling"] = tuple(given.get("s", (1, 1)))
    return weights


def _window(given: dict[str, Any]) -> dict[str, Any]:
    window = {"strides": tuple(given["strides"])} if "strides" in given else {}
    return window | ({"padding": given["padding"]} if "padding" in given else {})


def _width(branch: Spec) -> int | None:
    """The channels of a branch: the width of its last layer that gives one."""
    return next((given["width"] for _, given in reversed(branch) if "width" in given), None)


def _attention(attention_mechanism: str, pos_emb_type: str = "NONE", **given: Any) -> Layer:
    weights = {f"w_{role}": given.get(f"W_{role}_std", 1.0) for role in ("key", "query", "value", "out")}
    embedded: dict[str, Any] = {}
    if pos_emb_type != "NONE":
        embedded = {
            "position": pos_emb_type.lower(),
            "w_position": given.get("W_pos_emb_std", 1.0),
            "decay": 1.0 if given.get("decay") == "exp" else None,
            "position_values": given.get("val_pos_emb", False),
            "widths": (1, given.get("n_chan_pos_emb") or 1),
        }
    return Attention(attention_mechanism.lower(), **weights, b=given.get("b_std"), **embedded)


def expected(case: dict[str, Any], kind: str, pair: str) -> Tensor:
    """The reference matrix of "11" (x1 with itself) or "12"."""
    return torch.tensor(case[kind + pair])
