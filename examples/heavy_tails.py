# %% [markdown]
# # Heavy tails, and which of them help against outliers
# A tail can be heavy in two places. A Student-t *process* has it in the law of the whole function:
# one number s multiplies every variance. A few wild targets make s larger, and with it every band;
# the mean is that of the Gaussian process with the same kernel, and no point counts for less.
# Student-t *noise* has a number of its own for each observation, so that single points can be
# discounted. Heavy-tailed processes are for another doubt: the size of a function of which few points
# are known. Give the name of a file to write the picture.

# %%
import sys

import matplotlib.pyplot as plt
import numpy as np

import kernelfield as kf
from kernelfield.core.mixing import InverseGamma
from kernelfield.models.process import Process

INK, SKY, BLUE, RED = "#222222", "#56B4E9", "#0072B2", "#D55E00"


def truth(x: np.ndarray) -> np.ndarray:
    return np.sin(1.5 * x) + 0.3 * x


rng = np.random.default_rng(1)
x = np.sort(rng.uniform(0, 8, 60))
y = truth(x) + 0.15 * rng.standard_normal(x.size)
wild = rng.choice(x.size, 6, replace=False)
y[wild] += np.tile([-1, 1], 3) * rng.uniform(2, 5, 6)

# %% [markdown]
# Three models of the same kernel, each with hyperparameters of its own evidence. The Student-t process
# has four degrees of freedom before it sees data, and four plus the number of points after:
# with sixty points s is all but known, and its law is Gaussian again. Noise with heavy tails is the
# one that leaves the outliers aside; its band of observations stays wide, for those still to come.

# %%
models = {
    "Gaussian process": Process(),
    "Student-t process": Process(mixing=InverseGamma.student(4.0)),
    "Student-t noise": Process(noise="student_t"),
}
grid = np.linspace(0, 8, 300)
fresh = truth(grid) + 0.15 * rng.standard_normal(grid.size)
figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), sharey=True, layout="constrained")
for axes, (title, model) in zip(panels, models.items(), strict=True):
    regressor = kf.FieldRegressor(model, random_state=0).fit(x[:, None], y)
    mean, band = regressor.predict(grid[:, None], quantiles=[0.025, 0.975])
    function = regressor.posterior(grid[:, None], noise=False)
    low, high = (function.quantile(p)[:, 0].numpy() for p in (0.025, 0.975))
    error = np.sqrt(np.mean((mean - truth(grid)) ** 2))
    inside = np.mean((low <= truth(grid)) & (truth(grid) <= high))
    density = regressor.log_density(grid[:, None], fresh).mean()
    print(
        f"{title:<18} error of the mean {error:.3f}, NLL of clean observations {-density:5.2f}, "
        f"95% band of the function: {np.mean(high - low):.2f} wide, with {inside:.0%} of the truth"
    )
    axes.fill_between(grid, *band.T, color=SKY, alpha=0.25, linewidth=0, label="95%: observations")
    axes.fill_between(grid, low, high, color=BLUE, alpha=0.3, linewidth=0, label="the function")
    axes.plot(grid, mean, color=BLUE, linewidth=1.8, label="mean")
    axes.plot(grid, truth(grid), color=INK, linewidth=1, linestyle=(0, (4, 3)), label="truth")
    axes.plot(np.delete(x, wild), np.delete(y, wild), "o", color=INK, markersize=3.2, label="data")
    axes.plot(x[wild], y[wild], "o", color=RED, markersize=5, label="outliers")
    axes.set(title=title, xlabel="x", xlim=(0, 8))
    axes.spines[["top", "right"]].set_visible(False)

# %%
panels[0].set(ylabel="y")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=110)
plt.close(figure)
