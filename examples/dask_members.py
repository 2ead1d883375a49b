"""Members of an ensemble and models of a comparison, fitted by the workers of a Dask cluster.

joblib starts the work, so that its backend is yours to choose: nothing is loky, processes of this machine;
"dask" and "ray" are clusters (pip install dask distributed, or ray). Answers do not depend on it.
"""

# %% A table: one wave, seen with noise
import joblib
import numpy as np
import pandas as pd

try:
    from dask.distributed import Client, LocalCluster
except ImportError:
    raise SystemExit("this example needs a Dask cluster: pip install dask distributed") from None

from kernelfield import FieldRegressor
from kernelfield.comparing import compare
from kernelfield.data.tables import separate
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.train import Training

generator = np.random.default_rng(0)
X = generator.uniform(-3, 3, (200, 1))
y = np.sin(2 * X[:, 0]) + 0.1 * generator.normal(size=200)
ensemble = FieldRegressor(Ensemble(members=4, training=Training(steps=200)), random_state=0)


# %% The cluster: here, of this machine; Client("tcp://scheduler:8786") takes one of many
def main() -> None:
    alone, _ = ensemble.fit(X, y).predict(X[:5], return_std=True)
    # Workers of one thread each: processes that are busy with torch do not gain from more.
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster), joblib.parallel_config("dask"):
        shared, _ = ensemble.fit(X, y).predict(X[:5], return_std=True)
        print(f"members by 2 workers: means differ by {np.abs(shared - alone).max():.0e}")

        table = pd.DataFrame({"x": X[:60, 0], "y": y[:60]})
        result = compare(separate(table, ["y"]), ["gp-linear", "gp-rbf", "gp"], count=3)
    for one in result.contenders:
        print(f"{one.name:>10}: NLL {np.mean(one.split_scores()['nll']):.2f}")


# Workers import this file, and must not start clusters of their own.
if __name__ == "__main__":
    main()
