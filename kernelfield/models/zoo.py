"""Models by name, for the command line and for tables."""

import difflib
from collections.abc import Callable

from kernelfield.core.contracts import Model
from kernelfield.core.mixing import InverseGamma
from kernelfield.core.mixing_laws import BurrXII
from kernelfield.models.dirichlet import DirichletClassifier
from kernelfield.models.grid import GridProcess
from kernelfield.models.infinitely_deep import InfinitelyDeepClassifier
from kernelfield.models.laplace import LaplaceClassifier
from kernelfield.models.process import Process
from kernelfield.models.spectral import Spectral
from kernelfield.models.support_vector import SupportVectorClassifier
from kernelfield.models.tensor import TensorProcess
from kernelfield.models.time_series import TimeSeriesProcess
from kernelfield.models.variational import VariationalClassifier
from kernelfield.models.warped import Warped

MODELS: dict[str, tuple[str, Callable[[], Model]]] = {
    "gp": ("Gaussian process, Matern-5/2: a safe first choice", Process),
    "gp-matern32": ("Gaussian process, Matern-3/2: for rougher functions", lambda: Process("matern32")),
    "gp-rbf": ("Gaussian process, RBF: for very smooth functions", lambda: Process("rbf")),
    "gp-rq": ("Gaussian process, rational quadratic: for several lengthscales at once", lambda: Process("rq")),
    "gp-linear": ("Gaussian process about a linear trend: extrapolates along it", lambda: Process(mean="linear")),
    "nngp": ("infinitely wide Bayesian network, three ReLU layers", lambda: Process("nngp")),
    "ntk": ("infinitely wide network trained by gradient descent, as a prior", lambda: Process("ntk")),
    "erf-nngp": ("infinitely wide Bayesian network, three erf layers: smoother", lambda: Process("erf-nngp")),
    "gp-robust": (
        "Gaussian process with Student-t noise: outliers hardly count",
        lambda: Process(noise="student_t"),
    ),
    "grid": ("Gaussian process on a grid: exact at a million cells, some of which may be missing", GridProcess),
    "tensor": ("functional tensor decomposition: each column an index of its own function", TensorProcess),
    "time-series": ("Gaussian process of one input, in time that grows with the rows alone", TimeSeriesProcess),
    "student-t": (
        "Student-t process: intervals widen when the data surprise the prior",
        lambda: Process(mixing=InverseGamma.student(5.0)),
    ),
    "burr": (
        "scale mixture with a Burr XII law: heavy tails of a learned shape",
        lambda: Process(mixing=BurrXII(2.0, 2.0), learn_mixing=True),
    ),
    "spectral": ("spectral mixture: finds the frequencies of the data and extrapolates them", Spectral),
    "warped": ("Gaussian process of a transformed target, for skewed or heavy-tailed values", Warped),
}
CLASSIFIERS: dict[str, tuple[str, Callable[[], Model]]] = {
    "gpc": ("Gaussian process classifier, Laplace's approximation: a safe first choice", LaplaceClassifier),
    "gpc-dirichlet": (
        "one regression a class, of log Dirichlet variables: quick",
        DirichletClassifier,
    ),
    "infinitely-deep": (
        "infinitely deep network: a vote of all rows, nothing to learn; for few inputs",
        InfinitelyDeepClassifier,
    ),
    "ntk-svm": (
        "support-vector machine of an infinitely wide network, with calibrated probabilities",
        SupportVectorClassifier,
    ),
    "gpc-sparse": ("sparse variational classifier: for many rows", VariationalClassifier),
}


def model(name: str) -> Model:
    """A model by name, with its default settings.

    Errors: ValueError for an unknown name, with those that are near.

    >>> model("gp-rbf").kernel
    'rbf'
    """
    return _named(name, MODELS)


def classifier(name: str) -> Model:
    """A classifier by name, with its default settings.

    Errors: ValueError for an unknown name, with those that are near.

    >>> classifier("gpc").kernel is None
    True
    """
    return _named(name, CLASSIFIERS)


def _named(name: str, known: dict[str, tuple[str, Callable[[], Model]]]) -> Model:
    if name not in known:
        near = difflib.get_close_matches(name, known) or list(known)
        raise ValueError(f"no model is called {name!r}; did you mean {' or '.join(near)}?")
    return known[name][1]()
