"""Stochastic dual descent: kernel systems solved a few random rows at a time.

(K + D) X = B is where the dual objective X'(K + D) X / 2 - X'B is least. Its gradient at the coordinates of
a batch S is exact from their rows alone, so that the noise of the descent vanishes with the gradient and the
iterates converge to the solution itself. With Nesterov's momentum and a geometric average of the iterates,

    V <- momentum V - step (n / b) e_S ((K + D)[S, :] (X + momentum V) - B[S]),    X <- X + V,
    Xbar <- share X + (1 - share) Xbar,

a step costs b rows of K, so that an epoch of n / b steps costs a product. Batches go through a permutation of the
rows in every epoch. The step is REACH / (n / b times the largest eigenvalue of K + D among the rows of a batch),
measured on a few batches, and halved where the residual grows all the same.

Memory is that of the batch's rows. Convergence is that of a gradient method: about condition / 10 epochs
against sqrt(condition) products of conjugate gradients, which are better wherever their preconditioner fits
into memory (benchmarks/iterative.py). What it offers are predictions after a few passes, long before the residual
is small: the directions that it leaves are those of small eigenvalues.

Source: Lin, Padhy, Antoran, Tripp, Terenin, Szepesvari, Hernandez-Lobato & Janz (2024), Stochastic gradient
descent for Gaussian processes done right, algorithm 1.
"""

import math
import warnings

import torch
from torch import Tensor

from kernelfield.core.numerics import NotConverged
from kernelfield.linalg.iterative import Solution
from kernelfield.linalg.preconditioner import Rows

MOMENTUM = 0.9
WINDOW = 100  # iterates are averaged over this share of all steps: total / WINDOW
REACH = 1.0  # of the step at which a batch alone takes away its fastest direction; at 1.8 it diverges
SAMPLES = 4  # batches on which the largest eigenvalue is measured
POWER = 10  # steps of the power method for it
CHECKS = 20  # of the residual, each of which costs an epoch
HALVINGS = 6


def dual_descent(
    rows: Rows,
    B: Tensor,
    noise: Tensor | float,
    *,
    start: Tensor | None = None,
    batch: int = 64,
    epochs: int = 400,
    step: float | None = None,
    tolerance: float = 1e-4,
    generator: torch.Generator | None = None,
) -> Solution:
    """Solve (K + diag(noise)) X = B (n, k) for K known by its rows, noise a number or (n,).

    batch : rows at a time. epochs : passes over all rows, at most; those that measure the residual are not
    counted here, but in the solution's iterations. step : the first one; measured where it is None.

    Errors: ValueError for a batch that does not fit; warns NotConverged with the residual reached.

    >>> K = torch.eye(4, dtype=torch.float64)
    >>> found = dual_descent(lambda index: K[index], torch.ones(4, 1, dtype=torch.float64), 1.0, batch=2)
    >>> found.converged, [round(x, 3) for x in found.X.flatten().tolist()]
    (True, [0.5, 0.5, 0.5, 0.5])
    """
    n = len(B)
    if not 1 <= batch:
        raise ValueError(f"batch must be at least one row, got {batch}")
    batch = min(batch, n)
    spread = torch.as_tensor(noise).to(B).expand(n)
    if not spread.min() > 0:
        raise ValueError(f"noise must be positive, got {spread.min().item():g}")
    device = "cpu" if generator is None else generator.device

    def shuffled() -> Tensor:
        return torch.randperm(n, generator=generator, device=device).to(B.device)

    step = REACH * batch / (n * _largest(rows, spread, shuffled(), batch)) if step is None else step
    size = B.norm(dim=0).clamp_min(torch.finfo(B.dtype).tiny)
    best = torch.zeros_like(B) if start is None else start.clone()
    least = _residual(rows, spread, B, best, batch).norm(dim=0) / size
    used, halved, every = 1, 0, max(1, epochs // CHECKS)
    share = min(1.0, WINDOW / (epochs * math.ceil(n / batch)))
    X, V, mean = best.clone(), torch.zeros_like(B), best.clone()
    for epoch in range(1, epochs + 1):
        if (least <= tolerance).all():
            break
        for S in shuffled().split(batch):
            ahead = torch.add(X, V, alpha=MOMENTUM)
            gradient = rows(S).to(B) @ ahead + spread[S, None] * ahead[S] - B[S]
            # n / len(S) would have the last, shorter batch of an epoch overshoot.
            V.mul_(MOMENTUM).index_add_(0, S, gradient, alpha=-step * n / batch)
            X.add_(V)
            mean.lerp_(X, share)
        used += 1
        if epoch % every and epoch < epochs:
            continue
        error = _residual(rows, spread, B, mean, batch).norm(dim=0) / size
        used += 1
        if (error <= least).all():
            best, least = mean.clone(), error
        elif not (error <= 2 * least).all() and halved < HALVINGS:
            step, halved = step / 2, halved + 1
            X, V, mean = best.clone(), torch.zeros_like(B), best.clone()
    converged = bool((least <= tolerance).all())
    if not converged:
        warnings.warn(
            f"dual descent stopped after {used} passes over the rows at a relative residual of "
            f"{least.max().item():.2g}, asked for {tolerance:.2g}; allow more epochs, raise the noise or solve by "
            "preconditioned conjugate gradients",
            NotConverged,
            stacklevel=2,
        )
    return Solution(best, least, used, converged)


def _largest(rows: Rows, spread: Tensor, order: Tensor, batch: int) -> float:
    """The largest eigenvalue of K + D among the rows of a batch, the most of a few."""
    found = 0.0
    for S in order.split(batch)[:SAMPLES]:
        block = rows(S)[:, S].to(spread)
        block.diagonal().add_(spread[S])
        v = torch.ones(len(S), 1).to(spread)
        for _ in range(POWER):
            v = block @ (v / v.norm())
        found = max(found, v.norm().item())
    return found


def _residual(rows: Rows, spread: Tensor, B: Tensor, X: Tensor, batch: int) -> Tensor:
    """B - (K + D) X, a batch of rows at a time."""
    parts = [rows(S).to(B) @ X for S in torch.arange(len(B), device=B.device).split(batch)]
    return B - torch.cat(parts) - spread[:, None] * X
