"""Every named model fits and predicts; an unknown name is answered with its neighbours."""

import pytest
import torch

from kernelfield.core.contracts import Data, Model
from kernelfield.models import zoo


@pytest.mark.filterwarnings("ignore::kernelfield.core.numerics.NotConverged")  # a line without noise has no best noise
@pytest.mark.parametrize("name", zoo.MODELS)
def test_a_named_model_learns_a_line(name):
    X = torch.linspace(0, 1, 30)[:, None]
    model = zoo.model(name)
    assert isinstance(model, Model)
    law = model.fit(Data(X, 2 * X - 1), generator=torch.Generator()).posterior(X, noise=True)
    assert (law.mean - 2 * X + 1).abs().max() < 0.1
    assert (law.variance > 0).all()


@pytest.mark.parametrize("name", zoo.CLASSIFIERS)
def test_a_named_classifier_learns_a_boundary(name):
    X = torch.linspace(0, 1, 20)[:, None]
    Y = torch.nn.functional.one_hot((X[:, 0] > 0.5).long()).double()
    fitted = zoo.classifier(name).fit(Data(X, Y), generator=torch.Generator().manual_seed(0))
    assert (fitted.probabilities(X).argmax(-1) == Y.argmax(-1)).all()


def test_a_name_that_is_nearly_right_is_put_right():
    with pytest.raises(ValueError, match="no model is called 'gp-rfb'; did you mean gp-rbf"):
        zoo.model("gp-rfb")
