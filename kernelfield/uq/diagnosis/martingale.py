"""Martingales: betting against the claim that rows come in no particular order.

A score of each row is ranked among those of all rows so far. If rows are exchangeable, the
smoothed conformal p-values

    p_i = (number of j < i with a score above that of row i, plus a uniform share of the ties) / i

are independent and uniform. A gambler who starts with 1 and bets on the p-values by densities that
depend on the past alone has a capital S_i that is a martingale, so that by Ville's inequality
P(sup S_i >= 1 / level) <= level, whenever one stops to look. Two gamblers start with a half each:

    simple jumper  bets 1 + e (p - 1/2), e one of -1, 0, 1, and moves a share of 0.01 of the capital
                   evenly over the three after each row; it finds what changes and changes again
    histogram      bets the shares of earlier p-values in ten bins, one added to each: the mixture of
                   all histograms under a uniform prior; it finds what goes on for long

All is O(n log n). Sources: Vovk, Nouretdinov & Gammerman (2003), "Testing Exchangeability
On-Line"; Fedorova, Gammerman, Nouretdinov & Vovk (2012), "Plug-in Martingales for Testing
Exchangeability On-Line"; Vovk, Petej, Nouretdinov, Ahlberg, Carlsson & Gammerman (2021), "Retrain or
Not Retrain: Conformal Test Martingales for Change-Point Detection", for the simple jumper.
"""

import math

import numpy as np

JUMP = 0.01
BETS = np.array([-1.0, 0.0, 1.0])
BINS = 10
BLOCK = 512  # rows at most, after which the jumper's capital is scaled: 1.5 to this power is a double


def conformal(scores: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Smoothed conformal p-values (n,) of scores (n,) in the order of time; large scores have small ones.

    >>> p = conformal(np.array([1.0, 2.0, 0.0]), np.random.default_rng(0))
    >>> bool(p[1] < 1 / 2), bool(p[2] > 2 / 3)
    (True, True)
    """
    n = len(scores)
    order = np.argsort(scores)
    if (scores[order[1:]] == scores[order[:-1]]).any():
        # Ties are put in a random order, so that the rank among them is uniform.
        order = np.lexsort((generator.random(n), scores))
    ranks = np.empty(n, dtype=np.int32)
    ranks[order] = np.arange(n)
    return (exceeded(ranks) + generator.random(n)) / np.arange(1, n + 1)


def exceeded(ranks: np.ndarray) -> np.ndarray:
    """Of a permutation (n,) of 0 to n - 1: how many earlier entries are larger than each.

    Rows are sorted by one bit of their ranks after another, from the highest, and keep their order
    otherwise. Among rows alike in all higher bits, a row whose bit is 0 is exceeded by those before
    it whose bit is 1. Such rows fill a block of the sorted positions, for ranks miss no number.

    >>> exceeded(np.array([2, 0, 3, 1])).tolist()
    [0, 1, 0, 2]
    """
    n = len(ranks)
    count, place = np.zeros(n, dtype=np.int32), np.arange(n, dtype=np.int32)  # half the memory to move about
    rows = place
    for bit in range(max(n - 1, 0).bit_length() - 1, -1, -1):
        one = (ranks[rows] >> bit) & 1
        start = (place >> (bit + 1)) << (bit + 1)
        before = np.cumsum(one, dtype=np.int32) - one
        ones = before - before[start]  # among the earlier rows of the block
        count[rows] += np.where(one, 0, ones)
        target = np.where(one, start + (1 << bit) + ones, place - ones)
        moved = np.empty_like(rows)
        moved[target] = rows
        rows = moved
    return count


def capital(p: np.ndarray) -> np.ndarray:
    """The logarithm (n,) of what both gamblers hold together after each p-value (n,)."""
    return np.logaddexp(jumper(p), histogram(p)) - np.log(2)


def jumper(p: np.ndarray) -> np.ndarray:
    """The logarithm (n,) of the simple jumper's capital.

    Capital is linear in what was held before, so that blocks of rows are run side by side from each
    of the three unit holdings, and chained afterwards.
    """
    n = len(p)
    length = min(math.isqrt(n) + 1, BLOCK)
    blocks = -(-n // length)
    padded = np.full(blocks * length, 0.5)  # of which any bet returns the stake
    padded[:n] = p
    returns = 1 + BETS * (padded.reshape(blocks, length, 1) - 0.5)
    held = np.broadcast_to(np.eye(3), (blocks, 3, 3))  # block, holding at its start, holding now
    totals = np.empty((blocks, length, 3))
    for step in range(length):
        held = ((1 - JUMP) * held + JUMP / 3 * held.sum(-1, keepdims=True)) * returns[:, step, None, :]
        totals[:, step] = held.sum(-1)
    own, scale = np.full(3, 1 / 3), 0.0
    path = np.empty((blocks, length))
    for block in range(blocks):
        path[block] = np.log(totals[block] @ own) + scale
        own = own @ held[block]
        scale += np.log(own.sum())
        own = own / own.sum()
    return path.ravel()[:n]


def histogram(p: np.ndarray) -> np.ndarray:
    """The logarithm (n,) of the capital of betting the histogram of earlier p-values."""
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    order = np.argsort(bins, kind="stable")
    counts = np.bincount(bins, minlength=BINS)
    earlier = np.empty(len(p), dtype=np.int64)
    earlier[order] = np.arange(len(p)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.cumsum(np.log(BINS * (earlier + 1) / (np.arange(len(p)) + BINS)))
