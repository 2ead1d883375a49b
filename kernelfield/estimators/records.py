"""Objects of the package as JSON values and tensors, and back again.

A record is a JSON value in which whatever JSON lacks is an object with one key that says what
it is, such as {"float": "inf"} or {"tensor": "surrogate_.noise", ...}. Only classes of the tables
are written or made; no name found in a file is ever imported. Tensors come back with their
values, data types and memory layout, on which the last bits of a product may depend.
"""

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from gpytorch.constraints import Interval
from gpytorch.kernels import Kernel
from gpytorch.priors import Prior
from torch import Tensor, nn

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.core.mixing_density import Grid
from kernelfield.core.mixing_laws import BetaPrime, BurrXII, Gamma, HalfCauchy, LogNormal
from kernelfield.estimators.calibration_records import CALIBRATED, CALIBRATIONS
from kernelfield.estimators.classifier import FieldClassifier
from kernelfield.estimators.kernel_records import put_together, take_apart
from kernelfield.estimators.layer_records import LAYERS
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.estimators.scaling import Affine, Scaled
from kernelfield.estimators.variational_records import VARIATIONAL
from kernelfield.kernels.universal_features import UniversalFeatures
from kernelfield.linalg.dense import Dense
from kernelfield.linalg.kronecker import Kronecker
from kernelfield.linalg.latent import Latent
from kernelfield.linalg.sparse_factor import SparseFactor
from kernelfield.linalg.state_space import StateSpace
from kernelfield.linalg.uneven import Uneven
from kernelfield.models.axes import Axes, Cells
from kernelfield.models.collapsed import RegressionSums
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.dirichlet import DirichletClassifier, FittedDirichlet
from kernelfield.models.evidence import Fit, Trend
from kernelfield.models.expansion import FittedExpansion
from kernelfield.models.fit import Search
from kernelfield.models.flow import FittedGradientFlow, GradientFlow, Modes
from kernelfield.models.grid import FittedGrid, GridProcess
from kernelfield.models.grid_evidence import Layout, Regression
from kernelfield.models.infinitely_deep import FittedInfinitelyDeep, InfinitelyDeepClassifier
from kernelfield.models.iterative_process import FittedIterativeProcess, SolveOutcome, SolvePlan
from kernelfield.models.laplace import FittedLaplace, LaplaceClassifier
from kernelfield.models.logistic import Logistic
from kernelfield.models.neural.curvature import Tangent
from kernelfield.models.neural.deep_kernel import Course, DeepKernel, FittedDeepKernel
from kernelfield.models.neural.deep_kernel_machine import DeepKernelMachine, FittedDeepKernelMachine
from kernelfield.models.neural.diagnostics import Diagnosis
from kernelfield.models.neural.dropout import FittedDropout, MCDropout
from kernelfield.models.neural.ensemble import Ensemble, EnsembleClassifier, FittedEnsemble, FittedEnsembleClassifier
from kernelfield.models.neural.function_space import FittedFunctionSpace, FunctionSpace
from kernelfield.models.neural.function_space_classifier import FittedFunctionSpaceClassifier, FunctionSpaceClassifier
from kernelfield.models.neural.functional_prior import FittedFunctionalPrior, FunctionalPrior
from kernelfield.models.neural.gram_machine import Machine
from kernelfield.models.neural.laplace import FittedLaplaceNetwork, LaplaceNetwork
from kernelfield.models.neural.laplace_classifier import FittedLaplaceNetworkClassifier, LaplaceNetworkClassifier
from kernelfield.models.neural.laplace_forms import FunctionalLaw, LowRankLaw, RotatedLaw, WeightsLaw
from kernelfield.models.neural.last_layer import Features, FittedLastLayer, LastLayer, Moments
from kernelfield.models.neural.network import Network
from kernelfield.models.neural.prior_checkpoint import Checkpoint
from kernelfield.models.neural.prior_fitted import FittedPriorFitted, PriorFitted
from kernelfield.models.neural.quantile_process import FittedQuantileNetwork, QuantileNetwork
from kernelfield.models.neural.sampled import HMC, NUTS, SGHMC, FittedSampled, SampledNetworks
from kernelfield.models.neural.sampled_classifier import FittedSampledClassifier, SampledClassifier
from kernelfield.models.neural.set_transformer import Architecture
from kernelfield.models.neural.swag import SWAG
from kernelfield.models.neural.tangent_features import TangentFeatures
from kernelfield.models.neural.train import Training
from kernelfield.models.orthogonal import SphericalBasis, SphericalProcess
from kernelfield.models.process import Process
from kernelfield.models.quantile import FittedQuantileProcess, QuantileProcess
from kernelfield.models.random_features import DeepBasis, FourierBasis, RandomFeatureProcess, UniversalBasis
from kernelfield.models.slope_search import Descent
from kernelfield.models.softmax import Softmax
from kernelfield.models.sparse import InducingInputs, SparseProcess
from kernelfield.models.spectral import Spectral
from kernelfield.models.student_noise import FittedRobustProcess, RobustProcess
from kernelfield.models.support_vector import FittedSupportVector, SupportVectorClassifier
from kernelfield.models.tensor import FittedTensor, TensorProcess
from kernelfield.models.tensor_factors import Core, Mode, Precision
from kernelfield.models.time_series import FittedTimeSeries, TimeSeriesProcess
from kernelfield.models.variational import FittedVariational, VariationalClassifier
from kernelfield.models.vecchia import FittedNearestNeighbours, NearestNeighbourProcess
from kernelfield.models.warped import FittedWarped, Warped
from kernelfield.models.warps import Spline, YeoJohnson
from kernelfield.nets.singular import InfinitelyDeep, Power, Sinh

