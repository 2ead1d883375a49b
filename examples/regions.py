# %% [markdown]
# # Two targets at once
# The two targets lie along a bent line that moves with the input. An interval for each holds them in
# a box that is mostly empty, an ellipse is no better, and a region by directional quantiles in a
# learned latent space follows the bend. All three hold the promised share, and cost different areas.
# Give the name of a file to write the picture.

# %%
import sys

import matplotlib.pyplot as plt
import numpy as np

from kernelfield.estimators.regions import MultiOutputRegion
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.neural.directional_quantiles import DirectionalQuantiles
from kernelfield.models.neural.train import Training
from kernelfield.models.process import Process


def banana(n: int, seed: int, x: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the conditional banana, at random inputs or at one."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.8, 3.2, n) if x is None else np.full(n, x)
    along, angle, radius = rng.uniform(-np.pi, np.pi, n), rng.uniform(0, 2 * np.pi, n), rng.uniform(-0.1, 0.1, n)
    first = (1 - np.cos(along)) / 2 + np.sin(x) + radius * np.sin(angle)
    return x[:, None], np.stack([first, along / x + radius * np.cos(angle)], 1)


# %% [markdown]
# Each region is fitted to 70% of the rows and calibrated on the others. The area is of the region at
# 20 inputs, in units of the targets.

# %%
X, Y = banana(2000, seed=0)
X_new, Y_new = banana(2000, seed=1)
process = FieldRegressor(Process(steps=0, noise=1.0))  # what it takes for noise is the line
network = DirectionalQuantiles(width=32, training=Training(steps=1500, batch=128, learning_rate=1e-2))
regions = {
    "box": MultiOutputRegion(process, method="box", random_state=0),
    "ellipse": MultiOutputRegion(process, method="residuals", random_state=0),
    "directional": MultiOutputRegion(FieldRegressor(network, random_state=0), method="directional", random_state=0),
}
for name, region in regions.items():
    region.fit(X, Y)
    print(f"{name:>11}: {region.contains(X_new, Y_new).mean():.1%} inside, area {region.volume(X_new[:20]).mean():.2f}")

# %%
figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained", sharey=True)
colours = {"box": "tab:gray", "ellipse": "tab:blue", "directional": "tab:orange"}
for axis, x in zip(panels, (1.0, 2.5), strict=True):
    axis.plot(*banana(600, seed=2, x=x)[1].T, ".", color="black", markersize=2, alpha=0.5)
    for name, region in regions.items():
        for i, polygon in enumerate(region.outline([x])):
            label = None if i else name
            axis.plot(*np.vstack([polygon, polygon[:1]]).T, color=colours[name], linewidth=2, label=label)
    axis.set(title=f"x = {x:g}", xlabel="first target")
panels[0].set_ylabel("second target")
panels[1].legend(frameon=False, loc="upper right")
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=100)
plt.close(figure)
