"""Spectral mixtures: stationary kernels given by the bumps of their power spectrum.

`SpectralMixture` is the mixture that its name says, in any number of inputs. Its spectrum is
sum_q w_q / 2 [p_q(s - mu_q) + p_q(s + mu_q)], p_q a product of bumps over the inputs, so that

    k(x, x') = sum_q w_q cos(2 pi mu_q . tau) prod_d g(tau_d; l_qd),    tau = x - x'.

One cosine of the whole phase, and not a product of cosines over the inputs: waves may run in
any direction. `SpectralProduct` is a product over the inputs of mixtures in one input each,

    k(x, x') = outputscale * prod_d sum_q v_qd cos(2 pi mu_qd tau_d) g(tau_d; l_qd),    sum_q v_qd = 1,

whose matrix on a grid is a Kronecker product, with waves of all combinations of frequencies.
The two agree in one input. GPyTorch's SpectralMixtureKernel is the second in several inputs.

Weights are kept as logarithms, in which a flat prior is the Jeffreys prior 1 / w on them: the
evidence sends those of frequencies that the data do not need towards zero (`peaks` tells).
The formulas use differences, |.|, exp and cosines alone, which lazy matrices have as well.

Sources: Wilson & Adams (2013), "Gaussian Process Kernels for Pattern Discovery and
Extrapolation", eq. (9)-(12), in several inputs with the phase mu . tau that the transform of
their eq. (10) has; Fang et al. (2024), section 3, for Student-t bumps, products and log weights.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from gpytorch.constraints import Interval, Positive
from gpytorch.kernels import Kernel
from torch import Tensor, nn

from kernelfield.kernels.bumps import Bump, GaussianBump, StudentBump
from kernelfield.kernels.stationary import coincide, logarithmic
from kernelfield.kernels.waves import Slopes, Tiled, slopes_for, waves

SURVIVES = 1e-3  # the least share of the variance of a component that counts as present

Density = Literal["gaussian", "student_t"]


@dataclass(frozen=True)
class Peak:
    """One component of a spectrum.

    weight is its variance and share that of the whole; frequency and width of the bump (a
    standard deviation, or the scale of a Student-t) hold one number an input, in cycles a unit.
    """

    weight: float
    share: float
    frequency: tuple[float, ...]
    width: tuple[float, ...]


class SpectralKernel(Kernel):
    """What the kernels of this file share; see the module docstring.

    components : the number Q of bumps (in each input, for a product).
    density : "gaussian" bumps, with squared-exponential envelopes; or "student_t" ones with
        2 nu degrees of freedom and tails, with Matern envelopes of smoothness nu.
    nu : 0.5, 1.5, 2.5, 3.5 or 4.5.
    log_weights : False keeps weights through a softplus, as GPyTorch does.
    dims : the number d of inputs.

    `frequencies` start evenly spaced from 0 to 1 with lengthscales of one, which suits no data
    in particular: `kernelfield.models.spectral.Spectral` finds starts, or set them.

    Shapes: x1 (*b, n, d), x2 (*b, k, d); returns (*b, n, k), or (*b, n) with diag=True;
    lengthscales and frequencies (*batch_shape, Q, d).
    Units: lengthscales in those of the inputs, frequencies in cycles per unit, weights in
    squared units of y.
    Errors: ValueError for a number or a value that is not positive, or inputs of another d.
    """

    is_stationary = True

    def __init__(
        self,
        components: int,
        *,
        density: Density = "gaussian",
        nu: float = 2.5,
        log_weights: bool = True,
        dims: int = 1,
        weights_constraint: Interval | None = None,
        lengthscales_constraint: Interval | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, count in (("components", components), ("dims", dims)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if density not in ("gaussian", "student_t"):
            raise ValueError(f"density must be 'gaussian' or 'student_t', got {density!r}")
        self.components, self.density, self.nu, self.dims = components, density, nu, dims
        self.log_weights = log_weights
        self.bump: Bump = GaussianBump() if density == "gaussian" else StudentBump(nu)
        shape = (*self.batch_shape, components, dims)
        even = torch.linspace(0, 1, components)[:, None].expand(shape)
        self.raw_frequencies = nn.Parameter(even.clone())
        self.raw_lengthscales = nn.Parameter(torch.zeros(shape))
        self.register_constraint("raw_lengthscales", lengthscales_constraint or logarithmic())
        self.raw_weights = nn.Parameter(torch.zeros(self._weights_shape()))
        self.register_constraint("raw_weights", weights_constraint or (logarithmic() if log_weights else Positive()))
        self.lengthscales = torch.ones(shape)
        self.weights = torch.full(self._weights_shape(), 1 / components)

    @abstractmethod
    def _weights_shape(self) -> torch.Size:
        """The shape of the weights."""

    @abstractmethod
    def _formula(self, x1: Tensor, x2: Tensor, *parameters: Tensor) -> Tensor:
        """The matrix (*b, n, k) from `_values`."""

    @abstractmethod
    def _slopes(self) -> Slopes | None:
        """Those of `_formula`, where they are in closed form."""

    @abstractmethod
    def _variance(self) -> Tensor:
        """k(x, x), of shape (*batch_shape,)."""

    @abstractmethod
    def _shares(self) -> tuple[Tensor, Tensor]:
        """Weight and share (*batch_shape, Q, d) of each component in the spectrum of each input."""

    @abstractmethod
    def _combine(self, factors: Tensor) -> Tensor:
        """The matrix from complex factors (*b, n, k, Q, d): one input of one component, without weight."""

    @property
    def frequencies(self) -> Tensor:
        """The centres of the bumps, in cycles per unit; a sign has no meaning in one input."""
        return self.raw_frequencies

    @frequencies.setter
    def frequencies(self, value: float | Tensor) -> None:
        self._assign("frequencies", value, positive=False)

    @property
    def lengthscales(self) -> Tensor:
        """How far each component keeps its phase; 1 / (2 pi lengthscale) is the width of its bump."""
        return self.raw_lengthscales_constraint.transform(self.raw_lengthscales)

    @lengthscales.setter
    def lengthscales(self, value: float | Tensor) -> None:
        self._assign("lengthscales", value)

    @property
    def weights(self) -> Tensor:
        """The variances of the components; for a product (*batch_shape, Q, d), up to a factor an input."""
        return self.raw_weights_constraint.transform(self.raw_weights)

    @weights.setter
    def weights(self, value: float | Tensor) -> None:
        self._assign("weights", value)

    def _assign(self, name: str, value: float | Tensor, *, positive: bool = True) -> None:
        raw = getattr(self, f"raw_{name}")
        given = torch.as_tensor(value).to(raw)
        good = given.isfinite() & ((given > 0) | (not positive))
        if not good.all():
            wanted = "positive and finite" if positive else "finite"
            raise ValueError(f"{name} must be {wanted}, got {given[~good].flatten()[0].item():g}")
        if positive:
            given = getattr(self, f"raw_{name}_constraint").inverse_transform(given)
        self.initialize(**{f"raw_{name}": given.expand_as(raw)})

    def _values(self) -> tuple[Tensor, ...]:
        return self.lengthscales, self.frequencies, self.weights

    def _require(self, *points: Tensor) -> None:
        for x in points:
            if x.shape[-1] != self.dims:
                name = type(self).__name__
                remedy = f"make it with dims={x.shape[-1]}, or choose {self.dims} inputs by active_dims"
                raise ValueError(f"{name} was made for {self.dims} inputs and got {x.shape[-1]}; {remedy}")

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        self._require(x1, x2)
        if not diag:
            return Tiled.apply(self._formula, self._slopes(), x1, x2, *self._values())
        if coincide(x1, x2):
            batch = torch.broadcast_shapes(x1.shape[:-2], self.batch_shape)
            return self._variance()[..., None].expand(*batch, x1.shape[-2])
        return self._pairs(x1, x2)

    def _pairs(self, x1: Tensor, x2: Tensor) -> Tensor:
        """k (*b, n) of point i with point i."""
        aligned = [value.unsqueeze(len(self.batch_shape)) for value in self._values()]
        return self._formula(x1.unsqueeze(-2), x2.unsqueeze(-2), *aligned)[..., 0, 0]

    def derivative(self, x1: Tensor, x2: Tensor, first: Sequence[int], second: Sequence[int]) -> Tensor:
        """Partial derivatives of k (*b, n, k): of order first[d] in input d of x1 and second[d] of x2.

        Any orders that add up to at most eight in each input, in closed form.

        Errors: ValueError for higher orders, or those a Student-t bump's envelope does not have.

        >>> kernel, x = SpectralMixture(1), torch.zeros(1, 1)
        >>> kernel.frequencies = 0.5
        >>> round(-kernel.derivative(x, x, [2], [0]).item(), 4)  # 1 / lengthscale^2 + (2 pi mu)^2
        10.8696
        """
        self._require(x1, x2)
        if len(first) != self.dims or len(second) != self.dims:
            raise ValueError(f"need an order for each of {self.dims} inputs, got {list(first)} and {list(second)}")
        lengths, omega = self.lengthscales[..., None, None, :, :], 2 * math.pi * self.frequencies[..., None, None, :, :]
        tau = x1[..., :, None, None, :] - x2[..., None, :, None, :]
        factors = []
        for d, (one, two) in enumerate(zip(first, second, strict=True)):
            order = one + two
            self.bump.require(order)
            rotation = torch.polar(torch.ones_like(omega[..., d]), omega[..., d] * tau[..., d])
            total = sum(
                math.comb(order, i)
                * self.bump.derivative(tau[..., d], lengths[..., d], i)
                * (1j * omega[..., d]) ** (order - i)
                for i in range(order + 1)
            )
            factors.append((-1) ** two * total * rotation)
        return self._combine(torch.stack(factors, -1))

    def marginal(self, frequency: Tensor, dim: int = 0) -> Tensor:
        """The one-sided power spectrum along one input, by component (*batch_shape, k, Q) at frequencies (k,) >= 0.

        It integrates over frequency to the components' weights, in squared units of y; for a
        product, to their shares of the output scale.
        """
        weight = self._shares()[0][..., None, :, dim]
        unit = 2 * math.pi * self.lengthscales[..., None, :, dim]
        centre = self.frequencies[..., None, :, dim]
        at = frequency[:, None]
        both = (self.bump.log_density(unit * (at - sign * centre)).exp() for sign in (1, -1))
        return weight * unit * sum(both)

    def shares(self) -> Tensor:
        """The share (*batch_shape, Q, d) of each component in the variance, in the mixture of each input."""
        return self._shares()[1]

    def peaks(self, *, least: float = SURVIVES, scale: float | Tensor = 1.0, dim: int | None = None) -> list[Peak]:
        """The components that survived, those with at least this share of the variance, largest first.

        scale (d,) or a number : how many of the user's units one unit of the inputs is, such as the
        standard deviation of inputs that were standardised. dim : the input of a SpectralProduct
        whose mixture is meant; each has its own.

        Errors: ValueError for a batch of kernels.
        """
        if self.batch_shape:
            raise ValueError(f"peaks are of one kernel, and this is a batch of shape {tuple(self.batch_shape)}")
        weights, shares = (value[:, dim or 0].tolist() for value in self._shares())
        chosen = slice(None) if dim is None else slice(dim, dim + 1)
        unit = torch.as_tensor(scale).to(self.raw_frequencies)
        centres = (self.frequencies.detach() / unit)[:, chosen]
        widths = (1 / (2 * math.pi * unit * self.lengthscales.detach()))[:, chosen]
        centres = torch.where(centres[:, :1] < 0, -centres, centres)  # mu and -mu are one wave
        rows = zip(weights, shares, centres.tolist(), widths.tolist(), strict=True)
        found = [Peak(w, share, tuple(mu), tuple(width)) for w, share, mu, width in rows if share >= least]
        return sorted(found, key=lambda peak: -peak.share)


class SpectralMixture(SpectralKernel):
    """A sum over components of products of bumps over the inputs; see the module docstring.

    >>> kernel = SpectralMixture(1)
    >>> kernel.frequencies, kernel.lengthscales = 0.5, 2.0
    >>> round(kernel(torch.tensor([[0.0], [1.0]])).to_dense()[0, 1].item(), 4)  # -exp(-1/8)
    -0.8825
    """

    def _weights_shape(self) -> torch.Size:
        return torch.Size((*self.batch_shape, self.components))

    def _formula(self, x1: Tensor, x2: Tensor, *parameters: Tensor) -> Tensor:
        lengths, frequencies, weights = parameters
        return waves(self.bump, x1, x2, lengths, frequencies, weights)

    def _slopes(self) -> Slopes | None:
        return slopes_for(self.bump, self.weights.dtype)

    def _variance(self) -> Tensor:
        return self.weights.sum(-1)

    def _shares(self) -> tuple[Tensor, Tensor]:
        weights = self.weights.detach()[..., None].expand(self.raw_frequencies.shape)
        return weights, weights / weights.sum(-2, keepdim=True)

    def _combine(self, factors: Tensor) -> Tensor:
        return (self.weights[..., None, None, :] * factors.prod(-1).real).sum(-1)


class SpectralProduct(SpectralKernel):
    """A product over the inputs of mixtures in one input each; see the module docstring.

    Its weights (*batch_shape, Q, d) count relative to each other in each input; `outputscale` is
    the variance.

    >>> kernel = SpectralProduct(2, dims=3)
    >>> kernel.outputscale = 0.7
    >>> round(kernel(torch.zeros(1, 3), diag=True).item(), 4)
    0.7
    """

    def __init__(self, components: int, *, outputscale_constraint: Interval | None = None, **kwargs: Any) -> None:
        super().__init__(components, **kwargs)
        self.raw_outputscale = nn.Parameter(torch.zeros(self.batch_shape))
        self.register_constraint("raw_outputscale", outputscale_constraint or logarithmic())

    @property
    def outputscale(self) -> Tensor:
        """The variance of the process, shape (*batch_shape,)."""
        return self.raw_outputscale_constraint.transform(self.raw_outputscale)

    @outputscale.setter
    def outputscale(self, value: float | Tensor) -> None:
        self._assign("outputscale", value)

    def factor(self, x1: Tensor, x2: Tensor, dim: int) -> Tensor:
        """The matrix (*b, n, k) of input `dim` alone at x1 (*b, n, 1) and x2 (*b, k, 1), one at tau = 0."""
        lengths, frequencies, shares, _ = self._values()
        values = lengths[..., dim : dim + 1], frequencies[..., dim : dim + 1], shares[..., dim]
        return Tiled.apply(self._one, slopes_for(self.bump, x1.dtype), x1, x2, *values)

    def _one(self, x1: Tensor, x2: Tensor, *parameters: Tensor) -> Tensor:
        return waves(self.bump, x1, x2, *parameters)

    def _weights_shape(self) -> torch.Size:
        return torch.Size((*self.batch_shape, self.components, self.dims))

    def _values(self) -> tuple[Tensor, ...]:
        lengths, frequencies, weights = super()._values()
        return lengths, frequencies, weights / weights.sum(-2, keepdim=True), self.outputscale

    def _formula(self, x1: Tensor, x2: Tensor, *parameters: Tensor) -> Tensor:
        lengths, frequencies, shares, outputscale = parameters
        total = outputscale[..., None, None]
        for d in range(self.dims):
            one = slice(d, d + 1)
            args = x1[..., one], x2[..., one], lengths[..., one], frequencies[..., one], shares[..., d]
            total = total * waves(self.bump, *args)
        return total

    def _slopes(self) -> None:
        return None

    def _variance(self) -> Tensor:
        return self.outputscale

    def _shares(self) -> tuple[Tensor, Tensor]:
        shares = (self.weights / self.weights.sum(-2, keepdim=True)).detach()
        return self.outputscale.detach()[..., None, None] * shares, shares

    def _combine(self, factors: Tensor) -> Tensor:
        shares = self._values()[2][..., None, None, :, :]
        return self.outputscale[..., None, None] * (shares * factors.real).sum(-2).prod(-1)
