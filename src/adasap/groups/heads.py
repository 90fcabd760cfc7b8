"""Attention modules whose forward works out the head width from the input's: after a cut they count heads by weights.

`torch.nn.MultiheadAttention`, torchvision's Swin and timm's CaiT split whatever width comes in by the number of heads,
so no integer makes their own forward fit fewer heads. A cut gives such a module the class that stands for it here: the
same parameters under the same names, the same numbers, and a forward that takes what it needs from the weights.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SWIN = "torchvision.models.swin_transformer"
_STAND_INS = {
    "torch.nn.modules.activation.MultiheadAttention": "adasap.groups.heads.CutMultiheadAttention",
    f"{_SWIN}.ShiftedWindowAttention": "adasap.groups.heads_swin.CutShiftedWindowAttention",
    f"{_SWIN}.ShiftedWindowAttentionV2": "adasap.groups.heads_swin.CutShiftedWindowAttentionV2",
    "timm.models.cait.ClassAttn": "adasap.groups.heads_cait.CutClassAttn",
    "timm.models.cait.TalkingHeadAttn": "adasap.groups.heads_cait.CutTalkingHeadAttn",
}


def fit_heads_(model: nn.Module, *, whole: bool = False) -> None:
    """Let the attention modules of a cut model fit their weights, in place.

    A module whose weights are as wide as its own forward wants stays what it is, unless `whole` says that it is to
    get the other class, too, whose forward calls its last layer as a module. Subclasses stay: their forward is
    somebody else's.

    Example:
        >>> layer = nn.MultiheadAttention(8, num_heads=4)
        >>> layer.in_proj_weight.data, layer.in_proj_bias.data = torch.zeros(12, 8), torch.zeros(12)
        >>> layer.out_proj.weight.data = torch.zeros(8, 4)
        >>> fit_heads_(layer)
        >>> layer.num_heads, layer(*[torch.zeros(5, 1, 8)] * 3)[0].shape
        (2, torch.Size([5, 1, 8]))
    """
    for module in model.modules():
        stand_in = _STAND_INS.get(f"{type(module).__module__}.{type(module).__qualname__}")
        if stand_in is not None:
            home, _, name = stand_in.rpartition(".")
            kind = getattr(importlib.import_module(home), name)
            if whole or not kind.is_whole(module):
                module.__class__ = kind
        count_heads_: Callable[[], None] | None = getattr(module, "count_heads_", None)
        if count_heads_ is not None:
            count_heads_()


class CutMultiheadAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` with as many heads as its weights have, each `head_dim` wide.

    Arguments and results are those of the original.
    """

    @staticmethod
    def is_whole(module: nn.MultiheadAttention) -> bool:
        """Whether the original forward fits the weights."""
        query_weight = module.in_proj_weight if module.in_proj_weight is not None else module.q_proj_weight
        rows = len(query_weight) // (1 if module.in_proj_weight is None else 3)
        return (rows, query_weight.shape[1]) == (module.embed_dim, module.embed_dim)

    def count_heads_(self) -> None:
        """Read the integers off the weights."""
        query, key, value = self._in_projections()
        self.num_heads = len(query) // self.head_dim
        self.embed_dim, self.kdim, self.vdim = query.shape[1], key.shape[1], value.shape[1]
        self._qkv_same_embed_dim = False  # tells nn.TransformerEncoderLayer not to run its own kernel past this forward

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As the original: query [N, L, E], key [N, S, Ek], value [N, S, Ev] -> [N, L, E] and weights or None."""
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal is a hint about attn_mask, and there is none; pass the mask too")
        causal = is_causal and key_padding_mask is None and not need_weights  # as the original: in place of the mask
        single, inputs = query.dim() == 2, (query, key, value)
        if single:
            inputs = (query[None], key[None], value[None])
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            inputs = (query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1))
        q, k, v = (self._by_head(projected) for projected in self._projected(*inputs))
        mask = self._mask(None if causal else attn_mask, key_padding_mask, len(q), k.shape[2], q.dtype)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            logits = (q / math.sqrt(self.head_dim)) @ k.transpose(-2, -1)
            weights = F.dropout((logits if mask is None else logits + mask).softmax(-1), dropout)
            mixed = weights @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if single:
            output = output[0]
        elif not self.batch_first:
            output = output.transpose(0, 1)
        if not need_weights:
            return output, None
        weights = weights.mean(1) if average_attn_weights else weights
        return output, weights[0] if single else weights

    def _in_projections(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.in_proj_weight is None:
            return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        query, key, value = self.in_proj_weight.chunk(3)
        return query, key, value

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Query, key and value float [N, L or S, heads * head_dim], with what the options add to the sequence."""
        if query is key and key is value and self.in_proj_weight is not None:
            projected = list(F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1))
        else:
            biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            triples = zip((query, key, value), self._in_projections(), biases, strict=True)
            projected = [F.linear(*triple) for triple in triples]
        for place, extra in ((1, self.bias_k), (2, self.bias_v)):
            if extra is not None:
                projected[place] = torch.cat([projected[place], extra.expand(len(query), -1, -1)], 1)
            if self.add_zero_attn:
                projected[place] = F.pad(projected[place], (0, 0, 0, 1))
        return projected

    def _by_head(self, tensor: Tensor) -> Tensor:
        """[N, L, heads * head_dim] -> [N, heads, L, head_dim]."""
        return tensor.view(*tensor.shape[:2], -1, self.head_dim).transpose(1, 2)

    def _mask(
        self, attn_mask: Tensor | None, padding: Tensor | None, batch: int, length: int, dtype: torch.dtype
    ) -> Tensor | None:
        """Both masks as what is added to the logits, float [N or 1, heads or 1, L or 1, S], or None."""
        masks = []
        if attn_mask is not None:
            masks.append(
                attn_mask[None, None] if attn_mask.dim() == 2 else attn_mask.view(batch, -1, *attn_mask.shape[1:])
            )
        if padding is not None:
            masks.append(padding[:, None, None])
        added = [_added(mask, dtype) for mask in masks]
        total = added[0] if len(added) == 1 else added[0] + added[1] if added else None
        return None if total is None else F.pad(total, (0, length - total.shape[-1]))


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of what is left out (bool) or of what is added (float), as the latter."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf) if mask.dtype == torch.bool else mask
