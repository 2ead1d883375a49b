# %% [markdown]
# # Digits by an infinitely wide convolutional network
# The neural tangent kernel of a convolutional network is what the network would learn with, had
# each layer infinitely many channels. Its support-vector machine has no weights to initialise,
# no learning rate and one optimum. Here it reads scikit-learn's 8 x 8 images.

# %%
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix

import kernelfield as kf

digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
train, test = order[:800], order[800:1200]
X, y = (digits.data - digits.data.mean()) / digits.data.std(), digits.target
print(f"{len(train)} images to learn from, {len(test)} to be tested on")

# %% [markdown]
# Rows of 64 numbers become images by the `shape` of the kernel. Three convolutions of 3 x 3 with
# ReLUs between them, and a readout of all positions.

# %%
arch = kf.Conv((3, 3), 2**0.5, 0.1) >> kf.Relu()
for _ in range(2):
    arch = arch >> kf.Conv((3, 3), 2**0.5, 0.1) >> kf.Relu()
arch = arch >> kf.Flatten() >> kf.Dense(1.0)
kernel = kf.NetworkKernel(arch, "ntk", shape=(8, 8, 1)).double()

# %%
start = time.perf_counter()
machine = kf.FieldClassifier(kf.SupportVectorClassifier(kernel, penalty=1e-4), random_state=0)
machine.fit(X[train], y[train])
guesses = machine.predict(X[test])
accuracy = (guesses == y[test]).mean()
print(f"accuracy {accuracy:.2%} after {time.perf_counter() - start:.0f} s")

# %% [markdown]
# What is mistaken for what: rows are the truth, columns the guesses.

# %%
print(confusion_matrix(y[test], guesses))
