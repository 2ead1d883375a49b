"""The two forms of a tile without close points are one."""

import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets import tile as tile_module
from kernelfield.nets.algebra import Repeat
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.rectifiers import ABRelu, LeakyRelu, Relu

ARCHS = {
    "biases": Dense(1.4, 0.3) >> Repeat(Relu() >> Dense(1.4, 0.3), 4),
    "no biases": Dense(1.4) >> Relu() >> Dense(1.4) >> LeakyRelu(0.2) >> Dense(1.2),
    "ends with a rectifier": Dense(1.4, 0.3) >> Relu() >> Dense(1.1, 0.2) >> LeakyRelu(0.2),
    "one rectifier, no biases": Dense(1.4) >> Relu(),
    "two dense layers in a row": Dense(1.4, 0.3) >> Dense(0.9, 0.1) >> Relu() >> Dense(1.1) >> Dense(1.2, 0.4),
    "nearly |u|": Dense(1.4, 0.3) >> ABRelu(-0.9, 1.0) >> Dense(1.4, 0.3) >> ABRelu(-0.9, 1.0) >> Dense(1.2),
}


@pytest.fixture(autouse=True, params=[False, True], ids=["arccosines", "arctangents"])
def functions(request, monkeypatch):
    monkeypatch.setattr(tile_module, "slow_functions", lambda: request.param)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_cosines_say_what_haversines_say(arch, kind, monkeypatch):
    used = []
    decide = tile_module._stays_apart
    monkeypatch.setattr(tile_module, "_stays_apart", lambda *args: used.append(decide(*args)) or used[-1])
    x, y = Points(torch.randn(30, 5)), Points(torch.randn(20, 5))
    quick = [gram(arch, x, other, kind=kind) for other in (None, y)]
    monkeypatch.setattr(tile_module, "_stays_apart", lambda *args: False)
    safe = [gram(arch, x, other, kind=kind) for other in (None, y)]
    assert used == [arch is not ARCHS["nearly |u|"]] * 2
    assert_close(quick, safe, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("angle", [1e-6, 1e-3, 0.02, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("opposite", [False, True])
def test_the_form_taken_is_as_good_as_the_other_at_every_angle(angle, opposite, kind, monkeypatch):
    """The oracle takes derivatives, and so never the short form."""
    sign, angle = -1.0 if opposite else 1.0, torch.tensor(angle)
    x, y = torch.tensor([[1.0, 0.0]]), sign * torch.stack([angle.cos(), angle.sin()])[None]
    for arch in ARCHS.values():
        quick = gram(arch, Points(x), Points(y), kind=kind)
        with monkeypatch.context() as patch:
            patch.setattr(tile_module, "_stays_apart", lambda *args: False)
            assert_close(quick, gram(arch, Points(x), Points(y), kind=kind), rtol=3e-14, atol=1e-15)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_no_points_have_an_empty_matrix(kind):
    some, none = Points(torch.randn(3, 5)), Points(torch.empty(0, 5).requires_grad_())
    for arch in ARCHS.values():
        assert gram(arch, none, kind=kind).shape == (0, 0)
        assert gram(arch, none, some, kind=kind).shape == (0, 3)
        K = gram(arch, some, none, kind=kind)
        assert K.shape == (3, 0)
        K.sum().backward()
