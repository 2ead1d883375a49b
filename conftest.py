"""Doctests run as they would in a user's hands: with torch's own default precision."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def default_precision(request: pytest.FixtureRequest) -> Iterator[None]:
    kept = torch.get_default_dtype()
    if isinstance(request.node, pytest.DoctestItem):
        torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(kept)
