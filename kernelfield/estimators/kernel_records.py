"""GPyTorch kernels, priors and constraints taken apart into plain values, and put together again.

Each class of the table says which arguments its constructor takes and how they are read from
an object. What is put together equals the original in every parameter, bound and data type;
a class or a variant outside of the tables is refused, as its arguments cannot be known.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gpytorch import constraints, kernels, priors
from gpytorch.constraints import Interval
from gpytorch.kernels import Kernel
from gpytorch.priors import Prior
from gpytorch.utils.transforms import inv_sigmoid, inv_softplus
from torch import Tensor, nn

from kernelfield.kernels.grid import GridKernel
from kernelfield.kernels.learning_curve import IndependentRungs, LearningCurve
from kernelfield.kernels.matern import GeneralMatern
from kernelfield.kernels.network import NetworkKernel
from kernelfield.kernels.spectral import SpectralMixture, SpectralProduct
from kernelfield.kernels.spherical import SphericalKernel
from kernelfield.kernels.stationary import RBF, Matern, RationalQuadratic
from kernelfield.models.neural.feature_kernel import FeatureKernel
from kernelfield.models.scale_mixture import ScaleMixtureKernel

Values = dict[str, Any]


def take_apart(part: Kernel | Prior | Interval) -> Values:
    """What `put_together` needs to make an equal object; see the module docstring.

    Errors: ValueError for a class that is not in the tables, or a variant of one.
    """
    match part:
        case Kernel() if type(part) in _KERNELS.values():
            return _kernel_values(part)
        case Prior() if type(part) in _PRIORS.values():
            return _prior_values(part)
        case Interval() if type(part) in _CONSTRAINTS.values():
            return _constraint_values(part)
    raise ValueError(f"{type(part).__module__}.{type(part).__qualname__} is not a class that can be saved")


def put_together(name: str, values: Values) -> Kernel | Prior | Interval:
    """The object of the class called `name` from its values.

    Errors: ValueError for a class that is not in the tables, or values that do not fit it.
    """
    try:
        if name in _KERNELS:
            return _kernel(_KERNELS[name], **values)
        if name in _PRIORS:
            return _prior(_PRIORS[name], **values)
        if name in _CONSTRAINTS:
            return _constraint(_CONSTRAINTS[name], **values)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be made from the values in the file: {error}") from error
    raise ValueError(f"{name} is not a class that can be loaded")


_SHARED: dict[str, Callable[[Kernel], Any]] = {
    "batch_shape": operator.attrgetter("_batch_shape"),  # the public one also counts the kernels inside
    "active_dims": operator.attrgetter("active_dims"),
}
_ARD: dict[str, Callable[[Kernel], Any]] = {**_SHARED, "ard_num_dims": operator.attrgetter("ard_num_dims")}
_INSIDE: dict[str, Callable[[Kernel], Any]] = {"kernels": lambda kernel: list(kernel.kernels)}


@dataclass(frozen=True)
class _Form:
    """How a kernel is made: readers of its plain arguments, and the parameters it may constrain."""

    readers: Mapping[str, Callable[[Kernel], Any]]
    parameters: tuple[str, ...] = ()


def _ard(*parameters: str, also: str | None = None) -> _Form:
    extra = {} if also is None else {also: operator.attrgetter(also)}
    return _Form({**_ARD, **extra}, parameters)


def _spectral(*parameters: str) -> _Form:
    plain = ("components", "density", "nu", "log_weights", "dims")
    return _Form({**_SHARED, **{name: operator.attrgetter(name) for name in plain}}, parameters)


_FORMS: dict[type[Kernel], _Form] = {
    RBF: _ard("lengthscale", "outputscale"),
    Matern: _ard("lengthscale", "outputscale", also="nu"),
    GeneralMatern: _ard("lengthscale", "outputscale", "nu", also="nu"),
    RationalQuadratic: _ard("lengthscale", "outputscale", "alpha"),
    NetworkKernel: _Form(
        {**_SHARED, **{name: operator.attrgetter(name) for name in ("arch", "kind", "shape", "missing", "graph")}},
        ("scales",),
    ),
    SphericalKernel: _Form(
        {**_ARD, **{name: operator.attrgetter(name) for name in ("family", "depth", "nu")}},
        ("lengthscale", "outputscale", "reach"),
    ),
    SpectralMixture: _spectral("weights", "lengthscales"),
    SpectralProduct: _spectral("weights", "lengthscales", "outputscale"),
    GridKernel: _Form(
        {**_SHARED, "axes": lambda kernel: list(kernel.axes), "columns": operator.attrgetter("columns")},
        ("outputscale",),
    ),
    LearningCurve: _Form(
        {**_SHARED, **{name: operator.attrgetter(name) for name in ("level", "change")}}, ("power", "rate", "common")
    ),
    IndependentRungs: _Form(
        {**_SHARED, **{name: operator.attrgetter(name) for name in ("kernel", "rungs")}}, ("scales", "offset")
    ),
    kernels.RBFKernel: _ard("lengthscale"),
    kernels.MaternKernel: _ard("lengthscale", also="nu"),
    kernels.RQKernel: _ard("lengthscale", "alpha"),
    kernels.PeriodicKernel: _ard("lengthscale", "period_length"),
    kernels.PiecewisePolynomialKernel: _ard("lengthscale", also="q"),
    kernels.CosineKernel: _ard("period_length"),
    kernels.LinearKernel: _ard("variance"),
    kernels.PolynomialKernel: _ard("offset", also="power"),
    kernels.ConstantKernel: _Form(_SHARED, ("constant",)),
    kernels.ScaleKernel: _Form({**_SHARED, "base_kernel": operator.attrgetter("base_kernel")}, ("outputscale",)),
    ScaleMixtureKernel: _Form({**_SHARED, **{name: operator.attrgetter(name) for name in ("base_kernel", "mixing")}}),
    FeatureKernel: _Form(
        {
            **_SHARED,
            **{
                name: operator.attrgetter(name)
                for name in ("base_kernel", "network", "features", "centre", "spread", "bound")
            },
        }
    ),
    kernels.AdditiveKernel: _Form(_INSIDE),
    kernels.ProductKernel: _Form(_INSIDE),
}
_KERNELS = {kind.__name__: kind for kind in _FORMS}


def _kernel_values(kernel: Kernel) -> Values:
    form = _FORMS[type(kernel)]
    bounds = {name.removeprefix("raw_"): bound for name, bound in kernel._constraints.items()}
    beliefs = {name: prior for name, (prior, _, _) in kernel._priors.items()}
    known = {f"{p}_{kind}" for p in form.parameters for kind in ("prior", "constraint")}
    for name in {**bounds, **beliefs}:
        if name not in known:
            raise ValueError(f"{name!r} was registered on a {type(kernel).__name__} after it was made")
    arguments = {name: read(kernel) for name, read in form.readers.items()} | bounds | beliefs
    return {
        "arguments": {name: value for name, value in arguments.items() if value is not None},
        "parameters": dict(kernel._parameters),
    }


def _kernel(kind: type[Kernel], arguments: Values, parameters: dict[str, nn.Parameter]) -> Kernel:
    inside = arguments.pop("kernels", ())
    kernel = kind(*inside, **arguments)
    if kernel._parameters.keys() != parameters.keys():
        raise ValueError(f"{kind.__name__} has other parameters in this version of its package: {list(parameters)}")
    for name, value in parameters.items():
        setattr(kernel, name, value)
    return kernel


_PRIOR_ARGUMENTS: dict[type[Prior], dict[str, str]] = {  # argument: attribute
    priors.NormalPrior: {"loc": "loc", "scale": "scale"},
    priors.LogNormalPrior: {"loc": "loc", "scale": "scale"},
    priors.GammaPrior: {"concentration": "concentration", "rate": "rate"},
    priors.UniformPrior: {"a": "low", "b": "high"},
    priors.HalfCauchyPrior: {"scale": "scale"},
    priors.HalfNormalPrior: {"scale": "scale"},
}
_PRIORS = {kind.__name__: kind for kind in _PRIOR_ARGUMENTS}


def _prior_values(prior: Prior) -> Values:
    if prior._transform is not None:
        raise ValueError(f"a {type(prior).__name__} with a transform of its own cannot be saved")
    arguments = {name: getattr(prior, key) for name, key in _PRIOR_ARGUMENTS[type(prior)].items()}
    return {"arguments": arguments, "buffers": dict(prior._buffers)}


def _prior(kind: type[Prior], arguments: dict[str, Tensor], buffers: dict[str, Tensor]) -> Prior:
    prior = kind(**arguments)
    # Moving a prior converts its buffers and not the law they copy, so the two may differ in type.
    prior._buffers.update(buffers)
    return prior


_CONSTRAINTS: dict[str, type[Interval]] = {
    kind.__name__: kind
    for kind in (constraints.Positive, constraints.GreaterThan, constraints.LessThan, constraints.Interval)
}
_TRANSFORMS: dict[str, tuple[Callable | None, Callable | None]] = {
    "softplus": (constraints.constraints.softplus, inv_softplus),
    "sigmoid": (torch.sigmoid, inv_sigmoid),
    "exp": (torch.exp, torch.log),
    "none": (None, None),
}


def _constraint_values(constraint: Interval) -> Values:
    return {
        "transform": _transform_name(constraint),
        "lower": constraint.lower_bound,
        "upper": constraint.upper_bound,
        "initial": constraint.initial_value,
    }


def _transform_name(constraint: Interval) -> str:
    transform, inverse = constraint._transform, constraint._inv_transform
    for name, (known, back) in _TRANSFORMS.items():
        # Softplus is a module, which copying a kernel copies too.
        same = transform is known or (name == "softplus" and repr(transform) == repr(known))
        if same and (transform is None or inverse is back):
            return name
    raise ValueError(f"the constraint {constraint} has a transform of its own, {transform}")


def _constraint(kind: type[Interval], transform: str, lower: Tensor, upper: Tensor, initial: Tensor | None) -> Interval:
    given: Values = {"lower_bound": lower, "upper_bound": upper}
    match kind.__name__:
        case "Positive":
            given = {}
        case "GreaterThan":
            given = {"lower_bound": lower}
        case "LessThan":
            given = {"upper_bound": upper}
    forward, back = _TRANSFORMS[transform]
    constraint = kind(**given, transform=forward, inv_transform=back)
    constraint.lower_bound, constraint.upper_bound = lower, upper  # the constructor may round them
    constraint._initial_value = initial
    return constraint
