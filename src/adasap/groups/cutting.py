"""Removing channels from tensors and modules: what stays, and the cut itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from adasap.errors import PlanError, suggestion
from adasap.groups.bare import unwrap
from adasap.groups.components import distinct
from adasap.groups.group import ChannelGroup, Extent, Slot
from adasap.groups.heads import fit_heads_
from adasap.groups.stand_ins import Removed, kept_of_left, left_of, require_removable, take_out_

Masks = Mapping[tuple[str, int], Tensor]
"""(Parameter or buffer name, axis) -> bool over that axis: True where an index stays."""


def kept_masks(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]
) -> dict[tuple[str, int], Tensor]:
    """What stays of every axis that loses something, in the model's present indices.

    Args:
        model: The model the groups were traced from (or cut to).
        groups: Its groups.
        kept: Group name -> indices of the channels that stay, int64 [k], 1 <= k <= C, no duplicates. Groups
            that are absent stay whole.
    Returns:
        (name, dim) -> bool [size of the axis]; axes that lose nothing are absent.
    Raises:
        PlanError: For an unknown or frozen group, or indices that are out of range, repeated or none at all.
    """
    removed = removed_channels(groups, kept)
    tensors = named_tensors(model)
    masks: dict[tuple[str, int], Tensor] = {}
    for group in groups:
        gone = removed.get(group.name)
        if gone is None:
            continue
        for slot in group.slots:
            key = (slot.name, slot.dim)
            if key not in masks:
                masks[key] = torch.ones(tensors[slot.name].shape[slot.dim], dtype=torch.bool)
            masks[key][slot.positions[gone].flatten()] = False
    return masks


def removed_channels(groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Group name -> int64 indices that go, ascending; only groups that lose something.

    Raises:
        PlanError: As `kept_masks`.
    """
    by_name = {group.name: group for group in groups}
    removed = {}
    for name, indices in kept.items():
        group = by_name.get(name)
        if group is None:
            raise PlanError(f"no channel group is named {name!r}; {suggestion(name, by_name)}")
        gone = _complement(group, indices.detach().cpu())
        if len(gone) and group.frozen:
            raise PlanError(f"group {name!r} cannot lose channels: {group.frozen[0]}; leave it out of the plan")
        if len(gone):
            removed[name] = gone
    return removed


def _complement(group: ChannelGroup, indices: Tensor) -> Tensor:
    count = group.num_channels
    unique = distinct(indices)
    if indices.dim() != 1 or indices.dtype not in (torch.int64, torch.int32) or len(unique) != len(indices):
        raise PlanError(
            f"group {group.name!r}: kept channels must be a 1-d integer tensor without duplicates, "
            f"got {tuple(indices.shape)} {indices.dtype} with {len(unique)} distinct values"
        )
    if len(indices) == 0 or int(unique[0]) < 0 or int(unique[-1]) >= count:
        span = "nothing" if len(indices) == 0 else f"{int(unique[0])} to {int(unique[-1])}"
        raise PlanError(f"group {group.name!r} has channels 0 to {count - 1} and keeps at least one, got {span}")
    stays = torch.zeros(count, dtype=torch.bool)
    stays[unique.long()] = True
    return (~stays).nonzero().flatten()


def masks_by_dim(masks: Masks, name: str) -> dict[int, Tensor]:
    """Axis -> mask, of one tensor."""
    return {dim: mask for (other, dim), mask in masks.items() if other == name}


def cut_tensor(tensor: Tensor, masks: Mapping[int, Tensor]) -> Tensor:
    """A new contiguous tensor without the indices that are False.

    Dtype, device and the channels-last layout (4 dimensions) are kept, with the strides that a new tensor of that
    layout has; autograd is not followed.

    Example:
        >>> cut_tensor(torch.arange(6).view(2, 3), {1: torch.tensor([True, False, True])})
        tensor([[0, 2],
                [3, 5]])
    """
    if tensor.is_meta or isinstance(tensor, FakeTensor):
        return _cut_shape(tensor, masks)
    layout = torch.channels_last if _is_channels_last(tensor) else torch.contiguous_format
    result = tensor.detach()
    for dim, mask in masks.items():
        index = mask.nonzero().flatten().to(tensor.device)
        result = result.index_select(dim, index)
    return torch.empty_like(result, memory_format=layout).copy_(result)


def _cut_shape(tensor: Tensor, masks: Mapping[int, Tensor]) -> Tensor:
    """What `cut_tensor` gives of a tensor without numbers; each call of an operator counts in a trial."""
    shape = [int(masks[dim].sum()) if dim in masks else size for dim, size in enumerate(tensor.shape)]
    order = (0, 2, 3, 1) if _is_channels_last(tensor) else range(tensor.dim())
    strides, step = [1] * tensor.dim(), 1
    for dim in reversed(order):
        strides[dim], step = step, step * max(shape[dim], 1)
    return tensor.new_empty_strided(shape, strides)


def _is_channels_last(tensor: Tensor) -> bool:
    """By the strides themselves: with an axis of one index a tensor counts as both, and rounding follows strides."""
    if tensor.dim() != 4:
        return False
    _, channels, height, width = tensor.shape
    strides = (height * width * channels, 1, width * channels, channels)
    return tensor.stride() == strides and tensor.stride() != (channels * height * width, height * width, width, 1)


