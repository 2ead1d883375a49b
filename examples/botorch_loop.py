# %% [markdown]
# # Bayesian optimisation by hand, with an infinitely wide network
# A surrogate of kernelfield is a BoTorch model, so that a loop is BoTorch's own: fit, maximise an acquisition
# function, evaluate. The function of six inputs is itself a random network; the surrogate is the process of an
# infinitely wide one (NNGP), beside the usual Matern process and random points. Give the name of a file to write the
# picture.

# %%
import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from botorch.acquisition import LogExpectedImprovement
from botorch.optim import optimize_acqf

import kernelfield as kf
from kernelfield.bo.adapter import to_botorch
from kernelfield.models.process import Process

START, STEPS = 10, 12
torch.manual_seed(0)
layers = [torch.randn(a, b, dtype=torch.float64) for a, b in ((7, 64), (65, 64), (65, 1))]
bounds = torch.tensor([[0.0] * 6, [1.0] * 6], dtype=torch.float64)


def function(X: torch.Tensor) -> torch.Tensor:
    """A network of two hidden layers, all of whose weights and biases are standard normals."""
    for layer in layers:
        X = torch.cat([X if layer is layers[0] else X.tanh(), torch.ones_like(X[:, :1])], -1) @ layer
    return X[:, 0]


def optimised(kernel: str, seed: int) -> tuple[torch.Tensor, list[tuple[float, float]]]:
    """All values found, and what the surrogate said of each before it was seen: mean and standard deviation."""
    X = torch.quasirandom.SobolEngine(6, scramble=True, seed=seed).draw(START).double()
    Y, said = function(X), []
    for step in range(STEPS):
        fitted = kf.FieldRegressor(Process(kernel, restarts=1, steps=20), random_state=step).fit(X.numpy(), Y.numpy())
        model = to_botorch(fitted)
        torch.manual_seed(1000 * seed + step)
        best = LogExpectedImprovement(model, Y.max())
        new, _ = optimize_acqf(best, bounds, q=1, num_restarts=2, raw_samples=64, options={"maxiter": 20})
        law = model.posterior(new)
        said.append((law.mean.item(), law.variance.sqrt().item()))
        X, Y = torch.cat([X, new]), torch.cat([Y, function(new)])
    return Y, said


# %% [markdown]
# The search for the best of an acquisition function may stop early, which BoTorch warns of and which does no harm.

# %%
warnings.filterwarnings("ignore", message=".*[Oo]ptimization failed.*")
runs, said = {}, {}
for name, kernel in {"network (NNGP)": "nngp", "Matern": "matern52"}.items():
    runs[name], said[name] = optimised(kernel, seed=1)
runs["random points"] = function(torch.quasirandom.SobolEngine(6, scramble=True, seed=1).draw(START + STEPS).double())
for name, Y in runs.items():
    print(f"{name:>14}: best of {START} values {Y[:START].max():6.2f}, of {len(Y)} {Y.max():6.2f}")

# %%
figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for (name, Y), colour in zip(runs.items(), ("tab:orange", "tab:blue", "0.6"), strict=True):
    best_yet = np.maximum.accumulate(Y.numpy())
    panels[0].plot(np.arange(1, len(Y) + 1), best_yet, color=colour, label=name, drawstyle="steps-post")
panels[0].axvline(START, color="0.8", linewidth=1)
panels[0].set(xlabel="evaluations", ylabel="value", title="best value so far; the line ends the random start")
panels[0].legend(frameon=False)
mean, std = np.array(said["network (NNGP)"]).T
panels[1].errorbar(runs["network (NNGP)"][START:], mean, 2 * std, fmt="o", color="tab:orange", markersize=4)
panels[1].axline((mean[0], mean[0]), slope=1, color="0.7", linewidth=1)
panels[1].set(
    xlabel="value found", ylabel="said before, with two standard deviations", title="network: what it foresaw"
)
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=100)
plt.close(figure)
