"""Carrying out a plan: model, gradients, optimizer state and averaged copies are cut together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from adasap.convolutions import guard_convolutions
from adasap.errors import PlanError
from adasap.groups.cutting import cut_, cut_tensor, kept_masks, named_tensors
from adasap.groups.group import ChannelGroup, fingerprint
from adasap.groups.materialise import plain_model
from adasap.groups.past import Groups, branches_of, past_with, remember
from adasap.groups.stand_ins import Removed, is_within, kept_of_left, left_of, require_removable
from adasap.pruning.plan import PruningPlan


def apply_plan_(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    plan: PruningPlan,
    *,
    optimizer: Optimizer | None = None,
    companions: Sequence[nn.Module] = (),
    carried: Sequence[dict[str, Tensor]] = (),
) -> Groups:
    """Cuts weights, gradients, buffers, optimizer state and companions in place; everything else keeps its
    object.

    Every `Parameter` stays the object it was, so parameter groups, schedulers and references of the user's
    stay valid, and the momentum of the channels that stay survives bit for bit. Optimizer state of the
    parameter's shape is cut as the parameter is, single numbers stay. Wrappers (`torch.compile`,
    `AveragedModel`, data parallel) are looked through; a compiled model compiles again at its next call. The
    graph of an earlier loss may still be alive, but must not be run backward after the cut.

    Args:
        model: The model the groups belong to.
        groups: All its groups, as they are now.
        plan: Made for these very groups.
        optimizer: The one that trains the model, or None.
        companions: Models with the same parameter names, such as averaged weights; cut alike.
        carried: Parameter name -> tensor of its shape, such as gradients of the step before; each tensor is replaced
            in its dictionary by its cut.
    Returns:
        The groups in the indices of the cut model, for the next event. They carry the plan of all cuts, as does the
        model, so that `adasap.save(path, model, groups=groups)` needs nothing else.
    Raises:
        PlanError: If the plan is for other groups, the groups for another model, or optimizer state has a shape
            that cannot be cut. Nothing was changed then.
    """
    if not isinstance(plan, PruningPlan):
        raise PlanError(f"the plan is a {type(plan).__name__}; give a PruningPlan, such as PruningPlan.from_json(text)")
    guard_convolutions()  # the loop that trains the cut model may be the caller's own
    if plan.fingerprint != fingerprint(groups):
        raise PlanError(
            "the plan was made for other groups (the fingerprints differ): apply a plan to the groups it was "
            "selected from, a composed one to those of the dense model"
        )
    bare = plain_model(model)
    twins = {f"companions[{i}]": plain_model(companion) for i, companion in enumerate(companions)}
    left, kept = left_of(groups, plan.removed), kept_of_left(groups, plan.kept, plan.removed)
    _require_fit(bare, groups, "the model")
    by_name = _masks_by_name(kept_masks(bare, left, kept))
    for module in (bare, *twins.values()):
        require_removable(module, plan.removed)
    for title, twin in twins.items():
        _require_fit(twin, groups, title)
        _require_same_shapes(bare, twin, by_name, title)
    _require_carried_fit(bare, carried)
    state_cuts = _plan_state_cuts(optimizer, bare, by_name) if optimizer is not None else []
    past = past_with(bare, groups)
    for cut in state_cuts:
        cut.state[cut.key] = cut_tensor(cut.state[cut.key], cut.masks)
    for tensors in carried:
        tensors |= {name: cut_tensor(t, by_name[name]) for name, t in tensors.items() if name in by_name}
        for name in [name for name in tensors if is_within(name, plan.removed)]:
            del tensors[name]
    if optimizer is not None:
        _let_go_(optimizer, bare, plan.removed)
    for twin in twins.values():
        cut_(twin, groups, plan.kept, plan.removed)
    after = cut_(bare, groups, plan.kept, plan.removed)
    _renew_accumulators_(parameter for name, parameter in bare.named_parameters() if name in by_name)
    past = past.then(plan.kept, after, plan.removed)
    for module in (bare, *twins.values()):
        remember(module, past)
    branches = [b for b in branches_of(groups) if not any(is_within(name, plan.removed) for name in b.modules)]
    return Groups(after, past, branches)


def _let_go_(optimizer: Optimizer, model: nn.Module, removed: Removed) -> None:
    """Takes the parameters of modules that go, and their state, out of the optimizer."""
    gone = {id(p): p for name, p in model.named_parameters() if is_within(name, removed)}
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in gone]
    for parameter in gone.values():
        optimizer.state.pop(parameter, None)


@dataclass(frozen=True, eq=False)
class _StateCut:
    state: dict[str, Any]  # the optimizer's state of one parameter
    key: str
    masks: Mapping[int, Tensor]


def _masks_by_name(masks: Mapping[tuple[str, int], Tensor]) -> dict[str, dict[int, Tensor]]:
    by_name: dict[str, dict[int, Tensor]] = {}
    for (name, dim), mask in masks.items():
        by_name.setdefault(name, {})[dim] = mask
    return by_name


def _require_fit(model: nn.Module, groups: Sequence[ChannelGroup], title: str) -> None:
    tensors = named_tensors(model)
    for group in groups:
        for slot in group.slots:
            tensor = tensors.get(slot.name)
            if tensor is None:
                raise PlanError(f"{title} has no {slot.name!r}, which group {group.name!r} names: trace it again")
            needed = int(slot.positions.max()) + 1 if slot.positions.numel() else 0
            if slot.dim >= tensor.ndim or tensor.shape[slot.dim] < needed:
                raise PlanError(
                    f"{title} does not fit the groups: {slot.name!r} has shape {tuple(tensor.shape)}, group "
                    f"{group.name!r} needs {needed} along axis {slot.dim}; pass the groups of the last cut"
                )


def _require_same_shapes(model: nn.Module, twin: nn.Module, names: Iterable[str], title: str) -> None:
    ours, theirs = named_tensors(model), named_tensors(twin)
    for name in names:
        if ours[name] is theirs[name]:
            raise PlanError(f"{title} shares {name!r} with the model, so it would be cut twice: leave it out")
        if ours[name].shape != theirs[name].shape:
            raise PlanError(
                f"{title}: {name!r} has shape {tuple(theirs[name].shape)}, the model's is "
                f"{tuple(ours[name].shape)}; cut companions in every event, or not at all"
            )


def _require_carried_fit(model: nn.Module, carried: Sequence[dict[str, Tensor]]) -> None:
    parameters = named_tensors(model)
    for tensors in carried:
        for name, tensor in tensors.items():
            if name not in parameters or parameters[name].shape != tensor.shape:
                raise PlanError(
                    f"carried: {name!r} of shape {tuple(tensor.shape)} is no parameter of the model; carry tensors of "
                    "the parameters' names and shapes, through every event"
                )


def _plan_state_cuts(
    optimizer: Optimizer, model: nn.Module, masks: Mapping[str, Mapping[int, Tensor]]
) -> list[_StateCut]:
    kind = type(optimizer).__name__
    names = {id(parameter): name for name, parameter in named_tensors(model).items() if name in masks}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if names and not any(id(parameter) in names for parameter in held):
        raise PlanError(f"{kind} holds none of the parameters to be cut: pass the optimizer that trains this model")
    cuts = []
    for parameter in held if names else ():
        name = names.get(id(parameter))
        for key, value in optimizer.state.get(parameter, {}).items():
            if not (_is_its_own(value, parameter) if name is None else _follows(value, parameter)):
                raise PlanError(
                    f"{kind} keeps {key!r} of {name or 'a parameter'} as {_describe(value)}, which cannot be "
                    f"cut with a parameter of shape {tuple(parameter.shape)}; use an optimizer whose state "
                    f"has the parameter's shape, such as SGD or AdamW, or build a new one after the cut"
                )
            if name is not None and isinstance(value, Tensor) and value.shape == parameter.shape:
                cuts.append(_StateCut(optimizer.state[parameter], key, masks[name]))
    return cuts


def _follows(value: Any, parameter: Tensor) -> bool:
    """Whether the state can be cut like the parameter, or has nothing to cut."""
    if isinstance(value, Tensor):
        return value.shape == parameter.shape or value.numel() <= 1
    return not any(tensor.numel() > 1 for tensor in _tensors_within(value))


def _is_its_own(value: Any, parameter: Tensor) -> bool:
    """Whether state of a parameter that stays whole is of it alone, unlike L-BFGS's flat vectors."""
    return not any(t.ndim == 1 and t.numel() > max(parameter.numel(), 1) for t in _tensors_within(value))


def _tensors_within(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors_within(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors_within(inner)


def _describe(value: Any) -> str:
    shapes = [tuple(tensor.shape) for tensor in _tensors_within(value)]
    return f"{type(value).__name__} of shape {shapes[0] if len(shapes) == 1 else shapes[:3]}"


def _renew_accumulators_(parameters: Iterable[nn.Parameter]) -> None:
    """Lets autograd see the new shapes where a graph of an earlier loss is still alive.

    Such a graph keeps the parameter's gradient accumulator, with the old shape, and the next backward would
    fail on it; autograd drops the accumulator only when the data change type, so they change type for a
    moment.
    """
    for parameter in parameters:
        data, gradient = parameter.data, parameter.grad
        parameter.grad = None
        other = torch.float64 if data.dtype != torch.float64 else torch.float32
        parameter.data = torch.empty(0, dtype=other, device=data.device)
        parameter.data = data
        parameter.grad = gradient
