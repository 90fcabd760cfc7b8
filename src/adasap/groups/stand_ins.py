"""Taking a residual branch out of a model: what stands in its modules' places, and what is left of the groups.

The forward around a branch is the user's own code, so modules are replaced and none are deleted: the whole block by one
that passes its input on, or the layers of the branch by such ones and the last of them by zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from adasap.errors import PlanError
from adasap.groups.group import ChannelGroup

StandIn: TypeAlias = Literal["input", "input and none", "zeros", "zeros and none"]
"""What a module gives from then on: its first input, or zeros of that input's shape; as attention does, with None."""

Removed: TypeAlias = Mapping[str, StandIn]
"""Qualified name of a module -> what it gives from then on."""


@dataclass(frozen=True)
class Branch:
    """A residual branch that can be taken out, so that what it is added to passes unchanged.

    Attributes:
        name: Of the module that holds it: the residual block, or the outermost layer of the branch.
        modules: What is replaced, and by what.
        zeroed: Parameters; where these are zero, the branch is zero, whatever it gets.
    """

    name: str
    modules: Removed
    zeroed: tuple[str, ...]


class Passed(nn.Module):
    """Gives its first input, and None beside it where an attention would give its weights.

    Example:
        >>> Passed()(torch.ones(2), None), Passed("zeros and none")(torch.ones(2))
        (tensor([1., 1.]), (tensor([0., 0.]), None))
    """

    def __init__(self, gives: StandIn = "input") -> None:
        super().__init__()
        self.gives = gives

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The input is the first argument, by place or by name."""
        value = args[0] if args else next(iter(kwargs.values()))
        value = torch.zeros_like(value) if self.gives.startswith("zeros") else value
        return (value, None) if self.gives.endswith("none") else value

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return self.gives


def is_within(name: str, removed: Removed) -> bool:
    """Whether a module, parameter or buffer belongs to a module that is taken out.

    Example:
        >>> is_within("layer1.1.conv1.weight", {"layer1.1": "input"}), is_within("layer1.10", {"layer1.1": "input"})
        (True, False)
    """
    return any(name == module or name.startswith(f"{module}.") for module in removed)


def require_removable(model: nn.Module, removed: Removed) -> None:
    """Raises PlanError unless these are modules of the model, each with a known stand-in."""
    for name, gives in removed.items():
        if gives not in get_args(StandIn):
            raise PlanError(
                f"module {name[:80]!r} would give {str(gives)[:40]!r}; known: {', '.join(get_args(StandIn))}"
            )
        try:
            found = model.get_submodule(name) if name else None
        except AttributeError:
            found = None
        if found is None:
            raise PlanError(f"the plan takes out module {name[:80]!r}, which the model does not have")


def take_out_(model: nn.Module, removed: Removed) -> None:
    """Puts the stand-ins into the modules' places.

    Raises:
        PlanError: As `require_removable`; nothing was changed then.
    """
    require_removable(model, removed)
    for name, gives in removed.items():
        holder, _, place = name.rpartition(".")
        stand_in = Passed(gives)
        stand_in.training = model.get_submodule(name).training
        model.get_submodule(holder)._modules[place] = stand_in


def left_of(groups: Sequence[ChannelGroup], removed: Removed) -> tuple[ChannelGroup, ...]:
    """The groups without what is taken out: those that nothing produces any more are gone."""
    if not removed:
        return tuple(groups)
    lighter = (
        replace(
            group,
            slots=tuple(slot for slot in group.slots if not is_within(slot.name, removed)),
            extents=tuple(extent for extent in group.extents if not is_within(extent.module, removed)),
        )
        for group in groups
    )
    return tuple(group for group in lighter if any(group.with_role("producer")))


def kept_of_left(groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor], removed: Removed) -> dict[str, Tensor]:
    """What stays, of the groups that are left; names that are no group's stay, for whoever checks them."""
    if not removed:
        return dict(kept)
    gone = {group.name for group in groups} - {group.name for group in left_of(groups, removed)}
    return {name: indices for name, indices in kept.items() if name not in gone}


def taken_out(branches: Sequence[Branch], removed: Removed) -> tuple[Branch, ...]:
    """The branches that these modules are.

    Raises:
        PlanError: If a module belongs to no known branch, so that nothing can be proven.
    """
    taken = [branch for branch in branches if branch.modules.items() <= removed.items()]
    if unknown := removed.keys() - {name for branch in taken for name in branch.modules}:
        raise PlanError(
            f"module {min(unknown)!r} is no branch of these groups, so taking it out cannot be proven; "
            "trace_groups(model, example_inputs, depth=True) finds the branches"
        )
    return tuple(taken)


@contextmanager
def silenced(model: nn.Module, branches: Sequence[Branch]) -> Iterator[None]:
    """These branches are zero for a while; their parameters come back bit for bit, also after an error."""
    tensors = [model.get_parameter(name) for branch in branches for name in branch.zeroed]
    saved = [tensor.detach().clone() for tensor in tensors]
    try:
        with torch.no_grad():
            for tensor in tensors:
                tensor.zero_()
        yield
    finally:
        with torch.no_grad():
            for tensor, values in zip(tensors, saved, strict=True):
                tensor.copy_(values)
