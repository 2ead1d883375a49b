"""Quantile processes: all quantiles of y given x at once, by pinball losses and a kernel.

At levels t_1 < ... < t_k the quantiles are functions in the space of the operator-valued kernel

    K(x, x') B,    B_jl = exp(-similarity (t_j - t_l)^2),

each with an offset of its own, that minimise pinball losses plus ridge / 2 times their squared norm
(`kernelfield.models.pinball`). Functions of near levels are then alike: with a similarity of zero they
differ by their offsets alone, as with noise of one law everywhere, and cannot cross; with a large one
they are learned apart. Nothing is assumed about the law of y. Those that cross are put in order.

What is not held is chosen by the pinball loss on rows left out, fold by fold: first the kernel and the
ridge, then the similarity. The kernels in the race are those with lengthscales as wide as the data,
and with the ones that a Gaussian process of the same data learns, which sees the mean alone. The
ridge stands beside a sum over rows, not a mean, and what is best on some rows is so on more.

Sources: Takeuchi, Le, Sears & Smola (2006), "Nonparametric Quantile Estimation"; Sangnier, Fercoq &
d'Alche-Buc (2016), "Joint quantile regression in vector-valued RKHSs".
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.numerics import NotConverged, require_room, threads_for
from kernelfield.core.quantiles import Quantiles, crossed, rearranged, reordered, require_noise
from kernelfield.models.covariance import matrix, named_values
from kernelfield.models.pinball import Fitted, Spectrum, pinball, solve
from kernelfield.models.process import Process
from kernelfield.models.search import SUBSET, kernel_for, sample

LEVELS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99)
RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
SIMILARITIES = (10.0, 1.0, 0.1, 100.0)  # the first is that of the race of kernels and ridges
ROUGH = 1e-2  # the tolerance of a solution whose losses are compared
LOOSE = 1e-2  # an error above this is worth a warning
THIN = 1e-4  # of the spread of the targets: the least standard deviation of a law, which thus has a density
BUFFERS = 4  # n x n matrices alive at once: the kernel, its eigenvectors and what finds them


@dataclass(eq=False, repr=False)
class QuantileProcess(Model):
    """Quantiles of y at several levels, functions of x in the space of one kernel.

    kernel : a name such as "matern52" or "rbf", whose lengthscales are chosen among two, or a GPyTorch
        kernel, which is copied and held; None is "matern52". Its overall size does not matter.
    levels : of the quantiles, increasing in (0, 1).
    ridge : the factor of half the squared norm, for targets of unit spread; None chooses it.
    similarity : of levels, see the module docstring; None chooses it.
    folds : parts of at most 512 rows, each of which is left out once for a choice.
    tolerance : of the optimality conditions, in slopes of a row's loss and in spreads of the targets.
    sweeps : of the solver, at most.

    Weights count rows: a row of weight 2 is two rows.
    Errors: ValueError for a value out of its range or an unknown kernel; MemoryError where n x n
        matrices do not fit. Warns NotConverged if the sweeps are used up far from the optimum.

    >>> X = torch.linspace(-1, 1, 100, dtype=torch.float64)[:, None]
    >>> noise = torch.randn(100, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> model = QuantileProcess("rbf", ridge=0.1, similarity=1.0)
    >>> fitted = model.fit(Data(X, (1.5 + X) * noise), generator=torch.Generator().manual_seed(0))
    >>> left, right = fitted.posterior(X[[10, 90]], noise=True).variance.sqrt().flatten().tolist()
    >>> right > 2 * left
    True
    """

    kernel: Kernel | str | None = None
    levels: tuple[float, ...] = LEVELS
    ridge: float | None = None
    similarity: float | None = None
    folds: int = 3
    tolerance: float = 1e-3
    sweeps: int = 2000

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedQuantileProcess":
        levels = self._checked(data)
        spread = data.Y.std(0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)
        weight = None if data.weight is None else data.weight / data.weight.mean()
        inside = Data(data.X, data.Y / spread, weight)
        with torch.no_grad(), threads_for(len(data.X)):
            kernel, ridge, similarity = self._choice(inside, levels, generator)
            K, size = _gram(kernel, data.X)
            B = closeness(levels, similarity)
            found = solve(
                Spectrum.of(K),
                Spectrum.of(B),
                levels,
                *_targets(inside),
                ridge,
                tolerance=self.tolerance,
                sweeps=self.sweeps,
            )
        if found.error > max(LOOSE, self.tolerance):
            warnings.warn(
                f"the quantiles are {found.error:.2g} from optimal after {found.sweeps} sweeps; raise sweeps or ridge",
                NotConverged,
                stacklevel=2,
            )
        part = found.coefficients @ B * spread[:, None, None] / (ridge * size)
        fitted = FittedQuantileProcess(
            kernel, data.X, part, found.offsets * spread[:, None], levels, spread, ridge, similarity, found.error
        )
        return fitted.counted()

    def _checked(self, data: Data) -> Tensor:
        """The levels (k,), once all settings are known to be in range."""
        for name in ("ridge", "similarity"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value}; None chooses it")
        n = len(data.X)
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2, got {self.folds}: each is left out to compare settings")
        if n < 2 * self.folds and None in (self.ridge, self.similarity):
            raise ValueError(
                f"{n} rows are too few to leave out {self.folds} folds; give {2 * self.folds} rows, or ridge and "
                "similarity"
            )
        if not self.tolerance > 0 or self.sweeps < 1:
            raise ValueError(
                f"tolerance must be positive and sweeps at least 1, got {self.tolerance} and {self.sweeps}"
            )
        levels = data.X.new_tensor(self.levels)
        Quantiles(levels, levels)  # which refuses levels that are no levels
        require_room(n, 8 * BUFFERS, data.X.device, what=f"a quantile process of {n} rows")
        return levels

    def _choice(self, data: Data, levels: Tensor, generator: torch.Generator) -> tuple[Kernel, float, float]:
        """The kernel, the ridge and the similarity: those held, and the best of the others."""
        one = data.X.new_tensor(1.0)
        few = sample(data, SUBSET, generator)
        if isinstance(self.kernel, Kernel):
            kernels = [kernel_for(self.kernel, data.X, one)]
        else:
            with torch.enable_grad():
                learned = Process(self.kernel).fit(few, generator=generator).kernel
            kernels = [kernel_for(self.kernel, data.X, one), learned]
        kernels = [kernel.requires_grad_(False) for kernel in kernels]
        ridges = RIDGES if self.ridge is None else (self.ridge,)
        similarities = SIMILARITIES if self.similarity is None else (self.similarity,)
        if len(kernels) == len(ridges) == len(similarities) == 1:
            return kernels[0], ridges[0], similarities[0]
        part = torch.randperm(len(few.X), generator=generator).to(data.X.device) % self.folds
        races = [self._losses(few, part, k, levels, ridges, similarities[:1]) for k in kernels]
        kernel = kernels[min(range(len(kernels)), key=lambda i: races[i].min())]
        ridge = ridges[int(races[kernels.index(kernel)].argmin())]
        losses = self._losses(few, part, kernel, levels, (ridge,), similarities)
        return kernel, ridge, similarities[int(losses.argmin())]

    def _losses(
        self,
        data: Data,
        part: Tensor,
        kernel: Kernel,
        levels: Tensor,
        ridges: Sequence[float],
        similarities: Sequence[float],
    ) -> Tensor:
        """The pinball loss of rows left out for each ridge, then for each similarity."""
        K, _ = _gram(kernel, data.X)
        Y, weight = _targets(data)
        losses = torch.zeros(len(similarities), len(ridges))
        for fold in range(self.folds):
            kept, left = (part != fold).nonzero()[:, 0], (part == fold).nonzero()[:, 0]
            inputs = Spectrum.of(K[kept[:, None], kept])
            for i, similarity in enumerate(similarities):
                B = closeness(levels, similarity)
                among, found = Spectrum.of(B), None
                for j, ridge in enumerate(ridges):
                    found = solve(
                        inputs,
                        among,
                        levels,
                        Y[kept],
                        weight[kept],
                        ridge,
                        tolerance=max(ROUGH, self.tolerance),
                        sweeps=self.sweeps,
                        start=found,
                    )
                    losses[i, j] += _loss(found, K[left[:, None], kept] / ridge, B, levels, Y[left], weight[left])
        return losses.flatten()


def _loss(found: Fitted, cross: Tensor, B: Tensor, levels: Tensor, Y: Tensor, weight: Tensor) -> float:
    """The sum of the losses of rows with Y (q, m) and the kernel (q, n) with the rows of the fit."""
    values = rearranged(cross @ found.coefficients @ B + found.offsets[:, None])
    return float((weight[:, None] * pinball(Y.mT.unsqueeze(-1) - values, levels)).sum())


@dataclass(frozen=True, eq=False)
class FittedQuantileProcess(Surrogate):
    """k quantiles of each of m outputs: kernel(x, X) @ coefficients (m, n, k) + offsets (m, k).

    spread (m,) of the targets; error of the optimality conditions; crossed: the share of neighbouring
    quantiles at the rows of the fit that were in the wrong order.
    """

    kernel: Kernel
    X: Tensor
    coefficients: Tensor
    offsets: Tensor
    levels: Tensor
    spread: Tensor
    ridge: float
    similarity: float
    error: float
    crossed: float = 0.0

    @property
    def outputs(self) -> int:
        return len(self.offsets)

    def posterior(self, X: Tensor, *, noise: bool = False) -> Quantiles:
        require_noise(noise)
        thin = THIN * self.spread.to(X)[:, None] * torch.special.ndtri(self.levels.to(X))
        return Quantiles(self.levels.to(X), rearranged(self.quantiles(X)) + thin)

    def quantiles(self, X: Tensor) -> Tensor:
        """The quantiles (*b, n, m, k) at X (*b, n, d) as the functions have them, which may cross."""
        rows = X.flatten(0, -2)
        values = matrix(self.kernel, rows, self.X.to(X)).detach() @ self.coefficients.to(X)
        return (values + self.offsets.to(X)[:, None]).movedim(0, 1).unflatten(0, X.shape[:-1])

    def counted(self) -> "FittedQuantileProcess":
        """The same, with the share of quantiles that cross at its own rows."""
        return replace(self, crossed=crossed(self.quantiles(self.X)))

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {**named_values(self.kernel), "ridge": self.ridge, "similarity": self.similarity}

    def notes(self) -> list[str]:
        return reordered(self.crossed)


def closeness(levels: Tensor, similarity: float) -> Tensor:
    """The kernel (k, k) of levels (k,).

    >>> closeness(torch.tensor([0.4, 0.5]), 10.0)
    tensor([[1.0000, 0.9048],
            [0.9048, 1.0000]])
    """
    return (-similarity * (levels[:, None] - levels).square()).exp()


def _gram(kernel: Kernel, X: Tensor) -> tuple[Tensor, float]:
    """The kernel's matrix (n, n) with a mean diagonal of one, and what it was divided by."""
    K = matrix(kernel, X, X)
    if not K.isfinite().all():
        raise ValueError("the kernel matrix holds NaN or infinite values; check inputs and scales of the kernel")
    size = K.diagonal().mean().item() or 1.0
    return K / size, size


def _targets(data: Data) -> tuple[Tensor, Tensor]:
    return data.Y, data.X.new_ones(len(data.X)) if data.weight is None else data.weight
