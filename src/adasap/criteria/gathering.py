"""Looking at a model on a few batches: what arrives where channels are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from adasap.criteria.protocol import Loss
from adasap.groups.group import ChannelGroup, Slot, prunable


def mean_over_inputs(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    batches: Iterable[Any],
    loss: Loss,
    see: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Mean of `see(activations)` over batches and over the layers that read a group.

    The activations are the inputs of the convolutions and linear layers in the group's consumer slots, after
    norms and non-linearities, in evaluation mode without gradients: what is missing when the channel goes.

    Args:
        model: Its weights, statistics and modes are left as they are.
        groups: The channels.
        batches: Prepared batches; a part of them only where the last one is smaller.
        loss: `loss(model, batch)` runs the model.
        see: Activations, float [N, C, L] (L positions of each image), to one number per channel, float [C].
    Returns:
        Group name -> mean, float [C]; zeros for a frozen group that no such layer reads.
    Raises:
        ValueError: If the layers that read a group that can be pruned are never called.
    """
    model = getattr(model, "_orig_mod", model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    sums = {group.name: torch.zeros(group.num_channels, device=device) for group in groups}
    calls = dict.fromkeys(sums, 0)

    def watch(group: ChannelGroup, slot: Slot, module: nn.Module) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        axis = 1 - _weight(module).ndim

        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            sums[group.name] += see(_by_channel(inputs[0], axis, slot.positions))
            calls[group.name] += 1

        return hook

    with ExitStack() as hooks, evaluating(model), torch.no_grad():
        for group in groups:
            for slot, module in _readers(model, group):
                hooks.callback(module.register_forward_pre_hook(watch(group, slot, module)).remove)
        for batch in batches:
            loss(model, batch)
    _require_seen(groups, calls)
    return {name: total / max(calls[name], 1) for name, total in sums.items()}


def require_readers(model: nn.Module, groups: Sequence[ChannelGroup], criterion: str) -> None:
    """Raises ValueError, naming them, if groups that can be pruned are read by no convolution or linear layer."""
    model = getattr(model, "_orig_mod", model)
    missing = [group.name for group in prunable(groups) if not _readers(model, group)]
    if missing:
        raise ValueError(
            f"criterion {criterion!r} reads the inputs of convolutions and linear layers, and none of them reads "
            f"these groups: {', '.join(missing)}; use 'taylor' or keep them whole"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while it lasts; afterwards each module is in its own mode again."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _readers(model: nn.Module, group: ChannelGroup) -> list[tuple[Slot, nn.Module]]:
    """The consumer slots of layers whose input axis is the weight's, with the layers."""
    found = []
    for slot in group.with_role("consumer"):
        path, _, parameter = slot.name.rpartition(".")
        module = model.get_submodule(path)
        plain = isinstance(module, nn.Linear) or (isinstance(module, _ConvNd) and module.groups == 1)
        if plain and parameter == "weight":
            found.append((slot, module))
    return found


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight


def _by_channel(inputs: Tensor, axis: int, positions: Tensor) -> Tensor:
    """The input with its channels [C, K] of one axis (counted from the end) as float [N, C, K * L]."""
    if inputs.ndim == -axis:  # one image without a batch axis
        inputs = inputs.unsqueeze(0)
    chosen = inputs.movedim(axis, 1)[:, positions.flatten().to(inputs.device)]
    return chosen.reshape(len(inputs), len(positions), -1).to(torch.promote_types(inputs.dtype, torch.float32))


def _require_seen(groups: Sequence[ChannelGroup], calls: dict[str, int]) -> None:
    unseen = [group.name for group in prunable(groups) if not calls[group.name]]
    if unseen:
        raise ValueError(
            f"no activations were seen for {', '.join(unseen)}: the layers that read them are used without being "
            "called (or there were no batches); use 'taylor' or keep these groups whole"
        )
