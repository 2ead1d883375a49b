"""Exact processes on grids: product kernels by Kronecker algebra, at any number of cells that fits in memory.

The law is that of `models.process` with a `GridKernel`; what differs is that no n x n matrix occurs. Cells may
be missing, rows repeated or weighted, an axis may have several columns, and predictions are for
points anywhere. Evidence and gradient are in `models.grid_evidence`, predictions in `models.grid_posterior`.

Sources: Saatci (2011), "Scalable Inference for Structured Gaussian Process Models"; for
several outputs Bonilla, Chai & Williams (2008), "Multi-task Gaussian Process Prediction".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from kernelfield.core.contracts import Data, Model, Surrogate
from kernelfield.core.mixing import Mixing, Unit
from kernelfield.core.numerics import threads_for
from kernelfield.core.pathwise import Pathwise
from kernelfield.core.posterior import Elliptical
from kernelfield.kernels.grid import DIFFERENT, GridKernel, checked_columns
from kernelfield.kernels.named import named
from kernelfield.kernels.spectral import SpectralProduct
from kernelfield.models.axes import ANYWHERE, LEAST_SHARE, TOLERANCE, Axes, Cells, gather, place, recognise, tabulate
from kernelfield.models.covariance import matrix, named_values
from kernelfield.models.evidence import Trend
from kernelfield.models.fit import Search, minimise
from kernelfield.models.grid_evidence import (
    FITTED,
    GridEvidence,
    Layout,
    Regression,
    Report,
    System,
    log_evidence,
    report,
    solve,
    solver,
)
from kernelfield.models.grid_posterior import JOINT, Conditioned, Query, paths
from kernelfield.models.search import SHARES, SHIFTS, check_settings

RACE = 2**13  # cells on which the starts race where there are more; the winner goes on with all
RACE_AXIS = 256  # points of an axis there
SHRINKAGE = 0.1  # of the outputs' correlations at the start: a sample's matrix may be singular
THREADED = 64  # cells for one row of a matrix that is worth a second thread


@dataclass(eq=False, repr=False)
class GridProcess(Model):
    """An exact process on a grid, which it finds in the table of points.

    kernels : one kernel an axis, in a list, each a GPyTorch kernel of the columns of its axis, which is copied, or one
        of "matern12", "matern32", "matern52", "rbf", "rq"; one of these names for all axes; a GridKernel; or a
        SpectralProduct. None is "matern52". Scales of the kernels are one output scale of their product.
    axes : the columns of each axis where one has several, such as [(0, 1), 2] for places and times; None is one
        axis a column.
    mean, noise, mixing, restarts, steps, learn_noise : those of `Process`. The starts race on a part of the
        grid where it is large.
    coregionalised : whether several outputs are one more axis with a covariance that is learned (full rank,
        a trend for each output); steps=0 keeps their shrunken sample correlations. Otherwise they are independent.
    tolerance : values of a column that differ by less, as a share of its span, are one value.

    Units: X and Y as given; `FieldRegressor` standardises both.
    Errors: ValueError for a table that is no grid, a radial kernel of several axes, an axis of one
    point, and those of `Process`; MemoryError where the cells do not fit.

    >>> x = torch.linspace(0, 1, 12, dtype=torch.double)
    >>> X = torch.cartesian_prod(x, x)
    >>> fitted = GridProcess().fit(Data(X, torch.sin(6 * X).prod(1, keepdim=True)), generator=torch.Generator())
    >>> round(fitted.posterior(torch.tensor([[0.3, 0.5]]).double()).mean.item(), 3)  # sin(1.8) sin(3)
    0.137
    """

    kernels: Sequence[Kernel | str | None] | Kernel | str | None = None
    axes: Sequence[int | Sequence[int]] | None = None
    mean: Literal["constant", "zero", "linear"] = "constant"
    noise: float = 0.1
    mixing: Mixing = field(default_factory=Unit)
    restarts: int = 4
    steps: int = 200
    learn_noise: bool = True
    coregionalised: bool = False
    tolerance: float = TOLERANCE

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedGrid":
        check_settings(self)
        self._check_kernels()
        return self._fit(gather(data, self.axes, self.tolerance), generator)

    def fit_values(self, axes: Sequence[Tensor], values: Tensor, *, generator: torch.Generator) -> "FittedGrid":
        """Fit to values (*shape) or (*shape, m) on axes of points (m_i,) or (m_i, c_i), NaN where missing.

        The columns of X are then those of the axes in turn.

        >>> x = torch.linspace(0, 1, 9, dtype=torch.double)
        >>> values = x[:, None] + x
        >>> values[4, 4] = torch.nan
        >>> fitted = GridProcess(steps=20).fit_values([x, x], values, generator=torch.Generator().manual_seed(0))
        >>> round(fitted.posterior(x[4].expand(1, 2)).mean.item(), 2)
        1.0
        """
        check_settings(self)
        self._check_kernels()
        cells = tabulate(axes, values)
        if self.axes is not None and checked_columns(self.axes) != cells.axes.columns:
            raise ValueError(
                f"axes={list(self.axes)} are not the columns {list(cells.axes.columns)} of the axes that were given; "
                "leave axes= out, the points of an axis say how many columns it has"
            )
        return self._fit(cells, generator)

    def _check_kernels(self) -> None:
        kernels = self.kernels
        if isinstance(kernels, Kernel) and not isinstance(kernels, GridKernel | SpectralProduct):
            raise ValueError(
                f"kernels must be one kernel an axis, in a list, got one {type(kernels).__name__}: {DIFFERENT}; write "
                "kernels=[Matern(), Matern()], which is another covariance, or use Process with this kernel"
            )

    def _fit(self, cells: Cells, generator: torch.Generator) -> "FittedGrid":
        trend = Trend.of(self.mean, cells.points)
        layout = Layout.of(cells, trend, coregionalised=self.coregionalised)
        size = layout.Y[layout.observed].var(0, correction=0).mean().clamp_min(1e-12)
        kernel = self._kernel(cells.axes, size)
        coregion = _correlations(cells) if self.coregionalised else None
        noise, searches = float(self.noise), list[Search]()
        if self.steps:
            noise, coregion, searches = self._learn(kernel, layout, trend, coregion, generator)
        kernel.requires_grad_(False)
        with torch.no_grad():
            return FittedGrid.of(kernel, coregion, noise, self.mixing, layout, trend, tuple(searches), self.tolerance)

    def _kernel(self, axes: Axes, size: Tensor) -> GridKernel:
        """A copy of the user's kernel, or the one of the names scaled to the data."""
        like = axes.points[0]
        match self.kernels:
            case SpectralProduct():
                whole = GridKernel.of(self.kernels).to(like)
            case GridKernel():
                whole = GridKernel(list(self.kernels.axes), columns=self.kernels.columns).to(like)
                whole.load_state_dict(self.kernels.state_dict())
            case None | str():
                return self._product([self.kernels] * len(axes.shape), axes, size)
            case _:
                return self._product(list(self.kernels), axes, size)
        if whole.columns != axes.columns:
            raise ValueError(
                f"the kernel has the axes {list(whole.columns)} and the grid {list(axes.columns)}; make them the "
                "same by columns= of the kernel or axes= of the model"
            )
        return whole

    def _product(self, kernels: list[Kernel | str | None], axes: Axes, size: Tensor) -> GridKernel:
        if len(kernels) != len(axes.shape):
            raise ValueError(
                f"got {len(kernels)} kernels for a grid of {len(axes.shape)} axes; give one kernel an axis"
            )
        inputs, made = sum(len(own) for own in axes.columns), []
        for kernel, points in zip(kernels, axes.points, strict=True):
            if isinstance(kernel, Kernel):
                made.append(kernel)
                continue
            spread = points.std(0, correction=0)
            spread = torch.where(spread > 0, spread, torch.ones_like(spread))
            made.append(named(kernel or "matern52", spread, torch.ones_like(size), inputs))
        whole = GridKernel(made, columns=axes.columns).to(axes.points[0])
        if not any(isinstance(kernel, Kernel) for kernel in kernels):
            whole.outputscale = size
        return whole

    def _learn(
        self, kernel: GridKernel, layout: Layout, trend: Trend, coregion: Tensor | None, generator: torch.Generator
    ) -> tuple[float, Tensor | None, list[Search]]:
        """Set the kernel's parameters to the best found; returns the noise, B and the record."""

        def objective(part: Layout) -> GridEvidence:
            return GridEvidence(kernel, part, self.mixing, self.noise, coregion, learn=self.learn_noise)

        whole = objective(layout)
        bounds = whole.bounds()
        if all(low == high for low, high in bounds):  # every hyperparameter is held
            return float(self.noise), coregion, []
        few = _thinned(layout.cells, generator)
        first, label = whole, f"fit to {layout.cells.axes.cells} cells"
        if few is not None:
            part = Layout.of(few, Trend.of(trend.kind, few.points), coregionalised=layout.coregionalised)
            first, label = objective(part), f"fit to {few.axes.cells} of the cells"
        starts = [whole.given()]
        for i in range(self.restarts - 1):
            starts.append(first.scattered(SHIFTS[i % 3] * (1 + i // 3), SHARES[i % 3], generator))
        with threads_for(len(first.layout.Y) // THREADED):
            theta, searches = minimise(first, starts, bounds, self.steps, label=label)
        if few is not None:
            with threads_for(len(layout.Y) // THREADED):
                label = f"fit to all {layout.cells.axes.cells} cells"
                theta, last = minimise(whole, [theta], bounds, self.steps, label=label)
            searches += last
        noise, outputs = whole.assign(theta)
        return noise, outputs, searches


def _correlations(cells: Cells) -> Tensor:
    """The shrunken sample correlations (m, m) of outputs where both were observed."""
    seen = cells.observed.to(cells.values)
    centre = (cells.values * seen).sum(0) / seen.sum(0).clamp_min(1)
    gap = (cells.values - centre) * seen
    covariance = (gap.mT @ gap) / (seen.mT @ seen).clamp_min(1)
    size = covariance.diagonal().clamp_min(torch.finfo(gap.dtype).tiny).sqrt()
    correlation = (covariance / torch.outer(size, size)).clamp(-1, 1)
    eye = torch.eye(len(size)).to(gap)
    # Correlations of different pairs of rows need not fit together.
    values, vectors = torch.linalg.eigh((1 - SHRINKAGE) * correlation + SHRINKAGE * eye)
    return (vectors * values.clamp_min(SHRINKAGE)) @ vectors.mT


def _thinned(cells: Cells, generator: torch.Generator) -> Cells | None:
    """The cells of random points of each axis, about RACE of them, or None where there are not many more."""
    sizes = [min(size, RACE_AXIS) for size in cells.axes.shape]
    while torch.tensor(sizes).prod() > RACE:
        longest = max(range(len(sizes)), key=sizes.__getitem__)
        sizes[longest] = max(2, int(0.9 * sizes[longest]))
    if 2 * torch.tensor(sizes).prod() > cells.axes.cells:
        return None
    device = cells.values.device
    chosen = [
        torch.randperm(size, generator=generator)[:kept].sort().values.to(device)
        for size, kept in zip(cells.axes.shape, sizes, strict=True)
    ]
    grid = torch.meshgrid(*chosen, indexing="ij")
    rows = cells.axes.ravel([g.flatten() for g in grid])
    axes = Axes(tuple(p[c] for p, c in zip(cells.axes.points, chosen, strict=True)), cells.axes.columns)
    observed = cells.observed[rows]
    if int(observed.any(-1).sum()) < RACE_AXIS:
        return None
    weight = None if cells.weight is None else cells.weight[rows]
    return Cells(axes, cells.values[rows], observed, weight, int(observed.any(-1).sum()))


@dataclass(frozen=True, eq=False)
class FittedGrid(Surrogate):
    """A process conditioned on the cells of a grid.

    log_evidence in nats; noise a variance in squared units of Y; coregion (m, m), what the output scale times it
    is the covariance of outputs, None where they are independent; searches the record of the searches.
    """

    kernel: GridKernel
    coregion: Tensor | None
    noise: float
    mixing: Mixing
    layout: Layout
    trend: Trend
    solver: System
    mean: Regression
    log_evidence: float
    searches: tuple[Search, ...] = ()
    tolerance: float = TOLERANCE

    @classmethod
    def of(
        cls,
        kernel: GridKernel,
        coregion: Tensor | None,
        noise: float,
        mixing: Mixing,
        layout: Layout,
        trend: Trend,
        searches: tuple[Search, ...] = (),
        tolerance: float = TOLERANCE,
    ) -> "FittedGrid":
        """The conditioned process."""
        factors = [matrix(k, p, p) for k, p in zip(kernel.axes, layout.cells.axes.points, strict=True)]
        factors += [] if coregion is None else [coregion]
        system = solver(factors, kernel.outputscale.item(), noise, layout, FITTED)
        mean = Regression.of(system, layout)
        evidence = log_evidence(mean.S, system.logdet().item(), noise, layout, mixing)
        return cls(kernel, coregion, noise, mixing, layout, trend, system, mean, evidence, searches, tolerance)

    @property
    def outputs(self) -> int:
        return self.layout.outputs

    @property
    def cells(self) -> Cells:
        """The observations, cell by cell."""
        return self.layout.cells

    @property
    def grid(self) -> Axes:
        """The axes that were found or given."""
        return self.layout.cells.axes

    def posterior(self, X: Tensor, *, noise: bool = False) -> Elliptical | Pathwise:
        flat = X.reshape(-1, X.shape[-1])
        query = Query.of(self.kernel, self.grid.points, flat, self.coregion)
        H = self._trend_at(flat)
        scale = self.kernel.outputscale.item()
        loc = H @ self.mean.coefficients + scale * query.mean(self.mean.alpha)

        def unsure() -> Tensor:
            gap = H.mT - scale * query.mean(self.mean.gain).mT
            return torch.linalg.solve_triangular(self.mean.factor, gap, upper=False)

        independent = self.layout.Y.shape[1]
        added = self.noise if noise else 0.0
        form = Conditioned(self.kernel, X, query, self.solver, unsure, scale, added, self.coregion, independent)
        law = Elliptical(loc.reshape(*X.shape[:-1], self.outputs), form, self.scale_law)
        if X.ndim > 2 or len(X) * self.outputs <= JOINT:
            return law

        def predict(data: Tensor) -> Tensor:
            coefficients = torch.cholesky_solve(self.mean.gain.mT @ data, self.mean.factor)
            alpha = solve(self.solver, data).addmm_(self.mean.gain, coefficients, alpha=-1)
            return H @ coefficients + scale * query.mean(alpha)

        drawn = paths(self.kernel, self.grid, query, self.coregion, self._spread, predict, added, independent)
        return law if drawn is None else Pathwise(law, drawn)

    def _trend_at(self, X: Tensor) -> Tensor:
        H = self.trend(X)
        if self.coregion is None:
            return H
        return torch.einsum("np,ij->nipj", H, torch.eye(self.outputs).to(H)).reshape(len(H) * self.outputs, -1)

    def notes(self) -> list[str]:
        size = " x ".join(str(m) for m in self.grid.shape)
        seen = int(self.cells.present.sum())
        found = f"the rows are a grid of {size} cells, {seen} of {self.grid.cells} with a target"
        how = self.report
        if how.method != "iterative":
            return [f"{found}; solved exactly"]
        errors = f"relative residual {how.residual:.1g}, log-determinant within {how.log_determinant_error:.2g} nats"
        return [f"{found}; solved by {how.iterations} iterations, {errors}"]

    @cached_property
    def report(self) -> Report:
        """How the system was solved, and how exactly."""
        return report(self.solver, self.layout)

    @property
    def _spread(self) -> Tensor:
        """The std (n, 1) of the noise of each cell, zero where nothing was observed."""
        variance = self.noise * self.layout.observed.to(self.layout.Y)
        return (variance if self.layout.weight is None else variance / self.layout.weight).sqrt()[:, None]

    @cached_property
    def scale_law(self) -> Mixing:
        """The law of s given the data, by which all predictions are mixed."""
        spent = self.mean.gain.shape[1] * self.layout.Y.shape[1]  # a coefficient with its flat prior costs one
        return self.mixing.condition(self.mean.S + self.cells.scatter / self.noise, self.layout.count - spent)

    def condition(self, data: Data) -> "FittedGrid":
        """The surrogate that has also seen `data`, without refitting its hyperparameters.

        Points on the grid fill missing cells or join those that are there; others extend the axes, as long
        as the table is a grid still.

        Errors: ValueError where it is not; NotImplementedError where outputs are missing from cells that have others.
        """
        old = self.cells
        if not bool((old.observed == old.present[:, None]).all()):
            raise NotImplementedError(
                "some outputs are missing from cells that have others, and a table of new rows has no place for "
                "that; fit all values anew by fit_values"
            )
        joined = old.data().joined(data)
        axes, cells = recognise(joined.X, old.axes.columns, self.tolerance)
        if LEAST_SHARE * axes.cells > len(joined.X):
            raise ValueError(
                f"the new points make a grid of {axes.cells} cells, of which {len(joined.X)} have data; refit "
                f"them with {ANYWHERE}"
            )
        new = place(axes, cells, joined)
        new = replace(
            new,
            rows=old.rows + len(data.X),
            scatter=old.scatter + new.scatter,
            log_weights=old.log_weights + new.log_weights,
        )
        with torch.no_grad():
            trend = Trend.of(self.trend.kind, new.points)
            layout = Layout.of(new, trend, coregionalised=self.layout.coregionalised)
            return FittedGrid.of(
                self.kernel, self.coregion, self.noise, self.mixing, layout, trend, self.searches, self.tolerance
            )

    def hyperparameters(self) -> dict[str, float | list[float]]:
        held = {f"axes.{i}.outputscale" for i in range(len(self.kernel.axes))}  # one, outside of the product
        values = {name: value for name, value in named_values(self.kernel).items() if name not in held}
        shapes = {f"mixing.{name}": value for name, value in self.mixing.shapes.items()}
        outputs = {} if self.coregion is None else {"outputs": self.coregion.flatten().tolist()}
        return {**values, **outputs, "noise": self.noise, **shapes}
