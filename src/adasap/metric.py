"""The number by which a task says how good a model is."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metric:
    """A number that tables, plots and comparisons name; declared once, by the task.

    Attributes:
        key: Its name in `Evaluator.compute()`, such as `accuracy`.
        label: What people read, such as `AP50`.
        unit: `%` for fractions, which are shown times 100; empty for a plain number.
        higher_is_better: The direction.
        meaning: What it counts, in a sentence without a full stop, for readers who do not know it.
    """

    key: str
    label: str
    unit: str = "%"
    higher_is_better: bool = True
    meaning: str = field(default="", compare=False, repr=False)
