# %% [markdown]
# # Many rows on a laptop
#
# Ten thousand noisy readings of a rough field over the plane. An exact process takes minutes and gibibytes; three
# models that keep to what matters take seconds.

# %%
import sys
import time

import numpy as np
import torch

from kernelfield import (
    FieldRegressor,
    Matern,
    NearestNeighbourProcess,
    RandomFeatureProcess,
    SparseProcess,
    kernel_product,
)

rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (10_000, 2))


def field(X):
    return np.sin(9 * X[:, 0] * X[:, 1]) + np.abs(X[:, 0] - 0.3) + np.cos(15 * X[:, 1]) / 3


y = field(X) + 0.1 * rng.normal(size=len(X))
new = rng.uniform(-1, 1, (2000, 2))
truth = field(new)

# %% [markdown]
# Few steps are enough, as each model starts from the best hyperparameters of a sample of the rows.

# %%
models = {
    "sparse": SparseProcess(inducing=150, restarts=1, steps=10),
    "neighbours": NearestNeighbourProcess(neighbours=10, restarts=1, steps=10),
    "random features": RandomFeatureProcess(count=200, restarts=1, steps=10),
}
found = {}
for name, model in models.items():
    start = time.perf_counter()
    fitted = FieldRegressor(model, random_state=0).fit(X, y)
    middle = time.perf_counter()
    mean, std = fitted.predict(new, return_std=True)
    seconds = middle - start, time.perf_counter() - middle
    error = np.sqrt(np.mean((mean - truth) ** 2))
    covered = np.mean(np.abs(mean + 0.1 * rng.normal(size=len(new)) - truth) < 1.645 * std)
    found[name] = mean
    print(f"{name:16} error {error:.3f}, 90% intervals cover {covered:.0%}, {seconds[0]:.1f} + {seconds[1]:.1f} s")
    for note in fitted.notes_:
        print("   ", note)

# %% [markdown]
# What an exact process of all rows works with is never formed: its matrix is known by its products.

# %%
K = kernel_product(Matern(2.5).double(), torch.tensor(X), products=1)
start = time.perf_counter()
total = K(torch.ones(len(X), 1, dtype=torch.float64)).sum().item()
print(f"the {len(X)}^2 entries of a kernel matrix, {K.method}: {total:.4g} in all, {time.perf_counter() - start:.1f} s")

# %%
if len(sys.argv) > 1:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), sharex=True, sharey=True, layout="constrained")
    for axis, (name, values) in zip(axes, {"truth": truth, **found}.items(), strict=True):
        dots = axis.scatter(*new.T, c=values, s=4, vmin=truth.min(), vmax=truth.max())
        axis.set_title(name)
    figure.colorbar(dots, ax=axes)
    figure.savefig(sys.argv[1])
