"""Arrays go in, a posterior you can trust comes out.

    >>> import kernelfield as kf
    >>> kf.FieldRegressor(kf.Process("rbf")).get_params()["model__kernel"]
    'rbf'

The names below are imported when they are first used, so that `import kernelfield` is quick.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

from kernelfield.core.version import __version__

os.environ.setdefault("KEOPS_VERBOSE", "0")  # GPyTorch imports KeOps where it is installed, which would print a banner

if TYPE_CHECKING:
    from kernelfield.bo.adapter import to_botorch
    from kernelfield.bo.loop import Optimizer
    from kernelfield.bo.optuna import FieldSampler
    from kernelfield.bo.space import Space
    from kernelfield.core.contracts import Data
    from kernelfield.core.mixing import InverseGamma, Unit
    from kernelfield.core.mixing_density import Grid, LogDensity
    from kernelfield.core.mixing_laws import BetaPrime, BurrXII, Gamma, HalfCauchy, LogNormal
    from kernelfield.estimators.calibrated import Calibrated
    from kernelfield.estimators.calibrated_classifier import CalibratedClassifier
    from kernelfield.estimators.classifier import FieldClassifier
    from kernelfield.estimators.martingale import martingale_posterior
    from kernelfield.estimators.persistence import load, save
    from kernelfield.estimators.regions import MultiOutputRegion
    from kernelfield.estimators.regressor import FieldRegressor
    from kernelfield.kernels.empirical import EmpiricalKernel
    from kernelfield.kernels.grid import GridKernel
    from kernelfield.kernels.hierarchical import hierarchical
    from kernelfield.kernels.laplace import matched_laplace
    from kernelfield.kernels.matern import GeneralMatern
    from kernelfield.kernels.network import NetworkKernel
    from kernelfield.kernels.products import kernel_matmul, kernel_product
    from kernelfield.kernels.random_features import DeepRandomFeatures
    from kernelfield.kernels.spectral import SpectralMixture, SpectralProduct
    from kernelfield.kernels.stationary import RBF, Matern, RationalQuadratic
    from kernelfield.models.dirichlet import DirichletClassifier
    from kernelfield.models.fields import sample_field
    from kernelfield.models.flow import GradientFlow
    from kernelfield.models.grid import GridProcess
    from kernelfield.models.infinitely_deep import InfinitelyDeepClassifier
    from kernelfield.models.laplace import LaplaceClassifier
    from kernelfield.models.process import Process
    from kernelfield.models.quantile import QuantileProcess
    from kernelfield.models.random_features import RandomFeatureProcess
    from kernelfield.models.scale_mixture import ScaleMixtureKernel
    from kernelfield.models.sparse import SparseProcess
    from kernelfield.models.spectral import Spectral
    from kernelfield.models.student_noise import RobustProcess
    from kernelfield.models.support_vector import SupportVectorClassifier
    from kernelfield.models.svgp import VariationalProcess
    from kernelfield.models.tensor import TensorProcess
    from kernelfield.models.time_series import TimeSeriesProcess
    from kernelfield.models.variational import VariationalClassifier
    from kernelfield.models.vecchia import NearestNeighbourProcess
    from kernelfield.models.warped import Warped
    from kernelfield.nets.algebra import Concat, Identity, Product, Repeat, Residual, Scale, Serial
    from kernelfield.nets.attention import Attention
    from kernelfield.nets.controlled import Controlled
    from kernelfield.nets.conv import Conv, ConvLocal, ConvTranspose
    from kernelfield.nets.convert import ResidualModule, from_torch
    from kernelfield.nets.criticality import criticality, deep_residual, edge_of_chaos
    from kernelfield.nets.dense import Dense, Dropout
    from kernelfield.nets.empirical import empirical_nngp, empirical_ntk
    from kernelfield.nets.finite_width import finite_width, least_width
    from kernelfield.nets.graph import GraphAggregate
    from kernelfield.nets.norm import LayerNorm
    from kernelfield.nets.polynomials import Hermite, Monomial, Polynomial, RectifiedMonomial
    from kernelfield.nets.pooling import AvgPool, Flatten, GlobalAvgPool, GlobalSumPool, SumPool
    from kernelfield.nets.quadrature import Elementwise, Elu, Mish, Selu, Sigmoid, Silu, Snake, Softplus, Tanh
    from kernelfield.nets.rectifiers import ABRelu, Abs, LeakyRelu, Relu, Sign, Step
    from kernelfield.nets.recurrent import Recurrent
    from kernelfield.nets.resize import Resize
    from kernelfield.nets.singular import InfinitelyDeep
    from kernelfield.nets.smooth import Cos, Erf, Exp, ExpNormalized, Gabor, Gaussian, Gelu, Rbf, SigmoidLike, Sin
    from kernelfield.nets.taylor import linearize
    from kernelfield.nets.weights import redraw
    from kernelfield.uq.class_report import ClassReport
    from kernelfield.uq.report import Report

__all__ = [
    "RBF",
    "ABRelu",
    "Abs",
    "Attention",
    "AvgPool",
    "BetaPrime",
    "BurrXII",
    "Calibrated",
    "CalibratedClassifier",
    "ClassReport",
    "Concat",
    "Controlled",
    "Conv",
    "ConvLocal",
    "ConvTranspose",
    "Cos",
    "Data",
    "DeepRandomFeatures",
    "Dense",
    "DirichletClassifier",
    "Dropout",
    "Elementwise",
    "Elu",
    "EmpiricalKernel",
    "Erf",
    "Exp",
    "ExpNormalized",
    "FieldClassifier",
    "FieldRegressor",
    "FieldSampler",
    "Flatten",
    "Gabor",
    "Gamma",
    "Gaussian",
    "Gelu",
    "GeneralMatern",
    "GlobalAvgPool",
    "GlobalSumPool",
    "GradientFlow",
    "GraphAggregate",
    "Grid",
    "GridKernel",
    "GridProcess",
    "HalfCauchy",
    "Hermite",
    "Identity",
    "InfinitelyDeep",
    "InfinitelyDeepClassifier",
    "InverseGamma",
    "LaplaceClassifier",
    "LayerNorm",
    "LeakyRelu",
    "LogDensity",
    "LogNormal",
    "Matern",
    "Mish",
    "Monomial",
    "MultiOutputRegion",
    "NearestNeighbourProcess",
    "NetworkKernel",
    "Optimizer",
    "Polynomial",
    "Process",
    "Product",
    "QuantileProcess",
    "RandomFeatureProcess",
    "RationalQuadratic",
    "Rbf",
    "RectifiedMonomial",
    "Recurrent",
    "Relu",
    "Repeat",
    "Report",
    "Residual",
    "ResidualModule",
    "Resize",
    "RobustProcess",
    "Scale",
    "ScaleMixtureKernel",
    "Selu",
    "Serial",
    "Sigmoid",
    "SigmoidLike",
    "Sign",
    "Silu",
    "Sin",
    "Snake",
    "Softplus",
    "Space",
    "SparseProcess",
    "Spectral",
    "SpectralMixture",
    "SpectralProduct",
    "Step",
    "SumPool",
    "SupportVectorClassifier",
    "Tanh",
    "TensorProcess",
    "TimeSeriesProcess",
    "Unit",
    "VariationalClassifier",
    "VariationalProcess",
    "Warped",
    "__version__",
    "criticality",
    "deep_residual",
    "edge_of_chaos",
    "empirical_nngp",
    "empirical_ntk",
    "finite_width",
    "from_torch",
    "hierarchical",
    "kernel_matmul",
    "kernel_product",
    "least_width",
    "linearize",
    "load",
    "martingale_posterior",
    "matched_laplace",
    "redraw",
    "sample_field",
    "save",
    "to_botorch",
]

_HOMES = {
    "ABRelu": "nets.rectifiers",
    "Abs": "nets.rectifiers",
    "Attention": "nets.attention",
    "AvgPool": "nets.pooling",
    "BetaPrime": "core.mixing_laws",
    "BurrXII": "core.mixing_laws",
    "Calibrated": "estimators.calibrated",
    "CalibratedClassifier": "estimators.calibrated_classifier",
    "ClassReport": "uq.class_report",
    "Concat": "nets.algebra",
    "Controlled": "nets.controlled",
    "Conv": "nets.conv",
    "ConvLocal": "nets.conv",
    "ConvTranspose": "nets.conv",
    "Cos": "nets.smooth",
    "Data": "core.contracts",
    "DeepRandomFeatures": "kernels.random_features",
    "Dense": "nets.dense",
    "DirichletClassifier": "models.dirichlet",
    "Dropout": "nets.dense",
    "Elementwise": "nets.quadrature",
    "Elu": "nets.quadrature",
    "EmpiricalKernel": "kernels.empirical",
    "Erf": "nets.smooth",
    "Exp": "nets.smooth",
    "ExpNormalized": "nets.smooth",
    "FieldClassifier": "estimators.classifier",
    "FieldRegressor": "estimators.regressor",
    "FieldSampler": "bo.optuna",
    "Flatten": "nets.pooling",
    "Gabor": "nets.smooth",
    "Gamma": "core.mixing_laws",
    "Gaussian": "nets.smooth",
    "Gelu": "nets.smooth",
    "GeneralMatern": "kernels.matern",
    "GlobalAvgPool": "nets.pooling",
    "GlobalSumPool": "nets.pooling",
    "GradientFlow": "models.flow",
    "GraphAggregate": "nets.graph",
    "Grid": "core.mixing_density",
    "GridKernel": "kernels.grid",
    "GridProcess": "models.grid",
    "HalfCauchy": "core.mixing_laws",
    "Hermite": "nets.polynomials",
    "Identity": "nets.algebra",
    "InfinitelyDeep": "nets.singular",
    "InfinitelyDeepClassifier": "models.infinitely_deep",
    "InverseGamma": "core.mixing",
    "LaplaceClassifier": "models.laplace",
    "LayerNorm": "nets.norm",
    "LeakyRelu": "nets.rectifiers",
    "LogDensity": "core.mixing_density",
    "LogNormal": "core.mixing_laws",
    "Matern": "kernels.stationary",
    "Mish": "nets.quadrature",
    "Monomial": "nets.polynomials",
    "MultiOutputRegion": "estimators.regions",
    "NearestNeighbourProcess": "models.vecchia",
    "NetworkKernel": "kernels.network",
    "Optimizer": "bo.loop",
    "Polynomial": "nets.polynomials",
    "Process": "models.process",
    "Product": "nets.algebra",
    "QuantileProcess": "models.quantile",
    "RBF": "kernels.stationary",
    "RandomFeatureProcess": "models.random_features",
    "RationalQuadratic": "kernels.stationary",
    "Rbf": "nets.smooth",
    "RectifiedMonomial": "nets.polynomials",
    "Recurrent": "nets.recurrent",
    "Relu": "nets.rectifiers",
    "Repeat": "nets.algebra",
    "Report": "uq.report",
    "Residual": "nets.algebra",
    "ResidualModule": "nets.convert",
    "Resize": "nets.resize",
    "RobustProcess": "models.student_noise",
    "Scale": "nets.algebra",
    "ScaleMixtureKernel": "models.scale_mixture",
    "Selu": "nets.quadrature",
    "Serial": "nets.algebra",
    "Sigmoid": "nets.quadrature",
    "SigmoidLike": "nets.smooth",
    "Sign": "nets.rectifiers",
    "Silu": "nets.quadrature",
    "Sin": "nets.smooth",
    "Snake": "nets.quadrature",
    "Softplus": "nets.quadrature",
    "Space": "bo.space",
    "SparseProcess": "models.sparse",
    "Spectral": "models.spectral",
    "SpectralMixture": "kernels.spectral",
    "SpectralProduct": "kernels.spectral",
    "Step": "nets.rectifiers",
    "SumPool": "nets.pooling",
    "SupportVectorClassifier": "models.support_vector",
    "Tanh": "nets.quadrature",
    "TensorProcess": "models.tensor",
    "TimeSeriesProcess": "models.time_series",
    "Unit": "core.mixing",
    "VariationalClassifier": "models.variational",
    "VariationalProcess": "models.svgp",
    "Warped": "models.warped",
    "criticality": "nets.criticality",
    "deep_residual": "nets.criticality",
    "edge_of_chaos": "nets.criticality",
    "empirical_nngp": "nets.empirical",
    "empirical_ntk": "nets.empirical",
    "finite_width": "nets.finite_width",
    "from_torch": "nets.convert",
    "hierarchical": "kernels.hierarchical",
    "kernel_matmul": "kernels.products",
    "kernel_product": "kernels.products",
    "least_width": "nets.finite_width",
    "linearize": "nets.taylor",
    "load": "estimators.persistence",
    "martingale_posterior": "estimators.martingale",
    "matched_laplace": "kernels.laplace",
    "redraw": "nets.weights",
    "sample_field": "models.fields",
    "save": "estimators.persistence",
    "to_botorch": "bo.adapter",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'kernelfield' has no attribute {name!r}")
    value = getattr(import_module(f"kernelfield.{_HOMES[name]}"), name)
    globals()[name] = value  # the next use finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
