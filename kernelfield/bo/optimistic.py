"""Optimism over the weights of a trained network: the greatest value that a plausible network has at a point.

With w0 the weights of the network f_x(w) that was fitted, g_i its slope in them at trial i, P the
diagonal matrix of prior precisions and v the noise of the surrogate, by trial where it is known,

    Sigma = P + sum g_i g_i' / v,        w_t = w0 + Sigma^-1 sum g_i (y_i - f_i(w0)) / v,
    GO-UCB(x)  = max of f_x(w) over |w - w_t|^2_Sigma <= beta,
    NTK-UCB(x) = f_x(w0) + g_x' (w_t - w0) + sqrt(beta) |g_x|_{Sigma^-1}.

The two are the same where f is linear in w. The source has lambda = v P, and Sigma and beta v times
these, which is the same ellipsoid; P, v and sqrt(beta) = `width` in standard deviations make NTK-UCB the
mean + width * std of the Gaussian process with mean f_x(w0) and kernel g_x' P^-1 g_x'. Its std is that of
Laplace's approximation with all weights; the mean differs from f_x(w0) by what training left of
the residuals, which w_t takes in. A trial that still runs is taken to end as w_t expects: w_t stays, Sigma grows.

The maximum is climbed to from w_t by spectral projected gradients, in coordinates in which the ellipsoid
is a ball. With u = P^1/2 (w - w_t), M = P^-1/2 Sigma P^-1/2 and h the slope of f_x in u, a step goes towards

    (u + r M^-1 h) / max(1, |u + r M^-1 h|_M / sqrt(beta)),

the first one with r so large that this is the maximiser of the linearisation, later ones with the
curvature that the last step met (Barzilai & Borwein), and is halved until it is uphill. So no value is below
f_x(w_t), each is attained in the ellipsoid, and the maximum is a local one. The slope in x is that of f_x
at the weights found (envelope theorem). With A = v^-1/2 J P^-1/2, of n rows or after QR of p, and
L L' = I + A A', no matrix is larger than n x p or p x p, whichever is less:

    M^-1 = I - (L^-1 A)' (L^-1 A).

Sources: Liu & Wang (2023), "Global Optimization with Parametric Function Approximation" (GO-UCB); Zhou,
Li & Gu (2020), "Neural Contextual Bandits with UCB-based Exploration" (the linearised bonus); Birgin,
Martinez & Raydan (2000), "Nonmonotone Spectral Projected Gradient Methods on Convex Sets", here monotone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.func import vmap

from kernelfield.bo.improvement import Acquisition, Differentiable
from kernelfield.core.contracts import Surrogate
from kernelfield.core.numerics import cholesky, require_memory, rounding
from kernelfield.estimators.scaling import Scaled
from kernelfield.models.neural.curvature import Tangent, prior_std
from kernelfield.models.neural.ensemble import FittedEnsemble
from kernelfield.models.neural.laplace import FittedLaplaceNetwork
from kernelfield.models.neural.last_layer import FittedLastLayer
from kernelfield.models.neural.network import Network

LIMIT = 2**20  # numbers of weights, one vector a point, that are moved at once
STEPS = 50  # of a climb, at most
FIRST = 3  # of one that tells only where to look; each gains less than the one before
CLOSE = 1e-5  # what the linearisation still promises, as a share of width * |g|, at which a climb ends
UPHILL = 1e-4  # share of what the slope promises that a step must gain
SHORT = 1e-6  # share of a step, below which none is uphill: where a rectifier has its kink
FAR = 1e6  # widths of the ball that a step goes at most before it is projected


@dataclass(frozen=True, eq=False)
class Weights:
    """A trained network of one output: parameters (p,), their prior's standard deviations (p,), and its noise."""

    network: Network
    parameters: Tensor
    spread: Tensor
    noise: Tensor


