"""The public names are there, and cost nothing until they are used."""

import json
import subprocess
import sys

import pytest

import kernelfield


@pytest.mark.parametrize("name", kernelfield.__all__)
def test_a_public_name_is_importable_and_listed(name: str) -> None:
    assert getattr(kernelfield, name) is not None
    assert name in dir(kernelfield)


def test_names_come_from_the_modules_that_define_them() -> None:
    for name in set(kernelfield.__all__) - {"__version__"}:
        value = getattr(kernelfield, name)
        assert value.__module__.startswith("kernelfield.")
        assert value.__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'FieldRegresor'"):
        kernelfield.FieldRegresor  # noqa: B018


def test_importing_the_package_imports_nothing_that_takes_time() -> None:
    program = "import json, sys, kernelfield; print(json.dumps(list(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "sklearn", "gpytorch"} & set(json.loads(run.stdout))
