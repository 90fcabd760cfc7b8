"""Example inputs: one tensor, positional arguments or keyword arguments, made into one thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from adasap.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Arguments:
    """What forward is called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def call(self, model: Callable[..., Any]) -> Any:
        """The model's outputs."""
        return model(*self.args, **self.kwargs)

    def map(self, change: Callable[[Tensor], Any]) -> Arguments:
        """The same with every tensor changed."""
        args, kwargs = pytree.tree_map_only(Tensor, change, (self.args, self.kwargs))
        return Arguments(args, kwargs)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in order."""
        return [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    @property
    def batch_size(self) -> int:
        """Length of the first axis of the first tensor that has one; 1 if none has."""
        return next((len(tensor) for tensor in self.tensors if tensor.ndim), 1)

    def rows(self, size: int) -> Arguments:
        """The batch repeated or cut to so many examples; tensors that are not as long as the batch stay."""
        batch = self.batch_size

        def taken(tensor: Tensor) -> Tensor:
            if tensor.ndim == 0 or len(tensor) != batch:
                return tensor
            return tensor[[row % batch for row in range(size)]]

        return self if size == batch else self.map(taken)

    def to_model(self, model: nn.Module) -> Arguments:
        """On the device of the model's first weight, floating tensors also of its type."""
        first = next((p for p in model.parameters() if p.is_floating_point()), None)
        if first is None:
            return self
        device, dtype = first.device, first.dtype
        return self.map(lambda t: t.to(device, dtype) if t.is_floating_point() else t.to(device))

    def describe(self) -> str:
        """Types, shapes and devices, for messages."""
        found = [f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)} on {t.device}" for t in self.tensors]
        return ", ".join(found)


ExampleInputs = Tensor | Sequence[Any] | Mapping[str, Any] | Arguments
"""One tensor, a tuple or list of the positional arguments of forward, or a dictionary of its keyword arguments.

An argument may itself be a tuple, list or dictionary of tensors. Shapes and types matter, values do not."""


def as_arguments(example_inputs: ExampleInputs) -> Arguments:
    """The arguments of forward.

    Raises:
        ArgumentError: For what holds no tensor, arrays of another library, or an empty batch.
    Example:
        >>> import torch
        >>> images = torch.zeros(2, 3, 8, 8)
        >>> [as_arguments(given).batch_size for given in (images, (images,), [images], {"x": images})]
        [2, 2, 2, 2]
    """
    if isinstance(example_inputs, Arguments):
        return example_inputs
    if isinstance(example_inputs, Tensor):
        found = Arguments((example_inputs,), {})
    elif isinstance(example_inputs, Mapping):
        found = Arguments((), dict(example_inputs))
    elif isinstance(example_inputs, tuple | list):
        found = Arguments(tuple(example_inputs), {})
    else:
        raise ArgumentError(_refusal(example_inputs))
    _require_tensors(found)
    return found


def _require_tensors(arguments: Arguments) -> None:
    leaves = pytree.tree_leaves((arguments.args, arguments.kwargs))
    if any(not isinstance(key, str) for key in arguments.kwargs):
        raise ArgumentError(f"example_inputs name arguments of forward, got the keys {list(arguments.kwargs)[:5]}")
    for leaf in leaves:
        if not isinstance(leaf, Tensor | bool | int | float | str | None):
            raise ArgumentError(_refusal(leaf))
    if not arguments.tensors:
        shape = tuple(leaves)
        if shape and all(isinstance(size, int) for size in shape):
            raise ArgumentError(f"example_inputs are the numbers {shape}; if they are a shape, give torch.zeros{shape}")
        raise ArgumentError("example_inputs hold no tensor; give a batch, such as torch.zeros(1, 3, 224, 224)")
    if arguments.tensors[0].numel() == 0:
        raise ArgumentError(
            f"example_inputs have shape {tuple(arguments.tensors[0].shape)}, which holds no example; give at least one"
        )


def _refusal(given: object) -> str:
    module = type(given).__module__.partition(".")[0]
    kind = type(given).__name__ if module == "builtins" else f"{module} {type(given).__name__}"
    move = (
        "give torch.from_numpy(...) of it"
        if module == "numpy"
        else "give a tensor, such as torch.zeros(1, 3, 224, 224)"
    )
    return f"example_inputs hold a {kind}: {move}; give several arguments as a tuple, a list or a dictionary"
