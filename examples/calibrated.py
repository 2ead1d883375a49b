# %% [markdown]
# # A model that is too sure of itself
# How far diabetes went in a year, from ten measurements of 442 patients. The noise of a Gaussian
# process is held at a hundredth of the variance of the targets, as if they were almost exact, and
# its 90% intervals miss one patient in five. Rows that it has not seen mend them: by a factor for
# all deviations, by conformal intervals, by such intervals for each sex; or a jackknife does, which
# needs no rows apart and has its n models from one fit.
#
#     python examples/calibrated.py [picture.png]

# %%
import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

from kernelfield.estimators.calibrated import Calibrated
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.process import Process
from kernelfield.uq.conformal.ranks import CoverageLaw, rank

X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
X["sex"] = X["sex"].map({1.0: 0, 2.0: 1})
learned, new, y_learned, y_new = train_test_split(X, y, test_size=142, random_state=0)
train, rest, y_train, y_rest = train_test_split(learned, y_learned, test_size=150, random_state=0)
sure = FieldRegressor(Process(noise=0.01, learn_noise=False), random_state=0).fit(train, y_train)

# %% [markdown]
# The share of new patients inside varies by chance: with the 150 patients that calibrate, and with
# the 142 that are counted. For conformal intervals its law is known whatever the model: a Beta law of
# the share of all patients, and counts from it. Each sex is half of both, and varies more.


# %%
def said(name: str, model: FieldRegressor | Calibrated) -> None:
    """Print how many new patients the 90% intervals hold, and their width."""
    low, high = model.predict(new, quantiles=[0.05, 0.95])[1].T
    inside = ((low <= y_new) & (y_new <= high)).to_numpy()
    by_sex = ", ".join(f"{inside[new['sex'] == sex].mean():.0%}" for sex in (0, 1))
    print(f"{name:12} {inside.mean():.0%} inside ({by_sex} of each sex), {(high - low).mean():.0f} wide on average")


for whom, n, m in (("all", 150, 142), ("each sex", 75, 71)):
    low, high = CoverageLaw(rank(n, 0.9), n).of_test(m)
    print(f"nine times of ten {low:.0%} to {high:.0%} of {whom} will be inside")
said("as it is", sure)
mended = {}
for method in ("std", "split", "mondrian"):
    mended[method] = Calibrated(sure, method=method, groups="sex", cv="prefit").fit(rest, y_rest)
    said(method, mended[method])

# %% [markdown]
# The jackknife learns from all 300 patients, and the noise too; its models are algebra on one fit.

# %%
jackknife = Calibrated(FieldRegressor(Process(), random_state=0), method="jackknife+").fit(learned, y_learned)
said("jackknife+", jackknife)
print(*jackknife.notes_, sep="\n")


# %%
def picture(path: str) -> None:
    """Intervals of 40 new patients before and after, in the order of the predictions."""
    shown = new.iloc[:40]
    order = np.argsort(sure.predict(shown))
    _, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for panel, (name, model) in zip(axes, {"as it is": sure, "calibrated by std": mended["std"]}.items(), strict=True):
        mean, ends = model.predict(shown.iloc[order], quantiles=[0.05, 0.95])
        panel.vlines(range(40), *ends.T, color="C0", alpha=0.5, linewidth=4, label="90% interval")
        panel.plot(mean, "_", color="C0", label="prediction")
        panel.plot(y_new.iloc[:40].iloc[order].to_numpy(), ".", color="0.2", label="what came")
        panel.set(title=name, xlabel="patient", ylabel="progression")
    axes[0].legend()
    plt.savefig(path)


if len(sys.argv) > 1:
    picture(sys.argv[1])
