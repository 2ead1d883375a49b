"""All measurements of scale, one after the other, each beside its peers in one run.

    KERNELFIELD_DATA=folder python benchmarks/scale.py [--quick] [--only products iterative ...]

    products      products with kernel matrices without the matrix, beside rows of torch and KeOps
    iterative     preconditioned conjugate gradients beside a dense Cholesky factor
    exact         the iterative process: equal to Cholesky; elevators and kin40k beside GPyTorch's SVGP
    sparse        SGPR and SVGP beside GPyTorch's
    vecchia       nearest neighbours beside inducing inputs
    streaming     random features of Parquet files larger than memory
    distributed   one, two and four ranks

Each is a script of its own, with options of its own. Without --quick they take hours; exact, sparse and vecchia read
kin40k and elevators from the folder, and are left out where none is named. Prints their tables, then a line of JSON of
all of them, with null for one that failed.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# name: script, its options in full, its options in a hurry, whether it reads data
PARTS: dict[str, tuple[str, list[str], list[str], bool]] = {
    "products": ("products.py", [], ["--quick"], False),
    "iterative": ("iterative.py", ["--n", "20000"], ["--n", "2000"], False),
    "exact": ("exact_at_scale.py", [], ["--quick"], True),
    "sparse": ("sparse.py", [], ["--quick"], True),
    "vecchia": ("vecchia.py", [], ["--quick"], True),
    "streaming": ("streaming.py", ["--rows", "1", "20"], ["--rows", "1"], False),
    "distributed": ("distributed.py", ["--rows", "6000"], ["--quick"], False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    found: dict[str, object] = {}
    for name in options.only:
        script, full, hurried, reads = PARTS[name]
        if reads and not os.environ.get("KERNELFIELD_DATA"):
            print(f"\n{name}: left out, as KERNELFIELD_DATA names no folder")
            continue
        command = [sys.executable, str(HERE / script), *(hurried if options.quick else full)]
        print(f"\n{' '.join(['python', f'benchmarks/{script}', *command[2:]])}", flush=True)
        found[name] = told(command)
    print(json.dumps(found))


def told(command: list[str]) -> object:
    """What a script printed last, as JSON, having shown the rest; None if it failed."""
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if last:
                print(last, end="", flush=True)
            last = line
    try:
        return json.loads(last)
    except json.JSONDecodeError:
        print(last, end="")
        return None


if __name__ == "__main__":
    main()
