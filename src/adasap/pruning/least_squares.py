"""Layers that read removed channels, refitted to what they computed: moments of their inputs, closed form, check."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

MAX_ROWS = 32_768
"""Positions of a layer's inputs, over all batches, that its moments are made of; a seeded draw where there are more."""

RIDGE = 1e-3
"""Default weight of keeping the old weights, relative to the mean diagonal of C_kk."""

_BLOCK = 2**22  # entries of unfolded inputs that exist at a time
_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


class Moments:
    """Count, mean and covariance of rows that come block by block.

    Products are computed in the rows' own type around the first block's mean, and summed in float64.

    Args:
        size: D, entries of a row.
        device: Of the rows.
    Example:
        >>> moments = Moments(1, torch.device("cpu"))
        >>> for block in ([[1.0], [3.0]], [[5.0]]):
        ...     moments.add(torch.tensor(block))
        >>> moments.mean, moments.covariance()
        (tensor([3.], dtype=torch.float64), tensor([[2.6667]], dtype=torch.float64))
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.count = 0
        self._sums = torch.zeros(size, dtype=torch.float64, device=device)
        self._products = torch.zeros(size, size, dtype=torch.float64, device=device)
        self._origin: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Takes rows, float [S, D]."""
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        if self._origin is None:
            self._origin = rows.mean(0)
        rows = rows - self._origin
        self.count += len(rows)
        self._sums += rows.sum(0)
        self._products += rows.T @ rows

    @property
    def mean(self) -> Tensor:
        """float64 [D]."""
        return self._shift if self._origin is None else self._origin.double() + self._shift

    def covariance(self) -> Tensor:
        """float64 [D, D], of the population."""
        return self._products / max(self.count, 1) - torch.outer(self._shift, self._shift)

    @property
    def _shift(self) -> Tensor:
        return self._sums / max(self.count, 1)


def why_not(layer: nn.Module, parameter: str) -> str | None:
    """Why a layer that reads channels cannot be refitted; None if it can.

    Example:
        >>> why_not(nn.ConvTranspose2d(2, 2, 1), "weight")
        'a ConvTranspose2d is not a convolution with groups=1 or a linear layer'
    """
    base = next((kind for kind in _PLAIN if isinstance(layer, kind)), None)
    if base is None or parameter != "weight":
        return f"a {type(layer).__name__} is not a convolution with groups=1 or a linear layer"
    if isinstance(layer, _ConvNd) and layer.groups != 1:
        return "it is a grouped convolution"
    own = [type(layer).forward, getattr(type(layer), "_conv_forward", None)]
    if own != [base.forward, getattr(base, "_conv_forward", None)]:
        return f"{type(layer).__name__} has a forward of its own"
    return None


def unfolded_size(layer: Layer) -> int:
    """D: inputs of one output of the layer, kernel entries included."""
    return layer.weight[0].numel()