def weights(surrogate: Surrogate) -> Weights:
    """The trained network of a surrogate, in model units.

    Of Laplace's approximation it is the one at the mode, in any form, with precisions and noise as
    learned. Of a last layer, all weights count, with the precision of the last ones, which are their
    posterior mean. Of an ensemble it is the first member, with the prior of the architecture.

    Errors: ValueError for a surrogate that is not one trained network, or has several outputs.
    """
    if surrogate.outputs != 1:
        raise ValueError(f"optimism over weights is for one output, got {surrogate.outputs}; fit each by itself")
    match surrogate:
        case FittedLaplaceNetwork():
            tangent, noise = replace(surrogate.tangent, last=False), surrogate.noise
            precision = surrogate.precision
            each = precision if precision.numel() == 1 else precision[tangent.labels]
            parameters = tangent.parameters
        case FittedLastLayer():
            tangent, each, noise = surrogate.features.tangent, surrogate.precision, surrogate.noise[0]
            mean = surrogate.moments.mean(surrogate.precision, surrogate.noise).flatten()
            last = tangent.labels >= 0
            parameters = tangent.parameters.clone()
            parameters[last] = prior_std(tangent.network).to(mean)[last] * mean
        case FittedEnsemble(noise=Tensor() as noises, priors=None, transform=None):
            tangent, noise = Tangent(surrogate.network, surrogate.parameters[0]), noises[0, 0]
            parameters, each = tangent.parameters, noise.new_ones(1)
        case _:
            raise ValueError(
                f"optimism over weights needs one trained network, and {type(surrogate).__name__} has none; take "
                "surrogate='laplace', 'last-layer' or 'ensemble', or acquisition='ucb', which for an exact process "
                "is the same thing"
            )
    return Weights(tangent.network, parameters, prior_std(tangent.network).to(parameters) / each.sqrt(), noise)


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """Weights that the trials make plausible: |w - w_t|_Sigma within some width; see the module docstring.

    Shapes: shift (p,) is w_t - w0; rows (r, p) are A, or what A'A has in common with it.

    >>> one = torch.ones(1, dtype=torch.float64)
    >>> network = Network(torch.nn.Linear(1, 1, bias=False), inputs=1, outputs=1)
    >>> prior = Weights(network, 0 * one, spread=one, noise=one[0])
    >>> around = Ellipsoid.around(prior, X=one[None], y=one)  # w ~ N(0, 1) and 1 = w + e, e ~ N(0, 1)
    >>> around.centre, around.solved(one[None])[1].square()  # w ~ N(1/2, 1/2)
    (tensor([0.5000], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
    """

    prior: Weights
    shift: Tensor
    rows: Tensor

    @classmethod
    def around(cls, prior: Weights, X: Tensor, y: Tensor, *, weight: Tensor | None = None) -> "Ellipsoid":
        """After trials y (n,) at X (n, d), in model units; trial i counts weight[i] times.

        Errors: MemoryError where the slopes of all trials do not fit.
        """
        values, A = _rows(prior, X)
        gap = (y - values) / prior.noise.sqrt()
        if weight is not None:
            A, gap = A * weight.sqrt()[:, None], gap * weight.sqrt()
        if len(A) > A.shape[1]:
            Q, A = torch.linalg.qr(A)
            gap = Q.mT @ gap
        # Pushed through, A' (I + A A')^-1 gap does not cancel as Sigma^-1 of a vector does.
        step = torch.cholesky_solve(gap[:, None], _factor(A))[:, 0]
        return cls(prior, prior.spread * (A.mT @ step), A)

    def joined(self, pending: Tensor) -> "Ellipsoid":
        """Once trials at X (k, d) end as w_t expects."""
        if not len(pending):
            return self
        A = torch.cat([self.rows, _rows(self.prior, pending)[1]])
        return replace(self, rows=torch.linalg.qr(A, mode="r").R if len(A) > A.shape[1] else A)

    @property
    def centre(self) -> Tensor:
        """w_t (p,)."""
        return self.prior.parameters + self.shift

    def solved(self, G: Tensor) -> tuple[Tensor, Tensor]:
        """M^-1 h (r, p) and |g|_{Sigma^-1} (r,) for slopes h = P^-1/2 g, G (r, p)."""
        along = G @ self._half.mT
        whole = G.square().sum(-1)
        square = whole - along.square().sum(-1) + rounding(whole, self._half)
        return G - along @ self._half, square.clamp_min(torch.finfo(G.dtype).tiny).sqrt()

    @cached_property
    def _half(self) -> Tensor:
        """L^-1 A (r, p)."""
        return torch.linalg.solve_triangular(_factor(self.rows), self.rows, upper=False)


