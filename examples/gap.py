# %% [markdown]
# # Uncertainty in a gap, by seven models
# Two clouds of points with nothing in between, and nothing beyond. A model that knows what it does
# not know widens there; how much is a matter of its prior and of how its posterior is approximated.
# The networks all have two hidden layers of 50 tanh units; what differs is what is done with them.
# Give the name of a file to write the picture.

# %%
import sys

import matplotlib.pyplot as plt
import numpy as np

import kernelfield as kf
from kernelfield.models.neural.dropout import MCDropout
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.laplace import LaplaceNetwork
from kernelfield.models.neural.last_layer import LastLayer
from kernelfield.models.neural.network import multilayer
from kernelfield.models.neural.sampled import HMC
from kernelfield.models.neural.train import Training
from kernelfield.models.process import Process
from kernelfield.nets.quadrature import Tanh

INK, SKY, BLUE = "#222222", "#56B4E9", "#0072B2"


def truth(x: np.ndarray) -> np.ndarray:
    return np.sin(1.3 * x) + 0.2 * x


rng = np.random.default_rng(3)
x = np.concatenate([rng.uniform(-3, -1, 30), rng.uniform(1, 3, 30)])
y = truth(x) + 0.1 * rng.standard_normal(x.size)
net = multilayer((50, 50), Tanh(), w=2.0, b=1.0)  # scales of weights and biases: the prior
short = Training(steps=1000, learning_rate=5e-3)

# %% [markdown]
# The process is exact, and HMC nearly so: they say what their priors imply. The others cost a small
# part of it. Laplace's linear functions leave the gap open; dropout hardly sees it. Numbers: the
# standard deviation of the function in the middle of the gap, and in the middle of a cloud.

# %%
models = {
    "Gaussian process": Process(),
    "infinitely wide network": Process("nngp", restarts=1),
    "HMC": HMC(net, warmup=60, draws=40, chains=2, path=0.5),
    "Laplace": LaplaceNetwork(net, training=short),
    "last layer": LastLayer(net, training=short),
    "ensemble": Ensemble(net, members=10, training=short),
    "dropout": MCDropout(training=short),
}
grid = np.linspace(-4.5, 4.5, 181)
figure, panels = plt.subplots(2, 4, figsize=(13, 6), sharex=True, sharey=True, layout="constrained")
for axes, (title, model) in zip(panels.flat, models.items(), strict=False):
    regressor = kf.FieldRegressor(model, random_state=0).fit(x[:, None], y)
    mean = regressor.predict(grid[:, None])
    function = regressor.posterior(grid[:, None], noise=False)
    std = function.variance.sqrt()[:, 0].numpy()
    gap, cloud = std[np.abs(grid) < 0.3].mean(), std[np.abs(np.abs(grid) - 2) < 0.3].mean()
    inside = np.mean(np.abs(truth(grid) - mean) < 1.96 * std)
    print(
        f"{title:<24} std in the gap {gap:.2f}, in a cloud {cloud:.2f}, ratio {gap / cloud:4.1f}; "
        f"its 95% band holds {inside:.0%} of the truth"
    )
    for width, shade in ((1.96, 0.25), (1.0, 0.35)):
        axes.fill_between(grid, mean - width * std, mean + width * std, color=SKY, alpha=shade, linewidth=0)
    axes.plot(grid, mean, color=BLUE, linewidth=1.8)
    axes.plot(grid, truth(grid), color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(x, y, "o", color=INK, markersize=2.5)
    axes.set(title=title, ylim=(-3.5, 3.5))
    axes.spines[["top", "right"]].set_visible(False)

# %%
panels[1, 3].set_axis_off()
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=110)
plt.close(figure)
