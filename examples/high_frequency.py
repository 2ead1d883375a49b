# %% [markdown]
# # A differential equation with ninety waves, and its band
# u'' + 40 u = f on [0, 2 pi], where u is a slow wave that carries a fast one. Networks trained on such
# equations find the slow part alone. Here the equation is a set of observations of a process whose
# spectrum starts at the frequencies of f, and the answer comes with error bars: those of the
# numerical error, which the solver estimates without knowing u. Give the name of a file for the picture.

# %%
import sys
from math import pi

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from kernelfield.pde.benchmarks import manufactured
from kernelfield.pde.problem import Term
from kernelfield.pde.solve import solve


def exact(X: Tensor) -> Tensor:
    x = X[:, 0]
    return torch.sin(2 * x) + 0.2 * torch.sin(90 * x) * torch.exp(-((x - pi) ** 2))


operator = [Term(1.0, (2,)), Term(40.0, (0,))]
problem = manufactured("waves", exact, ((0.0, 2 * pi),), operator)

# %% [markdown]
# Sources and boundary values are what the solver sees. The residual between the points where the
# equation was asked for tells how good the answer is.

# %%
x = torch.linspace(0, 2 * pi, 2000, dtype=torch.double)[:, None]
coarse, fine = solve(problem, grid=240), solve(problem)
for name, solution in [("240 nodes", coarse), ("as chosen", fine)]:
    print(
        f"{name}: relative error {solution.relative_l2(x):.1e}, residual between nodes {solution.offset_residual:.1e}, "
        f"95% bands hold {solution.coverage(x):.0%}, {solution.seconds:.2f} s"
    )

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
left.plot(x, fine.mean(x), color="#0072B2", linewidth=0.8)
left.set(title="the solution", xlabel="x", ylabel="u", xlim=(0, 2 * pi))
for solution, colour, name in [(coarse, "#D55E00", "240 nodes"), (fine, "#0072B2", "as chosen")]:
    error = (solution.mean(x) - exact(x)).abs().clamp_min(1e-16)
    right.semilogy(x, error, color=colour, linewidth=0.6, alpha=0.6, label=f"error, {name}")
    right.semilogy(x, 1.96 * solution.variance(x).sqrt(), color=colour, linewidth=1.8, label="1.96 std")
right.set(title="errors and bands", xlabel="x", xlim=(0, 2 * pi), ylim=(1e-13, 1e-6))
right.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15))
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=110)
plt.close(figure)
