# %% [markdown]
# # The limit of your own PyTorch network
# `from_torch` reads a module of layers it knows, with the scales of its random weights, and gives
# its architecture: a kernel for the same network with infinitely many units.

# %%
import numpy as np
import torch
from torch import nn

import kernelfield as kf

torch.manual_seed(0)
network = nn.Sequential(nn.Linear(4, 512), nn.ReLU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 1))
arch = kf.from_torch(network)
print(*arch.steps, sep="\n")

# %% [markdown]
# PyTorch draws weights with variance 1 / (3 fan_in), so w is near 0.58, and each layer shrinks its
# input: what such a network says before training hardly varies.

# %%
X = torch.randn(200, 4)
kernel = kf.NetworkKernel(arch)
print(f"standard deviation of an untrained output: {kernel(X, diag=True).mean().sqrt():.3f}")

# %% [markdown]
# As a prior of regression its scales are learned with the noise.

# %%
rng = np.random.default_rng(0)
X = rng.normal(size=(160, 4))
y = np.abs(X[:, 0]) + np.sin(2 * X[:, 1]) + rng.normal(0, 0.1, 160)
for name, model in {"this network": kf.Process(kernel), "Matern-5/2": kf.Process()}.items():
    fitted = kf.FieldRegressor(model, random_state=0).fit(X[:100], y[:100])
    print(f"{name:14} log density of new rows {fitted.log_density(X[100:], y[100:]).mean():.3f}")

# %% [markdown]
# What it cannot read is named.

# %%
try:
    kf.from_torch(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)))
except ValueError as error:
    print("refused:", error)