def _factor(A: Tensor) -> Tensor:
    """L with L L' = I + A A'."""
    return cholesky(A @ A.mT + torch.eye(len(A)).to(A))


def _rows(prior: Weights, X: Tensor) -> tuple[Tensor, Tensor]:
    """f (n,) and A (n, p) at w0."""
    n, p = len(X), prior.network.size  # which also makes the network's module, that no vmap could
    remedy = "take a smaller network, or acquisition='ucb'"
    require_memory(4 * n * p * X.element_size(), X.device, what=f"{n} slopes in {p} weights", remedy=remedy)
    pairs = [_slopes(prior.network, prior.parameters.expand(len(part), -1), part) for part in _parts(X, p)]
    values, J = (torch.cat(column) for column in zip(*pairs, strict=True))
    return values, J * (prior.spread / prior.noise.sqrt())


def _parts(X: Tensor, p: int) -> Iterator[Tensor]:
    yield from X.split(max(1, LIMIT // p))


def _values(network: Network, theta: Tensor, X: Tensor) -> Tensor:
    """Networks with parameters theta (r, p), each at its own point of X (r, d), (r,)."""
    return vmap(lambda own, x: network.call(own, x[None])[0, 0])(theta, X)


def _slopes(network: Network, theta: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
    """Values (r,) and slopes (r, p) in the parameters; with a graph where X has one."""
    follows = X.requires_grad
    with torch.enable_grad():
        moving = theta.detach().clone().requires_grad_()
        value = _values(network, moving, X)
        (slope,) = torch.autograd.grad(value.sum(), moving, create_graph=follows)
    return (value, slope) if follows else (value.detach(), slope)


@dataclass(frozen=True, eq=False)
class GreatestValue(Acquisition):
    """The greatest f_x(w) over an ellipsoid of weights, X and values being in model units."""

    ellipsoid: Ellipsoid
    width: float

    def values(self, X: Tensor) -> Tensor:
        return torch.cat([self._climbed(part)[0] for part in self._parts(X)])

    def rough(self, X: Tensor) -> Tensor:
        return torch.cat([self._climbed(part, FIRST)[0] for part in self._parts(X)])

    def slopes(self, X: Tensor) -> tuple[Tensor, Tensor]:
        values, slopes = [], []
        for part in self._parts(X):
            _, theta = self._climbed(part)
            with torch.enable_grad():
                x = part.detach().requires_grad_()
                value = _values(self.ellipsoid.prior.network, theta, x)
                slopes.append(torch.autograd.grad(value.sum(), x)[0])
            values.append(value.detach())
        return torch.cat(values), torch.cat(slopes)

    def _parts(self, X: Tensor) -> Iterator[Tensor]:
        return _parts(X, len(self.ellipsoid.shift))

    @torch.no_grad()
    def _climbed(self, X: Tensor, steps: int = STEPS) -> tuple[Tensor, Tensor]:
        """The greatest values (r,) found and the weights (r, p) that have them."""
        u = X.new_zeros(len(X), len(self.ellipsoid.shift))
        best, h = self._slopes(u, X)
        now = _Place.of(self.ellipsoid, u, u.clone(), h)
        rate, share = FAR * self.width / now.length, torch.ones_like(best)
        active = torch.arange(len(X), device=X.device)
        for _ in range(steps):
            here, t = now.rows(active), share[active, None]
            far, Mfar = (a + rate[active, None] * b for a, b in ((here.u, here.inverse), (here.Mu, here.h)))
            back = (self.width / (far * Mfar).sum(-1, keepdim=True).sqrt()).clamp_max(1.0)
            step, Mstep = t * (back * far - here.u), t * (back * Mfar - here.Mu)
            value, h = self._slopes(here.u + step, X[active])
            up = value > best[active] + UPHILL * (here.h * step).sum(-1)
            bend, most = ((here.h - h) * step).sum(-1), FAR * self.width / here.length
            length = torch.where(bend > 0, (step * Mstep).sum(-1) / bend, most).minimum(most)
            moved = active[up]
            best[moved], rate[moved] = value[up], length[up]
            now.put(moved, _Place.of(self.ellipsoid, (here.u + step)[up], (here.Mu + Mstep)[up], h[up]))
            share[active] = torch.where(up, 1.0, share[active] / 2)
            active = active[(now.promise(self.width)[active] > CLOSE) & (share[active] > SHORT)]
            if not len(active):
                break
        return best, self._theta(now.u)

    def _theta(self, u: Tensor) -> Tensor:
        return self.ellipsoid.centre + self.ellipsoid.prior.spread * u

    def _slopes(self, u: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
        """Values (r,) and slopes h (r, p) in u."""
        value, G = _slopes(self.ellipsoid.prior.network, self._theta(u), X)
        return value, self.ellipsoid.prior.spread * G


@dataclass(frozen=True, eq=False)
class _Place:
    """Where climbs are: u, M u, the slope h and M^-1 h (r, p), and the length (r,) of the slope."""

    u: Tensor
    Mu: Tensor
    h: Tensor
    inverse: Tensor
    length: Tensor

    @classmethod
    def of(cls, ellipsoid: Ellipsoid, u: Tensor, Mu: Tensor, h: Tensor) -> "_Place":
        return cls(u, Mu, h, *ellipsoid.solved(h))

    def promise(self, width: float) -> Tensor:
        """What the linearisation gains at its maximiser over here (r,), a share of width * |g|."""
        return 1 - (self.h * self.u).sum(-1) / (width * self.length)

    def rows(self, index: Tensor) -> "_Place":
        return _Place(self.u[index], self.Mu[index], self.h[index], self.inverse[index], self.length[index])

    def put(self, index: Tensor, there: "_Place") -> None:
        """Some rows anew, in place: a climb is long and its arrays are large."""
        for old, new in zip(vars(self).values(), vars(there).values(), strict=True):
            old[index] = new


def greatest_value(
    scaled: Scaled, X: Tensor, y: Tensor, pending: Tensor, width: float, *, weight: Tensor | None = None
) -> Acquisition:
    """GO-UCB, after trials y (n,) at X (n, d) and while those at `pending` (k, d) run, in the user's units.

    weight : (n,), inverse to the noise of the trials, that of the surrogate having 1; None gives all of them that.
    """
    return InUnits(GreatestValue(_ellipsoid(scaled, X, y, pending, weight), width), scaled)


def linearised_bound(
    scaled: Scaled, X: Tensor, y: Tensor, pending: Tensor, width: float, *, weight: Tensor | None = None
) -> Acquisition:
    """NTK-UCB, likewise."""
    ellipsoid = _ellipsoid(scaled, X, y, pending, weight)
    prior = ellipsoid.prior

    def bound(points: Tensor) -> Tensor:
        parts = []
        for part in _parts(points, len(prior.parameters)):
            value, G = _slopes(prior.network, prior.parameters.expand(len(part), -1), part)
            parts.append(value + G @ ellipsoid.shift + width * ellipsoid.solved(prior.spread * G)[1])
        return torch.cat(parts)

    return InUnits(Differentiable(bound), scaled)


def _ellipsoid(scaled: Scaled, X: Tensor, y: Tensor, pending: Tensor, weight: Tensor | None) -> Ellipsoid:
    targets = scaled.to_model_y(y[:, None])[:, 0]
    with torch.no_grad():
        around = Ellipsoid.around(weights(scaled.inner), scaled.to_model_X(X), targets, weight=weight)
        return around.joined(scaled.to_model_X(pending))


@dataclass(frozen=True, eq=False)
class InUnits(Acquisition):
    """An acquisition in model units, of values of the first output, in those of the user."""

    inner: Acquisition
    scaled: Scaled

    def values(self, X: Tensor) -> Tensor:
        return self._back(self.inner.values(self.scaled.to_model_X(X)))

    def rough(self, X: Tensor) -> Tensor:
        return self._back(self.inner.rough(self.scaled.to_model_X(X)))

    def slopes(self, X: Tensor) -> tuple[Tensor, Tensor]:
        values, slopes = self.inner.slopes(self.scaled.to_model_X(X))
        return self._back(values), slopes * self.scaled.to_model_y.scale[0] / self.scaled.to_model_X.scale

    def _back(self, values: Tensor) -> Tensor:
        return values * self.scaled.to_model_y.scale[0] + self.scaled.to_model_y.shift[0]
