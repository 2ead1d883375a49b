# %% [markdown]
# # May a decision rest on these predictions?
#
# A random forest of scikit-learn predicts a year's progression of diabetes. The spread of its trees is often taken for
# its uncertainty. A report says what that is worth, for whom, and what to do.

# %%
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import cross_val_predict

from kernelfield.uq.arrays import law_from
from kernelfield.uq.remedies import remedies
from kernelfield.uq.report import Report
from kernelfield.uq.rows import Rows

X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)


class Forest(RandomForestRegressor):
    """Answers with the mean and the standard deviation of its trees."""

    def predict(self, X):
        each = np.stack([tree.predict(np.asarray(X)) for tree in self.estimators_])
        return np.stack([each.mean(0), each.std(0)], axis=1)


# %% [markdown]
# Every row is predicted by a forest that has not seen it.

# %%
forest = Forest(n_estimators=40, min_samples_leaf=3, random_state=0)
mean, std = cross_val_predict(forest, X, y, cv=5).T

# %% [markdown]
# The report is told the columns, so that it can look for groups that fail, and which of them must be looked at first.

# %%
sex = X["sex"].map({1: "1", 2: "2"})  # a code and no number
rows = Rows({name: X[name].to_numpy() for name in X} | {"sex": sex.to_numpy()}, groups=["sex"])
tried = remedies(lambda index: law_from(mean=mean[index], std=std[index]), y.to_numpy()[:, None])
report = Report.from_arrays(
    y, mean=mean, std=std, model="forest, spread of its trees", outputs=["progression"], rows=rows, remedies=tried
)

# %%
for light in report.verdicts:
    print(f"{light.grade:5} {light.title}: {light.sentence}")
print("\nWhat to do:")
for sentence in report.advice:
    print(f"- {sentence}")

# %% [markdown]
# What recalibration would change, on rows that it has not learned from.

# %%
for one in report.remedies:
    scores = one.evaluation.scores()
    print(f"{one.name:10} CRPS {scores['crps']:.1f}, 90% intervals hold {scores['coverage90']:.1%}")

# %% [markdown]
# The whole of it as a page that asks nothing of the network: `python examples/uncertainty_report.py report.html`.

# %%
if len(sys.argv) > 1:
    Path(sys.argv[1]).write_text(report.to_html(), encoding="utf-8")
