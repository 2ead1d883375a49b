"""Models by name, for the command line and for tables; and which to try first on how many rows."""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from kernelfield.core.contracts import Model
from kernelfield.core.mixing import InverseGamma
from kernelfield.core.mixing_laws import BurrXII
from kernelfield.models.dirichlet import DirichletClassifier
from kernelfield.models.entry import ANY, EXACT, GAUSSIAN, SPARSE, STRUCTURED, TAILS, WIDE, Entry
from kernelfield.models.grid import GridProcess
from kernelfield.models.infinitely_deep import InfinitelyDeepClassifier
from kernelfield.models.laplace import LaplaceClassifier
from kernelfield.models.neural.prior_checkpoint import located
from kernelfield.models.neural.prior_fitted import PriorFitted
from kernelfield.models.orthogonal import SphericalProcess
from kernelfield.models.process import Process
from kernelfield.models.quantile import QuantileProcess
from kernelfield.models.random_features import RandomFeatureProcess
from kernelfield.models.sparse import SparseProcess
from kernelfield.models.spectral import Spectral
from kernelfield.models.support_vector import SupportVectorClassifier
from kernelfield.models.svgp import VariationalProcess
from kernelfield.models.tensor import TensorProcess
from kernelfield.models.time_series import TimeSeriesProcess
from kernelfield.models.variational import VariationalClassifier
from kernelfield.models.vecchia import NearestNeighbourProcess
from kernelfield.models.warped import Warped
from kernelfield.models.zoo_networks import NETWORK_CLASSIFIERS, NETWORKS

PRETRAINED = "prior-fitted"  # the model whose name may go on with a file
MOST = 6  # models to try first
PATIENCE = 1000  # rows up to which those that are not quick are among them

_REGRESSORS = (
    Entry("gp", "Gaussian process, Matern-5/2: a safe first choice", Process, GAUSSIAN),
    Entry("gp-matern32", "Gaussian process, Matern-3/2: for rougher functions", lambda: Process("matern32"), GAUSSIAN),
    Entry("gp-rbf", "Gaussian process, RBF: for very smooth functions", lambda: Process("rbf"), GAUSSIAN),
    Entry(
        "gp-rq",
        "Gaussian process, rational quadratic: for several lengthscales at once",
        lambda: Process("rq"),
        GAUSSIAN,
    ),
    Entry(
        "gp-linear",
        "Gaussian process about a linear trend: extrapolates along it",
        lambda: Process(mean="linear"),
        GAUSSIAN,
    ),
    Entry("nngp", "infinitely wide Bayesian network, three ReLU layers", lambda: Process("nngp"), WIDE, quick=False),
    Entry(
        "ntk",
        "infinitely wide network trained by gradient descent, as a prior",
        lambda: Process("ntk"),
        WIDE,
        quick=False,
    ),
    Entry(
        "erf-nngp",
        "infinitely wide Bayesian network, three erf layers: smoother",
        lambda: Process("erf-nngp"),
        WIDE,
        quick=False,
    ),
    Entry(
        "gp-robust",
        "Gaussian process with Student-t noise: outliers hardly count",
        lambda: Process(noise="student_t"),
        TAILS,
        quick=False,
    ),
    Entry(
        "grid",
        "Gaussian process on a grid: exact at a million cells, some of which may be missing",
        GridProcess,
        STRUCTURED,
        rows=(4, ANY),
        inputs=(1, 4),
        table=False,
    ),
    Entry(
        "tensor",
        "functional tensor decomposition: each column an index of its own function",
        TensorProcess,
        STRUCTURED,
        rows=(20, ANY),
        inputs=(2, ANY),
        table=False,
    ),
    Entry(
        "time-series",
        "Gaussian process of one input, in time that grows with the rows alone",
        TimeSeriesProcess,
        STRUCTURED,
        rows=(2, ANY),
        inputs=(1, 1),
    ),
    Entry(
        "student-t",
        "Student-t process: intervals widen when the data surprise the prior",
        lambda: Process(mixing=InverseGamma.student(5.0)),
        TAILS,
    ),
    Entry(
        "burr",
        "scale mixture with a Burr XII law: heavy tails of a learned shape",
        lambda: Process(mixing=BurrXII(2.0, 2.0), learn_mixing=True),
        TAILS,
    ),
    Entry(
        "spectral",
        "spectral mixture: finds the frequencies of the data and extrapolates them",
        Spectral,
        GAUSSIAN,
        rows=(20, EXACT),
        quick=False,
    ),
    Entry(
        "warped",
        "Gaussian process of a transformed target, for skewed or heavy-tailed values",
        Warped,
        TAILS,
        rows=(20, EXACT),
    ),
    Entry(
        "quantile-process",
        "all quantiles by one kernel: for noise of any shape that changes from place to place",
        QuantileProcess,
        TAILS,
        rows=(50, EXACT),
    ),
    Entry(
        "gp-sparse",
        "sparse Gaussian process, inducing points: a safe first choice for many rows",
        SparseProcess,
        SPARSE,
        rows=(1000, ANY),
    ),
    Entry(
        "gp-spherical",
        "sparse process in features of a network, on a sphere: for many rows of many columns",
        SphericalProcess,
        SPARSE,
        rows=(1000, ANY),
        quick=False,
    ),
    Entry(
        "vecchia",
        "each row given its nearest ones: a first choice for many rows of up to twenty inputs",
        NearestNeighbourProcess,
        SPARSE,
        rows=(1000, ANY),
        inputs=(1, 20),
    ),
    Entry(
        "svgp",
        "sparse process by mini-batches, for counts and other likelihoods too: for very many rows",
        VariationalProcess,
        SPARSE,
        rows=(1000, ANY),
        quick=False,
    ),
    Entry(
        "random-features",
        "linear regression on random features of a kernel: quick for many rows",
        RandomFeatureProcess,
        SPARSE,
        rows=(1000, ANY),
    ),
    *NETWORKS,
)
_CLASSIFIERS = (
    Entry(
        "gpc", "Gaussian process classifier, Laplace's approximation: a safe first choice", LaplaceClassifier, GAUSSIAN
    ),
    Entry("gpc-dirichlet", "one regression a class, of log Dirichlet variables: quick", DirichletClassifier, GAUSSIAN),
    Entry(
        "infinitely-deep",
        "infinitely deep network: a vote of all rows, nothing to learn; for few inputs",
        InfinitelyDeepClassifier,
        WIDE,
        rows=(2, ANY),
        inputs=(1, 5),
    ),
    Entry(
        "ntk-svm",
        "support-vector machine of an infinitely wide network, with calibrated probabilities",
        SupportVectorClassifier,
        WIDE,
        rows=(20, EXACT),
    ),
    Entry(
        "gpc-sparse",
        "sparse variational classifier: for many rows",
        VariationalClassifier,
        GAUSSIAN,
        rows=(2, ANY),
        quick=False,
    ),
    *NETWORK_CLASSIFIERS,
)
MODELS: Mapping[str, Entry] = {entry.name: entry for entry in _REGRESSORS}
CLASSIFIERS: Mapping[str, Entry] = {entry.name: entry for entry in _CLASSIFIERS}

