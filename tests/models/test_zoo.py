"""Every named model fits and predicts; an unknown name is answered with its neighbours."""

import pytest
import torch

from kernelfield.core.contracts import Data, Model
from kernelfield.models import zoo
from tests.test_cli_models import names


@pytest.mark.filterwarnings("ignore::kernelfield.core.numerics.NotConverged")  # a line without noise has no best noise
@pytest.mark.parametrize("name", names(zoo.MODELS))
def test_a_named_model_learns_a_line(name):
    X = torch.linspace(0, 1, 30)[:, None]
    model = zoo.model(name)
    assert isinstance(model, Model)
    generator = torch.Generator().manual_seed(0)  # averaged networks are further off at an end in one seed of six
    law = model.fit(Data(X, 2 * X - 1), generator=generator).posterior(X, noise=True)
    assert (law.mean - 2 * X + 1).abs().max() < 0.1
    assert (law.variance > 0).all()


@pytest.mark.parametrize("name", names(zoo.CLASSIFIERS))
def test_a_named_classifier_learns_a_boundary(name):
    X = torch.linspace(-1.7, 1.7, max(20, zoo.CLASSIFIERS[name].rows[0]))[:, None]  # standardised, as estimators do
    Y = torch.nn.functional.one_hot((X[:, 0] > 0).long()).double()
    fitted = zoo.classifier(name).fit(Data(X, Y), generator=torch.Generator().manual_seed(0))
    assert (fitted.probabilities(X).argmax(-1) == Y.argmax(-1)).all()


def test_a_name_that_is_nearly_right_is_put_right():
    with pytest.raises(ValueError, match="no model is called 'gp-rfb'; did you mean gp-rbf"):
        zoo.model("gp-rfb")


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("n", [2, 30, 1000, 5001, 10**6])
@pytest.mark.parametrize("d", [1, 3, 500])
def test_two_to_six_models_are_suggested_for_any_table(n, d, classes):
    among = zoo.CLASSIFIERS if classes else zoo.MODELS
    names = zoo.suggested(n, d, classes=classes)
    assert 2 <= len(set(names)) == len(names) <= 6
    assert all(among[name].table and among[name].takes(d) for name in names)

    def fits(name: str) -> bool:
        return among[name].suits(n, d) and (among[name].quick or n <= 1000)

    fitting = [name for name in names if fits(name)]
    assert names[: len(fitting)] == fitting
    possible = [name for name in (zoo._FIRST_CLASSIFIERS if classes else zoo._FIRST) if fits(name)]
    assert len(fitting) == min(len(possible), 6)


@pytest.mark.parametrize("one", [*zoo.MODELS.values(), *zoo.CLASSIFIERS.values()], ids=lambda one: one.name)
def test_what_is_said_of_a_model_is_one_line_and_its_ranges_are_ranges(one):
    assert 10 < len(one.advice) <= 100 and "\n" not in one.advice and not one.advice.endswith(".")
    assert one.rows[0] <= one.rows[1] and one.inputs[0] <= one.inputs[1]
    assert one.suits(*(ends[0] for ends in (one.rows, one.inputs)))
    assert not one.suits(one.rows[1] + 1, one.inputs[0])