Json = Any

ESTIMATORS: dict[str, type] = {kind.__name__: kind for kind in (FieldClassifier, FieldRegressor)} | CALIBRATED
_CLASSIFIERS = (
    DirichletClassifier,
    FittedDirichlet,
    FittedInfinitelyDeep,
    FittedLaplace,
    FittedSupportVector,
    FittedVariational,
    InfinitelyDeep,
    InfinitelyDeepClassifier,
    LaplaceClassifier,
    Logistic,
    Power,
    Sinh,
    Softmax,
    SupportVectorClassifier,
    VariationalClassifier,
)
_MODELS = (
    Descent,
    FittedGradientFlow,
    FittedGrid,
    FittedIterativeProcess,
    FittedProcess,
    FittedQuantileProcess,
    FittedRobustProcess,
    FittedTensor,
    FittedTimeSeries,
    FittedWarped,
    GradientFlow,
    GridProcess,
    Modes,
    Process,
    QuantileProcess,
    RobustProcess,
    SolveOutcome,
    SolvePlan,
    Spectral,
    StateSpace,
    TensorProcess,
    TimeSeriesProcess,
    Warped,
)
_LAWS = (BetaPrime, BurrXII, Gamma, Grid, HalfCauchy, InverseGamma, LogNormal, Unit)
_GRIDS = (Axes, Cells, Kronecker, Latent, Layout, Regression, Uneven)
_TENSORS = (Core, Mode, Precision)
_SAMPLED = (
    HMC,
    NUTS,
    SGHMC,
    Diagnosis,
    FittedFunctionalPrior,
    FittedSampled,
    FittedSampledClassifier,
    FunctionalPrior,
    SampledClassifier,
    SampledNetworks,
)
_NEURAL = (
    Architecture,
    Checkpoint,
    Course,
    DeepKernel,
    DeepKernelMachine,
    Ensemble,
    EnsembleClassifier,
    FittedDeepKernel,
    FittedDeepKernelMachine,
    FittedDropout,
    FittedEnsemble,
    FittedEnsembleClassifier,
    FittedFunctionSpace,
    FittedFunctionSpaceClassifier,
    FittedPriorFitted,
    FittedQuantileNetwork,
    FunctionSpace,
    FunctionSpaceClassifier,
    MCDropout,
    Machine,
    Network,
    PriorFitted,
    QuantileNetwork,
    SWAG,
    TangentFeatures,
    Training,
)
_LAPLACE = (
    Features,
    FittedLaplaceNetwork,
    FittedLaplaceNetworkClassifier,
    FittedLastLayer,
    FunctionalLaw,
    LaplaceNetwork,
    LaplaceNetworkClassifier,
    LastLayer,
    LowRankLaw,
    Moments,
    RotatedLaw,
    Tangent,
    WeightsLaw,
)
_SPARSE = (
    DeepBasis,
    FittedExpansion,
    FittedNearestNeighbours,
    FourierBasis,
    InducingInputs,
    NearestNeighbourProcess,
    RandomFeatureProcess,
    RegressionSums,
    SparseFactor,
    SparseProcess,
    SphericalBasis,
    SphericalProcess,
    UniversalBasis,
    UniversalFeatures,
)
_PARTS = (Affine, Data, Dense, Fit, Scaled, Search, Spline, Trend, YeoJohnson)
RECORDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (*_CLASSIFIERS, *_MODELS, *_LAWS, *_GRIDS, *_TENSORS, *_NEURAL, *_SAMPLED, *_LAPLACE, *_SPARSE, *_PARTS)
} | LAYERS
RECORDS |= CALIBRATIONS | VARIATIONAL
_NAMES = {kind: name for name, kind in RECORDS.items()}


