"""Where the spectrum of a solution lies, from the source and the boundary values alone.

A linear operator with constant coefficients multiplies a wave exp(2 pi i s . x) by its symbol
L(s) = sum_t c_t prod_j (2 pi i s_j)^(o_tj), so that the spectrum of the source divided by the symbol is that of a
solution, but for waves that the operator annihilates. Three places are looked at on each axis:

    the Fourier transform of the source on the grid over the symbol, which is bounded from below at one period,
    boundary values along their side,
    and, given the frequencies of the other axes, those at which the symbol vanishes: the operator's own waves.

A window takes the ends of the interval away. The one used, of Blackman & Harris, leaks at most 2.5e-5 of a wave into
far frequencies, so that parts of the source below LEAKAGE are not told from it; zero frequency is always a band.

Sources: Harris (1978), "On the Use of Windows for Harmonic Analysis with the Discrete Fourier Transform".
"""

import itertools
import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from kernelfield.kernels.spectral_start import AboveNyquist
from kernelfield.pde.axis import Bands
from kernelfield.pde.problem import Problem

LEAKAGE = 1e-4  # of the largest amplitude of the source: what could be leakage of the window
FAINT = 1e-7  # of the largest amplitude of the solution: parts that are left out
TOP = 1e-3  # of the largest amplitude of the source: parts that the grid must resolve
RESONANT = 0.05  # of the sum of the moduli of its terms: a symbol that counts as vanishing
COMBINATIONS = 200  # of frequencies of other axes with which a vanishing symbol is looked for
NOTHING = 1e-10  # of what the boundary values would need: a source that is rounding; of a mean: waves that are
LINES, SAMPLES = 8, 4096  # lines across the domain along each axis, and points on each
OVERSAMPLING = 2.0  # nodes in the shortest period of the data, over the two that Nyquist asks for
MARGIN = 4.0  # periods an axis that are resolved in any case, before oversampling
NODES = {1: (128, 2048), 2: (100, 512), 3: (40, 96)}  # the least and the most nodes an axis by number of axes


def choose_nodes(problem: Problem) -> tuple[int, ...]:
    """As many nodes an axis as resolve the source and the boundary values, with a warning where that is too many.

    >>> from kernelfield.pde.problem import Term
    >>> import torch
    >>> one = (Term(1.0, (2,)),)
    >>> wave = Problem("wave", ((0.0, 1.0),), one, lambda X: (400 * X[:, 0]).sin(), lambda X: 0 * X[:, 0])
    >>> choose_nodes(wave)[0] > 4 * 400 / 6.28
    True
    """
    least, most = NODES.get(problem.dims, (10, 24))
    wanted = []
    for (low, high), top in zip(problem.domain, highest_frequencies(problem), strict=True):
        wanted.append(math.ceil(2 * OVERSAMPLING * (top * (high - low) + MARGIN)) + 1)
    return tuple(min(max(count, least), most) for count in wanted)


def warn_above_nyquist(problem: Problem, counts: Sequence[int]) -> None:
    """Warn AboveNyquist where the source or the boundary values have waves that these numbers of nodes cannot tell."""
    tops = highest_frequencies(problem)
    for name, (low, high), count, top in zip(problem.names, problem.domain, counts, tops, strict=True):
        nyquist = (count - 1) / (2 * (high - low))
        if top > nyquist:
            warnings.warn(
                f"{problem.name} has waves of {top:.4g} cycles a unit along {name} and {count} nodes tell frequencies "
                f"up to {nyquist:.4g}; take at least {math.ceil(2.5 * top * (high - low))} nodes there",
                AboveNyquist,
                stacklevel=4,
            )


