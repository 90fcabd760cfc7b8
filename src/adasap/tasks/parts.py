"""A part of a batch, for a pass that does not need all of it."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from torch import Tensor

from adasap.errors import DataError

Batch = TypeVar("Batch")


def part_of(batch: Batch, share: float) -> Batch:
    """The first images of a prepared batch: a random part, since batches are drawn at random.

    Args:
        batch: A tensor, or a tuple or dictionary whose members (tensors, lists, tuples) have one entry per image.
        share: Of its N images, in (0, 1]; round(share * N) of them, at least one.
    Raises:
        DataError: For anything else, or members of different length.
    Example:
        >>> import torch
        >>> part_of((torch.arange(8), list("abcdefgh")), 0.25)
        (tensor([0, 1]), ['a', 'b'])
    """
    members = _members(batch)
    sizes = {len(member) for member in members}
    if len(sizes) != 1:
        raise DataError(
            f"a batch of type {type(batch).__name__} cannot be divided: wanted a tensor, or a tuple or dictionary of "
            "tensors and lists with one entry per image; change what Task.prepare gives, or leave out form.subbatch"
        )
    count = max(1, round(share * sizes.pop()))
    parts = [member[:count] for member in members]
    part: Any = parts[0]
    if isinstance(batch, dict):
        part = type(batch)(zip(batch, parts, strict=True))
    elif isinstance(batch, tuple):
        part = batch._make(parts) if hasattr(batch, "_make") else type(batch)(parts)
    return cast(Batch, part)


def _members(batch: Any) -> list[Any]:
    """What has one entry per image; nothing where a batch is none of the known kinds."""
    found = [batch] if isinstance(batch, Tensor) else []
    if isinstance(batch, tuple):
        found = list(batch)
    elif isinstance(batch, dict):
        found = list(batch.values())
    sized = all(isinstance(member, Tensor | list | tuple) for member in found)
    scalars = any(isinstance(member, Tensor) and member.ndim == 0 for member in found)
    return found if sized and not scalars else []
