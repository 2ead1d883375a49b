"""A transformer from a table of observations to the laws of values elsewhere.

It is a function of sets: there is no encoding of positions, every row of the table (the context)
attends to all rows, and a query attends to rows alone. Its answer thus depends neither on the
order of the rows nor on what else is asked. Columns are a set as well: a shared network reads
all pairs (x_ij, y_i) of column j and gives it, from their mean over rows and what the other
columns gave,

    relevances r_j^c > 0    of distances    D_c(x, x')^2 = mean over j of r_j^c (x_j - x'_j)^2,
    directions a_j^c        of features     z_c(x) = sum over j of a_j^c x_j / sqrt(d).

Tokens start from z and y; the logit of a head for query and key is

    q . k / sqrt(width of a head) + sum over c of u_c D_c^2 + v_c D_c,

u and v being the head's own, so that a head can be a kernel smoother from the beginning. Any
number of columns will do, and their order does not matter.

Sources: Mueller, Hollmann, Pineda Arango, Grabocka & Hutter (2022), "Transformers Can Do Bayesian
Inference", for the masks; Zaheer et al. (2017), "Deep Sets", for the summary of a column.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

NEAR = 1e-4  # added to squared distances below a root, whose slope at zero is infinite


@dataclass(frozen=True)
class Architecture:
    """The sizes of a `SetTransformer`.

    layers, width, heads: of the transformer; the hidden layer after each attention is twice as wide.
    bins: of the law it answers with.
    metrics: distances of its own making; directions: features of its own making.
    summary: the width of what is known of a column.

    Errors: ValueError for a size below one, or a width that the heads do not divide.
    """

    layers: int = 4
    width: int = 64
    heads: int = 4
    bins: int = 256
    metrics: int = 3
    directions: int = 8
    summary: int = 32

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.width % self.heads:
            raise ValueError(f"the width {self.width} must be a multiple of the number of heads, {self.heads}")


class SetTransformer(nn.Module):
    """See the module docstring.

    Shapes: X (b, n, d), Y (b, n), log_weight (b, n) with log(1) = 0 for plain rows, at (b, t, d),
        latent (b, t) one where f is asked for and zero where y is; gives logits (b, t, bins).
        n may be zero.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.columns = Columns(a)
        self.rows = nn.Linear(a.directions + 2, a.width)
        self.queries = nn.Linear(a.directions + 1, a.width)
        self.whole = nn.Linear(a.summary + 2, a.width)
        # What there is without a row: a token of its own, which rows and queries may attend to as well.
        self.nothing = nn.Parameter(torch.zeros(a.width))
        self.layers = nn.ModuleList(Block(a) for _ in range(a.layers))
        self.answer = nn.Sequential(
            nn.LayerNorm(a.width), nn.Linear(a.width, 2 * a.width), nn.GELU(), nn.Linear(2 * a.width, a.bins)
        )

    def forward(self, X: Tensor, Y: Tensor, log_weight: Tensor, at: Tensor, latent: Tensor) -> Tensor:
        b, n, d = X.shape
        relevance, directions, known = self.columns(X, Y, log_weight)
        every = torch.cat([X, at], -2)
        z = every @ directions / math.sqrt(d)
        rows = self.rows(torch.cat([z[:, :n], Y.unsqueeze(-1), log_weight.unsqueeze(-1)], -1))
        queries = self.queries(torch.cat([z[:, n:], latent.unsqueeze(-1)], -1))
        sizes = X.new_tensor([math.log1p(n), math.log(d)]).expand(b, -1)
        tokens = torch.cat([self.nothing.expand(b, 1, -1), rows, queries], 1)
        tokens = tokens + self.whole(torch.cat([known, sizes], -1)).unsqueeze(1)
        distances = _distances(every, X, relevance)
        for layer in self.layers:
            tokens = layer(tokens, distances)
        return self.answer(tokens[:, 1 + n :])


class Columns(nn.Module):
    """What each column is to the targets.

    Shapes: X (b, n, d), Y (b, n), log_weight (b, n); gives relevances (b, d, metrics), directions
        (b, d, directions) and a summary of all columns (b, summary).
    """

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.pairs = nn.Sequential(nn.Linear(3, a.summary), nn.GELU(), nn.Linear(a.summary, a.summary))
        self.merge = nn.Sequential(
            nn.Linear(2 * a.summary + 1, 2 * a.summary), nn.GELU(), nn.Linear(2 * a.summary, a.summary), nn.GELU()
        )
        self.relevance = nn.Linear(a.summary, a.metrics)
        self.directions = nn.Linear(a.summary, a.directions)

    def forward(self, X: Tensor, Y: Tensor, log_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = Y.unsqueeze(-1).expand_as(X)
        # One row of weight one that says nothing keeps the mean over no rows finite.
        share = log_weight.exp()
        share = share / (1 + share.sum(-1, keepdim=True))
        seen = self.pairs(torch.stack([X, y, X * y], -1))
        column = torch.einsum("bn,bndh->bdh", share, seen)
        others = column.mean(-2, keepdim=True).expand_as(column)
        count = X.new_full((*column.shape[:-1], 1), math.log1p(X.shape[-2]))
        merged = self.merge(torch.cat([column, others, count], -1))
        return self.relevance(merged).clamp(-8, 8).exp(), self.directions(merged), merged.mean(-2)


class Block(nn.Module):
    """One layer: tokens (b, 1 + n + t, width) attend to the first 1 + n, then pass a hidden layer."""

    def __init__(self, a: Architecture) -> None:
        super().__init__()
        self.heads = a.heads
        self.before = nn.LayerNorm(a.width)
        self.query = nn.Linear(a.width, a.width)
        self.key_value = nn.Linear(a.width, 2 * a.width)
        self.out = nn.Linear(a.width, a.width)
        self.hidden = nn.Sequential(
            nn.LayerNorm(a.width), nn.Linear(a.width, 2 * a.width), nn.GELU(), nn.Linear(2 * a.width, a.width)
        )
        # Heads start as smoothers of several widths, the first as a plain mean.
        slopes = torch.zeros(a.heads, 2 * a.metrics)
        slopes[:, : a.metrics] = -(4.0 ** torch.arange(a.heads)[:, None] - 1) / 4 / a.metrics
        self.slopes = nn.Parameter(slopes)

    def forward(self, tokens: Tensor, distances: Tensor) -> Tensor:
        normal = self.before(tokens)
        query = self.query(normal).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        keys = normal[:, : distances.shape[-1]]
        key, value = self.key_value(keys).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        bias = (self.slopes @ distances.flatten(2)).unflatten(-1, distances.shape[-2:])
        mixed = (bias + query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1) @ value
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(-2))
        return tokens + self.hidden(tokens)


def _distances(every: Tensor, X: Tensor, relevance: Tensor) -> Tensor:
    """Squared distances and their roots (b, 2 metrics, 1 + n + t, 1 + n); those of the first token are zero."""
    root = (relevance.mT / X.shape[-1]).sqrt().unsqueeze(-2)  # (b, metrics, 1, d)
    left, right = root * every.unsqueeze(1), root * X.unsqueeze(1)
    squares = left.square().sum(-1, keepdim=True) + right.square().sum(-1).unsqueeze(-2)
    squares = (squares - 2 * left @ right.mT).clamp_min(0)
    return functional.pad(torch.cat([squares, (squares + NEAR).sqrt()], 1), (1, 0, 1, 0))
