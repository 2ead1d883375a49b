"""The evidence of a process on a grid and its gradient, in closed form.

As in `models.evidence`, with A = scale K_1 (x) ... (x) K_a + noise / weight on the observed cells of a grid.
The gradient in K_i is a matrix (m_i, m_i) that the solver pulls back from the n cells, so that an
evaluation costs O(n sum m_i + sum m_i^3). Coregionalised outputs are a last axis with the matrix
B = L L', L a lower triangle with a positive diagonal, whose logarithms are parameters; the trend
then has coefficients of its own for each output.

Rows merged into cells add what `models.axes` says: R / noise to S and (rows - cells) log noise to log |A|.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from gpytorch.priors import Prior
from torch import Tensor

from kernelfield.core.mixing import Mixing
from kernelfield.kernels.grid import GridKernel
from kernelfield.linalg.kronecker import Kronecker
from kernelfield.linalg.latent import Latent
from kernelfield.linalg.uneven import Uneven
from kernelfield.models.axes import Cells
from kernelfield.models.covariance import SCALE_REACH, covariance
from kernelfield.models.evidence import NOISE_REACH, Trend, mean_square, profiled

SEARCHING, FITTED = 1e-8, 1e-10  # residuals of iterative solves, in a search and in its result
COREGION_REACH = (math.log(1e-3), math.log(1e2))  # of the diagonal of L, which the start has of order one


@dataclass(frozen=True, eq=False)
class Layout:
    """Observations as the algebra sees them: one column for each independent output, one axis more if coregionalised.

    Y (n, k) and H (n, p), zero where missing; observed (n,); weight (n,) or None; outputs, the number that
    the user sees.
    """

    cells: Cells
    Y: Tensor
    H: Tensor
    observed: Tensor
    weight: Tensor | None
    outputs: int
    coregionalised: bool

    @classmethod
    def of(cls, cells: Cells, trend: Trend, *, coregionalised: bool) -> "Layout":
        """Arrange cells.

        Errors: ValueError for independent outputs of which some are missing from a cell.
        """
        H = trend(cells.axes.rows()) * cells.present[:, None]
        m = cells.values.shape[1]
        if coregionalised:
            weight = None if cells.weight is None else cells.weight.repeat_interleave(m)
            Y, observed = cells.values.reshape(-1, 1), cells.observed.reshape(-1)
            H = torch.einsum("np,ij->nipj", H, torch.eye(m).to(H)).reshape(len(Y), -1) * observed[:, None]
            return cls(cells, Y, H, observed, weight, m, True)
        if not bool((cells.observed == cells.present[:, None]).all()):
            raise ValueError(
                "some outputs are missing from cells that have others, and outputs are fitted as independent ones with "
                "one solve; use coregionalised=True, which takes any pattern, or fit each output alone"
            )
        return cls(cells, cells.values, H, cells.present, cells.weight, m, False)

    @property
    def whole(self) -> bool:
        return bool(self.observed.all())

    @property
    def count(self) -> int:
        """The numbers that were observed, merged rows each."""
        return int(self.observed.sum()) * self.Y.shape[1] + self.spare

    @property
    def spare(self) -> int:
        """The numbers that merging took away."""
        return (self.cells.rows - int(self.cells.present.sum())) * self.outputs

    @property
    def copies(self) -> int:
        """How often log_weights of the cells counts."""
        return self.outputs


System = Kronecker | Latent | Uneven


def solver(factors: Sequence[Tensor], scale: float, noise: float, layout: Layout, tolerance: float) -> System:
    """The solver of A for what is observed; the one place that chooses it.

    tolerance : of the residuals of iterative solves, relative.
    """
    shape = tuple(len(K) for K in factors)
    if layout.weight is not None:
        spread, observed = (noise / layout.weight).reshape(shape), layout.observed.reshape(shape)
        return Uneven.of(factors, spread, scale, observed, tolerance=tolerance)
    whole = Kronecker.of(factors, noise, scale)
    return whole if layout.whole else Latent.of(whole, layout.observed.reshape(shape), tolerance=tolerance)


def solve(system: System, B: Tensor) -> Tensor:
    """A^-1 B on all cells (n, k), B read where something was observed and the answer zero elsewhere."""
    if isinstance(system, Kronecker):
        return system.solve(B)
    return system.pad(system.solve(system.take(B)))


@dataclass(frozen=True)
class Report:
    """How the system of a fit was solved: by which method, and how far from the answer the iterations stopped.

    residual, relative; iterations; log_determinant_error, a standard error in nats. All zero but for rounding where
    the method is exact.
    """

    method: str
    residual: float
    iterations: int
    log_determinant_error: float


def report(system: System, layout: Layout) -> Report:
    """Solve for the observations once more and say how that went."""
    if isinstance(system, Kronecker):
        B = layout.Y
        error = (B - system.multiply(system.solve(B))).norm() / B.norm().clamp_min(torch.finfo(B.dtype).tiny)
        return Report("kronecker", error.item(), 0, 0.0)
    found = system.solution(system.take(layout.Y))
    return Report(system.method, found.residual.max().item(), found.iterations, system.determinant.error)


@dataclass(frozen=True, eq=False)
class Regression:
    """The generalised least-squares fit of the mean and what is left, by solves alone.

    coefficients b (p, k); alpha A^-1 (Y - H b) (n, k); gain A^-1 H (n, p); factor, the lower one of
    H' A^-1 H (p, p); S, the quadratic form of the residual.
    """

    coefficients: Tensor
    alpha: Tensor
    gain: Tensor
    factor: Tensor
    S: float

    @classmethod
    def of(cls, system: System, layout: Layout) -> "Regression":
        """The regression of the observations."""
        return cls.solved(layout.Y, layout.H, solve(system, torch.cat([layout.Y, layout.H], -1)))

    @classmethod
    def solved(cls, Y: Tensor, H: Tensor, solved: Tensor) -> "Regression":
        """The regression of Y (n, k) on H (n, p), given A^-1 [Y, H]."""
        k = Y.shape[1]
        gain = solved[:, k:]
        gram = H.mT @ gain
        factor = torch.linalg.cholesky((gram + gram.mT) / 2)
        coefficients = torch.cholesky_solve(gain.mT @ Y, factor)
        alpha = torch.addmm(solved[:, :k], gain, coefficients, alpha=-1)
        # H' alpha is zero up to rounding, which a trend far above the residual would let through.
        S = torch.addmm(Y, H, coefficients, alpha=-1).mul_(alpha).sum().item()
        return cls(coefficients, alpha, gain, factor, max(S, 0.0))


def log_evidence(S: float, logdet: float, noise: float, layout: Layout, mixing: Mixing) -> float:
    """The log evidence in nats, merged rows included; see the module docstring."""
    value, _ = mixing.log_expectation(S + layout.cells.scatter / noise, layout.count)
    value -= 0.5 * layout.Y.shape[1] * logdet + 0.5 * layout.spare * math.log(noise)
    return value + 0.5 * layout.copies * layout.cells.log_weights - 0.5 * layout.count * math.log(2 * math.pi)


class GridEvidence:
    """Minus the log posterior of theta, a number observed, and its slope.

    theta : parameters of the kernels of the axes, log output scale (or, coregionalised, L by rows),
        log noise if `learn`.
    """

    def __init__(
        self,
        kernel: GridKernel,
        layout: Layout,
        mixing: Mixing,
        noise: float,
        coregion: Tensor | None,
        *,
        learn: bool,
    ):
        self.kernel, self.layout, self.mixing, self.learn = kernel, layout, mixing, learn
        pairs = zip(kernel.axes, layout.cells.axes.points, strict=True)
        self.parts = [covariance(k, p) for k, p in pairs]
        self.counts = [len(part.start()) for part in self.parts]
        self.YH = torch.cat([layout.Y, layout.H], -1)
        self.size = mean_square(layout.Y[layout.observed], layout.H[layout.observed])
        self.log_noise, self.log_scale = math.log(noise), math.log(kernel.outputscale.item())
        self.coregion = None if coregion is None else Coregion.of(coregion)
        self.graph_free = all(part.graph_free for part in self.parts)
        self.prior = kernel._priors["outputscale_prior"][0] if "outputscale_prior" in kernel._priors else None

    def bounds(self) -> list[tuple[float, float]]:
        box = [pair for part in self.parts for pair in part.bounds(1.0)]
        box += [self._scale_reach()] if self.coregion is None else self.coregion.bounds()
        return box + [_reach(NOISE_REACH, self.size, self.log_noise)] * self.learn

    def _scale_reach(self) -> tuple[float, float]:
        if not self.kernel.raw_outputscale.requires_grad:
            return self.log_scale, self.log_scale
        low, high = _reach(SCALE_REACH, self.size, self.log_scale)
        bound = self.kernel.raw_outputscale_constraint
        least, most = float(bound.lower_bound), float(bound.upper_bound)
        return max(low, math.log(least)) if least > 0 else low, min(high, math.log(most))

    def given(self) -> np.ndarray:
        """The parameters as the user gave them."""
        own = [self.log_scale] if self.coregion is None else self.coregion.theta
        return self._theta(np.concatenate([part.start() for part in self.parts]), own, self.log_noise)

    def scattered(self, shift: float, noise: float, generator: torch.Generator) -> np.ndarray:
        """A random start: lengthscales times exp(shift), noise as a share of the targets' size."""
        lengths = np.concatenate([part.scattered(1.0, shift, generator) for part in self.parts])
        own = [math.log(self.size)] if self.coregion is None else self.coregion.theta
        return self._theta(lengths, own, math.log(noise * self.size))

    def _theta(self, parts: np.ndarray, own: Sequence[float] | np.ndarray, log_noise: float) -> np.ndarray:
        return np.concatenate([parts, own, [log_noise] if self.learn else []])

    def split(self, theta: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, float]:
        """Parameters of each axis, those of the output scale or of L, and the noise."""
        *parts, rest = np.split(theta, np.cumsum(self.counts))
        noise = math.exp(rest[-1] if self.learn else self.log_noise)
        return parts, rest[:-1] if self.learn else rest, noise

    def assign(self, theta: np.ndarray) -> tuple[float, Tensor | None]:
        """Set the kernel's parameters; returns the noise and B."""
        parts, own, noise = self.split(theta)
        for part, values in zip(self.parts, parts, strict=True):
            part.assign(values)
        if self.coregion is not None:
            return noise, self.coregion.at(own).matrix(self.layout.Y)
        with torch.no_grad():
            self.kernel.outputscale = math.exp(own[0])
        return noise, None

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        parts, own, noise = self.split(theta)
        with torch.inference_mode() if self.graph_free else torch.no_grad():
            value, slopes, own_slope, by_noise = self._evidence(parts, own, noise)
        for i, (part, values) in enumerate(zip(self.parts, parts, strict=True)):
            more, tilt = part.log_prior(values)
            value, slopes[i] = value + more, slopes[i] + tilt
        if self.prior is not None and self.coregion is None:
            more, tilt = _of_log(self.prior, own[0])
            value, own_slope = value + more, own_slope + tilt
        count = self.layout.count
        return -value / count, -self._theta(np.concatenate(slopes), own_slope, by_noise) / count

    def _evidence(
        self, parts: list[np.ndarray], own: np.ndarray, noise: float
    ) -> tuple[float, list[np.ndarray], np.ndarray, float]:
        """The log evidence and its gradient in the parameters of the axes, in `own` and in log noise."""
        layout = self.layout
        factors = [symmetric(part.fill(values)) for part, values in zip(self.parts, parts, strict=True)]
        scale, outputs = math.exp(own[0]), None
        if self.coregion is not None:
            outputs = self.coregion.at(own)
            scale = math.exp(self.log_scale)
            factors.append(outputs.matrix(layout.Y))
        system = solver(factors, scale, noise, layout, SEARCHING)
        k = layout.Y.shape[1]
        if isinstance(system, Kronecker):
            S, residual = profiled(system.whiten(self.YH), k)
        else:
            fit = Regression.of(system, layout)
            S = fit.S
        value = log_evidence(S, system.logdet().item(), noise, layout, self.mixing)
        extra = layout.cells.scatter / noise
        c = -2 * self.mixing.log_expectation(S + extra, layout.count)[1]
        if isinstance(system, Kronecker):
            found = system.pull_whitened(residual, c=c)
        else:
            found = system.pull(system.take(fit.alpha), c=c)
        # A trace of zero: the output scales of the axes are held.
        slopes = [part.pull(G, 0.0) for part, G in zip(self.parts, found.factors[: len(self.parts)], strict=True)]
        slope = np.array([scale * found.scale.item()]) if outputs is None else outputs.pull(found.factors[-1])
        assert isinstance(found.noise, Tensor)
        by_noise = found.noise if layout.weight is None else (found.noise.flatten() / layout.weight).sum()
        return value, slopes, slope, noise * by_noise.item() + 0.5 * c * extra - 0.5 * layout.spare


