"""Classification by networks drawn from their posterior, with the softmax likelihood.

    p(c | x, data) = mean over draws of softmax(f(x; theta))_c

The prior of the default is twice as wide as that of regression, whose targets have a variance of one:
log odds of that size can be sure of no label.

Source: Neal (1996), "Bayesian Learning for Neural Networks".
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kernelfield.core.contracts import Data, Model
from kernelfield.models.classify import FittedClassifier, require_classes
from kernelfield.models.neural.likelihoods import Softmax
from kernelfield.models.neural.sampled import HMC, Sampled, SampledNetworks, verdict


def log_odds_sampler() -> HMC:
    """Chains under a prior whose log odds, of one class against another, reach where labels are sure."""
    return HMC(scale=2.0)


@dataclass(eq=False, repr=False)
class SampledClassifier(Model):
    """A Bayesian network for classes, with one output a class.

    sampler : HMC(), NUTS() or SGHMC(), with its network; its noise is not used. The default is HMC(scale=2.0).

    Units: Y (n, k) one-hot.
    Errors: ValueError for targets that are not one-hot, and those of the sampler.

    >>> X = torch.linspace(-1, 1, 20, dtype=torch.double)[:, None]
    >>> Y = torch.nn.functional.one_hot((X[:, 0] > 0).long()).double()
    >>> model = SampledClassifier(HMC(width=5, warmup=30, draws=10, chains=2, path=0.3))
    >>> fitted = model.fit(Data(X, Y), generator=torch.Generator().manual_seed(0))
    >>> fitted.probabilities(X[[0, -1]]).argmax(-1).tolist()
    [0, 1]
    """

    sampler: Sampled = field(default_factory=log_odds_sampler)

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedSampledClassifier":
        require_classes(data)
        return FittedSampledClassifier(self.sampler.sample(data, Softmax(), generator=generator))


@dataclass(frozen=True, eq=False)
class FittedSampledClassifier(FittedClassifier):
    """Networks drawn from their posterior given labels."""

    sample: SampledNetworks

    @property
    def outputs(self) -> int:
        return self.sample.network.outputs

    def footprint(self, rows: int) -> int:
        return self.sample.network.activity

    def probabilities(self, X: Tensor) -> Tensor:
        return self.sample.values(X).softmax(-1).mean(-3)

    def notes(self) -> list[str]:
        return [*self.sample.remarks, *verdict(self.sample.diagnosis)]
