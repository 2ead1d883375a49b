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

At the rows of the fit the share t_j of targets lies below the quantile of level t_j, whatever the ridge,
for the functions come near to those very targets; elsewhere too few do. So in the end each offset is
moved by the quantile of its level among y - f_j - b_j at rows left out, as the ends of an interval are in
conformalised quantile regression; the residuals come from fits that lack a part of the rows, as in CV+.
With n of them the r-th smallest has the level r / (n + 1).

Sources: Takeuchi, Le, Sears & Smola (2006), "Nonparametric Quantile Estimation"; Sangnier, Fercoq &
d'Alche-Buc (2016), "Joint quantile regression in vector-valued RKHSs"; Romano, Patterson & Candes (2019),
"Conformalized Quantile Regression"; Barber, Candes, Ramdas & Tibshirani (2021), "Predictive Inference with
the Jackknife+".
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
from kernelfield.core.quantiles import Quantiles, correction, crossed, rearranged, reordered, require_noise
from kernelfield.models.covariance import matrix, named_values
from kernelfield.models.pinball import Fitted, Spectrum, pinball, solve
from kernelfield.models.process import Process
from kernelfield.models.search import SUBSET, kernel_for, sample

LEVELS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99)
RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)  # the last for targets all but noiseless
SIMILARITIES = (10.0, 1.0, 0.1, 100.0)  # the first is that of the race of kernels and ridges
ROUGH = 1e-2  # the tolerance of a solution whose losses are compared
WORSE = 1  # ridges in a row that may do worse than a larger one, before smaller ones, which take longer, are left
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
    parts : of all rows, which are left out in turn, until 512 rows have been, to move the offsets; None
        leaves them where they are best at the rows of the fit.
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
    parts: int | None = 10
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
            found = self._solved(Spectrum.of(K), Spectrum.of(B), levels, *_targets(inside), ridge)
            moved = self._moved(K, B, levels, *_targets(inside), ridge, generator)
        if found.error > max(LOOSE, self.tolerance):
            warnings.warn(
                f"the quantiles are {found.error:.2g} from optimal after {found.sweeps} sweeps; raise sweeps or ridge",
                NotConverged,
                stacklevel=2,
            )
        part, offsets = found.coefficients @ B / (ridge * size), found.offsets + moved
        fitted = FittedQuantileProcess(
            kernel,
            data.X,
            part * spread[:, None, None],
            offsets * spread[:, None],
            levels,
            spread,
            ridge,
            similarity,
            found.error,
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
        if self.parts is not None and not 2 <= self.parts <= n:
            raise ValueError(f"parts must be from 2 to the number of rows, {n}, got {self.parts}; None moves no offset")
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
        """The pinball loss of rows left out for each ridge, then for each similarity; infinite if not tried."""
        K, _ = _gram(kernel, data.X)
        Y, weight = _targets(data)
        folds = []
        for fold in range(self.folds):
            kept, left = (part != fold).nonzero()[:, 0], (part == fold).nonzero()[:, 0]
            folds.append((kept, left, Spectrum.of(K[kept[:, None], kept])))
        losses = torch.full((len(similarities), len(ridges)), math.inf)
        for i, similarity in enumerate(similarities):
            B = closeness(levels, similarity)
            among = Spectrum.of(B)
            found: list[Fitted | None] = [None] * self.folds
            for j, ridge in enumerate(ridges):
                loss = 0.0
                for fold, (kept, left, inputs) in enumerate(folds):
                    one = self._solved(inputs, among, levels, Y[kept], weight[kept], ridge, ROUGH, found[fold])
                    gap = Y[left].mT.unsqueeze(-1) - rearranged(_values(one, K[left[:, None], kept] / ridge, B))
                    loss += float((weight[left, None] * pinball(gap, levels)).sum())
                    found[fold] = one
                losses[i, j] = loss
                if losses[i, : j + 1].argmin() < j - WORSE:
                    break
        return losses.flatten()

    def _moved(
        self, K: Tensor, B: Tensor, levels: Tensor, Y: Tensor, weight: Tensor, ridge: float, generator: torch.Generator
    ) -> Tensor:
        """How far offsets (m, k) have to move for the shares of rows left out that lie below."""
        if self.parts is None:
            return levels.new_zeros(Y.shape[1], len(levels))
        among, residuals, rows = Spectrum.of(B), [], []
        for left in torch.randperm(len(Y), generator=generator).to(Y.device).tensor_split(self.parts):
            kept = torch.ones_like(weight, dtype=torch.bool).index_fill(0, left, False).nonzero()[:, 0]
            found = self._solved(Spectrum.of(K[kept[:, None], kept]), among, levels, Y[kept], weight[kept], ridge)
            residuals.append(Y[left].mT.unsqueeze(-1) - _values(found, K[left[:, None], kept] / ridge, B))
            rows.append(left)
            if sum(map(len, rows)) >= SUBSET:
                break
        return correction(torch.cat(residuals, 1), levels, weight[torch.cat(rows)])

    def _solved(
        self,
        inputs: Spectrum,
        among: Spectrum,
        levels: Tensor,
        Y: Tensor,
        weight: Tensor,
        ridge: float,
        tolerance: float = 0.0,
        start: Fitted | None = None,
    ) -> Fitted:
        least = max(tolerance, self.tolerance)
        return solve(inputs, among, levels, Y, weight, ridge, tolerance=least, sweeps=self.sweeps, start=start)


def _values(found: Fitted, cross: Tensor, B: Tensor) -> Tensor:
    """Quantiles (m, q, k) at rows whose kernel with those of the fit, by the ridge, is cross (q, n)."""
    return cross @ found.coefficients @ B + found.offsets[:, None]


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
        values = named_values(self.kernel)
        values.pop("outputscale", None)  # the size of the kernel, on which nothing depends
        return {**values, "ridge": self.ridge, "similarity": self.similarity}

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
