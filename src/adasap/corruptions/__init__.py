"""Common image corruptions (Hendrycks and Dietterich, 2019, arXiv:1903.12261) as batched tensor code.

The 15 that are reported and the four on which choices may be made, behind one protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adasap.corruptions.protocol import NUM_SEVERITIES, Corruption, constants_for, of_colour, on_levels
from adasap.corruptions.registry import BENCHMARK, CORRUPTIONS, VALIDATION, require_channels

if TYPE_CHECKING:
    from adasap.corruptions.apply import corrupt

__all__ = [
    "BENCHMARK",
    "CORRUPTIONS",
    "NUM_SEVERITIES",
    "VALIDATION",
    "Corruption",
    "constants_for",
    "corrupt",
    "of_colour",
    "on_levels",
    "require_channels",
]


def __getattr__(name: str) -> Any:
    if name != "corrupt":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from adasap.corruptions.apply import corrupt  # here, so that the names are known without torch

    return corrupt