def highest_frequencies(problem: Problem) -> list[float]:
    """The highest frequency of the source and the boundary values along each axis, in cycles per unit, from lines.

    Where the boundary varies along a side, the solution varies as fast across it in an elliptic equation; so does
    the grid's resolution have to.
    """
    tops = [0.0] * problem.dims
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(LINES, problem.dims, generator=generator, dtype=torch.double)
    low, high = torch.tensor(problem.domain, dtype=torch.double).mT
    functions = [*problem.sides.values(), *problem.slopes.values()]
    places: list[tuple[int, float] | None] = [problem.side(name) for name in (*problem.sides, *problem.slopes)]
    if not _silent(problem):
        functions, places = [problem.source, *functions], [None, *places]
    for function, place in zip(functions, places, strict=True):
        for j, (start, end) in enumerate(problem.domain):
            if place is not None and place[0] == j:
                continue
            x = torch.linspace(start, end, SAMPLES, dtype=torch.double)
            X = (low + shares * (high - low))[:, None, :].repeat(1, SAMPLES, 1)
            X[..., j] = x
            if place is not None:
                X[..., place[0]] = place[1]
            values = function(X.flatten(0, 1)).reshape(LINES, SAMPLES)
            spectrum = _windowed(values, [1]).abs().square().sum(0).sqrt()[: SAMPLES // 2]
            strong = (spectrum > TOP * spectrum.max()).nonzero()
            top = float(strong.max()) / (end - start) if len(strong) else 0.0
            tops[j] = max(tops[j], top)
            if place is not None and problem.dims > 1:
                across = place[0]
                tops[across] = max(tops[across], min(top, top * _slower(problem, j, across)))
    return tops


def _silent(problem: Problem) -> bool:
    """Whether the source is nothing but rounding, against what boundary values of their size would need."""
    low, high = torch.tensor(problem.domain, dtype=torch.double).mT
    generator = torch.Generator().manual_seed(0)
    X = low + torch.rand(LINES**3, problem.dims, generator=generator, dtype=torch.double) * (high - low)
    largest = 0.0
    for name, function in problem.sides.items():
        across, place = problem.side(name)
        side = X.clone()
        side[:, across] = place
        largest = max(largest, float(function(side).abs().max()))
    floor = _symbol(problem, [1 / (high - low)[j : j + 1] for j in range(problem.dims)], moduli=True)
    return not float(problem.source(X).abs().max()) > NOTHING * float(floor) * largest


def _slower(problem: Problem, along: int, across: int) -> float:
    """The frequency across a side for one along it: 1 for two axes of one order, less where the symbol needs less."""
    orders = [max((t.orders[j] for t in problem.operator), default=0) for j in (along, across)]
    return 1.0 if orders[0] == orders[1] else 0.0


def _windowed(values: Tensor, dims: Sequence[int]) -> Tensor:
    """The Fourier transform along dims of values less their mean, under the window; zero where that is rounding."""
    size = values.abs().max()
    values = values - values.mean(list(dims), keepdim=True)
    values = values * (values.abs().max() > NOTHING * size)
    for dim in dims:
        count = values.shape[dim]
        turn = 2 * math.pi * torch.arange(count, dtype=values.dtype, device=values.device) / (count - 1)
        window = 0.35875 - 0.48829 * turn.cos() + 0.14128 * (2 * turn).cos() - 0.01168 * (3 * turn).cos()
        values = values * window.reshape(-1, *[1] * (values.ndim - dim - 1))
    return torch.fft.fftn(values, dim=list(dims))


def frequencies(problem: Problem, nodes: Sequence[Tensor]) -> list[Tensor]:
    """The frequencies (k,) along each axis, strongest first, in cycles per unit, of the solution on a grid of nodes."""
    found = _from_source(problem, nodes)
    for name, function in (*problem.sides.items(), *problem.slopes.items()):
        across, place = problem.side(name)
        X = _points([nodes[j] if j != across else nodes[j].new_tensor([place]) for j in range(problem.dims)])
        values = function(X).reshape([1 if j == across else len(nodes[j]) for j in range(problem.dims)])
        for j in range(problem.dims):
            if j != across:
                amplitude = _marginal(_windowed(values, [j]), j)
                found[j] = torch.cat([found[j], _strong(amplitude, nodes[j], LEAKAGE)])
    own = [_own_waves(problem, nodes, found, j) for j in range(problem.dims)]
    return [torch.cat([a, b]) for a, b in zip(found, own, strict=True)]


def _points(axes: Sequence[Tensor]) -> Tensor:
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def strong_frequencies(values: Tensor, nodes: Sequence[Tensor]) -> list[Tensor]:
    """The frequencies (k_j,) along each axis of values (n_1, ..., n_d) at its nodes, strongest first."""
    spectrum = _windowed(values, list(range(values.ndim)))
    return [_strong(_marginal(spectrum, j), x, TOP) for j, x in enumerate(nodes)]


def _from_source(problem: Problem, nodes: Sequence[Tensor]) -> list[Tensor]:
    """The peaks of the source over the symbol."""
    dims = range(problem.dims)
    F = problem.source(_points(nodes)).reshape([len(x) for x in nodes])
    s = [torch.fft.fftfreq(len(x), float(x[1] - x[0]), dtype=x.dtype) for x in nodes]
    symbol, floor = _symbol(problem, s), _symbol(problem, [1 / (x[-1] - x[0]).reshape(1) for x in nodes], moduli=True)
    if _silent(problem):
        return [x[:0] for x in nodes]
    spectrum = _windowed(F, list(dims)).abs()
    solution = spectrum / symbol.abs().clamp_min(float(floor))
    found = []
    for j in dims:
        amplitude = _marginal(solution, j)
        faint = _marginal(spectrum, j)
        amplitude = torch.where(faint > LEAKAGE * faint.max(), amplitude, 0.0)
        found.append(_strong(amplitude, nodes[j], FAINT))
    return found


def _marginal(spectrum: Tensor, j: int) -> Tensor:
    """The amplitudes (m_j // 2,) along one axis at frequencies that are not negative."""
    others = [k for k in range(spectrum.ndim) if k != j]
    power = spectrum.abs().square()
    return (power.sum(others) if others else power).sqrt()[: spectrum.shape[j] // 2]


def _strong(amplitude: Tensor, x: Tensor, share: float) -> Tensor:
    """The frequencies of amplitudes above a share of the largest, strongest first."""
    order = amplitude.argsort(descending=True)
    kept = order[amplitude[order] > share * amplitude.max()]
    return kept / (len(x) * (x[1] - x[0]))


def _symbol(problem: Problem, s: Sequence[Tensor], *, moduli: bool = False) -> Tensor:
    """L(s) on the product of frequencies (k_j,) an axis, or the sum of the moduli of its terms."""
    middle = torch.tensor([[(low + high) / 2 for low, high in problem.domain]], dtype=torch.double)
    total = torch.zeros([len(f) for f in s], dtype=torch.complex128)
    for term in problem.operator:
        value = torch.tensor(float(term.at(middle)[0]), dtype=torch.complex128)
        for j, (order, f) in enumerate(zip(term.orders, s, strict=True)):
            factor = (2j * math.pi * f.cpu()) ** order
            value = value * factor.reshape(-1, *[1] * (len(s) - j - 1))
        total = total + (value.abs() if moduli else value)
    return total.abs() if moduli else total


def _own_waves(problem: Problem, nodes: Sequence[Tensor], found: Sequence[Tensor], j: int) -> Tensor:
    """The frequencies along axis j at which the symbol vanishes for some frequencies found on the other axes."""
    x = nodes[j]
    length, count = float(x[-1] - x[0]), len(x)
    fine = torch.linspace(0, (count - 1) / (2 * length), 4 * count, dtype=x.dtype)
    each = round(COMBINATIONS ** (1 / max(1, problem.dims - 1)) / 2)
    choices = [[0.0, *f[:each].tolist()] if k != j else [0.0] for k, f in enumerate(found)]
    own = []
    for others in itertools.product(*choices):
        for signs in itertools.product(*[(1.0, -1.0) if f else (1.0,) for f in others]):
            s = [
                fine if k == j else fine.new_tensor([sign * f])
                for k, (f, sign) in enumerate(zip(others, signs, strict=False))
            ]
            size = _symbol(problem, s, moduli=True).flatten()
            share = _symbol(problem, s).abs().flatten() / size.clamp_min(1e-300)
            inner = share[1:-1]
            low = (inner < RESONANT) & (inner <= share[:-2]) & (inner <= share[2:]) & (size[1:-1] > 0)
            own.append(fine[1:-1][low])
    return torch.cat(own).unique()


def bands(found: Tensor, length: float, peaks: float, background: float) -> Bands:
    """The kernel of an axis of this length: bumps about frequencies, and one about zero.

    peaks and background are the lengthscales of the bumps in lengths of the axis; a frequency that lies within
    a bump already there adds none.
    """
    width = 1 / (2 * math.pi * peaks * length)
    taken = [0.0]
    lengths = [background * length]
    for f in found.tolist():
        if min(abs(f - t) for t in taken[1:] or [math.inf]) > width and f > 1 / (2 * math.pi * background * length):
            taken.append(f)
            lengths.append(peaks * length)
    return Bands(tuple(taken), tuple(lengths))
