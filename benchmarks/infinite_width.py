"""Kernels of infinitely wide networks side by side: kernelfield, BoTorch, neural-tangents.

    python benchmarks/infinite_width.py [--quick] [--reference PYTHON]

Four tables, on one thread: CPU nanoseconds an entry of dense ReLU kernels (d = 64, symmetric
matrices, all n^2 entries counted); one evidence and its gradient, NNGP of depth 3 at n = 1000;
CPU seconds an entry of the convolutional NTK of five layers and global average pooling on
32 x 32 x 3 images; and the memory of a backward pass. Medians of the repeats, the libraries in
turn. BoTorch's kernel is its `InfiniteWidthBNNKernel`, which has no NTK. --reference names the
Python of an environment with neural-tangents, which is then timed on the same inputs, its
compilation left out. Prints tables, then one line of JSON.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

INPUTS, REPEATS = 64, 7
DEPTHS = (3, 10)
IMAGE, IMAGES, LAYERS = 32, 4, 5

REFERENCE = """
import json, sys, time
import numpy as np, jax
jax.config.update("jax_enable_x64", True)
from neural_tangents import stax
rows, depths, inputs, repeats = json.loads(sys.argv[1])
table = {}
for dtype in ("float64", "float32"):
    for depth in depths:
        layers = [stax.Dense(1, W_std=2**0.5, b_std=0.1)]
        for _ in range(depth):
            layers += [stax.Relu(), stax.Dense(1, W_std=2**0.5, b_std=0.1)]
        kernel = jax.jit(stax.serial(*layers)[2], static_argnames="get")
        for n in rows:
            x = jax.numpy.asarray(np.random.default_rng(0).standard_normal((n, inputs)), dtype)
            kernel(x, None, get="ntk").block_until_ready()
            times = []
            for _ in range(repeats):
                start = time.process_time()
                kernel(x, None, get="ntk").block_until_ready()
                times.append(time.process_time() - start)
            table[f"{dtype} {depth} {n}"] = sorted(times)[len(times) // 2] / n**2 * 1e9
print(json.dumps(table))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out n = 5000")
    parser.add_argument("--reference", metavar="PYTHON", help="an interpreter that has neural-tangents")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory(options.memory)))
        return
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = [1000, 2000] if options.quick else [1000, 2000, 5000]
    reference = reference_times(options.reference, rows) if options.reference else {}
    summary = {"ns an entry": entries(rows, reference), "evidence": evidence(), "convolutional": convolutional()}
    n = rows[-1]
    command = [sys.executable, __file__, "--memory", str(n)]
    summary["memory"] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"\nbackward pass at n = {n}: {summary['memory']['matrices']:.2f} n x n matrices beyond the inputs")
    print(json.dumps(summary))


def entries(rows: list[int], reference: dict[str, float]) -> dict[str, dict[str, float]]:
    import torch

    from kernelfield.nets.gram import gram
    from kernelfield.nets.points import Points

    print(f"{'':24}{'NTK ns':>9}{'NNGP ns':>9}{'BoTorch NNGP':>14}{'reference NTK':>15}")
    table = {}
    for dtype in (torch.float64, torch.float32):
        for depth in DEPTHS:
            for n in rows:
                x = torch.randn(n, INPUTS, dtype=dtype)
                theirs = botorch_kernel(depth).to(dtype)
                calls: dict[str, Callable] = {
                    "NTK": lambda x=x, depth=depth: gram(network(depth), Points(x), kind="ntk"),
                    "NNGP": lambda x=x, depth=depth: gram(network(depth), Points(x)),
                    "BoTorch NNGP": lambda x=x, theirs=theirs: theirs(x, x).to_dense(),
                }
                with torch.no_grad():
                    row = {name: seconds / n**2 * 1e9 for name, seconds in interleaved(calls).items()}
                name = f"{str(dtype).removeprefix('torch.')} {depth} {n}"
                row |= {"reference NTK": reference[name]} if name in reference else {}
                table[name] = row
                print(f"{name:24}" + "".join(f"{v:{w}.1f}" for v, w in zip(row.values(), (9, 9, 14, 15), strict=False)))
    return table


