# %% [markdown]
# # Noise of any shape
# A Gaussian process with one noise gives every point an interval of the same shape. Here the noise
# is skewed, and grows with x: waiting times at a counter that gets busier through the day. A
# quantile process learns the quantiles themselves and holds as many values in each region as it
# says; the Gaussian process does so on average only. Both are fitted with their defaults: what the
# quantile process is not given, it chooses on rows of the fit that it leaves out.
#
#     python examples/quantiles.py [picture.png]

# %%
import sys

import matplotlib.pyplot as plt
import numpy as np

from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.process import Process
from kernelfield.models.quantile import QuantileProcess

rng = np.random.default_rng(0)


def waiting(hour: np.ndarray) -> np.ndarray:
    """Minutes: a service of two, and a wait whose mean grows from 1 to 9 through the day."""
    return 2 + 0.2 * rng.normal(size=hour.shape) + rng.exponential(1 + 8 * ((hour - 8) / 10) ** 2)


def counter(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Times of day of n customers, and how long they wait."""
    hour = rng.uniform(8, 18, n)
    return hour[:, None], waiting(hour)


X, y = counter(400)
new, waits = counter(4000)

# %%
models = {"Gaussian process": Process(), "quantile process": QuantileProcess()}
fits = {name: FieldRegressor(model, random_state=0).fit(X, y) for name, model in models.items()}
regions = np.digitize(new[:, 0], [11, 15])
answers = {name: fit.predict(new, quantiles=[0.05, 0.5, 0.95])[1] for name, fit in fits.items()}

# %% [markdown]
# The share of new waiting times inside the 90% interval, before 11, until 15, and after it; and how
# many fall below its lower end, where 5% should.

# %%
for name, quantiles in answers.items():
    inside = (quantiles[:, 0] <= waits) & (waits <= quantiles[:, 2])
    shares = ", ".join(f"{inside[regions == region].mean():.3f}" for region in range(3))
    print(f"{name}: inside {shares}, all {inside.mean():.3f}; below {(waits < quantiles[:, 0]).mean():.3f}")


# %%
def picture(path: str) -> None:
    """Data, medians and 90% intervals of both, and between which lines 90% of waiting times are in truth."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    hours = np.linspace(8, 18, 200)
    truth = np.quantile(waiting(np.broadcast_to(hours, (20_000, 200))), [0.05, 0.95], axis=0)
    for panel, (name, fit) in zip(axes, fits.items(), strict=True):
        low, middle, high = fit.predict(hours[:, None], quantiles=[0.05, 0.5, 0.95])[1].T
        panel.scatter(X[:, 0], y, s=6, color="0.4", label="data")
        panel.fill_between(hours, low, high, color="C0", alpha=0.25, label="90% interval")
        panel.plot(hours, middle, color="C0", label="median")
        panel.plot(hours, truth[0], "k--", linewidth=1, label="true 90% interval")
        panel.plot(hours, truth[1], "k--", linewidth=1)
        panel.set(title=name, xlabel="hour")
    axes[0].set_ylabel("minutes")
    axes[0].legend(loc="upper left")
    figure.savefig(path, dpi=100)


if len(sys.argv) > 1:
    picture(sys.argv[1])
