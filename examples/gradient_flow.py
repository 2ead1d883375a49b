# %% [markdown]
# # What an ensemble of wide networks says while it is trained
# Infinitely wide networks that start at random and follow the gradient of the squared loss are a
# Gaussian process at every time: the prior at the start, kernel regression at the end. Mean and
# spread are in closed form. Give the name of a file to write the picture.

# %%
import math
import sys

import matplotlib.pyplot as plt
import numpy as np

import kernelfield as kf

rng = np.random.default_rng(0)
X = np.sort(np.concatenate([rng.uniform(-2, -0.4, 8), rng.uniform(0.5, 2, 8)]))[:, None]
y = np.sin(2.5 * X[:, 0]) + rng.normal(0, 0.05, 16)
arch = kf.Dense(1.5, 0.5) >> kf.Erf() >> kf.Dense(1.5, 0.5) >> kf.Erf() >> kf.Dense(1.0)
fitted = kf.FieldRegressor(kf.GradientFlow(arch, noise=1e-3)).fit(X, y)

# %% [markdown]
# The eigenvectors of the tangent kernel are learned one by one, the largest eigenvalue first. The
# fit is made once; any time can be asked of it afterwards.

# %%
TIMES = [0.0, 3.0, 100.0, math.inf]
grid = np.linspace(-3, 3, 121)[:, None]
figure, axes = plt.subplots(1, len(TIMES), figsize=(11, 2.8), sharey=True)
for axis, time in zip(axes, TIMES, strict=True):
    at_time = kf.FieldRegressor(kf.GradientFlow(arch, time=time, noise=1e-3)).fit(X, y)
    mean, std = at_time.predict(grid, return_std=True)
    error = np.sqrt(np.mean((at_time.predict(X) - y) ** 2))
    print(f"time {time:5}: training error {error:.3f}, spread at the left edge {std[0]:.2f}")
    axis.fill_between(grid[:, 0], mean - 2 * std, mean + 2 * std, color="tab:blue", alpha=0.2, linewidth=0)
    axis.plot(grid[:, 0], mean, color="tab:blue")
    axis.plot(X[:, 0], y, "k.", markersize=4)
    axis.set(title="untrained" if time == 0 else "converged" if math.isinf(time) else f"time {time:g}", ylim=(-3, 3))
figure.tight_layout()
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1])
plt.close(figure)

# %% [markdown]
# How fast a finite network may be trained: beyond this learning rate gradient descent diverges.

# %%
print(f"largest learning rate: {fitted.surrogate_.inner.largest_rate():.3f}")
