"""Products by KeOps, against tiles. Formulas are compiled as they are needed, for some seconds to a minute each."""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from shutil import which
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kernelfield.linalg import profiles, tiled
from kernelfield.linalg.entries import Inner, Product, Radial, Sum

COMPILER = any(which(name) for name in ("g++", "c++", "clang++"))
installed = pytest.mark.skipif(
    find_spec("pykeops") is None or not COMPILER, reason="needs pykeops and a C++ compiler: kernelfield[keops]"
)
N1, N2, D = 40, 30, 2


@pytest.fixture
def keops() -> ModuleType:
    return import_module("kernelfield.linalg.keops")


def points() -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.randn(N1, D, requires_grad=True),
        torch.randn(N2, D, requires_grad=True),
        torch.randn(N2, 2, requires_grad=True),
    )


@installed
def test_products_are_those_of_tiles(keops: ModuleType) -> None:
    z1, z2, V = points()
    entries = Radial(z1, z2, profiles.Rbf())
    assert_close(keops.product(entries, V), tiled.multiply(entries, V.detach()))


@installed
@pytest.mark.slow
@pytest.mark.parametrize(
    "profile", [profiles.Matern12, profiles.Matern32, profiles.Matern52, profiles.RationalQuadratic]
)
def test_every_profile_has_its_formula(keops: ModuleType, profile: type[profiles.Profile]) -> None:
    z1, z2, V = points()
    entries = Radial(z1, z2, profile(), torch.tensor(0.7) if profile.shaped else None)
    assert_close(keops.product(entries, V), tiled.multiply(entries, V.detach()))


@installed
@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [True, False])
def test_sums_and_products_are_one_formula_that_is_differentiable(keops: ModuleType, symmetric: bool) -> None:
    """At coinciding points too, where the root has no slope."""
    z1, z2, V = points()
    second = None if symmetric else z2
    V = V if not symmetric else torch.randn(N1, 2, requires_grad=True)
    weights = torch.tensor([0.7, 0.4], requires_grad=True)
    parts = Product([Radial(z1, second, profiles.Matern52()), Inner(z1, second)])
    entries = Sum([parts, Radial(z1, second, profiles.Rbf())], weights)
    leaves = [z1, V, weights, *([] if symmetric else [z2])]
    results = keops.product(entries, V), tiled.product(entries, V)
    assert_close(*results)
    slopes = [torch.autograd.grad(result.square().sum(), leaves) for result in results]
    assert_close(*slopes)


def test_entries_without_a_formula_are_refused_before_anything_is_compiled() -> None:
    pytest.importorskip("pykeops")

    class Bare(profiles.Rbf):
        obstacle = "it has none"

    z1, z2, V = points()
    with pytest.raises(NotImplementedError, match="it has none"):
        import_module("kernelfield.linalg.keops").product(Radial(z1, z2, Bare()), V)


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@installed
def test_keops_says_nothing() -> None:
    done = run("import kernelfield.linalg.keops")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_its_absence_names_the_extra() -> None:
    done = run("import sys; sys.modules['pykeops'] = None; import kernelfield.linalg.keops")
    assert done.returncode == 1
    assert "kernelfield[keops]" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_it_is_not_imported_with_the_products() -> None:
    done = run("import sys, kernelfield.linalg.choose, kernelfield.linalg.entries; print('pykeops' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr
