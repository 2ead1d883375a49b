"""Provenance names what was used, and no folder of the one who used it."""

import hashlib
import json
from importlib import metadata

import numpy as np
import pytest

from kernelfield.uq.record import plain, provenance


def test_provenance_names_the_file_and_not_its_folder(tmp_path):
    path = tmp_path / "yacht.csv"
    path.write_bytes(b"x,y\n1,2\n")
    source = provenance(seed=3, data=path)
    assert (source["data"], source["seed"]) == ("yacht.csv", 3)
    assert source["sha256"] == hashlib.sha256(b"x,y\n1,2\n").hexdigest()
    assert source["torch"] == metadata.version("torch")
    assert str(tmp_path) not in json.dumps(source)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (np.array([[1.0, np.nan]]), [[1.0, None]]),
        ({1: np.int64(2), "a": (np.inf, "x")}, {"1": 2, "a": [None, "x"]}),
        (np.float64(0.5), 0.5),
    ],
)
def test_values_are_written_as_json_has_them(value, written):
    assert plain(value) == written
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == written
