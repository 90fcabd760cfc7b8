"""The number by which a task says how good a model is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A number that tables, plots and comparisons name; declared once, by the task.

    Attributes:
        key: Its name in `Evaluator.compute()`, such as `accuracy`.
        label: What people read, such as `AP50`.
        unit: `%` for fractions, which are shown times 100; empty for a plain number.
        higher_is_better: The direction.
    """

    key: str
    label: str
    unit: str = "%"
    higher_is_better: bool = True
