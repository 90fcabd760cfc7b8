"""Random numbers without a state: number i of an image is a pure function of (seed, purpose, i), on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

GAMMA = -0x61C8864680B583EB  # 2^64 / golden ratio, as a signed word
FIRST, SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def random_words(seeds: Tensor, purpose: str, count: int) -> Tensor:
    """64 random bits per entry: the SplitMix64 sequence (Steele et al., 2014) of a key made from seed and purpose.

    Args:
        seeds: int64 [N], one per image.
        purpose: What the numbers are for; different purposes give independent numbers (eight letters count).
        count: Numbers per image.

    Returns:
        int64 [N, count] on the seeds' device.

    Example:
        >>> alone, among = torch.tensor([7]), torch.tensor([3, 7])
        >>> bool((random_words(alone, "noise", 4)[0] == random_words(among, "noise", 4)[1]).all())
        True
    """
    code = int.from_bytes(purpose.encode()[:8].ljust(8, b"\0"), "little", signed=True)
    keys = _mix_(_mix_(seeds.to(torch.int64, copy=True)).bitwise_xor_(code))
    steps = torch.arange(1, count + 1, device=seeds.device).mul_(GAMMA)
    return _mix_(keys[:, None] + steps)


def uniform(seeds: Tensor, purpose: str, shape: Sequence[int]) -> Tensor:
    """Numbers in [0, 1), multiples of 2^-24, float32 [N, *shape]."""
    count = math.prod(shape)
    bits = random_words(seeds, purpose, (count + 1) // 2).view(torch.int32)[:, :count]
    return _unit(bits).view(len(seeds), *shape)


def normal(seeds: Tensor, purpose: str, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers by Box and Muller (1958), float32 [N, *shape]."""
    count = math.prod(shape)
    bits = random_words(seeds, purpose, (count + 1) // 2).view(torch.int32)
    radius = _unit(bits[:, 0::2]).add_(2.0**-25).log_().mul_(-2).sqrt_()
    angle = _unit(bits[:, 1::2]).mul_(2 * math.pi)
    both = torch.cat([radius * angle.cos(), radius.mul_(angle.sin_())], dim=1)
    return both[:, :count].reshape(len(seeds), *shape)


def integers(seeds: Tensor, purpose: str, shape: Sequence[int], bound: int) -> Tensor:
    """Whole numbers from 0 to bound - 1 (bound below 2^24), int64 [N, *shape]."""
    return uniform(seeds, purpose, shape).mul_(bound).to(torch.int64)


def _unit(bits: Tensor) -> Tensor:
    return (bits >> 8).bitwise_and_(0xFF_FFFF).float().mul_(2.0**-24)


def _mix_(word: Tensor) -> Tensor:
    """SplitMix64's finalizer, in place; a signed shift carries the sign along, so the bits that it adds are masked."""
    shifted = torch.empty_like(word)
    for shift, factor in ((30, FIRST), (27, SECOND), (31, 1)):
        torch.bitwise_right_shift(word, shift, out=shifted)
        word.bitwise_xor_(shifted.bitwise_and_((1 << (64 - shift)) - 1))
        if factor != 1:
            word.mul_(factor)
    return word
