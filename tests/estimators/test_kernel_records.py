"""A kernel taken apart and put together is the same kernel to the last bit."""

import copy

import pytest
import torch
from gpytorch import constraints, priors
from gpytorch.kernels import (
    ConstantKernel,
    CosineKernel,
    Kernel,
    LinearKernel,
    MaternKernel,
    PeriodicKernel,
    PiecewisePolynomialKernel,
    PolynomialKernel,
    RBFKernel,
    RQKernel,
    ScaleKernel,
    SpectralMixtureKernel,
)
from torch import nn

from kernelfield.estimators.kernel_records import put_together, take_apart
from kernelfield.estimators.records import Reader, Writer
from kernelfield.kernels.learning_curve import LearningCurve
from kernelfield.kernels.matern import GeneralMatern
from kernelfield.kernels.network import NetworkKernel
from kernelfield.kernels.spectral import SpectralMixture, SpectralProduct
from kernelfield.kernels.spherical import SphericalKernel, spherical_kernel
from kernelfield.kernels.stationary import NAMES, RBF, Matern, RationalQuadratic, dimension_scaled
from kernelfield.nets.algebra import Repeat, Residual
from kernelfield.nets.conv import Conv
from kernelfield.nets.dense import Dense
from kernelfield.nets.pooling import GlobalAvgPool
from kernelfield.nets.rectifiers import Relu
from kernelfield.nets.smooth import Erf

BATCH = torch.Size([2])
KERNELS = {
    "ours": RBF(),
    "ours, by input": Matern(0.5, ard_num_dims=3, lengthscale_prior=priors.GammaPrior(3.0, 6.0)),
    "ours, bounded": Matern(1.5, lengthscale_constraint=constraints.GreaterThan(0.3)),
    "ours, of any smoothness": GeneralMatern(
        0.7, ard_num_dims=3, nu_prior=priors.GammaPrior(2.0, 1.0), nu_constraint=constraints.Interval(0.1, 3.0)
    ),
    "ours, in a batch": RationalQuadratic(batch_shape=BATCH, ard_num_dims=3),
    "ours, with priors": RationalQuadratic(
        alpha_prior=priors.LogNormalPrior(0.1, 2.0), outputscale_prior=priors.HalfCauchyPrior(0.7)
    ),
    **{f"ours, by name {name}": dimension_scaled(name, torch.tensor([1.0, 0.2, 30.0])) for name in NAMES},
    "network": NetworkKernel(Dense((1.0, 0.7, 0.4), 0.3) >> Repeat(Residual(Relu() >> Dense(1.1)), 2), "ntk"),
    "network of sequences": NetworkKernel(
        Conv((2,), 1.2, 0.1) >> Erf(b=0.7) >> GlobalAvgPool() >> Dense(),
        shape=(3, 1),
        missing=0.5,
        batch_shape=BATCH,
        scales_prior=priors.LogNormalPrior(0.0, 1.0),
    ),
    "spherical": spherical_kernel("arc-cosine", torch.tensor([1.0, 0.2, 30.0]), torch.tensor(2.0), depth=3),
    "spherical, bounded": SphericalKernel("matern", nu=2.5, reach_constraint=constraints.GreaterThan(0.3)),
    "spectral": SpectralMixture(3, dims=3, lengthscales_constraint=constraints.GreaterThan(0.3)),
    "spectral product": SpectralProduct(2, density="student_t", nu=1.5, log_weights=False, dims=2, active_dims=(2, 0)),
    "spectral in a batch": SpectralMixture(2, dims=3, batch_shape=BATCH),
    "learning curve": LearningCurve.of(Matern(ard_num_dims=2), inputs=2),
    "learning curve, bounded": LearningCurve(RBF(), RBF(), rate_constraint=constraints.GreaterThan(0.3)),
    "rbf": RBFKernel(ard_num_dims=3, lengthscale_prior=priors.NormalPrior(0.1, 0.3)),
    "matern": MaternKernel(1.5, active_dims=(2, 0), lengthscale_constraint=constraints.Interval(0.1, 7.0)),
    "rq": RQKernel(alpha_constraint=constraints.LessThan(3.0), lengthscale_prior=priors.UniformPrior(0.1, 2.0)),
    "periodic": PeriodicKernel(period_length_prior=priors.LogNormalPrior(0.1, 0.3)),
    "periodic, by input": PeriodicKernel(ard_num_dims=3),
    "linear": LinearKernel(variance_prior=priors.HalfNormalPrior(0.3), active_dims=(1,)),
    "cosine": CosineKernel(period_length_constraint=constraints.Positive(initial_value=2.0)),
    "polynomial": PolynomialKernel(3, offset_prior=priors.GammaPrior(1.1, 0.3)),
    "constant": ConstantKernel(constant_constraint=constraints.GreaterThan(1e-4, transform=None, initial_value=0.1)),
    "piecewise": PiecewisePolynomialKernel(1, ard_num_dims=3),
    "scaled": ScaleKernel(RBFKernel(active_dims=(1, 2)), outputscale_prior=priors.GammaPrior(2.0, 0.15)),
    "scaled in a batch": ScaleKernel(MaternKernel(2.5, batch_shape=BATCH), batch_shape=BATCH),
    "sum of products": ScaleKernel(RBFKernel()) * PeriodicKernel() + LinearKernel() * Matern(2.5) + ConstantKernel(),
}


