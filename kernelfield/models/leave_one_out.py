"""What a linear smoother would predict had each of its rows been left out, from one fit.

With hyperparameters held, the mean is linear in the targets, mu(x) = g(x)'Y. For a process with A = K + noise / weight
and a mean H b with a flat prior on b, let

    P = A^-1 - A^-1 H (H'A^-1 H)^-1 H'A^-1,    a = P Y,    g(x) = P k(x) + A^-1 H (H'A^-1 H)^-1 h(x).

Rows are left out by block elimination in the system of A bordered by H, of which P is a block of the inverse:

    y_i - mu_-i(x_i) = a_i / P_ii,    mu_-i(x) = mu(x) - g_i(x) a_i / P_ii,    var(y_i | others) = 1 / P_ii,

so that the predictions of all n models at q points cost one solve. The kernel ridge (no H) and the linear regression
on features (P_ii = w_i (1 - leverage_i) / noise) are special cases. P_ii is zero where a row alone determines a
coefficient of the mean: without it there is no prediction.

Sources: Rasmussen & Williams (2006), "Gaussian Processes for Machine Learning", eqs. (5.10)-(5.12); Dubrule (1983),
"Cross validation of kriging in a unique neighborhood", for the mean's coefficients.
"""

import torch
from torch import Tensor


def gaps(weights: Tensor, precision: Tensor) -> Tensor:
    """y_i - mu_-i(x_i) (n, m), for a (n, m) and the diagonal of P (n,)."""
    return weights / precision[:, None]


def means_without_each(mean: Tensor, smoother: Tensor, gap: Tensor) -> Tensor:
    """mu_-i (q, n, m) at q points, of mu (q, m), g (n, q) and the gaps (n, m).

    >>> X, Y = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[1.0], [2.0], [6.0]])
    >>> g = X / X.square().sum()  # of the line through the origin, asked at x = 1: slopes x'y / x'x
    >>> P = 1 - (X @ g.mT).diagonal()
    >>> means_without_each(g.mT @ Y, g, gaps(Y - X @ g.mT @ Y, P)).flatten()  # slopes 28/20, 25/17, 5/5
    tensor([1.4000, 1.4706, 1.0000])
    """
    return mean[:, None, :] - smoother.mT[:, :, None] * gap


def require_determined(precision: Tensor, whole: Tensor) -> Tensor:
    """The diagonal of P (n,), given that of A^-1 (n,), from which the mean's part was taken.

    Errors: ValueError if a row alone determines a coefficient of the mean.
    """
    lost = precision <= len(whole) * torch.finfo(whole.dtype).eps * whole
    if lost.any():
        raise ValueError(
            f"row {int(lost.nonzero()[0])} alone determines a coefficient of the mean, so that nothing is predicted "
            "without it; use mean='constant' or 'zero', or give the row company"
        )
    return precision
