"""Tiles, precision and symmetry of kernel matrices."""

import subprocess
import sys
from pathlib import Path

import mpmath
import pytest
import torch
from torch.testing import assert_close

from kernelfield.nets import gram as gram_module
from kernelfield.nets import tile as tile_module
from kernelfield.nets.algebra import Repeat, Residual
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import diagonal, gram
from kernelfield.nets.points import Points
from kernelfield.nets.rectifiers import Abs, LeakyRelu, Relu
from kernelfield.nets.state import CovState, Wanted

DEEP = Dense(1.4, 0.3) >> Relu() >> Dense(1.4, 0.3) >> LeakyRelu(0.2) >> Dense(1.2)
ARCHS = {
    "stack": DEEP,
    "no bias": Dense(1.4) >> Relu() >> Dense(1.4) >> Relu() >> Dense(1.2),
    "scaled inputs": Dense((1.2, 0.7, 0.9), 0.3) >> Repeat(Relu() >> Dense(1.1, 0.2), 2),
    "general": Dense(1.4, 0.3) >> Residual(Relu() >> Dense(1.1, 0.2)) >> Abs() >> Dense(1.2),
}


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_tiles_of_any_size_give_the_layers_rules(arch, kind, monkeypatch):
    monkeypatch.setattr(gram_module, "TILE", 9)
    monkeypatch.setattr(tile_module, "BYTES", 2 * 4 * 8)
    monkeypatch.setattr(tile_module, "ROWS", 2)
    x, y = Points(torch.randn(7, 3)), Points(torch.randn(5, 3))
    wanted = arch.wanted(Wanted(kind == "ntk"))
    for other in (None, y):
        state = arch.propagate(CovState.of_points(x, x if other is None else other, wanted))
        rule = state.covariance if kind == "nngp" else state.tangent
        assert_close(gram(arch, x, other, kind=kind), rule, rtol=1e-13, atol=1e-14)
    K = gram(arch, x, kind=kind)
    assert torch.equal(K, K.mT)
    assert_close(diagonal(arch, x, kind=kind), K.diagonal(), rtol=1e-14, atol=0)
    assert_close(diagonal(arch, x[:5], y, kind=kind), gram(arch, x[:5], y, kind=kind).diagonal())


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)
def test_gradients_over_many_tiles(arch, kind, monkeypatch):
    monkeypatch.setattr(gram_module, "TILE", 4)
    monkeypatch.setattr(tile_module, "BYTES", 4 * 8)
    monkeypatch.setattr(tile_module, "ROWS", 2)
    x, scales = torch.randn(5, 3).requires_grad_(), torch.tensor(arch.scales()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, s: gram(arch, Points(x), kind=kind, scales=s), (x, scales))


@pytest.mark.parametrize("distance", [1e-3, 1e-7, 1e-12])
@pytest.mark.parametrize("depth", [1, 10, 50])
def test_near_inputs_stay_accurate_at_any_depth(depth, distance):
    arch = Dense(1.4, 0.1) >> Repeat(Relu() >> Dense(1.4, 0.1), depth)
    x = torch.tensor([[0.3, -1.2, 0.7], [0.3, -1.2 + distance, 0.7]])
    exact = _relu_ntk(x.tolist(), depth, 1.4, 0.1)
    assert abs(gram(arch, Points(x), kind="ntk")[0, 1].item() / exact - 1) < 1e-13 * depth**0.5


def _relu_ntk(x: list[list[float]], depth: int, w: float, b: float) -> float:
    """The recursion of Jacot et al. with fifty digits."""
    with mpmath.workdps(50):
        u, v = ([mpmath.mpf(c) for c in row] for row in x)
        w, b = mpmath.mpf(w), mpmath.mpf(b)
        p, q, r = (w**2 * mpmath.fdot(s, t) / len(u) + b**2 for s, t in ((u, u), (u, v), (v, v)))
        T = q
        for _ in range(depth):
            size = mpmath.sqrt(p * r)
            angle = mpmath.acos(q / size)
            slope = (mpmath.pi - angle) / (2 * mpmath.pi)
            q = w**2 * (size * mpmath.sin(angle) / (2 * mpmath.pi) + q * slope) + b**2
            p, r = w**2 * p / 2 + b**2, w**2 * r / 2 + b**2
            T = q + w**2 * slope * T
        return float(T)


@pytest.mark.parametrize("arch", [DEEP, ARCHS["general"]], ids=["stack", "general"])
def test_variances_are_exact_in_single_precision(arch):
    """Fifty activations deep and more."""
    deep = Dense(1.4, 0.1) >> Repeat(arch, 25)
    x = torch.randn(6, 3)
    for kind in ("nngp", "ntk"):
        exact = gram(deep, Points(x), kind=kind).diagonal()
        single = gram(deep, Points(x.float()), kind=kind)
        assert single.dtype == torch.float32
        assert_close(single.diagonal().double(), exact, rtol=3e-7, atol=0)
        assert_close(diagonal(deep, Points(x.float()), kind=kind), single.diagonal(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_close_and_opposite_inputs_leave_the_matrix_positive(kind):
    x = torch.randn(8, 4)
    x = torch.cat([x, x + 1e-9, -x, 3 * x, torch.zeros(1, 4)])
    for arch in (DEEP, ARCHS["no bias"]):
        K = gram(arch, Points(x), kind=kind)
        assert torch.linalg.eigvalsh(K).min() >= -1e-12 * K.trace()


def test_a_batch_is_its_elements():
    x, scales = torch.randn(2, 5, 3), torch.rand(4, 1, 5) + 0.5
    arch = Dense(1.0, 1.0) >> Relu() >> Dense(1.0, 1.0) >> Relu() >> Dense(1.0)
    for kind in ("nngp", "ntk"):
        K = gram(arch, Points(x), kind=kind, scales=scales)
        assert K.shape == (4, 2, 5, 5)
        assert_close(K[3, 1], gram(arch, Points(x[1]), kind=kind, scales=scales[3, 0]))


STATUS = Path("/proc/self/status")
MEASURED = """
import torch
from pathlib import Path
from kernelfield.nets.algebra import Repeat
from kernelfield.nets.dense import Dense
from kernelfield.nets.gram import gram
from kernelfield.nets.points import Points
from kernelfield.nets.rectifiers import Relu

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

arch = Dense(1.4, 0.1) >> Repeat(Relu() >> Dense(1.4, 0.1), 10)
x = torch.randn({n}, 4, dtype=torch.float64)
scales = torch.tensor(arch.scales(), dtype=torch.float64).requires_grad_()
gram(arch, Points(x[:200]), kind="ntk", scales=scales).sum().backward()
before = resident("VmHWM")
K = gram(arch, Points(x), kind="ntk", scales=scales)
K.backward(torch.ones_like(K))
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not STATUS.exists(), reason="Linux alone tells the peak of a process's memory in /proc")
def test_the_memory_of_a_backward_pass_is_that_of_a_tile():
    # A process of its own: what other tests have freed would serve here without raising the peak.
    n = 2500
    run = subprocess.run([sys.executable, "-c", MEASURED.format(n=n)], capture_output=True, text=True, check=True)
    matrices, tile = 2 * 8 * n**2, 10**8  # K and its gradient; a tile with all of its layers
    assert 0.9 * matrices < int(run.stdout) < matrices + tile
