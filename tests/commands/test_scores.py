"""Scores on a terminal name the baseline by what it knew."""

import numpy as np
import pytest

from kernelfield.commands.scores import print_scores
from kernelfield.uq.class_report import ClassReport
from kernelfield.uq.report import Report

Y = np.array([0, 1, 1, 0, 1])


def made(*, y_train: np.ndarray | None, classes: bool) -> Report | ClassReport:
    if classes:
        return ClassReport.from_arrays(Y, np.full((5, 2), 0.5), y_train=y_train)
    return Report.from_arrays(Y.astype(float), mean=np.full(5, 0.5), std=np.ones(5), y_train=y_train)


@pytest.mark.parametrize(("classes", "known"), [(False, "training mean"), (True, "training shares")])
def test_the_last_row_is_of_the_training_rows_only_where_there_are_any(classes, known, capsys):
    print_scores("title", [made(y_train=Y, classes=classes)])
    assert known in capsys.readouterr().out
    print_scores("title", [made(y_train=None, classes=classes)])
    said = capsys.readouterr().out
    assert "baseline" in said and known not in said
