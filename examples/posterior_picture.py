# %% [markdown]
# # A picture of a posterior
# The picture on the front page: what a Gaussian process says where it has data, in a gap and
# beyond the last point. Give the name of another file to write, such as a PNG.

# %%
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import kernelfield as kf

target = Path(sys.argv[1] if len(sys.argv) > 1 else "posterior.svg")
BLUE, SKY, INK = "#0072B2", "#56B4E9", "#222222"  # of Okabe and Ito's palette for all kinds of sight


def truth(x: np.ndarray) -> np.ndarray:
    return np.sin(1.3 * x) + 0.4 * np.sin(3 * x)


rng = np.random.default_rng(3)
x = np.concatenate([rng.uniform(0.3, 4, 16), rng.uniform(6.6, 9, 10)])
y = truth(x) + rng.normal(0, 0.15, x.size)

# %% [markdown]
# The law of the function, for the curves, and of a new observation, for the band.

# %%
regressor = kf.FieldRegressor(random_state=0).fit(x[:, None], y)
grid = np.linspace(-0.5, 11, 300)
mean, band = regressor.predict(grid[:, None], quantiles=[0.05, 0.95])
law = regressor.posterior(grid[:, None], noise=False)
curves = law.rsample((5,), torch.Generator().manual_seed(1))[..., 0].numpy()

# %%
plt.rcParams |= {"font.family": "DejaVu Sans", "font.size": 11, "svg.hashsalt": "kernelfield", "path.simplify": True}
figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
axes.fill_between(grid, *band.T, color=SKY, alpha=0.28, linewidth=0, label="90% band of a new observation")
for number, curve in enumerate(curves):
    label = "five draws of the function" if number == 0 else None
    axes.plot(grid, curve, color=BLUE, alpha=0.45, linewidth=0.9, label=label)
axes.plot(grid, mean, color=BLUE, linewidth=2.4, label="mean")
axes.plot(grid, truth(grid), color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label="truth")
axes.plot(x, y, "o", color=INK, markersize=5.5, markeredgecolor="white", markeredgewidth=0.8, label="data")

# %%
axes.set(xlim=(grid[0], grid[-1]), ylim=(-2.6, 3.3), xlabel="x", ylabel="y")
axes.spines[["top", "right"]].set_visible(False)
axes.spines[["left", "bottom"]].set_color("#999999")
axes.tick_params(color="#999999", labelcolor="#555555", length=3)
axes.legend(loc="upper left", frameon=False, ncols=3, handlelength=1.8, fontsize=10)
figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix == ".svg" else None)
plt.close(figure)

inside = ((band[:, 0] <= truth(grid)) & (truth(grid) <= band[:, 1])).mean()
print(f"wrote {target}; the truth is inside the band on {inside:.0%} of the axis")