@dataclass(frozen=True, eq=False)
class Coregion:
    """B = L L' (m, m) by the entries of L, row by row, its diagonal as logarithms."""

    theta: np.ndarray
    outputs: int

    @classmethod
    def of(cls, B: Tensor) -> "Coregion":
        """The parameters of a positive-definite matrix."""
        L = torch.linalg.cholesky(B).cpu().double().numpy()
        L[np.diag_indices(len(L))] = np.log(L.diagonal())
        return cls(L[np.tril_indices(len(L))], len(L))

    def at(self, theta: np.ndarray) -> "Coregion":
        return replace(self, theta=theta)

    def factor(self) -> np.ndarray:
        """L (m, m)."""
        L = np.zeros((self.outputs, self.outputs))
        L[np.tril_indices(self.outputs)] = self.theta
        L[np.diag_indices(self.outputs)] = np.exp(L.diagonal())
        return L

    def matrix(self, like: Tensor) -> Tensor:
        """B (m, m)."""
        L = self.factor()
        return torch.from_numpy(L @ L.T).to(like)

    def pull(self, G: Tensor) -> np.ndarray:
        """The gradient in theta of a function with dF = sum(G o dB), G symmetric."""
        L = self.factor()
        slope = 2 * G.cpu().double().numpy() @ L
        slope[np.diag_indices(self.outputs)] *= L.diagonal()
        return slope[np.tril_indices(self.outputs)]

    def bounds(self) -> list[tuple[float, float]]:
        rows, columns = np.tril_indices(self.outputs)
        reach = math.exp(COREGION_REACH[1])
        pairs = zip(rows == columns, self.theta, strict=True)
        boxes = ((COREGION_REACH if diagonal else (-reach, reach), value) for diagonal, value in pairs)
        return [(min(low, value), max(high, value)) for (low, high), value in boxes]


def symmetric(K: Tensor) -> Tensor:
    """The matrix (m, m) of which K has the lower triangle."""
    return torch.tril(K) + torch.tril(K, -1).mT


def _reach(reach: tuple[float, float], unit: float, value: float) -> tuple[float, float]:
    """Logarithms of the ends; a value of the user's outside is the user's to choose."""
    low, high = (math.log(end * unit) for end in reach)
    return min(low, value), max(high, value)


def _of_log(prior: Prior, log_value: float) -> tuple[float, float]:
    """The log density of a prior at exp(log_value) and its slope in log_value."""
    with torch.inference_mode(False), torch.enable_grad():
        at = torch.tensor(log_value, dtype=torch.double, requires_grad=True)
        value = prior.log_prob(at.exp()).sum()
        (slope,) = torch.autograd.grad(value, at)
    return value.item(), slope.item()
