"""What a result says of its task; and what those of earlier versions, which say nothing, were made by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adasap.metric import Metric
from adasap.report.schema import LatencyData, ProfileData
from adasap.schema import checked


@dataclass(frozen=True)
class TaskRecord:
    """The task of a run, kept in `result.json` under `task`.

    Attributes:
        name: What its recipe's `task:` says.
        metric: Its primary metric.
    """

    name: str
    metric: Metric


def task_of(result: Mapping[str, Any], *, where: str) -> TaskRecord:
    """The task of a result, as it says or, without `task`, as its metrics tell.

    Args:
        result: What `result.json` holds.
        where: The file, which begins the message.
    Raises:
        DataError: If what it says is not a task.

    Example:
        >>> task_of({"task": {"name": "dots", "metric": {"key": "mae", "label": "error"}}}, where="result.json").metric
        Metric(key='mae', label='error', unit='%', higher_is_better=True)
    """
    if "task" not in result:
        return _earlier_task(result)
    return checked(TaskRecord, result["task"], where=f"{where}, task")


def _earlier_task(result: Mapping[str, Any]) -> TaskRecord:
    """Earlier versions had two tasks; only detectors have an average precision."""
    found: Any = result
    for key in ("stages", "dense", "clean", "cells", "clean"):
        found = found.get(key) if isinstance(found, Mapping) else None
    if isinstance(found, Mapping) and "map50" in found:
        return TaskRecord("detection", Metric("map50", "AP50"))
    return TaskRecord("classification", Metric("accuracy", "accuracy"))


def predictions_of(profile: ProfileData) -> Mapping[str, Sequence[LatencyData]]:
    """What else was timed than the traced part; earlier versions kept that of detectors apart, and no other."""
    return profile.predictions or ({"images to boxes": profile.detection} if profile.detection else {})
