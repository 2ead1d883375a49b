"""Orders of rows and nearest neighbours among the rows before each, in the metric of a kernel.

A row leans on its nearest neighbours, and nearest means most correlated: inputs are divided by the lengthscales of a
stationary kernel, and for others by how far each has to move for the correlation to fall half of the way to its least,
which is proportional to lengthscales where there are any. In a maximin order each row is as far as can be from all
before it, so that the first rows cover the inputs coarsely and the later ones refine.

Sources: Guinness (2018), "Permutation and Grouping Methods for Sharpening Gaussian Process Approximations", for
maximin orders; Kang & Katzfuss (2023), "Correlation-based Sparse Inverse Cholesky Factorization", for the metric.
"""

from typing import Literal

import numpy as np
import torch
from gpytorch.kernels import Kernel
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from kernelfield.kernels.stationary import Stationary

PAIRS = 10**8  # distances that a maximin order may take, a few seconds; the rows after that follow at random
SHALLOW = 6  # inputs up to which a tree finds neighbours sooner than all distances do
ENDLESS = 10**5  # rows from which a tree does, whatever the inputs
SAMPLE = 32  # rows at which correlations are taken
DECADES = (-3.0, 6.0)  # of the steps that are tried, in spreads of an input
GRID, REFINEMENTS = 46, 5  # steps tried at once, and how often again between two of them: to 1e-7
ENTRIES = 2**20  # numbers at work

Order = Literal["maximin", "random", "given"]


def scales(kernel: Kernel, X: Tensor) -> Tensor:
    """How far each input of X (n, d) reaches, (d,), up to a common factor; infinite where the kernel ignores it.

    >>> kernel = __import__("gpytorch").kernels.RBFKernel(ard_num_dims=2)
    >>> kernel.lengthscale = torch.tensor([0.5, 2.0])
    >>> reach = scales(kernel, torch.rand(9, 2))
    >>> round((reach[1] / reach[0]).item(), 3)
    4.0
    """
    if isinstance(kernel, Stationary) and not kernel.batch_shape:
        reach = torch.full_like(X[0], torch.inf)
        used = torch.arange(X.shape[1]) if kernel.active_dims is None else kernel.active_dims
        return reach.index_copy(0, used.to(X.device), kernel.lengthscale.detach()[0].expand(len(used)))
    return _reaches(kernel, X)


def _reaches(kernel: Kernel, X: Tensor) -> Tensor:
    """`scales` from values of the kernel."""
    some = X[torch.linspace(0, len(X) - 1, min(SAMPLE, len(X))).long()]
    spread = X.std(0, correction=0)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    grid = torch.linspace(0, 1, GRID).to(X)[:, None]
    low, high = (end * torch.ones_like(spread) for end in DECADES)
    level, reached = torch.zeros_like(spread), torch.ones_like(spread)
    with torch.no_grad():
        for turn in range(REFINEMENTS):
            decades = low + grid * (high - low)
            seen = _correlations(kernel, some, 10**decades * spread)
            if not turn:
                least = seen.amin(0)
                level, reached = 0.5 * (1 + least), least < 1 - 1e-6
            first = (seen < level).to(torch.uint8).argmax(0)[None]
            low, high = (decades.gather(0, place)[0] for place in ((first - 1).clamp_min(0), first))
    return torch.where(reached, 10**high * spread, torch.inf)


