"""The posteriors that BoTorch sees.

`GaussianPosterior` is a `GPyTorchPosterior` of a dense covariance; `LawPosterior` wraps any other law of the package.
Both are drawn from by pushing standard normals through the law (`kernelfield.core.posterior`), which BoTorch's samplers
hold fixed: sample averages are then deterministic functions of the points, and differentiable.

Points come in the order of the noise, so that adding points to a batch keeps the draws at earlier ones.
"""

import torch
from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal
from linear_operator.operators import BlockDiagLinearOperator, DenseLinearOperator
from torch import Tensor

from kernelfield.bo.conditioned import joint_covariance
from kernelfield.core.posterior import Elliptical
from kernelfield.core.posterior import Posterior as Law

try:
    from botorch.posteriors import GPyTorchPosterior, Posterior
    from botorch.sampling.get_sampler import GetSampler
    from botorch.sampling.normal import IIDNormalSampler, NormalMCSampler, SobolQMCNormalSampler
except ImportError as error:
    raise ImportError("surrogates in BoTorch need it; pip install 'kernelfield[bo]'") from error


class GaussianPosterior(GPyTorchPosterior):
    """A Gaussian law with a dense covariance, drawn from by its own factor: the jitter is relative and the least."""

    def __init__(self, law: Elliptical, *, independent: bool) -> None:
        covariance = law.covariance
        self.law = Elliptical(law.loc, covariance)
        super().__init__(_normal(law.loc, covariance, independent=independent))

    @property
    def mean(self) -> Tensor:
        return self.law.mean

    @property
    def variance(self) -> Tensor:
        return self.law.variance.expand(self.law.mean.shape)

    def rsample_from_base_samples(self, sample_shape: torch.Size, base_samples: Tensor) -> Tensor:
        if base_samples.shape[: len(sample_shape)] != sample_shape:
            raise ValueError(
                f"base samples of shape {tuple(base_samples.shape)} do not start with {tuple(sample_shape)}"
            )
        return self.law.draw(base_samples.flatten(-2) if self._is_mt else base_samples)

    def rsample(self, sample_shape: torch.Size | None = None) -> Tensor:
        return _samples(self, sample_shape)


def _normal(loc: Tensor, covariance: Tensor, *, independent: bool) -> MultivariateNormal:
    """GPyTorch's name for a Gaussian law: (*b, q) for one output, a law of a matrix (*b, q, m) for several."""
    q, m = loc.shape[-2:]
    covariance = covariance.expand(*loc.shape[:-2], *covariance.shape[-2:])
    if m == 1:
        return MultivariateNormal(loc.squeeze(-1), DenseLinearOperator(covariance))
    if not independent:
        return MultitaskMultivariateNormal(loc, DenseLinearOperator(covariance))
    blocks = covariance.unflatten(-1, (q, m)).unflatten(-3, (q, m)).diagonal(dim1=-3, dim2=-1).movedim(-1, -3)
    return MultitaskMultivariateNormal(loc, BlockDiagLinearOperator(DenseLinearOperator(blocks)), interleaved=False)


def _samples(posterior: Posterior, sample_shape: torch.Size | None) -> Tensor:
    """Samples from normals of torch's own random numbers."""
    shape = torch.Size([1]) if sample_shape is None else sample_shape
    z = torch.randn(*shape, *posterior.base_sample_shape, dtype=posterior.dtype, device=posterior.device)
    return posterior.rsample_from_base_samples(shape, z)


class LawPosterior(Posterior):
    """Any law: draws are its own, moments those of its marginals.

    Errors: ValueError by `variance` where it is infinite.
    """

    def __init__(self, law: Law) -> None:
        self.law = law

    @property
    def device(self) -> torch.device:
        return self.law.mean.device

    @property
    def dtype(self) -> torch.dtype:
        return self.law.mean.dtype

    @property
    def mean(self) -> Tensor:
        return self.law.mean

    @property
    def variance(self) -> Tensor:
        variance = self.law.variance.expand(self.law.mean.shape)
        if variance.isinf().any():
            raise ValueError(
                "the variance of this law is infinite, its tails being so heavy, and analytic acquisitions need one; "
                "use one by samples, such as qLogExpectedImprovement"
            )
        return variance

    @property
    def distribution(self) -> MultivariateNormal:
        """The Gaussian law of the same mean and covariance, for acquisitions that need an entropy."""
        return _normal(self.law.mean, joint_covariance(self.law), independent=False)

    @property
    def mvn(self) -> MultivariateNormal:
        """The same by BoTorch's older name."""
        return self.distribution

    @property
    def batch_shape(self) -> torch.Size:
        """Of the points."""
        return self.law.mean.shape[:-2]

    @property
    def base_sample_shape(self) -> torch.Size:
        return torch.Size([*self.batch_shape, self.law.width])

    @property
    def batch_range(self) -> tuple[int, int]:
        return (0, -1)

    def _extended_shape(self, sample_shape: torch.Size = torch.Size()) -> torch.Size:  # noqa: B008
        return torch.Size([*sample_shape, *self.law.mean.shape])

    def rsample_from_base_samples(self, sample_shape: torch.Size, base_samples: Tensor) -> Tensor:
        return self.law.draw(base_samples)

    def rsample(self, sample_shape: torch.Size | None = None) -> Tensor:
        return _samples(self, sample_shape)

    def quantile(self, value: Tensor) -> Tensor:
        if value.numel() > 1:
            return torch.stack([self.quantile(v) for v in value])
        return self.law.quantile(float(value))

    def density(self, value: Tensor) -> Tensor:
        return self.law.log_prob(value).exp()


@GetSampler.register(LawPosterior)
def _sampler(posterior: LawPosterior, sample_shape: torch.Size, *, seed: int | None = None) -> NormalMCSampler:
    quasi = posterior.law.width <= torch.quasirandom.SobolEngine.MAXDIM
    return (SobolQMCNormalSampler if quasi else IIDNormalSampler)(sample_shape=sample_shape, seed=seed)
