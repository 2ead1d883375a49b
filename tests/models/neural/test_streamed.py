"""Networks that learn from blocks of rows learn, and go on from a state to the last bit."""

import pytest
import torch

from kernelfield.core.contracts import Data
from kernelfield.models.neural.ensemble import Ensemble
from kernelfield.models.neural.streamed import NetworkLearner
from kernelfield.models.neural.train import Training

ROWS, BLOCK = 1500, 400
MODELS = {
    "ensemble": Ensemble(members=3, training=Training(steps=150, learning_rate=5e-3)),
    "one network": Ensemble(members=1, subset=1.0, training=Training(steps=150, learning_rate=5e-3)),
    "heteroscedastic": Ensemble(members=2, noise="heteroscedastic", training=Training(steps=150, learning_rate=5e-3)),
    "sgd, last layer": Ensemble(
        members=2, moving="last", prior_weight=1.0, training=Training(steps=150, optimiser="sgd", clip=1.0)
    ),
}


@pytest.fixture
def data() -> Data:
    X = torch.rand(ROWS, 2) * 2 - 1
    return Data(X, torch.sin(3 * X[:, :1]) + X[:, 1:] ** 2 + 0.1 * torch.randn(ROWS, 1))


def blocks(data: Data) -> list[Data]:
    return [Data(data.X[i : i + BLOCK], data.Y[i : i + BLOCK]) for i in range(0, ROWS, BLOCK)]


def learner(model: Ensemble, data: Data) -> NetworkLearner:
    sample = Data(data.X[:200], data.Y[:200])
    return model.learner(sample, ROWS, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
def test_training_goes_on_from_a_state_to_the_last_bit(name: str, data: Data) -> None:
    straight, other = learner(MODELS[name], data), learner(MODELS[name], data)
    for number, block in enumerate(blocks(data) * straight.passes):
        straight.step(block)
        if number % 3 == 0:  # killed, and begun anew
            state = {key: tensor.clone() for key, tensor in other.state().items()}
            other = learner(MODELS[name], data)
            other.restore(state)
        other.step(block)
    one, two = straight.surrogate().posterior(data.X[:9]), other.surrogate().posterior(data.X[:9])
    assert torch.equal(one.mean, two.mean)
    assert torch.equal(one.noise + one.variance, two.noise + two.variance)


def test_an_ensemble_learns_the_function_and_a_noise_that_counts_what_it_knows_by_heart(data: Data) -> None:
    made = learner(MODELS["ensemble"], data)
    # 150 steps of 64 rows are 6.4 passes of 1500 rows; the noise takes one more.
    assert made.passes == 8
    losses = [made.step(block) for _ in range(made.passes) for block in blocks(data)]
    assert losses[-1] is None
    trained = [loss for loss in losses if loss is not None]
    assert len(trained) == 7 * 4
    assert trained[-1] < trained[0] - 0.5
    fitted = made.surrogate()
    X = torch.rand(300, 2) * 1.8 - 0.9
    error = fitted.posterior(X).mean - (torch.sin(3 * X[:, :1]) + X[:, 1:] ** 2)
    size = error.square().mean().item()
    assert size < 0.1  # of 0.6, the variance of the function
    assert 0.01 + size / 3 < fitted.noise[0].item() < 0.01 + 3 * size  # that of the data, and what is left to learn
    assert made.kept is not None
    # Each member has seen four fifths of each block, the same rows in every pass.
    assert abs(made.kept.seen.double().mean().item() - 0.8) < 0.01


def test_what_a_stream_has_no_rows_for_is_refused(data: Data) -> None:
    with pytest.raises(ValueError, match="held_out is 0.2"):
        learner(Ensemble(training=Training(held_out=0.2)), data)
    with pytest.raises(ValueError, match="prior_scale is 1"):
        learner(Ensemble(prior_scale=1.0), data)
    state = learner(MODELS["ensemble"], data).state()
    with pytest.raises(ValueError, match="of other settings"):
        learner(MODELS["one network"], data).restore(state)
