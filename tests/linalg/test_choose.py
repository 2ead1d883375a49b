"""How products are formed is decided by counting, and can be overruled."""

from importlib.util import find_spec

import pytest
import torch

from kernelfield.linalg import choose as module
from kernelfield.linalg.choose import READ, SHARE, WRITE, choose

GIB = 2**30


def test_a_matrix_that_fits_is_kept_once_enough_products_follow() -> None:
    """The count changes sides where (p + 1) / 2 (k - 1) = WRITE + READ k."""
    passes = 9.0
    fresh = (passes + 1) / 2
    turn = (WRITE + fresh) / (fresh - READ)
    before, after = (choose(1000, passes=passes, products=k, memory=GIB) for k in (int(turn), int(turn) + 1))
    assert (before.method, after.method) == ("tiled", "stored")
    assert f"{int(turn)} products" in before.reason


def test_a_matrix_beyond_its_share_of_memory_is_not_kept() -> None:
    need = 8 * 1000**2
    assert choose(1000, passes=50, memory=int(need / SHARE) + 1).method == "stored"
    small = choose(1000, passes=50, memory=int(need / SHARE) - 1)
    assert small.method == "tiled"
    assert "GiB that are free" in small.reason
    assert choose(1000, passes=50, dtype=torch.float32, memory=int(need / SHARE) - 1).method == "stored"


@pytest.mark.parametrize(
    ("device", "installed", "obstacle", "method"),
    [
        ("cuda", True, None, "keops"),
        ("cuda", True, "it is called", "tiled"),
        ("cuda", False, None, "tiled"),
        ("cpu", True, None, "tiled"),
    ],
)
def test_keops_is_for_cuda_where_it_is_installed_and_has_a_formula(
    monkeypatch: pytest.MonkeyPatch, device: str, installed: bool, obstacle: str | None, method: str
) -> None:
    monkeypatch.setattr(module, "_installed", lambda: installed)
    assert choose(10**6, passes=9, device=device, obstacle=obstacle, memory=GIB).method == method


@pytest.mark.parametrize("method", ["tiled", "stored", "keops"])
def test_what_is_asked_for_is_done(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr(module, "_installed", lambda: True)
    choice = choose(1000, passes=9, memory=GIB, method=method)
    assert choice.method == method
    assert "asked" in choice.reason


def test_a_matrix_that_has_no_room_is_refused_with_its_size() -> None:
    with pytest.raises(MemoryError, match=r"would take 74.5 GiB of 1.0 GiB .*80000000000 bytes.*method='tiled'"):
        choose(100_000, passes=9, memory=GIB, method="stored")


def test_keops_that_is_missing_is_refused_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_installed", lambda: False)
    with pytest.raises(ImportError, match=r"kernelfield\[keops\]"):
        choose(100, passes=9, method="keops")


def test_a_kernel_without_formula_is_refused_with_its_reason() -> None:
    with pytest.raises(ValueError, match="a sentence; use method='tiled'"):
        choose(100, passes=9, method="keops", obstacle="a sentence")


@pytest.mark.parametrize(("arguments", "said"), [({"method": "fast"}, "got 'fast'"), ({"products": 0}, "products=0")])
def test_bad_arguments_are_named(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        choose(100, passes=9, **arguments)


def test_whether_keops_is_installed_is_found_without_importing_it() -> None:
    assert module._installed() == (find_spec("pykeops") is not None)
