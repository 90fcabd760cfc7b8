"""Lanczos' method: the largest eigenvalues of a symmetric matrix that is known by its products alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adasap.errors import RecipeError

Product = Callable[[Tensor], Tensor]
"""v to A v, float [n] to float [n]."""


@dataclass(frozen=True, eq=False)
class Eigenvalues:
    """The ends of a spectrum.

    Attributes:
        largest: The k largest eigenvalues, falling, float64 [k].
        residuals: ||A v - theta v|| of each, an upper bound of its distance to an eigenvalue, float64 [k].
        smallest: The most negative end, the smallest Ritz value.
        smallest_residual: Its residual.
        steps: Products that were computed.
        tolerance: Largest residual allowed, relative to the largest |theta|.
        converged: Whether all k residuals are within it; else the largest number of steps ended the search.
        vectors: The eigenvectors of `largest`, float [k, n].
    """

    largest: Tensor
    residuals: Tensor
    smallest: float
    smallest_residual: float
    steps: int
    tolerance: float
    converged: bool
    vectors: Tensor

    @property
    def stopped(self) -> str:
        """Which rule ended the search, in words."""
        if self.converged:
            return f"all residuals within {self.tolerance:g} of the largest eigenvalue after {self.steps} products"
        return f"the limit of {self.steps} products; residuals above {self.tolerance:g} of the largest remain"

    def to_json(self) -> dict[str, Any]:
        """Values, residuals and the stopping rule."""
        return {
            "largest": self.largest.tolist(),
            "residuals": self.residuals.tolist(),
            "smallest": self.smallest,
            "smallest_residual": self.smallest_residual,
            "products": self.steps,
            "stopped": self.stopped,
            "converged": self.converged,
        }


def top_eigenvalues(
    product: Product,
    start: Tensor,
    count: int = 1,
    *,
    tolerance: float = 1e-3,
    max_steps: int = 40,
) -> Eigenvalues:
    """The largest eigenvalues by Lanczos' method with full reorthogonalisation.

    A step costs one product and keeps one vector. It ends when the residual |beta_m s_mi| of each of the `count`
    largest Ritz values is within `tolerance` times the largest |theta| (Parlett 1998, section 13.2), or after
    `max_steps`. Where the Krylov space is exhausted the values are exact, and the method goes on with a new random
    direction as long as there are fewer than `count`; an eigenvalue of multiplicity r appears once per such start.

    Args:
        product: The matrix.
        start: A random vector, float [n], not zero.
        count: k, 1 to n.
        tolerance: Above 0.
        max_steps: Most products, at least k; no more than n are needed.
    Raises:
        RecipeError: If an option is out of range.
    Example:
        >>> matrix = torch.diag(torch.tensor([3.0, 1.0, -2.0]))
        >>> found = top_eigenvalues(lambda v: matrix @ v, torch.ones(3), 2)
        >>> [round(value, 4) for value in found.largest.tolist()], round(found.smallest, 4)
        ([3.0, 1.0], -2.0)
    """
    size = len(start)
    if not 1 <= count <= size or not tolerance > 0 or max_steps < count:
        raise RecipeError(
            f"{count} eigenvalues of a matrix of size {size} in {max_steps} products at tolerance {tolerance}: give "
            "1 to n eigenvalues, at least as many products, and a tolerance above 0"
        )
    space, limit = Krylov(product, start), min(max_steps, size)
    while True:
        space.grow()
        values, vectors, residuals = space.ritz()
        close = residuals <= tolerance * values.abs().max()
        converged = len(values) == size or (len(values) >= count and bool(close[-count:].all()))
        if converged or len(values) >= limit:
            break
    order = list(range(len(values) - 1, len(values) - 1 - count, -1))
    return Eigenvalues(
        largest=values[order],
        residuals=residuals[order],
        smallest=values[0].item(),
        smallest_residual=residuals[0].item(),
        steps=len(values),
        tolerance=tolerance,
        converged=converged,
        vectors=vectors[:, order].T.to(space.basis) @ space.basis,
    )


class Krylov:
    """An orthonormal basis of a Krylov space and the tridiagonal matrix in it, grown vector by vector."""

    def __init__(self, product: Product, start: Tensor) -> None:
        self._product = product
        self._vectors = [start / torch.linalg.vector_norm(start)]
        self._diagonal: list[float] = []
        self._beside: list[float] = []  # one more than the diagonal has room for: the last couples to the next vector
        self._largest = 0.0
        self._generator = torch.Generator().manual_seed(0)
        self.exhausted = False

    @property
    def basis(self) -> Tensor:
        """float [m, n]."""
        return torch.stack(self._vectors[: len(self._diagonal)])

    def grow(self) -> None:
        """One more product."""
        last = self._vectors[-1]
        image = self._product(last)
        self._diagonal.append(torch.dot(last.double(), image.double()).item())
        image = self._orthogonal(image)
        length = torch.linalg.vector_norm(image.double()).item()
        self._largest = max(self._largest, abs(self._diagonal[-1]), length)
        self.exhausted = length <= 20 * torch.finfo(image.dtype).eps * self._largest
        if self.exhausted and len(self._vectors) < len(last):
            noise = torch.randn(len(last), generator=self._generator).to(image)
            image, coupling = self._orthogonal(noise), 0.0
            length = torch.linalg.vector_norm(image.double()).item()
        else:
            coupling = length
        self._beside.append(coupling)
        self._vectors.append(image / length if length > 0 else image)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values, rising, float64 [m]; their vectors in the basis [m, m]; residuals [m]."""
        diagonal, beside = (torch.tensor(x, dtype=torch.float64) for x in (self._diagonal, self._beside))
        values, vectors = torch.linalg.eigh(
            torch.diag(diagonal) + torch.diag(beside[:-1], 1) + torch.diag(beside[:-1], -1)
        )
        return values, vectors, (beside[-1] * vectors[-1]).abs()

    def _orthogonal(self, vector: Tensor) -> Tensor:
        """Gram-Schmidt twice: rounding errors of a single pass bring ghosts of eigenvalues."""
        for _ in range(2):
            for kept in self._vectors:
                vector = vector - torch.dot(kept, vector) * kept
        return vector
