"""The choice of inducing inputs among the rows of the data.

`by_variance` takes, one after another, the row at which the process is least known given those taken
before: a pivoted Cholesky factorisation of the kernel matrix. What is left on its diagonal sums to
the slack of the bound, which the choice keeps small; repeated rows are never taken.
`by_clusters` takes the centres of scikit-learn's k-means, started by k-means++, which know nothing of the kernel.

Sources: Burt, Rasmussen & van der Wilk (2020), "Convergence of Sparse Variational Inference in
Gaussian Processes Regression", section 4; Arthur & Vassilvitskii (2007), "k-means++".
"""

import torch
from gpytorch.kernels import Kernel
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

from kernelfield.models.covariance import matrix

CANDIDATES = 8192  # rows among which inputs are chosen: all that a choice of hundreds can tell apart
TINY = 1e-11  # of the prior variance: what is left is hardly more than rounding
LLOYD = 20  # the most rounds of k-means


def by_variance(
    kernel: Kernel,
    X: Tensor,
    count: int,
    *,
    generator: torch.Generator,
    known: Tensor | None = None,
    enough: float = 0.0,
) -> Tensor:
    """The rows of X (n, d) that tell most of the process, (k, d) with k <= count, in the order of the choice.

    known (j, n): features of what is known before, phi(X) with covariance phi'phi.
    enough : the mean variance left, at which the choice ends.

    >>> kernel = __import__("gpytorch").kernels.RBFKernel()
    >>> X = torch.tensor([[0.0], [0.1], [5.0], [0.0]])
    >>> by_variance(kernel, X, 3, generator=torch.Generator()).flatten().tolist()
    [0.0, 5.0, 0.10000000149011612]
    """
    if len(X) > CANDIDATES:
        rows = torch.randperm(len(X), generator=generator)[:CANDIDATES].to(X.device)
        X, known = X[rows], None if known is None else known[:, rows]
    with torch.no_grad():
        return X[_pivots(kernel, X, min(count, len(X)), known, enough)]


def _pivots(kernel: Kernel, X: Tensor, count: int, known: Tensor | None, enough: float) -> Tensor:
    first = kernel(X, diag=True).clone()
    left, least = first.clone(), TINY * first.max()
    if known is not None:
        left -= known.square().sum(0)
    rows = X.new_empty(count, len(X))  # of the factor
    chosen: list[int] = []
    while len(chosen) < count:
        pivot = int(left.argmax())
        if chosen and (left[pivot] <= least or left.clamp_min(0).mean() <= enough):
            break
        j = len(chosen)
        column = matrix(kernel, X[pivot : pivot + 1], X)[0] - rows[:j, pivot] @ rows[:j]
        if known is not None:
            column -= known[:, pivot] @ known
        rows[j] = column / left[pivot].clamp_min(least).sqrt()
        left -= rows[j].square()
        left[pivot] = -1.0  # never again
        chosen.append(pivot)
    return torch.tensor(chosen).to(X.device)


def by_clusters(X: Tensor, count: int, *, weight: Tensor | None = None, generator: torch.Generator) -> Tensor:
    """The centres (k, d) of k-means of the rows X (n, d), k <= count and at most the number of different rows.

    >>> X = torch.tensor([[0.0], [0.2], [5.0], [5.2]])
    >>> centres = by_clusters(X, 2, generator=torch.Generator().manual_seed(0))
    >>> sorted(round(x, 6) for x in centres.flatten().tolist())
    [0.1, 5.1]
    """
    if len(X) > CANDIDATES:
        rows = torch.randperm(len(X), generator=generator)[:CANDIDATES].to(X.device)
        X, weight = X[rows], None if weight is None else weight[rows]
    count = min(count, len(torch.unique(X, dim=0)))
    seed = int(torch.randint(2**31, (), generator=generator))
    search = KMeans(count, n_init=1, max_iter=LLOYD, random_state=seed)
    # Threads add up their shares in the order in which they come.
    with threadpool_limits(1, user_api="openmp"):
        search.fit(X.cpu().numpy(), sample_weight=None if weight is None else weight.cpu().numpy())
    return torch.from_numpy(search.cluster_centers_).to(X)
