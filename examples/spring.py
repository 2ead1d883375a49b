# %% [markdown]
# # An inverse problem: the stiffness of a spring from twenty-five noisy readings
# A damped spring obeys u'' + u' + k u = 0. The readings are too few and too noisy for the motion, and k is not
# known; with the equation they tell both. Give the name of a file to write the picture.

# %%
import sys

import matplotlib.pyplot as plt
import torch

from kernelfield.core.contracts import Data
from kernelfield.pde.problem import Problem, Term, Unknown
from kernelfield.pde.solve import solve

generator = torch.Generator().manual_seed(1)
times = 4 * torch.rand(25, 1, generator=generator, dtype=torch.double)


def truth(t: torch.Tensor) -> torch.Tensor:
    return torch.exp(-t / 2) * torch.cos(6 * t)


readings = truth(times) + 0.1 * torch.randn(25, 1, generator=generator, dtype=torch.double)

# %% [markdown]
# k may be anything between 5 and 80; in truth it is 36.25. Nothing is said about the start of the motion.

# %%
stiffness = Unknown("k", 20.0, 5.0, 80.0)
operator = (Term(1.0, (2,)), Term(1.0, (1,)), Term(stiffness, (0,)))
spring = Problem("spring", ((0.0, 4.0),), operator, lambda X: 0 * X[:, 0], {}, axes=("t",))
solution = solve(spring, grid=48, steps=20, observations=Data(times, readings))
found = solution.estimates["k"]
print(f"k = {found.value:.2f} +- {found.std:.2f}, in truth 36.25")

# %% [markdown]
# The band of the motion includes what the readings leave open of k itself.

# %%
t = torch.linspace(0, 4, 300, dtype=torch.double)[:, None]
mean, std = solution.mean(t), solution.variance(t).sqrt()
inside = ((mean - truth(t)[:, 0]).abs() < 1.96 * std).double().mean()
print(f"the 95% band holds the motion at {inside:.0%} of its points")
figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
axes.fill_between(t[:, 0], mean - 1.96 * std, mean + 1.96 * std, color="#56B4E9", alpha=0.35, linewidth=0, label="95%")
axes.plot(t, mean, color="#0072B2", label="mean")
axes.plot(t, truth(t), color="#222222", linewidth=1, linestyle=(0, (4, 3)), label="truth")
axes.plot(times, readings, "o", color="#222222", markersize=3.5, label="readings")
axes.set(title=f"k = {found.value:.1f} ± {found.std:.1f}", xlabel="t", ylabel="u", xlim=(0, 4))
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, ncols=4, loc="lower right")
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=110)
plt.close(figure)
