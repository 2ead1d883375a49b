"""Networks, and other quick models of many rows, keep the scikit-learn conventions behind both estimators."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from kernelfield.estimators.classifier import FieldClassifier
from kernelfield.estimators.regressor import FieldRegressor
from kernelfield.models.neural.dropout import MCDropout
from kernelfield.models.neural.ensemble import Ensemble, EnsembleClassifier
from kernelfield.models.neural.function_space_classifier import FunctionSpaceClassifier
from kernelfield.models.neural.laplace import LaplaceNetwork
from kernelfield.models.neural.laplace_classifier import LaplaceNetworkClassifier
from kernelfield.models.neural.last_layer import LastLayer
from kernelfield.models.neural.network import multilayer
from kernelfield.models.neural.prior_fitted import PriorFitted
from kernelfield.models.neural.sampled import HMC
from kernelfield.models.neural.sampled_classifier import SampledClassifier
from kernelfield.models.neural.train import Training
from kernelfield.models.random_features import RandomFeatureProcess
from kernelfield.models.sparse import SparseProcess
from kernelfield.nets.dense import Dense, Dropout
from kernelfield.nets.rectifiers import Relu

SMALL = multilayer((8,))
DROPPING = Dense(1.4, 0.1, width=8) >> Relu() >> Dropout(0.95) >> Dense(1.0, 0.1)
QUICK = Training(steps=40, learning_rate=0.05)  # some checks ask for a score
CLASSIFIERS = (
    EnsembleClassifier(SMALL, members=2, training=QUICK),
    FunctionSpaceClassifier(SMALL, inducing=20, training=QUICK),
    LaplaceNetworkClassifier(SMALL, rounds=1, form="last_layer", training=QUICK),
    SampledClassifier(HMC(SMALL, warmup=5, draws=4, chains=1, training=QUICK)),
)
REGRESSORS = (
    Ensemble(SMALL, members=2, training=QUICK),
    LastLayer(SMALL, training=QUICK),
    LaplaceNetwork(SMALL, rounds=1, form="last_layer", training=QUICK),
    MCDropout(DROPPING, draws=20, training=QUICK),
    RandomFeatureProcess(count=50, steps=2, restarts=1),
    SparseProcess(inducing=20, steps=2, restarts=1),
    PriorFitted(),
)


@pytest.mark.slow
@parametrize_with_checks([FieldClassifier(model, random_state=0) for model in CLASSIFIERS])
def test_a_classifier_keeps_every_convention(estimator, check) -> None:
    check(estimator)


def _exceptions(estimator: FieldRegressor) -> dict[str, str]:
    match estimator.model:
        case LaplaceNetwork():
            return {"check_fit_score_takes_y": "partial_fit says that a Laplace network must be fitted anew"}
        case PriorFitted():
            return {"check_methods_subset_invariance": "single precision rounds by the number of rows"}
    return {}


@pytest.mark.slow
@parametrize_with_checks(
    [FieldRegressor(model, random_state=0) for model in REGRESSORS], expected_failed_checks=_exceptions
)
def test_a_regressor_keeps_every_convention(estimator, check) -> None:
    check(estimator)
