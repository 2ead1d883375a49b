"""Grids for hypothesis: one to three factors of any kind, repeated eigenvalues, masks, noises over many magnitudes."""

from dataclasses import dataclass

import torch
from hypothesis import settings
from hypothesis import strategies as st

from tests.linalg.grids import KINDS, factor, kron

CASES = settings(max_examples=100, derandomize=True, database=None, deadline=None)  # the same cases at every run


@dataclass(frozen=True, eq=False)
class Case:
    """A = scale * kron(factors) + noise at the observed cells, and A~ = N^-1/2 A N^-1/2, of eigenvalues at least 1."""

    factors: list[torch.Tensor]
    scale: float
    noise: float | list[torch.Tensor] | torch.Tensor
    observed: torch.Tensor
    seed: int

    @property
    def spread(self) -> torch.Tensor:
        """The noise (n,) of the observed cells."""
        noise = kron(self.noise) if isinstance(self.noise, list) else torch.as_tensor(self.noise)
        return noise.reshape(-1).expand(self.observed.numel())[self.observed.flatten()]

    @property
    def matrix(self) -> torch.Tensor:
        """A."""
        seen = self.observed.flatten()
        return self.scale * kron(self.factors)[seen][:, seen] + torch.diag(self.spread)

    @property
    def scaled(self) -> torch.Tensor:
        """A~."""
        root = self.spread.sqrt()
        return self.matrix / root / root[:, None]

    @property
    def logdet(self) -> float:
        return (torch.linalg.eigvalsh(self.scaled).log().sum() + self.spread.log().sum()).item()

    @property
    def rounding(self) -> float:
        """What rounding may move, relative: the condition of A~, which no scaling of noise changes."""
        return 10 * len(self.spread) * torch.linalg.matrix_norm(self.scaled, 2).item() * torch.finfo(torch.double).eps

    @property
    def logdet_rounding(self) -> float:
        """What rounding may move of the log-determinant: of each eigenvalue, and of the sum of their logarithms."""
        terms = self.spread.log().abs().sum().item() + abs(self.logdet)
        return len(self.spread) * self.rounding + 10 * terms * torch.finfo(torch.double).eps

    def error(self, X: torch.Tensor, B: torch.Tensor) -> float:
        """The residual of A X = B in units of the noise, relative to its terms."""
        root = self.spread.sqrt()[:, None]
        gap = ((self.matrix @ X - B) / root).norm()
        size = torch.linalg.matrix_norm(self.scaled, 2) * (X * root).norm() + (B / root).norm()
        return (gap / size).item()


@st.composite
def cases(draw, noises=("even", "separable"), *, masked=False, cells=60, lowest=-8.0):
    """Noises from 10^lowest to 10^3, relative to a scale from 10^-6 to 10^6."""
    seed = draw(st.integers(0, 2**31))
    torch.manual_seed(seed)
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    while torch.tensor(sizes).prod() > cells:
        sizes[sizes.index(max(sizes))] -= 1
    factors = [factor(m, draw(st.sampled_from((*KINDS, "repeated", "constant")))) for m in sizes]
    scale, level = (10.0 ** draw(st.floats(low, high)) for low, high in ((-6, 6), (lowest, 3)))
    spread = draw(st.floats(0, 6))  # powers of ten between the least and the largest noise
    noise: float | list[torch.Tensor] | torch.Tensor
    match draw(st.sampled_from(noises)):
        case "even":
            noise = scale * level
        case "separable":
            vectors = [10 ** (spread / len(sizes) * torch.rand(m)) for m in sizes]
            noise = [scale * level * vectors[0], *vectors[1:]]
        case _:
            noise = scale * level * 10 ** (spread * torch.rand(sizes))
    observed = torch.ones(sizes, dtype=torch.bool)
    if masked:
        observed = torch.rand(sizes) < draw(st.sampled_from([0.05, 0.3, 0.5, 0.8, 0.95, 1.0]))
        observed.view(-1)[draw(st.integers(0, observed.numel() - 1))] = True
    return Case(factors, scale, noise, observed, seed)
