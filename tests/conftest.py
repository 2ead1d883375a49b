"""Double precision throughout, a fixed seed before each test, and pictures drawn without a screen."""

import os
import sys
from pathlib import Path

import pytest
import torch

from tests.postgres import postgres, postgres_server  # noqa: F401, fixtures

os.environ["MPLBACKEND"] = "Agg"
torch.set_default_dtype(torch.float64)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def as_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default_precision: None) -> Path:
    """An empty working directory and torch's own default precision, as outside of these tests."""
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    return tmp_path


@pytest.fixture
def pages_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules that draw pages are imported anew, as in a process that has drawn none."""
    for name in ("page", "class_page", "comparison_page", "plots", "report_plots", "markup", "sections"):
        monkeypatch.delitem(sys.modules, f"kernelfield.uq.{name}", raising=False)
        monkeypatch.delattr(f"kernelfield.uq.{name}", raising=False)  # or `from kernelfield.uq import` finds it
