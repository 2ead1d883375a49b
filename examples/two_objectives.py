# %% [markdown]
# # A beam that is light and stiff
#
# An Optuna study with two objectives and a constraint, sampled by `FieldSampler`. A cantilever of steel, 2 m long,
# carries 5 kN at its end. Its mass and its deflection are to be small, and its stress below 160 MPa. Each design
# stands for a simulation that takes hours, so there are only 24 of them.
# Give the name of a file to write the picture.

# %%
import sys

import matplotlib.pyplot as plt
import optuna

import kernelfield as kf

LENGTH, LOAD, DENSITY, MODULUS, LIMIT = 2.0, 5e3, 7850.0, 210e9, 160e6
optuna.logging.set_verbosity(optuna.logging.ERROR)


def beam(trial: optuna.Trial) -> tuple[float, float]:
    """Mass in kg and deflection in mm of a hollow rectangular section."""
    width = trial.suggest_float("width", 0.04, 0.20)
    height = trial.suggest_float("height", 0.04, 0.30)
    wall = trial.suggest_float("wall", 0.002, 0.02, log=True)
    area = width * height - (width - 2 * wall) * (height - 2 * wall)
    inertia = (width * height**3 - (width - 2 * wall) * (height - 2 * wall) ** 3) / 12
    stress = LOAD * LENGTH * height / 2 / inertia
    trial.set_constraint("stress", stress / LIMIT - 1)
    return DENSITY * area * LENGTH, 1e3 * LOAD * LENGTH**3 / (3 * MODULUS * inertia)


# %% Designs chosen by the expected improvement of the hypervolume; and as many at random.
studies = {}
for name, sampler in {
    "FieldSampler": kf.FieldSampler("gp", reference=(120.0, 15.0), seed=0),
    "random": optuna.samplers.RandomSampler(seed=0),
}.items():
    studies[name] = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    studies[name].optimize(beam, n_trials=24)
    print(f"{name}: {len(studies[name].best_trials)} designs that no other one beats in both")

# %% The best designs of each.
figure, axes = plt.subplots(figsize=(6.4, 4.2))
for (name, study), colour in zip(studies.items(), ("#0072b2", "#999999"), strict=True):
    kept = [t.values for t in study.trials if t.constraints["stress"] <= 0]
    axes.plot(*zip(*kept, strict=True), ".", color=colour, alpha=0.4)
    front = sorted(t.values for t in study.best_trials)
    axes.step(*zip(*front, strict=True), where="post", color=colour, label=f"{name}: {len(kept)} of 24 hold")
axes.set(xlabel="mass, kg", ylabel="deflection, mm", xlim=(0, 120), ylim=(0, 15))
axes.legend(frameon=False)
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=150, bbox_inches="tight")