def evidence() -> dict[str, float]:
    """One evidence and gradient: ours in closed form, BoTorch's kernel through GPyTorch."""
    import gpytorch
    import torch

    from kernelfield.core.contracts import Data
    from kernelfield.core.mixing import Unit
    from kernelfield.kernels.network import NetworkKernel
    from kernelfield.models.covariance import covariance
    from kernelfield.models.evidence import Objective, Trend

    n = 1000
    X = torch.randn(n, INPUTS, dtype=torch.double)
    Y = torch.sin(X.sum(-1, keepdim=True))
    kernel = NetworkKernel(network(3)).double()
    ours = Objective(covariance(kernel, X), Data(X, Y), Trend.of("constant", X), Unit(), 0.1, learn=True)

    class Model(gpytorch.models.ExactGP):
        def __init__(self, likelihood):
            super().__init__(X, Y[:, 0], likelihood)
            self.mean_module, self.covar_module = gpytorch.means.ConstantMean(), botorch_kernel(3)

        def forward(self, x):
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    model = Model(gpytorch.likelihoods.GaussianLikelihood().double()).double()
    marginal = gpytorch.ExactMarginalLogLikelihood(model.likelihood, model)

    def theirs() -> None:
        model.zero_grad()
        with gpytorch.settings.fast_computations(False, False, False), gpytorch.settings.max_cholesky_size(10**6):
            (-marginal(model(X), Y[:, 0])).backward()

    theta = ours.given()
    times = interleaved({"ours": lambda: ours(theta), "BoTorch": theirs})
    times["ratio"] = times["ours"] / times["BoTorch"]
    seconds = f"{times['ours']:.3f} s, with BoTorch's kernel {times['BoTorch']:.3f} s"
    print(f"\nevidence and gradient, NNGP, depth 3, n = {n}: {seconds}")
    return times


def convolutional() -> dict[str, float]:
    """CPU seconds an entry of the convolutional NTK with global pooling, float32."""
    import torch

    from kernelfield.nets.conv import Conv
    from kernelfield.nets.dense import Dense
    from kernelfield.nets.gram import gram
    from kernelfield.nets.points import Points
    from kernelfield.nets.pooling import GlobalAvgPool
    from kernelfield.nets.rectifiers import Relu

    arch = Conv((3, 3), 2**0.5, 0.1) >> Relu()
    for _ in range(LAYERS - 1):
        arch = arch >> Conv((3, 3), 2**0.5, 0.1) >> Relu()
    arch = arch >> GlobalAvgPool() >> Dense(1.0)
    x = torch.randn(IMAGES, IMAGE, IMAGE, 3)
    with torch.no_grad():
        seconds = interleaved({"NTK": lambda: gram(arch, Points(x, 2), kind="ntk")})["NTK"]
    entry = seconds / IMAGES**2
    print(f"\nconvolutional NTK, {LAYERS} layers, {IMAGE} x {IMAGE} x 3: {entry:.3f} s an entry of {IMAGES} x {IMAGES}")
    return {"seconds an entry": entry}


def memory(n: int) -> dict[str, float]:
    """The peak of a backward pass of depth 10 beyond what the process held before, in n x n matrices."""
    import torch

    from kernelfield.nets.gram import gram
    from kernelfield.nets.points import Points

    torch.set_num_threads(1)
    arch = network(10)
    scales = torch.tensor(arch.scales(), dtype=torch.double).requires_grad_()
    x = torch.randn(n, INPUTS, dtype=torch.double)
    gram(arch, Points(x[:300]), kind="ntk", scales=scales).sum().backward()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    K = gram(arch, Points(x), kind="ntk", scales=scales)
    K.backward(torch.ones_like(K))
    peak = resident("VmHWM") - before
    return {"bytes": peak, "matrices": peak / (8 * n**2)}


def resident(name: str) -> int:
    """Bytes of memory of this process: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def network(depth: int):
    from kernelfield.nets.dense import Dense
    from kernelfield.nets.rectifiers import Relu

    arch = Dense(2**0.5, 0.1)
    for _ in range(depth):
        arch = arch >> Relu() >> Dense(2**0.5, 0.1)
    return arch


def botorch_kernel(depth: int):
    from botorch.models.kernels import InfiniteWidthBNNKernel

    return InfiniteWidthBNNKernel(depth).double()


def reference_times(python: str, rows: list[int]) -> dict[str, float]:
    arguments = json.dumps([rows, DEPTHS, INPUTS, REPEATS])
    environment = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}
    command = [python, "-c", REFERENCE, arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def interleaved(calls: dict[str, Callable]) -> dict[str, float]:
    """Median CPU seconds of each call, in turn, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(REPEATS):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: sorted(values)[len(values) // 2] for name, values in times.items()}


if __name__ == "__main__":
    main()
