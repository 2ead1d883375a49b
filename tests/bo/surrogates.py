"""Small fits of each kind of surrogate, made once a process, for the tests of this folder."""

from functools import cache

import torch
from torch import Tensor

from kernelfield.core.contracts import Data, Surrogate
from kernelfield.core.mixing import InverseGamma
from kernelfield.estimators.scaling import Affine, Scaled
from kernelfield.kernels.spectral import SpectralMixture
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.last_layer import LastLayer
from kernelfield.models.neural.network import multilayer
from kernelfield.models.neural.train import Training
from kernelfield.models.process import Process
from kernelfield.models.sparse import SparseProcess

D = 2
NETWORK = multilayer((16,))
MODELS = {
    "gp": lambda: Process("matern52", noise=0.05, steps=0),
    "nngp": lambda: Process("nngp", noise=0.05, steps=0),
    "ntk": lambda: Process("ntk", noise=0.05, steps=0),
    "spectral": lambda: Process(SpectralMixture(2, dims=D), noise=0.05, steps=0),
    "student": lambda: Process("matern52", noise=0.05, mixing=InverseGamma.student(5.0), steps=0),
    "sparse": lambda: SparseProcess("matern52", inducing=8, restarts=1, steps=10),
    "last layer": lambda: LastLayer(NETWORK, training=Training(steps=150)),
    "ensemble": lambda: Ensemble(NETWORK, members=8, training=Training(steps=150)),
}


def rows(outputs: int = 1, n: int = 14) -> Data:
    """Inputs in [0, 1]^2 and smooth targets, far from standard units."""
    X = torch.rand(n, D, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    Y = torch.stack([torch.sin(5 * X[:, 0]) + X[:, 1], X[:, 0] - torch.cos(4 * X[:, 1])], -1)
    return Data(X, (3 * Y + 10)[:, :outputs])


@cache
def fitted(name: str, outputs: int = 1) -> Surrogate:
    """The surrogate of a name in the user's units, fitted to `rows` as `FieldRegressor` does."""
    data = rows(outputs)
    x_map, y_map = Affine.standardising(data.X), Affine.standardising(data.Y)
    inside = Data(x_map(data.X), y_map(data.Y))
    return Scaled(MODELS[name]().fit(inside, generator=torch.Generator().manual_seed(0)), x_map, y_map)


def points(*shape: int, seed: int = 1) -> Tensor:
    """Inputs (*shape, d) in the unit square."""
    return torch.rand(*shape, D, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
