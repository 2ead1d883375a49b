"""An ensemble of ten networks, trained together, against ten trainings in plain torch.

    python benchmarks/ensemble_speed.py [--steps 2000] [--batch 64 1000] [--repeats 3] [--device cpu]

Both sides train ten networks of three hidden layers of 128 rectifiers on the same 1000 rows of 8
inputs, with Adam, a cosine of the learning rate, batches of the same size, the same loss and single
precision. Ours is `train`, as `Ensemble` calls it. The other side is one loop after another, as
tutorials have it: nn.Sequential, torch.optim.Adam, an order of the rows for each epoch; once with
Adam as it comes, and once with its fused form, which is the fastest that torch has on a CPU.

Sides take turns; times are those of the processor where it computes, so that other work on the
machine matters little, and of the clock for another device. Prints medians of milliseconds a step of
all ten networks, the mean square of what is left on the training rows, which shows that both sides
learn, and medians of the ratios of the times.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kernelfield.core.contracts import Data
from kernelfield.models.neural.likelihoods import Gaussian
from kernelfield.models.neural.network import Network, multilayer
from kernelfield.models.neural.train import Training, train

MEMBERS, ROWS, INPUTS, WIDTHS, NOISE, RATE = 10, 1000, 8, (128, 128, 128), 0.01, 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, nargs="+", default=[64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    X = torch.rand(ROWS, INPUTS, generator=generator, dtype=torch.float64)
    Y = torch.sin(6 * X[:, :1]) + NOISE**0.5 * torch.randn(ROWS, 1, generator=generator, dtype=torch.float64)
    data = Data(X.to(options.device), Y.to(options.device))
    records = [compare(data, batch, options.steps, options.repeats) for batch in options.batch]
    print(json.dumps(records))


def compare(data: Data, batch: int, steps: int, repeats: int) -> dict:
    sides: dict[str, Callable[[int], float]] = {
        "together": lambda count: together(data, batch, count),
        "one by one": lambda count: one_by_one(data, batch, count, fused=False),
        "one by one, fused": lambda count: one_by_one(data, batch, count, fused=True),
    }
    for side in sides.values():
        side(20)  # libraries are loaded and memory is mapped by the first steps
    times: dict[str, list[float]] = {name: [] for name in sides}
    errors = {}
    for _ in range(repeats):
        for name, side in sides.items():
            began = clock(data.X)
            errors[name] = side(steps)
            times[name].append((clock(data.X) - began) / steps * 1000)
    ours = times["together"]
    print(f"\n{MEMBERS} networks {WIDTHS}, {steps} steps, {ROWS} rows, batches of {batch}, {data.X.device}")
    print(f"{'side':22}{'ms a step':>10}{'error':>10}{'slower':>10}")
    record: dict = {"batch": batch, "steps": steps, "device": str(data.X.device), "threads": torch.get_num_threads()}
    for name, own in times.items():
        ratio = statistics.median(theirs / mine for theirs, mine in zip(own, ours, strict=True))
        print(f"{name:22}{statistics.median(own):10.2f}{errors[name]:10.4f}{ratio:10.2f}")
        record[name] = {"ms": statistics.median(own), "error": errors[name], "ratio": ratio}
    return record


def clock(X: Tensor) -> float:
    """Seconds of the processor, or on the wall for another device."""
    if X.device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def together(data: Data, batch: int, steps: int) -> float:
    network = Network(multilayer(WIDTHS), INPUTS, 1)
    training = Training(steps=steps, batch=batch, learning_rate=RATE)
    generator = torch.Generator().manual_seed(0)
    done = train(network, data, Gaussian(NOISE), training, members=MEMBERS, generator=generator)
    return float((network.values(done.parameters, data.X) - data.Y).square().mean())


def one_by_one(data: Data, batch: int, steps: int, *, fused: bool) -> float:
    X, Y = data.X.float(), data.Y.float()
    errors = []
    for member in range(MEMBERS):
        torch.manual_seed(member)
        sizes = (INPUTS, *WIDTHS)
        hidden = [layer for a, b in zip(sizes, WIDTHS, strict=False) for layer in (nn.Linear(a, b), nn.ReLU())]
        network = nn.Sequential(*hidden, nn.Linear(WIDTHS[-1], 1)).to(X)
        optimiser = torch.optim.Adam(network.parameters(), lr=RATE, fused=fused)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        loss_of = nn.MSELoss()
        order, at = torch.randperm(ROWS, device=X.device), 0
        for _ in range(steps):
            if at + batch > ROWS:
                order, at = torch.randperm(ROWS, device=X.device), 0
            rows, at = order[at : at + batch], at + batch
            optimiser.zero_grad()
            loss = loss_of(network(X[rows]), Y[rows]) / (2 * NOISE)
            loss.backward()
            optimiser.step()
            schedule.step()
        with torch.no_grad():
            errors.append(float((network(X) - Y).square().mean()))
    return statistics.mean(errors)


if __name__ == "__main__":
    main()
