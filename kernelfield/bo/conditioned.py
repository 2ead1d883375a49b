"""What a surrogate believes once it has been told of more observations, without a refit.

Where the joint law of f at new points X' and at any X is Gaussian, so is that of f(X) given
observations y = f(X') + e, e ~ N(0, R):

    mean        m(X) + C(X, X') (C(X', X') + R)^-1 (y - m(X')),
    covariance  C(X, X) - C(X, X') (C(X', X') + R)^-1 C(X', X),

m and C being the posterior's own. For a process this is the posterior given all data, its uncertain mean
included. A Student-t law stays one: with k numbers observed, S = (y - m)' A^-1 (y - m) and A the scale
matrix of y, alpha grows by k / 2 and beta by S / 2. Other scale mixtures are answered by their exact mean
and covariance, as a Gaussian law.

A weighted set of functions f_j moves by the gain of its own mean and covariance, C being that of the set,

    f_j -> f_j + C(X, X') A^-1 (y - mean) - C(X, X') L^-T (L + I)^-1 (f_j(X') - mean),    A = C(X', X') + R = L L',

in units in which R is the identity. It then has the mean and the covariance of the formulas above with nothing
drawn at random, and is differentiable where an eigendecomposition is not.

Everything is a function of tensors: observations may come in batches (fantasies), and gradients flow
to them and to all points.

Sources: Rasmussen & Williams (2006), appendix A.2; Shah, Wilson & Ghahramani (2014), "Student-t Processes as
Alternatives to Gaussian Processes", lemma 3; Whitaker & Hamill (2002), "Ensemble Data Assimilation without
Perturbed Observations".
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernelfield.core.contracts import Data, Surrogate
from kernelfield.core.convolved import Convolved
from kernelfield.core.mixing import InverseGamma, Unit
from kernelfield.core.numerics import cholesky, schur
from kernelfield.core.pathwise import Pathwise
from kernelfield.core.posterior import Binned, Draws, Elliptical, Posterior
from kernelfield.estimators.scaling import Scaled
from kernelfield.models.conditioned import FittedProcess
from kernelfield.models.neural.deep_kernel import FittedDeepKernel

EXACT = 1e-12  # the least noise of an observation by a finite set of functions, relative to their mean variance


@dataclass(frozen=True, eq=False)
class Told:
    """Observations after the fit.

    Shapes: X (*b, k, d), Y (*f, *b, k, m), with f fantasies at the same points; noise, the variances of the
    observations, broadcasts to Y.
    """

    X: Tensor
    Y: Tensor
    noise: Tensor

    @property
    def noises(self) -> Tensor:
        """The noise with the last two axes of Y, (*c, k, m)."""
        return self.noise.expand(torch.broadcast_shapes(self.noise.shape, self.Y.shape[-2:]))

    def chosen(self, outputs: Sequence[int]) -> "Told":
        """What was observed of some of the outputs."""
        return Told(self.X, self.Y[..., list(outputs)], self.noises[..., list(outputs)])

    def joined(self, more: "Told") -> "Told":
        """These observations, then those of `more`."""
        batch = torch.broadcast_shapes(self.X.shape[:-2], more.X.shape[:-2])
        X = torch.cat([_expanded(told.X, batch) for told in (self, more)], -2)
        batch = torch.broadcast_shapes(self.Y.shape[:-2], more.Y.shape[:-2])
        Y = torch.cat([_expanded(told.Y, batch) for told in (self, more)], -2)
        parts = [
            told.noise.expand(torch.broadcast_shapes(told.noise.shape, told.Y.shape[-2:])) for told in (self, more)
        ]
        batch = torch.broadcast_shapes(parts[0].shape[:-2], parts[1].shape[:-2])
        return Told(X, Y, torch.cat([_expanded(part, batch) for part in parts], -2))


@dataclass(frozen=True, eq=False)
class Belief(Surrogate):
    """A surrogate and what it has been told of since its fit; itself a surrogate.

    >>> from kernelfield.core.contracts import Data
    >>> from kernelfield.models.process import Process
    >>> X = torch.linspace(0, 1, 5, dtype=torch.double)[:, None]
    >>> fitted = Process("rbf", noise=1e-4, steps=0).fit(Data(X, torch.sin(6 * X)), generator=torch.Generator())
    >>> belief = Belief(fitted).told(X[:1] + 2, X[:1] + 0.5)
    >>> round(belief.law(X[:1] + 2).mean.item(), 3)
    0.5
    """

    surrogate: Surrogate
    more: Told | None = None

    @property
    def outputs(self) -> int:
        return self.surrogate.outputs

    @property
    def batch_shape(self) -> torch.Size:
        """Of the observations: predictions have it broadcast with that of their points."""
        inner = self.surrogate.inner if isinstance(self.surrogate, Chosen) else None
        before = inner.batch_shape if isinstance(inner, Belief) else torch.Size()
        if self.more is None:
            return before
        return torch.broadcast_shapes(before, self.more.X.shape[:-2], self.more.Y.shape[:-2])

    def footprint(self, rows: int) -> int:
        return self.surrogate.footprint(rows)

    def posterior(self, X: Tensor, *, noise: bool = False) -> Posterior:
        return self.law(X, noise=noise)

    def condition(self, data: Data) -> "Belief":
        noise = noise_variance(self.surrogate, data.X)
        return self.told(data.X, data.Y, noise if data.weight is None else noise / data.weight[:, None])

    def told(self, X: Tensor, Y: Tensor, noise: Tensor | None = None) -> "Belief":
        """The belief once Y was observed at X; noise None is that of the surrogate.

        Shapes: as for `Told`; missing dimensions of a batch are the same for all of it.
        """
        if noise is None:
            noise = noise_variance(self.surrogate, X)
        more = Told(X, Y, noise)
        return replace(self, more=more if self.more is None else self.more.joined(more))

    def chosen(self, outputs: Sequence[int]) -> "Belief":
        """The belief about some of the outputs."""
        # What is observed of one output may say something of another, so that the choice comes last.
        return Belief(Chosen(self.surrogate if self.more is None else self, tuple(outputs)))

    def law(self, X: Tensor, *, noise: bool = False) -> Posterior:
        """The law of f, or of y with noise=True, at X (*b, q, d).

        Errors: ValueError for a law that has no joint covariance.
        """
        if self.more is None:
            return _plain(self.surrogate.posterior(X, noise=noise))
        more, k = self.more, self.more.X.shape[-2]
        batch = torch.broadcast_shapes(more.X.shape[:-2], X.shape[:-2])
        both = torch.cat([_expanded(more.X, batch), _expanded(X, batch)], -2)
        match _plain(self.surrogate.posterior(both)):
            case Draws() as prior:
                added = self.surrogate.posterior(both, noise=True).noise if noise else None  # type: ignore[attr-defined]
                return _moved(prior, added, more, k)
            case Elliptical() as prior:
                added = noise_variance(self.surrogate, X) if noise else None
                return _conditional(prior, added, more, k)
            case other:
                raise ValueError(
                    f"a law of the kind {type(other).__name__} says nothing of how points depend on each other, so "
                    "that it cannot take in observations; refit the model, or use acquisitions that do not fantasise"
                )


@dataclass(frozen=True, eq=False)
class Chosen(Surrogate):
    """Some of the outputs of a surrogate."""

    inner: Surrogate
    index: tuple[int, ...]

    @property
    def outputs(self) -> int:
        return len(self.index)

    def footprint(self, rows: int) -> int:
        return self.inner.footprint(rows)

    def posterior(self, X: Tensor, *, noise: bool = False) -> Posterior:
        return chosen(_plain(self.inner.posterior(X, noise=noise)), self.index)


def noise_variance(surrogate: Surrogate, X: Tensor) -> Tensor:
    """The variance of y about f at X (*b, n, d), in a shape that broadcasts to (*b, n, m)."""
    match surrogate:
        case Scaled():
            inside = noise_variance(surrogate.inner, surrogate.to_model_X(X))
            return inside * surrogate.to_model_y.scale.square()
        case FittedDeepKernel():
            return noise_variance(surrogate.process, X)
        case FittedProcess():
            return X.new_full((X.shape[-2], surrogate.outputs), surrogate.noise * surrogate.scale_law.mean)
        case _:
            pair = (surrogate.posterior(X, noise=noise).variance for noise in (True, False))
            whole, own = pair
            return (whole - own).clamp_min(0)


def joint_covariance(law: Posterior) -> Tensor:
    """The covariance (*b, n m, n m), point-major, of all values of a law.

    Errors: ValueError where it is infinite, NotImplementedError where the law has none.
    """
    match law:
        case Elliptical() | Pathwise() | Convolved():
            return law.covariance
        case Draws():
            gaps = (law.values - law.mean.unsqueeze(-3)).flatten(-2) * law.weights[:, None].sqrt()
            own = law.variance - law._average((law.values - law.mean.unsqueeze(-3)).square())
            return gaps.mT @ gaps + torch.diag_embed(own.expand(law.mean.shape).flatten(-2).clamp_min(0))
        case Binned():
            return torch.diag_embed(law.variance.flatten(-2))
        case _:
            raise NotImplementedError(
                f"a law of the kind {type(law).__name__} has no joint covariance; use acquisitions by samples"
            )


def noisier(law: Posterior, noise: Tensor) -> Posterior:
    """The law of f + e, e with variances `noise` that broadcast to (*b, n, m).

    Errors: NotImplementedError for a law that is neither elliptical nor a set of functions.
    """
    match law:
        case Draws():
            return replace(law, noise=noise.expand(law.mean.shape))
        case Elliptical():
            added = torch.diag_embed(noise.expand(law.mean.shape).flatten(-2))
            scale = (law.covariance + added) / law.mixing.mean
            return Elliptical(law.loc, scale, law.mixing)
        case _:
            raise NotImplementedError(
                f"noise of a given variance cannot be added to a law of the kind {type(law).__name__}; "
                "use observation_noise=True"
            )


def chosen(law: Posterior, outputs: Sequence[int]) -> Posterior:
    """The law of some of the outputs.

    Errors: NotImplementedError for a law that is none of the three families.
    """
    index = list(outputs)
    match law:
        case Draws():
            noise = law.noise.expand(law.values.shape if law.noise.ndim == law.values.ndim else law.mean.shape)
            return replace(law, values=law.values[..., index], noise=noise[..., index])
        case Elliptical():
            n, m = law.mean.shape[-2:]
            rows = (m * torch.arange(n)[:, None] + torch.tensor(index)).flatten().to(law.loc.device)
            scale = _scale(law)[..., rows[:, None], rows]
            return Elliptical(law.loc[..., index], scale, law.mixing)
        case Binned():
            return replace(law, logits=law.logits[..., index, :], edges=law.edges[..., index, :])
        case _:
            raise NotImplementedError(f"outputs cannot be chosen from a law of the kind {type(law).__name__}")


def weighted(law: Elliptical | Draws, weights: Tensor, offset: float) -> Posterior:
    """The law of the sum over outputs of weights (m,) times f, plus the offset."""
    if isinstance(law, Draws):
        own = law.noise.expand(law.values.shape if law.noise.ndim == law.values.ndim else law.mean.shape)
        noise = (own @ weights.square()).unsqueeze(-1)
        return replace(law, values=(law.values @ weights).unsqueeze(-1) + offset, noise=noise)
    n, m = law.mean.shape[-2:]
    blocks = _scale(law).unflatten(-1, (n, m)).unflatten(-3, (n, m))
    scale = torch.einsum("...nimj,i,j->...nm", blocks, weights, weights)
    return Elliptical((law.loc @ weights).unsqueeze(-1) + offset, scale, law.mixing)


def _scale(law: Elliptical) -> Tensor:
    """The dense scale of a law, its units included."""
    rows = torch.as_tensor(law.unit).to(law.loc).expand(law.loc.shape[-2:]).flatten()
    return rows[:, None] * law.scale.to_dense() * rows


def _plain(law: Posterior) -> Posterior:
    """A law that is drawn by paths as the elliptical law that it is, which has joint draws at all points."""
    return law.law if isinstance(law, Pathwise) else law


def _expanded(x: Tensor, batch: torch.Size) -> Tensor:
    return x.expand(*batch, *x.shape[-2:])


def _conditional(prior: Elliptical, noise: Tensor | None, told: Told, k: int) -> Elliptical:
    """The law at the points after the first k, given what was observed at those."""
    m = prior.loc.shape[-1]
    C, count = prior.covariance, k * m
    A = C[..., :count, :count] + torch.diag_embed(told.noises.flatten(-2))
    L = cholesky(A)
    half = torch.linalg.solve_triangular(L, C[..., :count, count:], upper=False)
    gap = (told.Y - prior.loc[..., :k, :]).flatten(-2).unsqueeze(-1)
    white = torch.linalg.solve_triangular(L, gap, upper=False)
    loc = prior.loc[..., k:, :] + (half.mT @ white).squeeze(-1).unflatten(-1, (-1, m))
    scale = schur(C[..., count:, count:], half)
    if noise is not None:
        scale = scale + torch.diag_embed(noise.expand(torch.broadcast_shapes(noise.shape, loc.shape[-2:])).flatten(-2))
    scale = scale.expand(*loc.shape[:-2], *scale.shape[-2:])
    match prior.mixing:
        case Unit():
            return Elliptical(loc, scale)
        case InverseGamma(alpha, beta):
            size, shape = prior.mixing.mean, alpha + count / 2
            S = size * white.square().sum((-2, -1))[..., None, None]
            return Elliptical(loc, scale * (beta + S / 2) / (shape * size), InverseGamma.student(2 * shape))
        case mixing:
            forms = mixing.mean * white.square().sum((-2, -1))
            grown = mixing.means(forms.flatten(), count).reshape(forms.shape) / mixing.mean
            return Elliptical(loc, scale * grown[..., None, None])


def _moved(prior: Draws, noise: Tensor | None, told: Told, k: int) -> Draws:
    """The functions at the points after the first k, moved by what was observed at those."""
    mean, (_, m) = prior.mean, prior.values.shape[-2:]
    gaps = (prior.values - mean.unsqueeze(-3)).flatten(-2)
    # Without noise, what is far below the rounding of the spread of the functions stands for none.
    least = EXACT * gaps[..., : k * m].square().mean((-2, -1))[..., None, None]
    noise_here = torch.maximum(told.noises, least)
    root = noise_here.flatten(-2).rsqrt()
    here = gaps[..., : k * m] * root.unsqueeze(-2)
    share = prior.weights[:, None]
    eye = torch.eye(k * m).to(here)
    L = cholesky(eye + here.mT @ (share * here))
    cross = (share * here).mT @ gaps[..., k * m :]
    half = torch.linalg.solve_triangular(L, cross, upper=False)  # L^-1 C(X', X)
    gap = ((told.Y - mean[..., :k, :]).flatten(-2) * root).unsqueeze(-1)
    step = half.mT @ torch.linalg.solve_triangular(L, gap, upper=False)
    shrink = half.mT @ torch.linalg.solve_triangular(L + eye, here.mT, upper=False)
    moved = (gaps[..., k * m :] - shrink.mT) + (mean[..., k:, :].flatten(-2) + step.squeeze(-1)).unsqueeze(-2)
    values = moved.unflatten(-1, (-1, m))
    if noise is None:
        return Draws(values, prior.weights, values.new_zeros(()))
    own = noise.ndim == prior.values.ndim
    noise = noise.expand(prior.values.shape if own else mean.shape)[..., k:, :]
    # A noise of each function must keep the axes of the values, also where fantasies add to them.
    return Draws(values, prior.weights, noise.expand(values.shape) if own else noise)