def _correlations(kernel: Kernel, X: Tensor, steps: Tensor) -> Tensor:
    """The mean correlations (g, d) of f at rows X (r, d) and at those rows with one input moved by steps (g, d)."""
    g, d = steps.shape
    moves = torch.eye(d).to(X).expand(g, d, d).flatten(0, 1) * steps.flatten()[:, None]
    parts = []
    for some in moves.split(max(1, ENTRIES // X.numel())):
        here = X.expand(len(some), -1, -1)
        there = here + some[:, None, :]
        size = kernel(here, diag=True) * kernel(there, diag=True)
        product = kernel(here, there, diag=True) / size.clamp_min(torch.finfo(X.dtype).tiny).sqrt()
        parts.append(product.mean(-1))
    return torch.cat(parts).unflatten(0, (g, d))


def ordered(how: Order, Z: Tensor, *, generator: torch.Generator) -> Tensor:
    """The rows of Z (n, d) in an order (n,).

    >>> line = torch.tensor([[0.0], [0.4], [1.0], [0.5]])
    >>> ordered("maximin", line, generator=torch.Generator()).tolist()  # the middle, an end, the other, what is left
    [3, 0, 2, 1]
    """
    if how == "given":
        return torch.arange(len(Z)).to(Z.device)
    random = torch.randperm(len(Z), generator=generator).to(Z.device)
    if how == "random":
        return random
    spread = _maximin(Z, min(len(Z), max(1, PAIRS // len(Z))))
    left = torch.ones(len(Z), dtype=torch.bool, device=Z.device)
    left[spread] = False
    return torch.cat([spread, random[left[random]]])


def _maximin(Z: Tensor, count: int) -> Tensor:
    """The first rows of a maximin order, from the row nearest to the centre on."""
    Z = Z - Z.mean(0)
    norm = Z.square().sum(-1)
    nearest, apart = torch.full_like(norm, torch.inf), torch.empty_like(norm)
    chosen, row = [], int(norm.argmin())
    for _ in range(count):
        chosen.append(row)
        torch.addmv(norm, Z, Z[row], alpha=-2, out=apart).add_(norm[row])
        torch.minimum(nearest, apart, out=nearest)
        nearest[row] = -torch.inf  # never again, whatever rounding says of it and its copies
        row = int(nearest.argmax())
    return torch.tensor(chosen, device=Z.device)


class Nearest:
    """The nearest of the rows Z (n, d) to any point.

    >>> Nearest(torch.tensor([[0.0], [1.0], [5.0]]))(torch.tensor([[0.9]]), 2).tolist()
    [[1, 0]]
    """

    def __init__(self, Z: Tensor) -> None:
        tree = Z.shape[1] <= SHALLOW or len(Z) >= ENDLESS
        self.search = NearestNeighbors(algorithm="kd_tree" if tree else "brute").fit(_numbers(Z))

    def __call__(self, Z: Tensor, k: int) -> Tensor:
        """The k nearest (t, k) of points Z (t, d), nearest first; k at most the number of rows."""
        if not len(Z):
            return torch.empty(0, k, dtype=torch.long, device=Z.device)
        found = self.search.kneighbors(_numbers(Z), k, return_distance=False)
        return torch.from_numpy(found).to(Z.device)


def _numbers(Z: Tensor) -> np.ndarray:
    return Z.detach().cpu().numpy()


def earlier(Z: Tensor, k: int, rows: Tensor | None = None) -> Tensor:
    """The k nearest rows before each of the rows Z (n, d), (n, k), or of some `rows` (t,), increasing; -1 for none.

    Rows between 2^j and 2^(j+1) ask for more neighbours than they need among the first 2^(j+1), of which at least half
    are before them, and for more again where too few are.

    >>> earlier(torch.tensor([[0.0], [1.0], [0.2]]), 2).tolist()
    [[-1, -1], [0, -1], [0, 1]]
    """
    rows = torch.arange(len(Z), device=Z.device) if rows is None else rows
    found = torch.full((len(rows), k), -1, dtype=torch.long, device=Z.device)
    start = k + 1
    if k:
        head = rows < start
        before = torch.arange(k, device=Z.device).expand(int(head.sum()), k)
        found[head] = torch.where(before < rows[head, None], before, -1)
    while k and start < len(Z):
        stop = min(2 * start, len(Z))
        asked = ((rows >= start) & (rows < stop)).nonzero()[:, 0]
        if len(asked):
            found[asked] = _filtered(Nearest(Z[:stop]), Z[rows[asked]], rows[asked], k, stop)
        start = stop
    return found


def _filtered(nearest: Nearest, Z: Tensor, rows: Tensor, k: int, stop: int) -> Tensor:
    """The k nearest before each of the rows (t,) at Z (t, d), among the first `stop`."""
    found = torch.empty(len(rows), k, dtype=torch.long, device=Z.device)
    left, count = torch.arange(len(rows), device=Z.device), min(3 * k, stop)
    while len(left):
        near = nearest(Z[left], count)
        before = near < rows[left, None]
        rank = before.cumsum(-1)
        done = rank[:, -1] >= k
        taken = (before & (rank <= k))[done]
        found[left[done]] = near[done][taken].reshape(-1, k)
        left, count = left[~done], min(2 * count, stop)
    return found
