"""Systems known by their products alone: block conjugate gradients, and log-determinants by Lanczos quadrature.

Conjugate gradients for A X = B with k columns search one space for all of them: the directions P
are kept orthonormal, so that a column that has converged, or repeats another, breaks nothing,

    X += P (P'AP)^-1 P'R,    P <- orth(Z - P (P'AP)^-1 (AP)'Z),    Z = M^-1 R.

The log-determinant is n times the mean of log over the spectral measure of A; for a random vector
z of signs, E z' log(A) z = log|A|, and j steps of Lanczos give the Gauss quadrature of each term,

    z' log(A) z = n sum_i w_i log t_i,    t the eigenvalues of the tridiagonal matrix, w its squared first row,

exact for polynomials up to degree 2 j - 1. Both answers say how far off they are.

Sources: O'Leary (1980), The block conjugate gradient algorithm; Ji & Li (2017), A breakdown-free
block conjugate gradient method; Ubaru, Chen & Saad (2017), Fast estimation of tr(f(A)) via
stochastic Lanczos quadrature.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from kernelfield.core.numerics import NotConverged, NotPositiveDefinite

Product = Callable[[Tensor], Tensor]

RESTARTS = 8  # times the residual is computed afresh where rounding has parted it from the recursion
COARSE = 1e-2  # relative residual of a correction by coarse products, which stall below
SETTLED = 1e-3  # change of a quadrature, in standard errors, below which more steps are wasted


class Preconditioner(Protocol):
    """P = L L', near to a matrix that is known by its products: `LowRankPlusDiagonal`, `Kronecker`, `Dense`."""

    def solve(self, B: Tensor) -> Tensor:
        """P^-1 B for B (n, k)."""

    def whiten(self, B: Tensor) -> Tensor:
        """L^-1 B."""

    def unwhiten(self, B: Tensor) -> Tensor:
        """L^-T B."""

    def logdet(self) -> Tensor:
        """log det P, a scalar, in nats."""


@dataclass(frozen=True, eq=False)
class Solution:
    """X (n, k) with A X = B, and how nearly: `residual` is |B - A X| / |B| of each column, computed afresh.

    iterations counts products with A.
    """

    X: Tensor
    residual: Tensor  # (k,)
    iterations: int
    converged: bool


@dataclass(frozen=True)
class LogDeterminant:
    """log det A in nats; `error` is one standard error of it, zero where it is exact."""

    value: float
    error: float = 0.0


def conjugate_gradients(
    apply: Product,
    B: Tensor,
    *,
    precondition: Product | None = None,
    start: Tensor | None = None,
    tolerance: float = 1e-10,
    steps: int = 1000,
    quiet: bool = False,
) -> Solution:
    """Solve A X = B (n, k) for symmetric positive-definite A, known by `apply` (n, k) -> (n, k).

    precondition : the product with an approximate inverse, symmetric positive definite as well.
    start : a first X, such as the last answer to nearly the same question. tolerance : of the
    residual relative to each column. steps : most products, but for one that measures the residual. quiet : for
    callers that go on by other means.

    Errors: warns NotConverged with the residual reached. Memory: five arrays like B.

    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    >>> found = conjugate_gradients(lambda X: A @ X, torch.tensor([[1.0], [2.0]], dtype=torch.float64))
    >>> [round(x, 4) for x in found.X.flatten().tolist()], found.iterations, found.converged
    ([0.0909, 0.6364], 3, True)
    """
    goal = tolerance * B.norm(dim=0)
    size = B.norm(dim=0).clamp_min(torch.finfo(B.dtype).tiny)
    X = torch.zeros_like(B) if start is None else start.clone()
    R = B.clone() if start is None else B - apply(X)
    used = 0 if start is None else 1
    for _ in range(RESTARTS):
        before = R.norm(dim=0)
        used += _descend(apply, precondition, X, R, goal, steps - used)
        R = B - apply(X)
        used += 1
        error = R.norm(dim=0)
        # Where a restart no longer halves the residual, rounding has the last word.
        stuck = (error > before / 2) & (error > goal)
        if (error <= goal).all() or used >= steps or stuck.any():
            break
    converged = bool((error <= goal).all())
    if not converged and not quiet:
        _warn("conjugate gradients", used, (error / size).max().item(), tolerance)
    return Solution(X, error / size, used, converged)


