# %% [markdown]
# # First steps
# From two arrays to predictions with intervals; then a choice between models by how well each
# foresees rows that it has not seen.

# %%
import numpy as np
import torch

import kernelfield as kf

rng = np.random.default_rng(0)


def measure(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n noisy values of sin(x) + x / 10; the standard deviation of the noise is 0.2."""
    X = rng.uniform(0, 10, (n, 1))
    return X, np.sin(X[:, 0]) + X[:, 0] / 10 + rng.normal(0, 0.2, n)


X, y = measure(40)

# %% [markdown]
# The default is an exact Gaussian process with a Matern-5/2 kernel. Its hyperparameters are
# found from several starts. X and y are standardised inside; what comes back is in your units.

# %%
regressor = kf.FieldRegressor(random_state=0).fit(X, y)
noise = regressor.surrogate_.hyperparameters()["noise"]
print(f"standard deviation of the noise: {noise**0.5:.2f} found, 0.20 in truth")

# %% [markdown]
# `predict` gives the mean of a new observation and, if asked, its standard deviation and quantiles.

# %%
X_new = np.array([[2.5], [7.5], [12.0]])
mean, std, interval = regressor.predict(X_new, return_std=True, quantiles=[0.05, 0.95])
for x, m, s, (low, high) in zip(X_new[:, 0], mean, std, interval, strict=True):
    print(f"x = {x:4.1f}: {m:5.2f} +- {s:.2f}, with 90% probability in [{low:5.2f}, {high:5.2f}]")

# %% [markdown]
# `posterior` gives the whole law: with noise=False that of the function behind the data. Its draws
# are functions, so a question about many points at once is answered draw by draw.

# %%
grid = np.linspace(0, 10, 101)
law = regressor.posterior(grid[:, None], noise=False)
functions = law.rsample((1000,), torch.Generator().manual_seed(0))[..., 0]
peaks = grid[functions.argmax(-1).numpy()]
print(f"the maximum is at x = {peaks.mean():.2f} +- {peaks.std():.2f}, in truth 7.95")

# %% [markdown]
# Which model? Each tells the log density of held-out rows, in nats, and, in closed form, what it
# would have said about every training row without that row.

# %%
X_test, y_test = measure(200)
models = {
    "Gaussian process, Matern-5/2": kf.Process(),
    "Gaussian process, RBF": kf.Process("rbf"),
    "Student-t process, Matern-5/2": kf.Process(mixing=kf.InverseGamma.student(5.0)),
}
for name, model in models.items():
    fitted = kf.FieldRegressor(model, random_state=0).fit(X, y)
    process = fitted.surrogate_.inner  # in standardised units
    centre, _ = process.leave_one_out()
    rmse = (process.data.Y - centre).square().mean().sqrt() * y.std()
    print(f"{name:30}  test log density {fitted.log_density(X_test, y_test).mean():.3f}, leave-one-out RMSE {rmse:.3f}")
