import torch
from torch.testing import assert_close

from kernelfield.bo.at_step import AtStep
from kernelfield.core.contracts import Data
from kernelfield.models.process import Process

ROWS = torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
INNER = Process("matern52", steps=5, restarts=1).fit(
    Data(ROWS, ROWS.sin().sum(1, keepdim=True)), generator=torch.Generator().manual_seed(0)
)
STEP = torch.tensor(0.4)


def test_it_is_the_inner_one_with_the_step_as_last_column() -> None:
    X = torch.rand(2, 5, 2)
    law = AtStep(INNER, STEP).posterior(X, noise=True)
    inner = INNER.posterior(torch.cat([X, torch.full((2, 5, 1), 0.4)], -1), noise=True)
    assert_close(law.mean, inner.mean)
    assert_close(law.variance, inner.variance)
    assert AtStep(INNER, STEP).outputs == 1
    assert AtStep(INNER, STEP).hyperparameters() == INNER.hyperparameters()
    assert AtStep(INNER, STEP).footprint(7) == INNER.footprint(7)
    assert AtStep(INNER, STEP).notes() == INNER.notes()


def test_what_it_is_told_is_told_of_its_step() -> None:
    X, y = torch.rand(3, 2), torch.randn(3, 1)
    told = AtStep(INNER, STEP).condition(Data(X, y))
    inner = INNER.condition(Data(torch.cat([X, torch.full((3, 1), 0.4)], 1), y))
    assert_close(told.posterior(X).mean, inner.posterior(torch.cat([X, torch.full((3, 1), 0.4)], 1)).mean)
