"""Small networks in which the channel groups are known by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adasap.groups import ChannelGroup, prunable


class Net(nn.Module):
    """A stem of 3x3 convolution, norm and activation with 8 channels, and a classifier at the end."""

    width = 8

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(self.width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(F.relu(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)) if x.dim() == 4 else x)

    def body(self, x: Tensor) -> Tensor:
        return x


class Residual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(8, 6, 1)
        self.outer = nn.Conv2d(6, 8, 1)

    def body(self, x: Tensor) -> Tensor:
        return x + self.outer(F.relu(self.inner(x)))


class InPlaceResidual(Residual):
    def body(self, x: Tensor) -> Tensor:
        y = self.outer(F.relu_(self.inner(x)))
        y += x
        return y


class Joined(Net):
    width = 14

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Conv2d(8, 6, 1)

    def body(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.side(x)], 1)


class Depthwise(Net):
    def __init__(self, multiplier: int = 1) -> None:
        self.width = 8 * multiplier
        super().__init__()
        self.depth = nn.Conv2d(8, 8 * multiplier, 3, groups=8)

    def body(self, x: Tensor) -> Tensor:
        return self.depth(x)


class Grouped(Net):
    width = 12

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)

    def body(self, x: Tensor) -> Tensor:
        return self.grouped(x)


class SingleChannel(Net):
    """A convolution from one channel to one channel looks depthwise by its shape alone."""

    width = 4

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(8, 1, 1)
        self.single = nn.Conv2d(1, 1, 3, padding=1)
        self.widen = nn.Conv2d(1, 4, 1)

    def body(self, x: Tensor) -> Tensor:
        return self.widen(self.single(self.squeeze(x)))


class SqueezeExcite(Net):
    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(8, 4, 1)
        self.expand = nn.Conv2d(4, 8, 1)

    def body(self, x: Tensor) -> Tensor:
        scale = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.expand(F.silu(self.reduce(scale))))


class SpatialAttention(Net):
    """One channel is spread over all of them: it stays, they are free."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(8, 1, 1)

    def body(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate(x))


class Flattened(Net):
    width = 8 * 16

    def body(self, x: Tensor) -> Tensor:
        return torch.flatten(F.adaptive_max_pool2d(x, 4), 1)


class Shared(Net):
    """One module reads two tensors, so their channels are one."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(8, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 6, 1)

    def body(self, x: Tensor) -> Tensor:
        return self.shared(x) * self.shared(self.other(x))


class Gated(Net):
    """The two halves of a convolution meet: unit c takes rows c and c + 6."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Conv2d(8, 12, 1)

    def body(self, x: Tensor) -> Tensor:
        a, b = self.both(x).chunk(2, dim=1)
        return a * torch.sigmoid(b)


class HalvesApart(Net):
    """The two halves never meet, but Python halves whatever width there is: they are tied all the same."""

    width = 10

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Conv2d(8, 12, 1)
        self.a = nn.Conv2d(6, 10, 1)
        self.b = nn.Conv2d(6, 10, 1)

    def body(self, x: Tensor) -> Tensor:
        a, b = self.both(x).chunk(2, dim=1)
        return self.a(a) - self.b(b)


