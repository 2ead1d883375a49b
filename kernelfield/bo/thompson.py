"""One function drawn from a posterior, as a function: what Thompson sampling maximises.

    a set of functions   one of them, as likely as its weight
    an exact process     a path by Matheron's rule: a draw of the prior in random features, and its correction
    another joint law    drawn at many points of the cube, and the mean of the law given those values between
    histograms           the quantile of one random level, the same at every point

Sources: Wilson et al. (2020), "Efficiently Sampling Functions from Gaussian Process Posteriors"; Kandasamy et al.
(2018), "Parallelised Bayesian Optimisation via Thompson Sampling".
"""

from collections.abc import Callable

import torch
from botorch.models import SingleTaskGP
from botorch.sampling.pathwise import draw_matheron_paths
from torch import Tensor

from kernelfield.bo.adapter import to_botorch
from kernelfield.bo.conditioned import Belief
from kernelfield.core.contracts import Surrogate
from kernelfield.core.posterior import Binned, Draws

ANCHORS = 256  # points at which a law is drawn that has no paths of its own
EXACT = 1e-8  # of the prior variance: noise of a value that was drawn, which has none


def path(surrogate: Surrogate, X: Tensor, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A function from points (r, d) of the unit cube to values (r,) of the first output.

    X (n, d) : points that the draw must be right at, such as the trials.
    """
    law = surrogate.posterior(X[:1])
    if isinstance(law, Draws):
        member = int(torch.multinomial(law.weights.cpu(), 1, generator=generator))
        return lambda points: surrogate.posterior(points).values[..., member, :, 0]  # type: ignore[attr-defined]
    if isinstance(law, Binned):
        level = float(torch.rand((), generator=generator))
        return lambda points: surrogate.posterior(points).quantile(level)[..., 0]
    model = to_botorch(surrogate)
    if isinstance(model, SingleTaskGP):
        with torch.random.fork_rng():  # BoTorch draws from the generator of the process
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            drawn = draw_matheron_paths(model, sample_shape=torch.Size([1]))
        return lambda points: drawn(points)[0].reshape(len(points))
    anchors = torch.cat([torch.rand(ANCHORS, X.shape[1], generator=generator, dtype=X.dtype).to(X), X])
    with torch.no_grad():
        joint = surrogate.posterior(anchors)
        values = joint.rsample((), generator)
        noise = EXACT * joint.variance.mean().expand(values.shape)
    belief = Belief(surrogate).told(anchors, values, noise)
    return lambda points: belief.law(points).mean[..., 0]