def _descend(apply: Product, precondition: Product | None, X: Tensor, R: Tensor, goal: Tensor, steps: int) -> int:
    """Improve X and R in place until the recursion says so; the number of products used."""
    P = Q = R[:, :0]
    factor = R.new_empty(0, 0)
    for step in range(steps):
        # Half the goal leaves room for the difference between the recursion and the truth.
        active = R.norm(dim=0) > goal / 2
        if not active.any():
            return step
        Z = R[:, active] if precondition is None else precondition(R[:, active])
        if P.shape[1]:
            Z = Z - P @ torch.cholesky_solve(Q.mT @ Z, factor)
        P = _orthonormal(Z)
        Q = apply(P)
        factor, info = torch.linalg.cholesky_ex(P.mT @ Q)
        if info.item():  # curvature lost in rounding: what is reached is all there is
            return step + 1
        by = torch.cholesky_solve(P.mT @ R, factor)
        X.addmm_(P, by)
        R.addmm_(Q, by, alpha=-1)
    return steps


def _orthonormal(Z: Tensor) -> Tensor:
    """An orthonormal basis of the columns of Z (n, k), fewer where they depend on each other."""
    size = Z.norm(dim=0)
    Z = Z[:, size > 0] / size[size > 0]
    if Z.shape[1] <= 1:
        return Z
    Q, upper = torch.linalg.qr(Z)
    left, values, _ = torch.linalg.svd(upper)
    return Q @ left[:, values > len(values) * torch.finfo(Z.dtype).eps * values[0]]


def refined(
    apply: Product,
    coarse: Product,
    B: Tensor,
    *,
    precondition: Product | None = None,
    start: Tensor | None = None,
    tolerance: float = 1e-10,
    steps: int = 1000,
    quiet: bool = False,
) -> Solution:
    """Solve A X = B by corrections from conjugate gradients with `coarse` products, the residual by exact ones.

    coarse : (n, k) -> (n, k) in the precision of B, such as `lambda V: (K @ V.float()).double()`. If it is a
    product with A + E, a correction to the relative residual c leaves c + |E| |A^-1| (1 + c) of the residual,
    so that the precision of the answer is that of `apply` as long as |E| |A^-1| < 1, and each round of `coarse`
    products costs one exact one. It pays where a coarse product is cheaper by more than that: not for few right-hand
    sides that start near their solution, nor where |A| / noise times the rounding of `coarse` is near one.

    The rest as `conjugate_gradients`; iterations counts the products of both kinds.

    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    >>> found = refined(lambda X: A @ X, lambda X: (A.half() @ X.half()).double(), torch.ones(2, 1).double())
    >>> [round(x, 8) for x in found.X.flatten().tolist()], found.converged
    ([0.18181818, 0.27272727], True)
    """
    size = B.norm(dim=0).clamp_min(torch.finfo(B.dtype).tiny)
    X = torch.zeros_like(B) if start is None else start.clone()
    R = B.clone() if start is None else B - apply(X)
    used = 0 if start is None else 1
    error = R.norm(dim=0) / size
    while (error > tolerance).any() and used < steps:
        # What one round cannot reach is left to the next; a correction of less than half is no longer one.
        goal = max(COARSE, 0.5 * tolerance / error.max().item())
        correction = torch.zeros_like(B)
        used += _descend(coarse, precondition, correction, R.clone(), goal * R.norm(dim=0), steps - used)
        ahead = X + correction
        R = B - apply(ahead)
        used += 1
        before, error = error, R.norm(dim=0) / size
        better = error < before
        X = torch.where(better, ahead, X)
        error = torch.where(better, error, before)
        if not (error < before / 2)[before > tolerance].all():
            break
    converged = bool((error <= tolerance).all())
    if not converged and not quiet:
        _warn("refinement", used, error.max().item(), tolerance)
    return Solution(X, error, used, converged)


def _warn(method: str, used: int, reached: float, tolerance: float) -> None:
    warnings.warn(
        f"{method} stopped after {used} products at a relative residual of {reached:.2g}, "
        f"asked for {tolerance:.2g}; allow more steps, raise the noise or ask for less",
        NotConverged,
        stacklevel=3,
    )