class Shuffled(Net):
    width = 5

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(8, 5, 1)

    def body(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(x)


class PixelShuffled(Net):
    width = 5

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(2, 5, 1)

    def body(self, x: Tensor) -> Tensor:
        return self.last(F.pixel_shuffle(x, 2))


class Transposed(Net):
    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.slope = nn.PReLU(6)

    def body(self, x: Tensor) -> Tensor:
        return self.slope(self.up(x))


class Tokens(Net):
    """Patches as tokens, a class token in front, learned positions added, a layer scale."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(8, 6, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.position = nn.Parameter(torch.randn(1, 5, 6))
        self.mlp = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 6))
        self.gamma = nn.Parameter(torch.ones(6))

    def body(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return (x + self.gamma * self.mlp(x)).mean(1)


class Resized(Net):
    width = 8

    def body(self, x: Tensor) -> Tensor:
        small = F.max_pool2d(F.avg_pool2d(x, 2), 2)
        x = x + F.interpolate(small, size=x.shape[2:], mode="nearest")
        x = x + F.interpolate(small, size=x.shape[2:], mode="bilinear", align_corners=False)
        x = torch.roll(F.pad(x, (1, 1, 2, 0)), (1, 1), (2, 3))
        return F.hardtanh_(F.dropout(x, training=self.training), 0, 6)


class Attention(Net):
    """Four heads of two channels, as timm writes them; `depth` has the number of heads by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.depth, self.num_heads, self.head_dim, self.attn_dim = 4, 4, 2, 8
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)
        self.last = nn.LayerNorm(8)

    def body(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = x + self.proj(self.mixed(q, k, v).transpose(1, 2).reshape(*x.shape[:2], self.attn_dim))
        for _ in range(self.depth - 3):
            x = self.last(x)
        return x.mean(1)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class TableAttention(Attention):
    """Attention by products, with a table of biases of each head that is read by positions."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 4))
        self.register_buffer("places", torch.arange(64 * 64).view(64, 64) % 5)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q @ k.transpose(-2, -1)) * self.head_dim**-0.5 + self.biases()).softmax(-1) @ v

    def biases(self) -> Tensor:
        return self.table[self.places.view(-1)].view(64, 64, -1).permute(2, 0, 1).unsqueeze(0)


class MaskedAttention(TableAttention):
    """The biases are added by the operator."""

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, self.biases())


class ChannelAttention(Attention):
    """The channels of a head attend to each other."""

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (F.normalize(q, dim=-2).transpose(-2, -1) @ F.normalize(k, dim=-2)).softmax(-1)
        return v @ weights


class SplitByWidth(Net):
    """Parts as wide as an attribute says, each with its own way (Res2Net)."""

    def __init__(self) -> None:
        super().__init__()
        self.part = 4
        self.wide = nn.Conv2d(8, 8, 1)
        self.way = nn.Conv2d(4, 4, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        a, b = torch.split(self.wide(x), self.part, 1)
        return torch.cat([a, self.way(b)], 1)


class HalvedByWidth(SplitByWidth):
    """The attribute is the whole width, and the code halves it."""

    def __init__(self) -> None:
        super().__init__()
        self.part = 8

    def body(self, x: Tensor) -> Tensor:
        a, b = self.wide(x).split(self.part // 2, dim=1)
        return torch.cat([a, self.way(b)], 1)


class SlicedByWidth(Net):
    """The first channels, as many as an attribute says, get something added (ReXNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.front = 8
        self.wide = nn.Conv2d(8, 12, 1)
        self.head = nn.Linear(12, 5)

    def body(self, x: Tensor) -> Tensor:
        y = self.wide(x)
        return torch.cat([y[:, : self.front] + x, y[:, self.front :]], 1)


class ShuffledGroups(Net):
    """A shuffle after a grouped convolution: whole groups go, and the attribute with them (ShuffleNet)."""

    width = 12

    def __init__(self) -> None:
        super().__init__()
        self.parts = 4
        self.grouped = nn.Conv2d(8, 12, 1, groups=4)
        self.depth = nn.Conv2d(12, 12, 3, groups=12)

    def body(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        x = self.grouped(x).view(n, self.parts, -1, h, w).transpose(1, 2).reshape(n, -1, h, w)
        return self.depth(x)


class MatrixProduct(Net):
    """A bare matrix in place of a linear layer, and a table that mixes pixels only."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(8, 6))

    def body(self, x: Tensor) -> Tensor:
        return (torch.ones(64, 64, dtype=x.dtype).tril() @ x.flatten(2).transpose(1, 2) @ self.matrix).mean(1)


CUTTABLE: dict[str, type[nn.Module]] = {
    net.__name__: net
    for net in (
        Net,
        Residual,
        InPlaceResidual,
        Joined,
        Depthwise,
        Grouped,
        SingleChannel,
        SqueezeExcite,
        SpatialAttention,
        Flattened,
        Shared,
        Gated,
        HalvesApart,
        Shuffled,
        PixelShuffled,
        Transposed,
        Tokens,
        Resized,
        Attention,
        TableAttention,
        MaskedAttention,
        ChannelAttention,
        SplitByWidth,
        HalvedByWidth,
        SlicedByWidth,
        ShuffledGroups,
        MatrixProduct,
    )
}

IMAGES = torch.zeros(2, 3, 8, 8)


def by_name(groups: Sequence[ChannelGroup]) -> dict[str, ChannelGroup]:
    return {group.name: group for group in groups}


def places(group: ChannelGroup, channel: int) -> dict[tuple[str, int], list[int]]:
    """(tensor, axis) -> the indices that one channel owns."""
    return {(slot.name, slot.dim): slot.positions[channel].tolist() for slot in group.slots}


def random_kept(groups: Sequence[ChannelGroup], seed: int = 0) -> dict[str, Tensor]:
    """A random part of every group that can lose something, at least one channel less."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in prunable(groups):
        if group.num_channels > 1:
            share = 0.3 + 0.6 * float(torch.rand(1, generator=generator))
            count = min(max(1, int(group.num_channels * share)), group.num_channels - 1)
            kept[group.name] = torch.randperm(group.num_channels, generator=generator)[:count].sort().values
    return kept
