"""An exact process whose kernel matrix is shared out among ranks.

    python examples/distributed_fit.py                                one rank
    torchrun --nproc-per-node 4 examples/distributed_fit.py           four, on this machine

On two machines, with a port (here 29500) of the first one open to the second:

    torchrun --nnodes 2 --node-rank 0 --nproc-per-node 4 --master-addr FIRST --master-port 29500 distributed_fit.py
    torchrun --nnodes 2 --node-rank 1 --nproc-per-node 4 --master-addr FIRST --master-port 29500 distributed_fit.py

Each rank keeps the rows of the matrix that are its own, n^2 / w numbers, and multiplies them.
"""

# %% Meet the others; every rank then runs the same lines on the same data
import numpy as np

from kernelfield import FieldRegressor, Process
from kernelfield.linalg.ranks import RankLost, join, leave

ROWS = 400  # raise it to 100_000 on a cluster


def main() -> None:
    ranks = join(timeout=120)
    generator = np.random.default_rng(0)
    X = generator.uniform(-3, 3, (ROWS, 2))
    y = np.sin(2 * X[:, 0]) * np.cos(X[:, 1]) + 0.1 * generator.normal(size=ROWS)

    # %% Fit and predict: all ranks take part, and all have the answer
    model = FieldRegressor(Process("rbf", solver="distributed", restarts=1, steps=10), random_state=0)
    model.fit(X, y)
    grid = np.array([[0.0, 0.0], [0.8, 0.0], [1.5, 1.0]])
    mean, std = model.predict(grid, return_std=True)

    # %% One of them speaks
    if ranks.rank == 0:
        print(f"{ranks.world} rank{'s' if ranks.world > 1 else ''}, {ROWS} rows")
        for x, m, s in zip(grid, mean, std, strict=True):
            truth = np.sin(2 * x[0]) * np.cos(x[1])
            print(f"y at {x}: {m:.3f} +- {s:.3f}, where the function is {truth:.3f}")
        for note in model.notes_:
            print("note:", note)
    leave()


if __name__ == "__main__":
    try:
        main()
    except RankLost as error:  # torchrun ends the others, and says so too
        raise SystemExit(f"error: {error}") from None
