# %% [markdown]
# # A record in space and time, with holes
# Thirty stations on a line measured daily for a hundred days, but some were silent for weeks, and
# a fifth of the other values is lost. The rows are still a grid, of which cells are missing: an
# exact process fills them and says how sure it is. Give the name of a file to write the picture.

# %%
import sys

import matplotlib.pyplot as plt
import numpy as np
import torch

import kernelfield as kf

stations, days = np.linspace(0, 300, 30), np.arange(100.0)  # km, days
kernels = [kf.Matern(2.5).double(), kf.Matern(1.5).double()]
kernels[0].lengthscale, kernels[1].lengthscale = 60.0, 12.0
axes = [torch.from_numpy(stations), torch.from_numpy(days)]
truth = kf.sample_field(axes, kernels, generator=torch.Generator().manual_seed(3))[0].numpy()

rng = np.random.default_rng(0)
seen = rng.uniform(size=truth.shape) > 0.2
for station, start in [(4, 10), (5, 25), (14, 40), (15, 40), (16, 42), (24, 70)]:
    seen[station, start : start + 28] = False
noisy = truth + 0.1 * rng.standard_normal(truth.shape)

# %% [markdown]
# The table has a row for each value that is there, in any order.

# %%
place, day = np.meshgrid(stations, days, indexing="ij")
table = np.column_stack([place[seen], day[seen]])
fitted = kf.FieldRegressor(kf.GridProcess(restarts=2), random_state=0).fit(table, noisy[seen])
print(*fitted.notes_, sep="\n")

# %% [markdown]
# The band is that of the field, without the noise of a measurement. It should hold the truth at
# nine of ten missing cells.

# %%
law = fitted.posterior(np.column_stack([place.ravel(), day.ravel()]), noise=False)
mean, std = (v.numpy().reshape(truth.shape) for v in (law.mean, law.variance.sqrt()))
error = (mean - truth)[~seen]
inside = np.abs(error) < 1.645 * std[~seen]
print(f"{(~seen).sum()} missing cells: root mean square error {error.std():.3f} of a field of {truth.std():.2f}")
print(f"90% intervals hold {inside.mean():.0%} of them")

# %%
figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True, layout="constrained")
limit = np.abs(truth).max()
for axes, title, values, scale in [
    (panels[0], "what was measured", np.where(seen, noisy, np.nan), ("RdBu_r", -limit, limit)),
    (panels[1], "the field, filled in", mean, ("RdBu_r", -limit, limit)),
    (panels[2], "its standard deviation", std, ("Blues", 0, std.max())),
]:
    colours, low, high = scale
    image = axes.pcolormesh(days, stations, values, cmap=colours, vmin=low, vmax=high, rasterized=True)
    axes.set(title=title, xlabel="day", facecolor="#dddddd")
    figure.colorbar(image, ax=axes)
panels[0].set(ylabel="station (km)")
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=110)
plt.close(figure)
