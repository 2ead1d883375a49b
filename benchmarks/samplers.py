"""Effective samples a second: vectorised Hamiltonian Monte Carlo against pyro's no-U-turn sampler.

    python benchmarks/samplers.py [--rows 500] [--draws 60] [--warmup 60] [--pyro-draws 25] [--pyro-warmup 70]

A network of two hidden layers of 50 tanh units with noise of unknown variance, and one density for
all: the one of `NetworkDensity`, in single precision, which is torch's default and so pyro's. All
start from the same trained networks. `HMC` and `NUTS` move four chains at once; pyro's NUTS moves
one, with its defaults, as its several chains are processes. Sizes are those of the predictions at 32
rows and of the noise, as R-hat and effective sizes of weights say nothing of functions; seconds
are of the processor, on one thread, warm-up included and without it. Prints a row a sampler, and
one line of JSON. Needs pyro-ppl, which kernelfield does not install.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from kernelfield.core.contracts import Data
from kernelfield.models.neural.density import NetworkDensity
from kernelfield.models.neural.diagnostics import Diagnosis
from kernelfield.models.neural.hamiltonian import hmc
from kernelfield.models.neural.likelihoods import Gaussian
from kernelfield.models.neural.network import Network
from kernelfield.models.neural.no_u_turn import nuts
from kernelfield.models.neural.sampled import smooth, start_training
from kernelfield.models.neural.train import train
from kernelfield.nets.quadrature import Tanh

try:
    from pyro.infer import MCMC
    from pyro.infer import NUTS as PyroNUTS
except ImportError:
    sys.exit("benchmarks/samplers.py compares with pyro: pip install pyro-ppl")

CHAINS, INPUTS, PROBES = 4, 8, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 500), ("warmup", 60), ("draws", 60), ("pyro-warmup", 70), ("pyro-draws", 25)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    density = problem(options.rows)
    start = trained(density)
    contestants = (
        lambda: ours("HMC", lambda **kw: hmc(density, start, path=1.0, adapt=False, **kw), density, options),
        lambda: pyros(density, start[:1], options),
        lambda: ours("NUTS", lambda **kw: nuts(density, start, adapt=False, **kw), density, options),
    )
    results = []
    for contestant in contestants:
        results.append(contestant())
        print(" ".join(f"{key}={value}" for key, value in results[-1].items()), flush=True)
    for key in ("median_size_a_second", "median_size_a_second_of_sampling"):
        print(f"{key}: HMC has {results[0][key] / results[1][key]:.1f} times pyro's")
    print(json.dumps(results))


def problem(rows: int) -> NetworkDensity:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(rows, INPUTS, generator=generator, dtype=torch.float64)
    noise = 0.2 * torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    Y = torch.sin(2 * X[:, :1]) + 0.5 * X[:, 1:2] * X[:, 2:3] + 0.3 * X[:, 3:4] + noise
    network = Network(smooth(50, Tanh()), INPUTS, 1)
    return NetworkDensity.of(network, Data(X, Y), Gaussian(), dtype=torch.float32)


def trained(density: NetworkDensity) -> Tensor:
    """Where the chains start, as in `HMC`."""
    generator, n = torch.Generator().manual_seed(1), len(density.data.X)
    done = train(
        density.network,
        density.data,
        density.likelihood,
        start_training(),
        members=CHAINS,
        generator=generator,
        penalty=lambda theta: (theta / density.prior_std).square().sum(-1) / (2 * n),
    )
    return density.position(done.parameters, done.noise)


def ours(name: str, sampler: Callable, density: NetworkDensity, options: argparse.Namespace) -> dict:
    begun = time.process_time()
    chains = sampler(generator=torch.Generator().manual_seed(2), warmup=options.warmup, draws=options.draws)
    seconds = time.process_time() - begun
    share = options.draws / (options.draws + options.warmup)
    diagnosis = Diagnosis.of(seen(density, chains.draws))
    return record(name, diagnosis, seconds, share * seconds, chains.gradients, chains.step)


def pyros(density: NetworkDensity, start: Tensor, options: argparse.Namespace) -> dict:
    count, marks = 0, []

    def potential(parameters: dict[str, Tensor]) -> Tensor:
        nonlocal count
        count += 1
        return -density(parameters["z"][None])[0]

    def mark(kernel: object, samples: object, stage: str, number: int) -> None:
        if stage == "Sample" and not marks:
            marks.append(time.process_time())

    torch.manual_seed(2)
    kernel = PyroNUTS(potential_fn=potential)
    sampler = MCMC(
        kernel,
        num_samples=options.pyro_draws,
        warmup_steps=options.pyro_warmup,
        initial_params={"z": start[0]},
        hook_fn=mark,
        disable_progbar=True,
    )
    begun = time.process_time()
    sampler.run()
    ended = time.process_time()
    draws = sampler.get_samples()["z"][:, None]
    # The mark is set after the first draw, whose share of the time is that of the others.
    sampling = (ended - marks[0]) * options.pyro_draws / max(1, options.pyro_draws - 1)
    return record("pyro NUTS", Diagnosis.of(seen(density, draws)), ended - begun, sampling, count, kernel.step_size)


def seen(density: NetworkDensity, draws: Tensor) -> Tensor:
    """Predictions and the logarithm of the noise (s, k, q)."""
    values = density.network.values(density.parameters(draws), density.data.X[:PROBES]).flatten(-2)
    return torch.cat([values, density.noise(draws).log()], -1)


def record(name: str, diagnosis: Diagnosis, seconds: float, sampling: float, gradients: int, step: float) -> dict:
    return {
        "sampler": name,
        "draws": diagnosis.draws,
        "rhat": round(diagnosis.rhat, 3),
        "median_size": round(diagnosis.median_bulk, 1),
        "least_size": round(diagnosis.bulk, 1),
        "slopes_a_chain": gradients,
        "step": round(step, 4),
        "seconds": round(seconds, 1),
        "median_size_a_second": diagnosis.median_bulk / seconds,
        "least_size_a_second": diagnosis.bulk / seconds,
        "median_size_a_second_of_sampling": diagnosis.median_bulk / sampling,
    }


if __name__ == "__main__":
    main()
