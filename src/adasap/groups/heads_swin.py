"""Windowed attention of torchvision's Swin that counts its heads by its weights; see `adasap.groups.heads`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2


class CutShiftedWindowAttention(ShiftedWindowAttention):  # type: ignore[misc]
    """`torchvision.models.swin_transformer.ShiftedWindowAttention` with as many heads as its weights have.

    Windows are cut out, attended to with the heads there are, and put back.
    """

    @staticmethod
    def is_whole(module: Any) -> bool:
        """Whether the original forward fits the weights."""
        heads, rows = _num_heads(module), module.qkv.weight.shape[0]
        return bool(heads == module.num_heads and rows == 3 * module.qkv.weight.shape[1])

    def count_heads_(self) -> None:
        """Read the number of heads off the weights."""
        self.num_heads = _num_heads(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H, W, C], as the original."""
        bias = self.get_relative_position_bias()
        (height, width), window = x.shape[1:3], self.window_size
        x = F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
        size = x.shape[1:3]
        # a window as large as the map has nowhere to go
        shift = [0 if window[axis] >= size[axis] else self.shift_size[axis] for axis in (0, 1)]
        x = torch.roll(x, [-shift[0], -shift[1]], (1, 2)) if any(shift) else x
        mask = _apart(size, window, shift, x) if any(shift) else None
        x = self._attended(_windows(x, window), bias, mask)
        x = x.view(-1, size[0] // window[0], size[1] // window[1], *window, x.shape[-1])
        x = x.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        x = torch.roll(x, shift, (1, 2)) if any(shift) else x
        return x[:, :height, :width].contiguous()

    def _attended(self, x: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """Windows float [N * n, L, C], bias [1, heads, L, L], mask [n, 1, L, L] -> [N * n, L, C]."""
        head_dim = len(self.qkv.weight) // (3 * self.num_heads)
        qkv = F.linear(x, self.qkv.weight, self._qkv_bias())
        q, k, v = (part.view(*part.shape[:2], -1, head_dim).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        logits = self._logits(q, k) + bias
        if mask is not None:
            logits = (logits.view(-1, len(mask), *logits.shape[1:]) + mask).flatten(0, 1)
        weights = F.dropout(logits.softmax(-1), self.attention_dropout, self.training)
        return F.dropout(self.proj((weights @ v).transpose(1, 2).flatten(2)), self.dropout, self.training)

    def _qkv_bias(self) -> Tensor | None:
        bias: Tensor | None = self.qkv.bias
        return bias

    def _logits(self, q: Tensor, k: Tensor) -> Tensor:
        scaled: Tensor = q * q.shape[-1] ** -0.5
        return scaled @ k.transpose(-2, -1)


class CutShiftedWindowAttentionV2(CutShiftedWindowAttention, ShiftedWindowAttentionV2):  # type: ignore[misc]
    """The second version: cosine attention, biases from a small network, no bias for keys."""

    def _qkv_bias(self) -> Tensor | None:
        if self.qkv.bias is None:
            return None
        query, key, value = self.qkv.bias.chunk(3)
        return torch.cat([query, torch.zeros_like(key), value])

    def _logits(self, q: Tensor, k: Tensor) -> Tensor:
        cosine = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scaled: Tensor = cosine * self.logit_scale.clamp(max=math.log(100.0)).exp()
        return scaled


def _num_heads(module: Any) -> int:
    """The first version has a table with a column for each head, the second one a scale."""
    if isinstance(module, ShiftedWindowAttentionV2):
        return len(module.logit_scale)
    return int(module.relative_position_bias_table.shape[1])


def _windows(x: Tensor, window: Sequence[int]) -> Tensor:
    """[N, H, W, C] -> [N * n, L, C], n windows of L positions per image."""
    count, rows, columns, channels = x.shape
    x = x.view(count, rows // window[0], window[0], columns // window[1], window[1], channels)
    return x.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(0, 2)


def _apart(size: Sequence[int], window: Sequence[int], shift: Sequence[int], like: Tensor) -> Tensor:
    """-100 between positions that only the shift brought into one window, else 0: float [n, 1, L, L]."""
    down, across = (_stripes(*triple, like) for triple in zip(size, window, shift, strict=True))
    region = _windows((3 * down[:, None] + across)[None, :, :, None], window).squeeze(-1)
    different = region[:, None, :] != region[:, :, None]
    return (different.to(like.dtype) * -100.0)[:, None]


def _stripes(size: int, window: int, shift: int, like: Tensor) -> Tensor:
    """Which of three stripes along one axis a position lies in: before, in and beyond what the shift wrapped."""
    place = torch.arange(size, device=like.device)
    return (place >= size - window).long() + (place >= size - shift)
