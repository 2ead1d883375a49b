# %% [markdown]
# # How sure is a surrogate of an equation, and where?
# A solver of Burgers' equation takes a random field to what it becomes: crests overtake troughs and
# make fronts, whose place and height depend on all waves of the start at once. Four models learn it
# from 150 noisy runs, and are asked for fields of the same law, and for ones of half its length, such as
# they never saw. A band that is honest there must be wider. Give the name of a file to write the picture.

# %%
import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_auc_score

import kernelfield as kf
from kernelfield.data.flows import Burgers, PeriodicField, flow_sample
from kernelfield.models.neural.dropout import MCDropout
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.network import multilayer
from kernelfield.models.neural.train import Training
from kernelfield.models.process import Process
from kernelfield.nets.quadrature import Tanh

INK, SKY, BLUE, RED = "#222222", "#56B4E9", "#0072B2", "#D55E00"
SHOWN = 10  # of the test fields
rng = np.random.default_rng(0)
flow, law = Burgers(), PeriodicField()
X, Y = flow_sample(flow, law, 150, rng, sensors=32)
Y = Y + 0.03 * rng.standard_normal(Y.shape)
tests = {
    "as trained": flow_sample(flow, law, 100, rng, sensors=32),
    "rougher": flow_sample(flow, replace(law, length=law.length / 2), 100, rng, sensors=32),
}

# %% [markdown]
# The process is the reference, exact under its prior; dropout is the control, of which one expects too
# little. Bands are of the function alone, without the noise of the runs: 90% of the solution belongs inside,
# in either row of the picture. It shows one field of each law, and the shares of a hundred.

# %%
short = Training(steps=600, learning_rate=5e-3)
models = {
    "Gaussian process": Process(restarts=1),
    "infinitely wide network": Process("erf-nngp", restarts=1),
    "ensemble": Ensemble(multilayer((50, 50), Tanh(), w=2.0, b=1.0), members=5, training=short),
    "dropout": MCDropout(training=short, draws=40),
}
figure, panels = plt.subplots(2, 4, figsize=(11, 5), sharex=True, sharey=True, layout="constrained")
place = np.arange(33) / 32  # the last is the first again
for column, (title, model) in zip(panels.T, models.items(), strict=True):
    regressor = kf.FieldRegressor(model, random_state=0).fit(X, Y)
    stds = []
    for axes, (name, (fields, truth)) in zip(column, tests.items(), strict=True):
        law_of_f = regressor.posterior(fields, noise=False)
        mean, low, high = (v.numpy() for v in (law_of_f.mean, law_of_f.quantile(0.05), law_of_f.quantile(0.95)))
        stds.append(law_of_f.variance.sqrt().mean(1).numpy())
        inside, error = np.mean((low <= truth) & (truth <= high)), np.sqrt(np.mean((mean - truth) ** 2))
        print(f"{title:<24}{name:<11} RMSE {error:.3f}, 90% bands {np.mean(high - low):.2f} wide hold {inside:.0%}")
        curves = (law.values(fields, 1, points=32), truth, mean, low, high)
        start, end, middle, *band = (np.append(v[SHOWN], v[SHOWN, 0]) for v in curves)
        axes.fill_between(place, *band, color=SKY, alpha=0.5, linewidth=0, label="90% band")
        axes.plot(place, start, color=RED, linewidth=1, alpha=0.7, label="field at the start")
        axes.plot(place, middle, color=BLUE, linewidth=1.8, label="mean of the surrogate")
        axes.plot(place, end, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="solution")
        axes.text(0.98, 0.95, f"{inside:.0%} inside", transform=axes.transAxes, ha="right", va="top")
        axes.spines[["top", "right"]].set_visible(False)
    column[0].set_title(title, fontsize=11)
    told = roc_auc_score([0] * len(stds[0]) + [1] * len(stds[1]), np.concatenate(stds))
    print(f"{'':<24}the wider band is that of a rougher field with probability {told:.2f}")

# %%
for axes, name in zip(panels[:, 0], tests, strict=True):
    axes.set(ylabel=name, xlim=(0, 1))
figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=90)
plt.close(figure)
