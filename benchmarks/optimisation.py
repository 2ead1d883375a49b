"""How good the points are that samplers find: ours beside those of Optuna and BoTorch, at equal trials, paired by seed.

    OMP_NUM_THREADS=1 python benchmarks/optimisation.py FOLDER [--seeds 20] [--jobs 2] [--part quality] [--samplers gp]

Part "quality": Branin, Hartmann-6, Ackley-10, Levy-20, a constrained and a mixed problem, with every
sampler. Part "high": the draws of a polynomial in 200 inputs and of a network, with the infinitely wide network
and the Gaussian process as surrogates. Runs are kept in the folder, and one that is there is not repeated.
"""

import argparse
import json
import sys

from kernelfield.bo.bench import Case, Run, bench, cases
from kernelfield.bo.contestants import suite
from kernelfield.bo.standings import standings

PARTS = {
    "quality": (suite("quality"), ("gp", "optuna-gp", "optuna-tpe", "botorch", "random")),
    "high": (("polynomial", "network"), ("nngp", "gp", "random")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--samplers", help="with commas, in place of those of the part")
    parser.add_argument("--part", choices=list(PARTS), action="append")
    options = parser.parse_args()
    for part in options.part or PARTS:
        problems, samplers = PARTS[part]
        samplers = samplers if options.samplers is None else tuple(options.samplers.split(","))
        todo = cases(problems, samplers, seeds=range(options.seeds), trials=options.trials)
        runs, failed = bench(todo, options.folder, jobs=options.jobs, watch=tell)
        print(f"{part}: {len(runs)} runs, {len(failed)} failed")
        for table in standings(runs).tables:
            print(f"\n{table.problem}, {len(table.seeds)} seeds, {table.protocol.trials} trials")
            print(f"{'sampler':12}{'regret':>12}{'95% interval':>26}{'rank':>7}{'s each':>9}")
            for one in table.standings:
                ends = f"{one.regret.low:.4g} to {one.regret.high:.4g}"
                mark = " *" if one.leads else ""
                print(
                    f"{one.sampler:12}{one.regret.value:12.4g}{ends:>26}{one.rank.value:7.2f}{one.seconds:9.3f}{mark}"
                )
        print(json.dumps({"part": part, **standings(runs).to_dict()}))


def tell(case: Case, outcome: Run | str) -> None:
    print(f"{case}: {'done' if isinstance(outcome, Run) else outcome}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
