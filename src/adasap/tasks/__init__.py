"""What "good" means: the loss that is trained and the numbers that are reported, one folder for each task."""

from adasap.tasks.data import Data, DataOptions
from adasap.tasks.parts import part_of
from adasap.tasks.task import TASKS, BaseTask, Evaluator, MergeableEvaluator, Metric, Task

__all__ = [
    "TASKS",
    "BaseTask",
    "Data",
    "DataOptions",
    "Evaluator",
    "MergeableEvaluator",
    "Metric",
    "Task",
    "part_of",
]