def add_inputs(moments: Moments, layer: Layer, inputs: Tensor, *, most: int, seed: int) -> None:
    """Adds the unfolded inputs of a call of the layer: one row for each of its output positions.

    Args:
        moments: Of rows [D].
        layer: Of which padding, stride, dilation and kernel count.
        inputs: What it was called with.
        most: Rows that are taken; a draw without replacement where there are more.
        seed: Of the draw.
    """
    windows = _windows(layer, inputs)
    free = windows.ndim - 1 - (0 if isinstance(layer, nn.Linear) else layer.weight.ndim - 2)
    sizes = windows.shape[:free]
    total = math.prod(sizes)
    picks = torch.arange(total)
    if total > most:
        picks = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:most].sort().values
    block = max(256, _BLOCK // unfolded_size(layer))
    for some in torch.split(picks.to(inputs.device), block):
        moments.add(windows[torch.unravel_index(some, sizes)].reshape(len(some), -1))


def _windows(layer: Layer, inputs: Tensor) -> Tensor:
    """A view of the inputs, [positions..., C, kernel...]; of a linear layer [positions..., C]."""
    if isinstance(layer, nn.Linear):
        return inputs if inputs.ndim > 1 else inputs[None]
    rank = layer.weight.ndim - 2
    images = inputs if inputs.ndim == rank + 2 else inputs[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    windows = F.pad(images, _borders(layer), mode=mode)
    for axis, (size, step, spread) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        windows = windows.unfold(2 + axis, (size - 1) * spread + 1, step)[..., ::spread]
    return windows.movedim(1, rank + 1)


def _borders(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[int]:
    """What `F.pad` takes: last axis first, both sides."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return list(layer._reversed_padding_repeated_twice)
    return [size for size in reversed(layer.padding) for _ in range(2)]


@dataclass(frozen=True, eq=False)
class Fit:
    """A layer refitted, or not where its error would have grown.

    Attributes:
        weight: float [O, k...], the kept inputs' columns.
        shift: float [O]: by how much the mean of the outputs is too low with them; goes into the bias. Zeros where the
            layer has no place for it.
        error_before: E||W x - W_kept x_kept||^2 / E||W x||^2 with the weights as they were.
        error_after: The same with the new ones, and the shift.
        grew: Whether the error would have grown or the equations had no solution, so that the old weights stayed.
    """

    weight: Tensor
    shift: Tensor
    error_before: float
    error_after: float
    grew: bool


def fitted(weight: Tensor, moments: Moments, kept: Tensor, *, takes_mean: bool, ridge: float = RIDGE) -> Fit:
    """The weights of the kept inputs that come closest to what all inputs gave.

    V = argmin E||W x - V x_k||^2 + lambda ||V - W_k||^2 = W_k + W_r C_rk (C_kk + lambda I)^-1

    which is (W C_:k + lambda W_k)(C_kk + lambda I)^-1, written so that what is not changed keeps its bits.

    Args:
        weight: W, float [O, D].
        moments: Of the rows x [D].
        kept: bool [D]: k; the others are r.
        takes_mean: C is the covariance, and the mean is given back by `shift`; else C = E[x x^T] and nothing is.
        ridge: lambda over the mean diagonal of C_kk.
    Example:
        >>> moments = Moments(2, torch.device("cpu"))
        >>> moments.add(torch.tensor([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]))
        >>> fit = fitted(torch.tensor([[1.0, 1.0]]), moments, torch.tensor([True, False]), takes_mean=True, ridge=0.0)
        >>> fit.weight, fit.error_after < 1e-12 < fit.error_before
        (tensor([[3.]]), True)
    """
    mean, covariance = moments.mean, moments.covariance()
    second = covariance if takes_mean else covariance + torch.outer(mean, mean)
    full = weight.double()
    stays, goes = full[:, kept], full[:, ~kept]
    regular = second[kept][:, kept]
    regular.diagonal().add_(ridge * regular.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(regular)
    rest = goes @ second[~kept][:, kept]
    new = (stays + torch.cholesky_solve(rest.T, factor).T).to(weight.dtype)
    lost = full.clone()
    power = _power(full, covariance, mean)

    def error(kept_weight: Tensor, shifted: bool) -> tuple[float, Tensor]:
        lost[:, kept] = stays - kept_weight.double()
        shift = lost @ mean if shifted else torch.zeros_like(lost[:, 0])
        left = _spread(lost, covariance) + float((lost @ mean - shift).square().sum())
        return max(left, 0.0) / power if power > 0 else 0.0, shift.to(weight.dtype)

    before, _ = error(weight[:, kept], False)
    after, shift = error(new, takes_mean)
    good = not int(failed) and bool(new.isfinite().all()) and after <= before
    if good:
        return Fit(new, shift, before, after, grew=False)
    return Fit(weight[:, kept], torch.zeros_like(shift), before, before, grew=True)


def _spread(matrix: Tensor, covariance: Tensor) -> float:
    """tr(M C M^T)."""
    return float(((matrix @ covariance) * matrix).sum())


def _power(matrix: Tensor, covariance: Tensor, mean: Tensor) -> float:
    """E||M x||^2."""
    return _spread(matrix, covariance) + float((matrix @ mean).square().sum())
