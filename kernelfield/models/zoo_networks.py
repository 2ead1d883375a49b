"""The finite networks of the zoo, and what is learned with or by one."""

from kernelfield.models.entry import ANY, EXACT, FINITE, LEARNED, Entry
from kernelfield.models.neural.deep_kernel import DeepKernel
from kernelfield.models.neural.deep_kernel_machine import DeepKernelMachine
from kernelfield.models.neural.dropout import MCDropout
from kernelfield.models.neural.ensemble import Ensemble, EnsembleClassifier
from kernelfield.models.neural.function_space import FunctionSpace
from kernelfield.models.neural.function_space_classifier import FunctionSpaceClassifier
from kernelfield.models.neural.functional_prior import FunctionalPrior
from kernelfield.models.neural.laplace import LaplaceNetwork
from kernelfield.models.neural.laplace_classifier import LaplaceNetworkClassifier
from kernelfield.models.neural.last_layer import LastLayer
from kernelfield.models.neural.prior_fitted import PriorFitted
from kernelfield.models.neural.quantile_process import QuantileNetwork
from kernelfield.models.neural.sampled import HMC, NUTS, SGHMC
from kernelfield.models.neural.sampled_classifier import SampledClassifier
from kernelfield.models.neural.swag import SWAG

NETWORKS = (
    Entry("ensemble", "ten networks trained apart: robust, for many rows", Ensemble, FINITE, rows=(50, ANY)),
    Entry(
        "mc-dropout",
        "network with dropout that stays on: quick, for many rows",
        MCDropout,
        FINITE,
        rows=(50, ANY),
    ),
    Entry(
        "swag",
        "network averaged along its training, with a Gaussian around the mean: for many rows",
        SWAG,
        FINITE,
        rows=(50, ANY),
        quick=False,
    ),
    Entry(
        "laplace",
        "network with Laplace's approximation around its mode, precisions by evidence",
        LaplaceNetwork,
        FINITE,
        rows=(20, ANY),
        quick=False,
    ),
    Entry(
        "last-layer",
        "network whose last layer alone is Bayesian: quick, and unsure of little",
        LastLayer,
        FINITE,
        rows=(50, ANY),
    ),
    Entry(
        "quantile-network",
        "all quantiles by networks that take the level as an input: noise of any shape, many rows",
        QuantileNetwork,
        FINITE,
        rows=(100, ANY),
    ),
    Entry(
        "function-space",
        "trained network as a sparse process: takes in more rows without training",
        FunctionSpace,
        FINITE,
        rows=(50, ANY),
        quick=False,
    ),
    Entry(
        "hmc",
        "Bayesian network by Hamiltonian Monte Carlo: the reference, and the slowest",
        HMC,
        FINITE,
        rows=(2, 2000),
        quick=False,
    ),
    Entry(
        "nuts",
        "Bayesian network by the no-U-turn sampler: as hmc, its paths of adaptive length",
        NUTS,
        FINITE,
        rows=(2, 2000),
        quick=False,
    ),
    Entry(
        "sghmc",
        "Bayesian network by stochastic-gradient Hamiltonian Monte Carlo: for more rows",
        SGHMC,
        FINITE,
        rows=(50, ANY),
        quick=False,
    ),
    Entry(
        "functional-prior",
        "Bayesian network whose prior is tuned to a Gaussian process, then sampled",
        FunctionalPrior,
        FINITE,
        rows=(2, 2000),
        quick=False,
    ),
    Entry(
        "deep-kernel",
        "Gaussian process on inputs that a network bends: for functions unlike from place to place",
        DeepKernel,
        LEARNED,
        rows=(100, EXACT),
        quick=False,
    ),
    Entry(
        "deep-kernel-machine",
        "layers of learned kernels without weights: deep, deterministic",
        DeepKernelMachine,
        LEARNED,
        rows=(50, ANY),
        quick=False,
    ),
    Entry(
        "prior-fitted",
        "transformer trained on a prior beforehand: predicts at once, nothing to fit",
        PriorFitted,
        LEARNED,
        rows=(2, EXACT),
        inputs=(1, 16),
    ),
)
NETWORK_CLASSIFIERS = (
    Entry(
        "laplace-classifier",
        "network with Laplace's approximation around its mode",
        LaplaceNetworkClassifier,
        FINITE,
        rows=(20, ANY),
        quick=False,
    ),
    Entry(
        "function-space-classifier",
        "trained network as a sparse process of log odds",
        FunctionSpaceClassifier,
        FINITE,
        rows=(50, ANY),
        quick=False,
    ),
    Entry(
        "ensemble-classifier",
        "ten networks trained apart: for many rows",
        EnsembleClassifier,
        FINITE,
        rows=(50, ANY),
    ),
    Entry(
        "hmc-classifier",
        "Bayesian network by Hamiltonian Monte Carlo: the reference, and the slowest",
        SampledClassifier,
        FINITE,
        rows=(2, 2000),
        quick=False,
    ),
)
