# %% [markdown]
# # The prior of a network, tuned to a process
# The weights of a network mean nothing to whoever uses it; the functions it draws do. Which scales
# give functions like those of a Gaussian process of lengthscale one? As the network grows wide its
# functions are a process too, with a kernel known in closed form, so that the distance between the
# two laws is a formula, and its minimum a matter of seconds. Then the network is sampled as ever.
# Give the name of a file to write the picture.

# %%
import sys

import matplotlib.pyplot as plt
import numpy as np
import torch

import kernelfield as kf
from kernelfield.kernels.stationary import RBF
from kernelfield.models.neural.functional_prior import FunctionalPrior
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.sampled import HMC
from kernelfield.nets.smooth import Erf

INK, SKY, BLUE = "#222222", "#56B4E9", "#0072B2"
rng = np.random.default_rng(0)
x = np.sort(rng.uniform(-2.5, 2.5, 25))
y = np.sin(2 * x) * np.exp(-0.1 * x**2) + 0.1 * rng.standard_normal(x.size)
grid = np.linspace(-4, 4, 161)
target = RBF().double()
target.lengthscale = 0.5  # in standard deviations of x, as FieldRegressor standardises

# %%
plain = multilayer((50, 50), Erf())
sampler = HMC(plain, warmup=30, draws=30, chains=2, path=0.4)
models = {
    "scales as they come": sampler,
    "scales tuned to the process": FunctionalPrior(target, learn=False, network=plain, sampler=sampler),
}
fitted = {title: kf.FieldRegressor(model, random_state=0).fit(x[:, None], y) for title, model in models.items()}
tuned = fitted["scales tuned to the process"].surrogate_.inner
print(f"squared distance of the two laws: {tuned.before:.1f} before, {tuned.distance:.1f} after tuning")
for text in tuned.notes():
    print(text)

# %% [markdown]
# Above draws from the two priors, below what each makes of the same data.

# %%
figure, panels = plt.subplots(2, 2, figsize=(11, 6.5), sharex=True, layout="constrained")
inputs = torch.tensor((grid - x.mean()) / x.std())[:, None]
for i, (title, architecture) in enumerate(zip(models, (plain, tuned.architecture), strict=True)):
    network = Network(architecture, 1, 1)
    draws = network.values(network.draw(12, torch.Generator().manual_seed(1)), inputs)[..., 0]
    panels[0, i].plot(grid, draws.T, color=BLUE, linewidth=0.9, alpha=0.6)
    panels[0, i].set(title=f"prior: {title}", ylim=(-4, 4))
    law = fitted[title].posterior(grid[:, None], noise=False)
    mean, std = law.mean[:, 0].numpy(), law.variance.sqrt()[:, 0].numpy()
    panels[1, i].fill_between(grid, mean - 1.96 * std, mean + 1.96 * std, color=SKY, alpha=0.35, linewidth=0)
    panels[1, i].plot(grid, mean, color=BLUE, linewidth=1.8)
    panels[1, i].plot(x, y, "o", color=INK, markersize=3)
    panels[1, i].set(title="posterior: mean and 95% band", xlabel="x", ylim=(-3, 3))
for axes in panels.flat:
    axes.spines[["top", "right"]].set_visible(False)

# %%
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=110)
plt.close(figure)
