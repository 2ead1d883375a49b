# %% [markdown]
# # Which cell to build next
# A network's cell is a graph of operations, and to train one is dear. Forty-eight of them may be tried: a process
# with the Weisfeiler-Lehman kernel learns from the ones before, mutations of the best compete by their expected
# improvement, and the slopes of its mean say which motifs pay. Here the truth is known: each convolution that
# leads into a pooling is worth one, and each edge costs a tenth. Give the name of a file to write the picture.

# %%
import sys

import matplotlib.pyplot as plt
import numpy as np

from kernelfield.bo.graphs import GraphSearch, GraphSpace
from kernelfield.kernels.weisfeiler_lehman import LabelledGraph

TRIALS, BATCH = 48, 8


def accuracy(cell: LabelledGraph) -> float:
    """What training a cell would tell."""
    pairs = sum(cell.labels[a] == "conv" and cell.labels[b] == "pool" for a, b in cell.edges)
    return pairs - 0.1 * len(cell.edges)


space = GraphSpace(
    ("conv", "pool", "skip"), nodes=(4, 7), directed=True, valid=lambda cell: all(a < b for a, b in cell.edges)
)

# %% [markdown]
# Batches of eight, as for eight machines. Random cells are the alternative.

# %%
search, found = GraphSearch(space, pool=60, initial=8, rounds=1, normalised=False, seed=0), []
while len(found) < TRIALS:
    for cell in search.ask(BATCH):
        search.tell(cell, accuracy(cell))
        found.append(accuracy(cell))
generator = np.random.default_rng(0)
random = [accuracy(space.random(generator)) for _ in range(TRIALS)]
best, value = search.best
print(f"best of {TRIALS} random cells {max(random):.1f}, of the search {value:.1f}: {', '.join(best.labels)}")
worths = search.worths()[:6]
for worth in worths:
    print(f"{worth.mean:+.2f} for one more of  {worth.motif}  (in {worth.graphs} cells)")

# %%
figure, panels = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained", width_ratios=(1.1, 1, 1))
for name, values, colour in (("random", random, "tab:gray"), ("search", found, "tab:blue")):
    panels[0].plot(np.maximum.accumulate(values), color=colour, label=f"{name}: best so far")
    panels[0].plot(values, ".", color=colour, markersize=4, alpha=0.6)
panels[0].set(xlabel="cells tried", ylabel="value")
panels[0].legend(frameon=False, loc="lower right")

colours = {"conv": "tab:blue", "pool": "tab:orange", "skip": "0.75"}
angle = 2 * np.pi * np.arange(len(best.labels)) / len(best.labels)
place = np.stack([np.sin(angle), np.cos(angle)], -1)
for a, b in best.edges:
    panels[1].annotate("", place[b], place[a], arrowprops={"arrowstyle": "->", "shrinkA": 14, "shrinkB": 14})
for label, (x, y) in zip(best.labels, place, strict=True):
    panels[1].text(x, y, label, ha="center", va="center", bbox={"boxstyle": "circle", "facecolor": colours[label]})
panels[1].set(title="the best cell", xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal")
panels[1].axis("off")

panels[2].barh([worth.motif for worth in worths], [worth.mean for worth in worths], color="tab:blue")
panels[2].invert_yaxis()
panels[2].set(title="one more of a motif is worth")
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=100)
plt.close(figure)
