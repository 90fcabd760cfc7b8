"""Models as they were: whatever forward or export writes on the modules is taken back."""

from __future__ import annotations

import argparse
import sys
import types
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = (list, dict, set, deque)
_FOREIGN = frozenset({"torch", "numpy", *sys.stdlib_module_names})
"""Packages whose objects are not a model's state: locks, loggers, process groups."""


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Inside, forward may write on the modules; afterwards every attribute is what it was, also after an error.

    That are attributes of the modules and of plain objects they hold, the contents of their lists, dictionaries and
    sets, which tensors are parameters and buffers, buffers that were written in place, `requires_grad`, gradients,
    modes, and torch's random state.

    Example:
        >>> class Counting(nn.Identity):
        ...     def forward(self, x):
        ...         self.last = x
        ...         return x
        >>> net = Counting()
        >>> with preserved(net):
        ...     _ = net(torch.zeros(1))
        >>> hasattr(net, "last")
        False
    """
    contents = [(holder, _contents(holder)) for holder in _holders(model)]
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers() if not buffer.is_inference()]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    accelerators = sorted(device.index or 0 for device in devices if device.type == "cuda")
    try:
        with torch.random.fork_rng(devices=accelerators):
            yield
    finally:
        for holder, held in contents:
            _write_back_(holder, held)
        for buffer, version, values in buffers:
            if buffer._version != version:
                buffer.data.copy_(values)
        for parameter, requires_grad, gradient in parameters:
            parameter.requires_grad_(requires_grad).grad = gradient


class Untouched:
    """What a model without numbers was when this was made; `restore_` makes it so again, however it was cut.

    A twentieth of the cost of a copy, for a model that is cut hundreds of times on trial.

    Example:
        >>> net = nn.Linear(3, 2, device="meta")
        >>> before = Untouched(net)
        >>> net.weight.data, net.in_features, net.last = net.weight.data[:, :1], 1, net
        >>> before.restore_()
        >>> net.weight.shape, net.in_features, hasattr(net, "last")
        (torch.Size([2, 3]), 3, False)
    """

    def __init__(self, model: nn.Module) -> None:
        self._contents = [(holder, _contents(holder)) for holder in _holders(model)]
        self._classes = [(module, type(module)) for module in model.modules()]
        self._data = [(tensor, tensor.data) for tensor in (*model.parameters(), *model.buffers())]

    def restore_(self) -> None:
        """Attributes, classes of modules and shapes of parameters and buffers as they were."""
        for module, kind in self._classes:
            if type(module) is not kind:
                module.__class__ = kind
        for holder, held in self._contents:
            _write_back_(holder, held)
        for tensor, data in self._data:
            tensor.data = data


@contextmanager
def without_remembering(model: nn.Module) -> Iterator[None]:
    """Inside, what functions of the model's code remember (`functools.cache`) may have no numbers; it is forgotten.

    A function that remembers the positions of patches would hand out tensors without numbers ever after, if an export
    was the first to ask. Caches of the modules of code that the model's classes are from, and of these classes, are
    cleared if they learned anything.

    Example:
        >>> with without_remembering(nn.Identity()):
        ...     pass
    """
    caches = list(_caches(model))
    learned = [cache.cache_info().misses for cache in caches]
    try:
        yield
    finally:
        for cache, before in zip(caches, learned, strict=True):
            if cache.cache_info().misses != before:
                cache.cache_clear()


def _caches(model: nn.Module) -> Iterator[Any]:
    classes = {base for module in model.modules() for base in type(module).__mro__}
    own = [base for base in classes if base.__module__.partition(".")[0] not in _FOREIGN]
    places = [*own, *(sys.modules[name] for name in {base.__module__ for base in own} if name in sys.modules)]
    for place in places:
        for value in list(vars(place).values()):
            if callable(getattr(value, "cache_clear", None)) and callable(getattr(value, "cache_info", None)):
                yield value


def tensors_with_graph(model: nn.Module) -> Iterator[Tensor]:
    """Tensors that an earlier forward left on the modules with their graph; `copy.deepcopy` refuses them."""
    for holder in _holders(model):
        for value in _values(holder):
            if isinstance(value, Tensor) and not value.is_leaf:
                yield value


def _holders(model: nn.Module) -> Iterator[Any]:
    """All modules, plain objects and containers that can be reached from a model's attributes, each once."""
    waiting: list[Any] = [model]
    seen: set[int] = set()
    while waiting:
        holder = waiting.pop()
        if id(holder) not in seen:
            seen.add(id(holder))
            yield holder
            waiting += filter(_holds_state, _values(holder))


def _values(holder: Any) -> list[Any]:
    held = _held(holder)
    return list(held.values()) if isinstance(held, dict) else list(held)


def _held(holder: Any) -> Any:
    return holder if isinstance(holder, (*_CONTAINERS, tuple)) else vars(holder)


def _holds_state(value: Any) -> bool:
    if isinstance(value, (nn.Module, *_CONTAINERS, tuple, types.SimpleNamespace, argparse.Namespace)):
        return True
    if isinstance(value, Tensor | type) or not hasattr(value, "__dict__"):
        return False
    return type(value).__module__.partition(".")[0] not in _FOREIGN


def _contents(holder: Any) -> Any:
    held = _held(holder)
    return dict(held) if isinstance(held, dict) else list(held)


def _write_back_(holder: Any, contents: Any) -> None:
    held = _held(holder)
    if isinstance(held, tuple):
        return
    held.clear()
    if isinstance(held, dict | set):
        held.update(contents)
    else:
        held.extend(contents)
