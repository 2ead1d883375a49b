"""Doctests run as they would in a user's hands: with torch's own default precision."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch


@pytest.fixture(autouse=True)
def default_precision(request: pytest.FixtureRequest) -> Iterator[None]:
    kept = torch.get_default_dtype()
    if isinstance(request.node, pytest.DoctestItem):
        torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(kept)


# The one file that cannot be imported without an optional package that `all` leaves out, as it needs a compiler.
collect_ignore = [] if find_spec("pykeops") else ["kernelfield/linalg/keops.py"]
