# %% [markdown]
# # Rhythms of the air: carbon dioxide, extrapolated by its spectrum
# A spectral mixture finds the frequencies of a record and goes on with them. Here: the monthly
# record of Mauna Loa until 1985, and what it says about the sixteen years after. Needs statsmodels,
# which brings the data. Give the name of a file to write the picture.

# %%
import sys

import matplotlib.pyplot as plt
import numpy as np
from statsmodels.datasets import co2

import kernelfield as kf
from kernelfield.kernels.spectrum import plot_spectrum
from kernelfield.models.spectral import Spectral

INK, SKY, BLUE = "#222222", "#56B4E9", "#0072B2"
monthly = co2.load_pandas().data["co2"].resample("MS").mean().dropna()
years = (monthly.index.year + (monthly.index.month - 0.5) / 12).to_numpy()
level = monthly.to_numpy()
before = years < 1985

# %% [markdown]
# Twelve numbers a year make one cycle in two months the fastest that can be told. The fit starts
# at the peaks of the periodogram, and components that the record does not need stay out or fade;
# more steps polish both.

# %%
model = Spectral(6, mean="linear", restarts=2, steps=45)
regressor = kf.FieldRegressor(model, random_state=0).fit(years[before, None], level[before])
kernel = regressor.surrogate_.inner.kernel
year = float(regressor.surrogate_.to_model_X.scale)  # the model's unit, in years
for peak in kernel.peaks(scale=year):
    frequency = abs(peak.frequency[0])
    period = f"every {1 / frequency:.2f} years" if frequency > 0.02 else "drift"
    print(f"{peak.share:7.2%} of the variance at {frequency:.3f} a year: {period}")

# %% [markdown]
# The season is predicted far ahead. The slow drift is not periodic: the record until 1985 does not
# tell how emissions grow, and the band about a straight line is no forecast of them.

# %%
mean, std = regressor.predict(years[:, None], return_std=True)
error = level[~before] - mean[~before]
print(f"root mean square error of 1985-2001: {np.sqrt(np.mean(error**2)):.1f} ppm")
season = error - np.convolve(np.pad(error, 6, mode="edge"), np.ones(13) / 13, "valid")
print(f"of the season alone: {season.std():.2f} ppm, of a swing of 6 ppm")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), width_ratios=(1.5, 1), layout="constrained")
left.fill_between(years, mean - 2 * std, mean + 2 * std, color=SKY, alpha=0.35, linewidth=0, label="mean ± 2 std")
left.plot(years, mean, color=BLUE, linewidth=1)
left.plot(years[before], level[before], ".", color=INK, markersize=2.5, label="fitted")
left.plot(years[~before], level[~before], ".", color="#D55E00", markersize=2.5, label="held out")
left.axvline(1985, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
left.set(xlabel="year", ylabel="CO2 (ppm)", xlim=(years[0], years[-1]))
left.legend(loc="upper left", frameon=False)
plot_spectrum(kernel, right, scale=year, reach=3.0)
right.set(xlabel="cycles a year", ylabel="power", title="spectrum and shares of the variance")
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=110)
plt.close(figure)
