"""Ensembles of infinitely wide networks, trained by gradient flow on the squared loss.

At infinite width a random network is a draw f of the Gaussian process with the NNGP kernel K.
Gradient descent in small steps of the loss sum_ij w_i (f_j(x_i) - y_ij)^2 / 2N, N = m sum_i w_i,
then moves it along a kernel T that stays as it was: the neural tangent kernel ("ntk") where all
layers are trained, K itself ("nngp") where only the last one is. At time t, at the rate eta,

    f_t(x) = f(x) + A_t (Y - f(X)),    A_t = T(x, X) H U g_t(l) U' H,    H = diag(w)^1/2,
    H T(X, X) H + noise = U diag(l) U',    g_t(l) = (1 - exp(-eta t l / N)) / l,

so that over all draws f_t is Gaussian with mean A_t Y and the covariance, at points x and x',

    K(x, x') - A_t K(X, x') - K(x, X) A_t' + A_t K(X, X) A_t'.

At t = 0 it is the prior, at t = infinity kernel regression with T. The noise is a ridge: each
observation has an offset of its own, trained with the network and left out of predictions. With
"ntk" it starts at zero. With "nngp" it starts at a draw of variance noise / w, which adds
A_t noise/w A_t' to the covariance; the ensemble then ends at the Bayesian posterior of K.

Where the weights of the last layer have a random common variance s, the ensemble is a scale
mixture. If that layer alone is trained, the kernel of its training does not depend on s, and f_t
has the mean above and s times the covariance; s is as random after training as before. If all
layers are trained, T and the training of the offsets scale with s too, so that the speed does:
only at t = infinity is the mean of all s the same, and the covariance s times the one above.

Directions of the data with an eigenvalue that is zero up to rounding never move. At t = infinity
this is the pseudo-inverse, which is the exact limit: T(x, X) has no part in such a direction.

Sources: Jacot et al. (2018), "Neural Tangent Kernel", section 5; Lee et al. (2019), "Wide Neural
Networks of Any Depth Evolve as Linear Models Under Gradient Descent", eq. (10)-(11) and (14)-(16);
Matthews et al. (2017), "Sample-then-optimize posterior sampling for Bayesian linear models"; Lee
et al. (2022), "Scale Mixtures of Neural Network Gaussian Processes".
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.mixing import Mixing, Unit
from kernelfield.core.numerics import NotPositiveDefinite, require_room
from kernelfield.core.posterior import Elliptical
from kernelfield.kernels.network import NetworkKernel
from kernelfield.linalg.dense import Conditional
from kernelfield.models.covariance import Lazy, matrix, named_values
from kernelfield.models.leave_one_out import gaps, means_without_each
from kernelfield.nets.algebra import Layer
from kernelfield.nets.gram import KINDS, Kind

BUFFERS = 9  # n x n matrices alive at once in a fit: two kernels, their eigenvectors and what finds them
NEGATIVE = 1e-8  # of the largest eigenvalue: below minus this a kernel matrix is not a rounded one


@dataclass(eq=False, repr=False)
class GradientFlow(Model):
    """The ensemble of all infinitely wide networks of an architecture, trained for some time.

    network : an architecture, or a NetworkKernel whose scales were learned, of which the
        architecture and the scales are used.
    kind : "ntk" trains all layers, "nngp" only the last one.
    time : how long the networks are trained; infinity is until convergence.
    rate : the learning rate; only rate * time matters.
    noise : variance of the observation noise and the ridge of the training, in squared units of Y.
    mixing : the law of the common variance of the last layer's weights, beside their scale. It
        multiplies the noise too. With "ntk" it needs training to convergence.

    Units: X and Y as given; `FieldRegressor` standardises both. The loss is a mean over rows and
    outputs, as usual, so that more of them need more time.
    Errors: ValueError for a negative time, a rate that is not positive, a negative noise, an
    unknown kind, a mixing law with "ntk" and a finite time; MemoryError where n x n matrices do not fit.

    >>> from kernelfield.nets.dense import Dense
    >>> from kernelfield.nets.rectifiers import Relu
    >>> data = Data(torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.0], [2.0]]))
    >>> model = GradientFlow(Dense(b=0.5) >> Relu() >> Dense(), noise=0.0)
    >>> fitted = model.fit(data, generator=torch.Generator())
    >>> [round(v, 2) for v in fitted.means(data.X[1:], [0.0, 1.0, 10.0, math.inf]).flatten().tolist()]
    [0.0, 0.93, 2.0, 2.0]
    """

    network: Layer | NetworkKernel
    kind: Kind = "ntk"
    time: float = math.inf
    rate: float = 1.0
    noise: float = 0.01
    mixing: Mixing = field(default_factory=Unit)

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedGradientFlow":
        self._check(data)
        prior = self._kernel("nngp", data.X)
        tangent = self._kernel("ntk", data.X) if self.kind == "ntk" else None
        with torch.no_grad():
            return FittedGradientFlow.of(
                prior, tangent, data, float(self.time), float(self.rate), float(self.noise), self.mixing
            )

    def _kernel(self, kind: Kind, X: Tensor) -> NetworkKernel:
        if isinstance(self.network, NetworkKernel):
            kernel = copy.deepcopy(self.network).to(X)
            kernel.kind = kind
        else:
            kernel = NetworkKernel(self.network, kind).to(X)
            kernel.scales = X.new_tensor(kernel.arch.scales())  # in the precision of the data
        return kernel.requires_grad_(False)

    def _check(self, data: Data) -> None:
        if not isinstance(self.network, Layer | NetworkKernel):
            raise ValueError(
                f"network must be an architecture such as Dense() >> Relu() >> Dense(), or its NetworkKernel, "
                f"got {self.network!r}"
            )
        if self.kind not in KINDS:
            raise ValueError(f"kind must be 'ntk' to train all layers or 'nngp' to train the last, got {self.kind!r}")
        if not (self.rate > 0 and math.isfinite(self.rate)):
            raise ValueError(f"rate must be a positive learning rate, got {self.rate:g}; give a value such as 1.0")
        if not (self.noise >= 0 and math.isfinite(self.noise)):
            raise ValueError(f"noise must be a variance, zero or more, got {self.noise:g}")
        require_duration(self.time)
        _require_one_speed(self.kind == "ntk", self.time, self.mixing)
        n, bytes_each = len(data.X), BUFFERS * data.X.element_size()
        require_room(n, bytes_each, data.X.device, what=f"gradient flow on {n} rows")


@dataclass(frozen=True, eq=False)
class Modes:
    """The eigenvalues (r,), increasing, and eigenvectors (n, r) of a matrix, without those that are zero."""

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, A: Tensor) -> "Modes":
        """The modes of a positive semi-definite A (n, n).

        Errors: NotPositiveDefinite, with the smallest eigenvalue.
        """
        values, vectors = torch.linalg.eigh(A)
        largest = values[-1]
        if values[0] < -NEGATIVE * largest:
            raise NotPositiveDefinite(
                f"the kernel matrix has the eigenvalue {values[0].item():.3g}, its largest one being "
                f"{largest.item():.3g}: it is not a covariance; check the architecture"
            )
        kept = values > len(A) * torch.finfo(A.dtype).eps * largest
        return cls(values[kept], vectors[:, kept])


@dataclass(frozen=True, eq=False)
class FittedGradientFlow(Surrogate):
    """The trained ensemble; see the module docstring.

    modes : of H T(X, X) H + noise, the vectors being H U; prior_modes those of K(X, X) where all
    layers were trained. Both serve every time.
    """

    prior: NetworkKernel
    tangent: NetworkKernel | None  # None: only the last layer is trained, along the prior's own kernel
    data: Data
    time: float
    rate: float
    noise: float
    modes: Modes
    prior_modes: Modes | None
    targets: Tensor  # U' H Y (r, m)
    mixing: Mixing = field(default_factory=Unit)

    @classmethod
    def of(
        cls,
        prior: NetworkKernel,
        tangent: NetworkKernel | None,
        data: Data,
        time: float,
        rate: float,
        noise: float,
        mixing: Mixing,
    ) -> "FittedGradientFlow":
        """The ensemble of networks with these kernels, trained on data."""
        half = data.X.new_ones(len(data.X)) if data.weight is None else data.weight.sqrt()
        system = half[:, None] * matrix(prior if tangent is None else tangent, data.X, data.X) * half
        system.diagonal().add_(noise)
        modes = Modes.of(system)
        modes = replace(modes, vectors=half[:, None] * modes.vectors)
        prior_modes = None if tangent is None else Modes.of(matrix(prior, data.X, data.X))
        return cls(prior, tangent, data, time, rate, noise, modes, prior_modes, modes.vectors.mT @ data.Y, mixing)

    @property
    def outputs(self) -> int:
        return self.data.Y.shape[1]

    def posterior(self, X: Tensor, *, noise: bool = False) -> Elliptical:
        batch, flat = X.shape[:-1], X.reshape(-1, X.shape[-1])
        seen = self._seen(flat)
        loc = seen.mT @ (self._moved()[:, None] * self.targets)

        def terms() -> tuple[Tensor, Tensor]:
            explained, left = self._spread(flat, seen)
            return explained.unflatten(-1, batch).movedim(0, -2), left.unflatten(-1, batch).movedim(0, -2)

        scale = Conditional(Lazy(self.prior, X), terms, self.noise if noise else 0.0, self.outputs)
        return Elliptical(loc.unflatten(0, batch), scale, self.mixing)

    def at(self, time: float) -> "FittedGradientFlow":
        """The same ensemble at another time, at no cost.

        Errors: ValueError for a negative time, or a finite one where a mixing law needs convergence.
        """
        require_duration(time)
        _require_one_speed(self.tangent is not None, time, self.mixing)
        return replace(self, time=float(time))

    def means(self, X: Tensor, times: Sequence[float] | Tensor) -> Tensor:
        """The means (k, *b, n, m) at X (*b, n, d) at each of k times.

        Errors: as for `at`.
        """
        seen = self._seen(X.reshape(-1, X.shape[-1]))
        moved = torch.stack([self.at(float(time))._moved() for time in times])
        return torch.einsum("rq,kr,rm->kqm", seen, moved, self.targets).unflatten(1, X.shape[:-1])

    def condition(self, data: Data) -> "FittedGradientFlow":
        joined = self.data.joined(data)
        with torch.no_grad():
            return self.of(self.prior, self.tangent, joined, self.time, self.rate, self.noise, self.mixing)

    def leave_one_out(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (n, m) of each y given all other rows, of ensembles trained to convergence.

        With M = (T + noise / w)^-1 the ensemble without row i predicts y_i with the error f(x_i) - sum_j A_j f(x_j)
        = r'f, r = M_i / M_ii, so that the covariance K of the prior gives (M K M)_ii / M_ii^2; where the last layer
        alone is trained the offsets' own noise makes it the Bayesian 1 / M_ii.

        Errors: NotImplementedError at a finite time, whose mean is no linear smoother that a row can be taken from.
        """
        M = self._inverse
        precision, gap = M.diagonal(), self._gaps()
        if self.prior_modes is None:
            variance = 1 / precision
        else:
            noise = self.noise if self.data.weight is None else self.noise / self.data.weight
            variance = ((M @ matrix(self.prior, self.data.X, self.data.X)) * M).sum(-1) / precision.square() + noise
        return self.data.Y - gap, (self.mixing.mean * variance)[:, None].expand_as(gap)

    def without_each(self, X: Tensor) -> Tensor:
        """Means (q, n, m) at X (q, d) of the n ensembles that each lack one row, trained to convergence.

        Errors: as for `leave_one_out`.
        """
        smoother = self._inverse @ matrix(self.prior if self.tangent is None else self.tangent, self.data.X, X)
        return means_without_each(smoother.mT @ self.data.Y, smoother, self._gaps())

    def _gaps(self) -> Tensor:
        return gaps(self._inverse @ self.data.Y, self._inverse.diagonal())

    @cached_property
    def _inverse(self) -> Tensor:
        """(T + noise / w)^-1 (n, n)."""
        if math.isfinite(self.time):
            raise NotImplementedError(
                f"an ensemble trained for the time {self.time:g} is no linear smoother that a row can be taken from; "
                "use at(math.inf), or refit without each row"
            )
        n, r = self.modes.vectors.shape
        if r < n:
            raise NotImplementedError(
                f"the system of {n} rows has {n - r} directions without a kernel or noise, so that rows cannot be "
                "left out in closed form; raise noise above 0"
            )
        return (self.modes.vectors / self.modes.values) @ self.modes.vectors.mT

    def largest_rate(self, momentum: float = 0.0) -> float:
        """The learning rate beyond which gradient descent with whole steps of time diverges."""
        return 2 * (1 + momentum) * self._count / self.modes.values[-1].item()

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {**named_values(self.prior), "time": self.time, "rate": self.rate, "noise": self.noise}

    @property
    def _count(self) -> float:
        """N, the number of observed numbers, copies included."""
        weight = self.data.weight
        return self.outputs * (len(self.data.X) if weight is None else weight.sum().item())

    def _moved(self, times: float = 1.0) -> Tensor:
        """g_t(l), how far each mode has come at so many times t (r,)."""
        values = self.modes.values
        return -torch.expm1(-self.rate * times * self.time / self._count * values) / values

    def _seen(self, X: Tensor) -> Tensor:
        """U' H T(X, x) (r, q): the part that each mode has in the points."""
        kernel = self.prior if self.tangent is None else self.tangent
        return self.modes.vectors.mT @ matrix(kernel, self.data.X, X)

    def _spread(self, X: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """E and F, for which the covariance of f_t is K(x, x') - E'E + F'F.

        With R'R = K(X, X): E = R^-T K(X, x) and F = E - R A_t', a sum of two covariances, of
        which neither can turn negative by rounding. Where the last layer alone is trained it
        collapses to E'E = K(x, X) H U g_2t(l) U' H K(X, x').
        """
        if self.prior_modes is None:
            return self._moved(2.0).sqrt()[:, None] * seen, seen[:0]
        root, V = self.prior_modes.values.sqrt()[:, None], self.prior_modes.vectors
        explained = V.mT @ matrix(self.prior, self.data.X, X) / root
        answer = self.modes.vectors @ (self._moved()[:, None] * seen)
        return explained, explained - root * (V.mT @ answer)


def require_duration(time: float) -> None:
    if not time >= 0:
        raise ValueError(f"time must be zero or more, or infinity for training to convergence, got {time:g}")


def _require_one_speed(all_layers: bool, time: float, mixing: Mixing) -> None:
    if all_layers and math.isfinite(time) and not isinstance(mixing, Unit):
        raise ValueError(
            f"under {mixing} networks of which all layers are trained learn at different speeds and agree at "
            f"infinite time alone, got {time:g}; leave time out, or train the last layer by kind='nngp'"
        )
