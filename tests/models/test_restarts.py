"""Few starts end where many do, on functions that defeat a single fixed start."""

import numpy as np
import pytest
import torch

from kernelfield.core.contracts import Data
from kernelfield.data.synthetic import borehole_sample, hartmann6_sample
from kernelfield.kernels.stationary import Matern
from kernelfield.models.process import Process


@pytest.mark.parametrize("sample", [borehole_sample, hartmann6_sample], ids=lambda s: s.__name__)
@pytest.mark.parametrize("prior", [True, False], ids=["default kernel", "no prior"])
def test_four_starts_end_within_a_hundredth_of_a_nat_of_twelve(sample, prior):
    X, y = sample(120, np.random.default_rng(0))
    kernel = None if prior else Matern(ard_num_dims=X.shape[1])  # lengthscales start at one, in raw units
    data = Data(torch.as_tensor(X), torch.as_tensor((y - y.mean()) / y.std())[:, None])
    few, many = (
        Process(kernel, restarts=restarts).fit(data, generator=torch.Generator().manual_seed(restarts))
        for restarts in (4, 12)
    )
    gap = min(s.last for s in few.searches) - min(s.last for s in many.searches)
    assert gap < 0.01
    assert few.posterior(data.X).mean.var() > 0.9  # it has not called everything noise