def log_determinant(
    apply: Product,
    like: Tensor,
    *,
    probes: int = 16,
    steps: int = 200,
    generator: torch.Generator | None = None,
    preconditioner: Preconditioner | None = None,
    trace: float | None = None,
) -> LogDeterminant:
    """log det A of a symmetric positive-definite A, known by `apply` (n, k) -> (n, k), for vectors like `like` (n,).

    steps : most products with A; fewer where the quadrature settles before. The error holds the
    spread over the probes, widened to that of Student's t as there are few of them, what the last steps still
    changed, and rounding. preconditioner : what it explains is
    neither iterated for nor left to chance. trace : tr A, or tr P^-1 A with a preconditioner
    (`LowRankPlusDiagonal.trace`), where it is known; what of the logarithm goes with it is then exact.

    Errors: ValueError for fewer than two probes; NotPositiveDefinite where the quadrature meets a negative eigenvalue.

    >>> spread = torch.linspace(1, 2, 100, dtype=torch.float64)
    >>> found = log_determinant(lambda X: spread[:, None] * X, spread, generator=torch.Generator().manual_seed(0))
    >>> abs(found.value - spread.log().sum().item()) < 1e-9  # signs are exact for a diagonal matrix
    True
    """
    if probes < 2:
        raise ValueError(f"probes must be at least 2, as the error is told from their spread, got {probes}")
    if preconditioner is not None:
        P = preconditioner
        found = log_determinant(
            lambda V: P.whiten(apply(P.unwhiten(V))),
            like,
            probes=probes,
            steps=steps,
            generator=generator,
            trace=trace,
        )
        return replace(found, value=found.value + P.logdet().item())
    n = len(like)
    z = signs(n, probes, like, generator)
    vector, last = z / math.sqrt(n), torch.zeros_like(z)
    diagonal: list[Tensor] = []
    off: list[Tensor] = []
    earlier = torch.full((probes,), math.inf).to(like)
    end = min(steps, n)
    rounded = n * torch.finfo(like.dtype).eps  # of n logarithms
    check = min(5, max(1, end - 1))  # what the last of a few steps changes is seen too
    for step in range(1, end + 1):
        product = apply(vector)
        if off:
            product = product - off[-1] * last
        diagonal.append((product * vector).sum(0))
        product = product - diagonal[-1] * vector
        length = product.norm(dim=0)
        if step in (check, end):
            check += max(5, step // 4)  # so that looking costs less than stepping
            values = n * _quadrature(diagonal, off, None if trace is None else trace / n)
            # What probes - 1 degrees of freedom leave open: the standard deviation of Student's t, where it has one.
            few = math.sqrt((probes - 1) / max(probes - 3, 1))
            drift, error = (values - earlier).mean().abs(), few * values.std() / math.sqrt(probes)
            earlier = values
            if drift <= SETTLED * error + rounded:
                break
        off.append(length)
        # A probe whose space is exhausted goes on from zero, with no weight.
        alive = length > math.sqrt(torch.finfo(like.dtype).eps) * diagonal[0].abs() * 1e-4
        last, vector = vector, torch.where(alive, product / length, 0.0)
        off[-1] = torch.where(alive, length, 0.0)
    left = drift.item() if drift.isfinite() else 0.0
    return LogDeterminant(earlier.mean().item(), math.hypot(error.item(), left, rounded))


def signs(n: int, k: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Random signs (n, k): the probes of least variance among those with independent entries."""
    return (2 * torch.randint(0, 2, (k, n), generator=generator).mT - 1).to(like)


def _quadrature(diagonal: list[Tensor], off: list[Tensor], mean: float | None) -> Tensor:
    """e_1' log(T) e_1 (k,) of tridiagonal matrices, given by entries (k,) in order.

    mean : of e_1' T e_1, where it is known; the regression of log t on t over all quadratures then takes away
    what the two have in common.
    """
    T = torch.diag_embed(torch.stack(diagonal, -1))
    if off:
        side = torch.diag_embed(torch.stack(off[: len(diagonal) - 1], -1), offset=1)
        T = T + side + side.mT
    values, vectors = torch.linalg.eigh(T)
    weights = vectors[:, 0].square()
    rounding = torch.finfo(values.dtype).eps ** 0.5
    if ((values < -rounding * values.amax(-1, keepdim=True)) & (weights > rounding)).any():
        raise NotPositiveDefinite(
            f"the matrix has an eigenvalue of about {values.min().item():.2g} and no log-determinant; "
            "check the inputs and the kernel's hyperparameters, or raise the noise"
        )
    logs = values.clamp_min(torch.finfo(values.dtype).tiny).log()
    found = (weights * logs).sum(-1)
    if mean is None:
        return found
    centred = values - (weights * values).sum(-1).mean()
    variance = (weights * centred.square()).sum(-1).mean()
    slope = (weights * logs * centred).sum(-1).mean() / variance.clamp_min(torch.finfo(values.dtype).tiny)
    return found - slope * (diagonal[0] - mean)
