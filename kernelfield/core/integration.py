"""Integrals over the logarithm of a positive variable, by one adaptive rule.

The integrands are log f_j(u) for u = log s, many j at once on shared points. A scan of s from
1e-304 to 1e304 finds where any of them is within exp(-FALL) of its greatest value; panels there
are halved until the 21-point Kronrod rule and the 10-point Gauss rule inside of it agree for
every j. Everything is relative to the greatest value and in logarithms, so nothing overflows.

For analytic integrands the Kronrod rule is then right to rounding, as it is of order 32 where
the one it is compared with is of order 20. A jump costs some forty halvings of one panel.
A peak of its own that is narrower than the scan's half a unit of log s may be missed; the one of
s^(-N/2) exp(-S / 2s), however narrow, is not, as it falls off smoothly over many units.

SciPy's `quad_vec` has the rule for values; heights here are logarithms, which span hundreds of nats.

Source: Piessens et al. (1983), "QUADPACK", routine QK21.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LogIntegrands = Callable[[Tensor], Tensor]  # u (k,) to log f (k, j), f > 0 or zero

REACH = 700.0  # of |log s|, so that s and 1 / s are finite numbers
CELLS = 700  # panels of the scan, of width 2: functions such as exp(-1/s) bend on a scale of pi / 2
SCAN = 4  # points of the scan in each of them
FALL = 42.0  # nats below the greatest value where an integrand is dropped: 1e-18
FALLEN = 30.0  # nats by which it must have fallen at both ends for its integral to be called finite
AGREEMENT = 1e-11  # of the two rules in each panel, relative to the whole; the better rule is far closer
NEAR = 2.0  # nats: points of the rule must come this close to the greatest value of the scan
ROUNDS = 60  # halvings of one panel: a jump is then narrower than a rounding error of log s

_NODES = (
    0.995657163025808080735527280689003,
    0.973906528517171720077964012084452,
    0.930157491355708226001207180059508,
    0.865063366688984510732096688423493,
    0.780817726586416897063717578345042,
    0.679409568299024406234327365114874,
    0.562757134668604683339000099272694,
    0.433395394129247190799265943165784,
    0.294392862701460198131126603103866,
    0.148874338981631210884826001129720,
    0.0,
)
_KRONROD = (
    0.011694638867371874278064396062192,
    0.032558162307964727478818972459390,
    0.054755896574351996031381300244580,
    0.075039674810919952767043140916190,
    0.093125454583697605535065465083366,
    0.109387158802297641899210590325805,
    0.123491976262065851077958109585166,
    0.134709217311473325928054001771707,
    0.142775938577060080797094273138717,
    0.147739104901338491374841515972068,
    0.149445554002916905664936468389821,
)
_GAUSS = (
    0.0,
    0.066671344308688137593568809893332,
    0.0,
    0.149451349150580593145863397657697,
    0.0,
    0.219086362515982043995534934228163,
    0.0,
    0.269266719309996355091226921569469,
    0.0,
    0.295524224714752870173815619188769,
    0.0,
)


def _mirrored(half: tuple[float, ...], sign: float) -> Tensor:
    """The whole rule from its half, the middle last."""
    values = torch.tensor(half, dtype=torch.float64)
    return torch.cat([sign * values[:-1], values.flip(0)])


NODES, KRONROD, GAUSS = _mirrored(_NODES, -1.0), _mirrored(_KRONROD, 1.0), _mirrored(_GAUSS, 1.0)


@dataclass(frozen=True, eq=False)
class Rule:
    """Points u (k,), increasing, and the logarithms of their weights, for j integrands.

    finite (j,): which of the integrals exist, as far as double precision can tell; edges (p + 1,)
    of the panels, each with 21 of the points.
    """

    u: Tensor
    log_weight: Tensor
    finite: Tensor
    edges: Tensor

    def log_integral(self, values: Tensor) -> Tensor:
        """log int f_j du (j,) from log f at the points (k, j)."""
        return (self.log_weight[:, None] + values).logsumexp(0)


def rule_for(log_f: LogIntegrands) -> Rule:
    """The rule for these integrands, in double precision on the CPU, outside of any graph.

    Errors: ValueError if all integrands are zero everywhere.

    >>> gamma = rule_for(lambda u: (3 * u - u.exp())[:, None])
    >>> round(gamma.log_integral((3 * gamma.u - gamma.u.exp())[:, None]).exp().item(), 12)  # Gamma(3)
    2.0
    """
    with torch.inference_mode(False), torch.no_grad():
        scan = torch.linspace(-REACH, REACH, CELLS * SCAN + 1, dtype=torch.float64)
        values = log_f(scan)
        top = values.amax(0)
        finite = (values[[0, -1]] < top - FALLEN).all(0)
        near = (values > top - FALL).any(1)
        if not near.any():
            raise ValueError("the density of s is zero wherever it was asked for, from 1e-304 to 1e304")
        cells = torch.cat([near[:-1].reshape(-1, SCAN), near[SCAN::SCAN, None]], 1).any(1)
        first, last = cells.nonzero()[[0, -1], 0].tolist()
        edges = _refined(log_f, scan[first * SCAN : (last + 1) * SCAN + 1 : SCAN], top, scan[values.argmax(0)])
        centre, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
        u = centre[:, None] + half[:, None] * NODES
        log_weight = half.log()[:, None] + KRONROD.log()
        return Rule(u.flatten(), log_weight.flatten(), finite, edges)


def _refined(log_f: LogIntegrands, edges: Tensor, seen: Tensor, where: Tensor) -> Tensor:
    """The edges with panels halved until both rules agree in each of them.

    seen (j,) is the greatest value of the scan and `where` its place: a peak that is narrow and at
    the edge of a panel is not missed by both rules, in agreement.
    """
    low, high = edges[:-1], edges[1:]
    settled = [edges]
    top = torch.full_like(seen, -sys.float_info.max)
    done = torch.zeros_like(seen)  # integrals of settled panels, in units of exp(top)
    for _ in range(ROUNDS):
        half = (high - low) / 2
        u = (low + half)[:, None] + half[:, None] * NODES
        values = log_f(u.flatten()).unflatten(0, u.shape)
        peak = torch.maximum(top, values.amax((0, 1)))
        done, top = done * (top - peak).exp(), peak
        scaled = (values - top).exp()
        better = half[:, None] * torch.einsum("pkj,k->pj", scaled, KRONROD)
        gap = (better - half[:, None] * torch.einsum("pkj,k->pj", scaled, GAUSS)).abs()
        holds = (low[:, None] <= where) & (where <= high[:, None])
        split = ((gap > AGREEMENT * (done + better.sum(0))) | (holds & (top < seen - NEAR))).any(1)
        if not split.any():
            break
        done = done + better[~split].sum(0)
        middle = (low + half)[split]
        settled.append(middle)
        low, high = torch.cat([low[split], middle]), torch.cat([middle, high[split]])
    return torch.cat(settled).sort().values
