"""Modules and parameters by name, for what happens at every step."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

Members = list[tuple[str, nn.Module]]
"""Prefix of its members' names ('' or 'layer1.0.'), module."""


def members(model: nn.Module) -> Members:
    """All modules in the order of `model.named_modules()`, shared ones once."""
    found: Members = [("", model)]
    seen = {id(model)}

    def visit(module: nn.Module, prefix: str) -> None:
        for name, child in module._modules.items():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                path = f"{prefix}{name}."
                found.append((path, child))
                if child._modules:
                    visit(child, path)

    visit(model, "")
    return found


def named_parameters(found: Iterable[tuple[str, nn.Module]]) -> dict[str, nn.Parameter]:
    """Those of `model.named_parameters()`, in its order, shared ones once: what torch's nested generators give, sooner.

    They are looked up anew at each step and never kept: a cut, or a parameter set by hand, cannot be missed.

    Example:
        >>> named_parameters(members(nn.Linear(2, 1))).keys()
        dict_keys(['weight', 'bias'])
    """
    named: dict[int, tuple[str, nn.Parameter]] = {}  # by id: hashing a tensor runs Python
    for prefix, module in found:
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in named:
                named[id(parameter)] = prefix + name, parameter
    return dict(named.values())
