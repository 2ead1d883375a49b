"""A kernel matrix that is known by its products, and never formed where it would not fit."""

from typing import Protocol

from torch import Tensor


class KernelProduct(Protocol):
    """K (n, n), of a kernel at n points.

    method : how products are formed: "stored", "tiled", "keops" or "distributed"; reason : why, in a sentence.
    """

    @property
    def method(self) -> str: ...

    @property
    def reason(self) -> str: ...

    def __call__(self, V: Tensor) -> Tensor:
        """K V (n, k) for V (n, k)."""

    def rows(self, index: Tensor) -> Tensor:
        """Some rows (r, n) of K, for index (r,)."""

    @property
    def diagonal(self) -> Tensor:
        """The diagonal (n,) of K."""

    def cross(self, X: Tensor, V: Tensor) -> Tensor:
        """K(X, points) V (q, k) at other points X (q, d)."""

    def pull(self, A: Tensor, B: Tensor) -> list[Tensor]:
        """The gradient of sum(A o (K B)), A and B (n, k), in the parameters that require one, in their order."""
