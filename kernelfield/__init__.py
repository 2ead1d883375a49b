"""Arrays go in, a posterior you can trust comes out.

    >>> import kernelfield as kf
    >>> kf.FieldRegressor(kf.Process("rbf")).get_params()["model__kernel"]
    'rbf'

The names below are imported when they are first used, so that `import kernelfield` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from kernelfield.core.version import __version__

if TYPE_CHECKING:
    from kernelfield.core.contracts import Data
    from kernelfield.core.mixing import InverseGamma, Unit
    from kernelfield.estimators.persistence import load, save
    from kernelfield.estimators.regressor import FieldRegressor
    from kernelfield.kernels.stationary import RBF, Matern, RationalQuadratic
    from kernelfield.models.process import Process

__all__ = [
    "RBF",
    "Data",
    "FieldRegressor",
    "InverseGamma",
    "Matern",
    "Process",
    "RationalQuadratic",
    "Unit",
    "__version__",
    "load",
    "save",
]

_HOMES = {
    "Data": "core.contracts",
    "FieldRegressor": "estimators.regressor",
    "InverseGamma": "core.mixing",
    "Matern": "kernels.stationary",
    "Process": "models.process",
    "RBF": "kernels.stationary",
    "RationalQuadratic": "kernels.stationary",
    "Unit": "core.mixing",
    "load": "estimators.persistence",
    "save": "estimators.persistence",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'kernelfield' has no attribute {name!r}")
    value = getattr(import_module(f"kernelfield.{_HOMES[name]}"), name)
    globals()[name] = value  # the next use finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
