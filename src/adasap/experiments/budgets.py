"""A budget as it is written on a command line: `macs=0.5`, `parameters=1000000`, `latency=0.5`, `size_mb=2`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from adasap.checks import finite_number
from adasap.errors import BudgetError, RecipeError
from adasap.io import parse_yaml

_BYTES = 4
"""Of a parameter as float32."""


def budget_keys(text: str | Mapping[str, Any]) -> dict[str, Any]:
    """What a budget says, as it is written.

    Args:
        text: `KEY=VALUE`, several with commas, or the keys themselves.
    Raises:
        RecipeError: If a part has no value.

    Example:
        >>> budget_keys("macs=0.5, depth=true")
        {'macs': 0.5, 'depth': True}
    """
    if not isinstance(text, str):
        return dict(text)
    keys: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise RecipeError(f"--budget {part!r:.80} has no value; write it as macs=0.5")
        keys[key.strip()] = parse_yaml(value, where=f"--budget {part!r:.80}", error=RecipeError)
    return keys


def budget_named(text: str | Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """The keys of a recipe's `pruning.budget`.

    `size_mb` becomes a number of parameters: megabytes of 10^6 bytes, four to a parameter (float32), less those of the
    dense model's buffers, such as the statistics of norm layers.

    Args:
        text: As of `budget_keys`.
        model: The dense model.
    Raises:
        RecipeError: As of `budget_keys`.
        BudgetError: If the buffers alone are larger than `size_mb`.

    Example:
        >>> budget_named("latency=0.5,latency_table=rn18.json", nn.Identity())
        {'latency': 0.5, 'latency_table': 'rn18.json'}
        >>> budget_named("size_mb=2", nn.BatchNorm2d(100))
        {'parameters': 499798}
    """
    keys = budget_keys(text)
    if "size_mb" not in keys:
        return keys
    size = finite_number(keys.pop("size_mb"), "size_mb", above=0, error=BudgetError)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    numbers = int((size * 1e6 - buffers) // _BYTES)
    if numbers < 2:
        raise BudgetError(
            f"size_mb is {size:g}, and the buffers of the dense model alone take {buffers / 1e6:.2f} MB; give more"
        )
    return {**keys, "parameters": numbers}