# In the order in which they are worth a try; unlike in kind first, as such tell more than the next kernel would.
# Those that suit the rows are taken: exact processes of few rows, sparse ones of many.
_FIRST = (
    "gp",
    "time-series",
    "vecchia",
    "gp-sparse",
    "nngp",
    "warped",
    "random-features",
    "ensemble",
    "last-layer",
    "gp-matern32",
    "student-t",
    "gp-linear",
)
_FIRST_CLASSIFIERS = ("gpc", "ntk-svm", "gpc-dirichlet", "infinitely-deep", "gpc-sparse", "ensemble-classifier")


def model(name: str) -> Model:
    """A model by name, with its default settings; `prior-fitted:FILE` has a checkpoint of one's own.

    Errors: ValueError for an unknown name, with those that are near; FileNotFoundError without the FILE.

    >>> model("gp-rbf").kernel
    'rbf'
    """
    return entry(name, MODELS).make()


def classifier(name: str) -> Model:
    """A classifier by name, with its default settings.

    Errors: ValueError for an unknown name, with those that are near.

    >>> classifier("gpc").kernel is None
    True
    """
    return entry(name, CLASSIFIERS).make()


def entry(name: str, among: Mapping[str, Entry]) -> Entry:
    """What is known of a name.

    Errors: ValueError if it is not among them, with those that are near; FileNotFoundError for
        `prior-fitted:FILE` if there is no such file.
    """
    plain, colon, place = name.partition(":")
    if colon and plain == PRETRAINED and plain in among:
        return replace(among[plain], name=name, make=partial(PriorFitted, str(located(place))))
    if name not in among:
        near = difflib.get_close_matches(name, among) or list(among)
        raise ValueError(f"no model is called {name!r}; did you mean {' or '.join(near)}?")
    return among[name]


def suggested(n: int, d: int, *, classes: bool = False) -> list[str]:
    """The models to try first on n rows of d inputs, the best guess first: two to six names.

    >>> suggested(300, 8)
    ['gp', 'nngp', 'warped', 'ensemble', 'last-layer', 'gp-matern32']
    >>> suggested(100_000, 8)
    ['vecchia', 'gp-sparse', 'random-features', 'ensemble', 'last-layer']
    """
    names, among = (_FIRST_CLASSIFIERS, CLASSIFIERS) if classes else (_FIRST, MODELS)
    able = [name for name in names if among[name].takes(d)]
    suited = [name for name in able if among[name].suits(n, d) and (among[name].quick or n <= PATIENCE)]
    # Where few suit, those that stretch furthest are the least wrong.
    rest = sorted(set(able) - set(suited), key=lambda name: (-among[name].rows[1], able.index(name)))
    return [*suited, *rest[: max(0, 2 - len(suited))]][:MOST]
