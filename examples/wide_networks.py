# %% [markdown]
# # One architecture: a kernel, and networks of growing width
# An architecture is a value. Read as a kernel it is the covariance of infinitely wide networks;
# read as a module it is a finite one. The wider the networks, the more they agree. Give the name
# of a file to write the picture.

# %%
import sys

import matplotlib.pyplot as plt
import torch

import kernelfield as kf

torch.manual_seed(0)
arch = kf.Dense(1.4, 0.3) >> kf.Relu() >> kf.Dense(1.4, 0.3) >> kf.Relu() >> kf.Dense(1.4)
angle = torch.linspace(0, torch.pi, 13)
X = torch.stack([angle.cos(), angle.sin()], -1)  # half a turn
exact = kf.NetworkKernel(arch)(X).to_dense()[0].detach()
print("covariance with the first point, infinite width: ", [round(v, 2) for v in exact[::4].tolist()])

# %% [markdown]
# The covariance of the outputs of finite networks, over a thousand random ones of each width, and
# the tangent kernel of a single one: its Jacobian times its transpose.

# %%
WIDTHS = [4, 16, 64, 256]
tangent = kf.NetworkKernel(arch, "ntk")(X).to_dense()[0].detach()
means, tangents = {}, {}
for width in WIDTHS:
    networks = [arch.module(fan_in=2, width=width, fan_out=1)[0] for _ in range(1000)]
    with torch.no_grad():
        outputs = torch.stack([network(X)[:, 0] for network in networks])
    means[width] = outputs.mT @ outputs[:, 0] / len(networks)
    tangents[width] = torch.stack([kf.empirical_ntk(network, X[:1], X)[0] for network in networks[:20]]).detach()
    error = (tangents[width] - tangent).square().mean().sqrt() / tangent.abs().max()
    print(f"width {width:4}: a single network's tangent kernel is {error:.1%} off")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True)
degrees = angle.rad2deg()
for shade, width in zip((0.75, 0.55, 0.35, 0.15), WIDTHS, strict=True):
    left.plot(degrees, means[width], color=str(shade), label=f"width {width}, 1000 networks")
    right.plot(degrees, tangents[width][:3].mT, color=str(shade), linewidth=0.8)
left.plot(degrees, exact, "o", color="tab:orange", label="NNGP kernel", markersize=4)
right.plot(degrees, tangent, "o", color="tab:orange", label="NTK", markersize=4)
for axis, title in ((left, "covariance of the outputs"), (right, "tangent kernel of three networks each")):
    axis.set(title=title, xlabel="angle to the first input, degrees")
    axis.legend(frameon=False, fontsize=8)
figure.tight_layout()
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1])
plt.close(figure)
