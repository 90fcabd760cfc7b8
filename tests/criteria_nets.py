"""Small nets with groups written by hand, for the tests of criteria and pruning."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from adasap.groups.group import ChannelGroup, Slot


def each(count: int, start: int = 0) -> Tensor:
    """Positions of channels that own one index each."""
    return torch.arange(start, start + count).unsqueeze(1)


class Plain(nn.Module):
    """conv1 - bn1 - conv2 - bn2 - pool - fc: two groups to cut, and the classifier."""

    def __init__(self, first: int = 6, second: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, first, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.fc = nn.Linear(second, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.fc(x.mean((2, 3)))


def norm_slots(name: str, channels: int) -> tuple[Slot, ...]:
    roles = OrderedDict(weight="scale", bias="shift", running_mean="statistic", running_var="statistic")
    return tuple(Slot(f"{name}.{part}", 0, role, each(channels)) for part, role in roles.items())  # type: ignore[arg-type]


def plain_net(seed: int = 0, first: int = 6, second: int = 4) -> tuple[Plain, tuple[ChannelGroup, ...]]:
    """The net with every parameter and buffer drawn anew, and its groups."""
    torch.manual_seed(seed)
    net = Plain(first, second)
    for tensor in net.parameters():
        nn.init.normal_(tensor)
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2.0)
    return net, plain_groups(first, second)


def plain_groups(first: int = 6, second: int = 4, classes: int = 3) -> tuple[ChannelGroup, ...]:
    one = ChannelGroup(
        "conv1",
        first,
        (
            Slot("conv1.weight", 0, "producer", each(first)),
            Slot("conv1.bias", 0, "shift", each(first)),
            *norm_slots("bn1", first),
            Slot("conv2.weight", 1, "consumer", each(first)),
        ),
    )
    two = ChannelGroup(
        "conv2",
        second,
        (
            Slot("conv2.weight", 0, "producer", each(second)),
            *norm_slots("bn2", second),
            Slot("fc.weight", 1, "consumer", each(second)),
        ),
    )
    out = ChannelGroup(
        "fc",
        classes,
        (Slot("fc.weight", 0, "producer", each(classes)), Slot("fc.bias", 0, "shift", each(classes))),
        frozen=("its channels are an output of the model",),
        is_output=True,
    )
    return one, two, out


def permuted(net: Plain, group: ChannelGroup, order: Tensor) -> Plain:
    """The same function with the group's channels in another order, in place."""
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    for slot in group.slots:
        index = torch.arange(tensors[slot.name].shape[slot.dim])
        index[slot.positions.flatten()] = slot.positions[order].flatten()
        tensor = tensors[slot.name]
        tensor.data = tensor.data.index_select(slot.dim, index)
        if tensor.grad is not None:
            tensor.grad = tensor.grad.index_select(slot.dim, index)
    return net


def twins(net: Plain, group: ChannelGroup, one: int, other: int) -> Plain:
    """The net with one channel of the group made equal to another, wherever it stands; in place."""
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    for slot in group.slots:
        data = tensors[slot.name].data.movedim(slot.dim, 0)
        data[slot.positions[other]] = data[slot.positions[one]]
    return net
