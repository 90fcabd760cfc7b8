"""Looking at a model on a few batches: what arrives where channels are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from adasap.convolutions import guard_convolutions
from adasap.criteria.evidence import Evidence
from adasap.criteria.protocol import Criterion, GatheringCriterion, GradientCriterion, Loss
from adasap.errors import ArgumentError, RecipeError
from adasap.groups.bare import unwrap
from adasap.groups.exported import evaluating
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
        ArgumentError: If the layers that read a group that can be pruned are never called.
    """
    model = unwrap(model)
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


def require_batches(criterion: Criterion, batches: Iterable[Any] | None, loss: Loss | None) -> None:
    """Raises RecipeError if the criterion looks at batches and is given none, or no loss to run them with.

    Example:
        >>> from adasap.criteria.registry import build_criterion
        >>> require_batches(build_criterion("l2"), None, None)
    """
    if criterion.needs and (batches is None or loss is None):
        raise RecipeError(
            f"criterion {type(criterion).__name__} needs {' and '.join(sorted(criterion.needs))}: pass "
            "batches=<a list of prepared batches> and loss=lambda model, batch: <its mean loss>, or take a criterion "
            "of the weights alone, such as 'l2'"
        )


def collect_evidence(
    criterion: Criterion,
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    batches: Iterable[Any] | None,
    loss: Loss | None,
) -> dict[str, Tensor] | None:
    """What the criterion needs beside the weights, from these batches; None if it needs nothing.

    The model is seen in evaluation mode, so that norm statistics and chance have no part in it. Its weights stay as
    they are, its gradients are cleared.

    Args:
        criterion: Gradients are averaged over all batches; other evidence takes the first `num_batches`.
        model: On the batches' device.
        groups: Its groups.
        batches: Prepared batches.
        loss: `loss(model, batch)`: the mean loss.
    Raises:
        RecipeError: If the criterion needs batches and there are none, or none whose gradients are finite.
    """
    require_batches(criterion, batches, loss)
    if not criterion.needs or batches is None or loss is None:
        return None
    if isinstance(criterion, GatheringCriterion):
        return criterion.gather(model, groups, list(islice(batches, criterion.num_batches)), loss)
    assert isinstance(criterion, GradientCriterion)
    guard_convolutions()
    evidence = Evidence()
    with evaluating(model), torch.enable_grad():
        for batch in batches:
            model.zero_grad(set_to_none=True)
            loss(model, batch).backward()  # type: ignore[no-untyped-call]
            evidence.add(criterion.batch_evidence(model, groups))
    model.zero_grad(set_to_none=True)
    if not evidence.count:
        raise RecipeError(
            f"criterion {type(criterion).__name__} saw no batch whose gradients are finite: give at least one batch, "
            "and look at the loss"
        )
    return evidence.mean()


def require_readers(model: nn.Module, groups: Sequence[ChannelGroup], criterion: str) -> None:
    """Raises ArgumentError, naming them, if groups that can be pruned are read by no convolution or linear layer."""
    model = unwrap(model)
    missing = [group.name for group in prunable(groups) if not _readers(model, group)]
    if missing:
        raise ArgumentError(
            f"criterion {criterion!r} reads the inputs of convolutions and linear layers, and none of them reads "
            f"these groups: {', '.join(missing)}; use 'taylor' or keep them whole"
        )


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
    return module.get_parameter("weight")


def _by_channel(inputs: Tensor, axis: int, positions: Tensor) -> Tensor:
    """The input with its channels [C, K] of one axis (counted from the end) as float [N, C, K * L]."""
    if inputs.ndim == -axis:  # one image without a batch axis
        inputs = inputs.unsqueeze(0)
    chosen = inputs.movedim(axis, 1)[:, positions.flatten().to(inputs.device)]
    return chosen.reshape(len(inputs), len(positions), -1).to(torch.promote_types(inputs.dtype, torch.float32))


def _require_seen(groups: Sequence[ChannelGroup], calls: dict[str, int]) -> None:
    unseen = [group.name for group in prunable(groups) if not calls[group.name]]
    if unseen:
        raise ArgumentError(
            f"no activations were seen for {', '.join(unseen)}: the layers that read them are used without being "
            "called (or there were no batches); use 'taylor' or keep these groups whole"
        )
