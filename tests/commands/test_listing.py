"""`kernelfield models` lists every name, for people and for machines."""

import json

from kernelfield.models.zoo import CLASSIFIERS, MODELS
from tests.test_cli import done


def test_every_name_is_listed_with_its_advice() -> None:
    listing = done("models").stdout
    words = " ".join(listing.split())
    for one in (*MODELS.values(), *CLASSIFIERS.values()):
        assert f" {one.name} " in words
        assert one.advice.split(":")[0].split()[0] in words
    assert all(len(line) <= 80 for line in listing.splitlines())


def test_machines_read_the_same_as_json() -> None:
    records = {one["name"]: one for one in json.loads(done("models", "--json").stdout)}
    assert set(records) == {*MODELS, *CLASSIFIERS}
    assert records["gp"]["task"] == "regression" and records["gpc"]["task"] == "classification"
    assert records["gp"]["rows"] == list(MODELS["gp"].rows)
    assert records["time-series"]["rows"][1] is None
    assert records["time-series"]["inputs"] == [1, 1]
    assert not records["grid"]["any_table"]
    assert all(records[name]["advice"] == one.advice for name, one in MODELS.items())
