# %% [markdown]
# # Gradient boosting tuned by an optimizer
# Every trial trains three machines on two thirds of the diabetes data each, and is judged by what they say of the rest.
# The search is over five parameters, one of which exists only beside one choice of another. Trials are kept in
# a file, from which the same script goes on if it was interrupted.

# %%
from pathlib import Path
from typing import Any

from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import KFold, cross_val_score

from kernelfield.bo.loop import Optimizer
from kernelfield.bo.space import Condition, Space
from kernelfield.optimising import write_report

X, y = load_diabetes(return_X_y=True)
FOLDS = KFold(3, shuffle=True, random_state=0)

# %%
short = {
    "learning_rate": (0.01, 0.5, "log"),
    "n_estimators": (10, 100),
    "max_depth": (1, 5),
    "loss": ["squared_error", "quantile"],
    "alpha": (0.3, 0.7),
}
space = Space(Space.of(short).parameters, {"alpha": Condition("loss", ("quantile",))})


# %% [markdown]
# The objective takes a dictionary and gives a number: the mean absolute error, in points of the disease's score.


# %%
def error(parameters: dict[str, Any]) -> float:
    model = GradientBoostingRegressor(random_state=0, **parameters)
    return -cross_val_score(model, X, y, cv=FOLDS, scoring="neg_mean_absolute_error").mean()


# %%
if __name__ == "__main__":
    optimizer = Optimizer(space, storage="sqlite:///boosting.db", name="boosting", startup_trials=8, seed=0)
    optimizer.enqueue({"learning_rate": 0.1, "n_estimators": 100, "max_depth": 3, "loss": "squared_error"})
    optimizer.run(error, trials=15)  # workers=4 evaluates so many at a time, each in a process of its own
    default, best = optimizer.trials[0], optimizer.best
    assert best is not None
    print(f"scikit-learn's own choices: {default.value:.2f}; the best of 15 trials: {best.value:.2f}, with")
    for name, value in best.params.items():
        print(f"    {name} = {value:.3g}" if isinstance(value, float) else f"    {name} = {value}")
    write_report(optimizer, "boosting.html")
    print(f"what was learned of each parameter: {Path('boosting.html').resolve().name}")