@dataclass
class Writer:
    """Turns objects into records and collects their tensors by name."""

    tensors: dict[str, Tensor] = field(default_factory=dict)

    def record(self, value: object, where: str) -> Json:
        """The record of a value; `where` is its place in the whole, which names its tensors.

        Errors: ValueError for an object of a class that is not in the tables.
        """
        match value:
            case None | bool():
                return value
            case np.random.RandomState():
                return None  # what it would draw next is no part of a fit
            case np.generic() if not isinstance(value, str):
                return {"scalar": self.record(value.item(), where), "dtype": value.dtype.name}
            case str():
                return str(value)
            case int():
                return int(value)
            case float():
                return float(value) if math.isfinite(value) else {"float": repr(float(value))}
            case torch.Size():
                return {"size": list(value)}
            case list():
                return self._items(value, where)
            case tuple() if type(value) is tuple:
                return {"tuple": self._items(value, where)}
            case dict():
                pairs = [[key, item] for key, item in value.items()]
                return {"dict": [[self.record(k, where), self.record(v, f"{where}.{k}")] for k, v in pairs]}
            case np.ndarray():
                return self._array(value, where)
            case Tensor():
                return self._tensor(value, where)
        return self._object(value, where)

    def _items(self, values: list | tuple, where: str) -> list:
        return [self.record(value, f"{where}.{i}") for i, value in enumerate(values)]

    def _array(self, array: np.ndarray, where: str) -> Json:
        if array.dtype.kind in "biuf":
            return {"array": self._tensor(torch.from_numpy(array.copy(order="K")), where)}
        if all(isinstance(item, str) for item in array.flat):
            kind = "object" if array.dtype.kind == "O" else "str"
            return {"strings": [str(item) for item in array.flat], "shape": list(array.shape), "dtype": kind}
        raise _refusal(where, f"an array of {array.dtype}")

    def _tensor(self, tensor: Tensor, where: str) -> Json:
        values = tensor.detach()
        for axis, step in enumerate(values.stride()):
            if not step and values.shape[axis]:
                values = values.narrow(axis, 0, 1)  # an expanded axis is kept once
        self.tensors[where] = values.cpu().clone(memory_format=torch.contiguous_format)
        record: dict[str, Json] = {"tensor": where}
        if not tensor.is_contiguous() or tensor.stride() != self.tensors[where].stride():
            record |= {"shape": list(tensor.shape), "stride": list(tensor.stride())}
        if tensor.device.type != "cpu":
            record["device"] = str(tensor.device)
        if isinstance(tensor, nn.Parameter):
            record["parameter"] = "learned" if tensor.requires_grad else "held"
        return record

    def _object(self, value: object, where: str) -> Json:
        name = _NAMES.get(type(value), type(value).__name__)
        if type(value) in _NAMES:
            values = {f.name: getattr(value, f.name) for f in fields(RECORDS[name])}
        elif ESTIMATORS.get(name) is type(value):
            values = vars(value)
        elif isinstance(value, Kernel | Prior | Interval):
            try:
                values = take_apart(value)
            except ValueError as error:
                raise _refusal(where, str(error)) from error
        else:
            raise _refusal(where, f"{type(value).__module__}.{type(value).__qualname__}")
        return {"class": name, "fields": {key: self.record(item, f"{where}.{key}") for key, item in values.items()}}