@pytest.fixture(params=KERNELS.values(), ids=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    kernel = copy.deepcopy(request.param)
    for i, parameter in enumerate(kernel.parameters()):
        nn.init.uniform_(parameter, 0.1, 0.9)
        parameter.requires_grad_(i % 2 == 0)
    return kernel


def again(kernel: Kernel) -> Kernel:
    writer = Writer()
    record = writer.record(kernel, "kernel")
    return Reader(writer.tensors).value(record)


def test_values_are_equal_to_the_last_bit(kernel: Kernel) -> None:
    x = torch.rand(5, 3)
    twin = again(kernel)
    assert type(twin) is type(kernel)
    assert torch.equal(twin(x).to_dense(), kernel(x).to_dense())
    assert twin.batch_shape == kernel.batch_shape


def test_parameters_and_bounds_are_equal_in_value_type_and_freedom(kernel: Kernel) -> None:
    twin = again(kernel.to(torch.float32))
    states = [dict(k.named_parameters()) | dict(k.named_buffers()) for k in (kernel, twin)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        other = states[1][name]
        assert torch.equal(value, other), name
        assert (value.dtype, value.requires_grad) == (other.dtype, other.requires_grad), name


def test_priors_keep_their_density_and_their_parameter(kernel: Kernel) -> None:
    for (_, *one), (_, *other) in zip(kernel.named_priors(), again(kernel).named_priors(), strict=True):
        values = [closure(module) for module, _, closure, _ in (one, other)]
        densities = [prior.log_prob(value) for (_, prior, _, _), value in zip((one, other), values, strict=True)]
        assert torch.equal(*densities)


def test_constraints_map_as_before(kernel: Kernel) -> None:
    pairs = zip(kernel.named_constraints(), again(kernel).named_constraints(), strict=True)
    raw = torch.linspace(0.1, 0.9, 5)
    for (name, one), (_, other) in pairs:
        assert type(one) is type(other), name
        assert torch.equal(one.transform(raw), other.transform(raw))
        assert torch.equal(one.inverse_transform(one.transform(raw)), other.inverse_transform(one.transform(raw)))
        assert (one.initial_value is None) == (other.initial_value is None)


class Foreign(RBFKernel):
    """A kernel that the tables do not know, under any name."""


class RBFImpostor(RBFKernel):
    pass


RBFImpostor.__name__ = "RBF"


def with_a_prior_of_its_own() -> Kernel:
    kernel = RBFKernel()
    kernel.register_prior("shape_prior", priors.NormalPrior(0.0, 1.0), lambda m: m.lengthscale.log())
    return kernel


def with_a_transform(transform, inverse) -> Kernel:
    return RBFKernel(lengthscale_constraint=constraints.Positive(transform=transform, inv_transform=inverse))


UNKNOWN = {
    "a class": (Foreign(), "Foreign"),
    "a class of a known name": (RBFImpostor(), "RBFImpostor is not a class"),
    "a spectral mixture": (SpectralMixtureKernel(num_mixtures=2), "SpectralMixtureKernel"),
    "a part": (ScaleKernel(Foreign()), "kernel.arguments.base_kernel cannot be saved"),
    "a prior": (RBFKernel(lengthscale_prior=priors.SmoothedBoxPrior(0.1, 2.0)), "SmoothedBoxPrior"),
    "a prior with a name of its own": (with_a_prior_of_its_own(), "'shape_prior' was registered"),
    "a prior with a transform": (RBFKernel(lengthscale_prior=priors.NormalPrior(0, 1, transform=torch.log)), "Normal"),
    "a transform": (with_a_transform(torch.square, torch.sqrt), "transform of its own"),
    "a softplus of its own": (with_a_transform(nn.Softplus(beta=2.0), torch.log), "transform of its own"),
    "an inverse of its own": (with_a_transform(torch.exp, torch.sqrt), "transform of its own"),
}


@pytest.mark.parametrize("case", UNKNOWN.values(), ids=UNKNOWN)
def test_what_the_tables_do_not_know_is_refused_by_name_with_the_remedy(case) -> None:
    kernel, sentence = case
    with pytest.raises(ValueError, match=f"{sentence}(.|\n)*joblib"):
        Writer().record(kernel, "kernel")


@pytest.mark.parametrize("name", ["SpectralMixtureKernel", "Module", "os.system", "Kernel"])
def test_a_name_outside_of_the_tables_is_not_made(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is not a class that can be loaded"):
        put_together(name, {})


def test_values_that_do_not_fit_are_refused() -> None:
    values = take_apart(RBFKernel())
    with pytest.raises(ValueError, match="RBFKernel has other parameters"):
        put_together("RBFKernel", {**values, "parameters": {}})
    with pytest.raises(ValueError, match="RBFKernel cannot be made"):
        put_together("RBFKernel", {})
