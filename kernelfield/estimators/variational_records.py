"""The classes of variational processes that a saved model may hold."""

from kernelfield.models.fitted_variational import FittedVariationalProcess
from kernelfield.models.likelihoods import Bernoulli, Gaussian, Poisson, StudentT
from kernelfield.models.natural_gradient import Coefficients
from kernelfield.models.svgp import VariationalProcess

_KINDS = (Bernoulli, Coefficients, FittedVariationalProcess, Gaussian, Poisson, StudentT, VariationalProcess)
VARIATIONAL: dict[str, type] = {kind.__name__: kind for kind in _KINDS}
