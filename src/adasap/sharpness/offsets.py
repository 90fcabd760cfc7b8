"""The arithmetic of a perturbation: row norms and one coefficient per row.

Small vectors over all rows of the model carry radii, norms and coefficients; only `scaled_gradients` touches memory of
the size of the weights, and reads it once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from adasap.sharpness.options import PerturbationOptions, Weighting
from adasap.sharpness.rows import KINDS, Kind, RowLayout, TensorRows
from adasap.sharpness.swap import chunks, pieces, pieces_like


@dataclass(frozen=True, eq=False)
class RowNorms:
    """What the last perturbation spent, per row: norm ||T g||, radius, coefficient. All float [rows]."""

    norms: Tensor
    radii: Tensor
    coefficients: Tensor
    layout: RowLayout

    def shares(self) -> dict[Kind, float]:
        """Shares of sum_i ||eps_i / T_i||^2 / rho_i^2 by kind of tensor."""
        spent = (self.coefficients * self.norms / self.radii).square().nan_to_num(0.0, 0.0, 0.0)
        total = dict.fromkeys(KINDS, 0.0)
        for rows, part in zip(self.layout.tensors, self.layout.split(spent.double()), strict=True):
            total[rows.kind] += float(part.sum())
        whole = sum(total.values())
        return {kind: value / whole if whole else 0.0 for kind, value in total.items()}


def scaled_gradients(
    weights: Sequence[Tensor], layout: RowLayout, options: PerturbationOptions, *, in_place: bool = False
) -> tuple[list[Tensor], Tensor]:
    """T^2 g of each weight, and the norm ||T g|| of each row, float [rows].

    Where T is 1 the gradient itself is returned, not a copy; with `in_place` the others are written over theirs.
    """
    scaled = [_wide(_gradient(weight)) for weight in weights]
    stretched = options.geometry == "elementwise"
    positions = [i for i, rows in enumerate(layout.tensors) if stretched and rows.kind != "shifts"]
    others = [i for i, rows in enumerate(layout.tensors) if not stretched or rows.kind == "shifts"]
    norms: dict[int, Tensor] = dict(
        zip(others, _row_norms([scaled[i] for i in others], [layout.tensors[i] for i in others]), strict=True)
    )
    for i, product, norm in _stretched(positions, weights, scaled, layout, options.eta, in_place):
        scaled[i], norms[i] = product, norm
    return scaled, torch.cat([norms[i] for i in range(len(scaled))])


def _stretched(
    positions: list[int],
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    layout: RowLayout,
    eta: float,
    in_place: bool,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Of the tensors at these positions (|w| + eta)^2 g, and the row norms of (|w| + eta) g."""
    rows = [layout.tensors[i] for i in positions]
    axes = [r.axis for r in rows]
    products = [gradients[i] if in_place else torch.empty_like(gradients[i]) for i in positions]
    parts = pieces(products, axes)
    outs = [*chain(*parts)]
    w = pieces_like(parts, [weights[i] for i in positions], axes)
    g = outs if in_place else pieces_like(parts, [gradients[i] for i in positions], axes)
    of_piece = [r for r, views in zip(rows, parts, strict=True) for _ in views]
    norms: list[Tensor] = []
    for part in chunks(outs):
        stretch = torch._foreach_abs([_wide(t) for t in w[part]])
        torch._foreach_add_(stretch, eta)
        if in_place:
            torch._foreach_mul_(outs[part], stretch)
        else:
            torch._foreach_copy_(outs[part], stretch)
            torch._foreach_mul_(outs[part], g[part])
        norms += _row_norms(outs[part], of_piece[part])
        torch._foreach_mul_(outs[part], stretch)
        del stretch  # the next part takes its memory, which is in the cache
    for i, product, views in zip(positions, products, parts, strict=True):
        mine, norms = norms[: len(views)], norms[len(views) :]
        yield i, product, torch.cat(mine) if len(mine) > 1 else mine[0]


def row_coefficients(norms: Tensor, radii: Tensor, layout: RowLayout, weighting: Weighting) -> tuple[Tensor, Tensor]:
    """What T^2 g is multiplied with, float [rows], and whether every gradient is finite, bool [].

    rho_i^2 / sqrt(sum rho_j^2 ||T g||_j^2) for `ellipsoid` and rho_i / sqrt(sum ||T g||_j^2) for `linear`,
    over the rows of the ellipsoid. Zero where that sum is zero; zero everywhere if a gradient is not finite.
    """
    weighted = radii * norms if weighting == "ellipsoid" else norms
    gain = radii.square() if weighting == "ellipsoid" else radii
    if layout.num_ellipsoids == 1:
        length = torch.linalg.vector_norm(weighted).expand(1)
    else:  # on an accelerator the order of the sums varies, unless torch.use_deterministic_algorithms is on
        length = weighted.new_zeros(layout.num_ellipsoids)
        length = length.index_add_(0, layout.ellipsoids, weighted.square()).sqrt_()
    finite = torch.linalg.vector_norm(norms).isfinite()
    smallest = torch.finfo(length.dtype).tiny  # below it the reciprocal is not finite
    inverse = torch.where((length >= smallest) & finite, length.reciprocal(), 0.0)
    return gain * (inverse if layout.num_ellipsoids == 1 else inverse[layout.ellipsoids]), finite


def row_factors(coefficients: Tensor, layout: RowLayout) -> list[Tensor]:
    """The coefficients of each tensor's rows, in the shape in which they multiply it."""
    return [
        part.view(rows.factor_shape) if rows.inner_dims or not rows.factor_shape else part
        for part, rows in zip(layout.split(coefficients), layout.tensors, strict=True)
    ]


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad


def _wide(tensor: Tensor) -> Tensor:
    """In float32 or wider, where squares neither overflow nor vanish."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _row_norms(tensors: Sequence[Tensor], rows: Sequence[TensorRows]) -> list[Tensor]:
    """The norm of each row of each tensor; of rows of one number all at once."""
    single = [tensor for tensor, r in zip(tensors, rows, strict=True) if not r.inner_dims]
    sizes = iter(torch._foreach_abs(single) if single else ())
    return [
        torch.linalg.vector_norm(tensor, dim=r.inner_dims) if r.inner_dims else next(sizes).reshape(-1)
        for tensor, r in zip(tensors, rows, strict=True)
    ]