def cut_(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor], removed: Removed | None = None
) -> tuple[ChannelGroup, ...]:
    """Remove channels from a model in place: parameters, their gradients, buffers, module attributes.

    `Parameter` and buffer objects stay the same and get new data, so optimizers and user references stay
    valid; the optimizer's own state is not touched here (see `adasap.pruning.apply_plan_`).

    Attention modules that cannot run with fewer heads get another class of the same weights (see
    `adasap.groups.heads`).

    Args:
        model: The model to cut.
        groups: Its groups, all of them: those that lose nothing may still have to be renumbered.
        kept: Group name -> int64 [k] indices that stay; absent groups stay whole.
        removed: Modules that are taken out before, and what stands in their places; groups that only these have
            are gone then.
    Returns:
        The same groups in the indices of the cut model.
    Raises:
        PlanError: As `kept_masks`, or for a module that the model does not have; nothing was changed then.
    """
    model = unwrap(model)
    if removed:
        require_removable(model, removed)
        groups, kept = left_of(groups, removed), kept_of_left(groups, kept, removed)
    gone = removed_channels(groups, kept)
    masks = kept_masks(model, groups, kept)
    take_out_(model, removed or {})
    tensors = named_tensors(model)
    owners = _owners(model)
    of_tensor: dict[str, dict[int, Tensor]] = {}
    for (name, dim), mask in masks.items():
        of_tensor.setdefault(name, {})[dim] = mask
    for name, of_dim in of_tensor.items():
        replace_data_(tensors[name], of_dim)
    for name in of_tensor:
        for module in owners.get(id(tensors[name]), ()):
            if getattr(module, "weight", None) is tensors[name] and (name, 0) in masks:
                _sync_groups_(module, masks[name, 0])
            _sync_attributes_(module)
            _empty_caches_(module)
    for group in groups:
        if group.name in gone:
            for extent in group.extents:
                _shrink_extent_(model, extent, int(extent.counts[gone[group.name]].sum()))
    fit_heads_(model)
    return renumbered(groups, gone, masks)


def replace_data_(tensor: Tensor, masks: Mapping[int, Tensor]) -> None:
    """Cut a parameter or buffer and its gradient in place: the object stays, its data and shape change."""
    gradient = tensor.grad if tensor.is_leaf else None
    if gradient is not None:
        tensor.grad = None
    tensor.data = cut_tensor(tensor, masks)
    if gradient is not None:
        tensor.grad = cut_tensor(gradient, masks)


def renumbered(groups: Sequence[ChannelGroup], removed: Mapping[str, Tensor], masks: Masks) -> tuple[ChannelGroup, ...]:
    """The groups after a cut: channels that went are gone, positions count within what is left."""
    index = {key: mask.cumsum(0) - 1 for key, mask in masks.items()}

    def slot_after(slot: Slot, stays: Tensor | None) -> Slot:
        new = index.get((slot.name, slot.dim))
        if stays is None and new is None:
            return slot
        positions = slot.positions if stays is None else slot.positions[stays]
        return replace(slot, positions=positions if new is None else new[positions])

    result = []
    for group in groups:
        if group.name not in removed:
            result.append(replace(group, slots=tuple(slot_after(slot, None) for slot in group.slots)))
            continue
        stays = torch.ones(group.num_channels, dtype=torch.bool)
        stays[removed[group.name]] = False
        result.append(
            replace(
                group,
                num_channels=int(stays.sum()),
                slots=tuple(slot_after(slot, stays) for slot in group.slots),
                extents=tuple(replace(extent, counts=extent.counts[stays]) for extent in group.extents),
            )
        )
    return tuple(result)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Qualified name -> parameter or buffer, every name of a shared one; wrappers are looked through."""
    model = unwrap(model)
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors.update(model.named_buffers(remove_duplicate=False))
    return tensors


def _owners(model: nn.Module) -> dict[int, list[nn.Module]]:
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                owners.setdefault(id(tensor), []).append(module)
    return owners


def _sync_attributes_(module: nn.Module) -> None:
    """Make the integers a layer keeps about its own shape agree with its tensors."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.modules.conv._ConvNd) and isinstance(weight, Tensor):
        _sync_convolution_(module, weight)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        sized = module.weight if module.weight is not None else module.running_mean
        if sized is not None:
            module.num_features = len(sized)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and isinstance(weight, Tensor):
        module.normalized_shape = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm) and isinstance(weight, Tensor):
        module.num_channels = len(weight)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape


def _empty_caches_(module: nn.Module) -> None:
    """Empty what a module calls a cache: timm's attention keeps biases there that it computed from its parameters."""
    for name, value in vars(module).items():
        if "cache" in name and type(value) is dict:
            setattr(module, name, {})


def _sync_groups_(module: nn.Module, stays: Tensor) -> None:
    """Count the groups of which a row is left; before the widths are read off the weight."""
    name = "num_groups" if isinstance(module, nn.GroupNorm) else "groups"
    if isinstance(module, (nn.GroupNorm, nn.modules.conv._ConvNd)):
        setattr(module, name, int(stays.view(getattr(module, name), -1).any(1).sum()))


def _sync_convolution_(module: nn.modules.conv._ConvNd, weight: Tensor) -> None:
    rows, columns = weight.shape[:2]
    if module.transposed:
        module.in_channels, module.out_channels = rows, columns * module.groups
    else:
        module.out_channels, module.in_channels = rows, columns * module.groups


def _shrink_extent_(model: nn.Module, extent: Extent, amount: int) -> None:
    module = model.get_submodule(extent.module)
    value = getattr(module, extent.attribute)
    if extent.index is None:
        setattr(module, extent.attribute, value - amount)
        return
    entries = list(value)
    entries[extent.index] -= amount
    setattr(module, extent.attribute, type(value)(entries))
