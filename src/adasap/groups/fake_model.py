"""Copies of a model that cost little memory: one without numbers, one that shares them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from adasap.errors import TraceError
from adasap.groups.exported import quiet
from adasap.groups.inputs import ExampleInputs, as_arguments
from adasap.groups.preserving import tensors_with_graph, without_remembering
from adasap.groups.quick_shapes import quick_result

Kind: TypeAlias = Literal["bare", "fake", "real"]
"""Of a skeleton's tensors: on the meta device, fake ones, or copies with numbers."""


class Skeleton:
    """A copy of a model whose tensors have shapes but no numbers; its forward costs next to nothing.

    Args:
        model: The model to copy.
        example_inputs: Shapes and types of its inputs.
        kind: `bare`, on the meta device: a forward takes a fifth of the time that it takes on `fake` tensors, but a
            model that makes tensors on the processor and joins them with its own does not run. `real` tensors have
            numbers, for a forward that looks at some, such as sizes that it keeps in a tensor.
    Example:
        >>> Skeleton(nn.Linear(3, 2), torch.zeros(4, 3)).run().shape
        torch.Size([4, 2])
    """

    def __init__(self, model: nn.Module, example_inputs: ExampleInputs, *, kind: Kind = "fake") -> None:
        self.kind = kind
        fake = kind == "fake"
        self.mode: AbstractContextManager[Any] = FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext()
        self.model = copy_with_tensors(model, self._emptied).eval()
        self.inputs = as_arguments(example_inputs).map(self._emptied)

    def run(self) -> Any:
        """The outputs of the skeleton's own forward, without numbers."""
        with torch.no_grad(), without_remembering(self.model), self.mode, quiet():
            return self.inputs.call(self.model)

    def output_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of all output tensors."""
        return [tuple(leaf.shape) for leaf in pytree.tree_leaves(self.run()) if isinstance(leaf, Tensor)]

    def _emptied(self, tensor: Tensor) -> Tensor:
        if self.kind == "real":
            return tensor.detach().clone().requires_grad_(tensor.requires_grad)
        device = "meta" if self.kind == "bare" else tensor.device
        with self.mode:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device).requires_grad_(
                tensor.requires_grad
            )


@contextmanager
def recorded_calls() -> Iterator[list[Any]]:
    """All calls of torch's functions inside, with what they are given besides tensors.

    The number of groups of a depthwise convolution is left out, as it is that of the channels.
    """
    recorder = _Calls()
    with recorder:
        yield recorder.made


class _Calls(TorchFunctionMode):
    """Writes down every call: the function, and its arguments without tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with suppress(Exception):  # what cannot be written down is no reason for a forward to fail
            self.made.append((func, None))
            leaves = pytree.tree_leaves((args, kwargs))
            if func in _CONVOLUTIONS and len(args) > 6 and args[6] == len(args[1]) and args[1].shape[1] == 1:
                leaves = pytree.tree_leaves((args[:6], kwargs))
            self.made[-1] = (func, [None if isinstance(leaf, Tensor) else leaf for leaf in leaves])
        quick = quick_result(func, args, kwargs)
        return func(*args, **kwargs) if quick is None else quick


_CONVOLUTIONS = frozenset({torch.conv1d, torch.conv2d, torch.conv3d})


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy with modules, parameters and buffers of its own over the same memory.

    Cutting it with `cut_` leaves the original alone, as cut tensors are new; writing into its tensors does
    not.
    """
    return copy_with_tensors(model, lambda tensor: tensor.detach())


def copy_with_tensors(model: nn.Module, new_tensor: Callable[[Tensor], Tensor]) -> nn.Module:
    """A deep copy of the modules in which each parameter and buffer is replaced by `new_tensor` of it.

    Tensors shared in the model are shared in the copy.

    Raises:
        TraceError: If a module cannot be copied.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(new_tensor(parameter), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = new_tensor(buffer)
    return _deepcopied(model, memo, new_tensor)


def copied(model: nn.Module) -> nn.Module:
    """`copy.deepcopy`, also of a model on whose modules a forward pass has left tensors with their graph.

    Raises:
        TraceError: If a module cannot be copied.
    Example:
        >>> net = nn.Linear(2, 2)
        >>> net.last_output = net(torch.ones(1, 2))
        >>> copied(net).last_output.requires_grad
        False
    """
    return _deepcopied(model, {}, lambda tensor: tensor.detach().clone())


def _deepcopied(model: nn.Module, memo: dict[int, Any], new_tensor: Callable[[Tensor], Tensor]) -> nn.Module:
    with suppress(Exception):  # most likely torch's, of a tensor with its graph: to look for these is half of a copy
        return copy.deepcopy(model, dict(memo))
    try:
        return copy.deepcopy(model, memo | {id(tensor): new_tensor(tensor) for tensor in tensors_with_graph(model)})
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot be copied with copy.deepcopy ({error}); "
            f"keep only modules, parameters, buffers and plain values as its attributes"
        ) from error
