"""The two attentions of timm's CaiT with the width of a head from their weights, not the input; see `groups.heads`."""

from __future__ import annotations

from typing import Any

from timm.models.cait import ClassAttn, TalkingHeadAttn
from torch import Tensor
from torch.nn import functional as F


class CutClassAttn(ClassAttn):
    """`timm.models.cait.ClassAttn` with as many heads as its weights have."""

    @staticmethod
    def is_whole(module: Any) -> bool:
        """Whether the original forward fits the weights."""
        width = module.num_heads * _head_dim(module)
        return bool(module.q.weight.shape == (width, width))

    def count_heads_(self) -> None:
        """Read the number of heads off the weights."""
        self.num_heads = len(self.q.weight) // _head_dim(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, C] -> [N, 1, C], as the original."""
        q, k, v = (_by_head(part, self.num_heads) for part in (self.q(x[:, :1]), self.k(x), self.v(x)))
        dropout = self.attn_drop.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        result: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return result


class CutTalkingHeadAttn(TalkingHeadAttn):
    """`timm.models.cait.TalkingHeadAttn` with as many heads as its weights have."""

    @staticmethod
    def is_whole(module: Any) -> bool:
        """Whether the original forward fits the weights."""
        width = module.num_heads * _head_dim(module)
        return bool(module.qkv.weight.shape == (3 * width, width))

    def count_heads_(self) -> None:
        """Read the number of heads off the weights."""
        self.num_heads = len(self.qkv.weight) // (3 * _head_dim(self))

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, C] -> [N, L, C], as the original."""
        q, k, v = (_by_head(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        weights = self.proj_l((q * self.scale @ k.transpose(-2, -1)).movedim(1, -1)).movedim(-1, 1)
        weights = self.proj_w(weights.softmax(-1).movedim(1, -1)).movedim(-1, 1)
        mixed = self.attn_drop(weights) @ v
        result: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return result


def _head_dim(module: Any) -> int:
    """The scale of the products is its inverse root, and no cut changes it."""
    width: int = round(module.scale**-2)
    return width


def _by_head(tensor: Tensor, num_heads: int) -> Tensor:
    """[N, L, heads * head_dim] -> [N, heads, L, head_dim]."""
    return tensor.view(*tensor.shape[:2], num_heads, -1).transpose(1, 2)
