"""Laplace's approximation beside laplace-torch: seconds for the posterior around a given mode.

    python benchmarks/laplace_network.py
    python benchmarks/laplace_network.py --forms kronecker --rows 4000 --repeats 20

It needs laplace-torch beside kernelfield, which is no dependency: an environment of its own does,

    pip install laplace-torch kernelfield

Both get the same network, the same rows in double precision, and the same prior and noise, which
are held. "fit" is everything from the parameters to a posterior that can be asked: curvature,
factors and their decompositions. "predict" is the joint covariance at 100 points. Times are
processor time, the best of `repeats` turns that both libraries take one after the other. Networks
have no biases, which laplace-torch keeps apart from the weights in its Kronecker form; then both
give the same numbers, and "gap" is the largest difference of the standard deviations in relative
terms. laplace-torch has several backends: the first is its default, and asdl an older one.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from itertools import pairwise

import torch
from laplace import Laplace
from laplace.curvature import AsdlGGN, CurvlinopsGGN
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kernelfield.core.contracts import Data
from kernelfield.models.neural.laplace import LaplaceNetwork
from kernelfield.models.neural.network import Network, flat

SHAPES = {"2x50": (50, 50), "3x128": (128, 128, 128)}
STRUCTURES = {"kronecker": "kron", "diagonal": "diag", "full": "full"}
BACKENDS = {"curvlinops": CurvlinopsGGN, "asdl": AsdlGGN}
INPUTS, NOISE, DELTA = 8, 0.1, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Laplace's approximation, side by side.")
    parser.add_argument("--forms", nargs="+", choices=STRUCTURES, default=["kronecker", "diagonal"])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.double)
    results = []
    print(f"{'form':<12}{'network':<10}{'backend':<12}{'ours':>9}{'theirs':>9}{'ratio':>8}{'predict':>9}{'gap':>10}")
    for form in options.forms:
        for shape in options.shapes:
            for backend in options.backends:
                row = compared(form, SHAPES[shape], BACKENDS[backend], options.rows, options.repeats)
                results.append({"form": form, "network": shape, "backend": backend, **row})
                print(
                    f"{form:<12}{shape:<10}{backend:<12}{row['ours']:>9.4f}{row['theirs']:>9.4f}"
                    f"{row['fit_ratio']:>8.1f}{row['predict_ratio']:>9.1f}{row['gap']:>10.1e}",
                    flush=True,
                )
    print(json.dumps({"rows": options.rows, "results": results}))


def compared(form: str, widths: tuple[int, ...], backend: type, rows: int, repeats: int) -> dict[str, float]:
    """Seconds of both libraries, their ratios, and how far their answers differ."""
    torch.manual_seed(0)
    sizes = [INPUTS, *widths]
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b, bias=False), nn.Tanh())]
    module = nn.Sequential(*layers, nn.Linear(sizes[-1], 1, bias=False))
    X, Y, new = torch.randn(rows, INPUTS), torch.randn(rows, 1), torch.randn(100, INPUTS)
    network, theta, data = Network(module, INPUTS, 1), flat(module), Data(X, Y)
    std = torch.tensor([p.shape[1] ** -0.5 for p in module.parameters()])
    if form != "kronecker":  # one number a parameter there, one a tensor here
        std = network.prior_std
    loader = DataLoader(TensorDataset(X, Y), batch_size=rows)

    def ours() -> object:
        model = LaplaceNetwork(form=form, precision=DELTA, noise=NOISE)
        return model.around(network, theta, data, generator=torch.Generator())

    def theirs() -> object:
        found = Laplace(
            module,
            "regression",
            "all",
            STRUCTURES[form],
            sigma_noise=NOISE**0.5,
            backend=backend,
            prior_precision=DELTA / std.square(),
        )
        found.fit(loader)
        return found

    def our_law() -> torch.Tensor:
        with torch.no_grad():
            return first.posterior(new).covariance

    def their_law() -> torch.Tensor:
        return second(new, joint=True)[1]

    (first, second), fit = measured((ours, theirs), repeats)
    (a, b), predict = measured((our_law, their_law), repeats)
    gap = ((a.diagonal() / b.diagonal()).sqrt() - 1).abs().max().item()
    return {
        "ours": fit[0],
        "theirs": fit[1],
        "fit_ratio": fit[1] / fit[0],
        "predict_ratio": predict[1] / predict[0],
        "gap": gap,
    }


def measured(calls: tuple[Callable, Callable], repeats: int) -> tuple[list, list[float]]:
    """The answers of two calls, and the least processor time of each, in turns."""
    answers = [call() for call in calls]
    best = [float("inf")] * 2
    for _ in range(repeats):
        for i, call in enumerate(calls):
            start = time.process_time()
            call()
            best[i] = min(best[i], time.process_time() - start)
    return answers, best


if __name__ == "__main__":
    main()