def _refusal(where: str, what: str) -> ValueError:
    return ValueError(
        f"{where} cannot be saved: {what}; keep it with joblib.dump, and joblib.load only files that you trust"
    )


@dataclass(frozen=True)
class Reader:
    """Turns records back into objects, given the tensors by name.

    device : where all tensors go; None is where they were.
    """

    tensors: dict[str, Tensor]
    device: torch.device | None = None

    def value(self, record: Json) -> Any:
        """The value of a record.

        Errors: ValueError for a class that is not in the tables or a record that does not fit.
        """
        match record:
            case list():
                return [self.value(item) for item in record]
            case {"float": str(text)}:
                return float(text)
            case {"scalar": item, "dtype": str(dtype)} if dtype in _SCALARS:
                return np.dtype(dtype).type(self.value(item))
            case {"size": list(shape)}:
                return torch.Size(shape)
            case {"tuple": list(items)}:
                return tuple(self.value(item) for item in items)
            case {"dict": list(items)}:
                return {self.value(key): self.value(item) for key, item in items}
            case {"array": inner}:
                return self.value(inner).cpu().numpy()
            case {"strings": list(items), "shape": list(shape), "dtype": "object" | "str" as dtype}:
                return np.array(items, dtype=dtype).reshape(shape)
            case {"tensor": str(name)} if name in self.tensors:
                return self._tensor(record)
            case {"class": str(name), "fields": dict(values)}:
                return self._object(name, {key: self.value(item) for key, item in values.items()})
            case None | bool() | int() | float() | str():
                return record
        raise ValueError(f"the file holds a record that is not known here: {str(record)[:60]}")

    def _tensor(self, record: dict[str, Any]) -> Tensor:
        values = self.tensors[record["tensor"]]
        device = self.device or torch.device(record.get("device", "cpu"))
        if "stride" in record:
            strides = [step or 1 for step in record["stride"]]
            tensor = torch.empty_strided(values.shape, strides, dtype=values.dtype).copy_(values)
            tensor = tensor.expand(record["shape"])
        else:
            tensor = values.clone()  # memory of its own, aligned as torch aligns
        tensor = tensor.to(device)
        if "parameter" in record:
            return nn.Parameter(tensor, requires_grad=record["parameter"] == "learned")
        return tensor

    def _object(self, name: str, values: dict[str, Any]) -> Any:
        if name in RECORDS:
            return _filled(RECORDS[name], values)
        if name in ESTIMATORS:
            estimator = ESTIMATORS[name]()
            vars(estimator).update(values)
            return estimator
        return put_together(name, values)


_SCALARS = {"bool", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}


def _filled(kind: type, values: dict[str, Any]) -> Any:
    """An object with these fields, as they were: nothing is computed anew that could round otherwise.

    A field that the class got after the file was written has its default.
    """
    known = {f.name: f for f in fields(kind)}
    for name in known.keys() - values.keys():
        default, make = known[name].default, known[name].default_factory
        if default is not MISSING:
            values[name] = default
        elif make is not MISSING:
            values[name] = make()
    if known.keys() != values.keys():
        raise ValueError(f"{kind.__name__} has the fields {sorted(known)}, and the file {sorted(values)}")
    made: Any = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made
