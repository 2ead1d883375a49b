"""A search whose slopes are kept goes on to the end that it would have had."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from kernelfield.core.contracts import Data
from kernelfield.kernels.stationary import RBF, Matern
from kernelfield.models import iterative_fit
from kernelfield.models.iterative_evidence import StochasticEvidence
from kernelfield.models.process import Process
from kernelfield.models.slope_record import NAME


class Killed(Exception):
    """In the place of a signal."""


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(iterative_fit, "SAMPLE", 30)


def rows(n=200, seed=2):
    generator = torch.Generator().manual_seed(seed)
    X = torch.rand(n, 2, generator=generator)
    return Data(X, torch.sin(5 * X[:, :1]) + 0.1 * torch.randn(n, 1, generator=generator))


def fit(folder, *, data=None, seed=0, **options):
    model = Process(**{"kernel": "rbf", "solver": "iterative", "restarts": 1, "steps": 5, **options}, checkpoint=folder)
    return model.fit(rows() if data is None else data, generator=torch.Generator().manual_seed(seed))


def evaluated(monkeypatch, *, dies=10**6):
    """The evaluations of all rows, of which the one of number `dies` is not lived through."""
    called, evaluate = [], StochasticEvidence.__call__

    def counted(self, theta):
        if len(called) == dies:
            raise Killed
        called.append(theta)
        return evaluate(self, theta)

    monkeypatch.setattr(StochasticEvidence, "__call__", counted)
    return called


@pytest.mark.parametrize("dies", [0, 1, 2])
def test_a_fit_that_was_killed_goes_on_to_the_same_bits(few, monkeypatch, tmp_path, dies):
    whole = fit(None)
    with monkeypatch.context() as patch:
        evaluated(patch, dies=dies)
        with pytest.raises(Killed):
            fit(str(tmp_path / "run"))
    called = evaluated(monkeypatch)
    went_on = fit(str(tmp_path / "run"))
    assert len(called) == whole.plan.course.evaluations - dies
    assert went_on.plan == whole.plan and went_on.searches == whole.searches
    assert went_on.hyperparameters() == whole.hyperparameters()
    assert_close(went_on.mean.alpha, whole.mean.alpha, rtol=0, atol=0)


def test_the_middle_and_the_seed_are_those_of_the_beginning(few, monkeypatch, tmp_path):
    monkeypatch.setattr(iterative_fit, "MIDDLE", 80)
    first = fit(str(tmp_path))
    called = evaluated(monkeypatch)
    second = fit(str(tmp_path), seed=1)
    assert called == []
    assert second.hyperparameters() == first.hyperparameters() and second.plan == first.plan
    assert second.searches == first.searches


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"steps": 6}, "steps was 5 and is 6 now"),
        ({"kernel": RBF()}, "kernel was 'rbf' and is RBF "),
        ({"solver": "distributed"}, "solver was 'iterative' and is 'distributed' now"),
        ({"data": rows(seed=3)}, "inputs was "),
        ({"data": Data(rows().X, rows().Y, torch.ones(200))}, "weights was absent"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(few, tmp_path, change, name):
    fit(str(tmp_path))
    with pytest.raises(ValueError, match=name) as refused:
        fit(str(tmp_path), **change)
    assert "or an empty folder to begin anew" in str(refused.value)


def test_a_file_that_is_no_checkpoint_is_refused(few, tmp_path):
    (tmp_path / NAME).write_text("something else")
    with pytest.raises(ValueError, match="cannot be read .*; give an empty folder"):
        fit(str(tmp_path))


def test_a_place_where_nothing_can_be_kept_is_refused_before_the_work(few, tmp_path):
    with pytest.raises(FileNotFoundError):
        fit(str(tmp_path / "not" / "there"))
    with pytest.raises(ValueError, match=r"checkpoint of Process must be a text or None, got PosixPath.*; use str"):
        fit(Path("run"))


@pytest.mark.parametrize(
    "options", [{"solver": "auto"}, {"solver": "cholesky"}, {"solver": "auto", "noise": "student_t"}]
)
def test_a_fit_by_cholesky_keeps_nothing_and_says_so(options):
    with pytest.raises(ValueError, match="keeps no checkpoint, got checkpoint='run'.* leave checkpoint out"):
        fit("run", **{"solver": "auto", **options})


def test_kernels_differ_by_choices_that_are_no_tensors(few, tmp_path):
    fit(str(tmp_path), kernel=Matern(1.5))
    fit(str(tmp_path), kernel=Matern(1.5).eval())
    with pytest.raises(ValueError, match="kernel was Matern"):
        fit(str(tmp_path), kernel=Matern(2.5))


def test_kernels_differ_by_values_and_by_what_is_held(few, tmp_path):
    kernel = RBF()
    fit(str(tmp_path), kernel=kernel)
    fit(str(tmp_path), kernel=RBF())
    kernel.raw_lengthscale.requires_grad_(False)
    with pytest.raises(ValueError, match="kernel was RBF"):
        fit(str(tmp_path), kernel=kernel)
    kernel = RBF()
    kernel.lengthscale = 0.5
    with pytest.raises(ValueError, match="kernel was RBF"):
        fit(str(tmp_path), kernel=kernel)
