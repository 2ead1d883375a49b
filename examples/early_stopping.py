# %% [markdown]
# # Tuning a network whose bad trials are stopped early
# A small network learns to read digits, at most 27 passes over its data a trial. Optuna's pruner stops trials
# that look bad after 1, 3 or 9 passes; `FieldSampler(fidelity="step")` learns from those as well, by a
# process over parameters and passes, and chooses what is tried next.
# Give the name of a file to write the picture.

# %%
import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
import optuna
from optuna.pruners import SuccessiveHalvingPruner
from optuna.trial import TrialState
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from kernelfield.bo.optuna import FieldSampler

PASSES, TRIALS = 27, 30
GREY, BLUE = "#BBBBBB", "#0072B2"
X, y = load_digits(return_X_y=True)
X, classes = X / 16, np.arange(10)
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=RuntimeWarning)  # networks that diverge


# %% [markdown]
# The objective reports its loss on unseen digits after each pass. There is nothing else to do.


# %%
def objective(trial: optuna.Trial) -> float:
    network = MLPClassifier(
        hidden_layer_sizes=(trial.suggest_int("width", 8, 64, log=True),),
        solver="sgd",
        learning_rate_init=trial.suggest_float("rate", 1e-3, 3.0, log=True),
        momentum=trial.suggest_float("momentum", 0.0, 0.95),
        alpha=trial.suggest_float("decay", 1e-5, 1.0, log=True),
        batch_size=50,
        random_state=0,
    )
    for step in range(1, PASSES + 1):
        network.partial_fit(X[:600], y[:600], classes=classes)
        share = np.clip(network.predict_proba(X[600:])[np.arange(len(y) - 600), y[600:]], 1e-3, 1)
        loss = float(-np.log(share).mean())
        trial.report(loss, step)
        if step < PASSES and trial.should_prune():
            raise optuna.TrialPruned
    return loss


sampler = FieldSampler(fidelity="step", startup_trials=8, seed=1)
study = optuna.create_study(sampler=sampler, pruner=SuccessiveHalvingPruner(1, 3))
study.optimize(objective, n_trials=TRIALS)
passes = [len(t.intermediate_values) for t in study.trials]
whole = [t.state == TrialState.COMPLETE for t in study.trials]
print(f"{sum(whole)} whole trials of {TRIALS}, {sum(passes)} passes in place of {TRIALS * PASSES}")
print(f"loss {study.best_value:.3f} at", {name: float(f"{value:.3g}") for name, value in study.best_params.items()})

# %% [markdown]
# Left: the losses as they were reported. Right: which rates were tried when; a large mark is a trial of many passes.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for t, done in zip(study.trials, whole, strict=True):
    steps, losses = zip(*t.intermediate_values.items(), strict=True)
    left.plot(steps, losses, color=BLUE if done else GREY, marker=".", lw=1, zorder=2 + done)
left.set(title="whole trials (blue) and stopped ones", xlabel="passes", ylabel="loss on unseen digits")
left.set(xscale="log", yscale="log", xticks=[1, 3, 9, 27], xticklabels=[1, 3, 9, 27])
rates = [t.params["rate"] for t in study.trials]
right.scatter(range(TRIALS), rates, s=8 * np.array(passes), c=[BLUE if done else GREY for done in whole])
right.axvline(7.5, color="black", lw=0.8, ls=":")
right.text(7.8, 1.2e-3, "chosen by FieldSampler", va="bottom")
right.set(title="rates tried", xlabel="trial", ylabel="learning rate", yscale="log")
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=120)
