"""Models by name, for the command line and for tables."""

import difflib
from collections.abc import Callable

from kernelfield.core.contracts import Model
from kernelfield.core.mixing import InverseGamma
from kernelfield.models.process import Process

MODELS: dict[str, tuple[str, Callable[[], Model]]] = {
    "gp": ("Gaussian process, Matern-5/2: a safe first choice", Process),
    "gp-matern32": ("Gaussian process, Matern-3/2: for rougher functions", lambda: Process("matern32")),
    "gp-rbf": ("Gaussian process, RBF: for very smooth functions", lambda: Process("rbf")),
    "gp-rq": ("Gaussian process, rational quadratic: for several lengthscales at once", lambda: Process("rq")),
    "gp-linear": ("Gaussian process about a linear trend: extrapolates along it", lambda: Process(mean="linear")),
    "nngp": ("infinitely wide Bayesian network, three ReLU layers", lambda: Process("nngp")),
    "ntk": ("infinitely wide network trained by gradient descent, as a prior", lambda: Process("ntk")),
    "erf-nngp": ("infinitely wide Bayesian network, three erf layers: smoother", lambda: Process("erf-nngp")),
    "student-t": (
        "Student-t process: intervals widen when the data surprise the prior",
        lambda: Process(mixing=InverseGamma.student(5.0)),
    ),
}


def model(name: str) -> Model:
    """A model by name, with its default settings.

    Errors: ValueError for an unknown name, with those that are near.

    >>> model("gp-rbf").kernel
    'rbf'
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS) or list(MODELS)
        raise ValueError(f"no model is called {name!r}; did you mean {' or '.join(near)}?")
    return MODELS[name][1]()
