"""Classification by infinitely deep networks: all training points vote, near ones by far the most.

As the depth of a network grows, its classifier becomes the vote

    p(c | x) = sum over i of class c of K(z_i) / sum over all i of K(z_i)

with the singular kernel K of `kernelfield.nets.singular` and z_i the cosine between x and x_i. In
d dimensions it is consistent if K grows as the distance to the power of -d, which the default
dual is made for; no number is learned, and at a training point the vote is that point's label.

The kernel is one of directions, and a vote has to count for its class, K(z) > 0. Inputs are
therefore lifted onto a cap of the sphere,

    x -> (x, (r^2 + |x|^2)^1/2) / (r^2 + 2 |x|^2)^1/2,

less than 45 degrees from its pole, so that all cosines are positive. With a constant as the last
coordinate, as is common, points far apart would be more than a right angle apart and vote against
themselves. Within the radius r distances are kept but for a factor; beyond, directions count more.

Sources: Radhakrishnan, Belkin & Uhler (2023), "Wide and deep neural networks achieve consistency
for classification"; Devroye, Gyorfi & Krzyzak (1998), "The Hilbert Kernel Regression Estimate",
for the vote.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernelfield.core.contracts import Data, Model
from kernelfield.models.classify import FittedClassifier, require_classes
from kernelfield.nets.singular import Dual, InfinitelyDeep, consistent_dual


@dataclass(eq=False, repr=False)
class InfinitelyDeepClassifier(Model):
    """The vote of all training points with the kernel of infinitely many layers.

    dual : the dual activation of a layer, such as `kernelfield.nets.singular.dual_of(Erf())`; None is
        `consistent_dual(d)`, d the number of inputs that vary. An exponent above d is nearer to
        the label of the nearest neighbour, one below d to that of the majority.
    radius : r of the module docstring, in units of inputs; None is the root of their mean square
        length. A large one makes the sphere flat.

    Nothing is random, and there is no search. Every prediction takes all training points. With
    more than a few inputs the nearest point outweighs all others, and probabilities are too sure.

    Units: Y (n, k) one-hot; inputs of mean zero and variance one, as `FieldClassifier` makes them.
    Errors: ValueError for targets that are not one-hot, a radius that is not positive, a dual
        whose infinitely deep network has no such kernel, more than 1800 inputs without a dual.

    >>> X = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    >>> fitted = InfinitelyDeepClassifier().fit(Data(X, torch.eye(2)[[0, 1, 1]]), generator=torch.Generator())
    >>> fitted.probabilities(torch.tensor([[-1.0, 0.0], [-0.8, 0.0]]))[:, 0]
    tensor([1.0000, 0.9915])
    """

    dual: Dual | None = None
    radius: float | None = None

    def fit(self, data: Data, *, generator: torch.Generator) -> "FittedInfinitelyDeep":
        require_classes(data)
        return FittedInfinitelyDeep(InfinitelyDeep(self._dual(data.X)), data, self._radius(data.X))

    def _dual(self, X: Tensor) -> Dual:
        if self.dual is None:
            varying = (X != X[:1]).any(0).sum().item()
            return consistent_dual(max(1, int(varying)))
        if not isinstance(self.dual, Dual):
            raise ValueError(f"dual must be a dual activation such as Sinh(2.7) or dual_of(Erf()), got {self.dual!r}")
        return self.dual

    def _radius(self, X: Tensor) -> float:
        if self.radius is None:
            return X.double().square().sum(-1).mean().sqrt().item() or 1.0
        if not (self.radius > 0 and math.isfinite(self.radius)):
            raise ValueError(f"radius must be positive and finite, got {self.radius:g}; None takes it from the inputs")
        return float(self.radius)


@dataclass(frozen=True, eq=False)
class FittedInfinitelyDeep(FittedClassifier):
    """All training points, ready to vote."""

    kernel: InfinitelyDeep
    data: Data
    radius: float

    @property
    def outputs(self) -> int:
        return self.data.Y.shape[1]

    def probabilities(self, X: Tensor) -> Tensor:
        votes = self.kernel.classify(self.lifted(self.data.X), self.data.Y.double(), self.lifted(X))
        return votes.to(X)

    def lifted(self, X: Tensor) -> Tensor:
        """Points (*b, n, d + 1) of the cone over the cap, for inputs X (*b, n, d); only their directions count.

        In double precision: the weights of near points span all magnitudes.
        """
        X = X.double()
        height = (self.radius**2 + X.square().sum(-1, keepdim=True)).sqrt()
        return torch.cat([X, height], -1)

    def condition(self, data: Data) -> "FittedInfinitelyDeep":
        require_classes(data)
        return replace(self, data=self.data.joined(data))

    def hyperparameters(self) -> dict[str, float | list[float]]:
        return {"exponent": self.kernel.exponent, "radius": self.radius}
