"""A saved model predicts the same numbers, and what is not a saved model is refused."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from gpytorch.kernels import LinearKernel, MaternKernel, PeriodicKernel, RBFKernel, ScaleKernel
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kernelfield.core.contracts import Data
from kernelfield.core.mixing import InverseGamma
from kernelfield.core.version import __version__
from kernelfield.estimators.persistence import load, save
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.entry import FINITE, LEARNED, SPARSE
from kernelfield.models.flow import GradientFlow
from kernelfield.models.process import Process
from kernelfield.models.warped import Warped
from kernelfield.models.zoo import MODELS, model
from kernelfield.nets.dense import Dense
from kernelfield.nets.rectifiers import Relu

RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, (40, 3))
Y = np.sin(X) + 100.0
WEIGHT = RNG.uniform(0.1, 2.0, 40)
FRAME = pd.DataFrame(X, columns=["width", "height", "käse"])


def fitted(model=None, **options) -> FieldRegressor:
    return FieldRegressor(model or Process(steps=3), random_state=1, **options).fit(X, Y[:, 0])


def composite() -> Process:
    kernel = ScaleKernel(MaternKernel(1.5, active_dims=(0, 2))) + LinearKernel() * PeriodicKernel() + RBFKernel()
    return Process(kernel, steps=3)


def from_a_named_frame() -> FieldRegressor:
    return FieldRegressor(Process(steps=3)).fit(FRAME, Y[:, 0])


def conditioned() -> FieldRegressor:
    estimator = fitted(Process(steps=0))
    more = Data(torch.tensor(X[:3] + 0.1), torch.tensor(Y[:3, :1]))
    estimator.surrogate_ = estimator.surrogate_.condition(more)
    return estimator


# The others need data of their own, or have no evidence; they are saved in their own tests.
OWN = ("grid", "tensor", "time-series", "quantile-process")
NAMES = [name for name, one in MODELS.items() if name not in OWN and one.family not in (FINITE, LEARNED, SPARSE)]
QUICK = {"spectral": {"components": 3, "steps": 3}, "warped": {"model": Process(steps=3)}}
MADE = {
    **{name: lambda name=name: fitted(model(name).set_params(**QUICK.get(name, {"steps": 3}))) for name in NAMES},
    "default": lambda: FieldRegressor().fit(X, Y[:, 0]),
    "several outputs": lambda: FieldRegressor(Process(steps=3)).fit(X, Y),
    "student-t of several outputs": lambda: FieldRegressor(Process(mixing=InverseGamma.student(3.0), steps=3)).fit(
        X, Y
    ),
    "student-t noise": lambda: fitted(Process(noise="student_t", steps=3, restarts=1)),
    "weights": lambda: FieldRegressor(Process(steps=3)).fit(X, Y[:, 0], sample_weight=WEIGHT),
    "composite kernel": lambda: fitted(composite()),
    "no mean": lambda: fitted(Process("rq", mean="zero", steps=3)),
    "named columns": from_a_named_frame,
    "parameters of numpy": lambda: fitted(Process("rbf", noise=np.float64(0.3), steps=np.int64(2))),
    "more rows after the fit": conditioned,
    "gradient flow": lambda: fitted(GradientFlow(Dense(1.2, 0.3) >> Relu() >> Dense(1.1), time=5.0)),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_a_loaded_model_answers_the_same_bits(make, tmp_path: Path) -> None:
    estimator = make()
    save(estimator, tmp_path / "model")
    again = load(tmp_path / "model")
    at = (X + 0.3)[:, : estimator.n_features_in_]
    if "feature_names_in_" in vars(estimator):
        at = pd.DataFrame(at, columns=FRAME.columns)
    # A warped law has no covariance in closed form, and one with few degrees of freedom has none.
    joint = not isinstance(estimator.model, Warped) and np.isfinite(estimator.predict(at, return_std=True)[1]).all()
    options = {"return_std": True, "return_cov": joint, "quantiles": [0.1, 0.9]}
    for one, other in zip(estimator.predict(at, **options), again.predict(at, **options), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(estimator.sample_y(at, 2), again.sample_y(at, 2))
    if not isinstance(estimator.model, GradientFlow):
        assert again.surrogate_.log_evidence == estimator.surrogate_.log_evidence
    assert again.surrogate_.hyperparameters() == estimator.surrogate_.hyperparameters()
    assert repr(again) == repr(estimator)
    assert vars(again).keys() == vars(estimator).keys()


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_a_loaded_model_takes_in_more_rows_as_the_saved_one_does(make, tmp_path: Path) -> None:
    estimator = make()
    save(estimator, tmp_path / "model")
    outputs = estimator.surrogate_.outputs
    more, at = Data(torch.tensor(X[:4] + 0.5), torch.tensor(Y[:4, :outputs])), torch.tensor(X)
    laws = [e.surrogate_.condition(more).posterior(at) for e in (estimator, load(tmp_path / "model"))]
    assert torch.equal(laws[0].mean, laws[1].mean)
    assert torch.equal(laws[0].variance, laws[1].variance)


def test_names_and_their_check_are_kept(tmp_path: Path) -> None:
    save(from_a_named_frame(), tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.feature_names_in_.tolist() == list(FRAME.columns)
    assert again.feature_names_in_.dtype == object
    with pytest.raises(ValueError, match="feature names should match"):
        again.predict(FRAME[FRAME.columns[::-1]])


def test_a_choice_is_kept_without_a_fit(tmp_path: Path) -> None:
    choice = FieldRegressor(Process(RBFKernel(ard_num_dims=3), noise=0.2), random_state=3)
    save(choice, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.get_params(deep=True).keys() == choice.get_params(deep=True).keys()
    assert not hasattr(again, "surrogate_")
    np.testing.assert_array_equal(again.fit(X, Y[:, 0]).predict(X), choice.fit(X, Y[:, 0]).predict(X))


def test_a_random_state_with_a_past_is_left_behind_in_the_file_alone(tmp_path: Path) -> None:
    estimator = fitted().set_params(random_state=np.random.RandomState(0))
    save(estimator, tmp_path / "model")
    assert load(tmp_path / "model").random_state is None
    assert estimator.random_state is not None


class Odd(Process):
    """A model that the tables do not know."""


UNSAVABLE = {
    "a pipeline": (lambda: make_pipeline(StandardScaler(), FieldRegressor()), "got a Pipeline"),
    "another estimator": (lambda: LinearRegression(), "got a LinearRegression"),
    "a foreign model": (lambda: fitted(Odd(steps=0)), r"FieldRegressor\.model cannot be saved: .*Odd"),
    "an attribute": (lambda: FieldRegressor(device=lambda: 1), r"FieldRegressor\.device cannot be saved: .*function"),
    "objects": (lambda: FieldRegressor(Process(np.array([{}]))), r"model\.kernel cannot be saved: an array of object"),
}


@pytest.mark.parametrize("case", UNSAVABLE.values(), ids=UNSAVABLE)
def test_what_cannot_be_saved_is_named_with_the_remedy_and_leaves_nothing(case, tmp_path: Path) -> None:
    make, sentence = case
    with pytest.raises(ValueError, match=f"{sentence}.*joblib"):
        save(make(), tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(fitted(Process("rbf", steps=0)), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["model.json", "tensors.safetensors"])
def test_a_change_of_any_byte_is_refused(name: str, saved: Path) -> None:
    original = (saved / name).read_bytes()
    places = {0, 1, len(original) // 2, len(original) - 1, *RNG.integers(0, len(original), 200).tolist()}
    for place in sorted(places):
        for flip in (0x01, 0x20, 0x80):
            changed = bytearray(original)
            changed[place] ^= flip
            (saved / name).write_bytes(changed)
            with pytest.raises(ValueError, match=r"was changed since it was saved|not a saved model|in format"):
                load(saved)
    for shorter in (original[:-1], original[: len(original) // 2], b""):
        (saved / name).write_bytes(shorter)
        with pytest.raises(ValueError, match="was changed since it was saved"):
            load(saved)


def rewritten(folder: Path, **changes: object) -> None:
    """Edit model.json and give it a checksum that fits, as an attacker could."""
    document = json.loads((folder / "model.json").read_text())
    document.pop("sha256")
    document.update(changes)
    digest = hashlib.sha256((json.dumps(document, indent=1) + "\n").encode()).hexdigest()
    (folder / "model.json").write_text(json.dumps({**document, "sha256": digest}, indent=1) + "\n")


def test_the_checksum_of_a_file_is_what_its_docstring_says(saved: Path) -> None:
    before = (saved / "model.json").read_bytes()
    rewritten(saved)
    assert (saved / "model.json").read_bytes() == before
    files = json.loads(before)["files"]
    assert files["tensors.safetensors"] == hashlib.sha256((saved / "tensors.safetensors").read_bytes()).hexdigest()
    assert json.loads(before)["kernelfield"] == __version__


def test_a_newer_format_says_who_wrote_it_and_what_to_do(saved: Path) -> None:
    rewritten(saved, format_version=2, kernelfield="9.1.0", estimator={"unheard": "of"})
    with pytest.raises(ValueError, match=r"kernelfield 9.1.0 in format 2.*reads format 1; upgrade kernelfield"):
        load(saved)


EVIL = {
    "a foreign class": ({"class": "Popen", "fields": {"args": "true"}}, "Popen is not a class that can be loaded"),
    "a path to a class": ({"class": "os.system", "fields": {}}, "os.system is not a class that can be loaded"),
    "other fields": ({"class": "InverseGamma", "fields": {"alpha": 1.0}}, "InverseGamma has the fields"),
    "an unknown record": ({"pickle": "gASV"}, "a record that is not known here"),
    "an absent tensor": ({"tensor": "nowhere"}, "a record that is not known here"),
    "an unknown scalar": ({"scalar": 1, "dtype": "object"}, "a record that is not known here"),
}


@pytest.mark.parametrize("case", EVIL.values(), ids=EVIL)
def test_a_file_with_the_right_checksum_still_makes_only_known_classes(case, saved: Path) -> None:
    record, sentence = case
    rewritten(saved, estimator=record)
    with pytest.raises(ValueError, match=sentence):
        load(saved)


def absent(tmp: Path) -> Path:
    return tmp / "nothing"


def a_file(tmp: Path) -> Path:
    (tmp / "model.pkl").write_bytes(b"\x80\x04")
    return tmp / "model.pkl"


def a_folder(tmp: Path) -> Path:
    (tmp / "folder").mkdir()
    return tmp / "folder"


def foreign_json(tmp: Path) -> Path:
    (tmp / "model.json").write_text('{"format": "another"}')
    return tmp


def a_list(tmp: Path) -> Path:
    (tmp / "model.json").write_text("[]")
    return tmp


def deep(tmp: Path) -> Path:
    (tmp / "model.json").write_text("[" * 100_000)
    return tmp


def without_tensors(tmp: Path) -> Path:
    save(fitted(Process(steps=0)), tmp / "model")
    (tmp / "model" / "tensors.safetensors").unlink()
    return tmp / "model"


NOT_MODELS = {
    "absent": (absent, FileNotFoundError, "nothing at .*check the path"),
    "a file": (a_file, ValueError, "not a saved model.*give the folder that save wrote"),
    "a folder": (a_folder, ValueError, "not a saved model.*give the folder that save wrote"),
    "foreign JSON": (foreign_json, ValueError, "not a saved model of kernelfield"),
    "a list": (a_list, ValueError, "not a saved model of kernelfield"),
    "deep JSON": (deep, ValueError, "was changed"),
    "no tensors": (without_tensors, ValueError, r"tensors.safetensors is missing; save the model again"),
}


@pytest.mark.parametrize("case", NOT_MODELS.values(), ids=NOT_MODELS)
def test_what_is_not_a_saved_model_is_refused(case, tmp_path: Path) -> None:
    make, error, sentence = case
    with pytest.raises(error, match=sentence):
        load(make(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_model_of_an_absent_device_can_be_read_to_another(saved: Path) -> None:
    expected = load(saved).predict(X)
    document = json.loads((saved / "model.json").read_text())
    document["estimator"]["fields"]["device"] = "cuda"
    rewritten(saved, device="cuda", estimator=document["estimator"])
    with pytest.raises(ValueError, match=r"saved on 'cuda'; load\(path, device='cpu'\) reads it here"):
        load(saved)
    moved = load(saved, device="cpu")
    assert moved.device == "cpu"
    np.testing.assert_array_equal(moved.predict(X), expected)


def test_no_file_is_left_open(saved: Path) -> None:
    load(saved)
    descriptors = Path("/proc/self/fd")
    if descriptors.exists():
        targets = [os.readlink(d) for d in descriptors.iterdir() if d.exists()]
        assert not [target for target in targets if str(saved) in target]
