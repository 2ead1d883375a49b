"""Findings hold what was given, of each output, and nothing else."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from kernelfield.uq.diagnosis.findings import diagnose, diagnose_classes
from kernelfield.uq.record import plain
from kernelfield.uq.scores import Evaluation
from tests.uq.diagnosis.worlds import classes, world


def test_each_output_has_its_own_findings():
    parts = [world(250, seed) for seed in (0, 1)]
    arrays = {name: np.hstack([part[0].arrays()[name] for part in parts]) for name in parts[0][0].arrays()}
    columns = parts[0][1]
    made = diagnose(Evaluation(**arrays), columns=columns, time=columns["day"], outside=np.ones((30, 2)))
    alone = diagnose(parts[0][0], columns=columns, outside=np.ones((30, 1)))[0]
    assert len(made) == 2
    assert (made[0].columns, made[0].worst, made[0].cases) == (alone.columns, alone.worst, alone.cases)
    assert made[0].drift.level == pytest.approx(1 / 600)
    assert alone.drift is None
    json.dumps([plain(asdict(one)) for one in made], allow_nan=False)


def test_too_few_rows_are_not_asked():
    evaluation, columns = world(30, 0)
    (made,) = diagnose(evaluation, columns=columns, time=columns["day"], outside=np.ones((1, 1)))
    assert (made.worst, made.drift, made.outside, made.split) == (None, None, None, None)
    with pytest.raises(ValueError, match=r"for each of 1 outputs, got shape \(3, 2\)"):
        diagnose(evaluation, outside=np.ones((3, 2)))


def test_laws_without_a_deviation_have_groups_and_no_split():
    evaluation, columns = world(300, 0)
    wide = Evaluation(**(vars(evaluation) | {"std": np.full((300, 1), np.inf)}))
    (made,) = diagnose(wide, columns=columns, outside=np.ones((40, 1)))
    assert (made.outside, made.split) == (None, None)
    assert len(made.columns) == len(columns)


def test_classes_have_theirs():
    evaluation, columns = classes(300, 0)
    made = diagnose_classes(evaluation, columns=columns, time=columns["day"], outside=np.full((20, 3), 1 / 3))
    assert made.outside.auroc == 1
    assert None not in (made.worst, made.drift)
    json.dumps(plain(asdict(made)), allow_nan=False)
