# %% [markdown]
# # Which rows to label next
# Inputs are cheap and labels are dear: of two thousand rows we can afford a hundred labels, in
# batches of twenty. Most of the rows lie close together, so that random ones waste labels there. A network
# is trained after each batch, and the next is where its gradients are unlike those of any labelled row
# (LCMD). Give the name of a file to write the picture.

# %%
import sys

import matplotlib.pyplot as plt
import numpy as np

import kernelfield as kf
from kernelfield.estimators.suggest import suggest
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.train import Training

rng = np.random.default_rng(1)
pool = np.concatenate([rng.normal(0.6, 0.06, (1700, 2)), rng.uniform(0, 1, (300, 2))]).clip(0, 1)
everywhere = rng.uniform(0, 1, (2000, 2))  # where the model will be used


def measured(X: np.ndarray) -> np.ndarray:
    """What a label costs a day to find out."""
    return np.sin(7 * X[:, 0]) * np.cos(5 * X[:, 1])


# %% [markdown]
# The first twenty rows are random. Then each batch is picked with what the last fit knows.

# %%
START, BATCH, ROUNDS = 20, 20, 4
model = Ensemble(members=2, training=Training(steps=400, learning_rate=0.01))
truth, errors, chosen = measured(everywhere), {}, {}
for name in ("random", "lcmd"):
    labelled = list(np.random.default_rng(0).permutation(len(pool))[:START])
    errors[name] = []
    for turn in range(ROUNDS + 1):
        X = pool[labelled]
        fitted = kf.FieldRegressor(model, random_state=0).fit(X, measured(X))
        errors[name].append(np.sqrt(np.mean((fitted.predict(everywhere) - truth) ** 2)))
        if turn < ROUNDS:
            rest = np.setdiff1d(np.arange(len(pool)), labelled)
            labelled += list(rest[suggest(fitted, X, pool[rest], BATCH, selection=name, random_state=turn)])
    chosen[name] = pool[labelled]
    print(f"{name:>6}: error", " ".join(f"{e:.3f}" for e in errors[name]))

# %%
figure, panels = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
line = np.linspace(0, 1, 100)
grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
for axis, name in zip(panels, ("random", "lcmd"), strict=False):
    axis.contourf(line, line, measured(grid).reshape(100, 100), 12, cmap="RdBu_r", alpha=0.6)
    axis.plot(*pool.T, ".", color="0.35", markersize=1, alpha=0.5)
    axis.plot(*chosen[name][START:].T, "o", color="black", markerfacecolor="gold", markersize=5)
    axis.set(title=f"{ROUNDS * BATCH} rows picked: {name}", aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
for name, colour in (("random", "tab:gray"), ("lcmd", "tab:orange")):
    panels[2].plot(START + BATCH * np.arange(ROUNDS + 1), errors[name], "o-", color=colour, label=name)
panels[2].set(title="root mean square error", xlabel="labels", ylim=(0, None))
panels[2].legend(frameon=False)
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=100)
plt.close(figure)
