"""The radius rule: the less a channel matters, the further it is perturbed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from adasap.checks import finite_number
from adasap.errors import ArgumentError
from adasap.groups.group import Radii, Scores

Extremes = Literal["group", "model"]


def adaptive_radius(
    scores: Scores, *, rho_min: float, rho_max: float, extremes: Extremes = "group"
) -> dict[str, Tensor]:
    """Perturbation radius per channel: the less a channel matters, the wider its ball.

    rho_i = rho_max - (s_i - s_min) / (s_max - s_min) * (rho_max - rho_min)    (arXiv:2306.14306, eq. 3)

    All groups are computed at once, so that it costs little to call before every step. On an accelerator the
    check for finite scores makes the host wait once.

    Args:
        scores: Group name -> importance, [C], finite.
        rho_min: Radius of the most important channel.
        rho_max: Radius of the least important channel.
        extremes: s_min and s_max are taken over the channel's `group`, or over the whole `model`.
    Returns:
        Group name -> radius, float [C]; all rho_max where the scores are equal.
    Raises:
        ArgumentError: Unless 0 <= rho_min <= rho_max are finite and the scores are finite and of shape [C].
    Example:
        >>> adaptive_radius({"conv1": torch.tensor([3.0, 1.0])}, rho_min=0.0, rho_max=0.5)
        {'conv1': tensor([0.0000, 0.5000])}
    """
    finite_number(rho_min, "rho_min", least=0)
    if finite_number(rho_max, "rho_max", least=0) < rho_min:
        raise ArgumentError(f"radii need 0 <= rho_min <= rho_max, both finite; got {rho_min=}, {rho_max=}")
    if extremes not in ("group", "model"):
        raise ArgumentError(f"extremes must be 'group' or 'model', got {extremes!r}")
    for name, score in scores.items():
        if not isinstance(score, Tensor) or score.ndim != 1:
            found = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ArgumentError(f"the scores of group {name!r} must be a tensor of shape [C], got {found}")
    sizes = [score.numel() for score in scores.values()]
    if not sum(sizes):
        return {name: score.float() for name, score in scores.items()}
    flat = torch.cat([score.detach() for score in scores.values()])
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    lowest, highest = _extremes(flat, sizes if extremes == "group" else [len(flat)])
    span = highest - lowest
    if not bool(span.isfinite().all()):
        raise ArgumentError(_what_is_not_finite(scores))
    importance = (flat - lowest) / span.where(span > 0, 1)
    # clamp: in float32, 2.0 - 1.0 * 1.99 is a little less than 0.01
    radii = (rho_max - importance * (rho_max - rho_min)).clamp_(rho_min, rho_max)
    return dict(zip(scores, torch.split(radii, sizes), strict=True))


def even_radii(radii: Radii) -> dict[str, Tensor]:
    """Every channel gets the root mean square of all radii, so that only the differences between channels are gone.

    Example:
        >>> even_radii({"conv1": torch.tensor([1.0, 7.0])})
        {'conv1': tensor([5., 5.])}
    """
    if not radii:
        return {}
    mean_square = torch.cat([radius.square() for radius in radii.values()]).mean()
    return {name: mean_square.sqrt().expand(len(radius)) for name, radius in radii.items()}


def _extremes(flat: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of each segment of `flat`, repeated for each of its entries."""
    if len(sizes) == 1:
        lowest, highest = flat.aminmax()
        return lowest, highest
    lengths = torch.tensor(sizes, device=flat.device)
    segment = torch.repeat_interleave(lengths, output_size=len(flat))
    empty = flat.new_zeros(len(sizes))
    lowest = empty.scatter_reduce(0, segment, flat, "amin", include_self=False)
    highest = empty.scatter_reduce(0, segment, flat, "amax", include_self=False)
    return lowest[segment], highest[segment]


def _what_is_not_finite(scores: Scores) -> str:
    for name, score in scores.items():
        bad = int((~score.isfinite()).sum())
        if bad:
            return (
                f"the scores of group {name!r} are not finite in {bad} of {len(score)} channels; "
                "skip the evidence of steps whose gradient is not finite"
            )
    return "the scores differ by more than a float can hold; divide them by their mean first"
