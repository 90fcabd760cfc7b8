"""What the page shows of each task, by the task's name: a run's folder tells no more of its task than that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adasap.registry import Registry

if TYPE_CHECKING:
    from adasap.report.panel import Panel

TASK_PANELS: Registry[Sequence[Panel]] = Registry("task with panels", packages="adasap.tasks")
"""Open to a user's own task: `TASK_PANELS.register(name, panels)` before the page is made."""


def panels_of(task: str) -> Sequence[Panel]:
    """The panels of a task by its name; none of a task that nobody registered here."""
    if task not in TASK_PANELS:
        return ()
    return TASK_PANELS[task]
