"""Whole functions drawn from posteriors, and random features of our kernels, for BoTorch's pathwise samplers.

Importing this module registers features phi, with k(x, x') = E[phi(x)'phi(x')], for

    Stationary        waves of frequencies z / lengthscale: normal z for the RBF kernel, z sqrt(nu / gamma(nu)) for a
                      Matern one, z sqrt(gamma(alpha) / alpha) for a rational quadratic, a mixture of RBF kernels
    SpectralMixture   waves of frequencies 2 pi mu_q + s / l_q of components q in proportion to their weights, s normal
                      or Student-t like the bumps; SpectralProduct chooses q for each input, with a random sign
    NetworkKernel     "nngp": the units before the last layer of a finite network with random weights;
                      "ntk": a sketch of the gradient of such a network in its parameters
    FeatureKernel     those of its base kernel, of what the network makes of x
    AdditiveKernel    those of all summands
    Rescaled          those of its base kernel, of the inputs in its units

Those of networks have the kernel of a network of the width in use, which the limit is near. A gradient in the
weights of a dense layer is h s', of its inputs and its slopes, and is sketched by (a . h)(b . s) with random signs.

A posterior path of a process is a prior path g plus what universal kriging says of y - g - e at the data, trend
included (see `kernelfield.core.pathwise`); it passes through the data where there is no noise.

Sources: Wilson, Borovitskiy, Terenin, Mostowsky & Deisenroth (2021), "Pathwise Conditioning of Gaussian
Processes"; Rahimi & Recht (2007); Wilson & Adams (2013); Holzmueller, Zaverkin, Kaestner & Steinwart (2023), "A
Framework and Benchmark for Deep Batch Active Learning for Regression", for the sketch.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from gpytorch.kernels import AdditiveKernel, Kernel
from torch import Tensor, nn

from kernelfield.core.numerics import cholesky
from kernelfield.core.posterior import Draws, Elliptical, Posterior
from kernelfield.estimators.scaling import Affine
from kernelfield.kernels.network import NetworkKernel
from kernelfield.kernels.random_features import DeepRandomFeatures
from kernelfield.kernels.spectral import SpectralKernel, SpectralMixture, SpectralProduct
from kernelfield.kernels.stationary import RationalQuadratic, Stationary
from kernelfield.kernels.universal_features import normals, spectral_draws
from kernelfield.linalg.dense import Conditional
from kernelfield.models.active.features import random_signs
from kernelfield.models.classify import Parallel
from kernelfield.models.covariance import matrix
from kernelfield.models.evidence import Fit, Trend
from kernelfield.models.expansion import Nothing
from kernelfield.models.neural.feature_kernel import FeatureKernel
from kernelfield.models.neural.last_layer import Gram
from kernelfield.nets.jacobian import groups

try:
    from botorch.sampling.pathwise import SamplePath
    from botorch.sampling.pathwise.features.generators import GenKernelFeatures, gen_kernel_features
    from botorch.sampling.pathwise.features.maps import FeatureMap
except ImportError as error:
    raise ImportError("surrogates in BoTorch need it; pip install 'kernelfield[bo]'") from error

LIMIT = 2**24  # numbers of a gradient that are held at a time


class Rescaled(Kernel):
    """A kernel in other units: k((x - shift) / scale, (x' - shift) / scale) times the square of the outputs' scale.

    Several outputs are a batch of kernels.
    """

    def __init__(self, base_kernel: Kernel, x_map: Affine, y_map: Affine) -> None:
        super().__init__(batch_shape=y_map.scale.shape if len(y_map.scale) > 1 else torch.Size())
        self.base_kernel = base_kernel
        self.register_buffer("shift", x_map.shift)
        self.register_buffer("scale", x_map.scale)
        self.register_buffer("variance", y_map.scale.square().reshape(self.batch_shape))

    def inside(self, x: Tensor) -> Tensor:
        """Inputs in the units of the base kernel."""
        return (x - self.shift) / self.scale

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        first = self.inside(x1)
        second = first if x1 is x2 else self.inside(x2)
        if diag:
            return self.variance[..., None] * self.base_kernel(first, second, diag=True)
        return self.variance[..., None, None] * matrix(self.base_kernel, first, second)


class FunctionFeatures(FeatureMap):
    """Features (*b, n, size) by a function of x (*b, n, d)."""

    def __init__(self, kernel: Kernel, size: int, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.kernel, self.num_outputs, self.function = kernel, size, function
        # BoTorch's ScaleKernel puts a step of its own around these, and calls them.
        self.input_transform, self.output_transform = nn.Identity(), nn.Identity()

    @property
    def batch_shape(self) -> torch.Size:  # type: ignore[override]
        return self.kernel.batch_shape

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x if self.kernel.active_dims is None else x[..., self.kernel.active_dims])


def waves(kernel: Kernel, frequencies: Tensor, variance: Tensor) -> FunctionFeatures:
    """Cosines and sines of frequencies (*b, k, d), in radians a unit, of a kernel with the variance (*b,)."""
    k = frequencies.shape[-2]
    size = (variance / k).sqrt()[..., None, None]

    def function(x: Tensor) -> Tensor:
        phase = x @ frequencies.to(x).mT
        return size.to(x) * torch.cat([phase.cos(), phase.sin()], -1)

    return FunctionFeatures(kernel, 2 * k, function)


@GenKernelFeatures.register(Stationary)
def _stationary(kernel: Stationary, *, num_inputs: int, num_outputs: int) -> FunctionFeatures:
    count, d, generator = max(1, num_outputs // 2), _inputs(kernel, num_inputs), _generator()
    with torch.no_grad():
        if isinstance(kernel, RationalQuadratic):
            alpha = kernel.alpha.double()[..., None].expand(*kernel.batch_shape, count)
            rate = torch._standard_gamma(alpha.cpu(), generator=generator) / alpha.cpu()
            z = normals(count, d, generator=generator) * rate.sqrt()[..., None]
        else:
            z = spectral_draws(kernel, count, d, generator=generator)
        return waves(kernel, z.to(kernel.lengthscale) / kernel.lengthscale, kernel.outputscale)


@GenKernelFeatures.register(SpectralKernel)
def _spectral(kernel: SpectralKernel, *, num_inputs: int, num_outputs: int) -> FunctionFeatures:
    count, generator = max(1, num_outputs // 2), _generator()
    with torch.no_grad():
        lengths, centres, shares = (
            t.cpu().double() for t in (kernel.lengthscales, kernel.frequencies, kernel.shares())
        )
        match kernel:
            case SpectralMixture():
                index = _components(shares[..., 0], count, generator)[..., None]
                index = index.expand(*index.shape[:-1], kernel.dims)
                signs = torch.ones(())
            case SpectralProduct():
                index = torch.stack([_components(share, count, generator) for share in shares.unbind(-1)], -1)
                signs = 2.0 * torch.randint(2, index.shape, generator=generator) - 1
            case _:
                raise NotImplementedError(f"there are no features of the kernel {type(kernel).__name__}")
        z = torch.randn(index.shape, generator=generator, dtype=torch.double)
        if kernel.density == "student_t":
            z = z * (kernel.nu / torch._standard_gamma(torch.full_like(z, kernel.nu), generator=generator)).sqrt()
        centre, length = (values.gather(-2, index) for values in (centres, lengths))
        frequencies = (signs * 2 * math.pi * centre + z / length).to(kernel.raw_frequencies)
        return waves(kernel, frequencies, kernel._variance())


def _components(shares: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Components (*b, count) with the probabilities `shares` (*b, Q), each as often as it should be, in random order.

    One uniform variable shifts evenly spaced levels, so that counts are right to one.
    """
    levels = (torch.arange(count) + torch.rand((), generator=generator, dtype=torch.double)) / count
    levels = levels[torch.randperm(count, generator=generator)].expand(*shares.shape[:-1], count).contiguous()
    return torch.searchsorted(shares.cumsum(-1), levels).clamp_max(shares.shape[-1] - 1)


@GenKernelFeatures.register(NetworkKernel)
def _network(kernel: NetworkKernel, *, num_inputs: int, num_outputs: int) -> FunctionFeatures:
    if kernel.missing is not None or kernel.graph or kernel.batch_shape:
        raise ValueError(
            "random features are those of one network on rows without missing positions and graphs, got "
            f"missing={kernel.missing}, graph={kernel.graph}, batch_shape={tuple(kernel.batch_shape)}"
        )
    shape = kernel.shape or (_inputs(kernel, num_inputs),)
    if kernel.kind == "ntk":
        return _tangent(kernel, shape, num_outputs)
    seed = int(torch.randint(2**31, ()))
    source = DeepRandomFeatures(kernel.fitted, shape, max(1, num_outputs - 1), seed=seed)
    size = max(1, num_outputs - 1) + bool(source.last.b)
    return FunctionFeatures(kernel, size, source.features)


def _tangent(kernel: NetworkKernel, shape: tuple[int, ...], size: int) -> FunctionFeatures:
    """A sketch of the gradients of a network whose layers have as many units as there are features."""
    generator = _generator()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        module, _ = kernel.fitted.module(shape[-1], size, 1)
        module(torch.zeros(1, *shape, dtype=torch.get_default_dtype()))  # some layers learn their sizes from an input
    module = module.to(kernel.raw_scales)
    rows = torch.zeros(1, *shape).to(kernel.raw_scales)
    parts = groups(module, rows, LIMIT)
    signs: list[list[tuple[Tensor, ...]]] = []
    for part in parts:
        sides = [(share.h, share.slopes.flatten(1)) for share in part.shares(rows)]
        signs.append([tuple(random_signs(side, size, generator) for side in pair) for pair in sides])

    def function(x: Tensor) -> Tensor:
        flat = x.reshape(-1, *shape)
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for part, pairs in zip(parts, signs, strict=True):
            for share, (a, b) in zip(part.shares(flat), pairs, strict=True):
                total = total + (share.h @ a.to(x)) * (share.slopes.flatten(1) @ b.to(x))
        return (total / math.sqrt(size)).unflatten(0, x.shape[:-1])

    return FunctionFeatures(kernel, size, function)


@GenKernelFeatures.register(Rescaled)
def _features(kernel: Rescaled, *, num_inputs: int, num_outputs: int) -> FunctionFeatures:
    base = gen_kernel_features(kernel.base_kernel, num_inputs=num_inputs, num_outputs=num_outputs)
    std = kernel.variance.sqrt()[..., None, None]
    return FunctionFeatures(kernel, base.num_outputs, lambda x: std * base(kernel.inside(x)))


@GenKernelFeatures.register(FeatureKernel)
def _deep(kernel: FeatureKernel, *, num_inputs: int, num_outputs: int) -> FunctionFeatures:
    base = gen_kernel_features(kernel.base_kernel, num_inputs=kernel.network.outputs, num_outputs=num_outputs)
    return FunctionFeatures(kernel, base.num_outputs, lambda x: base(kernel.map(x)))


@GenKernelFeatures.register(AdditiveKernel)
def _sum(kernel: AdditiveKernel, *, num_inputs: int, num_outputs: int) -> FunctionFeatures:
    share = max(2, num_outputs // len(kernel.kernels) // 2 * 2)
    parts = [gen_kernel_features(part, num_inputs=num_inputs, num_outputs=share) for part in kernel.kernels]
    size = sum(part.num_outputs for part in parts)
    return FunctionFeatures(kernel, size, lambda x: torch.cat([part(x) for part in parts], -1))


def _inputs(kernel: Kernel, num_inputs: int) -> int:
    return num_inputs if kernel.active_dims is None else len(kernel.active_dims)


def _generator() -> torch.Generator:
    """A generator that follows torch's own random numbers, which are what BoTorch's samplers are seeded by."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))


class KrigingPath(SamplePath):
    """What universal kriging says at x, given residuals at points.

    Shapes: points (*b, n, d), residuals (*s, *b, n), noise (*b, n) the variances of what they were observed with.
    """

    def __init__(self, kernel: Kernel, trend: Trend, points: Tensor, residuals: Tensor, noise: Tensor) -> None:
        super().__init__()
        self.kernel, self.trend, self.points = kernel, trend, points
        self.input_transform = self.output_transform = None
        with torch.no_grad():
            L = cholesky(matrix(kernel, points, points) + torch.diag_embed(noise))
            white = torch.linalg.solve_triangular(L, residuals.unsqueeze(-1), upper=False)
            H = torch.linalg.solve_triangular(L, trend(points), upper=False)
            fit = Fit.of(white, H)
            self.coefficients = fit.coefficients
            self.weights = torch.linalg.solve_triangular(L.mT, fit.residual, upper=True)

    def forward(self, x: Tensor) -> Tensor:
        cross = matrix(self.kernel, x, self.points)
        return (cross @ self.weights + self.trend(x) @ self.coefficients).squeeze(-1)

    def set_ensemble_as_batch(self, ensemble_as_batch: bool) -> None:
        """Nothing changes: there is one set of hyperparameters."""


class LawPath(SamplePath):
    """Functions that are in a law itself: members of a finite set, or known features with Gaussian weights.

    law : the law of f at x (*b, n, d). Several outputs stand in the last axis of a batch, where BoTorch looks for them.
    """

    def __init__(self, law: Callable[[Tensor], Posterior], outputs: int, sample_shape: torch.Size) -> None:
        super().__init__()
        self.law, self.outputs, self.sample_shape = law, outputs, torch.Size(sample_shape)
        self.seed = int(torch.randint(2**62, ()))
        self.input_transform = self.output_transform = None

    def forward(self, x: Tensor) -> Tensor:
        if self.outputs > 1:
            x = x.squeeze(-3)
        match self.law(x):
            case Draws() as law:
                values = self._members(law)
            case Elliptical() as law:
                values = self._features(law)
            case law:
                raise NotImplementedError(_no_paths(type(law).__name__))
        return values.squeeze(-1) if self.outputs == 1 else values.mT

    def _members(self, law: Draws) -> Tensor:
        """One function (*b, n, m) a sample."""
        level = torch.special.ndtr(self._normals(law.mean))
        member = torch.searchsorted(law.weights.cumsum(0), level).clamp_max(len(law.weights) - 1)
        choice = nn.functional.one_hot(member, len(law.weights)).to(law.values)[..., None, None]
        return (choice * law.values).sum(-3)

    def _features(self, law: Elliptical) -> Tensor:
        roots = _roots(law, self.outputs)
        z = self._normals(law.mean, self.outputs, roots[0].shape[-1])
        moves = [(root @ z[..., j, :].unsqueeze(-1)).squeeze(-1) for j, root in enumerate(roots)]
        return law.loc + law.unit * torch.stack(moves, -1)

    def _normals(self, like: Tensor, *shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(*self.sample_shape, *shape, generator=generator, dtype=torch.double).to(like)

    def set_ensemble_as_batch(self, ensemble_as_batch: bool) -> None:
        """Nothing changes: a sample is one function."""


def _roots(law: Elliptical, outputs: int) -> list[Tensor]:
    """For each output, features (*b, n, c) whose products are its covariance, the same functions of x everywhere.

    Errors: NotImplementedError for a law that has none.
    """
    match law.scale:
        case Parallel(parts=parts) if all(isinstance(part, Gram) for part in parts):
            return [part.half for part in parts if isinstance(part, Gram)]
        case Conditional(prior=Nothing()) as scale:
            explained, left = scale._terms
            if not explained.shape[-2]:
                return [left.mT] * outputs
    raise NotImplementedError(_no_paths(type(law.scale).__name__))


def _no_paths(name: str) -> str:
    return (
        f"whole functions cannot be drawn from a law with {name}; use an exact process, a model that is linear in "
        "features or an ensemble, or an acquisition by samples such as qLogNoisyExpectedImprovement"
    )
