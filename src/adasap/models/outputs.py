"""What a model answers, whatever it wraps the answer in."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from adasap.errors import DataError


def logits_of(output: Any) -> Tensor:
    """The logits of models that return a tensor, or a named tuple or dictionary with auxiliary heads."""
    if isinstance(output, Tensor):
        return output
    logits = output["logits"] if isinstance(output, dict) else output[0]
    if not isinstance(logits, Tensor):
        raise DataError(f"a classifier must return a tensor of logits, not {type(logits).__name__}")
    return logits
